"""HTTP/2 without TLS for a client with prior knowledge (RFC 9113, section 3.3), as far as gRPC needs it.

No push and no priorities, which are a client's hints. A connection begins as one of HTTP/1.1 and comes here when it
has sent the preface. Here is how it begins and ends, and its frames that are of no call; `http2_reading` cuts bytes
into frames, `http2_calls` has the requests, `http2_sending` the answers. hpack unpacks headers. No table is granted to
a client (RFC 7541, section 4.2), so that equal bytes are equal headers: those of most calls are looked up instead.

Everything a client can do wrong, slowly or too often has a bound here: headers, calls, what is no part of a call,
bytes on their way, time to send a request, time to take an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from operator import attrgetter

from modelworks.runtime.server.budget import Share
from modelworks.runtime.server.http import IDLE_SECONDS, LINGER_SECONDS, RECEIVE_SECONDS, WRITE_SECONDS, Listener, clock
from modelworks.runtime.server.http2_calls import FEW, MAX_STREAMS, Calls, Shared
from modelworks.runtime.server.http2_fields import MAX_HEADER_BYTES
from modelworks.runtime.server.http2_frames import (
    ACK,
    CANCEL,
    ENABLE_PUSH,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME,
    MAX_FRAME_SIZE,
    MAX_LIST,
    MOST_WINDOW,
    NO_ERROR,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH,
    RESET,
    SETTINGS,
    SETTINGS_TIMEOUT,
    WINDOW,
    Http2Error,
    StreamError,
    check_frame,
    frame,
    setting,
    word,
)
from modelworks.runtime.server.http2_streams import CONNECTION_WINDOW, STREAM_WINDOW, Door, Stream

MAX_CALLS = 1024
"""Most calls at once of all connections."""
_STREAMS_OF_A_FRAME = 8
"""As many streams as get another window in the time of a frame that is no part of a call."""
_GOODBYE_SECONDS = 2.0
"""How long a client may take to see that the server ends."""
_TABLE = 4096
"""Bytes of the table that a client expects to keep for us (RFC 7541, section 4.2), of which we use none."""
_NO_TABLE = b"\x20"
"""Headers begin with this after a client has granted less of it: some expect that."""

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


class Http2(Shared):
    """State that connections share.

    Args:
        front: Where they begin.
        door: Answers calls.
        share: Of the budget, for messages that are not complete, and for answers that are not read.
    """

    def __init__(self, front: Listener, door: Door, share: Share) -> None:
        super().__init__(door, share)
        self.front = front
        self.connections: set[Connection] = set()
        self.closing = False

    def __call__(self, transport: asyncio.Transport, first: bytes) -> None:
        """Take a connection over, whose first bytes have been read already: they are of the preface."""
        connection = Connection(self, transport)
        transport.set_protocol(connection)
        connection.data_received(first)

    def makes_room(self) -> bool:
        """Whether there is room for the latest call; a connection with many whose messages are missing is closed."""
        if self.open <= MAX_CALLS:
            return True
        self.heavy = {each for each in self.heavy if each.weight > FEW}
        if not self.heavy:
            return False
        max(self.heavy, key=attrgetter("weight")).fail(Http2Error(ENHANCE_YOUR_CALM, "too many calls"))
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
            stream.connection.has_room()

    def close(self) -> None:
        """Take no new calls; each connection ends when its calls are answered."""
        self.closing = True
        for connection in list(self.connections):
            connection.say_goodbye()

    def cut_off(self) -> None:
        """End every connection now."""
        for connection in list(self.connections):
            connection.abort()


class Connection(Calls):
    """One client's connection, from its preface on."""

    __slots__ = (
        "_closing_since",
        "_ended",
        "_goodbye_since",
        "_pinged_at",
        "http2",
    )

    def __init__(self, http2: Http2, transport: asyncio.Transport) -> None:
        super().__init__(http2, transport)
        self.http2 = http2
        self._ended = False
        """Whether the client has closed its sending side."""
        self._pinged_at = self._closing_since = self._goodbye_since = 0.0
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
        try:
            self._reader.feed(data)
        except Http2Error as error:
            self.fail(error)
        if self._gone:
            return
        self._grant()
        if not self.has_room() and (self._growing or self._reader.held):
            self.http2.crowd()
            if self._reader.held and not self.has_room():
                self.fail(Http2Error(ENHANCE_YOUR_CALM, "too many calls at once"))
                return
        if self._reader.waits:
            self._pause()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self.stuck_since or self._transport.is_closing():
            return
        if self._reader.waits:
            self._take_turn()
        if not self._reader.waits:
            with contextlib.suppress(RuntimeError):  # it is being closed
                self._transport.resume_reading()
            if self._ended and not self._answers_on():
                self._transport.close()

    def eof_received(self) -> bool:
        self._ended = True
        return not self._gone and (self._reader.waits or self._answers_on())

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
        if not self.has_room():
            asyncio.get_running_loop().call_soon(self._transport.abort)  # not within a write to it

    def resume_writing(self) -> None:
        self.stuck_since = 0.0
        self._push_all()
        self.has_room()
        self._read_on()

    def on_other(self, kind: int, number: int, flags: int, data: bytes) -> None:
        """A frame without data and headers."""
        self._note_idle()
        if kind == WINDOW:
            self._on_window(number, data)
        elif kind == PING:
            check_frame(number == 0, len(data) == 8)
            if not flags & ACK:
                self.write(frame(PING, ACK, 0, data))
            elif self._goodbye_since:
                self._take_note_of_end()
        elif kind == SETTINGS:
            self._on_settings(number, flags, data)
        elif kind == RESET:
            self._on_reset(number, data)
        elif kind == PRIORITY:
            check_frame(number != 0, good_size=True)
            if len(data) != 5:
                if number not in self.streams:
                    raise Http2Error(FRAME_SIZE_ERROR, "a priority of a wrong size")
                raise StreamError(FRAME_SIZE_ERROR)
        elif kind == GOAWAY:
            check_frame(number == 0, len(data) >= 8)
            self._take_note_of_end()
        elif kind == PUSH:
            raise Http2Error(PROTOCOL_ERROR, "a client pushes nothing")

    def _on_settings(self, number: int, flags: int, data: bytes) -> None:
        acknowledges = flags & ACK
        check_frame(number == 0, not data if acknowledges else len(data) % 6 == 0)
        if acknowledges:
            self._unpacker.forbid_table()
            return
        self._note_idle(len(data) // 6 * (1 + len(self.streams) // _STREAMS_OF_A_FRAME))
        for name, value in setting.iter_unpack(data):
            if name == INITIAL_WINDOW_SIZE:
                self._begin_with(value)
            elif name == HEADER_TABLE_SIZE:
                if value < _TABLE:
                    self.opening = _NO_TABLE
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
            self._widen(more)
        else:
            self._check_begun(number)
            self._widen_stream(self.streams.get(number), more)

    def makes_room(self) -> bool:
        """Whether there is room for the latest call of all connections."""
        return self.http2.makes_room()

    def _forget(self, stream: Stream) -> None:
        super()._forget(stream)
        if self._goodbye_since:
            self.close_if_idle()

    # -- Its end -------------------------------------------------------------------------------------------------
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

    def _take_note_of_end(self) -> None:
        """The client begins no more calls."""
        self._goodbye_since = -1.0
        self.close_if_idle()

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
        self._reader.end()
        for stream in list(self.streams.values()):
            self._leave(stream)
        self.has_room()
        self.http2.connections.discard(self)
        self.http2.heavy.discard(self)
        self.http2.front.connections.discard(self)

    def _pause(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is being closed
            self._transport.pause_reading()

    # -- From the listener ---------------------------------------------------------------------------------------
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
        elif (began := self._reader.in_headers_since) and now - began > RECEIVE_SECONDS:
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
                self.reset(stream.id, CANCEL)
        self.has_room()
        if self._pinged_at:
            if now - self._pinged_at > WRITE_SECONDS:
                self.abort()
        elif now - self._moved_at > IDLE_SECONDS:  # a client that has gone without a word is noticed
            self._pinged_at = now
            self.write(frame(PING, 0, 0, b"anybody?"))
