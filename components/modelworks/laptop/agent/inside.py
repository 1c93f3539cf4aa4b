"""Commands that somebody runs where a container runs, with their streams or a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelworks.laptop.agent.sandbox import with_terminal

_CHUNK = 32768


class Stream(Protocol):
    """One direction of what a command reads and writes."""

    async def read(self) -> bytes:
        """The next bytes, empty at the end."""

    async def write(self, data: bytes) -> None:
        """Send bytes."""

    async def discard(self) -> None:
        """Read nothing more."""


@dataclass(frozen=True)
class Prepared:
    """A command as this machine starts it."""

    argv: Sequence[str]
    variables: Mapping[str, str]


Sizes = Callable[[], Awaitable[bytes]]
"""Reads the sizes that a terminal gets: JSON objects with `Width` and `Height`, one a line, nothing at the end."""


async def run(command: Prepared, streams: Mapping[str, Stream], sizes: Sizes | None) -> int:
    """Run a command to its end, with `stdin`, `stdout` and `stderr` as far as there are such streams.

    When cancelled, it ends the command and what that has started.

    Args:
        command: From `Container.inside`.
        streams: By name.
        sizes: Those of the terminal to run it on; None for none.

    Returns:
        Its exit code, as a shell gives it.

    Raises:
        OSError: It cannot be started, or a stream broke.
    """
    code = await (_on_pipes(command, streams) if sizes is None else _on_terminal(command, streams, sizes))
    return code if code >= 0 else 128 - code


async def _on_pipes(command: Prepared, streams: Mapping[str, Stream]) -> int:
    def pipe(name: str) -> int:
        return asyncio.subprocess.PIPE if name in streams else asyncio.subprocess.DEVNULL

    process = await asyncio.create_subprocess_exec(
        *command.argv,
        stdin=pipe("stdin"),
        stdout=pipe("stdout"),
        stderr=pipe("stderr"),
        env=dict(command.variables),
        start_new_session=True,
    )
    outputs = [("stdout", process.stdout), ("stderr", process.stderr)]
    work = [_pass_on(source, streams[name]) for name, source in outputs if source is not None]
    beside = [_feed(streams["stdin"], process.stdin)] if process.stdin is not None else []
    with _ended(process):
        async with _beside(*beside):
            await asyncio.gather(*work)
            return await process.wait()


async def _pass_on(source: asyncio.StreamReader, stream: Stream) -> None:
    while data := await source.read(_CHUNK):
        await stream.write(data)


async def _feed(stream: Stream, into: asyncio.StreamWriter) -> None:
    try:
        while data := await stream.read():
            into.write(data)
            await into.drain()
    except OSError:  # it has closed its standard input, or ended
        await stream.discard()
    into.close()


async def _on_terminal(command: Prepared, streams: Mapping[str, Stream], sizes: Sizes) -> int:
    ours, theirs = pty.openpty()
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *with_terminal(command.argv), stdin=theirs, stdout=theirs, stderr=theirs,
                env={**command.variables, "TERM": "xterm"},
            )  # fmt: skip
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        typed = [_type(streams["stdin"], ours)] if "stdin" in streams else []
        with _ended(process):
            async with _beside(_resize(ours, sizes), *typed):
                while data := await _shown(ours):
                    if "stdout" in streams:
                        await streams["stdout"].write(data)
                return await process.wait()
    finally:
        os.close(ours)


async def _shown(terminal: int) -> bytes:
    """The next bytes that were written to a terminal; empty when no process has it open any more."""
    loop = asyncio.get_running_loop()
    while True:
        await _ready(loop.add_reader, loop.remove_reader, terminal)
        try:
            return os.read(terminal, _CHUNK)
        except BlockingIOError:
            continue
        except OSError:
            return b""


async def _type(stream: Stream, terminal: int) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):  # the terminal is gone, which its reader sees too
        while data := await stream.read():
            while data:
                await _ready(loop.add_writer, loop.remove_writer, terminal)
                with contextlib.suppress(BlockingIOError):
                    data = data[os.write(terminal, data) :]
    await stream.discard()


async def _resize(terminal: int, sizes: Sizes) -> None:
    rest = b""
    while data := await sizes():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, struct.error):  # no size: the last one holds
                size = json.loads(line)
                fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))


async def _ready(add: Callable[..., None], remove: Callable[[int], object], descriptor: int) -> None:
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


@contextlib.asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that is cancelled at the end, and has ended then: what it uses may be closed."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _ended(process: asyncio.subprocess.Process) -> Iterator[None]:
    """Ends a process that still runs, with its group."""
    try:
        yield
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
