"""The way to a cloud as the documents show it: a stack with a KMS key, and a shell in which nothing is activated."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from mocks import ROOT
from modelworks.laptop import environments, toolchain
from modelworks.laptop.aws_credentials import read_credentials

pytestmark = pytest.mark.e2e

STACK = """\
# ours
secretsprovider: {provider}
config:
  aws:region: eu-central-1 # kept
"""
PROGRAM = """\
import pulumi

from modelworks.stack import required_tags

pulumi.export("tags", required_tags(environment=pulumi.get_stack(), owner="me", cost_centre="1"))
"""


@pytest.fixture(scope="module")
def key():
    """The URL of a secrets provider: a KMS key of an emulated account."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")
    kms = session.client("kms", endpoint_url=url)
    kms.create_alias(AliasName="alias/config", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    yield f"awskms://alias/config?region=eu-central-1&endpoint={url}"
    server.stop()


@pytest.fixture
def shell(tmp_path, key):
    """Runs a command in a checkout whose environment nobody activated, beside a passphrase that is not the stack's."""
    return _shell(tmp_path, key, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})


@pytest.fixture
def empty_account(tmp_path, aws_laptop):
    """The same, with the state in a bucket of an emulated account that has neither bucket nor key."""
    credentials, facts = read_credentials(aws_laptop, "local"), environments.facts(aws_laptop, "local")
    account = {
        "AWS_ACCESS_KEY_ID": credentials.key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{facts['aws_port']}",
        "PULUMI_BACKEND_URL": "s3://acme-pulumi-state?region=eu-central-1",
    }
    return _shell(tmp_path, "awskms://alias/modelworks-dev-config?region=eu-central-1", account)


def _shell(tmp_path, key, account):
    checkout = tmp_path / "checkout"
    (checkout / "stacks").mkdir(parents=True)
    (checkout / "policy").symlink_to(ROOT / "policy")
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    (checkout / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    (checkout / "stacks/__main__.py").write_text(PROGRAM)
    (checkout / "stacks/Pulumi.dev.yaml").write_text(STACK.format(provider=key))
    (tmp_path / "state").mkdir()
    pulumi = toolchain.ensure(["pulumi"])["pulumi"]
    variables = {
        "PATH": os.pathsep.join([str(pulumi.parent), "/usr/bin", "/bin"]),
        "HOME": os.environ["HOME"],
        "PULUMI_BACKEND_URL": f"file://{tmp_path}/state",
        "PULUMI_CONFIG_PASSPHRASE": "another one",
        "PULUMI_HOME": str(tmp_path / "pulumi"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        **account,
    }

    def run(*argv: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            list(map(str, argv)), cwd=checkout, env=variables, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.checkout = checkout
    return run


def test_a_stack_is_made_by_the_printed_command_and_keeps_every_line_of_its_file(shell, key):
    file = shell.checkout / "stacks/Pulumi.dev.yaml"
    before = file.read_text()
    said = shell(ROOT / ".venv/bin/modelworks", "preview", "dev", code=1)
    command = f"pulumi stack init dev --secrets-provider '{key}'"
    assert command in " ".join(said.split())
    assert file.read_text() == before
    shell("sh", "-c", command)
    assert file.read_text().startswith(before)
    assert "encryptionsalt" not in file.read_text()


def test_a_preview_needs_no_activated_environment_and_enforces_the_policy_pack(shell, key):
    shell("pulumi", "stack", "init", "dev", "--secrets-provider", key)
    said = shell(ROOT / ".venv/bin/modelworks", "preview", "dev")
    assert "managed-by" in said
    assert "Policies:" in said


def test_an_empty_account_is_bootstrapped_and_its_stack_previewed(empty_account):
    file = empty_account.checkout / "stacks/Pulumi.dev.yaml"
    before = file.read_text()
    bootstrap = (ROOT / ".venv/bin/modelworks", "bootstrap", "dev", "--github", "acme/models", "--yes", "--json")
    made = json.loads(empty_account(*bootstrap))["steps"]
    assert {step["action"] for step in made} == {"create"}
    assert file.read_text().startswith(before)
    assert "managed-by" in empty_account(ROOT / ".venv/bin/modelworks", "preview", "dev")
    again = json.loads(empty_account(*bootstrap))["steps"]
    assert [step["action"] for step in again] == ["none"] * len(made)
