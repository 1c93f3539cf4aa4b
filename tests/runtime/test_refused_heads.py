"""A full server refuses by the head of a request, over real sockets: at once, in order, and as cheaply as it can."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack

import pytest

from modelworks.runtime.server import http as server
from modelworks.runtime.server import metrics
from modelworks.runtime.server.refusals import FULL
from runtime import small
from runtime.small import BODY, answer, ask, connected, fill, get, listening, logged, post
from runtime.test_conformance import CHUNKED, CHUNKS, UPGRADE, Case, everything
from waiting import PATIENCE, eventually_async

LAST = get(b"/last", b"connection: close")
HEAD = post()[: -len(BODY)]


def sized(size: int, *headers: bytes, path: bytes = b"/v1/predict") -> bytes:
    """The head of a request with so large a body."""
    return post(*headers, body=b"x" * size, path=path)[:-size]


CASES = [
    # -- The connection
    Case("9112 9.3", "the body of a refused request is read, and the connection persists", post(), (429,), True),
    Case("9112 9.3", "as is that of one without a body", post(body=b""), (429,), True),
    Case("9112 9.3", "up to a bound", sized(300_000), (429,), False),
    Case(
        "9112 9.3.2", "what follows a refused request is answered after it", post() + get(b"/livez"), (429, 200), True
    ),
    Case("9112 9.3.2", "and so is another refusal", get(b"/livez") + post() + post(), (200, 429, 429), True),
    Case("9112 9.6", "a refusal may be the last answer", post(b"connection: close") + get(b"/livez"), (429,), False),
    Case("9112 6.3", "what is beyond the announced length is another request", post() + BODY, (429, 400), False),
    Case("9112 6.1", "two lengths are one too many", post(b"transfer-encoding: chunked"), (400,), False),
    Case(
        "9112 7.1",
        "chunks are read to their end",
        b"POST /v1/predict HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"\r\n" + CHUNKS,
        (429,),
        True,
    ),
    Case("9112 C.2.2", "HTTP/1.0 ends", post().replace(b"HTTP/1.1", b"HTTP/1.0"), (429,), False),
    # -- What is expected
    Case("9110 10.1.1", "no 100 precedes the refusal", post(b"expect: 100-continue"), (429,), False),
    Case("9110 7.8", "an upgrade is refused by its head too", post(UPGRADE[:-2]), (429,), False),
    # -- What is refused for another reason, or not at all
    Case("9110 15.5.14", "a body that is never taken has its own status", sized(2_000_000), (413,), False),
    Case("9110 15.5.6", "and so has a method", get(b"/v1/predict"), (405,), True),
    Case("9110 15.5.5", "and a path", post(path=b"/v1/other"), (404,), True),
    Case("9110 9.3.1", "a page needs no room", get(b"/readyz"), (200,), True),
]


@pytest.fixture
def app(tmp_path):
    """A full one."""
    app = small.build(tmp_path)
    fill(app)
    return app


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section}: {case.claim}")
async def test_a_full_server_answers_as_its_rfc_demands(app, case):
    async with listening(app) as (_, port):
        found = await everything(case.sent + LAST, port)
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]
    assert statuses == [*case.statuses, *([404] if case.stays else [])]
    assert found.count(b"connection: close") == 1


async def test_a_refusal_names_the_time_to_come_back(app):
    """RFC 6585, section 4."""
    async with listening(app) as (_, port):
        status, head, problem = await ask(port, HEAD)
    assert (status, b"retry-after: 1\r\n" in head) == (429, True)
    assert json.loads(problem)["detail"] == FULL


@pytest.mark.parametrize("path", [b"/v1/predict", b"/v2/models/tiny/infer"])
@pytest.mark.parametrize("pieces", [1, 2, 7])
async def test_the_answer_comes_before_the_body_and_the_next_request_after_it(app, path, pieces):
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(sized(70_000, path=path))
        assert (await answer(reader))[0] == 429
        for number in range(pieces):
            writer.write(b"x" * (70_000 // pieces + (number < 70_000 % pieces)))
            await writer.drain()
        writer.write(get(b"/livez"))
        assert (await answer(reader))[0] == 200


async def test_a_body_that_is_refused_takes_no_memory_and_one_that_never_comes_ends(app, monkeypatch):
    async with listening(app) as (front, port), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port)) for _ in range(60)]
        for number, (_, writer) in enumerate(clients):
            writer.write(sized(200_000) + b"x" * (3000 * number))
        assert {(await answer(reader))[0] for reader, _ in clients} == {429}
        assert (await ask(port, get(b"/readyz")))[0] == 200
        assert front.share.used == 0
        monkeypatch.setattr(server, "RECEIVE_SECONDS", 0.0)
        monkeypatch.setattr(server, "LINGER_SECONDS", 0.0)
        front.sweep()
        rest = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in clients)), PATIENCE)
        assert set(rest) == {b""}
        front.sweep()
        await eventually_async(lambda: not front.connections)


async def test_a_refusal_by_the_head_is_counted_and_logged_as_any(app):
    async with listening(app) as (_, port):
        for _ in range(5):
            assert (await ask(port, HEAD))[0] == 429
    row = app.engine.counters.row
    assert (row[metrics.REQUESTS], row[metrics.REJECTED], row[metrics.ERRORS]) == (5, 5, 0)
    assert app.engine.refused == {429: 5}
    app.tick(last=True)
    assert logged(app) == ["request", "more requests were refused"]


async def test_a_stranger_is_not_told_that_the_server_is_full(tmp_path):
    (tmp_path / "tokens").write_text("secret")
    app = small.build(tmp_path, token_file=tmp_path / "tokens")
    fill(app)
    async with listening(app) as (_, port):
        assert (await ask(port, HEAD))[0] == 401
        assert (await ask(port, post(b"authorization: Bearer secret")))[0] == 429


async def test_one_of_many_is_read_so_that_its_rows_are_counted(app):
    """An estimate that refuses everybody would else never learn that it is wrong."""
    app._json_rows._first = lambda _: 10_000
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        for _ in range(64):
            writer.write(post())
            assert (await answer(reader))[0] == 429
        app.engine.queue.admits = lambda rows, _: rows == 1
        writer.write(HEAD)
        await asyncio.sleep(0)
        writer.write(BODY)
        assert (await answer(reader))[0] == 200
        writer.write(post())
        assert (await answer(reader))[0] == 200
    assert app._json_rows.rows(len(BODY)) == 1


async def test_a_request_whose_rows_are_too_many_is_refused_when_they_are_counted(app):
    app.engine.queue.admits = lambda rows, _: rows < 5
    app._json_rows._first = lambda _: 1
    body = b'{"rows":[%b]}' % b",".join([BODY] * 10)
    async with listening(app) as (_, port):
        assert [(await ask(port, post(body=body)))[0] for _ in range(2)] == [429, 429]
    row = app.engine.counters.row
    assert (row[metrics.REQUESTS], row[metrics.REJECTED]) == (2, 2)
    assert app._json_rows.rows(len(body)) == 10


async def test_a_request_behind_another_is_judged_when_it_is_its_turn(app):
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(get(b"/livez") + HEAD)
        assert (await answer(reader))[0] == 200
        app.engine.queue.always = 2  # there is room again
        writer.write(BODY)
        assert (await answer(reader))[0] == 200


# -- Clients that come back at once ----------------------------------------------------------------------------------
async def test_a_connection_is_not_read_for_a_moment_after_a_refusal(app, monkeypatch):
    monkeypatch.setattr(server, "BACK_OFF_SECONDS", 3600.0)
    async with listening(app) as (front, port), connected(port) as (reader, writer):
        writer.write(post())
        assert (await answer(reader))[0] == 429
        writer.write(get(b"/livez"))
        [connection] = front.connections
        assert connection._paused
        assert (await ask(port, get(b"/readyz")))[0] == 200
        front.close_idle()  # not this one: what it sent is due an answer
        front._backing_off[0] = (0.0, connection)
        front._read_on()
        assert (await answer(reader))[0] == 200
        front.close_idle()
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""


async def test_connections_are_read_on_in_turn(app, monkeypatch):
    monkeypatch.setattr(server, "BACK_OFF_SECONDS", 0.001)
    async with listening(app) as (front, port), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port)) for _ in range(20)]
        for _ in range(5):
            for _, writer in clients:
                writer.write(post())
            assert {(await answer(reader))[0] for reader, _ in clients} == {429}
        await eventually_async(lambda: not front._backing_off)
        assert not any(connection._paused for connection in front.connections)


async def test_a_client_that_leaves_while_its_connection_is_not_read_is_forgotten(app):
    async with listening(app) as (front, port):
        for _ in range(20):
            assert (await ask(port, post()))[0] == 429
        await eventually_async(lambda: not front.connections)
