"""The receiving side of a connection of HTTP/2: bytes become frames, and frames of headers become blocks."""

from __future__ import annotations

from typing import Protocol

from modelworks.runtime.server.http import PREFACE, clock
from modelworks.runtime.server.http2_fields import MAX_HEADER_BYTES
from modelworks.runtime.server.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    HEADERS,
    MAX_FRAME,
    PADDED,
    PROTOCOL_ERROR,
    SETTINGS,
    Http2Error,
    StreamError,
    frame_head,
    unpadded,
)

TURN = 16
"""Calls that a connection may begin before others have their turn."""
_MAX_CONTINUATIONS = 8
_COSTS_A_CALL = 1 << 10
"""Bytes of headers that take about as long to unpack as a call takes."""


class Frames(Protocol):
    """Takes what a client sends."""

    def on_data(self, number: int, flags: int, data: bytes) -> None:
        """Data, with its padding."""

    def on_headers(self, number: int, flags: int, block: bytes) -> bool:
        """All headers of a call are in, or its trailers; returns whether they had to be unpacked."""

    def on_other(self, kind: int, number: int, flags: int, data: bytes) -> None:
        """Any other frame."""

    def on_stream_error(self, number: int, code: int) -> None:
        """A frame breaks its stream, and no other."""


class Reader:
    """Reads frames, and stops after some calls for others to have their turn.

    Args:
        frames: Takes them.
    """

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_stream",
        "_continuations",
        "_frames",
        "_missing",
        "_over",
        "_preface",
        "_rest",
        "_settled",
        "_since",
        "_turn",
        "waits",
    )

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._preface = PREFACE
        self._rest, self._missing = bytearray(), 0
        """The beginning of a frame, and the bytes that it takes until there is something to do."""
        self._settled = self._over = False
        """Whether the client's settings are in; whether nothing is read any more."""
        self._turn = TURN
        self.waits = False
        """Whether a call is here that has to wait for its turn."""
        self._block = bytearray()
        self._block_stream = self._block_flags = self._continuations = 0
        """Headers in more than one frame; no stream if there are none."""
        self._since = 0.0

    @property
    def held(self) -> int:
        """Bytes that are here and not taken yet."""
        return len(self._rest) + len(self._block)

    @property
    def in_headers_since(self) -> float:
        """When headers began that are not complete; 0 if there are none."""
        return self._since if self._block_stream else 0.0

    def end(self) -> None:
        """Read nothing any more."""
        self._over = True
        self._rest, self._block, self.waits = bytearray(), bytearray(), False

    def feed(self, data: bytes = b"") -> None:
        """Read what came until the turn is over; what is left is read the next time."""
        self._turn, self.waits = TURN, False
        if self._preface:
            data = self._after_preface(data)
        if self._rest:
            self._rest += data
            if len(self._rest) < self._missing:  # not copied for each piece of a large frame
                return
            data, self._rest = bytes(self._rest), bytearray()
        at, end, self._missing = 0, len(data), 9
        while end - at >= 9:
            high, low, kind, flags, number = frame_head.unpack_from(data, at)
            size, number = high << 8 | low, number & 0x7FFFFFFF
            if size > MAX_FRAME:
                raise Http2Error(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start, next_at = at + 9, at + 9 + size
            if next_at > end:
                self._missing = 9 + size
                break
            if kind == HEADERS and self._turn <= 0:
                self.waits, self._missing = True, 0
                break
            at = next_at
            try:
                self._take(kind, number, flags, data[start:at])
            except StreamError as error:
                self._frames.on_stream_error(number, error.args[0])
            if self._over:
                return
        if at < end:
            self._rest = bytearray(data[at:])

    def _after_preface(self, data: bytes) -> bytes:
        size = min(len(data), len(self._preface))
        if data[:size] != self._preface[:size]:
            raise Http2Error(PROTOCOL_ERROR, "this is no preface of HTTP/2")
        self._preface = self._preface[size:]
        return data[size:]

    def _take(self, kind: int, number: int, flags: int, data: bytes) -> None:
        if self._block_stream and (kind != CONTINUATION or number != self._block_stream):
            raise Http2Error(PROTOCOL_ERROR, "headers are not complete before another frame")
        if not self._settled:
            if kind != SETTINGS or flags & ACK:
                raise Http2Error(PROTOCOL_ERROR, "settings must come first")
            self._settled = True
        if kind == DATA:
            self._frames.on_data(number, flags, data)
        elif kind == HEADERS:
            self._take_headers(number, flags, data)
        elif kind == CONTINUATION:
            self._take_continuation(flags, data)
        else:
            self._frames.on_other(kind, number, flags, data)

    def _take_headers(self, number: int, flags: int, data: bytes) -> None:
        if not number:
            raise Http2Error(PROTOCOL_ERROR, "headers of no stream")
        if flags & PADDED:
            data = unpadded(data)
        if flags & HAS_PRIORITY:
            if len(data) < 5:
                raise Http2Error(FRAME_SIZE_ERROR, "headers end within their priority")
            data = data[5:]
        if flags & END_HEADERS:
            self._take_block(number, flags, data)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(data), number, flags
            self._continuations, self._since = 0, clock()

    def _take_continuation(self, flags: int, data: bytes) -> None:
        number = self._block_stream
        if not number:
            raise Http2Error(PROTOCOL_ERROR, "a continuation of nothing")
        self._continuations += 1
        self._block += data
        enough = self._continuations > _MAX_CONTINUATIONS or len(self._block) > MAX_HEADER_BYTES
        if enough or not (data or flags & END_HEADERS):
            raise Http2Error(ENHANCE_YOUR_CALM, "headers in too many frames or bytes")
        if flags & END_HEADERS:
            block, self._block, self._block_stream = bytes(self._block), bytearray(), 0
            self._take_block(number, self._block_flags, block)

    def _take_block(self, number: int, flags: int, block: bytes) -> None:
        self._turn -= 1
        if self._frames.on_headers(number, flags, block):
            self._turn -= len(block) // _COSTS_A_CALL
