"""How many messages of gRPC calls may be on their way, how large and how slow.

Until a message is read, gRPC lets a client send no more than a window of it. Then it takes all of it into memory,
however slowly it comes. So messages are read within a budget. When it is spent, calls wait for those before them, and
the one that has been sending for longest is refused unless it ends within a moment.
"""

from __future__ import annotations

import asyncio
from typing import Any

from modelworks.runtime.server.http import IDLE_SECONDS, MAX_WAITING_BYTES, RECEIVE_SECONDS, WRITE_SECONDS
from modelworks.runtime.server.refusals import InvalidRequestError

MAX_CALLS = 1024
"""Most calls at once, whose messages are complete or on their way; gRPC itself refuses the rest."""
_WINDOW_BYTES = 64 << 10
"""Most bytes of a message that is not read yet."""
_MOMENT_SECONDS = 0.25
"""A message that has arrived is read in far less, however many arrive together."""


def options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Limits of a server that gRPC itself enforces (grpc.github.io/grpc/core, group__grpc__arg__keys)."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
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
        max_message_bytes: Of one of them.
        seconds: How long a client may take to send one.
    """

    def __init__(self, max_message_bytes: int, seconds: float = RECEIVE_SECONDS) -> None:
        self._room = asyncio.Semaphore(max(2, MAX_WAITING_BYTES // max_message_bytes))
        self._seconds = seconds
        self._waiting = 0
        """Calls for whose messages there is no room."""
        self._reading: dict[asyncio.Timeout, float] = {}
        """When each read began that nobody waits for; the first one in front."""

    async def message(self, context: Any) -> bytes:
        """The message of a call; an empty one if it has none.

        Raises:
            InvalidRequestError: It did not come in time, or had to make room for others.
        """
        await self._enter()
        limit = asyncio.timeout(_MOMENT_SECONDS if self._waiting else self._seconds)
        try:
            async with limit:
                if not self._waiting:
                    self._reading[limit] = asyncio.get_running_loop().time()
                message = await context.read()
        except TimeoutError as error:
            if limit in self._reading:
                detail = f"the message was not complete after {self._seconds:g} seconds"
                raise InvalidRequestError("", detail, 408) from error
            raise InvalidRequestError("", "too many large requests at once", 429) from error
        finally:
            self._reading.pop(limit, None)
            self._room.release()
        return message if isinstance(message, bytes) else b""

    async def _enter(self) -> None:
        if self._room.locked():
            self._hurry()
        self._waiting += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting -= 1

    def _hurry(self) -> None:
        """Give the longest read no more than a moment, for somebody waits for its room."""
        if self._reading:
            longest = next(iter(self._reading))
            longest.reschedule(self._reading.pop(longest) + _MOMENT_SECONDS)
