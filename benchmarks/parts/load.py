"""Requests at a server, and how it answers: as fast as Python can, from every core that the server leaves.

A plain loop over epoll and prepared bytes: about 10 us a request, of which the kernel takes most. The client must cost
less than the server, or the numbers are the client's.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

WARM_UP_SECONDS = 0.5

Answers = dict[str, list[float]]
"""Latencies in seconds, by status."""


def load(
    port: int,
    request: bytes,
    connections: int,
    seconds: float,
    cores: Iterable[int],
    rate: float | None = None,
    *,
    spins: bool = False,
) -> dict[str, Any]:
    """Send requests for `seconds`, after a warm-up that counts for nothing but `good`: the answers with status 200.

    Args:
        port: Of a server on the loopback interface.
        request: As it goes over the wire.
        connections: How many; on each, one request at a time.
        seconds: How long.
        cores: Cores of the clients, one process each.
        rate: Requests a second, whether those before were answered or not, as far as there are connections. None: as
            soon as a connection is free.
        spins: Whether the clients keep their cores busy while they wait, as they do with a rate. A server may be slower
            next to a busy core.
    """
    pinned = list(cores)[:connections]
    shares = [connections // len(pinned) + (number < connections % len(pinned)) for number in range(len(pinned))]
    with ProcessPoolExecutor(len(pinned)) as pool:
        parts = [
            pool.submit(_ask, core, port, request, share, seconds, rate and rate * share / connections, spins)
            for core, share in zip(pinned, shares, strict=True)
        ]
        done = [part.result() for part in parts]
    answers: Answers = {}
    for _, found in done:
        for status, latencies in found.items():
            answers.setdefault(status, []).extend(latencies)
    return {"good": sum(good for good, _ in done), "by_status": _summary(answers, seconds)}


def _summary(answers: Answers, seconds: float) -> dict[str, Any]:
    summary = {}
    for status, latencies in sorted(answers.items()):
        latencies.sort()
        count = len(latencies)
        summary[status] = {
            "rps": round(count / seconds, 1 if count < 100 * seconds else None),
            "p50_ms": round(1000 * latencies[count // 2], 3),
            "p99_ms": round(1000 * latencies[count * 99 // 100], 3),
        }
    return summary


def _ask(
    core: int, port: int, request: bytes, connections: int, seconds: float, rate: float | None, spins: bool
) -> tuple[int, Answers]:
    os.sched_setaffinity(0, {core})
    clock = time.perf_counter
    poll = select.epoll()
    calls: dict[int, tuple[Any, Any]] = {}
    sockets: dict[int, socket.socket] = {}

    def connect() -> int:
        each = socket.create_connection(("127.0.0.1", port))
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        each.setblocking(False)
        poll.register(each, select.EPOLLIN)
        sockets[each.fileno()] = each
        calls[each.fileno()] = (each.recv, each.send)
        return each.fileno()

    free = deque(connect() for _ in range(connections))
    sent: dict[int, float] = {}
    unsent: dict[int, memoryview] = {}
    """Of requests that the server takes slowly."""
    parts: dict[int, bytes] = {}
    answers: Answers = {}

    def send(fd: int, data: memoryview) -> None:
        try:
            left = data[calls[fd][1](data) :]
        except BlockingIOError:
            left = data
        if left:
            if fd not in unsent:
                poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
            unsent[fd] = left
        elif unsent.pop(fd, None) is not None:
            poll.modify(fd, select.EPOLLIN)
            if fd not in sent:
                free.append(fd)

    whole, wait = memoryview(request), 0 if rate or spins else 1
    began = clock()
    counting, end = began + WARM_UP_SECONDS, began + WARM_UP_SECONDS + seconds
    issued = good = 0
    while (now := clock()) < end:
        due = len(free) if rate is None else int((now - began) * rate) - issued
        for _ in range(min(due, len(free), 32)):
            fd = free.popleft()
            sent[fd] = clock()
            send(fd, whole)
            issued += 1
        for fd, event in poll.poll(wait, 64):
            if event & select.EPOLLOUT:
                send(fd, unsent[fd])
            if not event & ~select.EPOLLOUT:
                continue
            answer = calls[fd][0](1 << 18)
            if not answer:
                raise SystemExit("the server hung up")
            if fd in parts:
                answer = parts.pop(fd) + answer
            if not _complete(answer):
                parts[fd] = answer
                continue
            now = clock()
            status = answer[9:12].decode()
            good += status == "200"
            if now > counting:
                answers.setdefault(status, []).append(now - sent[fd])
            del sent[fd]
            if b"connection: close" in answer:
                unsent.pop(fd, None)
                del calls[fd]
                sockets.pop(fd).close()
                free.append(connect())
            elif fd not in unsent:
                free.append(fd)
    for each in sockets.values():
        each.close()
    return good, answers


def _complete(answer: bytes) -> bool:
    head = answer.find(b"\r\n\r\n")
    if head < 0:
        return False
    # Every server here spells it so.
    start = answer.index(b"content-length:", 0, head) + 15
    return len(answer) >= head + 4 + int(answer[start : answer.index(b"\r", start)])
