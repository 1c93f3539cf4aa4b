"""The plugins that an engine of the laptop cloud finds and starts."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from laptop.providers.engine import Engine
from modelworks.errors import ModelworksError
from modelworks.laptop import environments, plugins
from modelworks.laptop.state_dir import StateDir
from modelworks.laptop.toolchain import language_host
from waiting import PATIENCE, eventually


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    monkeypatch.chdir(tmp_path)
    place = StateDir(tmp_path / "a place")
    environments.create(place, "local")
    return place


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    path = tmp_path / "pulumi-resource-kubernetes"
    path.write_text("built")
    return path


def plugin(place: StateDir, name: str) -> Path:
    folder = place.root / "pulumi/plugins" / f"resource-{name}-v{version(f'pulumi-{name}')}"
    return folder / f"pulumi-resource-{name}"


def test_plugins_are_where_the_engine_looks_for_those_of_the_installed_sdks(place: StateDir, provider: Path):
    plugins.install(place, provider)
    assert os.access(plugin(place, "aws"), os.X_OK)
    assert plugin(place, "kubernetes").read_text() == "built"


def test_a_place_without_a_cluster_has_no_provider_of_one(place: StateDir):
    plugins.install(place, None)
    assert not plugin(place, "kubernetes").exists()


def test_a_newer_build_takes_the_place_of_an_older_one(place: StateDir, provider: Path, tmp_path: Path):
    plugins.install(place, provider)
    (tmp_path / "newer").write_text("newer")
    plugins.install(place, tmp_path / "newer")
    assert plugin(place, "kubernetes").read_text() == "newer"


def test_an_official_plugin_that_the_user_installed_stays(place: StateDir, provider: Path):
    plugins.install(place, provider)
    plugin(place, "kubernetes").unlink()
    plugin(place, "kubernetes").write_text("official")
    plugins.install(place, provider)
    assert plugin(place, "kubernetes").read_text() == "official"


def test_plugins_that_are_in_place_pass_the_check(place: StateDir, provider: Path):
    (place.root / "laptop.json").write_text('{"kubernetes": true}')
    plugins.install(place, provider)
    plugins.check(place, "local")


def test_a_place_without_a_cluster_needs_no_provider_of_one(place: StateDir):
    (place.root / "laptop.json").write_text('{"kubernetes": false}')
    plugins.install(place, None)
    plugins.check(place, "local")


def test_a_plugin_whose_tool_was_removed_is_one_clear_sentence(place: StateDir, provider: Path):
    (place.root / "laptop.json").write_text('{"kubernetes": true}')
    plugins.install(place, provider)
    provider.unlink()
    with pytest.raises(ModelworksError, match=r"has no plugin kubernetes \d.*started with other versions") as refused:
        plugins.check(place, "local")
    assert refused.value.fix == "Run `modelworks laptop up local`."


def test_the_stand_in_of_aws_serves_the_environment_that_the_shell_means(place: StateDir):
    plugins.install(place, None)
    variables = {**os.environ, "MODELWORKS_LAPTOP_ENVIRONMENT": "local"}
    with subprocess.Popen([plugin(place, "aws"), "127.0.0.1:1"], env=variables, stdout=subprocess.PIPE) as process:
        engine = Engine(int(process.stdout.readline()))
        checked, failures = engine.check_config({"region": "eu-central-1"})
        engine.close()
        process.terminate()
    assert (checked["region"], failures) == ("eu-central-1", {})
    assert process.returncode == 0


def test_the_stand_in_of_aws_names_an_environment_that_is_not_there(place: StateDir):
    plugins.install(place, None)
    variables = {**os.environ, "MODELWORKS_LAPTOP_ENVIRONMENT": "prod"}
    done = subprocess.run([plugin(place, "aws")], env=variables, capture_output=True, text=True, check=False)
    assert "has no environment 'prod'" in done.stderr
    assert done.returncode != 0


ENGINE = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=-1); print(p.pid, {heard})"
LANGUAGE_HOST = Path(language_host.__file__)


@pytest.mark.parametrize("heard", ["p.stdout.readline()", "''"], ids=["serving", "not serving yet"])
@pytest.mark.parametrize("kind", ["aws", "the language host"])
def test_a_plugin_ends_when_its_engine_is_gone(place: StateDir, kind: str, heard: str):
    plugins.install(place, None)
    variables = {**os.environ, "MODELWORKS_LAPTOP_ENVIRONMENT": "local", "VIRTUAL_ENV": sys.prefix}
    argv = [plugin(place, "aws")] if kind == "aws" else [sys.executable, LANGUAGE_HOST]
    engine = [sys.executable, "-c", ENGINE.format(heard=heard), *argv, "127.0.0.1:1"]
    done = subprocess.run(
        engine, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    eventually(lambda: not psutil.pid_exists(int(done.stdout.split()[0])))


def test_a_plugin_whose_engine_was_gone_before_it_started_ends(place: StateDir):
    """Then no process knows who started it: its parent has been another one from its first instruction on."""
    plugins.install(place, None)
    variables = {**os.environ, "MODELWORKS_LAPTOP_ENVIRONMENT": "local"}
    unread, stdout = os.pipe()
    os.close(unread)
    with subprocess.Popen([plugin(place, "aws"), "127.0.0.1:1"], env=variables, stdout=stdout, stderr=-3) as process:
        os.close(stdout)
        assert process.wait(PATIENCE) != 0
