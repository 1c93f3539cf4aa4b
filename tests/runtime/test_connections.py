"""Connections, over real sockets: what is due is given, and strangers take no more than the bounds allow in sum."""

from __future__ import annotations

import asyncio
import http.client
import resource
import threading
from contextlib import AsyncExitStack
from typing import Any

import pytest

from modelworks.runtime import serve
from modelworks.runtime.server import budget
from modelworks.runtime.server import http as server
from modelworks.runtime.server.http import connections_of
from runtime import small
from runtime.small import answer, ask, connected, get, listening, post
from waiting import PATIENCE


@pytest.fixture
def app(tmp_path):
    return small.build(tmp_path, max_body_bytes=100_000)


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """All that still comes before the server closes."""
    return await asyncio.wait_for(reader.read(), PATIENCE)


async def all_closed(front: server.Listener) -> None:
    while front.connections:  # noqa: ASYNC110 - the turns of the loop are what is awaited
        await asyncio.sleep(0)


# -- Answers that are due --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nonsense", "status"),
    [
        (b"\x00\x01\x02 nonsense\r\n\r\n", 400),
        (b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + b"a: %b\r\n" % (b"x" * 600_000), 431),
    ],
)
async def test_answers_that_are_due_are_given_before_an_error_ends_the_connection(app, nonsense, status):
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(post() + post() + nonsense)
        answers = [await answer(reader) for _ in range(3)]
        assert [found for found, _, _ in answers] == [200, 200, status]
        assert b"connection: close" in answers[2][1]
        assert await rest_of(reader) == b""


async def test_a_client_that_ends_its_side_gets_its_answers_and_the_end(app):
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(post() + post())
        writer.write_eof()
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 200]
        assert await rest_of(reader) == b""


async def test_nothing_after_a_last_request_is_answered(app):
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(get(b"/livez", b"connection: close") + get(b"/livez"))
        assert (await answer(reader))[0] == 200
        assert await rest_of(reader) == b""


async def test_a_client_that_sends_all_before_it_reads_sees_why_it_was_refused(app):
    def upload(port: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("POST", "/v1/predict", b"x" * 8_000_000)
        return connection.getresponse().status

    async with listening(app) as (_, port):
        assert await asyncio.to_thread(upload, port) == 413


async def test_a_refused_client_that_never_stops_sending_is_cut_off(app, monkeypatch):
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.0)
    async with listening(app) as (front, port), connected(port) as (reader, writer):
        writer.write(b"nonsense\r\n\r\n")
        assert (await answer(reader))[0] == 400
        front.sweep()
        await all_closed(front)


# -- Bounds in sum ---------------------------------------------------------------------------------------------------
async def test_a_packet_of_requests_lets_others_in_between(app):
    """Requests of one connection are answered one in a turn of the loop, so they cannot hold it."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with listening(app) as (_, port), connected(port) as (reader, writer):
        counting = asyncio.create_task(count())
        writer.write(get(b"/v1/version") * 300)
        for _ in range(300):
            assert (await answer(reader))[0] == 200
        counting.cancel()
    assert turns >= 300


async def test_the_longest_idle_connections_make_room(app):
    async with listening(app, max_connections=20) as (front, port), AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(port)) for _ in range(60)]
        assert (await ask(port, get(b"/readyz")))[0] == 200
        assert len(front.connections) <= 20
        for reader, _ in idle[:40]:
            assert await rest_of(reader) == b""
        reader, writer = idle[-1]
        writer.write(post())
        assert (await answer(reader))[0] == 200


async def test_a_connection_that_waits_for_its_answer_is_not_closed_to_make_room(tmp_path):
    go_on = threading.Event()

    class Slow(small.Model):
        cost = small.Cost(call=1.0, row=0.0)

        def predict(self, rows: Any) -> Any:
            go_on.wait(PATIENCE)
            return super().predict(rows)

    async with listening(small.build(tmp_path, Slow()), max_connections=8) as (front, port), AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(connected(port)) for _ in range(8)]
        for _, writer in busy:
            writer.write(post())
        while sum(connection._busy for connection in front.connections) < 8:  # noqa: ASYNC110 - see `all_closed`
            await asyncio.sleep(0)
        assert (await ask(port, b""))[0] == 429
        go_on.set()
        assert [(await answer(reader))[0] for reader, _ in busy] == [200] * 8


async def test_bodies_that_are_not_complete_have_one_budget(app, monkeypatch):
    head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n"
    monkeypatch.setattr(budget, "BUDGET_BYTES", 1_000_000)
    async with listening(app) as (front, port), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port)) for _ in range(40)]
        for _, writer in clients:
            writer.write(head + b"x" * 80_000)
            await writer.drain()
        refused = [answer(reader) for reader, _ in clients[20:]]
        assert {found for found, _, _ in await asyncio.gather(*refused)} == {429}
        assert front.share.used <= 1_000_000
        assert (await ask(port, post()))[0] == 200
        for _, writer in clients:
            writer.write(b"x" * 10_000)
        assert (await answer(clients[0][0]))[0] == 400  # complete now, and no JSON
        for _, writer in clients:
            writer.close()
        await all_closed(front)
    assert front.share.used == 0


async def test_answers_that_nobody_reads_have_a_budget_too(app, monkeypatch):
    monkeypatch.setattr(budget, "BUDGET_BYTES", 1_000_000)
    app._pages[b"/large"] = (b"text/plain", b"x" * 7_000_000)  # more than the kernel's buffers take
    async with listening(app) as (front, port), connected(port) as (reader, writer):
        writer.write(get(b"/large"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await answer(reader)
        assert front.share.used == 0
        assert (await ask(port, post()))[0] == 200


async def test_requests_that_wait_on_a_connection_stop_it_from_being_read(app):
    async with listening(app) as (front, port), connected(port) as (reader, writer):
        writer.write(post() + post())
        assert (await answer(reader))[0] == 200
        assert (await answer(reader))[0] == 200
        [connection] = front.connections
        assert not connection._paused
        assert front.share.used == 0


def test_connections_leave_descriptors_for_the_rest():
    assert connections_of(1024) < 1000
    assert connections_of(1 << 20) == server.MAX_CONNECTIONS


def test_the_soft_limit_of_descriptors_is_raised():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
        raised = serve._raised_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (raised, hard)
        assert raised > 1024 or raised == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
