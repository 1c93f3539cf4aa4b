"""`modelworks features` on a project of two models and on an emulated AWS, as the laptop gives it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import boto3
import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from modelworks import cli
from modelworks.cli.context import EnvironmentContext
from modelworks.cli.feature_values import fill
from modelworks.cli.lifecycle import home_here
from modelworks.deploy.account import account_of
from modelworks.errors import ModelworksError
from modelworks.lifecycle import training
from modelworks.lifecycle.project_features import apply_features, read_features, write_history
from runtime.vendor_server import KEY, Service, VendorServer

cli._register()
ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC).replace(microsecond=0)
FLIGHTS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

aircraft = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.INT64)
delays = FeatureView(
    name="delays", entities=[aircraft], ttl=timedelta(days=7),
    schema=[Field(name="mean", dtype=Float64), Field(name="flights", dtype=Int64)],
    source=FileSource(name="delays", path="delays", timestamp_field="landed"),
)
flight = FeatureService(name="flight", features=[delays[["mean"]]])
"""
STACK = """config:
  aws:allowedAccountIds: ["111111111111"]
  modelworks:settings:
    owner: me
    cost_centre: "1"
    registry: {}
    endpoints:
      flight-delay: {allow_anonymous: true}
  modelworks:secrets:
    registry_password: correct horse battery
"""
RELEASES = """  modelworks:releases:
    flight-delay: {digest: "sha256:%s"}
""" % ("ab" * 32)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "Pulumi.yaml").write_text("name: p\nruntime: python\n")
    (tmp_path / "models/flight_delay").mkdir(parents=True)
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks/Pulumi.dev.yaml").write_text(STACK)
    monkeypatch.chdir(tmp_path)
    define(tmp_path, FLIGHTS)
    return tmp_path


def define(project, text):
    (project / "models/flight_delay/features.py").write_text(text)


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["features", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def environment(moto, monkeypatch, request):
    """The environment `dev` with a bucket and the table of `delays`, as `FeatureStore` declares them."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": moto,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    bucket = f"b{abs(hash(request.node.name))}"
    boto3.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    create_table("p.delays")
    config = (
        "project: p\nprovider: local\n"
        f"registry: {{registry_type: file, path: 's3://{bucket}/registry/registry.db'}}\n"
        "offline_store: {type: modelworks.features.offline.PolarsOfflineStore, "
        f"location: 's3://{bucket}/data'}}\n"
        "online_store: {type: modelworks.features.online.DynamoDBOnlineStore, create_tables: false}\n"
        "entity_key_serialization_version: 3\n"
    )
    place = {"feature_store_yaml": config, "tables": {"delays": "arn"}, "environment": "dev"}
    outputs = {"features": {**place, "location": f"s3://{bucket}/data"}}
    account = account_of("dev", {}, os.environ)
    target = SimpleNamespace(
        output=outputs.__getitem__,
        engine=SimpleNamespace(on_laptop=False, account=account),
        session=account.session,
        outputs=outputs,
    )
    monkeypatch.setattr(EnvironmentContext, "of", lambda _: target)
    yield SimpleNamespace(bucket=bucket, outputs=outputs)
    for table in boto3.client("dynamodb").list_tables()["TableNames"]:
        boto3.client("dynamodb").delete_table(TableName=table)


@pytest.fixture(scope="module")
def made():
    """The manifest and the registry of `FLIGHTS`, once they were made: each takes a process that imports Feast."""
    return {}


@pytest.fixture
def applied(project, environment, made):
    """The project, its manifest written and applied to `dev`."""
    manifest, registry = project / "models/features.json", {"Bucket": environment.bucket, "Key": "registry/registry.db"}
    if not made:
        run("apply")
        run("apply", "--env", "dev")
        body = boto3.client("s3").get_object(**registry)["Body"].read()
        made.update(manifest=manifest.read_bytes(), registry=body)
    manifest.write_bytes(made["manifest"])
    boto3.client("s3").put_object(**registry, Body=made["registry"])
    return project


def create_table(name):
    boto3.client("dynamodb").create_table(
        TableName=name, BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "entity_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "entity_id", "AttributeType": "S"}],
    )  # fmt: skip


def history(environment, *rows):
    frame = pl.DataFrame(
        rows, schema={"tail": pl.Int64, "landed": pl.Datetime("us", "UTC"), "mean": pl.Float64, "flights": pl.Int64},
        orient="row",
    )  # fmt: skip
    path = f"s3://{environment.bucket}/data/delays/part-{len(rows)}-{rows[0][2]}.parquet"
    frame.write_parquet(path, storage_options={"aws_allow_http": "true"})


def test_apply_writes_the_manifest_and_plan_has_nothing_to_do_after_it(project):
    assert "add" in run("plan").stdout
    run("apply")
    assert set(json.loads((project / "models/features.json").read_text())["views"]) == {"delays"}
    assert run("plan").stdout.strip() == "no changes"


def test_list_and_show_find_what_is_defined(project):
    assert {item["name"]: item["used_by"] for item in json.loads(run("list", "--json").stdout)} == {
        "delays": ["flight-delay"], "flight": ["flight-delay"],
    }  # fmt: skip
    assert json.loads(run("show", "delays").stdout)["keys"] == {"tail": "Int64"}
    with pytest.raises(ModelworksError, match="no feature view or service 'nothing'"):
        run("show", "nothing")


def test_removing_what_a_released_model_needs_is_refused_and_writes_nothing(applied):
    before = (applied / "models/features.json").read_bytes()
    (applied / "stacks/Pulumi.dev.yaml").write_text(STACK + RELEASES)
    define(applied, "")
    with pytest.raises(ModelworksError, match="flight-delay, released in dev, would break"):
        run("apply")
    assert (applied / "models/features.json").read_bytes() == before
    planned = {change["subject"]: change["breaks"] for change in json.loads(run("plan", "--json").stdout)}
    assert planned["view delays"] == ["flight-delay"]
    assert "breaks flight-delay, released in dev" in " ".join(run("plan").stdout.split())
    run("apply", "--allow-breaking", "flight-delay")
    assert json.loads((applied / "models/features.json").read_text())["views"] == {}


def test_features_go_from_definition_to_an_online_value(project, environment):
    run("apply")
    run("apply", "--env", "dev")
    assert run("plan", "--env", "dev").stdout.strip() == "no changes"
    history(environment, (7, NOW - timedelta(hours=3), 1.5, 2), (7, NOW - timedelta(hours=2), 2.5, 3))
    (result,) = json.loads(run("materialize", "--env", "dev", "--json").stdout)
    assert (result["view"], result["written"]) == ("delays", 1)
    assert json.loads(run("get", "flight", "tail=7", "--env", "dev").stdout) == {"tail": 7, "mean": 2.5}
    assert json.loads(run("get", "delays", "tail=8", "--env", "dev").stdout)["mean"] is None
    [metric] = boto3.client("cloudwatch").list_metrics(Namespace="modelworks/features")["Metrics"]
    assert metric["MetricName"] == "feature_lag"
    assert {"Name": "view", "Value": "delays"} in metric["Dimensions"]


def test_verify_finds_a_value_that_is_not_that_of_history(applied, environment):
    history(environment, (7, NOW - timedelta(hours=3), 1.5, 2), (8, NOW - timedelta(hours=3), 4.5, 2))
    run("materialize", "--env", "dev")
    assert run("verify", "--env", "dev").exit_code == 0
    history(
        environment,
        (7, NOW - timedelta(hours=2), 9.5, 2),
        (9, NOW - timedelta(hours=2), 1.0, 1),
        (8, NOW - timedelta(hours=9), 0, 0),
    )
    found = run("verify", "--env", "dev", "--json")
    assert found.exit_code == 1
    (mean,) = [skew for skew in json.loads(found.stdout) if skew["feature"] == "mean"]
    assert (mean["compared"], mean["different"], mean["missing"]) == (3, 1, 1)
    assert any("9.5" in example for example in mean["examples"])
    run("backfill", "--env", "dev", "--from", (NOW - timedelta(hours=4)).isoformat(), "--to", NOW.isoformat())
    assert run("verify", "--env", "dev").exit_code == 0


def test_a_registry_gets_only_what_the_committed_manifest_has(project, environment):
    with pytest.raises(ModelworksError, match="is not the manifest of the definitions"):
        run("apply", "--env", "dev")
    run("apply")
    environment.outputs["features"]["tables"] = {}
    with pytest.raises(ModelworksError, match="no table for the feature view delays"):
        run("apply", "--env", "dev")


def test_a_view_that_is_gone_leaves_the_registry_too(applied, environment):
    define(applied, FLIGHTS.replace('name="delays", entities', 'name="late", entities'))
    environment.outputs["features"]["tables"] = {"delays": "arn", "late": "arn"}
    run("apply")
    create_table("p.late")
    run("apply", "--env", "dev")
    assert run("plan", "--env", "dev").stdout.strip() == "no changes"
    assert "p.delays" in boto3.client("dynamodb").list_tables()["TableNames"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("get", "nothing", "tail=1"), "there is no feature service or view 'nothing'"),
        (("get", "flight", "tail"), "a key must be given as KEY=VALUE, got 'tail'"),
        (("get", "flight", "tail=x"), "tail must be of the type Int64, got 'x'"),
        (("get", "flight", "origin=1"), "flight cannot be read with origin"),
        (("materialize", "--view", "nothing"), "there is no feature view 'nothing'"),
        (("materialize", "--until", "soon"), "--until must be a time in ISO 8601, got 'soon'"),
        (("backfill", "--from", "2026-02-01", "--to", "2026-01-01"), "after its end"),
        (("verify",), "was never materialized"),
    ],
)
def test_a_mistake_is_named(applied, environment, arguments, message):
    with pytest.raises(ModelworksError, match=message):
        run(*arguments)


def test_a_stack_file_that_lacks_its_secrets_does_not_keep_features_from_being_defined(project):
    (project / "stacks/Pulumi.dev.yaml").write_text(STACK.partition("  modelworks:secrets")[0] + RELEASES)
    assert run("apply").exit_code == 0
    define(project, "")
    with pytest.raises(ModelworksError, match="flight-delay, released in dev, would break"):
        run("apply")


def test_an_entity_is_forgotten_in_history_with_its_versions_and_online(applied, environment):
    s3 = boto3.client("s3")
    s3.put_bucket_versioning(Bucket=environment.bucket, VersioningConfiguration={"Status": "Enabled"})
    now = NOW
    history(environment, (7, now - timedelta(hours=2), 2.5, 1), (8, now - timedelta(hours=2), 3.5, 1))
    history(environment, (7, now - timedelta(hours=1), 4.5, 2))
    run("materialize", "--env", "dev")
    assert "delays: 2 rows of history, 1 online, deleted" in run("forget", "tail=7", "--env", "dev", "--yes").stdout
    files = s3.list_object_versions(Bucket=environment.bucket, Prefix="data/")["Versions"]
    assert all(file["IsLatest"] for file in files)
    bodies = [s3.get_object(Bucket=environment.bucket, Key=file["Key"])["Body"].read() for file in files]
    assert pl.concat([pl.read_parquet(body) for body in bodies])["tail"].to_list() == [8]
    run("backfill", "--from", "2000-01-01", "--to", now.isoformat(), "--env", "dev")
    online = [json.loads(run("get", "flight", f"tail={tail}", "--env", "dev").stdout)["mean"] for tail in (7, 8)]
    assert online == [None, 3.5]
    again = run("forget", "tail=7", "--env", "dev", "--yes").stdout
    assert "delays: 0 rows of history, 0 online, deleted" in again


def test_nothing_is_forgotten_without_a_yes_or_by_a_key_that_no_view_has(applied, environment):
    with pytest.raises(ModelworksError, match="no view has the key origin"):
        run("forget", "origin=EWR", "--env", "dev", "--yes")
    refused = CliRunner().invoke(cli.app, ["features", "forget", "tail=7", "--env", "dev"], input="n\n")
    assert refused.exit_code == 1


# -- The code of a project ---------------------------------------------------------------------------------------------
NOISY = """
import os
from pathlib import Path

with Path({file!r}).open("a") as file:
    print(os.getpid(), Path(__file__).name, file=file)
print("loud")
"""
MODEL = """
from datetime import UTC, datetime

import pandas as pd
import pandera.pandas as pa

from modelworks.lifecycle import Card, DataSource, Feature, MetricGate, ModelSpec, StoredFeatures

def write(folder):
    (folder / "delays").mkdir()
    rows = {"tail": [7], "landed": [datetime.now(UTC)], "mean": [1.5], "flights": [1]}
    pd.DataFrame(rows).to_parquet(folder / "delays" / "part-0.parquet")

def load():
    return pd.DataFrame()

spec = ModelSpec(
    name="flight-delay", description="d", owner="o", kind="binary", classes=(False, True), target="late",
    data=DataSource(load=load, description="d", prediction_time="at"), schema=pa.DataFrameSchema({}),
    features=(Feature(name="mean", type="number", nullable=True),), train=lambda data: None, metric="auc",
    gates=(MetricGate(metric="auc", at_least=0.5, because="b"),), card=Card(intended_use="i"),
    stored=StoredFeatures(
        service="flight", keys=(Feature(name="tail", type="integer", minimum=0, maximum=9, example=7),), history=write
    ),
)
"""


def test_no_command_runs_the_code_of_a_project_in_its_own_process(project, environment, monkeypatch, tmp_path):
    ran = tmp_path / "ran"
    define(project, NOISY.format(file=str(ran)) + FLIGHTS)
    (project / "models/flight_delay/model.py").write_text(NOISY.format(file=str(ran)) + MODEL)
    (project / "uv.lock").write_bytes((ROOT / "uv.lock").read_bytes())
    for arguments in (["apply"], ["apply", "--env", "dev"], ["plan", "--env", "dev"], ["ingest", "flight-delay"]):
        assert run(*arguments).exit_code == 0
    listed = run("list", "--json")
    assert json.loads(listed.stdout), "what the code prints is no part of the JSON"
    described = training.describe(training.project_at("flight-delay"), home_here())
    assert (described.reads_features, described.makes_history) == (True, True)
    history = tmp_path / "history"
    history.mkdir()
    write_history(described, home_here(), history)
    assert "1" in fill(EnvironmentContext.of("dev"), "flight-delay", history)
    lines = [line.split() for line in ran.read_text().splitlines()]
    assert {name for _, name in lines} == {"features.py", "model.py"}
    assert str(os.getpid()) not in {pid for pid, _ in lines}


def test_definitions_are_read_with_the_proxies_of_the_shell_and_not_with_its_secrets(project, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABASE_PASSWORD", "correct horse")
    define(project, 'import os\nraise ValueError(sorted({"HTTPS_PROXY", "DATABASE_PASSWORD"} & set(os.environ)))')
    with pytest.raises(ModelworksError, match=r"features.py:2: ValueError: \['HTTPS_PROXY'\]$"):
        run("list")


def test_code_that_ends_its_process_ends_no_command(project):
    define(project, "raise SystemExit(3)")
    with pytest.raises(ModelworksError, match="the process that does `read` exited with code 3"):
        run("list")


def test_definitions_that_were_edited_since_they_were_judged_are_not_applied(project, environment):
    home, store = home_here(), environment.outputs["features"]["feature_store_yaml"]
    defined, _ = read_features(project, home, store)
    define(project, FLIGHTS.replace("days=7", "days=8"))
    with pytest.raises(ModelworksError, match="the definitions of features were changed meanwhile"):
        apply_features(project, home, store, {"delays": "arn"}, judged=defined)


# -- Services of vendors ---------------------------------------------------------------------------------------------
@pytest.fixture
def tecton(monkeypatch):
    server = VendorServer()
    server.services["risk"] = Service(
        place="prod", keys={"tail": "string"}, features={"delays.mean": "float64", "delays.flights": "int64"}
    )
    monkeypatch.setenv("TECTON_API_KEY", KEY)
    yield server
    server.close()


def pull(server, *more):
    return run("pull", "risk", "--model", "flight-delay", "--url", server.url, "--workspace", "prod", *more)


def test_pull_writes_the_definition_of_a_vendor_beside_those_of_feast(applied, tecton):
    before = json.loads((applied / "models/features.json").read_text())
    assert "view risk__delays" in pull(tecton).output
    after = json.loads((applied / "models/features.json").read_text())
    assert after["views"]["delays"] == before["views"]["delays"]
    assert after["services"]["flight"] == before["services"]["flight"]
    assert after["services"]["risk"]["place"] == {"workspace": "prod"}
    assert after["views"]["risk__delays"]["features"] == {"mean": "Float64", "flights": "Int64"}
    assert "no changes" in pull(tecton).output


def test_definitions_of_a_vendor_are_kept_when_those_of_feast_are_applied(project, tecton):
    pull(tecton)
    run("apply")
    found = json.loads((project / "models/features.json").read_text())
    assert {*found["services"]} == {"flight", "risk"}
    assert "no changes" in run("plan").output


def test_a_change_of_the_vendor_that_breaks_a_released_model_is_refused(project, tecton):
    pull(tecton)
    (project / "stacks/Pulumi.dev.yaml").write_text(STACK + RELEASES)
    before = (project / "models/features.json").read_text()
    del tecton.services["risk"].features["delays.flights"]
    with pytest.raises(ModelworksError, match="flight-delay, released in dev, would break"):
        pull(tecton)
    assert (project / "models/features.json").read_text() == before
    assert "remove" in pull(tecton, "--allow-breaking", "flight-delay").output


def test_a_service_of_no_vendor_and_one_of_both_are_refused(project, tecton):
    for more in ([], ["--workspace", "prod", "--project", "flights"]):
        with pytest.raises(ModelworksError, match="a workspace of Tecton or in a project of Hopsworks"):
            run("pull", "risk", "--model", "flight-delay", "--url", tecton.url, *more)


def test_the_key_goes_to_no_address_without_tls(project, tecton):
    with pytest.raises(ModelworksError, match="must be https://HOST"):
        run("pull", "risk", "--model", "flight-delay", "--url", "http://acme.tecton.ai", "--workspace", "prod")
