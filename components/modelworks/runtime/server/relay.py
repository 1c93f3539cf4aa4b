"""A connection that another server of this process answers: its bytes are passed on, both ways, as they are.

A client that costs more than calls do is cut off here, before the other server unpacks what it sends: see `frames`.

gRPC brings a server of its own. So that both protocols are on one port, a connection that begins with the preface of
HTTP/2 is handed on to it (RFC 9113, section 3.4). One port is what a canary needs: Argo Rollouts writes the weights of
all of an endpoint's Ingresses for the same port of its Services.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from modelworks.runtime.server.budget import Share
from modelworks.runtime.server.frames import FrameError, Frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAMS = 2048
"""Most calls of all connections at once, with those that clients left in the last second. Beyond that, the connection
with most of them is closed."""
_MOST_OF_ONE = 256
"""Of one connection: twice what gRPC admits at once (see `grpc_limits`)."""
_MOST_IDLE, _IDLE_OF_CALL = 1000, 4
"""Frames in a second that are no part of a call, such as pings; and those that each call may have."""
_FEW = 16
"""A connection with so many is never the one that is closed for others."""


class Sessions(Protocol):
    """Where connections are counted."""

    def __iter__(self) -> Iterator[Any]:
        """All of them."""

    def add(self, connection: Any, /) -> None:
        """There is one more."""

    def discard(self, connection: Any, /) -> None:
        """It has ended."""


class Calls:
    """Numbers of calls of all connections together."""

    count = 0
    """Those that are not over."""
    left = 0
    """Those that clients left in the last second: gRPC may not be done with them."""


class Relay(asyncio.Protocol):
    """The client's side of such a connection.

    How slowly it may send, and when it ends, is decided by the server that answers it.

    Args:
        transport: To the client.
        connections: Counts it for as long as it is open.
        calls: Counts its calls.
        share: Of the budget, for answers that are not read.
        clock: The time, in seconds.
        write_seconds: How long it may leave answers unread.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        connections: Sessions,
        calls: Calls,
        share: Share,
        clock: Callable[[], float],
        write_seconds: float,
    ) -> None:
        self.near, self._connections, self._clock = transport, connections, clock
        self._calls, self._share, self._unread_bytes = calls, share, 0
        self._write_seconds, self._stuck_since = write_seconds, 0.0
        self._far: asyncio.Transport | None = None
        self._moved_at = clock()
        self._sent, self._answered = Frames(len(PREFACE), checked=True), Frames(checked=False)
        self._streams: set[int] = set()
        """Calls that are not over."""
        self._last = self._left = 0
        connections.add(self)

    async def open(self, address: tuple[str, int], first: bytes) -> None:
        """Take the connection over, whose first bytes have been read already."""
        _pause(self.near)
        self.near.set_protocol(self)
        try:
            far, _ = await asyncio.get_running_loop().create_connection(lambda: _Far(self), *address)
        except OSError:  # it has just ended
            self.near.abort()
            return
        if self.near.is_closing():
            far.abort()
            return
        self._far = far
        _resume(self.near)
        self.data_received(first)

    # -- From the event loop -------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        self._moved_at = self._clock()
        if self._far is None:
            return
        try:
            passed = self._sent.take(data)
        except FrameError:
            self.abort()
            return
        if (self._sent.begun and not self._begin()) or self._sent.idle > _MOST_IDLE:
            self.abort()
            return
        if self._sent.ended:
            left = self._over(self._sent.ended)
            self._left += left
            self._calls.left += left
        self._far.write(passed)

    def answered(self, data: bytes) -> None:
        """Pass an answer on."""
        self.near.write(self._answered.take(data))
        if self._answered.ended:
            self._over(self._answered.ended)

    def eof_received(self) -> bool:
        if self._far is not None:
            self._far.write_eof()
        return True  # answers may still be due

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._leave()
        self._count_unread(0)
        if self._far is not None:
            self._far.close()

    def pause_writing(self) -> None:
        self._stuck_since = self._clock()
        _pause(self._far)
        self._count_unread(self.near.get_write_buffer_size())
        if not self._share.room():
            asyncio.get_running_loop().call_soon(self.near.abort)  # not within a write to it

    def resume_writing(self) -> None:
        self._stuck_since = 0.0
        self._count_unread(0)
        _resume(self._far)

    # -- From the listener ---------------------------------------------------------------------------------------
    quiet = True
    """It may be closed to make room for others if nothing came on it for longest."""

    def quiet_since(self) -> tuple[int, float]:
        """When bytes of the client came last; it counts as one that sends a request."""
        return 2, self._moved_at

    @property
    def weight(self) -> int:
        """Its calls that are not over, and those that it left in the last second."""
        return len(self._streams) + self._left

    def abort(self) -> None:
        """End it now."""
        self._leave()
        self.near.abort()

    def check(self, now: float) -> None:
        """Cut the client off if it takes too long to read; for what it sends, the other server has limits."""
        self._left = self._sent.idle = 0
        if self._stuck_since and now - self._stuck_since > self._write_seconds:
            self.near.abort()

    def close_if_idle(self) -> None:
        """Nothing: the server that answers it ends it when its calls are answered."""

    def _begin(self) -> bool:
        """Count the calls that begin; whether they may. Later headers of a call are its trailers."""
        new = {stream for stream in self._sent.begun if stream > self._last}
        self._sent.begun.clear()
        self._streams |= new
        self._calls.count += len(new)
        self._sent.idle -= _IDLE_OF_CALL * len(new)
        self._last = max(new, default=self._last)
        if self.weight > _MOST_OF_ONE:
            return False
        if self._calls.count + self._calls.left > MAX_STREAMS:
            heaviest = max(
                (each for each in self._connections if isinstance(each, Relay)), key=lambda each: each.weight
            )
            if heaviest is self:
                return self.weight <= _FEW
            if heaviest.weight > _FEW:
                heaviest.abort()
        return True

    def _over(self, ended: set[int]) -> int:
        """Forget these calls; how many they were."""
        count = len(self._streams & ended)
        self._calls.count -= count
        self._streams -= ended
        ended.clear()
        return count

    def _leave(self) -> None:
        """The connection ends, and with it its calls."""
        self._connections.discard(self)
        self._calls.left += len(self._streams)
        self._over(set(self._streams))

    def _count_unread(self, size: int) -> None:
        self._share.take(size - self._unread_bytes)
        self._unread_bytes = size


class _Far(asyncio.Protocol):
    """The side of the server that answers."""

    def __init__(self, relay: Relay) -> None:
        self._relay, self._near = relay, relay.near
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._relay.answered(data)

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
