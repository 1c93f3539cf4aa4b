"""The logs of containers, as the API server requests them from a kubelet."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from modelworks.laptop.agent.logs import Times
from modelworks.laptop.agent.messages import Refusal, Request
from modelworks.laptop.agent.pod import Pod
from modelworks.laptop.agent.status import timestamp

_CHUNK = 65536
_FOLLOW_SECONDS = 0.25


async def answer(pod: Pod, container: str, request: Request, writer: asyncio.StreamWriter) -> None:
    """Send the log of one run of a container.

    Raises:
        Refusal: It has not run.
        ValueError: A number or a time of the request is none.
    """
    previous = request.is_true("previous")
    one = pod.view.of(container)
    run = one.last if previous else one.run
    if run is None:
        which = "previous terminated container" if previous else "container"
        name = pod.pod["metadata"]["name"]
        raise Refusal("400 Bad Request", f'{which} "{container}" in pod "{name}" has not started')
    wanted = Wanted.of({key: values[0] for key, values in request.query.items()})
    left = wanted.limit
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    path = pod.host.log_file(pod.pod, container, run.number)
    async for chunk in wanted.lines(path, lambda: pod.runs(container, run.number)):
        part = chunk if left is None else chunk[:left]
        await _send(writer, part)
        left = None if left is None else left - len(part)
        if left == 0:
            break
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()


@dataclass(frozen=True)
class Wanted:
    """Options of a log request, as `kubectl logs` names it."""

    tail: int | None = None
    since: float | None = None
    """Unix time; lines that were written before it are left out."""
    timestamps: bool = False
    follow: bool = False
    limit: int | None = None
    """Bytes in all."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        """The request of the API server to a kubelet.

        Raises:
            ValueError: A number or a time is none.
        """
        since = None
        if "sinceSeconds" in query:
            since = time.time() - float(query["sinceSeconds"])
        elif "sinceTime" in query:
            since = datetime.fromisoformat(query["sinceTime"]).timestamp()
        return cls(
            tail=int(query["tailLines"]) if "tailLines" in query else None,
            since=since,
            timestamps=query.get("timestamps") == "true",
            follow=query.get("follow") == "true",
            limit=int(query["limitBytes"]) if "limitBytes" in query else None,
        )

    async def lines(self, path: Path, alive: Callable[[], bool]) -> AsyncIterator[bytes]:
        """The log in pieces; with `follow`, also new lines while `alive` is true."""
        if not path.exists():  # noqa: ASYNC240 - a local file, read in pieces
            return
        timed = self.timestamps or self.since is not None
        times, begins = Times.of(path) if timed else Times([]), True
        with path.open("rb") as file:
            position = self._start(file, times)
        while True:
            lives = self.follow and alive()
            size = path.stat().st_size  # noqa: ASYNC240 - likewise
            if size < position:  # rotated: what came after the cut is told from its beginning
                position, times = max(0, size - _CHUNK), Times.of(path)
            with path.open("rb") as file:
                file.seek(position)
                while chunk := file.read(min(_CHUNK, size - position)):
                    yield self._stamped(chunk, position, times, begins=begins) if self.timestamps else chunk
                    position += len(chunk)
                    begins = chunk.endswith(b"\n")
            if not lives:
                return
            await asyncio.sleep(_FOLLOW_SECONDS)

    def _start(self, file: BinaryIO, times: Times) -> int:
        end = file.seek(0, os.SEEK_END)
        start = 0 if self.tail is None else _start_of_tail(file.fileno(), end, self.tail)
        if self.since is not None and (told := times.since(self.since)) > start:
            # A line that was begun before is not told.
            file.seek(told - 1)
            file.readline()
            start = file.tell()
        return start

    def _stamped(self, chunk: bytes, position: int, times: Times, *, begins: bool) -> bytes:
        """The same with its time before each line; `begins` is true if `chunk` begins one."""
        stamped = bytearray()
        for line in chunk.splitlines(keepends=True):
            if begins:
                stamped += f"{timestamp(times.at(position) or time.time(), 'milliseconds')} ".encode()
            stamped += line
            position += len(line)
            begins = line.endswith(b"\n")
        return bytes(stamped)


def _start_of_tail(descriptor: int, end: int, lines: int) -> int:
    if lines <= 0:
        return end
    # The newline that ends the file ends its last line, and begins none.
    position, missing = end, lines + (1 if end and os.pread(descriptor, 1, end - 1) == b"\n" else 0)
    while position > 0:
        begin = max(0, position - _CHUNK)
        block = os.pread(descriptor, position - begin, begin)
        while (at := block.rfind(b"\n")) >= 0:
            missing -= 1
            if missing == 0:
                return begin + at + 1
            block = block[:at]
        position = begin
    return 0
