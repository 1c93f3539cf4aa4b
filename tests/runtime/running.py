"""A server in a process of its own, and how to wait for things."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from modelworks import contract
from waiting import PATIENCE, eventually, held_port

SAME_PORT = "the same port"
"""The value of a variable that names the server's own port."""
PATIENT = (str(Path(__file__).parents[1] / "patient_serve.py"),)
"""The program of a server that reads from a feature store of the test, which may be as slow as the machine is busy."""


class Server:
    """A running `runtime.serve`, which writes to a file, or to `out`."""

    def __init__(
        self,
        environ: dict[str, str],
        log: Path,
        out: int | None = None,
        within: Sequence[str] = (),
        python: str = sys.executable,
        program: Sequence[str] = ("-m", "modelworks.runtime.serve"),
    ) -> None:
        self._held = held_port()
        self.port = self._held.getsockname()[1]
        self.log = log
        port = str(self.port)
        environ = {name: port if value == SAME_PORT else value for name, value in environ.items()}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*within, python, *program],
                env={**os.environ, **environ, contract.ENV_PORT: port},
                stdout=file if out is None else out,
                stderr=file,
            )

    def ready(self) -> Server:
        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(OSError):
                return self.ask("GET", "/readyz")[0] == 200
            return False

        eventually(answers)
        return self

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """Status, body (decoded if it is JSON) and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = "json" in (response.headers["content-type"] or "")
        return response.status, json.loads(content) if is_json else content.decode(), response.headers

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.log.read_text().splitlines() if text.startswith("{")]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def ended(self) -> int:
        """Its exit code, when it ends by itself."""
        return self.process.wait(PATIENCE)

    def publisher(self) -> psutil.Process:
        """The process beside it, once it is there."""

        def found() -> psutil.Process | None:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    if "modelworks.runtime.publisher" in child.cmdline():
                        return child
            return None

        return eventually(found)

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines()]

    def stop(self) -> int:
        self._held.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.ended()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def counted(server: Server, what: str) -> int:
    """What `/metrics` says of a counter."""
    text = server.ask("GET", "/metrics")[1]
    return int(next(line for line in text.splitlines() if line.startswith(f"modelworks_{what}_total{{")).split()[-1])


def sample(server: Server, name: str) -> float:
    """What `/metrics` says of one series, named with its labels."""
    text = server.ask("GET", "/metrics")[1]
    return float(next(line for line in text.splitlines() if line.startswith(f"modelworks_{name} ")).split()[-1])


def settings(example: Any, **more: str) -> dict[str, str]:
    return {
        contract.ENV_BUNDLE_URI: str(example.archive),
        contract.ENV_BUNDLE_DIGEST: example.digest,
        contract.ENV_MODEL: "delays",
        contract.ENV_VERSION: "12",
        contract.ENV_ENVIRONMENT: "test",
        contract.ENV_ALLOW_ANONYMOUS: "true",
        contract.ENV_METRICS: "none",
        contract.ENV_DRAIN_SECONDS: "0",
        **more,
    }
