"""HTTP requests to the node, and short answers to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_HEAD_SECONDS = 30.0


class Refusal(Exception):  # noqa: N818 - an answer, and nothing that went wrong here
    """A request that is answered with an error.

    Args:
        status: Code and phrase, such as `404 Not Found`.
        text: The reason, for whoever called.
    """

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    path: tuple[str, ...]
    """The parts of its path, decoded."""
    query: Mapping[str, Sequence[str]]
    headers: Mapping[str, str]
    """By lower-case name; values of one name are joined with commas."""

    @classmethod
    async def read(cls, reader: asyncio.StreamReader) -> Request:
        """The next request of a connection.

        Raises:
            ValueError: It is none.
            OSError, EOFError, asyncio.LimitOverrunError: It does not arrive whole, or not in time.
        """
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_SECONDS)).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            before = headers.get(name.lower())
            headers[name.lower()] = value.strip() if before is None else f"{before}, {value.strip()}"
        url = urlsplit(target)
        path = tuple(unquote(part) for part in url.path.strip("/").split("/"))
        return cls(method, path, parse_qs(url.query, keep_blank_values=True), headers)

    def first(self, name: str) -> str:
        """The first value of a parameter, empty if there is none."""
        return next(iter(self.query.get(name, [])), "")

    def is_true(self, name: str) -> bool:
        """Whether a parameter is set."""
        return self.first(name) in ("true", "1")


async def say(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    """Answer with a line of text."""
    await _whole(writer, status, "text/plain", f"{text}\n".encode())


async def say_json(writer: asyncio.StreamWriter, status: str, body: Mapping[str, Any]) -> None:
    """Answer with an object."""
    await _whole(writer, status, "application/json", json.dumps(body).encode())


async def _whole(writer: asyncio.StreamWriter, status: str, kind: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
