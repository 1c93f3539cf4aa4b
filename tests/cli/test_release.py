"""What `release` and `promote` refuse, and that refusing touches nothing."""

from __future__ import annotations

import pytest

from modelworks.cli import release
from modelworks.cli.promote import promote
from modelworks.errors import ModelworksError
from modelworks.lifecycle.registration import apply_policy
from modelworks.lifecycle.version import Version


def version(*verdicts, **facts):
    gates = [
        {"gate": "MetricGate", "subject": f"gate {at}", "verdict": each, "number": 1, "limit": 2, "message": "no"}
        for at, each in enumerate(verdicts)
    ]
    return Version("churn", 3, {"bundle": f"sha256:{'a' * 64}", "gates": gates, "dirty": False, **facts})


@pytest.fixture
def nobody(monkeypatch):
    """Whoever reaches for an environment has gone too far."""

    def reach(environment):
        raise AssertionError(f"{environment} was touched")

    monkeypatch.setattr(release.EnvironmentContext, "of", reach)


@pytest.mark.parametrize(("env", "before"), [("staging", "dev"), ("prod", "staging")])
def test_what_is_promoted_to_is_not_released_to(nobody, env, before):
    with pytest.raises(ModelworksError, match=f"{env} accepts no direct release") as refused:
        release.release("churn", env=env)
    assert f"modelworks promote churn --from {before} --to {env}" in refused.value.fix


@pytest.mark.parametrize(
    ("source", "to"),
    [("dev", "prod"), ("staging", "dev"), ("dev", "dev"), ("local", "dev"), ("local", "prod"), ("dev", "elsewhere")],
)
def test_no_environment_is_skipped_and_none_is_promoted_to_backwards(nobody, source, to):
    with pytest.raises(ModelworksError, match=f"not promoted from {source} to {to}"):
        promote("churn", source=source, to=to)


@pytest.mark.parametrize(
    ("env", "verdict"), [("dev", "fail"), ("staging", "fail"), ("staging", "inconclusive"), ("prod", "inconclusive")]
)
def test_a_gate_that_does_not_hold_for_the_target_is_refused_with_number_and_limit(env, verdict):
    with pytest.raises(ModelworksError, match=rf"{verdict}: gate 1: no \(it is 1, the limit 2\)"):
        apply_policy(version("pass", verdict), env, "")


@pytest.mark.parametrize(
    ("env", "verdict"), [("local", "fail"), ("local", "inconclusive"), ("dev", "inconclusive"), ("prod", "pass")]
)
def test_what_the_target_only_warns_of_goes_on(env, verdict):
    assert apply_policy(version("pass", verdict), env, "") == {}


def test_a_dirty_tree_goes_to_local_only():
    assert apply_policy(version(dirty=True), "local", "") == {}
    with pytest.raises(ModelworksError, match="differs from its commit"):
        apply_policy(version(dirty=True), "dev", "")


def test_an_override_needs_its_reason_and_is_recorded_with_what_it_overrides():
    decided = apply_policy(version("fail"), "prod", "the only one that stops the leak")["overrides"][0]
    assert decided["reason"] == "the only one that stops the leak"
    assert decided["gates"] == ["fail: gate 0: no (it is 1, the limit 2)"]
    assert (decided["environment"], bool(decided["by"])) == ("prod", True)


def test_an_override_of_nothing_is_none():
    assert apply_policy(version("pass"), "prod", "just in case") == {}


def test_who_decided_is_the_person_of_git_and_the_identity_of_the_account(tmp_path, monkeypatch):
    import boto3
    from moto import mock_aws

    from modelworks.lifecycle.identity import person, person_at

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("LOGNAME", "root")
    assert person() == "root"
    (tmp_path / "config").write_text("[user]\n name = Ada\n email = ada@example.org\n")
    assert person() == "Ada <ada@example.org>"
    with mock_aws():
        session = boto3.Session("a", "b", region_name="eu-central-1")
        assert person_at(session) == "Ada <ada@example.org>, arn:aws:sts::123456789012:user/moto"
