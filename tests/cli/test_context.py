"""How the command line reaches an environment."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from modelworks.cli import context
from modelworks.cli.context import EnvironmentContext, environment_of
from modelworks.errors import ModelworksError

TABLE = {
    "hosts": {"churn.local.localhost": [], "churn.ml.example.com": [], "churn.ml.example.com.localhost": []},
    "ports": {"churn.local.localhost": 24_000, "churn.ml.example.com": 24_001},
}


@pytest.fixture
def laptop(monkeypatch, tmp_path):
    (tmp_path / "laptop.json").write_text('{"ports": {"gateway": 21212}}')
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "table.json").write_text(json.dumps(TABLE))
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("declared", "reached"),
    [
        ("http://churn.local.localhost", "http://127.0.0.1:24000"),
        ("https://churn.ml.example.com", "http://127.0.0.1:24001"),
    ],
)
def test_on_the_laptop_every_url_is_at_an_address_that_needs_no_resolver(laptop, declared, reached):
    assert EnvironmentContext("prod", SimpleNamespace(on_laptop=True)).address(declared) == reached


def test_in_the_cloud_a_url_is_what_the_stack_says():
    url = "https://churn.ml.example.com"
    assert EnvironmentContext("prod", SimpleNamespace(on_laptop=False)).address(url) == url


def test_the_process_resolves_names_as_it_did_before(monkeypatch):
    resolve = socket.getaddrinfo
    monkeypatch.setattr("modelworks.cli.context.engine_of", lambda _: SimpleNamespace(on_laptop=False))
    EnvironmentContext.of("prod")
    assert socket.getaddrinfo is resolve


def test_on_the_laptop_nothing_that_the_shell_states_about_another_account_is_used(laptop, monkeypatch, tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: project\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-a-real-account")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    monkeypatch.setattr("modelworks.cli.context.StateDir.environments", lambda _: ["dev"])
    monkeypatch.setattr("modelworks.cli.context.toolchain.ensure", lambda _: {"pulumi": tmp_path / "pulumi"})
    own = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "laptop"}
    monkeypatch.setattr("modelworks.laptop.environments.environment_variables", lambda *_: own)
    variables = context.engine_of("dev").variables
    assert {name: value for name, value in variables.items() if name.startswith("AWS_")} == own
    assert context.engine_of("prod").variables["AWS_SESSION_TOKEN"] == "of-a-real-account"


def test_mlflow_is_led_to_the_registry_as_its_user(laptop):
    engine = SimpleNamespace(on_laptop=True, ask=lambda *_: "a-secret-word\n")
    target = EnvironmentContext("prod", engine)
    target.__dict__["outputs"] = {"registry_url": "http://churn.local.localhost"}
    assert target.mlflow_variables == {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:24000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "a-secret-word",
    }


@pytest.mark.parametrize(
    ("argument", "option", "environment"),
    [("", "", "local"), ("dev", "", "dev"), ("", "dev", "dev"), ("dev", "dev", "dev")],
)
def test_the_environment_is_the_argument_or_the_option(argument, option, environment):
    assert environment_of(argument, option) == environment


def test_two_different_environments_are_refused():
    with pytest.raises(ModelworksError, match="the argument names the environment dev, --env names prod"):
        environment_of("dev", "prod")


def test_environments_are_completed_from_the_stack_files_and_the_laptop(laptop, monkeypatch, tmp_path):
    (tmp_path / "Pulumi.yaml").touch()
    (tmp_path / "stacks").mkdir()
    for name in ("Pulumi.staging.yaml", "Pulumi.prod.yaml"):
        (tmp_path / "stacks" / name).touch()
    monkeypatch.setattr("modelworks.cli.context.StateDir.environments", lambda _: ["sandbox"])
    monkeypatch.chdir(tmp_path)
    assert (context._complete(""), context._complete("s")) == (["prod", "sandbox", "staging"], ["sandbox", "staging"])


def test_outside_of_a_project_nothing_is_completed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert context._complete("") == []
