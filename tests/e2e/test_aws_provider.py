"""The AWS provider under the real engine: what a program sees from its first preview to the last destroy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pulumi
import pulumi_aws as aws
import pytest
from moto.server import ThreadedMotoServer
from pulumi import automation as auto

from modelworks.laptop import toolchain
from modelworks.laptop.aws_credentials import AwsCredentials
from modelworks.laptop.providers.aws import plugin_at

pytestmark = pytest.mark.e2e

REGION = "eu-central-1"


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def cloud(moto):
    return lambda service: boto3.client(
        service, endpoint_url=moto, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"
    )


@pytest.fixture
def stack(moto, tmp_path):
    """A function that makes a stack of a program, attached to a provider of its own."""
    tools = toolchain.ensure(["pulumi"])
    pulumi_bin = tools["pulumi"]
    server, port = plugin_at(moto, REGION, AwsCredentials("a", "b")).serve()
    (tmp_path / "backend").mkdir()
    variables = {
        "PULUMI_BACKEND_URL": f"file://{tmp_path}/backend",
        "PULUMI_HOME": str(tmp_path / "home"),
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_DEBUG_PROVIDERS": f"aws:{port}",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PATH": os.pathsep.join(
            [*(str(tool.parent) for tool in tools.values()), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
    }
    made = []

    def make(program, **config):
        options = auto.LocalWorkspaceOptions(
            work_dir=str(tmp_path),
            env_vars=variables,
            pulumi_command=auto.PulumiCommand(str(pulumi_bin.parent.parent), skip_version_check=True)
            if pulumi_bin.parent.name == "bin"
            else None,
        )
        stack = auto.create_or_select_stack("test", project_name="provider", program=program, opts=options)
        stack.set_config("aws:region", auto.ConfigValue(REGION))
        for key, value in config.items():
            stack.set_config(f"aws:{key}", auto.ConfigValue(json.dumps(value)))
        made.append(stack)
        return stack

    old = os.environ["PATH"]
    os.environ["PATH"] = variables["PATH"]
    yield make
    for each in made:
        each.destroy(on_output=lambda _: None)
    os.environ["PATH"] = old
    server.stop(None)


def changes(result):
    return {kind: count for kind, count in result.change_summary.items() if kind != "same" and count}


def test_a_program_lives_through_preview_up_drift_refresh_and_destroy(stack, cloud, tmp_path):
    def program():
        key = aws.kms.Key("key", enable_key_rotation=True)
        aws.kms.Alias("key", target_key_id=key.key_id)
        bucket = aws.s3.Bucket("data", force_destroy=True, tags={"a": "1"})
        aws.s3.BucketVersioning("data", bucket=bucket.id, versioning_configuration={"status": "Enabled"})
        aws.s3.BucketObjectv2("file", bucket=bucket.id, key="a", source=pulumi.StringAsset("hello"))
        aws.ssm.Parameter("parameter", type="SecureString", value=pulumi.Output.secret("hunter2"))
        ignored = pulumi.ResourceOptions(ignore_changes=["displayName"])
        aws.sns.Topic("topic", display_name=f"now {os.urandom(4).hex()}", opts=ignored)
        far = aws.Provider("far", region="us-west-2")
        aws.sqs.Queue("queue", opts=pulumi.ResourceOptions(provider=far))
        pulumi.export("bucket", bucket.bucket)
        pulumi.export("account", aws.get_caller_identity().account_id)

    living = stack(program, defaultTags={"tags": {"owner": "tests"}})
    assert changes(living.preview())["create"] == 10
    up = living.up(on_output=lambda _: None)
    bucket = up.outputs["bucket"].value
    assert up.outputs["account"].value == "123456789012"
    kept = "".join(path.read_text() for path in (tmp_path / "backend").rglob("*.json*") if path.is_file())
    assert bucket in kept
    assert "hunter2" not in kept
    assert cloud("s3").get_object(Bucket=bucket, Key="a")["Body"].read() == b"hello"
    assert changes(living.preview()) == {}

    refreshed = living.refresh(on_output=lambda _: None)
    assert {"update", "delete"}.isdisjoint(refreshed.summary.resource_changes)
    assert changes(living.preview()) == {}

    cloud("s3").put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    cloud("s3").delete_object(Bucket=bucket, Key="a", VersionId="null")
    living.refresh(on_output=lambda _: None)
    living.up(on_output=lambda _: None)
    assert cloud("s3").get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"

    living.destroy(on_output=lambda _: None)
    assert bucket not in [each["Name"] for each in cloud("s3").list_buckets()["Buckets"]]


def test_what_exists_is_imported_and_then_needs_no_change(stack, cloud):
    cloud("sns").create_topic(Name="found", Attributes={"DisplayName": "d"})
    arn = f"arn:aws:sns:{REGION}:123456789012:found"

    def program():
        opts = pulumi.ResourceOptions(import_=arn)
        aws.sns.Topic("found", name="found", display_name="d", opts=opts)

    living = stack(program)
    assert changes(living.preview()) == {"create": 1, "import": 1}
    living.up(on_output=lambda _: None)
    assert changes(living.preview()) == {}


def test_import_records_what_it_finds_and_writes_a_program_that_needs_no_change(stack, cloud, tmp_path):
    cloud("sqs").create_queue(QueueName="found", Attributes={"VisibilityTimeout": "77"}, tags={"owner": "me"})
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 7}}
    cloud("s3").create_bucket(Bucket="found", CreateBucketConfiguration={"LocationConstraint": REGION})
    cloud("s3").put_bucket_lifecycle_configuration(Bucket="found", LifecycleConfiguration={"Rules": [rule]})
    url = cloud("sqs").get_queue_url(QueueName="found")["QueueUrl"]
    living = stack(lambda: None)
    living.up(on_output=lambda _: None)
    lifecycle = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
    found = [
        ("aws:sqs/queue:Queue", "queue", url),
        ("aws:s3/bucket:Bucket", "bucket", "found"),
        (lifecycle, "rules", "found"),
    ]
    resources = [{"type": type_, "name": name, "id": id_} for type_, name, id_ in found]
    (tmp_path / "found.json").write_text(json.dumps({"resources": resources}))
    command = [
        "pulumi",
        "import",
        "--file",
        "found.json",
        "--out",
        "code.py",
        "--yes",
        "--protect=false",
        "--stack",
        "test",
    ]
    variables = {**os.environ, **living.workspace.env_vars}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    recorded = living.export_stack().deployment["resources"]
    inputs = next(each["inputs"] for each in recorded if each.get("id") == url)
    assert (inputs["name"], inputs["visibilityTimeoutSeconds"]) == ("found", 77)
    assert "delaySeconds" not in inputs, "what is as AWS makes it need not be said"

    written = compile((tmp_path / "code.py").read_text(), "code.py", "exec")
    assert changes(stack(lambda: exec(written, {})).preview()) == {}
