"""How tests wait: for what they claim, never for a while.

The bound decides only how late a failure is reported, so it is far beyond what the busiest machine needs.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120
"""Seconds that any single thing may take, here and as the timeout of sockets, requests and processes."""


def eventually(
    condition: Callable[[], Any],
    what: Callable[[], object] = lambda: "",
    *,
    patience: float = PATIENCE,
    pause: float = 0.02,
) -> Any:
    """What `condition` gives, once it is true; `what` says how things stand when it never was."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not true within {patience} s: {what()}"
        time.sleep(pause)
    return found


async def eventually_async(condition: Callable[[], Any]) -> Any:
    """What `condition` gives, once it is true, while the event loop runs on."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not true within {PATIENCE} s"
        await asyncio.sleep(0.01)
    return found


def held_port() -> socket.socket:
    """A port of loopback that nobody else is given: connections to it are refused until its user listens there."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    # Set after the bind, it lets one more socket bind here, and keeps the kernel from handing the port out.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return holder
