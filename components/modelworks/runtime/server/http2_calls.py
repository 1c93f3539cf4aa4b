"""The calls of a connection of HTTP/2: how their requests come in, and what ends them."""

from __future__ import annotations

import asyncio
from collections import deque

from modelworks.runtime.server.budget import Share
from modelworks.runtime.server.http import clock
from modelworks.runtime.server.http2_fields import Fields, Unpacker, check_fields, check_request
from modelworks.runtime.server.http2_frames import (
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PADDED,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RESET,
    STREAM_CLOSED,
    WINDOW,
    Http2Error,
    StreamError,
    check_frame,
    frame,
    unpadded,
    word,
)
from modelworks.runtime.server.http2_reading import Reader
from modelworks.runtime.server.http2_sending import SMALL, Sender
from modelworks.runtime.server.http2_streams import CONNECTION_WINDOW, STREAM_WINDOW, Door, Head, Stream

MAX_STREAMS = 128
"""Most calls of one connection; more wait at the client. RFC 9113, section 6.5.2, recommends at least 100."""
_MOST_LEFT = 256
"""Calls of a connection that are not over, or that it left or broke in this second: twice what may be at once. Of so
many that we ended, data may still be on its way."""
_MOST_IDLE, _IDLE_OF_CALL = 1000, 4
"""Frames in a second that are no part of a call, such as pings; and those more that each call may have."""
FEW = 16
"""A connection with so many calls whose messages are missing is never the one that is closed for others."""
_CACHED, _CACHED_BYTES = 256, 2048
"""Headers that are kept, and how long one is at most."""


class Shared:
    """State that connections share.

    Args:
        door: Answers calls.
        share: Of the budget, for messages that are not complete, and for answers that are not read.
    """

    def __init__(self, door: Door, share: Share) -> None:
        self.door, self.share = door, share
        self.heads: dict[bytes, Head] = {}
        """Headers that were unpacked before."""
        self.open = 0
        """Calls that are not over."""
        self.heavy: set[Calls] = set()
        """Connections with more than a few calls whose messages are missing, or which had them."""

    def head(self, fields: Fields) -> Head:
        """The headers of a call."""
        try:
            return Head(self.door.meaning(fields), check_request(fields))
        except StreamError:
            return Head(None)

    def keep(self, block: bytes, head: Head) -> None:
        """Look these headers up the next time."""
        if len(block) <= _CACHED_BYTES:
            if len(self.heads) >= _CACHED:
                self.heads.clear()
            self.heads[block] = head


class Calls(Sender):
    """The calls of a connection."""

    __slots__ = (
        "_counted",
        "_fed",
        "_granted",
        "_growing",
        "_last",
        "_left",
        "_moved_at",
        "_reader",
        "_remembered",
        "_since",
        "_skipped",
        "_unfinished",
        "_unpacker",
        "shared",
    )

    def __init__(self, shared: Shared, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.shared = shared
        self._reader = Reader(self)
        self._unpacker = Unpacker()
        self._last = -1
        self._skipped: deque[range] = deque(maxlen=16)
        """Numbers that the client left out."""
        self._remembered: deque[int] = deque(maxlen=_MOST_LEFT)
        """Calls that ended before all of them was in."""
        self._granted = CONNECTION_WINDOW
        """Bytes that the client may send."""
        self._fed: set[Stream] = set()
        """Calls of which data has come since they were granted more."""
        self._unfinished = self._left = 0
        """Calls whose messages are missing, and those that the client left in this second."""
        self._growing = self._counted = 0
        """Bytes of messages that are not complete; and what the share has of this connection."""
        self._since = self._moved_at = clock()

    def on_other(self, kind: int, number: int, flags: int, data: bytes) -> None:
        """A frame that is of no call, or a window or the end of one."""
        raise NotImplementedError

    def fail(self, error: Http2Error) -> None:
        """End it because of what the client sent."""
        raise NotImplementedError

    def makes_room(self) -> bool:
        """Whether there is room for the latest call of all connections."""
        raise NotImplementedError

    # -- From the reader: see `http2_reading.Frames` ---------------------------------------------------------------
    def on_data(self, number: int, flags: int, data: bytes) -> None:
        """Data, with its padding."""
        size = len(data)
        self._granted -= size
        if self._granted < 0:
            raise Http2Error(FLOW_CONTROL_ERROR, "more data than was granted")
        if flags & PADDED:
            data = unpadded(data)
        if len(data) < SMALL and not flags & END_STREAM:
            self._note_idle()
        stream = self.streams.get(number)
        if stream is None or stream.complete:
            self._on_closed(number, stream)
            return
        stream.granted -= size
        if stream.granted < 0:
            raise StreamError(FLOW_CONTROL_ERROR)
        if data:
            self._grow(stream, data)
        if flags & END_STREAM:
            self._complete(stream)
            return
        if stream.length is not None and len(stream.body) > stream.length:
            raise StreamError(PROTOCOL_ERROR)
        self._fed.add(stream)
        self.shared.door.grew(stream)

    def _grow(self, stream: Stream, data: bytes) -> None:
        self._growing += len(data)
        if not stream.body:
            stream.body = data
            return
        if type(stream.body) is bytes:
            stream.body = bytearray(stream.body)
        stream.body += data

    def _grant(self) -> None:
        """Let the client send more, where less than half of a window is left; once a turn, so that it bounds one."""
        if self._granted < CONNECTION_WINDOW >> 1:
            self.write(frame(WINDOW, 0, 0, word.pack(CONNECTION_WINDOW - self._granted)))
            self._granted = CONNECTION_WINDOW
        if not self._fed:
            return
        for stream in self._fed:
            if not stream.ended and not stream.complete and stream.granted < STREAM_WINDOW >> 1:
                self.write(frame(WINDOW, 0, stream.id, word.pack(STREAM_WINDOW - stream.granted)))
                stream.granted = STREAM_WINDOW
        self._fed.clear()

    def on_headers(self, number: int, flags: int, block: bytes) -> bool:
        """All headers of a call are in, or its trailers; returns whether they had to be unpacked."""
        if not number & 1:
            raise Http2Error(PROTOCOL_ERROR, "the number of a client's stream is odd")
        if number <= self._last:
            self._on_trailers(number, flags, self._unpacker.unpack(block))
            return True
        if number != self._last + 2:
            self._skipped.append(range(self._last + 2, number, 2))
        self._last = number
        head = self.shared.heads.get(block) if self._unpacker.stateless else None
        known = head is not None
        if head is None:
            head = self.shared.head(self._unpacker.unpack(block))
            if self._unpacker.stateless:
                self.shared.keep(block, head)
        if head.meaning is None:
            raise StreamError(PROTOCOL_ERROR)
        if len(self.streams) >= MAX_STREAMS:
            raise StreamError(REFUSED_STREAM)
        self.idle -= _IDLE_OF_CALL
        stream = Stream(self, number, head.meaning, head.length, self._initial, self._moved_at)
        self.streams[number] = stream
        self.shared.open += 1
        self._unfinished += 1
        self._note_weight()
        if flags & END_STREAM:
            self._finish_request(stream)
        self.shared.door.begin(stream)
        if stream.complete and not stream.ended:
            self._complete(stream)
        return not known

    def _on_trailers(self, number: int, flags: int, fields: Fields) -> None:
        stream = self.streams.get(number)
        if stream is None or stream.complete:
            self._on_closed(number, stream)
            return
        if not flags & END_STREAM:
            raise StreamError(PROTOCOL_ERROR)
        check_fields(fields)
        self._complete(stream)

    def _on_closed(self, number: int, stream: Stream | None) -> None:
        """Refuse a frame of a stream whose request is over, or which never began."""
        if stream is not None:
            raise StreamError(STREAM_CLOSED)
        if number in self._remembered:
            self._note_idle()  # it was on its way when we ended the stream
            return
        self._check_begun(number)
        if any(number in numbers for numbers in self._skipped):
            raise Http2Error(PROTOCOL_ERROR, "a frame of a stream that did not begin")
        raise Http2Error(STREAM_CLOSED, "a frame of a stream that is over")

    def _check_begun(self, number: int) -> None:
        if number > self._last or not number & 1:
            raise Http2Error(PROTOCOL_ERROR, "a frame of a stream that did not begin")

    def on_stream_error(self, number: int, code: int) -> None:
        """A frame broke its stream."""
        self.reset(number, code)
        self._note_left()

    def _on_reset(self, number: int, data: bytes) -> None:
        check_frame(number != 0, len(data) == 4)
        self._check_begun(number)
        stream = self.streams.get(number)
        if stream is not None:
            self._leave(stream)
        elif number in self._remembered:
            self._remembered.remove(number)
        else:
            return
        self._note_left()

    # -- Calls ---------------------------------------------------------------------------------------------------
    def _complete(self, stream: Stream) -> None:
        """All of a request is in."""
        if stream.length is not None and stream.length != len(stream.body):
            raise StreamError(PROTOCOL_ERROR)
        if not stream.complete:
            self._finish_request(stream)
        self.shared.door.complete(stream)
        stream.body = b""  # which nothing counts while the call waits for its answer

    def _finish_request(self, stream: Stream) -> None:
        stream.complete = True
        self._unfinished -= 1
        self._growing -= len(stream.body)

    def finish(self, stream: Stream) -> None:
        """All of an answer is written."""
        if not stream.complete:  # nobody takes the rest of the request (section 8.1)
            self.reset(stream.id, NO_ERROR)
            return
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        del self.streams[stream.id]
        self.shared.open -= 1
        self._blocked.pop(stream, None)
        self.unsent -= len(stream.waiting)
        if not stream.complete:
            self._unfinished -= 1
            self._growing -= len(stream.body)
        stream.ended, stream.body, stream.waiting = True, b"", b""
        if stream.timer is not None:
            stream.timer.cancel()
        self._since = self._moved_at

    def _leave(self, stream: Stream) -> None:
        """The client gave a call up."""
        self.shared.door.left(stream)
        if not stream.ended:
            self._forget(stream)

    def reset(self, number: int, code: int) -> None:
        """End a stream; what is on its way of it is dropped."""
        self.write(frame(RESET, 0, number, word.pack(code)))
        self._remembered.append(number)
        stream = self.streams.get(number)
        if stream is not None and code != NO_ERROR:
            self.shared.door.left(stream)
        if stream is not None and not stream.ended:
            self._forget(stream)

    # -- Counts --------------------------------------------------------------------------------------------------
    def _note_idle(self, count: int = 1) -> None:
        self.idle += count
        if self.idle > _MOST_IDLE:
            raise Http2Error(ENHANCE_YOUR_CALM, "too many frames that are no part of calls")

    def _note_left(self) -> None:
        self._left += 1
        self._note_weight()
        if self._left + len(self.streams) > _MOST_LEFT:
            raise Http2Error(ENHANCE_YOUR_CALM, "too many calls are begun and left")

    def _note_weight(self) -> None:
        if self.weight > FEW:
            self.shared.heavy.add(self)

    @property
    def weight(self) -> int:
        """Calls whose messages are missing, and those that the client left in this second."""
        return self._left + self._unfinished

    def has_room(self) -> bool:
        """Count the bytes that are here; whether they are within the budget."""
        size = self._growing + self.unsent + self._reader.held
        if self.stuck_since and not self._gone:
            size += self._transport.get_write_buffer_size()
        if size != self._counted:
            change, self._counted = size - self._counted, size
            self.shared.share.take(change)
        return self.shared.share.room()
