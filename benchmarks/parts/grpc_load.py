"""Unary calls over gRPC at a server, as fast as Python can: prepared frames over plain sockets, one call at a time.

A client library would take more than the servers do, and the numbers would be its own. A client of grpcio checks the
server once before anything is measured.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from parts.load import WARM_UP_SECONDS

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _SETTINGS, _PING, _WINDOW, _GOAWAY = 1, 4, 6, 8, 7
_WINDOWS = struct.pack(">HI", 4, (1 << 31) - 1)
"""The setting by which no call waits for a window."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(path: str) -> bytes:
    """The headers that grpcio sends, none of them in a table."""
    fields = {
        ":path": path,
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
        "user-agent": "load",
        "grpc-accept-encoding": "identity, deflate, gzip",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return b"\x83\x86" + b"".join(b"\0%c%b%c%b" % (len(n), n.encode(), len(v), v.encode()) for n, v in fields.items())


def load(
    port: int, path: str, message: bytes, connections: int, seconds: float, cores: Iterable[int]
) -> dict[str, Any]:
    """Send calls for `seconds`, after a warm-up that counts for nothing but `good`: calls a second and latencies.

    Args:
        port: Of a server on the loopback interface.
        path: Service and method.
        message: Of every call.
        connections: How many; on each, one call at a time.
        seconds: How long.
        cores: Cores of the clients, one process each.
    """
    pinned = list(cores)[:connections]
    shares = [connections // len(pinned) + (number < connections % len(pinned)) for number in range(len(pinned))]
    with ProcessPoolExecutor(len(pinned)) as pool:
        parts = [
            pool.submit(_ask, core, port, path, message, share, seconds)
            for core, share in zip(pinned, shares, strict=True)
        ]
        done = [part.result() for part in parts]
    latencies = sorted(each for _, found in done for each in found)
    count = len(latencies)
    return {
        "good": sum(good for good, _ in done),
        "rps": round(count / seconds),
        "p50_ms": round(1000 * latencies[count // 2], 3),
        "p99_ms": round(1000 * latencies[count * 99 // 100], 3),
    }


class _Client:
    """One connection."""

    def __init__(self, port: int, block: bytes, message: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        grown = frame(_WINDOW, 0, 0, struct.pack(">I", (1 << 31) - 1 - 0xFFFF))
        self.socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0, _WINDOWS) + grown)
        self._block = block
        framed = b"\0" + struct.pack(">I", len(message)) + message
        # The largest frame that everyone takes.
        self._data = [framed[start : start + 16384] for start in range(0, len(framed), 16384)]
        self._stream, self._rest = -1, b""
        self.sent = 0.0

    def ask(self) -> None:
        """Begin a call."""
        self._stream += 2
        number, last = self._stream, len(self._data) - 1
        call = frame(_HEADERS, 4, number, self._block) + b"".join(
            frame(0, at == last, number, data) for at, data in enumerate(self._data)
        )
        self.sent = time.perf_counter()
        self.socket.sendall(call)

    def answered(self) -> bool:
        """Whether what came ends the call."""
        data, at, ended = self._rest + self.socket.recv(1 << 18), 0, False
        while len(data) - at >= 9:
            size, kind, flags = int.from_bytes(data[at : at + 3]), data[at + 3], data[at + 4]
            if len(data) - at < 9 + size:
                break
            if kind == _HEADERS and flags & 1:
                if b"grpc-status\x010" not in data[at : at + 9 + size] and size > 2 and b"\0\x0bgrpc-status" in data:
                    raise SystemExit("a call failed")
                ended = True
            elif kind == _SETTINGS and not flags & 1:
                self.socket.sendall(frame(_SETTINGS, 1, 0))
            elif kind == _PING and not flags & 1:
                self.socket.sendall(frame(_PING, 1, 0, data[at + 9 : at + 17]))
            elif kind == _GOAWAY:
                raise SystemExit("the server hung up")
            at += 9 + size
        self._rest = data[at:]
        return ended


def _ask(core: int, port: int, path: str, message: bytes, connections: int, seconds: float) -> tuple[int, list[float]]:
    os.sched_setaffinity(0, {core})
    block, poll, clock = headers(path), select.epoll(), time.perf_counter
    clients = {}
    for _ in range(connections):
        client = _Client(port, block, message)
        clients[client.socket.fileno()] = client
        poll.register(client.socket, select.EPOLLIN)
        client.ask()
    counting = clock() + WARM_UP_SECONDS
    end, good, latencies = counting + seconds, 0, []
    while clock() < end:
        for fd, _ in poll.poll(1, 64):
            client = clients[fd]
            if client.answered():
                now = clock()
                good += 1
                if now > counting:
                    latencies.append(now - client.sent)
                client.ask()
    for client in clients.values():
        client.socket.close()
    return good, latencies
