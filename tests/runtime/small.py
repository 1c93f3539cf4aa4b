"""An `App` with the smallest model, in this process, behind a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Feature, Manifest
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.predictor import Cost
from modelworks.runtime.server import metrics
from modelworks.runtime.server.app import App, listener
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.engine import Engine
from modelworks.runtime.server.http import Listener
from modelworks.runtime.server.logs import Scribe
from waiting import PATIENCE

MANIFEST = Manifest(
    model="tiny",
    kind="regression",
    task="Something",
    features=(Feature(name="x", type="number"),),
    examples=({"x": 1},),
)
BODY = b'{"x": 1}'


class Model:
    """Answers the value 1 for any row."""

    cost = Cost(call=0.00003, row=0.000001)

    def predict(self, rows: list[Row]) -> Predictions:
        return Predictions([1.0] * len(rows), [0] * len(rows))


def build(folder: Path, model: Any = None, **changes: Any) -> App:
    """The app, open to everyone unless `changes` close it."""
    settings: dict[str, Any] = {"allow_anonymous": "token_file" not in changes, "access_log": 0.0, **changes}
    config = Config(bundle_uri="here", digest="sha256:" + "0" * 64, model="tiny", **settings)
    counters = metrics.Counters(metrics.Layout("regression", 0), folder / "worker-0")
    scribe = Scribe()
    return App(Engine(config, MANIFEST, model or Model(), counters, scribe), scribe, bento=folder)


def fill(app: App) -> None:
    """Let it have no room for any more request."""
    app.engine.queue.always = 0
    app.engine.queue.admits = lambda *_: False  # type: ignore[method-assign]


def logged(app: App) -> list[str]:
    """The messages of the log."""
    return [json.loads(text)["message"] for text in app.engine._scribe._lines]


@asynccontextmanager
async def listening(app: App, **limits: int) -> AsyncIterator[tuple[Listener, int]]:
    """Its listener, and its port on loopback."""
    front = listener(app, **limits)
    server = await asyncio.get_running_loop().create_server(front, "127.0.0.1", 0)
    try:
        yield front, server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and body of the next answer on a connection."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head[9:12]), head, await asyncio.wait_for(reader.readexactly(length), PATIENCE)


async def ask(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    """The first answer on a connection of its own."""
    async with connected(port) as (reader, writer):
        writer.write(request)
        return await answer(reader)


def post(*headers: bytes, body: bytes = BODY, path: bytes = b"/v1/predict") -> bytes:
    """A predict request."""
    lines = b"".join(b"%b\r\n" % header for header in headers)
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (path, lines, len(body), body)


def get(path: bytes, *headers: bytes) -> bytes:
    """A request for a page."""
    return b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (path, b"".join(b"%b\r\n" % header for header in headers))
