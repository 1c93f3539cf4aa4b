"""How the command line reaches an environment."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import boto3
import pytest
from moto import mock_aws

from modelworks.cli import context
from modelworks.cli.context import EnvironmentContext, environment_of
from modelworks.deploy.stack import StackEngine
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


def test_an_environment_is_reached_in_a_role_with_its_state_its_secrets_and_its_account(tmp_path):
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    engine = StackEngine("dev", tmp_path, tmp_path / "pulumi", keys, tmp_path, on_laptop=False)
    (tmp_path / "Pulumi.yaml").write_text("name: project\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {aws:region: eu-central-1}")
    with mock_aws():
        role = "arn:aws:iam::222222222222:role/modelworks-dev-promote"
        found = EnvironmentContext("dev", engine).in_role(role).engine.variables
        keys = [found[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
        sts = boto3.Session(*keys).client("sts", region_name=found["AWS_REGION"])
        assert sts.get_caller_identity()["Account"] == "222222222222"


def test_an_environment_of_the_laptop_is_reached_in_no_role():
    laptop = EnvironmentContext("dev", SimpleNamespace(on_laptop=True))
    with pytest.raises(ModelworksError, match="an environment of the laptop"):
        laptop.in_role("arn:aws:iam::222222222222:role/x")


# -- The cluster -----------------------------------------------------------------------------------------------------
@pytest.fixture
def api_server():
    """A kubeconfig, as text, of an API server in the context `made`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"major": "1", "minor": "35", "gitVersion": "v1.35.0"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "made", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "made",
        }
    )
    server.shutdown()
    server.server_close()


def in_the_cloud(tmp_path, config: str, outputs: dict) -> EnvironmentContext:
    """An environment whose stack has this config, and after its last update these outputs."""
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text(f"config: {{{config}}}")
    engine = SimpleNamespace(on_laptop=False, stack_file=file, ask=lambda *_: json.dumps(outputs))
    return EnvironmentContext("dev", engine)


def test_a_cluster_that_the_program_made_is_reached_by_the_stacks_output(tmp_path, api_server):
    target = in_the_cloud(tmp_path, "", {"namespace": "n", "kubeconfig": api_server})
    assert target.cluster().get("/version")["gitVersion"] == "v1.35.0"


def test_a_context_that_the_stacks_file_names_is_one_of_the_users_kubeconfig(tmp_path, api_server, monkeypatch):
    (tmp_path / "kubeconfig").write_text(api_server)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    outputs = {"namespace": "n", "kubeconfig": "that of another cluster"}
    assert in_the_cloud(tmp_path, "kubernetes:context: made", outputs).cluster().get("/version")["minor"] == "35"
    with pytest.raises(ModelworksError, match="No such context absent"):
        in_the_cloud(tmp_path, "kubernetes:context: absent", outputs).cluster().get("/version")


def test_a_cluster_is_checked_before_the_first_update(tmp_path, api_server, monkeypatch):
    (tmp_path / "kubeconfig").write_text(api_server)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert in_the_cloud(tmp_path, "", {}).cluster("default").get("/version")["gitVersion"] == "v1.35.0"


def test_a_program_that_cannot_sign_in_to_the_cluster_is_named_with_its_error(tmp_path, api_server):
    kubeconfig = json.loads(api_server)
    program = {"command": "sh", "args": ["-c", "echo the token has expired >&2; exit 255"]}
    kubeconfig["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", **program}}
    target = in_the_cloud(tmp_path, "", {"namespace": "n", "kubeconfig": json.dumps(kubeconfig)})
    with pytest.raises(ModelworksError, match=r"signing in to the cluster (.|\n)*the token has expired"):
        target.cluster().get("/version")
