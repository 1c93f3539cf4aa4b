"""What the API server asks of a node: the logs of its containers, over mutually authenticated TLS on loopback."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from modelworks.laptop.agent.node import Node
    from modelworks.laptop.agent.pod import Pod

log = logging.getLogger(__name__)

CLIENT = "kube-apiserver-kubelet-client"
"""The one user that may read logs here; it has checked already what the person behind it may."""
_CHUNK = 65536
_FOLLOW_SECONDS = 0.25


async def serve(node: Node, pki: Path) -> None:
    """Answer until cancelled. Without keys or a port there are no logs through the API server, which the log says."""
    if not node.port or not (pki / "agent.crt").exists():
        log.warning("no port or certificate: logs cannot be read through the API server, only in %s", node.logs)
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
        return await _say(writer, "403 Forbidden", f"only {CLIENT} may ask")
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
    path = node.log_file(pod.pod, container, run.number)
    follow = query.get("follow") == "true"

    def alive() -> bool:
        now = pod.view.of(container).run
        return not pod.gone and now is not None and now.number == run.number and now.running

    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    left = int(query["limitBytes"]) if "limitBytes" in query else None
    async for chunk in read(path, tail=int(query["tailLines"]) if "tailLines" in query else None):
        part = chunk if left is None else chunk[:left]
        await _send(writer, part)
        left = None if left is None else left - len(part)
    position = path.stat().st_size if path.exists() else 0
    while follow and (left is None or left > 0):
        lives = alive()
        size = path.stat().st_size
        if size < position:  # rotated: what came after the cut is told from its beginning
            position = max(0, size - _CHUNK)
        with path.open("rb") as file:
            file.seek(position)
            while chunk := file.read(_CHUNK):
                position += len(chunk)
                await _send(writer, chunk)
        if not lives:
            break
        await asyncio.sleep(_FOLLOW_SECONDS)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return None


async def read(path: Path, tail: int | None) -> AsyncIterator[bytes]:
    """A log, or its last `tail` lines, in pieces."""
    if not path.exists():  # noqa: ASYNC240 - a local file, read in pieces
        return
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0 if tail is None else _start_of_tail(file.fileno(), end, tail))
        while (left := end - file.tell()) > 0 and (chunk := file.read(min(_CHUNK, left))):
            yield chunk


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
