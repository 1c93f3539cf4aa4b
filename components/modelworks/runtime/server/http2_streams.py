"""Calls over HTTP/2: their state, how they are answered, and the door that answers them."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol

import msgspec

from modelworks.runtime.server.http2_fields import Fields
from modelworks.runtime.server.http2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, MAX_FRAME, frame, frame_head

STREAM_WINDOW, CONNECTION_WINDOW = 256 << 10, 1 << 20
"""Bytes of one message, and of all of a connection, that may be on their way without our word."""
IDLE_OF_DATA = 2
"""Frames that are no part of a call, such as pings and larger windows, that may follow each frame of an answer."""


class Head(NamedTuple):
    """The headers of a call."""

    meaning: Any
    """Their content, as the door reads it; None if they are not well-formed."""
    length: int | None = None
    """Announced bytes of the body."""


class Door(Protocol):
    """Answers calls."""

    def meaning(self, fields: Fields) -> Any:
        """The content of the headers of a call, read once for all calls with the same."""

    def begin(self, stream: Stream) -> None:
        """The headers of a call are in; it may be answered already."""

    def grew(self, stream: Stream) -> None:
        """More of its body is in."""

    def complete(self, stream: Stream) -> None:
        """All of it is in, and is to be answered."""

    def late(self, stream: Stream, seconds: float) -> None:
        """It was not complete after so many seconds, and is to be answered."""

    def crowded(self, stream: Stream) -> None:
        """There is no room for its body, and it is to be answered."""

    def left(self, stream: Stream) -> None:
        """The client gave it up, or ended the connection."""


class Carrier(Protocol):
    """The connection of a call."""

    window: int
    """Bytes that the client takes, of all calls."""
    idle: int
    """Frames in this second that are no part of calls."""
    unsent: int
    """Bytes of answers that wait."""
    opening: bytes
    """The first bytes of the next headers."""
    stuck_since: float
    """When the client last took something, if it takes nothing now."""

    def makes_room(self) -> bool:
        """Whether there is room for the latest call of all connections."""

    def write(self, data: bytes) -> None:
        """Send frames."""

    def push(self, stream: Stream) -> None:
        """Send the part of an answer that the client takes."""

    def finish(self, stream: Stream) -> None:
        """All of an answer is written."""

    def break_off(self, stream: Stream) -> None:
        """End an answer in its middle."""

    def has_room(self) -> bool:
        """Count the bytes that are here; whether they are within the budget."""


class Stream(msgspec.Struct, eq=False):
    """One call."""

    connection: Carrier
    id: int
    meaning: Any
    length: int | None
    window: int
    """Bytes that the client takes."""
    began: float
    body: Any = b""
    granted: int = STREAM_WINDOW
    """Bytes that it may send."""
    complete: bool = False
    """Whether all of the request is in."""
    answered: bool = False
    """Whether the headers of the answer are written, but not all of it."""
    ended: bool = False
    """Whether all of the answer is written, or none is any more."""
    waiting: Any = b""
    """Data to send once the client takes it."""
    trailers: bytes | None = None
    """The end of the answer, after that data; None if more data may follow."""
    timer: asyncio.TimerHandle | None = None
    """Of a deadline."""
    stuck_since: float = 0.0
    """When the client last took a part of what waits."""
    stays: bool = False
    """Whether its answer has no end of its own."""

    def answer(self, headers: bytes, data: bytes, trailers: bytes) -> None:
        """Send all of an answer."""
        connection = self.connection
        size = len(data)
        headers = self._opened(headers)
        if size > self.window or size > connection.window or size > MAX_FRAME or connection.stuck_since:
            self._begin(headers)
            self.send(b"", data)
            self.end(trailers)
            return
        self.window -= size
        connection.window -= size
        connection.idle -= IDLE_OF_DATA
        number = self.id
        connection.write(
            b"%b%b%b%b%b%b"
            % (
                frame_head.pack(len(headers) >> 8, len(headers) & 0xFF, HEADERS, END_HEADERS, number),
                headers,
                frame_head.pack(size >> 8, size & 0xFF, DATA, 0, number),
                data,
                frame_head.pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, END_HEADERS | END_STREAM, number),
                trailers,
            )
        )
        connection.finish(self)

    def refuse(self, headers: bytes) -> None:
        """Send an answer of headers alone; what has begun is broken off."""
        if self.answered:
            self.connection.break_off(self)
        elif not self.ended:
            self.connection.write(frame(HEADERS, END_HEADERS | END_STREAM, self.id, self._opened(headers)))
            self.connection.finish(self)

    def send(self, headers: bytes, data: bytes) -> None:
        """Send a part of an answer; `headers` come before the first one."""
        if self.ended:
            return
        if headers:
            self._begin(self._opened(headers))
        self.waiting = self.waiting or bytearray()
        self.waiting += data
        self.connection.unsent += len(data)
        self.connection.push(self)

    def end(self, trailers: bytes) -> None:
        """End an answer after what was sent."""
        if not self.ended:
            self.trailers = trailers
            self.connection.push(self)

    def _begin(self, headers: bytes) -> None:
        self.answered = True
        self.connection.write(frame(HEADERS, END_HEADERS, self.id, headers))

    def _opened(self, headers: bytes) -> bytes:
        """The headers of an answer, after what its connection has to send before headers."""
        if self.connection.opening:
            headers, self.connection.opening = self.connection.opening + headers, b""
        return headers
