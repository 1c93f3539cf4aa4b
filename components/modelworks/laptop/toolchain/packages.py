"""Installing one pinned package of the package index into a folder, verified by its hashes."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from modelworks.laptop.toolchain.tools import Unavailable

_BOUND: Final = 600
"""Seconds for one package; the largest has some hundred megabytes."""


def pin(requirements: Path) -> str:
    """`name==version` of a requirements file with one package and its hashes; empty while none is pinned."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), "")


def install(requirements: Path, target: Path) -> None:
    """Install what `requirements` pins into `target`, whole or not at all.

    Raises:
        Unavailable: There is no installer, no network, no such package, or its hash is another one.
    """
    installer = _installer()
    if installer is None:
        raise Unavailable("neither uv nor pip is there to fetch it")
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    argv = [*installer, "install", "--require-hashes", "--no-deps", "--target", str(target), "-r", str(requirements)]
    try:
        answer = subprocess.run(
            argv,
            cwd=target.parent,  # uv reads constraints from the project that it is started in, and wants hashes of them
            capture_output=True,
            text=True,
            timeout=_BOUND,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        output = (answer.stderr or answer.stdout).strip().splitlines()
        failed = answer.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        output, failed = [str(error)], True
    if failed:
        shutil.rmtree(target, ignore_errors=True)
        raise Unavailable(output[-1].strip() if output else "no answer")


def uv() -> str | None:
    """The program uv: on PATH, or where a checkout's `make` puts it; None where it is in neither."""
    beside = Path(sys.prefix).parent / ".uv" / "bin" / "uv"
    return shutil.which("uv") or (str(beside) if beside.exists() else None)


def _installer() -> list[str] | None:
    if (program := uv()) is not None:
        return [program, "pip", "--quiet"]
    if importlib.util.find_spec("pip") is None:
        return None
    return [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
