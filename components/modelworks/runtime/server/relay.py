"""A connection that another server of this process answers: its bytes are passed on, both ways, as they are.

gRPC brings a server of its own. So that both protocols are on one port, a connection that begins with the preface of
HTTP/2 is handed on to it (RFC 9113, section 3.4). One port is what a canary needs: Argo Rollouts writes the weights of
all of an endpoint's Ingresses for the same port of its Services.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Sessions(Protocol):
    """Where connections are counted."""

    def add(self, connection: Any, /) -> None:
        """There is one more."""

    def discard(self, connection: Any, /) -> None:
        """It has ended."""


class Relay(asyncio.Protocol):
    """The client's side of such a connection.

    How slowly it may send, and when it ends, is decided by the server that answers it.

    Args:
        transport: To the client.
        connections: Counts it for as long as it is open.
        clock: The time, in seconds.
        write_seconds: How long it may leave answers unread.
    """

    def __init__(
        self, transport: asyncio.Transport, connections: Sessions, clock: Callable[[], float], write_seconds: float
    ) -> None:
        self._near, self._connections, self._clock = transport, connections, clock
        self._write_seconds, self._stuck_since = write_seconds, 0.0
        self._far: asyncio.Transport | None = None
        self._moved_at = clock()
        connections.add(self)

    async def open(self, address: tuple[str, int], first: bytes) -> None:
        """Take the connection over, whose first bytes have been read already."""
        _pause(self._near)
        self._near.set_protocol(self)
        try:
            far, _ = await asyncio.get_running_loop().create_connection(lambda: _Far(self._near), *address)
        except OSError:  # it has just ended
            self._near.abort()
            return
        if self._near.is_closing():
            far.abort()
            return
        self._far = far
        far.write(first)
        _resume(self._near)

    # -- From the event loop -------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._moved_at = self._clock()
        if self._far is not None:
            self._far.write(data)

    def eof_received(self) -> bool:
        if self._far is not None:
            self._far.write_eof()
        return True  # answers may still be due

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._connections.discard(self)
        if self._far is not None:
            self._far.close()

    def pause_writing(self) -> None:
        self._stuck_since = self._clock()
        _pause(self._far)

    def resume_writing(self) -> None:
        self._stuck_since = 0.0
        _resume(self._far)

    # -- From the listener ---------------------------------------------------------------------------------------
    quiet = True
    """It may be closed to make room for others if nothing came on it for longest."""

    def quiet_since(self) -> tuple[int, float]:
        """When bytes of the client came last; it counts as one that sends a request."""
        return 2, self._moved_at

    def abort(self) -> None:
        """End it now."""
        self._connections.discard(self)
        self._near.abort()

    def check(self, now: float) -> None:
        """Cut the client off if it takes too long to read; for what it sends, the other server has limits."""
        if self._stuck_since and now - self._stuck_since > self._write_seconds:
            self._near.abort()

    def close_if_idle(self) -> None:
        """Nothing: the server that answers it ends it when its calls are answered."""


class _Far(asyncio.Protocol):
    """The side of the server that answers."""

    def __init__(self, near: asyncio.Transport) -> None:
        self._near = near
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._near.write(data)

    def eof_received(self) -> bool:
        self._near.close()  # what is written arrives before
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._near.close()

    def pause_writing(self) -> None:
        _pause(self._near)

    def resume_writing(self) -> None:
        _resume(self._near)


def _pause(transport: asyncio.Transport | None) -> None:
    if transport is not None:
        with contextlib.suppress(RuntimeError):  # it is being closed
            transport.pause_reading()


def _resume(transport: asyncio.Transport | None) -> None:
    if transport is not None:
        with contextlib.suppress(RuntimeError):
            transport.resume_reading()
