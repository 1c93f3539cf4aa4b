"""Running one program so that nothing of it outlives the command: not on an error, not on Ctrl-C, not on a kill."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from fcntl import ioctl
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GRACE: Final = 60.0
"""Seconds that operations in flight get after the first Ctrl-C. The engine records their results in that time."""

LAST_GRACE: Final = 5.0
"""Seconds that the engine gets after the second Ctrl-C, or after a SIGTERM's grace, before everything is killed.

So long has a reader of its output too, once somebody asked for the end.
"""


class Interrupted(Exception):  # noqa: N818 (the user's wish, not an error)
    """The user pressed Ctrl-C, or the command received SIGTERM; the program has ended and left nothing running."""


def run(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path | None, output: Path | None = None) -> int:
    """Run `argv` to its end and return its exit code.

    It gets a session of its own, so that all of its descendants can be found, and the terminal as it is. Its output is
    copied to `log` as well, except on a terminal, where a program draws instead of writing.

    Args:
        argv: The program and its arguments.
        cwd: Its working directory.
        env: Its whole environment.
        log: Where its output is kept; None where it keeps a log itself and may draw on the terminal.
        output: Takes what it writes to stdout, which is not shown then; stderr goes to the log only.

    Raises:
        Interrupted: By SIGINT or SIGTERM to this process.
    """
    piped = log is not None
    with ExitStack() as files, _signals() as asked:
        if log is not None:
            _private(log).close()
        taken = files.enter_context(_private(output)) if output is not None else None
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=None if not piped else subprocess.DEVNULL,
            stdout=taken or (subprocess.PIPE if piped else None),
            stderr=None if not piped else subprocess.STDOUT if taken is None else subprocess.PIPE,
            start_new_session=True,
        )
        copier, ended = None, threading.Event()
        stream = process.stdout or process.stderr
        if log is not None and stream is not None:
            copier = threading.Thread(target=_copy, args=(stream, ended, log, taken is not None), daemon=True)
            copier.start()
        try:
            _wait(process, asked)
        finally:
            end_session(process.pid)
            process.wait()
            ended.set()
            if copier is not None:
                _finish(copier, asked)
    if asked:
        raise Interrupted
    return process.returncode


def _wait(process: subprocess.Popen[bytes], asked: list[int]) -> None:
    forwarded, deadline = 0, 0.0
    while process.poll() is None:
        if len(asked) > forwarded:
            forwarded = len(asked)
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + (GRACE if forwarded == 1 else LAST_GRACE)
        if deadline and time.monotonic() > deadline:
            return  # what is left is killed by the caller
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def _finish(copier: threading.Thread, asked: list[int]) -> None:
    """Wait until all output is copied, however slowly it is read, unless somebody asks for the end."""
    while copier.is_alive() and not asked:
        copier.join(0.05)
    copier.join(LAST_GRACE)


def end_session(session: int) -> None:
    """Kill every process of the session `session`, at once."""
    for _ in range(20):  # a process may fork between the look and the kill
        members = list(_members(session))
        if not members:
            return
        for pid in members:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _members(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold anything; fields are counted from behind it.
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                yield int(entry.name)


def _private(path: Path) -> IO[bytes]:
    """A new file that only the user can read: programs print what they are given."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _copy(stream: IO[bytes], ended: threading.Event, log: Path, quiet: bool) -> None:
    with log.open("ab", buffering=0) as file:
        kept = True
        for piece in _written(stream.fileno(), ended):
            try:
                if kept:
                    file.write(piece)
            except OSError as error:  # the program must not wait for a reader that gave up
                kept = False
                print(f"the log {log} ends here: {error.strerror}", file=sys.stderr)
            if not quiet:
                with suppress(BrokenPipeError, ValueError):
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()


def _written(pipe: int, ended: threading.Event) -> Iterator[bytes]:
    """The output of a program until it has ended: who holds its pipe open after that is not waited for."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while not ended.is_set():
        if poll.poll(100):  # milliseconds
            if not (piece := os.read(pipe, 65536)):
                return
            yield piece
    left = int.from_bytes(ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
    while left:
        piece = os.read(pipe, min(left, 65536))
        left -= len(piece)
        yield piece


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM of this process while it runs another."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda got, _: asked.append(got))
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def followed(path: Path, heard: Callable[[str], None] | None) -> Iterator[None]:
    """Report the lines that are appended to a file, with a delay of half a second at most."""
    if heard is None:
        yield
        return
    ended = threading.Event()

    def follow() -> None:
        told = 0
        while True:
            last = ended.wait(0.5)  # looked at first: what is written before the end is told too
            with suppress(FileNotFoundError):
                lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
                for line in lines[told:]:
                    heard(line)
                told = len(lines)
            if last:
                return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
