"""The first run as an ordinary user has it: no root, nothing of root's home, and not even a name in /etc/passwd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mocks import ROOT
from modelworks.laptop import toolchain
from modelworks.laptop.agent import sandbox
from modelworks.laptop.state_dir import read_facts
from waiting import PATIENCE, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

UID = 61_234
"""A user id that nobody has."""
BECOME = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs")
LEFT_OUT = shutil.ignore_patterns("site-packages", "test", "idlelib", "config-*")


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
    program = folder / "bin" / version
    shutil.copy2(base / "bin" / version, program)
    shutil.copytree(base / "lib" / version, folder / "lib" / version, ignore=LEFT_OUT)
    for library in (base / "lib").glob("libpython*"):
        shutil.copy2(library, folder / "lib")
    # One that was built below root's home looks for its library there; another of the system's would be loaded.
    theirs = str(base / "lib").encode()
    ours = b"$ORIGIN/../lib".ljust(len(theirs), b"\0")
    program.write_bytes(program.read_bytes().replace(theirs + b"\0", ours + b"\0"))
    return program


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


@pytest.mark.parametrize("kind", ["none", "links"])
def test_the_reference_program_is_deployed_released_and_served_with_each_kind_of_isolation(home, kind):
    """From nothing to a prediction with one kind, and continued with the other where the machine allows it."""
    if kind == "links" and not _has_namespaces():
        pytest.skip("this machine allows no user namespaces")
    shell = _Shell(home, kind)
    try:
        said = shell("quickstart")
        assert "flight-delay answers" in said
        assert ("no mount namespaces" in said) == (kind == "none")
        assert shell.node() == f"process://{kind}"
        if kind == "none":
            _is_good_enough_for_every_environment(shell)
            _takes_over_by_a_canary(shell)
        shell("laptop", "down", "--keep")
        assert shell.processes() == []
        other = _Shell(home, "none" if kind == "links" else "")
        other("laptop", "up")
        expected = "process://links" if kind == "none" and _has_namespaces() else "process://none"
        eventually(lambda: other.node() == expected)  # until its agent reports, the node is that of before
        eventually(lambda: other.run("predict", "flight-delay", "--json").returncode == 0)
    finally:
        shell("laptop", "down")
    assert shell.processes() == []


def _is_good_enough_for_every_environment(shell: _Shell) -> None:
    """The gates of the reference model are those of a product: they allow it where they count."""
    for environment in ("staging", "prod"):
        shell("gates", "flight-delay", "--env", environment)


def _takes_over_by_a_canary(shell: _Shell) -> None:
    """Another run of the reference model, released while clients go on."""
    first = shell.answer()["version"]
    code = shell.checkout / "models" / "flight_delay" / "model.py"
    text = code.read_text(encoding="utf-8")
    code.write_text(text.replace("seed=13", "seed=14"), encoding="utf-8")
    for step in ("train", "bundle", "register", "release"):
        shell(step, "flight-delay")
    with _asked(shell):
        shell("up", "local", "--yes")
        shell("rollout", "watch", "flight-delay")
    assert shell.answer()["version"] != first


@contextmanager
def _asked(shell: _Shell) -> Iterator[None]:
    """Clients that never stop, and that get an answer each time."""
    port = read_facts(shell.checkout / ".modelworks" / "laptop.json")["ports"]["gateway"]
    url, host = f"http://127.0.0.1:{port}", {"Host": "flight-delay.local.localhost"}
    over, codes = threading.Event(), Counter[int]()
    with httpx.Client(base_url=url, headers=host, timeout=PATIENCE, trust_env=False) as client:
        body = client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]["requestBody"]
        content = body["content"]["application/json"]
        row = content["example"] if "example" in content else next(iter(content["examples"].values()))["value"]

        def ask() -> None:
            while not over.wait(0.05):
                codes[client.post("/v1/predict", json=row).status_code] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    assert set(codes) == {200}, codes


def test_a_private_copy_of_the_root_is_refused_to_an_ordinary_user_in_one_sentence(home):
    refused = _Shell(home, "overlay").run("laptop", "up")
    assert refused.returncode == 1
    assert "error: MODELWORKS_ISOLATION is overlay, and this machine does not allow it" in refused.stdout


def _has_namespaces() -> bool:
    probe = [*BECOME, "unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


class _Shell:
    def __init__(self, home: Path, isolation: str) -> None:
        self.checkout = home / "checkout"
        self.variables = {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(self.checkout / ".venv/bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
            "XDG_CACHE_HOME": str(home / "cache"),
            "LANG": "C.UTF-8",
            sandbox.VARIABLE: isolation,
        }

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

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

    def answer(self) -> dict[str, Any]:
        """The environment's, to the example of its bundle."""
        return json.loads(self("predict", "flight-delay", "--json"))

    def processes(self) -> list[str]:
        """The user's processes, without those that have ended and whose parent has not noticed yet."""
        done = subprocess.run(["ps", "-u", str(UID), "-o", "stat=,args="], capture_output=True, text=True, check=False)
        return [line for line in done.stdout.splitlines() if not line.startswith("Z")]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`modelworks` with these arguments, as the user."""
        return subprocess.run(
            [*BECOME, self.checkout / ".venv/bin/modelworks", *arguments],
            cwd=self.checkout,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
