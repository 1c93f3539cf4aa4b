"""The server's companion process, the publisher: started, watched, and started again when it dies.

Alarms and prediction log depend on it. Its state is in files of the scratch folder: the next publisher continues from
them, and the server reports them while there is none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from modelworks.errors import ModelworksError
from modelworks.runtime.server.logs import say

COUNTERS = "counters"
"""Name of the file of `metrics.Counters` in the scratch folder."""
SPOOL = "spool"
"""Name of the folder of the prediction log in the scratch folder."""
_STATE = "publisher.json"
_FIRST_SECONDS = 1.0
"""How long it stays dead the first time; then twice as long each time."""
_LONGEST_SECONDS = 60.0
_STEADY_SECONDS = 60.0
"""A publisher that lived so long is well: its next death is a first one."""
_END_SECONDS = 12.0
"""How long it may publish what is left after the server."""


class Begin(msgspec.Struct, frozen=True):
    """The server's one message: the bundle is verified and lies here."""

    bento: str


class State(msgspec.Struct):
    """The publisher's report to the server, and to its own next life."""

    cloudwatch_up: bool = True
    prediction_log_up: bool = True
    requests: float = 0
    """Requests whose metrics CloudWatch has."""
    datapoints_lost: dict[str, int] = {}
    rows_lost: dict[str, int] = {}


def read_state(scratch: Path) -> State:
    """The last report; the first one where there is none yet."""
    try:
        return msgspec.json.decode((scratch / _STATE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return State()


def state_path(scratch: Path) -> Path:
    """Where the report is."""
    return scratch / _STATE


class Companion:
    """The publisher of one server. It begins to fetch the bundle at once.

    Args:
        scratch: Where both leave their files.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._bento: Path | None = None
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="companion", daemon=True)
        self.restarts = 0
        read, write = os.pipe()
        self._process = self._start(write)
        os.close(write)
        self._fetched = os.fdopen(read, "rb")

    @property
    def up(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    def state(self) -> State:
        """Its last report."""
        return read_state(self._scratch)

    def archive(self) -> Path:
        """Where the fetched bundle is.

        Raises:
            ModelworksError: It cannot be fetched.
        """
        with self._fetched as answers:
            text = answers.readline()
        if not text:
            code = self._process.wait()
            raise ModelworksError(f"the process that fetches the bundle exited with code {code}; see the log above")
        answer = msgspec.json.decode(text, type=dict[str, str])
        if "error" in answer:
            raise ModelworksError(answer["error"], fix=answer["fix"])
        return Path(answer["archive"])

    def begin(self, bento: Path) -> None:
        """Let it publish, from now on and whatever happens to it.

        Args:
            bento: Folder of the unpacked, verified bundle.
        """
        self._bento = bento
        _tell(self._process.stdin, bento)
        self._thread.start()

    def close(self) -> None:
        """Let it publish what is left, for some seconds, and end. If it is dead, it lives once more for that."""
        with self._lock:
            self._ending.set()
            _hang_up(self._process.stdin)
        if self._bento is None:
            self.kill()  # it has nothing to publish, and may be waiting for S3
        else:
            self._thread.join(_END_SECONDS)
            self.kill()
            self._thread.join()
        self._process.wait()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    # -- Within --------------------------------------------------------------------------------------------------
    def _start(self, *answer: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "modelworks.runtime.publisher", str(self._scratch), *map(str, answer)],
            stdin=subprocess.PIPE,
            bufsize=0,  # what a process that died has not read is not written once more when the pipe is closed
            pass_fds=answer,
            # A signal to all of us must not end it before the server has; its pipe says when.
            start_new_session=True,
        )

    def _watch(self) -> None:
        pause = _FIRST_SECONDS
        while True:
            began = time.monotonic()
            code = self._process.wait()
            if self._ending.is_set():
                return
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = _FIRST_SECONDS
            say("error", "the publisher ended; it is started again", exit_code=code, seconds=pause)
            # Shorter if the server ends meanwhile: what is left is published by one more life.
            self._ending.wait(pause)
            self._restart()
            pause = min(2 * pause, _LONGEST_SECONDS)

    def _restart(self) -> None:
        with self._lock:
            _hang_up(self._process.stdin)
            try:
                self._process = self._start()
            except OSError as error:
                say("error", "the publisher cannot be started; it is tried again", error=str(error))
                return
            self.restarts += 1
            if self._bento is not None:
                _tell(self._process.stdin, self._bento)
            if self._ending.is_set():
                _hang_up(self._process.stdin)


def _tell(stdin: IO[bytes] | None, bento: Path) -> None:
    if stdin is not None:
        with suppress(BrokenPipeError):  # it died meanwhile, and its next life is told again
            stdin.write(msgspec.json.encode(Begin(bento=str(bento))) + b"\n")


def _hang_up(stdin: IO[bytes] | None) -> None:
    if stdin is not None:
        with suppress(BrokenPipeError):
            stdin.close()
