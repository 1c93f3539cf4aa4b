"""One command at a time in a laptop cloud, which puts everything in order whatever ends it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator

from modelworks.errors import ModelworksError
from modelworks.laptop.state_dir import StateDir


@contextlib.contextmanager
def locked(place: StateDir, *, claim: bool = False) -> Iterator[bool]:
    """Hold the place for one command at a time; yields whether there was none before.

    With `claim` the folder becomes a laptop cloud's, or the call fails.

    The folder itself is locked: no lock file is left over, and whoever waited for a place that was wiped meanwhile sees
    that the name means another folder now.
    """
    told = False
    while True:
        try:
            place.root.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise ModelworksError(
                f"cannot make the folder {place.root}: {error.strerror}",
                fix="Free space or fix its permissions, or set MODELWORKS_HOME to a folder that can be written.",
            ) from error
        try:
            handle = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelworksError(f"cannot open the folder {place.root}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    print(f"waiting for another command that works on {place.root}", file=sys.stderr)
                    told = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                if os.stat(place.root).st_ino != os.fstat(handle).st_ino:  # noqa: PTH116 - compared with a descriptor
                    continue
            except FileNotFoundError:
                continue
            fresh = place.bare
            if claim:
                place.claim()
            yield fresh
            return
        finally:
            os.close(handle)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end this command as Ctrl-C does: with everything put in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put signals off while things are put in order: a second Ctrl-C must not leave half of them."""
    wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
