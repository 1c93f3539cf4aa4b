from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.settings import Settings
from modelworks.stack_config import load, parse, schema

DIGEST = "sha256:" + "a" * 64
GOOD = {
    "aws:region": "eu-central-1",
    "aws:allowedAccountIds": ["111111111111"],
    "modelworks:settings": {
        "owner": "ml-platform",
        "cost_centre": "4711",
        "budget": {"monthly_usd": 500},
        "registry": {},
        "endpoints": {"flight-delay": {"canary": {"steps": [10, 50]}}},
    },
    "modelworks:releases": {"flight-delay": {"digest": DIGEST, "version": 12}},
    "modelworks:secrets": {"registry_password": "correct horse", "tokens": {"flight-delay": "battery"}},
}


def changed(path: str, value: object) -> dict:
    config = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    target = config
    for part in parents:
        target = target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return config


def mistake(config: dict) -> str:
    with pytest.raises(ModelworksError) as error:
        parse(config, source="stacks/Pulumi.dev.yaml")
    return error.value.message


def test_good_config_is_read_with_safe_defaults():
    config = parse(GOOD, source="")
    endpoint = config.settings.endpoints["flight-delay"]
    assert (endpoint.allow_anonymous, endpoint.minimum_replicas, endpoint.canary.steps) == (False, 2, [10, 50])
    assert config.releases["flight-delay"].digest == DIGEST
    assert config.settings.key_deletion_days == 30


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("modelworks:settings/ownr", "x", "config.modelworks:settings.ownr: unknown key; did you mean 'owner'?"),
        ("modelworks:setings", {}, "config.modelworks:setings: unknown key; did you mean 'modelworks:settings'?"),
        ("modelworks:settings/owner", ..., "config.modelworks:settings.owner: is required and missing"),
        ("modelworks:settings", ..., "config.modelworks:settings: is required and missing"),
        ("aws:allowedAccountIds", ..., "config.aws:allowedAccountIds: is required and missing"),
        ("aws:allowedAccountIds", ["12"], "config.aws:allowedAccountIds[0]: should match pattern"),
        ("aws:allowedAccountIds", [111111111111], "found the number 111111111111"),
        ("modelworks:settings/cost_centre", 4711, "cost_centre: should be a valid string, found the number 4711"),
        (
            "modelworks:settings/budget/monthly_usd",
            "500 EUR",
            'budget.monthly_usd: should be a valid number in US dollars, without a suffix, found the text "500 EUR"',
        ),
        ("modelworks:settings/budget/monthly_usd", -1, "should be greater than 0"),
        (
            "modelworks:settings/key_deletion_days",
            "30d",
            'valid integer in days, without a suffix, found the text "30d"',
        ),
        ("modelworks:settings/key_deletion_days", 31, "should be less than or equal to 30"),
        ("modelworks:settings/key_deletion_days", True, "found the truth value true"),
        ("modelworks:settings/alerts", {"emails": "me@example.com"}, "alerts.emails: should be a valid list"),
        ("modelworks:settings/endpoints/flight-delay/canary/steps", [50, 10], "canary: steps must grow, got [50, 10]"),
        (
            "modelworks:settings/endpoints/flight-delay/maximum_replicas",
            1,
            "maximum_replicas must be at least minimum_replicas (2), got 1",
        ),
        (
            "modelworks:settings/endpoints/flight-delay/minimum_replica",
            1,
            "endpoints.flight-delay.minimum_replica: unknown key; did you mean 'minimum_replicas'?",
        ),
        (
            "modelworks:settings/training",
            {"run_memory_mib": 32_768},
            "run_memory_mib must be at most memory_mib (16384), got 32768",
        ),
        (
            "modelworks:settings/training",
            {"ttl_seconds_after_finished": "1d"},
            "training.ttl_seconds_after_finished: should be a valid integer in seconds, without a suffix, found the",
        ),
        (
            "modelworks:settings/endpoints/flight-delay/ingress",
            {"visibility": "public"},
            "endpoints.flight-delay.ingress is public and has no certificate_arn",
        ),
        (
            "modelworks:settings/cluster",
            {"ingress": {"inbound_cidrs": ["10.0.0.1/8"]}},
            "cluster.ingress.inbound_cidrs[0]: 10.0.0.1/8 has host bits set",
        ),
        (
            "modelworks:settings/cluster",
            {"ingress": {"visibility": "public"}},
            "cluster.ingress.visibility: unknown key",
        ),
        ("modelworks:settings/endpoints/Flight", {}, "endpoints.Flight: should match pattern"),
        ("modelworks:releases/other", {"digest": DIGEST}, "modelworks:releases names 'other'"),
        ("modelworks:releases/flight-delay/digest", "latest", "releases.flight-delay.digest: should match pattern"),
        ("modelworks:settings", None, "config.modelworks:settings: should be a valid dictionary"),
    ],
)
def test_a_mistake_is_named_with_its_path_rule_and_nearest_key(path, value, message):
    found = mistake(changed(path, value))
    assert message in found
    assert found.startswith("stacks/Pulumi.dev.yaml: config")


def test_all_mistakes_are_told_at_once():
    config = changed("modelworks:settings/owner", ...)
    config["modelworks:settings"]["budget"]["monthly_usd"] = 0
    config["modelworks:oops"] = 1
    assert len(mistake(config).splitlines()) == 3


def test_values_of_a_secret_config_are_not_shown():
    config = changed("modelworks:settings/cost_centre", 4711)
    with pytest.raises(ModelworksError) as error:
        parse(config, source="", secret_keys=["modelworks:settings"])
    assert "4711" not in str(error.value)


def test_secrets_of_ours_are_never_shown():
    assert "hunter2" not in mistake(changed("modelworks:secrets/registry_password", "hunter2"))


def test_a_secret_that_is_needed_and_missing_is_asked_for_with_its_command():
    assert "pulumi config set --secret --path 'modelworks:secrets.tokens.flight-delay' …" in mistake(
        changed("modelworks:secrets/tokens", {})
    )


@pytest.mark.parametrize("tokens", ["", "\n", " \t\n"])
def test_tokens_without_a_token_are_refused(tokens):
    config = changed("modelworks:secrets/tokens/flight-delay", tokens)
    assert "modelworks:secrets.tokens.flight-delay" in mistake(config)


def test_an_encrypted_secret_in_a_file_counts_as_there(tmp_path):
    path = tmp_path / "Pulumi.dev.yaml"
    config = changed("modelworks:secrets/registry_password", {"secure": "v1:abc"})
    path.write_text(json.dumps({"config": config}))
    assert load(path).settings.registry is not None


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2)
)
PATHS = st.sampled_from(
    [
        "modelworks:settings",
        "modelworks:settings/owner",
        "modelworks:settings/budget",
        "modelworks:settings/budget/monthly_usd",
        "modelworks:settings/endpoints",
        "modelworks:settings/endpoints/flight-delay",
        "modelworks:settings/endpoints/flight-delay/canary",
        "modelworks:settings/endpoints/flight-delay/canary/steps",
        "modelworks:releases",
        "modelworks:releases/flight-delay",
        "aws:allowedAccountIds",
    ]
)


@given(path=PATHS, value=st.recursive(SCALARS, lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=3)))
def test_whatever_stands_in_the_file_is_read_or_refused_with_its_path(path, value):
    try:
        parse(changed(path, value), source="F")
    except ModelworksError as error:
        assert all(mistake.startswith("config") for mistake in f"\n{error.message}".split("\nF: ")[1:])  # noqa: PT017
        assert error.message.startswith("F: config")  # noqa: PT017
        assert error.fix  # noqa: PT017


@given(key=st.text(min_size=1, max_size=20).filter(lambda key: key not in Settings.model_fields))
def test_no_unknown_key_is_ever_ignored(key):
    config = copy.deepcopy(GOOD)
    config["modelworks:settings"][key] = 1
    assert "unknown key" in mistake(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: [", "is not YAML"),
        ("\x00", "is not YAML"),
        ("hello", "config: expected a mapping of keys to values, found nothing"),
        ("config: 3", "config: expected a mapping of keys to values, found the number"),
        ("config: {}", "config.modelworks:settings: is required and missing"),
    ],
)
def test_a_file_that_is_not_a_stack_config_is_refused(tmp_path, text, message):
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text(text)
    with pytest.raises(ModelworksError, match=re.escape(message)):
        load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelworksError, match=r"Pulumi\.qa\.yaml does not exist"):
        load(tmp_path / "Pulumi.qa.yaml")


def test_schema_holds_what_the_model_holds():
    found = schema()
    assert set(found["properties"]["config"]["properties"]) == {
        "modelworks:settings",
        "modelworks:releases",
        "modelworks:secrets",
        "aws:allowedAccountIds",
    }
    assert set(found["$defs"]["Settings"]["properties"]) == set(Settings.model_fields)
    assert json.loads(json.dumps(found)) == found
