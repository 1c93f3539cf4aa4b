"""HTTP/2 without TLS for a client with prior knowledge (RFC 9113, section 3.3), as far as gRPC needs it.

No push and no priorities, which are a client's hints. A connection begins as one of HTTP/1.1 and comes here when it
has sent the preface. hpack unpacks headers. No table is granted to a client (RFC 7541, section 4.2), so that equal
bytes are equal headers: those of most calls are looked up instead of unpacked.

Everything a client can do wrong, slowly or too often has a bound here: headers, calls, what is no part of a call,
bytes on their way, time to send a request, time to take an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque

from modelworks.runtime.server.budget import Share
from modelworks.runtime.server.http import (
    IDLE_SECONDS,
    LINGER_SECONDS,
    PREFACE,
    RECEIVE_SECONDS,
    WRITE_SECONDS,
    Listener,
    clock,
)
from modelworks.runtime.server.http2_fields import MAX_HEADER_BYTES, Fields, Unpacker, check_fields, check_request
from modelworks.runtime.server.http2_frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME,
    MAX_FRAME_SIZE,
    MAX_LIST,
    MOST_WINDOW,
    NO_ERROR,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH,
    REFUSED_STREAM,
    RESET,
    SETTINGS,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    WINDOW,
    Http2Error,
    StreamError,
    check_frame,
    frame,
    frame_head,
    setting,
    unpadded,
    word,
)
from modelworks.runtime.server.http2_streams import CONNECTION_WINDOW, IDLE_OF_DATA, STREAM_WINDOW, Door, Head, Stream

MAX_CALLS = 1024
"""Most calls at once of all connections."""
MAX_STREAMS = 128
"""Most calls of one connection; more wait at the client. RFC 9113, section 6.5.2, recommends at least 100."""
_MAX_CONTINUATIONS = 8
_MOST_LEFT = 256
"""Calls of a connection that are not over, or that it left or broke in this second: twice what may be at once."""
_TURN = 16
"""Calls that a connection may begin before others have their turn."""
_MOST_IDLE, _IDLE_OF_CALL = 1000, 4
"""Frames in a second that are no part of a call, such as pings; and those more that each call may have."""
_SMALL = 256
"""Bytes of data: a frame with less that does not end a message is one that no call needs."""
_FEW = 16
"""A connection with so many calls whose messages are missing is never the one that is closed for others."""
_REMEMBERED = 1024
"""Calls that we ended of which data may still be on its way."""
_GOODBYE_SECONDS = 2.0
"""How long a client may take to see that the server ends."""
_CACHED, _CACHED_BYTES = 256, 2048
"""Headers that are kept, and how long one is at most."""

_GREETING = frame(
    SETTINGS,
    0,
    0,
    b"".join(
        setting.pack(*each)
        for each in (
            (HEADER_TABLE_SIZE, 0),
            (MAX_CONCURRENT_STREAMS, MAX_STREAMS),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_LIST, MAX_HEADER_BYTES),
        )
    ),
) + frame(WINDOW, 0, 0, word.pack(CONNECTION_WINDOW - 0xFFFF))
_PING_NOW = frame(PING, 0, 0, b"goodbye?")


class Http2:
    """State that connections share.

    Args:
        front: Where they begin.
        door: Answers calls.
        share: Of the budget, for messages that are not complete, and for answers that are not read.
    """

    def __init__(self, front: Listener, door: Door, share: Share) -> None:
        self.front, self.door, self.share = front, door, share
        self.connections: set[Connection] = set()
        self.heads: dict[bytes, Head] = {}
        """Headers that were unpacked before."""
        self.closing = False
        self.open = 0
        """Calls that are not over."""

    def __call__(self, transport: asyncio.Transport, first: bytes) -> None:
        """Take a connection over, whose first bytes have been read already: they are of the preface."""
        connection = Connection(self, transport)
        transport.set_protocol(connection)
        connection.data_received(first)

    def head(self, fields: Fields) -> Head:
        """The headers of a call."""
        try:
            return Head(self.door.meaning(fields), check_request(fields))
        except StreamError:
            return Head(None)

    def makes_room(self) -> bool:
        """Whether there is room for the latest call; a connection with many whose messages are missing is closed."""
        if self.open <= MAX_CALLS:
            return True
        heaviest = max(self.connections, key=lambda each: each.weight)
        if heaviest.weight <= _FEW:
            return False
        heaviest.fail(Http2Error(ENHANCE_YOUR_CALM, "too many calls"))
        return True

    def crowd(self) -> None:
        """Refuse calls until what is on its way is within the budget: those that have been sending for longest."""
        growing = [
            stream
            for connection in self.connections
            for stream in connection.streams.values()
            if stream.body and not stream.complete
        ]
        for stream in sorted(growing, key=lambda stream: stream.began):
            if self.share.room():
                return
            self.door.crowded(stream)
            stream.connection.count()

    def close(self) -> None:
        """Take no new calls; each connection ends when its calls are answered."""
        self.closing = True
        for connection in list(self.connections):
            connection.say_goodbye()

    def cut_off(self) -> None:
        """End every connection now."""
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client's connection, after its preface."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_since",
        "_block_stream",
        "_blocked",
        "_closing_since",
        "_continuations",
        "_counted",
        "_ended",
        "_gone",
        "_goodbye_since",
        "_granted",
        "_growing",
        "_initial",
        "_last",
        "_left",
        "_moved_at",
        "_pinged_at",
        "_preface",
        "_remembered",
        "_rest",
        "_settled",
        "_since",
        "_skipped",
        "_transport",
        "_turn",
        "_unpacker",
        "http2",
        "idle",
        "streams",
        "stuck_since",
        "window",
    )

    def __init__(self, http2: Http2, transport: asyncio.Transport) -> None:
        self.http2, self._transport = http2, transport
        self._preface, self._rest = PREFACE, b""
        self._settled = self._ended = self._gone = False
        """Whether the client's settings are in; whether it has closed its sending side; whether all is over."""
        self._turn = _TURN
        """Calls that may begin before others have their turn; negative if one waits for that, in `_rest`."""
        self._unpacker = Unpacker()
        self.streams: dict[int, Stream] = {}
        """Calls that are not over."""
        self._last = -1
        self._skipped: deque[range] = deque(maxlen=16)
        """Numbers that the client left out."""
        self._remembered: OrderedDict[int, None] = OrderedDict()
        """Calls that ended before all of them was in."""
        self._block: bytes | bytearray = b""
        self._block_stream = self._block_flags = self._continuations = 0
        """Headers in more than one frame; no stream if there are none."""
        self.window = self._initial = 0xFFFF
        """Bytes that the client takes, of all calls and at first of each."""
        self._granted = CONNECTION_WINDOW
        self._blocked: dict[Stream, None] = {}
        """Calls whose answers the client does not take yet."""
        self.idle = self._left = 0
        """Frames that are no part of calls, and calls that the client left, in this second."""
        self._growing = self._counted = 0
        """Bytes of messages that are not complete; what the share has of these and of answers that are not read."""
        self._since = self._moved_at = self._block_since = clock()
        self._pinged_at = self.stuck_since = self._closing_since = self._goodbye_since = 0.0
        http2.connections.add(self)
        http2.front.connections.add(self)
        self.write(_GREETING)
        if http2.closing:
            self.say_goodbye()

    # -- From the event loop -------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if self._gone:
            return
        self._moved_at = clock()
        self._pinged_at = 0.0
        self._take_turn(data)

    def _take_turn(self, data: bytes = b"") -> None:
        """Read frames. After many calls the others have their turn first; it also shows whether the client is gone."""
        self._turn = _TURN
        try:
            self._take(data)
        except Http2Error as error:
            self.fail(error)
        self.count()
        if self._gone:
            return
        if self._growing and not self.http2.share.room():
            self.http2.crowd()
        if self._turn < 0:
            if not self.http2.share.room():
                self.fail(Http2Error(ENHANCE_YOUR_CALM, "too many calls at once"))
                return
            self._pause()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self.stuck_since or self._transport.is_closing():
            return
        if self._turn < 0 and not self._gone:
            self._take_turn()
        if self._turn >= 0 or self._gone:
            with contextlib.suppress(RuntimeError):  # it is being closed
                self._transport.resume_reading()
            if self._ended and not self._answers_on():
                self._transport.close()

    def eof_received(self) -> bool:
        self._ended = True
        return not self._gone and (self._turn < 0 or self._answers_on())

    def _answers_on(self) -> bool:
        """Whether answers are due to a client that has closed its sending side, and may read them still."""
        for stream in [stream for stream in self.streams.values() if not stream.complete]:
            self._leave(stream)
        if self._gone or not self.streams:
            return False
        self._goodbye_since = -1.0
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._over()

    def pause_writing(self) -> None:
        self.stuck_since = clock()
        self._pause()
        self.count()
        if not self.http2.share.room():
            asyncio.get_running_loop().call_soon(self._transport.abort)  # not within a write to it

    def resume_writing(self) -> None:
        self.stuck_since = 0.0
        self._push_all()
        self.count()
        self._read_on()

    # -- Frames --------------------------------------------------------------------------------------------------
    def _take(self, data: bytes) -> None:
        if self._preface:
            size = min(len(data), len(self._preface))
            if data[:size] != self._preface[:size]:
                raise Http2Error(PROTOCOL_ERROR, "this is no preface of HTTP/2")
            self._preface, data = self._preface[size:], data[size:]
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, number = frame_head.unpack_from(data, at)
            size, number = high << 8 | low, number & 0x7FFFFFFF
            if size > MAX_FRAME:
                raise Http2Error(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start, at = at + 9, at + 9 + size
            waits = kind == HEADERS and not self._turn
            if waits or at > end:
                at -= 9 + size
                self._turn -= waits
                break
            if self._block_stream and (kind != CONTINUATION or number != self._block_stream):
                raise Http2Error(PROTOCOL_ERROR, "headers are not complete before another frame")
            if not self._settled and (kind != SETTINGS or flags & ACK):
                raise Http2Error(PROTOCOL_ERROR, "settings must come first")
            try:
                if kind == DATA:
                    self._on_data(number, flags, data[start:at])
                elif kind == HEADERS:
                    self._on_headers(number, flags, data[start:at])
                else:
                    self._on_other(kind, number, flags, data[start:at])
            except StreamError as error:
                self._reset(number, error.args[0])
                self._note_left()
            if self._gone:
                return
            if self.idle > _MOST_IDLE:
                raise Http2Error(ENHANCE_YOUR_CALM, "too many frames that are no part of calls")
        self._rest = data[at:]

    def _on_data(self, number: int, flags: int, data: bytes) -> None:
        size = len(data)
        self._granted -= size  # it stays above zero, for a window is granted again before half of it is used
        if self._granted < CONNECTION_WINDOW >> 1:
            self.write(frame(WINDOW, 0, 0, word.pack(CONNECTION_WINDOW - self._granted)))
            self._granted = CONNECTION_WINDOW
        if size < _SMALL and not flags & END_STREAM:
            self.idle += 1
        if flags & PADDED:
            data = unpadded(data)
        stream = self.streams.get(number)
        if stream is None or stream.complete:
            self._on_closed(number, stream)
            return
        stream.granted -= size
        if data:
            body = stream.body
            if not body:
                stream.body = data
            else:
                if type(body) is bytes:
                    stream.body = body = bytearray(body)
                body += data
            self._growing += len(data)
        if flags & END_STREAM:
            self._complete(stream)
            return
        if stream.length is not None and len(stream.body) > stream.length:
            raise StreamError(PROTOCOL_ERROR)
        if stream.granted < STREAM_WINDOW >> 1:
            self.write(frame(WINDOW, 0, number, word.pack(STREAM_WINDOW - stream.granted)))
            stream.granted = STREAM_WINDOW
        self.http2.door.grew(stream)

    def _on_headers(self, number: int, flags: int, data: bytes) -> None:
        if not number:
            raise Http2Error(PROTOCOL_ERROR, "headers of no stream")
        if flags & (PADDED | HAS_PRIORITY):
            if flags & PADDED:
                data = unpadded(data)
            if flags & HAS_PRIORITY:
                if len(data) < 5:
                    raise Http2Error(FRAME_SIZE_ERROR, "headers end within their priority")
                data = data[5:]
        if flags & END_HEADERS:
            self._on_block(number, flags, data)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(data), number, flags
            self._continuations, self._block_since = 0, clock()

    def _on_continuation(self, number: int, flags: int, data: bytes) -> None:
        if not self._block_stream:
            raise Http2Error(PROTOCOL_ERROR, "a continuation of nothing")
        self._continuations += 1
        self._block += data
        enough = self._continuations > _MAX_CONTINUATIONS or len(self._block) > MAX_HEADER_BYTES
        if enough or not (data or flags & END_HEADERS):
            raise Http2Error(ENHANCE_YOUR_CALM, "headers in too many frames or bytes")
        if flags & END_HEADERS:
            block, self._block, self._block_stream = bytes(self._block), b"", 0
            self._on_block(number, self._block_flags, block)

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        """All headers of a call are in, or its trailers."""
        stream = self.streams.get(number)
        if number <= self._last:
            fields = self._unpacker.unpack(block)
            if stream is None or stream.complete:
                self._on_closed(number, stream)
                return
            if not flags & END_STREAM:
                raise StreamError(PROTOCOL_ERROR)
            check_fields(fields)
            self._complete(stream)
            return
        if not number & 1:
            raise Http2Error(PROTOCOL_ERROR, "the number of a client's stream is odd")
        if number != self._last + 2:
            self._skipped.append(range(self._last + 2, number, 2))
        self._last = number
        self._turn -= 1
        head = self.http2.heads.get(block) if self._unpacker.stateless else None
        if head is None:
            head = self.http2.head(self._unpacker.unpack(block))
            self._keep(block, head)
        if head.meaning is None:
            raise StreamError(PROTOCOL_ERROR)
        if len(self.streams) >= MAX_STREAMS:
            raise StreamError(REFUSED_STREAM)
        self.idle -= _IDLE_OF_CALL
        stream = Stream(self, number, head.meaning, head.length, self._initial, self._moved_at)
        stream.complete = bool(flags & END_STREAM)
        self.streams[number] = stream
        self.http2.open += 1
        self.http2.door.begin(stream)
        if stream.complete and not stream.ended:
            self._complete(stream)

    def _keep(self, block: bytes, head: Head) -> None:
        heads = self.http2.heads
        if self._unpacker.stateless and len(block) <= _CACHED_BYTES:
            if len(heads) >= _CACHED:
                heads.clear()
            heads[block] = head

    def _on_closed(self, number: int, stream: Stream | None) -> None:
        """Refuse a frame of a stream whose request is over, or which never began."""
        if stream is not None:
            raise StreamError(STREAM_CLOSED)
        if number in self._remembered:
            self.idle += 1  # it was on its way when we ended the stream
        elif number == 0 or number > self._last or any(number in numbers for numbers in self._skipped):
            raise Http2Error(PROTOCOL_ERROR, "a frame of a stream that did not begin")
        else:
            raise Http2Error(STREAM_CLOSED, "a frame of a stream that is over")

    def _on_other(self, kind: int, number: int, flags: int, data: bytes) -> None:
        if kind == CONTINUATION:
            self._on_continuation(number, flags, data)
            return
        self.idle += 1
        if kind == WINDOW:
            self._on_window(number, data)
        elif kind == PING:
            check_frame(number == 0, len(data) == 8)
            if not flags & ACK:
                self.write(frame(PING, ACK, 0, data))
            elif self._goodbye_since:
                self._goodbye_since = -1.0
                self.close_if_idle()
        elif kind == SETTINGS:
            self._on_settings(number, flags, data)
        elif kind == RESET:
            check_frame(number != 0, len(data) == 4)
            if number > self._last:
                raise Http2Error(PROTOCOL_ERROR, "a reset of a stream that did not begin")
            stream = self.streams.get(number)
            if stream is not None or number in self._remembered:
                self._note_left()
            self._remembered.pop(number, None)
            if stream is not None:
                self._leave(stream)
        elif kind == PRIORITY:
            check_frame(number != 0, good_size=True)
            if len(data) != 5:
                raise StreamError(FRAME_SIZE_ERROR)
        elif kind == GOAWAY:
            check_frame(number == 0, len(data) >= 8)
            self._goodbye_since = -1.0
            self.close_if_idle()
        elif kind == PUSH:
            raise Http2Error(PROTOCOL_ERROR, "a client pushes nothing")

    def _on_settings(self, number: int, flags: int, data: bytes) -> None:
        acknowledges = flags & ACK
        check_frame(number == 0, not data if acknowledges else len(data) % 6 == 0)
        self._settled = True
        if acknowledges:
            self._unpacker.forbid_table()
            return
        for name, value in setting.iter_unpack(data):
            if name == INITIAL_WINDOW_SIZE:
                if value > MOST_WINDOW:
                    raise Http2Error(FLOW_CONTROL_ERROR, "a window that is too large")
                change, self._initial = value - self._initial, value
                for stream in self.streams.values():
                    stream.window += change
                    if stream.window > MOST_WINDOW:
                        raise Http2Error(FLOW_CONTROL_ERROR, "a window that grows too large")
            elif name == MAX_FRAME_SIZE:
                if not MAX_FRAME <= value < 1 << 24:
                    raise Http2Error(PROTOCOL_ERROR, "frames of no such size are allowed")
            elif name == ENABLE_PUSH and value > 1:
                raise Http2Error(PROTOCOL_ERROR, "push is on or off")
        self.write(frame(SETTINGS, ACK, 0))
        self._push_all()

    def _on_window(self, number: int, data: bytes) -> None:
        check_frame(good_stream=True, good_size=len(data) == 4)
        more = word.unpack(data)[0] & MOST_WINDOW
        if number == 0:
            self.window += more
            if not more or self.window > MOST_WINDOW:
                raise Http2Error(FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR, "the window of the connection")
            self._push_all()
            return
        if number > self._last:
            raise Http2Error(PROTOCOL_ERROR, "a window of a stream that did not begin")
        stream = self.streams.get(number)
        if not more:
            raise StreamError(PROTOCOL_ERROR)
        if stream is not None:
            stream.window += more
            if stream.window > MOST_WINDOW:
                raise StreamError(FLOW_CONTROL_ERROR)
            if stream in self._blocked:
                self.push(stream)

    # -- Calls ---------------------------------------------------------------------------------------------------
    def _complete(self, stream: Stream) -> None:
        """All of a request is in."""
        if stream.length is not None and stream.length != len(stream.body):
            raise StreamError(PROTOCOL_ERROR)
        self._growing -= len(stream.body)
        stream.complete = True
        self.http2.door.complete(stream)

    def finish(self, stream: Stream) -> None:
        """All of an answer is written."""
        if not stream.complete:  # nobody takes the rest of the request (section 8.1)
            self._reset(stream.id, NO_ERROR)
            return
        self._forget(stream)
        if self._goodbye_since:
            self.close_if_idle()

    def _forget(self, stream: Stream) -> None:
        del self.streams[stream.id]
        self.http2.open -= 1
        self._blocked.pop(stream, None)
        if not stream.complete:
            self._growing -= len(stream.body)
        stream.ended, stream.body, stream.waiting = True, b"", b""
        if stream.timer is not None:
            stream.timer.cancel()
        self._since = self._moved_at

    def _leave(self, stream: Stream) -> None:
        """The client gave a call up."""
        self.http2.door.left(stream)
        if not stream.ended:
            self._forget(stream)
        if self._goodbye_since:
            self.close_if_idle()

    def _note_left(self) -> None:
        self._left += 1
        if self._left + len(self.streams) > _MOST_LEFT:
            raise Http2Error(ENHANCE_YOUR_CALM, "too many calls are begun and left")

    def _reset(self, number: int, code: int) -> None:
        """End a stream; what is on its way of it is dropped."""
        self.write(frame(RESET, 0, number, word.pack(code)))
        self._remembered[number] = None
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        stream = self.streams.get(number)
        if stream is not None and code != NO_ERROR:
            self.http2.door.left(stream)
        if stream is not None and not stream.ended:
            self._forget(stream)
        if self._goodbye_since:
            self.close_if_idle()

    def push(self, stream: Stream) -> None:
        """Send the part of an answer that the client takes."""
        waiting, sent = stream.waiting, False
        while waiting and not self.stuck_since:
            size = min(len(waiting), stream.window, self.window, MAX_FRAME)
            if size <= 0:
                break
            stream.window -= size
            self.window -= size
            self.idle -= IDLE_OF_DATA
            self.write(frame(DATA, 0, stream.id, bytes(waiting[:size])))
            del waiting[:size]
            sent = True
        self._blocked.pop(stream, None)
        if waiting:
            if sent or stream.stuck_since == 0.0:
                stream.stuck_since = clock()
            self._blocked[stream] = None  # behind the others
            self.count()
            if not self.http2.share.room():
                self._reset(stream.id, ENHANCE_YOUR_CALM)
        elif stream.trailers is not None:
            kind, flags = (HEADERS, END_HEADERS | END_STREAM) if stream.trailers else (DATA, END_STREAM)
            self.write(frame(kind, flags, stream.id, stream.trailers))
            self.finish(stream)

    def break_off(self, stream: Stream) -> None:
        """End an answer in its middle."""
        if not stream.ended:
            self._reset(stream.id, CANCEL)

    def _push_all(self) -> None:
        for stream in list(self._blocked):
            if not stream.ended:
                self.push(stream)

    # -- The connection ------------------------------------------------------------------------------------------
    def makes_room(self) -> bool:
        """Whether there is room for the latest call of all connections."""
        return self.http2.makes_room()

    def write(self, data: bytes) -> None:
        """Send frames."""
        if not self._gone:
            self._transport.write(data)

    def count(self) -> None:
        """Count the bytes of messages and answers in the budget."""
        size = self._growing
        if self._blocked:
            size += sum(len(stream.waiting) for stream in self._blocked)
        if self._turn < 0:
            size += len(self._rest)
        if self.stuck_since and not self._gone:
            size += self._transport.get_write_buffer_size()
        if size != self._counted:
            change, self._counted = size - self._counted, size
            self.http2.share.take(change)

    def fail(self, error: Http2Error) -> None:
        """End it because of what the client sent; what follows is dropped until the client has read why."""
        if self._gone:
            return
        self._say_end(error.code, error.reason)
        self._over()
        self.http2.front.connections.add(self)  # until it has ended
        self._closing_since = clock()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()

    def say_goodbye(self) -> None:
        """Send a request to begin no more calls; the connection ends when those that are on their way are answered."""
        if not self._goodbye_since:
            self._goodbye_since = clock()
            self.write(frame(GOAWAY, 0, 0, word.pack(MOST_WINDOW) + word.pack(NO_ERROR)) + _PING_NOW)

    def _say_end(self, code: int, reason: str = "") -> None:
        self.write(frame(GOAWAY, 0, 0, word.pack(max(0, self._last)) + word.pack(code) + reason.encode()))

    def _close(self) -> None:
        """End it after what was written."""
        self._say_end(NO_ERROR)
        self._over()
        self._transport.close()

    def _over(self) -> None:
        """It has no calls any more."""
        self._gone = True
        self._rest, self._block = b"", b""
        for stream in list(self.streams.values()):
            self._leave(stream)
        self._blocked.clear()
        self._growing = 0
        self.count()
        self.http2.connections.discard(self)
        self.http2.front.connections.discard(self)

    def _pause(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is being closed
            self._transport.pause_reading()

    # -- From the listener ---------------------------------------------------------------------------------------
    @property
    def weight(self) -> int:
        """Calls whose messages are missing, and those that the client left in this second."""
        return self._left + sum(not stream.complete for stream in self.streams.values())

    @property
    def quiet(self) -> bool:
        """Whether no answer is due; it may be closed to make room for others."""
        return not any(stream.complete and not stream.stays for stream in self.streams.values())

    def quiet_since(self) -> tuple[int, float]:
        """Connections that are over come first, then those that rest, then those with calls; the longest of each."""
        if self._closing_since:
            return 0, self._closing_since
        return (2, self._moved_at) if self.streams else (1, self._since)

    def abort(self) -> None:
        """End it now."""
        self._over()
        self._transport.abort()

    def close_if_idle(self) -> None:
        """End it if the client has taken note of that, and no answer is due."""
        if self._gone or self.streams or not self._goodbye_since:
            return
        if self._goodbye_since < 0 or clock() - self._goodbye_since > _GOODBYE_SECONDS:
            self._close()

    def check(self, now: float) -> None:
        """Cut the client off if it takes too long. Once a second."""
        self.idle = self._left = 0
        if self._closing_since:
            if now - self._closing_since > LINGER_SECONDS:
                self._transport.abort()
        elif self._gone:
            return
        elif self.stuck_since and now - self.stuck_since > WRITE_SECONDS:
            self.abort()
        elif not self._unpacker.forbids_table and now - self._since > RECEIVE_SECONDS:
            self.fail(Http2Error(SETTINGS_TIMEOUT, "the settings were not acknowledged"))
        elif self._block_stream and now - self._block_since > RECEIVE_SECONDS:
            self.fail(Http2Error(ENHANCE_YOUR_CALM, f"headers not complete after {RECEIVE_SECONDS:g} seconds"))
        elif not self.streams:
            if now - self._since > IDLE_SECONDS:
                self._close()
            else:
                self.close_if_idle()
        else:
            self._check_calls(now)

    def _check_calls(self, now: float) -> None:
        for stream in list(self.streams.values()):
            if not stream.complete and now - stream.began > RECEIVE_SECONDS:
                self.http2.door.late(stream, RECEIVE_SECONDS)
            elif stream in self._blocked and now - stream.stuck_since > WRITE_SECONDS:
                self._reset(stream.id, CANCEL)
        self.count()
        if self._pinged_at:
            if now - self._pinged_at > WRITE_SECONDS:
                self.abort()
        elif now - self._moved_at > IDLE_SECONDS:  # a client that has gone without a word is noticed
            self._pinged_at = now
            self.write(frame(PING, 0, 0, b"anybody?"))
