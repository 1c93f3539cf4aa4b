"""`doctor` against an environment of which every part may be missing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from moto import mock_aws
from typer.testing import CliRunner

from mocks import ROOT
from modelworks import cli
from modelworks.cli import app, doctor
from modelworks.cli.doctor import Needs, examine
from modelworks.errors import ModelworksError

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@dataclass
class FakeEngine:
    on_laptop: bool = False
    stacks: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=lambda: {**KEYS, "PULUMI_BACKEND_URL": "s3://state"})

    def has_stack(self):
        return "dev" in self.stacks


@dataclass
class FakeTarget:
    stack_file: Path
    engine: FakeEngine
    environment: str = "dev"
    objects: dict = field(default_factory=dict)

    def output(self, _):
        raise ModelworksError("the environment dev is not up")

    def cluster(self, _):
        return self

    def get(self, path):
        return self.objects.get(path)


@pytest.fixture
def target(tmp_path, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "Pulumi.dev.yaml"
    # The emulator's own account, so that what it answers is what the stack is pinned to.
    path.write_text((ROOT / "stacks/Pulumi.dev.yaml").read_text().replace("111111111111", "123456789012"))
    with mock_aws():
        yield FakeTarget(path, FakeEngine())


def statuses(target) -> dict[str, str]:
    return {check.name: check.status for check in examine(Needs(target))}


def test_an_empty_account_and_cluster_lack_everything_but_what_the_file_states(target):
    assert statuses(target) == {
        "settings": "ok",
        "state": "missing",
        "secrets key": "missing",
        "account": "ok",
        "environment key": "skipped",
        "oidc provider": "missing",
        "cluster.registry_image": "skipped",
        "cluster.training_image": "skipped",
        "cluster.runtime_image": "skipped",
        "cluster.features_image": "skipped",
        "registry.ingress.certificate_arn": "missing",
        "endpoints.flight-delay.ingress.certificate_arn": "missing",
        "cluster": "ok",
        "ingress class": "missing",
        "load balancer controller": "missing",
        "argo rollouts": "missing",
        "metrics server": "missing",
        "volume driver": "missing",
        "pod identity agent": "skipped",
        "network policies": "missing",
    }


def test_a_cluster_that_the_environment_will_make_lacks_nothing_yet(target):
    eks = "eks: {administrators: [arn:aws:iam::123456789012:role/deploy]}"
    target.stack_file.write_text(re.sub(r"oidc_issuer: \S+", eks, target.stack_file.read_text()))
    found = statuses(target)
    assert {name: found[name] for name in ("settings", "cluster")} == {"settings": "ok", "cluster": "skipped"}
    assert {"oidc provider", "ingress class", "argo rollouts", "network policies"}.isdisjoint(found)
    target.output = lambda _: "modelworks-dev"
    assert statuses(target)["metrics server"] == "missing"


def test_everything_that_is_missing_has_a_mend(target):
    assert [check.name for check in examine(Needs(target)) if check.status == "missing" and not check.fix] == []


def test_a_missing_stack_is_created_by_bootstrap(target):
    (state,) = [check for check in examine(Needs(target)) if check.name == "state"]
    assert state.fix == "modelworks bootstrap dev"
    target.engine.stacks.append("dev")
    assert statuses(target)["state"] == "ok"


def test_credentials_of_another_account_are_missing_ones(target):
    target.stack_file.write_text(target.stack_file.read_text().replace("123456789012", "999999999999"))
    (account,) = [check for check in examine(Needs(target)) if check.name == "account"]
    assert (account.status, "pinned to account 999999999999" in account.message) == ("missing", True)


def test_a_cluster_that_cannot_be_reached_is_unknown_and_ends_nothing(target):
    def unreachable(_):
        raise ModelworksError("the cluster of this environment cannot be reached", fix="Try kubectl.")

    target.get = unreachable
    found = statuses(target)
    assert (found["cluster"], found["network policies"], found["account"]) == ("unknown", "unknown", "ok")


def test_settings_that_are_wrong_are_named_and_the_rest_is_unknown(target):
    target.stack_file.write_text(target.stack_file.read_text().replace("owner:", "ownr:"))
    found = {check.name: check for check in examine(Needs(target))}
    assert (found["settings"].status, "did you mean 'owner'" in found["settings"].message) == ("missing", True)
    assert found["account"].status == "ok"
    assert found["ingress class"].status == "unknown"


@pytest.mark.parametrize("text", ["", "config: [", "- 1", "config: 3"])
def test_a_file_that_is_no_stack_config_is_reported_and_no_check_raises(target, text):
    target.stack_file.write_text(text)
    assert statuses(target)["settings"] == "missing"


def test_no_secret_has_to_be_set_yet(target):
    digest = "sha256:" + "a" * 64
    release = f"  modelworks:releases:\n    flight-delay: {{digest: '{digest}'}}\n"
    target.stack_file.write_text(target.stack_file.read_text() + release)
    assert statuses(target)["settings"] == "ok"


def test_on_a_laptop_what_only_aws_has_is_skipped_with_the_reason(target):
    target.engine.on_laptop = True
    target.engine.variables["AWS_REGION"] = "eu-central-1"  # the laptop decides it, as it does the credentials
    found = {check.name: check for check in examine(Needs(target))}
    assert found["network policies"].status == "skipped"
    assert (found["state"].status, found["account"].status) == ("ok", "ok")


@pytest.mark.parametrize("missing", [True, False])
def test_the_command_fails_if_something_is_missing(target, monkeypatch, missing):
    monkeypatch.setattr(doctor.EnvironmentContext, "of", lambda _: target)
    check = doctor.Check("cluster", "missing" if missing else "ok", "as it is", "mend it")
    monkeypatch.setattr(doctor, "examine", lambda _: [check])
    cli._register()
    result = CliRunner().invoke(app, ["doctor", "dev", "--json"])
    assert result.exit_code == int(missing)
    (found,) = json.loads(result.stdout)["checks"]
    assert (found["status"], found["fix"]) == (check.status, "mend it")
