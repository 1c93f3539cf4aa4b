"""The clients of the Open Inference Protocol that people have, in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from modelworks.laptop.toolchain import packages
from waiting import PATIENCE

PROJECT = Path(__file__).parent / "runtime" / "clients" / "v2"
CLIENTS = {
    "triton": ["JSON", "binary tensors", "gRPC"],
    "kserve": ["REST", "gRPC"],
    "mlserver": ["REST", "gRPC"],
}
"""By name, the ways in which each asks."""


def install(folder: Path) -> str:
    """The interpreter of an environment below `folder` that has the clients of the lock."""
    command = [str(packages.uv()), "sync", "--frozen", "--quiet", "--project", str(PROJECT), "--python", sys.executable]
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder / "venv")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(folder / "venv" / "bin" / "python")


def ask(python: str, client: str, place: str, model: str, rows: list[dict[str, Any]], token: str = "") -> Any:
    """What a client was answered at `host:port` for rows, by each of its ways: outputs by name."""
    done = subprocess.run(
        [python, str(PROJECT / "ask.py"), client, place, model, token],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
