"""A process that serves a bundle from the moment it is built until its environment serves it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from modelworks import contract
from modelworks.cli.predict import EndpointClient
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.lifecycle.bundle import Bundle
    from modelworks.lifecycle.runs import TrainedModel

_READY_SECONDS: Final = 120
"""How long a server may take to be ready: it imports an inference engine on a machine that builds tools meanwhile."""

_READY: Final = re.compile(r'"message":"ready",.*"address":"([^"]+)"')

# The kernel ends the server when this command is gone, even one that was killed.
_SERVE: Final = (
    "import ctypes, runpy, signal; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "runpy.run_module('modelworks.runtime.serve', run_name='__main__')"
)


@dataclass(frozen=True)
class Answer:
    """A prediction of the local process."""

    url: str
    row: Any
    """The row of the request."""
    prediction: Any
    at: float
    """When it came, by the monotonic clock."""


class LocalServer:
    """Serves a bundle on loopback as soon as it is built, until it is closed.

    Args:
        log: File for what the server writes.
        answered: Called with the first answer.
        failed: Called with one sentence if the server fails. The command continues: the environment is coming up.
    """

    def __init__(self, log: Path, answered: Callable[[Answer], None], failed: Callable[[str], None]) -> None:
        self._log, self._answered, self._failed = log, answered, failed
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.answer: Answer | None = None

    def begin(
        self,
        built: Future[tuple[TrainedModel, Bundle]],
        needed: Callable[[], bool],
        variables: Future[dict[str, str]] | None = None,
    ) -> None:
        """Serve the bundle once it is built, if `needed`. A build that fails is raised by whoever waits for it.

        Args:
            built: The future bundle.
            needed: Whether to serve at all.
            variables: Variables that the server needs of an environment, such as the tables that its features are in.
                None for none.
        """
        # The thread lives as long as its process: the kernel's signal at a parent's end goes by thread.
        self._thread = threading.Thread(
            target=self._work, args=(built, needed, variables), name="local-server", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the server, if it runs."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _work(
        self,
        built: Future[tuple[TrainedModel, Bundle]],
        needed: Callable[[], bool],
        variables: Future[dict[str, str]] | None,
    ) -> None:
        if not needed() or not self._is_there(built) or built.exception() is not None:
            return
        if variables is not None and not self._is_there(variables):
            return
        _, bundle = built.result()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            process = _start(bundle, log, variables.result() if variables else {})
            try:
                self._serve(bundle, process)
            finally:
                _end(process)

    def _is_there(self, awaited: Future[Any]) -> bool:
        """Wait for something; False if the environment takes over before it is there."""
        while not awaited.done() and not self._over.wait(0.1):
            pass
        return not self._over.is_set()

    def _serve(self, bundle: Bundle, process: subprocess.Popen[bytes]) -> None:
        def pause(seconds: float) -> None:
            if process.poll() is not None:
                raise ModelworksError(f"the server exited with {process.returncode}")
            if self._over.wait(seconds):
                raise ModelworksError("the environment has taken over")

        try:
            self.answer = _first_answer(bundle.model, _address(self._log, pause), pause)
        except ModelworksError as error:
            if not self._over.is_set():
                self._failed(f"{bundle.model} does not answer from a local process: {error.message}; log: {self._log}")
            return
        self._answered(self.answer)
        self._over.wait()


def _start(bundle: Bundle, log: IO[bytes], needed: Mapping[str, str]) -> subprocess.Popen[bytes]:
    variables = {
        contract.ENV_BUNDLE_URI: str(bundle.path),
        contract.ENV_BUNDLE_DIGEST: bundle.digest,
        contract.ENV_MODEL: bundle.model,
        contract.ENV_POD_IP: "127.0.0.1",
        contract.ENV_PORT: "0",
        contract.ENV_ALLOW_ANONYMOUS: "true",  # loopback only, and for minutes
        contract.ENV_METRICS: "none",
        contract.ENV_DRAIN_SECONDS: "0",
        **needed,
    }
    return subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the command, which ends it
    )


def _address(log: Path, pause: Callable[[float], None]) -> str:
    """The URL of a server, once it is ready: only then it logs the port, which the kernel gave it."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if found := _READY.search(log.read_text(encoding="utf-8", errors="replace")):
            return f"http://{found[1]}"
        pause(0.1)
    raise ModelworksError(f"the server is not ready after {_READY_SECONDS} s")


def _first_answer(model: str, url: str, pause: Callable[[float], None]) -> Answer:
    import httpx

    with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
        row, prediction = EndpointClient(model, client).first_answer(within=_READY_SECONDS, pause=pause)
    return Answer(url, row, prediction, time.monotonic())


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
