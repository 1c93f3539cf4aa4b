"""The API of a node for the API server: the logs of its containers, over mutually authenticated TLS on loopback."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from modelworks.laptop.agent.logs import Times
from modelworks.laptop.agent.node import Node
from modelworks.laptop.agent.pod import Pod
from modelworks.laptop.agent.status import timestamp

log = logging.getLogger(__name__)

CLIENT = "kube-apiserver-kubelet-client"
"""The one user that may read logs here; it has checked already what the person behind it may."""
_CHUNK = 65536
_FOLLOW_SECONDS = 0.25


async def serve(node: Node, pki: Path) -> None:
    """Answer until cancelled. Without keys or a port there are no logs through the API server; the agent logs that."""
    if not node.port or not (pki / "agent.crt").exists():
        log.warning("no port or certificate: logs cannot be read through the API server, only in %s", node.host.logs)
        return
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(pki / "agent.crt", pki / "agent.key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(node, reader, writer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            log.debug("a request for logs ended: %s", error)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", node.port, ssl=tls)
    async with server:
        await server.serve_forever()


async def _answer(node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode("latin-1")
    method, target, _ = head.split("\r\n", 1)[0].split(" ")
    subject = dict(part[0] for part in writer.get_extra_info("peercert")["subject"])
    if subject.get("commonName") != CLIENT:
        return await _say(writer, "403 Forbidden", f"only {CLIENT} may call this API")
    url = urlsplit(target)
    words = [unquote(word) for word in url.path.strip("/").split("/")]
    if method != "GET" or words[0] != "containerLogs" or len(words) != 4:
        text = f"the laptop's node agent serves logs only, not {words[0]}"
        return await _say(writer, "501 Not Implemented", text)
    query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
    _, namespace, name, container = words
    pod = next((p for p in node.known.values() if _is(p, namespace, name)), None)
    if pod is None:
        return await _say(writer, "404 Not Found", f"pod {namespace}/{name} is not on this node")
    one = pod.view.of(container)
    run = one.last if query.get("previous") == "true" else one.run
    if run is None:
        which = "previous terminated container" if query.get("previous") == "true" else "container"
        text = f'{which} "{container}" in pod "{name}" has not started'
        return await _say(writer, "400 Bad Request", text)
    path = node.host.log_file(pod.pod, container, run.number)
    wanted = Wanted.of(query)
    left = wanted.limit

    def alive() -> bool:
        now = pod.view.of(container).run
        return not pod.gone and now is not None and now.number == run.number and now.running

    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    async for chunk in wanted.lines(path, alive):
        part = chunk if left is None else chunk[:left]
        await _send(writer, part)
        left = None if left is None else left - len(part)
        if left == 0:
            break
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return None


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


def _is(pod: Pod, namespace: str, name: str) -> bool:
    meta = pod.pod["metadata"]
    return bool(meta["namespace"] == namespace and meta["name"] == name)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()


async def _say(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
