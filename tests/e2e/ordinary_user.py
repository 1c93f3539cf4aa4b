"""A user of this machine who is not root, with a home, a checkout and the laptop's tools, and nothing of others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mocks import ROOT
from modelworks.laptop import toolchain
from modelworks.laptop.agent.isolation import VARIABLE
from modelworks.laptop.toolchain import packages

UID = 61_234
"""A user id that nobody has, nor a name in /etc/passwd."""

LEFT_OUT = shutil.ignore_patterns("site-packages", "test", "idlelib", "config-*")


def become(uid: int) -> list[str]:
    """What to put before a command, so that the user runs it."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"] if uid else []


@contextmanager
def home(uid: int = UID, *, tools: bool = True) -> Iterator[Path]:
    """Makes a home: a checkout, whose environment has the packages of this one, and the tools of the laptop.

    Only root may. It is not below the folder of pytest, which others may not enter. Without `tools`, their cache is
    empty, and uv is there to fetch Go with.
    """
    folder = Path(tempfile.mkdtemp(prefix="modelworks-user-"))
    try:
        checkout = folder / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, checkout], check=True)
        _environment(checkout / ".venv", _interpreter(folder / "python"))
        if tools:
            ready = toolchain.ensure(["pulumi"])["pulumi"].parents[2]
            shutil.copytree(ready, folder / "cache" / "modelworks" / "toolchain", symlinks=True)
        else:
            (checkout / ".uv" / "bin").mkdir(parents=True)
            shutil.copy2(packages.uv() or "uv", checkout / ".uv" / "bin" / "uv")
        subprocess.run(["chown", "-R", f"{uid}:{uid}", folder], check=True)
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


class Shell:
    """Runs `modelworks` as that user, in the checkout."""

    def __init__(self, home: Path, isolation: str, uid: int = UID) -> None:
        self._uid = uid
        self.checkout = home / "checkout"
        self.variables = {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(self.checkout / ".venv/bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
            "XDG_CACHE_HOME": str(home / "cache"),
            "LANG": "C.UTF-8",
            VARIABLE: isolation,
        }

    def __call__(self, *arguments: str, stderr: IO[str] | int = subprocess.STDOUT) -> str:
        """What `modelworks` with these arguments printed, which must succeed."""
        done = self.run(*arguments, stderr=stderr)
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
        done = subprocess.run(
            ["ps", "-u", str(self._uid), "-o", "stat=,args="], capture_output=True, text=True, check=False
        )
        return [line for line in done.stdout.splitlines() if not line.startswith("Z")]

    def run(self, *arguments: str, stderr: IO[str] | int = subprocess.STDOUT) -> subprocess.CompletedProcess[str]:
        """`modelworks` with these arguments, as the user."""
        return subprocess.run(
            [*become(self._uid), self.checkout / ".venv/bin/modelworks", *arguments],
            cwd=self.checkout,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=900,
            check=False,
        )
