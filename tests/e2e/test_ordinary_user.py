"""The first run as an ordinary user has it: no root, nothing of root's home, and not even a name in /etc/passwd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mocks import ROOT
from modelworks.laptop import toolchain
from modelworks.laptop.agent import sandbox

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

UID = 61_234
"""A user id that nobody has."""
PURE = shutil.ignore_patterns("site-packages", "test", "idlelib", "__pycache__", "config-*")


@pytest.fixture(scope="module")
def home():
    """The home of the user: a checkout, whose environment has the packages of this one, and the tools of the laptop."""
    if os.getuid() != 0:
        pytest.skip("only root may become another user; every other test runs as this one")
    # Not below the folder of pytest, which others may not enter.
    folder = Path(tempfile.mkdtemp(prefix="modelworks-user-"))
    try:
        checkout = folder / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, checkout], check=True)
        _environment(checkout / ".venv", _interpreter(folder / "python"))
        tools = toolchain.ensure(["pulumi"])["pulumi"].parents[2]
        shutil.copytree(tools, folder / "cache" / "modelworks" / "toolchain", symlinks=True)
        subprocess.run(["chown", "-R", f"{UID}:{UID}", folder], check=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _interpreter(folder: Path) -> Path:
    """This Python, where others may run it."""
    version = "python{}.{}".format(*sys.version_info)
    base = Path(sys.base_prefix)
    (folder / "bin").mkdir(parents=True)
    shutil.copy2(base / "bin" / version, folder / "bin")
    shutil.copytree(base / "lib" / version, folder / "lib" / version, ignore=PURE)
    for library in (base / "lib").glob("libpython*"):
        shutil.copy2(library, folder / "lib")
    return folder / "bin" / version


def _environment(folder: Path, python: Path) -> None:
    """A virtual environment with the packages and the commands of this one."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    ours = next(Path(sys.prefix).glob("lib/python*/site-packages"))
    theirs = next(folder.glob("lib/python*/site-packages"))
    (theirs / "ours.pth").write_text(f"import site; site.addsitedir({str(ours)!r})\n")
    for script in Path(sys.prefix, "bin").iterdir():
        content = script.read_bytes()
        if not (folder / "bin" / script.name).exists() and content.startswith(b"#!"):
            copy = folder / "bin" / script.name
            copy.write_bytes(content.replace(f"{sys.prefix}/bin/".encode(), f"{folder}/bin/".encode()))
            copy.chmod(0o755)


@pytest.mark.parametrize("kind", ["links", "none"])
def test_the_reference_program_serves_its_model_and_leaves_nothing_behind(home, kind):
    shell = _Shell(home, kind)
    try:
        said = shell("quickstart")
        assert "answers" in said
        assert ("no mount namespaces" in said) == (kind == "none")
        assert shell.node() == f"process://{kind}"
        assert "Healthy" in shell("status", "local")
        answer = json.loads(shell("predict", "flight-delay", "--json"))
        assert answer
    finally:
        shell("laptop", "down")
    assert shell.processes() == []


class _Shell:
    def __init__(self, home: Path, kind: str) -> None:
        self.checkout = home / "checkout"
        self.variables = {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(self.checkout / ".venv/bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
            "XDG_CACHE_HOME": str(home / "cache"),
            "LANG": "C.UTF-8",
            sandbox.VARIABLE: kind,
        }

    def __call__(self, *arguments: str) -> str:
        return self._run(str(self.checkout / ".venv/bin/modelworks"), *arguments)

    def node(self) -> str:
        """The isolation that the node reports."""
        template = "{.items[0].status.nodeInfo.containerRuntimeVersion}"
        admin = self.checkout / ".modelworks" / "cluster" / "admin.kubeconfig"
        kubectl = toolchain.ensure(["kubectl"])["kubectl"]
        return subprocess.run(
            [kubectl, "--kubeconfig", admin, "get", "nodes", "-o", f"jsonpath={template}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def processes(self) -> list[str]:
        """The user's processes."""
        done = subprocess.run(["ps", "-u", str(UID), "-o", "args="], capture_output=True, text=True, check=False)
        return done.stdout.splitlines()

    def _run(self, *argv: str) -> str:
        become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
        done = subprocess.run(
            [*become, *argv],
            cwd=self.checkout,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout
