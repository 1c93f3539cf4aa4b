"""HTTP/1.1 for a served model, directly on an event loop: what a request costs here is what a prediction cannot have.

llhttp (through httptools) does the parsing. Everything a client can do wrong or slowly has a bound here: sizes, time to
send a request, time to take an answer, number of connections, requests in a pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import httptools
import msgspec

from modelworks import contract
from modelworks.runtime.server.budget import Share
from modelworks.runtime.server.exchange import Exchange

MAX_HEAD_BYTES = 32 << 10
"""Largest request line, headers and trailers together, with what frames the chunks of a body."""
MAX_FIELDS = 256
"""Most headers and trailers of a request."""
MAX_CONNECTIONS = 4096
"""Most connections of one process, if it may have as many descriptors."""
_OTHER_DESCRIPTORS = 128
"""Those that are no connections: files, pipes, the event loop."""
_CLOSED_AT_ONCE = 64
"""When there is no room, one connection in so many is closed: finding the longest idle ones costs a look at all."""
RECEIVE_SECONDS = 15.0
"""How long a client may take to send one request."""
IDLE_SECONDS = 75.0
"""How long a connection may rest between requests. Longer than the 60 s of an AWS load balancer, which must be the one
to close (docs.aws.amazon.com, Application Load Balancers, connection idle timeout)."""
WRITE_SECONDS = 20.0
"""How long a client may leave an answer unread."""
LINGER_SECONDS = 5.0
"""How long what a refused client still sends is read and dropped. Closing at once would reset the connection, and with
it the answer that the client has yet to read (RFC 9112, section 9.6)."""
MAX_DROPPED_BYTES = 256 << 10
"""Largest body of a refused request that is read and dropped, so that the connection can be used again (RFC 9112,
section 9.3); after an answer to one with a larger body it ends. Go's net/http has the same bound."""
BACK_OFF_SECONDS = 0.04
"""How long a connection is not read after a refusal for lack of room. `Retry-After` is a second; a client that comes
back at once takes no more of the server's time than 25 refusals a second."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a connection of HTTP/2 begins with (RFC 9113, section 3.4)."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_KEEPS = b"connection: keep-alive\r\n"
"""To clients of HTTP/1.0 (RFC 9112, section C.2.2)."""
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_NOTED = frozenset(
    {
        b"accept",
        b"authorization",
        b"content-type",
        b"inference-header-content-length",
        b"x-request-id",
        contract.HEADER_PROBE.encode(),
        b"traceparent",
        b"tracestate",
    }
)
_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?", re.ASCII)
"""A host and a port (RFC 3986, section 3.2); it may be empty."""
_AUTHORITY = re.compile(rb"https?://[^/?]*", re.IGNORECASE)
"""Of a target in the form that is sent to proxies, all before the path."""
_FRAMING = 8
"""Most bytes of framing for a byte of the body: a chunk of one byte has five."""

clock = time.perf_counter


class Refusal(NamedTuple):
    """Why a request gets an error for its answer."""

    status: int
    reason: str


class Request(msgspec.Struct, eq=False):
    """One request: complete, unless it is refused."""

    method: bytes
    path: bytes
    """Without the query."""
    headers: dict[bytes, bytes]
    """Those of `_NOTED`, names in lower case."""
    body: bytes = b""
    at: float = 0.0
    """When it was complete, on `clock`: the time that a client takes to send it is not part of the latency."""
    keep_alive: bool = True
    version: str = "1.1"
    """Of HTTP."""
    refusal: Refusal | None = None
    """Set when its head or its form is reason enough to refuse it. Its body was not read."""
    is_sample: bool = False
    """Whether its rows are counted although there is no room for them by an estimate; see `admission.Estimate`."""


class Door(Protocol):
    """Answers requests."""

    def check_head(self, request: Request, size: int) -> Refusal | None:
        """Why the request is refused, judged by its head alone; None if it is not.

        Args:
            request: The head.
            size: Announced bytes of the body; negative if they are unknown, or it is not its turn to be judged by them.
        """

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer through `Connection.respond`, now or later, exactly once."""

    def streams(self, request: Request) -> bool:
        """Whether the body of a request, which is in chunks, is to be answered while it comes; see `stream`."""

    def stream(self, request: Request, exchange: Exchange) -> None:
        """Take the body of a request in pieces, and answer through its exchange."""


class Caller(Protocol):
    """Takes one answer: a connection, or an exchange on it."""

    def respond(
        self, request: Request, status: int, body: bytes, content_type: bytes = ..., headers: bytes = ...
    ) -> None:
        """See `Connection.respond`."""

    def back_off(self) -> None:
        """See `Connection.back_off`."""


class Session(Protocol):
    """A connection, as those who count and close connections see it."""

    @property
    def quiet(self) -> bool:
        """Whether no answer is due."""

    def quiet_since(self) -> tuple[int, float]:
        """Less is closed first, to make room for others."""

    def check(self, now: float) -> None:
        """Cut the client off if it takes too long."""

    def abort(self) -> None:
        """End it now."""

    def close_if_idle(self) -> None:
        """End it unless a request is received or answered."""


class Listener:
    """State that connections share: limits, the door, and the time of day as a header.

    Args:
        door: Answers requests.
        max_body_bytes: Largest body.
        share: Of the budget, for bodies that are not complete or wait, and for answers that are not read.
        max_connections: Most connections.
    """

    def __init__(self, door: Door, max_body_bytes: int, share: Share, max_connections: int = MAX_CONNECTIONS) -> None:
        self.check_head, self.handle, self.max_body_bytes = door.check_head, door.handle, max_body_bytes
        self.streams, self.stream = door.streams, door.stream
        self.share, self.max_connections = share, max_connections
        self.connections: set[Session] = set()
        self.http2: Callable[[asyncio.Transport, bytes], None] | None = None
        """Takes over a connection of HTTP/2, and the bytes that were read of it, if that is answered here."""
        self.closing = False
        """Set while the server drains: each answer is the last of its connection."""
        self._backing_off: deque[tuple[float, Connection]] = deque()
        """Connections that are not read, and when they are again; the first one in front."""
        self.date = b""
        self.sweep()

    def __call__(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self)

    def sweep(self) -> None:
        """Cut off whoever is too slow, and see what time it is. Once a second."""
        now = clock()
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        for connection in list(self.connections):
            connection.check(now)

    def back_off(self, connection: Connection) -> None:
        """Read it on after a moment."""
        if not self._backing_off:
            asyncio.get_running_loop().call_later(BACK_OFF_SECONDS, self._read_on)
        self._backing_off.append((clock() + BACK_OFF_SECONDS, connection))

    def _read_on(self) -> None:
        waiting, now = self._backing_off, clock()
        while waiting and waiting[0][0] <= now:
            waiting.popleft()[1].end_back_off()
        if waiting:
            asyncio.get_running_loop().call_later(waiting[0][0] - now, self._read_on)

    def make_room(self) -> bool:
        """Close connections that have done nothing for longest; False if every one waits for an answer."""
        quiet = [connection for connection in self.connections if connection.quiet]
        for connection in heapq.nsmallest(
            1 + self.max_connections // _CLOSED_AT_ONCE, quiet, key=lambda connection: connection.quiet_since()
        ):
            connection.abort()
        return bool(quiet)

    def close_idle(self) -> None:
        """Close every connection that is not in the middle of a request."""
        for connection in list(self.connections):
            connection.close_if_idle()


class Connection(asyncio.Protocol):
    """One client's connection. One request at a time is answered; those that follow it wait in a backlog."""

    __slots__ = (
        "_announced",
        "_answered",
        "_backlog",
        "_began",
        "_body",
        "_busy",
        "_closing_since",
        "_dropping",
        "_encoded",
        "_eof",
        "_exchange",
        "_expects",
        "_feeding",
        "_fields",
        "_framing",
        "_headers",
        "_hosts",
        "_in_head",
        "_length",
        "_listener",
        "_parser",
        "_paused",
        "_receiving",
        "_request",
        "_rest_since",
        "_size",
        "_stuck_since",
        "_transport",
        "_unread_bytes",
        "_url",
        "_waiting_bytes",
        "_wire",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._busy = self._receiving = self._paused = self._eof = False
        self._feeding = self._answered = self._dropping = False
        self._in_head = True
        self._expects = self._encoded = False
        self._hosts = self._fields = self._announced = 0
        """The last one: bytes of the body by the head; negative if it has chunks."""
        self._length = self._framing = b""
        """The header of the body's length; and that of a request for another protocol, whose body is yet to come."""
        self._backlog: deque[Request] = deque()
        self._wire = self._size = 0
        """Bytes that the message took so far, and those of them that are its body."""
        self._waiting_bytes = 0
        """The share of this connection in the budget, for bodies."""
        self._unread_bytes = 0
        """The same for answers."""
        self._url, self._body = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._request: Request | None = None
        """The one whose body is being received."""
        self._exchange: Exchange | None = None
        """That of the last request, if it is answered while its body comes."""
        self._began = self._rest_since = clock()
        self._stuck_since = 0.0
        self._closing_since = 0.0
        """When the last answer was given; what comes after is dropped."""

    # -- From the event loop -------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        connections = self._listener.connections
        if len(connections) >= self._listener.max_connections and not self._listener.make_room():
            connections.add(self)
            self._refuse(429, "too many connections")
            return
        connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._listener.connections.discard(self)
        self._count_waiting(0)
        self._count_unread(0)
        self._backlog.clear()
        self._transport = None
        self._parser = None
        if self._exchange is not None:
            self._exchange.break_off(None)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return  # the connection is over; see `_refuse` and `_close`
        self._wire += len(data)
        self._feeding = True
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(*(cause.args if isinstance(cause, _Refused) else (400, "the request is not well-formed")))
        except httptools.HttpParserError:
            if self._hand_on(data):
                return
            self._refuse(400, "the request is not well-formed HTTP/1.1")
        else:
            if self._receiving and self._wire - (1 + _FRAMING) * self._size > MAX_HEAD_BYTES:
                self._refuse(431, f"headers, trailers and chunk headers take more than {MAX_HEAD_BYTES} bytes")
        self._feeding = False
        if self._receiving or self._backlog or self._waiting_bytes:
            if self._dropping:
                self._skip_rest()
            self._count_waiting(sum([len(request.body) for request in self._backlog]) + len(self._body))
            if not self._listener.share.room():
                self._refuse(429, "too many large requests at once")
        if self._answered:
            self._answered = False
            self._next()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            end = upgrade.args[0]
        else:
            return
        if self._parser is not None:
            # The parser leaves out the body of such a request, so another one reads it; nothing after it is read.
            head, self._framing = b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\n" % self._framing, b""
            self._parser = httptools.HttpRequestParser(_Body(self))
            self._feed(head + data[end:])

    def _skip_rest(self) -> None:
        """Read the rest of a refused body without the parser, if its end is known."""
        left = self._announced - self._size if self._receiving else 0
        if left > 0 and self._parser is not None and self._exchange is None:
            self._parser = _Rest(self, left)
            self._size = self._announced

    def end_of_rest(self, data: bytes) -> None:
        """A refused body has ended; `data` follows it."""
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_complete()
        if data:
            self._feed(data)

    def eof_received(self) -> bool:
        # A client may close its sending side and still read the answers that are due.
        self._eof = True
        if self._exchange is not None and self._receiving:
            self._refuse(400, "the body ended before its last chunk")
        return self._busy and not self._closing_since

    def pause_writing(self) -> None:
        self._stuck_since = clock()
        if self._exchange is None:
            self._pause()
        self._count_unread(self._transport.get_write_buffer_size())
        if not self._listener.share.room():
            asyncio.get_running_loop().call_soon(self._transport.abort)  # not within a write to it

    def resume_writing(self) -> None:
        self._stuck_since = 0.0
        self._count_unread(0)
        if self._exchange is not None:
            self._exchange.notify()
        elif not self._backlog:
            self._resume()

    # -- From the parser -----------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._parser is None:
            raise _Refused(400, "the connection is over")
        self._began = clock()
        self._receiving = self._in_head = True
        self._expects = self._encoded = self._dropping = False
        self._url, self._body, self._size = b"", b"", 0
        self._hosts = self._fields = self._announced = 0
        self._length = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise _Refused(431, f"there are more than {MAX_FIELDS} headers and trailers")
        name = name.lower()
        if name in _NOTED:
            if name == b"authorization" and name in self._headers:
                raise _Refused(400, "authorization is there more than once")
            if name == b"accept" and name in self._headers:
                value = self._headers[name] + b"," + value  # one list, in lines (RFC 9110, section 5.3)
            self._headers[name] = value
        elif name == b"content-length" and self._in_head:
            self._announced = int(value) if len(value) <= 18 else sys.maxsize
            self._length = b"content-length: %b\r\n" % value
        elif name == b"host":
            self._hosts += 1
            if _HOST.fullmatch(value) is None:
                raise _Refused(400, "the host is not well-formed")
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise _Refused(501, "a transfer coding other than chunked is not implemented")
            self._length, self._announced = _CHUNKED, -1
        elif name == b"content-encoding":
            self._encoded = value.lower() != b"identity"
        elif name == b"expect":
            self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser, path = self._parser, self._url
        method, version = parser.get_method(), parser.get_http_version()
        if path[:1] != b"/":
            path = _origin_form(path, method)
        if b"?" in path:
            path = path[: path.index(b"?")]
        self._check_version(version)
        # There is no other protocol, so an upgrade is answered as if it were none (RFC 9110, section 7.8).
        upgrade = parser.should_upgrade()
        if upgrade:
            self._framing = self._length or b"content-length: 0\r\n"
        keep_alive = parser.should_keep_alive() and not upgrade
        request = Request(method, path, self._headers, keep_alive=keep_alive, version=version)
        self._headers = {}  # for trailers, which are no headers (RFC 9110, section 6.5.1)
        listener, announced = self._listener, self._announced
        too_large = announced > listener.max_body_bytes
        # What follows another request is judged when it is its turn: the queue may be short by then.
        refusal = listener.check_head(request, -1 if self._busy or too_large else announced)
        if refusal is None and self._encoded:
            refusal = Refusal(415, "the body has a content coding; send it as it is")
        if refusal is not None:
            # A client that waits for 100 Continue may now send the body or leave it out.
            request.keep_alive = keep_alive and not self._expects and announced <= MAX_DROPPED_BYTES
            request.refusal, request.at = refusal, clock()
            self._dropping = True
            self._take(request)
            return
        if too_large:
            raise _Refused(413, f"the body is larger than {listener.max_body_bytes} bytes")
        if self._length is _CHUNKED and listener.streams(request):
            self._begin_exchange(request)
            return
        self._request = request
        if self._expects and not self._busy:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._listener.max_body_bytes and self._exchange is None:
            raise _Refused(413, f"the body is larger than {self._listener.max_body_bytes} bytes")
        if self._dropping:
            if self._exchange is not None:
                self._exchange.feed(body)
            return
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body) + body  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        if self._framing:
            return  # the body is yet to come
        self._receiving = False
        self._in_head = True
        self._wire = 0
        request, body = self._request, self._body
        if self._dropping or request is None:
            if self._exchange is not None:
                self._parser = None  # it is the last request of its connection
                self._exchange.end_body()
            return
        self._request, self._body = None, b""
        request.body = body if type(body) is bytes else bytes(body)
        request.at = clock()
        if self._busy:
            self._take(request)
        else:
            self._busy = True
            self._listener.handle(request, self)

    # -- From the handler ----------------------------------------------------------------------------------------
    def respond(
        self,
        request: Request,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        headers: bytes = b"",
    ) -> None:
        """Answer `request`.

        Args:
            request: The one that was handed to the handler last.
            status: HTTP status.
            body: Of the answer.
            content_type: Of the body.
            headers: Further header lines, each ended by CRLF.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        listener = self._listener
        keep = request.keep_alive and not listener.closing and not (self._eof and not self._backlog)
        transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b%b\r\n%b"
            % (
                status,
                _REASONS[status],
                content_type,
                len(body),
                listener.date,
                headers,
                b"connection: close\r\n" if not keep else b"" if request.version == "1.1" else _KEEPS,
                b"" if request.method == b"HEAD" else body,
            )
        )
        if not keep:
            self._close()
        elif self._feeding:
            self._answered = True  # the rest of this packet is parsed first
        elif self._backlog:
            self._next()
        else:
            self._busy = False
            self._rest_since = clock()

    def back_off(self) -> None:
        """Read no more for a moment: there was no room for the client's request."""
        if self._transport is not None and not self._closing_since:
            self._pause()
            self._listener.back_off(self)

    # -- From an exchange ----------------------------------------------------------------------------------------
    def begin(self, status: int, content_type: bytes, headers: bytes) -> int:
        """Write the head of an answer in chunks, the last of the connection; its bytes."""
        return self.write_on(
            b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b%b%bconnection: close\r\n\r\n"
            % (status, _REASONS[status], content_type, _CHUNKED, self._listener.date, headers)
        )

    def write_on(self, data: bytes) -> int:
        """Write a part of the answer; its bytes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if self._stuck_since:
                self._count_unread(self.unread())
        return len(data)

    def unread(self) -> int:
        """Bytes of the answer that have not left."""
        return 0 if self._transport is None else int(self._transport.get_write_buffer_size())

    def is_full(self) -> bool:
        """Whether as much of the answer waits for the client as may; `Exchange.notify` is called when it has left."""
        listener = self._listener
        return self._stuck_since > 0 and (self.unread() > listener.max_body_bytes or not listener.share.room())

    def hold(self) -> None:
        """Read no more for now; the client has all the time that this takes."""
        self._began = math.inf
        self._pause()

    def read_on(self) -> None:
        """Read more of the body. Its next part has to be there within the time of a request."""
        if self._began == math.inf:
            self._began = clock()
        self._count_waiting(len(self._body))
        self._resume()

    def drop_rest(self) -> None:
        """Nobody takes the rest of the body."""
        self._exchange, self._body = None, b""
        self._began = min(self._began, clock())
        self._count_waiting(0)

    def leave(self) -> None:
        """End the connection after what was written."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._exchange is not None:  # nothing follows that would reset the connection
            self._transport.close()
        else:
            self._close()

    def _begin_exchange(self, request: Request) -> None:
        """Let the door answer a request whose body is yet to come."""
        request.keep_alive, request.at = False, clock()
        self._dropping = True  # it is not gathered
        self._exchange = Exchange(self, request)
        self._body = self._exchange.data  # type: ignore[assignment]
        if self._busy:
            self._began = math.inf
        elif self._expects:
            self._transport.write(_CONTINUE)
        self._take(request)

    def _check_version(self, version: str) -> None:
        """Refuse a head that its version of HTTP does not allow."""
        if version == "1.1":
            if self._hosts != 1:
                raise _Refused(400, f"there must be one host, not {self._hosts}")
        elif version != "1.0":
            raise _Refused(505, "this takes HTTP/1.1")
        else:
            self._expects = False  # RFC 9110, section 10.1.1
            if self._hosts > 1 or self._length.startswith(b"transfer"):
                raise _Refused(400, "HTTP/1.0 has no more than one host, and no transfer codings")

    # -- Within --------------------------------------------------------------------------------------------------
    def _take(self, request: Request) -> None:
        """Hand a request on, or let it wait for the one before it."""
        if self._busy:
            self._backlog.append(request)
            self._pause()
        else:
            self._busy = True
            self._hand(request)

    def _hand(self, request: Request) -> None:
        if self._exchange is not None and self._exchange.request is request:
            self._listener.stream(request, self._exchange)
        else:
            self._listener.handle(request, self)

    def _next(self) -> None:
        """Go on to what waits, now that the connection's last request is answered."""
        if self._backlog:
            # Not from here: a long pipeline would become a deep stack, and keep everybody else waiting.
            asyncio.get_running_loop().call_soon(self._handle_next)
        else:
            self._busy = False
            self._rest_since = clock()

    def _handle_next(self) -> None:
        if self._transport is not None and self._backlog:
            request = self._backlog.popleft()
            if request.body:
                self._count_waiting(self._waiting_bytes - len(request.body))
            if not self._backlog and not self._stuck_since:
                self._resume()
            self._hand(request)

    def _hand_on(self, data: bytes) -> bool:
        """Whether this was HTTP/2, which continues elsewhere. Its preface is no request of HTTP/1.1."""
        listener, before = self._listener, self._wire - len(data)
        if listener.http2 is None or self._busy or not 0 <= before < len(PREFACE):
            return False
        if not data.startswith(PREFACE[before:]):
            return False
        self._parser = None
        listener.connections.discard(self)
        transport, self._transport = self._transport, None
        listener.http2(transport, PREFACE[:before] + data)
        return True

    def _count_waiting(self, size: int) -> None:
        self._listener.share.take(size - self._waiting_bytes)
        self._waiting_bytes = size

    def _count_unread(self, size: int) -> None:
        self._listener.share.take(size - self._unread_bytes)
        self._unread_bytes = size

    def _refuse(self, status: int, reason: str) -> None:
        """Answer with an error after what is due, and read no more: what follows here cannot be trusted."""
        if self._transport is None or self._parser is None:
            return
        self._parser = None
        self._receiving = False
        if self._exchange is not None:
            self._exchange.break_off(Refusal(status, reason))
            return
        self._body = b""
        self._count_waiting(sum([len(request.body) for request in self._backlog]))
        if not self._dropping:
            self._take(Request(b"", b"", {}, at=clock(), keep_alive=False, refusal=Refusal(status, reason)))
        elif self._backlog:
            self._backlog[-1].keep_alive = False  # it is the one whose body breaks the rules, and waits for its answer
        else:
            self._close()

    def _close(self) -> None:
        """End the connection after the last answer; what the client still sends is dropped until it has read that."""
        self._backlog.clear()
        self._count_waiting(0)
        whole = self._parser is not None and not self._receiving and not self._feeding
        self._parser = None
        if whole or self._eof or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._closing_since = clock()
        self._transport.write_eof()
        self._resume()

    # -- From the listener ---------------------------------------------------------------------------------------
    def check(self, now: float) -> None:
        """Cut the client off if it takes too long."""
        if self._transport is None:
            return
        if self._closing_since:
            if now - self._closing_since > LINGER_SECONDS:
                self._transport.abort()
        elif self._stuck_since and now - self._stuck_since > WRITE_SECONDS:
            if self._exchange is not None and self._exchange.has_progress():
                self._stuck_since = now
            else:
                self._transport.abort()
        elif self._receiving and now - self._began > RECEIVE_SECONDS:
            self._refuse(408, f"the request was not complete after {RECEIVE_SECONDS:g} seconds")
        elif not self._busy and not self._receiving and now - self._rest_since > IDLE_SECONDS:
            self._transport.close()

    def end_back_off(self) -> None:
        """Read on, unless there is another reason not to."""
        if not self._backlog and not self._stuck_since:
            self._resume()

    @property
    def quiet(self) -> bool:
        """Whether no answer is due."""
        sends = self._exchange is not None and self._receiving and self._began < math.inf
        return not self._busy or self._closing_since > 0 or sends

    def quiet_since(self) -> tuple[int, float]:
        """Connections that are over come first, then those that rest, then those that send; the longest of each."""
        if self._closing_since:
            return 0, self._closing_since
        sends = self._receiving and (not self._dropping or self._exchange is not None)
        return (2, self._began) if sends else (1, self._rest_since)

    def abort(self) -> None:
        """End the connection now."""
        self._listener.connections.discard(self)
        if self._transport is not None:
            self._transport.abort()

    def close_if_idle(self) -> None:
        """Close unless a request is being received or answered."""
        backs_off = self._paused and not self._stuck_since  # a request may have come meanwhile, and is due an answer
        if self._transport is not None and not self._busy and not self._receiving and not backs_off:
            self._transport.close()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            with contextlib.suppress(RuntimeError):
                self._transport.pause_reading()
                self._paused = True

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()
            self._paused = False


class _Body:
    """The part of a connection that a parser of a body alone needs."""

    def __init__(self, connection: Connection) -> None:
        self.on_body, self.on_message_complete = connection.on_body, connection.on_message_complete


class _Rest:
    """Takes the place of the parser for the rest of a body that nobody reads.

    Args:
        connection: Continues after it.
        left: Bytes of it that are yet to come.
    """

    def __init__(self, connection: Connection, left: int) -> None:
        self._connection, self._left = connection, left

    def feed_data(self, data: bytes) -> None:
        """Drop it."""
        self._left -= len(data)
        if self._left <= 0:
            self._connection.end_of_rest(data[len(data) + self._left :])


def _origin_form(target: bytes, method: bytes) -> bytes:
    """The path and query of a target in any form (RFC 9112, section 3.2)."""
    authority = _AUTHORITY.match(target)
    if authority is not None:
        rest = target[authority.end() :]
        return rest if rest[:1] == b"/" else b"/" + rest
    if target == b"*" or method == b"CONNECT":
        return target
    raise _Refused(400, "the target of the request is no path")


def connections_of(descriptors: int) -> int:
    """Connections that a process with so many descriptors may have."""
    return max(16, min(MAX_CONNECTIONS, descriptors - _OTHER_DESCRIPTORS))


class _Refused(Exception):  # noqa: N818 - the answer to a request, not an error of ours
    """Status and reason of an answer that ends the connection."""
