"""`modelworks env`: a shell that means one environment, its registry included."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from modelworks.cli import laptop
from modelworks.errors import ModelworksError
from modelworks.laptop import environments
from modelworks.laptop.state_dir import StateDir
from waiting import PATIENCE

PRINT = "import json, os; print(json.dumps(dict(os.environ)))"
SECRET = "config:\n  modelworks:secrets:\n    registry_password: {secure: v1:abc}\n"
REGISTRY = {
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:24000",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": "it's a secret",
}


class Registry:
    """Stands for the environment whose registry is asked for."""

    mlflow_variables = REGISTRY

    @classmethod
    def of(cls, environment: str) -> Registry:
        return cls()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with the environment `local` on its laptop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELWORKS_HOME", raising=False)
    (tmp_path / "Pulumi.yaml").write_text("name: project\nruntime: python\n")
    environments.create(StateDir.here(), "local")
    return tmp_path


@pytest.fixture
def registry(project, monkeypatch):
    """The same, with a registry that is up."""
    (project / "Pulumi.local.yaml").write_text(SECRET)
    monkeypatch.setattr("modelworks.cli.context.EnvironmentContext", Registry)


def env(*arguments: str):
    app = typer.Typer()
    laptop.register(app)
    done = CliRunner().invoke(app, ["env", "local", *arguments])
    assert done.exit_code == 0, done.output
    return done


def shell(lines: str, before: dict[str, str] | None = None) -> dict[str, str]:
    """The variables of a shell after these lines."""
    argv = ["/bin/sh", "-c", f'{lines}\nexec "$0" -c "$1"', sys.executable, PRINT]
    done = subprocess.run(argv, env=before or {}, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return json.loads(done.stdout)


def test_the_shell_has_mlflows_variables_once_the_registry_is_up(registry):
    variables = shell(env().stdout)
    assert {name: variables[name] for name in REGISTRY} == REGISTRY
    assert json.loads(env("--json").stdout).items() >= REGISTRY.items()


def test_without_a_registry_the_shell_loses_the_variables_of_another(project):
    assert not shell(env().stdout, {"MLFLOW_TRACKING_URI": "https://mlflow.example.com"}).keys() & REGISTRY.keys()
    assert not json.loads(env("--json").stdout).keys() & REGISTRY.keys()


def test_a_registry_that_is_not_up_yet_is_left_out_and_why(registry, monkeypatch):
    class NotUp(Registry):
        @property
        def mlflow_variables(self) -> dict[str, str]:
            raise ModelworksError("the environment local is not up")

    monkeypatch.setattr("modelworks.cli.context.EnvironmentContext", NotUp)
    done = env()
    assert "# MLflow's variables are left out: the environment local is not up" in done.stderr
    assert not shell(done.stdout).keys() & REGISTRY.keys()


def test_unset_takes_back_all_that_was_exported_without_asking_anybody(registry, monkeypatch):
    lines = env().stdout
    monkeypatch.setattr("modelworks.cli.context.EnvironmentContext", None)
    left = shell(lines + env("--unset").stdout)
    assert not {name for name in left if name.startswith(("AWS_", "MLFLOW_", "MODELWORKS_", "PULUMI_"))}


def test_a_terminal_shows_no_secret(project):
    credentials = (StateDir.here().environment("local") / "aws-credentials").read_text()
    secret = credentials.split("aws_secret_access_key = ")[1].strip()
    terminal, end = pty.openpty()
    argv = [str(Path(sys.executable).parent / "modelworks"), "env", "local"]
    subprocess.run(argv, stdout=end, stderr=end, timeout=PATIENCE, check=True)
    os.close(end)
    shown = b""
    while chunk := _read(terminal):
        shown += chunk
    os.close(terminal)
    assert b"export AWS_ACCESS_KEY_ID=" in shown
    assert b"AWS_SECRET_ACCESS_KEY." in shown
    assert secret.encode() not in shown
    assert secret in env().stdout


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # its other end is closed
        return b""
