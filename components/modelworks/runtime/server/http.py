"""HTTP/1.1 for a served model, directly on an event loop: what a request costs here is what a prediction cannot have.

llhttp (through httptools) does the parsing. Everything a client can do wrong or slowly has a bound here: sizes, time to
send a request, time to take an answer, number of connections, requests in a pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import httptools

MAX_HEAD_BYTES = 32 << 10
"""Largest request line and headers together."""
MAX_CONNECTIONS = 4096
"""Most connections of one process."""
MAX_PIPELINED = 64
"""Requests that wait behind one that is being answered on the same connection, before reading stops."""
RECEIVE_SECONDS = 15.0
"""How long a client may take to send one request."""
IDLE_SECONDS = 75.0
"""How long a connection may rest between requests. Longer than the 60 s of an AWS load balancer, which must be the one
to close (docs.aws.amazon.com, Application Load Balancers, connection idle timeout)."""
WRITE_SECONDS = 20.0
"""How long a client may leave an answer unread."""

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_NOTED = frozenset({b"authorization", b"content-type", b"x-request-id", b"traceparent", b"tracestate"})

clock = time.perf_counter


class Request:
    """One request, complete."""

    __slots__ = ("at", "body", "headers", "keep_alive", "method", "path")

    def __init__(
        self, method: bytes, path: bytes, headers: dict[bytes, bytes], body: bytes, at: float, *, keep_alive: bool
    ) -> None:
        self.method = method
        self.path = path
        """Without the query."""
        self.headers = headers
        """Those of `_NOTED`, names in lower case."""
        self.body = body
        self.at = at
        """When its first byte was read, on `clock`."""
        self.keep_alive = keep_alive


Handler = Callable[[Request, "Connection"], None]
"""Answers a request through `Connection.respond`, now or later, exactly once."""


class Listener:
    """State that connections share: limits, the handler, and the time of day as a header.

    Args:
        handler: Answers requests.
        refuse: Makes the body of an answer to a request that is not well-formed: status and reason to bytes.
        max_body_bytes: Largest body.
    """

    def __init__(self, handler: Handler, refuse: Callable[[int, str], bytes], max_body_bytes: int) -> None:
        self.handler, self.refuse, self.max_body_bytes = handler, refuse, max_body_bytes
        self.connections: set[Connection] = set()
        self.closing = False
        """Set while the server drains: each answer is the last of its connection."""
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

    def close_idle(self) -> None:
        """Close every connection that is not in the middle of a request."""
        for connection in list(self.connections):
            connection.close_if_idle()


class Connection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_at",
        "_backlog",
        "_body",
        "_busy",
        "_head_bytes",
        "_headers",
        "_in_head",
        "_keep_alive",
        "_listener",
        "_parser",
        "_paused",
        "_receiving",
        "_rest_since",
        "_size",
        "_stuck_since",
        "_transport",
        "_url",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._busy = self._receiving = self._paused = False
        self._in_head = True
        self._keep_alive = True
        self._backlog: deque[Request] = deque()
        self._head_bytes = self._size = 0
        self._url, self._body = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._at = self._rest_since = clock()
        self._stuck_since = 0.0

    # -- From the event loop -------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        connections = self._listener.connections
        connections.add(self)
        if len(connections) > MAX_CONNECTIONS:
            self._refuse(429, "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._listener.connections.discard(self)
        self._backlog.clear()
        self._transport = None
        self._parser = None

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # see on_headers_complete
        except _Refused as refused:
            self._refuse(*refused.args)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(*(cause.args if isinstance(cause, _Refused) else (400, "the request is not well-formed")))
        except httptools.HttpParserError:
            self._refuse(400, "the request is not well-formed HTTP/1.1")
        else:
            if self._in_head and self._receiving and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the headers are larger than {MAX_HEAD_BYTES} bytes")

    def eof_received(self) -> bool:
        # A client may close its sending side and still read the answer.
        return self._busy

    def pause_writing(self) -> None:
        self._stuck_since = clock()
        self._pause()

    def resume_writing(self) -> None:
        self._stuck_since = 0.0
        self._resume()

    # -- From the parser -----------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        self._at = clock()
        self._receiving = self._in_head = True
        self._url, self._body, self._size = b"", b"", 0
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _NOTED:
            self._headers[name] = value
        elif name == b"content-length":
            if len(value) > 18 or int(value) > self._listener.max_body_bytes:
                raise _Refused(413, f"the body is larger than {self._listener.max_body_bytes} bytes")
        elif name == b"expect" and value.lower() == b"100-continue" and not self._busy:
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if self._parser.should_upgrade():
            # We speak nothing else, so the request is answered as it is, and nothing after it can be read.
            self._keep_alive = False
        if b"expect" in self._headers:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._listener.max_body_bytes:
            raise _Refused(413, f"the body is larger than {self._listener.max_body_bytes} bytes")
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:
            self._body = bytearray(self._body) + body  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        self._receiving = False
        self._in_head = True
        parser = self._parser
        path = self._url
        if b"?" in path:
            path = path[: path.index(b"?")]
        body = self._body
        request = Request(
            parser.get_method(),
            path,
            self._headers,
            body if type(body) is bytes else bytes(body),
            self._at,
            keep_alive=parser.should_keep_alive() and self._keep_alive,
        )
        if self._busy:
            self._backlog.append(request)
            if len(self._backlog) > MAX_PIPELINED:
                self._pause()
        else:
            self._busy = True
            self._listener.handler(request, self)

    # -- From the handler ----------------------------------------------------------------------------------------
    def respond(
        self,
        request: Request,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        headers: bytes = b"",
        *,
        close: bool = False,
    ) -> None:
        """Answer `request`.

        Args:
            request: The one that was handed to the handler last.
            status: HTTP status.
            body: Of the answer.
            content_type: Of the body.
            headers: Further header lines, each ended by CRLF.
            close: Whether the connection ends with this answer.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        listener = self._listener
        keep = request.keep_alive and not close and not listener.closing
        transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b%b\r\n%b"
            % (
                status,
                _REASONS[status],
                content_type,
                len(body),
                listener.date,
                headers,
                b"" if keep else b"connection: close\r\n",
                b"" if request.method == b"HEAD" else body,
            )
        )
        if not keep:
            transport.close()
            return
        self._busy = False
        if self._backlog:
            # Not from here: a long pipeline would become a deep stack.
            self._busy = True
            asyncio.get_running_loop().call_soon(self._next)
        else:
            self._rest_since = clock()

    def _next(self) -> None:
        if self._transport is not None and self._backlog:
            request = self._backlog.popleft()
            if not self._backlog and not self._stuck_since:
                self._resume()
            self._listener.handler(request, self)

    def _refuse(self, status: int, reason: str) -> None:
        """Send the error and close: later bytes of this connection cannot be trusted."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._busy:  # an answer that is still due comes first; then this client gets none
            body = self._listener.refuse(status, reason)
            transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n%b"
                b"connection: close\r\n%b\r\n%b"
                % (
                    status,
                    _REASONS[status],
                    len(body),
                    self._listener.date,
                    b"retry-after: 1\r\n" if status == 429 else b"",
                    body,
                )
            )
        transport.close()

    # -- From the listener ---------------------------------------------------------------------------------------
    def check(self, now: float) -> None:
        """Cut the client off if it takes too long."""
        if self._transport is None:
            return
        if self._stuck_since and now - self._stuck_since > WRITE_SECONDS:
            self._transport.abort()
        elif self._receiving and now - self._at > RECEIVE_SECONDS:
            self._refuse(408, f"the request was not complete after {RECEIVE_SECONDS:g} seconds")
        elif not self._busy and not self._receiving and now - self._rest_since > IDLE_SECONDS:
            self._transport.close()

    def close_if_idle(self) -> None:
        """Close unless a request is being received or answered."""
        if self._transport is not None and not self._busy and not self._receiving:
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


class _Refused(Exception):  # noqa: N818 - the answer to a request, not an error of ours
    """Status and reason of an answer that ends the connection."""
