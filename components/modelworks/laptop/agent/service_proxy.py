"""Listens on the cluster addresses of Services, and passes each connection on to a pod behind it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelworks.laptop.endpoints import Address

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CHUNK = 65536
_CONNECT_SECONDS = 5.0


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what is read until its end, and then end what is written."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def both_ways(one: Streams, other: Streams) -> None:
    """Copy between two connections until both sides have ended.

    Raises:
        OSError: One of them broke.
    """
    tasks = [asyncio.create_task(copy(one[0], other[1])), asyncio.create_task(copy(other[0], one[1]))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@dataclass
class _Listener:
    server: asyncio.Server
    targets: Sequence[Address]
    turns: Iterator[int]

    def in_turn(self) -> list[Address]:
        """All targets, another first each time."""
        first = next(self.turns) % len(self.targets)
        return [*self.targets[first:], *self.targets[:first]]


class ServiceProxy:
    """A listening socket for each port of each Service that leads somewhere."""

    def __init__(self) -> None:
        self._listeners: dict[Address, _Listener] = {}
        self._refused: set[Address] = set()

    async def update(self, wanted: Mapping[Address, Sequence[Address]]) -> dict[Address, OSError]:
        """Listen there and nowhere else; returns what the kernel refused and had not refused before.

        Connections that exist go on until one side ends them, as they do with a real Service.
        """
        for address in set(self._listeners) - set(wanted):
            self._listeners.pop(address).server.close()
        refused = {}
        for address, targets in wanted.items():
            if address in self._listeners:
                self._listeners[address].targets = targets
                continue
            try:
                self._listeners[address] = await self._listen(address, targets)
            except OSError as error:
                refused[address] = error
        before, self._refused = self._refused, set(refused)
        return {address: error for address, error in refused.items() if address not in before}

    def close(self) -> None:
        """Listen nowhere."""
        for listener in self._listeners.values():
            listener.server.close()
        self._listeners.clear()

    async def _listen(self, address: Address, targets: Sequence[Address]) -> _Listener:
        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError):
                await _pass_on(listener.in_turn(), reader, writer)

        listener = _Listener(await asyncio.start_server(pass_on, *address), targets, itertools.count())
        return listener


async def _pass_on(targets: Sequence[Address], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect with the first target that answers, and copy both ways until both sides have ended."""
    for target in targets:
        try:
            there = await asyncio.wait_for(asyncio.open_connection(*target), _CONNECT_SECONDS)
        except (OSError, TimeoutError):
            continue
        with contextlib.closing(there[1]):
            await both_ways((reader, writer), there)
        return
