"""How many messages of gRPC calls may be on their way, how large and how slow.

Until a message is read, gRPC lets a client send no more than a window of it. Then it takes all of it into memory,
however slowly it comes. So messages are read within a budget. When it is spent, calls wait for those before them, and
the one that has been sending for longest is refused unless it ends within a moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from modelworks.runtime.server.budget import Share
from modelworks.runtime.server.http import IDLE_SECONDS, RECEIVE_SECONDS, WRITE_SECONDS
from modelworks.runtime.server.refusals import InvalidRequestError

MAX_CALLS = 1024
"""Most calls at once, whose messages are complete or on their way."""
_STREAMS = 128
"""Most calls of one connection; more wait at the client. RFC 9113, section 6.5.2, recommends at least 100."""
MAX_WATCHERS = 32
"""Most callers that watch the health; the one that does so for longest makes room for another."""
_WINDOW_BYTES = 64 << 10
"""Most bytes of a message that is not read yet."""
_MOMENT_SECONDS = 0.25
"""A message that has arrived is read in far less, however many arrive together."""
CUT_OFF = "the message is too large, or its caller gave up"


def options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Limits of a server that gRPC itself enforces (grpc.github.io/grpc/core, group__grpc__arg__keys)."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", _STREAMS),
        # Else a call counts until gRPC has cleaned up after it, and it refuses calls of clients that keep to the limit.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
        ("grpc.server_handshake_timeout_ms", int(RECEIVE_SECONDS * 1000)),
        # A client that has gone without a word is noticed.
        ("grpc.keepalive_time_ms", int(IDLE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", int(WRITE_SECONDS * 1000)),
        # Else the window grows with the speed of a client.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
    ]


class Receiver:
    """Reads the messages of calls.

    Args:
        share: Of the budget. Each message takes as much as the largest: its size is not known before.
        largest: Bytes of that.
        seconds: How long a client may take to send one.
    """

    def __init__(self, share: Share, largest: int, seconds: float = RECEIVE_SECONDS) -> None:
        self._share, self._largest, self._seconds = share, largest, seconds
        share.freed = self._let_in
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Calls for whose messages there is no room."""
        self._reading: dict[asyncio.Timeout, float] = {}
        """When each read began that nobody waits for; the first one in front."""

    async def message(self, context: Any) -> bytes:
        """The message of a call; an empty one if it has none.

        Raises:
            InvalidRequestError: It did not come in time, or had to make room for others.
            CutOffError: The call ended before it was complete.
        """
        try:
            message = await self._read(context)
            if not isinstance(message, bytes):
                # The call has no message, or is cancelled in this moment: what gRPC refuses begins like one without.
                await asyncio.sleep(_MOMENT_SECONDS)
                message = b""
        except asyncio.CancelledError as error:
            late = context.time_remaining() == 0
            raise CutOffError(408 if late else 413, "the caller's deadline has passed" if late else CUT_OFF) from error
        return message

    async def _read(self, context: Any) -> Any:
        await self._enter()
        limit = asyncio.timeout(_MOMENT_SECONDS if self._waiting else self._seconds)
        try:
            async with limit:
                if not self._waiting:
                    self._reading[limit] = asyncio.get_running_loop().time()
                return await context.read()
        except TimeoutError as error:
            if limit in self._reading:
                detail = f"the message was not complete after {self._seconds:g} seconds"
                raise InvalidRequestError("", detail, 408) from error
            raise InvalidRequestError("", "too many large requests at once", 429) from error
        finally:
            self._reading.pop(limit, None)
            self._share.take(-self._largest)

    async def _enter(self) -> None:
        if not self._waiting and self._share.room(self._largest):
            self._share.take(self._largest)
            return
        self._hurry()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._share.take(-self._largest)
            raise

    def _let_in(self) -> None:
        """Give the calls that wait what room there is, in order."""
        while self._waiting and self._share.room(self._largest):
            self._share.take(self._largest)
            self._waiting.popleft().set_result(None)

    def _hurry(self) -> None:
        """Give the longest read no more than a moment, for somebody waits for its room."""
        if self._reading:
            longest = next(iter(self._reading))
            longest.reschedule(self._reading.pop(longest) + _MOMENT_SECONDS)


class CutOffError(asyncio.CancelledError):
    """A call ended before its message was complete.

    Args:
        status: As HTTP has it.
        detail: Why, as far as it is known.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
