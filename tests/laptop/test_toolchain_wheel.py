"""The toolchain as a wheel: packed from what was built, put into a local index, and preferred where it is there."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain import Toolchain, golang, packages, wheel
from modelworks.laptop.toolchain.progress import Step
from modelworks.laptop.toolchain.tools import Tool

ROOT = Path(__file__).parents[2]
HELLO = Tool("hello", "1.2.3", "hello", "example.com/hello", 5, kept="manifests/crds")
HOST = Tool("host", "2.0.0", "hello", "example.com/host", 5)
TOOLS = {tool.name: tool for tool in (HELLO, HOST)}
VERSION = "2026.11.1"


def builder():
    spec = importlib.util.spec_from_file_location("build_wheel", ROOT / "packaging" / "toolchain" / "build_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def told() -> list[Step]:
    return []


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules whose builds are replaced: they write a script that says which tool it is."""
    module = tmp_path / "modules" / "hello"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module x\n\ngo 1.21\n")
    (module / "go.sum").write_text("")
    sources = tmp_path / "sources"
    (sources / "manifests" / "crds").mkdir(parents=True)
    (sources / "manifests" / "crds" / "rollout-crd.yaml").write_text("kind: CustomResourceDefinition\n")

    def build(order, report, stop) -> None:
        order.output.write_text(f"#!/bin/sh\necho {order.tool.name} {order.tool.version}\n")
        order.output.chmod(0o755)

    monkeypatch.setattr(golang, "build", build)
    monkeypatch.setattr(golang, "find", lambda *_: Path("/go"))
    monkeypatch.setattr(golang, "source_folder", lambda *_: sources)
    return module.parent


@pytest.fixture
def machine(tmp_path: Path, modules: Path) -> Callable[..., Toolchain]:
    """A machine with a cache of its own, and the wheel that it pins."""

    def made(name: str, pinned: str = "") -> Toolchain:
        requirements = tmp_path / f"{name}.txt"
        requirements.write_text(pinned)
        return Toolchain(tmp_path / name, modules, (), TOOLS, wheel=requirements)

    return made


@pytest.fixture
def built(machine, tmp_path: Path) -> Path:
    """A wheel in a folder of its own, which stands for the index."""
    tools = machine("workshop")
    tools.ensure(TOOLS, lambda _: None)
    return builder().build(tools, VERSION, tmp_path / "index")


def pin(path: Path) -> str:
    return (
        f"# a comment\n{wheel.NAME}=={VERSION} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
    )


def uv(_: Path) -> list[str]:
    return [str(ROOT / ".uv" / "bin" / "uv"), "pip", "--quiet"]


def pip(folder: Path) -> list[str]:
    venv.create(folder, with_pip=True)
    return [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture
def index(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "UV_FIND_LINKS": str(built.parent),
        "UV_NO_INDEX": "1",
        "UV_NO_CACHE": "1",
        "UV_PYTHON": sys.executable,
        "PIP_FIND_LINKS": str(built.parent),
        "PIP_NO_INDEX": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(packages, "_installer", lambda: uv(built))
    return built


@pytest.mark.parametrize("installer", [uv, pip])
def test_a_wheel_of_the_index_is_preferred_to_a_build(index, machine, told, monkeypatch, tmp_path, installer):
    argv = installer(tmp_path / "venv")
    monkeypatch.setattr(packages, "_installer", lambda: argv)
    monkeypatch.setattr(golang, "build", lambda *_: pytest.fail("it was built"))
    tools = machine("laptop", pin(index))
    paths = tools.ensure(TOOLS, told.append)
    assert [state.source for state in tools.states()] == ["wheel", "wheel"]
    assert subprocess.run([paths["hello"]], capture_output=True, text=True, check=True).stdout == "hello 1.2.3\n"
    assert (paths["hello"].parent / "crds" / "rollout-crd.yaml").is_file()
    assert not list(tools.cache.glob(".wheel-*"))


def test_an_installed_wheel_is_taken_without_asking_an_index(built, machine, told, tmp_path, monkeypatch):
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    monkeypatch.setattr(packages, "install", lambda *_: pytest.fail("an index was asked"))
    tools = machine("laptop")
    assert "taken from the installed wheel when needed" in tools.states()[0].note
    tools.ensure(TOOLS, told.append)
    assert [state.source for state in tools.states()] == ["wheel", "wheel"]


def test_a_wheel_with_another_hash_is_not_installed_and_the_tools_are_built(index, machine, told):
    tools = machine("laptop", pin(index).replace("sha256:", "sha256:0")[:-2] + "\n")
    tools.ensure(TOOLS, told.append)
    assert [state.source for state in tools.states()] == ["built", "built"]
    (note,) = [step.text for step in told if step.what == "note" and step.tool == wheel.NAME]
    assert note.startswith(f"{wheel.NAME}=={VERSION} cannot be had from the package index")


def test_where_the_index_has_no_wheel_the_tools_are_built(index, machine, told):
    pinned = pin(index)
    index.unlink()
    tools = machine("laptop", pinned)
    tools.ensure(TOOLS, told.append)
    assert [state.source for state in tools.states()] == ["built", "built"]


def test_without_a_pinned_release_no_index_is_asked(machine, told, monkeypatch):
    monkeypatch.setattr(packages, "install", lambda *_: pytest.fail("an index was asked"))
    machine("laptop", "# none yet\n").ensure(TOOLS, told.append)
    assert packages.pin(wheel.PINNED) == ""


def test_a_wheel_of_other_sources_is_passed_over(index, machine, told, modules):
    (modules / "hello" / "go.sum").write_text("example.com/other v1.0.0 h1:x\n")
    tools = machine("laptop", pin(index))
    tools.ensure(TOOLS, told.append)
    assert [state.source for state in tools.states()] == ["built", "built"]


def test_an_altered_file_of_a_wheel_is_an_alarm_and_that_tool_is_built(built, machine, told, tmp_path, monkeypatch):
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site-packages")
    (tmp_path / "site-packages" / wheel.PACKAGE / "hello" / "hello").write_text("#!/bin/sh\necho evil\n")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    tools = machine("laptop")
    tools.ensure(TOOLS, told.append)
    assert {state.name: state.source for state in tools.states()} == {"hello": "built", "host": "wheel"}
    (alarm,) = [step.text for step in told if step.what == "alarm"]
    assert "is not what was built: expected sha256:" in alarm


def test_what_go_did_not_build_here_is_not_packed(machine, tmp_path, monkeypatch):
    tools = machine("workshop")
    with pytest.raises(ModelworksError, match=r"hello is missing .* a wheel holds only what Go built"):
        builder().build(tools, VERSION, tmp_path / "index")
    tools.ensure(TOOLS, lambda _: None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "host").write_text("#!/bin/sh\necho 2.0.1\n")
    (tmp_path / "bin" / "host").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(ModelworksError, match=r"host is ready \(from PATH \(2\.0\.1\)\)"):
        builder().build(tools, VERSION, tmp_path / "index")


def test_the_same_tools_make_the_same_wheel(built, machine, tmp_path):
    tools = machine("another")
    tools.ensure(TOOLS, lambda _: None)
    assert builder().build(tools, VERSION, tmp_path / "again").read_bytes() == built.read_bytes()


def test_a_wheel_is_for_one_architecture_only(built):
    assert built.name.startswith(f"{wheel.PACKAGE}-{VERSION}-py3-none-manylinux2014_")
    with zipfile.ZipFile(built) as archive:
        text = archive.read(f"{wheel.PACKAGE}-{VERSION}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in text
    assert text.count("Tag: py3-none-") == 3
