"""The sending side of a connection of HTTP/2: answers wait for the windows of the client, and for it to read."""

from __future__ import annotations

import asyncio
from typing import Any

from modelworks.runtime.server.http import clock
from modelworks.runtime.server.http2_frames import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    HEADERS,
    MAX_FRAME,
    MOST_WINDOW,
    PROTOCOL_ERROR,
    Http2Error,
    StreamError,
    frame,
)
from modelworks.runtime.server.http2_streams import IDLE_OF_DATA, Stream

SMALL = 256
"""Bytes of data: a frame with less that does not end a message is one that no call needs."""


class Sender(asyncio.Protocol):
    """Sends the answers of a connection, which is also its receiving side."""

    __slots__ = (
        "_blocked",
        "_gone",
        "_initial",
        "_transport",
        "idle",
        "opening",
        "streams",
        "stuck_since",
        "unsent",
        "window",
    )

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._gone = False
        """Whether all is over."""
        self.streams: dict[int, Stream] = {}
        """Calls that are not over."""
        self.window = self._initial = 0xFFFF
        """Bytes that the client takes, of all calls and at first of each."""
        self._blocked: dict[Stream, None] = {}
        """Calls whose answers the client does not take yet."""
        self.unsent = 0
        """Bytes of answers that wait."""
        self.idle = 0
        """Frames that are no part of calls, in this second."""
        self.opening = b""
        """The first bytes of the next headers."""
        self.stuck_since = 0.0

    # -- Done by the connection ------------------------------------------------------------------------------
    def finish(self, stream: Stream) -> None:
        """All of an answer is written."""
        raise NotImplementedError

    def reset(self, number: int, code: int) -> None:
        """End a stream; what is on its way of it is dropped."""
        raise NotImplementedError

    def has_room(self) -> bool:
        """Count the bytes that are here; whether they are within the budget."""
        raise NotImplementedError

    # -- Answers -----------------------------------------------------------------------------------------------------
    def write(self, data: Any) -> None:
        """Send frames."""
        if not self._gone:
            self._transport.write(data)

    def push(self, stream: Stream) -> None:
        """Send the part of an answer that the client takes."""
        waiting, sent = stream.waiting, False
        while waiting and not self.stuck_since:
            size = min(len(waiting), stream.window, self.window, MAX_FRAME)
            if size <= 0:
                break
            stream.window -= size
            self.window -= size
            self.unsent -= size
            self.write(frame(DATA, 0, stream.id, bytes(waiting[:size])))
            del waiting[:size]
            if size >= SMALL or not waiting:  # a window of few bytes is one that no client needs
                self.idle -= IDLE_OF_DATA
            sent = True
        self._blocked.pop(stream, None)
        if waiting:
            if sent or stream.stuck_since == 0.0:
                stream.stuck_since = clock()
            self._blocked[stream] = None  # behind the others
            if not self.has_room():
                self.reset(stream.id, ENHANCE_YOUR_CALM)
        elif stream.trailers is not None:
            kind, flags = (HEADERS, END_HEADERS | END_STREAM) if stream.trailers else (DATA, END_STREAM)
            self.write(frame(kind, flags, stream.id, stream.trailers))
            self.finish(stream)

    def _push_all(self) -> None:
        for stream in list(self._blocked):
            if self.window <= 0 or self.stuck_since:
                return
            if stream.window > 0 and not stream.ended:
                self.push(stream)

    def break_off(self, stream: Stream) -> None:
        """End an answer in its middle."""
        if not stream.ended:
            self.reset(stream.id, CANCEL)

    # -- Windows -----------------------------------------------------------------------------------------------------
    def _widen(self, more: int) -> None:
        """The client takes so many bytes more of all calls."""
        self.window += more
        if not more or self.window > MOST_WINDOW:
            raise Http2Error(FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR, "the window of the connection")
        self._push_all()

    def _widen_stream(self, stream: Stream | None, more: int) -> None:
        """The client takes so many bytes more of a call, which may be over."""
        if not more:
            raise StreamError(PROTOCOL_ERROR)
        if stream is not None:
            stream.window += more
            if stream.window > MOST_WINDOW:
                raise StreamError(FLOW_CONTROL_ERROR)
            if stream in self._blocked:
                self.push(stream)

    def _begin_with(self, window: int) -> None:
        """The client takes so many bytes of each call at first, and of those that have begun accordingly."""
        if window > MOST_WINDOW:
            raise Http2Error(FLOW_CONTROL_ERROR, "a window that is too large")
        change, self._initial = window - self._initial, window
        for stream in self.streams.values():
            stream.window += change
            if stream.window > MOST_WINDOW:
                raise Http2Error(FLOW_CONTROL_ERROR, "a window that grows too large")
