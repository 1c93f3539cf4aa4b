"""Arrow IPC streams of any length: each batch is answered while the next one is still to come."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager

import httpx
import pyarrow as pa
import pytest

from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server import arrow_stream, http, metrics
from modelworks.runtime.server.prediction_log import PredictionLog
from runtime import small
from runtime.arrow_fuzz import stream
from runtime.example_bundle import rows as example_rows
from runtime.small import connected, listening
from waiting import PATIENCE, eventually, eventually_async

ARROW = b"application/vnd.apache.arrow.stream"
END = b"\xff\xff\xff\xff\0\0\0\0"
HEAD = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\naccept: %b\r\ntransfer-encoding: chunked\r\n" % (
    ARROW,
    ARROW,
)


class Doubles(small.Model):
    """Answers twice the row."""

    def predict(self, rows):
        return Predictions([2 * x for (x,) in rows], [0] * len(rows))


def table(*values):
    return pa.record_batch({"x": pa.array(values, pa.float64())})


def messages(*batches):
    """The schema, and each batch."""
    return [batches[0].schema.serialize().to_pybytes(), *(batch.serialize().to_pybytes() for batch in batches)]


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


class Client:
    """Sends pieces of a stream, and reads the answer as far as it has come."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.head, self.whole = b"", False
        self._answer = bytearray()

    def send(self, *pieces):
        self.writer.write(b"".join(chunk(piece) for piece in pieces))

    def end(self):
        self.writer.write(b"0\r\n\r\n")

    async def status(self):
        self.head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        return int(self.head[9:12])

    async def piece(self):
        """The next chunk; None at the end of the answer, or of the connection."""
        try:
            size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), PATIENCE), 16)
            data = await asyncio.wait_for(self.reader.readexactly(size + 2), PATIENCE)
        except asyncio.IncompleteReadError:
            return None
        if not size:
            self.whole = True
            return None
        self._answer += data[:-2]
        return data[:-2]

    async def rest(self):
        """The batches of the answer so far, with all that is still to come."""
        while await self.piece() is not None:
            pass
        return [batch.to_pydict()["value"] for batch in pa.ipc.open_stream(bytes(self._answer))]

    async def problem(self):
        length = int(self.head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return json.loads(await asyncio.wait_for(self.reader.readexactly(length), PATIENCE))


@asynccontextmanager
async def streaming(app, *headers, **limits):
    """A client that has sent its head."""
    app._arrow = app._arrow or app._load_arrow()
    async with listening(app, **limits) as (front, port), connected(port) as (reader, writer):
        writer.write(HEAD + b"".join(b"%b\r\n" % header for header in headers) + b"\r\n")
        client = Client(reader, writer)
        client.front, client.front_port = front, port
        yield client


async def test_a_client_that_sends_all_before_it_reads_gets_all(tmp_path):
    app = small.build(tmp_path, Doubles())
    batches = [table(*range(100)) for _ in range(50)]

    async def body():
        for piece in messages(*batches):
            yield piece

    headers = {"content-type": ARROW.decode(), "accept": ARROW.decode()}
    async with listening(app) as (_, port), httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/v1/predict", content=body(), headers=headers)
    assert answer.status_code == 200
    values = pa.ipc.open_stream(answer.content).read_all()["value"].to_pylist()
    assert values == [2 * x for x in range(100)] * 50


async def test_a_batch_is_answered_before_the_next_one_is_sent(tmp_path):
    app = small.build(tmp_path, Doubles())
    schema, first, second = messages(table(1, 2), table(3))
    async with streaming(app, b"x-request-id: mine") as client:
        client.send(schema, first)
        assert await client.status() == 200
        assert b"transfer-encoding: chunked" in client.head
        assert b"x-request-id: mine\r\n" in client.head
        await client.piece()
        client.send(second, END)
        await client.piece()
        client.end()
        assert await client.rest() == [[2, 4], [6]]
        assert client.whole


async def test_a_stream_has_more_rows_and_bytes_than_a_request_may(tmp_path):
    app = small.build(tmp_path, Doubles(), max_body_bytes=20_000)
    batches = [table(*range(number, number + 1000)) for number in range(100)]
    schema, *sent = messages(*batches)
    assert sum(map(len, sent)) > 20 * 20_000
    assert app.manifest.max_rows < 100_000
    held = []
    async with streaming(app) as client:
        client.send(schema)
        for number, message in enumerate(sent):
            client.send(message[:5000])
            client.send(message[5000:])
            if not number:
                await client.status()
            await client.piece()
            held.append(app.budget.used)
        client.send(END)
        client.end()
        assert await client.rest() == [[2 * x for x in range(n, n + 1000)] for n in range(100)]
        assert client.whole
    assert max(held) < 40_000
    assert app.engine.counters.row[metrics.REQUESTS] == 100


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_batches_come_in_pieces_of_any_size_with_dictionaries_and_without_rows(tmp_path, size):
    app = small.build(tmp_path, Doubles())
    kind = pa.dictionary(pa.int8(), pa.float64())
    batches = [
        pa.record_batch({"x": pa.DictionaryArray.from_arrays(pa.array(indices, pa.int8()), pa.array(values))}, None)
        for indices, values in (([0, 1], [1.0, 2.0]), ([], [1.0, 2.0]), ([1, 1], [5.0, 7.0]))
    ]
    assert batches[0].schema.types == [kind]
    body = stream(*batches)
    async with streaming(app) as client:
        client.send(*(body[at : at + size] for at in range(0, len(body), size)))
        client.end()
        assert await client.status() == 200
        assert await client.rest() == [[2, 4], [], [14, 14]]
        assert client.whole


async def test_a_stream_may_end_without_a_message_that_says_so(tmp_path):
    app = small.build(tmp_path, Doubles())
    async with streaming(app) as client:
        client.send(*messages(table(1)))
        client.end()
        await client.status()
        assert await client.rest() == [[2]]
        assert client.whole


BAD = {
    "another type": (b"".join(messages(pa.record_batch({"x": ["a"]}))), 422, "x is sent as"),
    "no feature": (b"".join(messages(pa.record_batch({"y": [1.0]}))), 422, "no feature 'y'"),
    "no stream": (b"hello, this is no stream at all, is it?", 413, "take more than"),
    "a file": (b"ARROW1\0\0" + bytes(100), 400, "file format"),
    "nothing": (b"", 400, "ends within"),
    "no batch": (messages(table(1))[0] + END, 422, "none"),
    "a cut batch": (b"".join(messages(table(1)))[:-8], 400, "ends within"),
    "a batch first": (messages(table(1))[1], 400, "no place there"),
    "two schemas": (messages(table(1))[0] * 2, 400, "no place there"),
    "a batch that is too large": (b"".join(messages(table(*range(20_000)))), 413, "take more than"),
    "a batch of too many rows": (b"".join(messages(table(*range(1001)))), 422, "at most 1000 rows"),
}


@pytest.mark.parametrize("case", BAD)
async def test_an_error_before_the_first_answer_has_its_status(tmp_path, case):
    body, status, detail = BAD[case]
    app = small.build(tmp_path, max_body_bytes=100_000)
    async with streaming(app) as client:
        client.send(*([body] if body else []))
        client.end()
        assert await client.status() == status
        assert detail in (await client.problem())["detail"]
    assert app.engine.refused == {status: 1}


LATER = {
    "no message": (b"what is this, after a batch?", 413),
    "a cut batch": (messages(table(1))[1][:-8], 400),
    "a second schema": (messages(table(1))[0], 400),
    "more after the end": (END + b"more", 400),
    "a batch that is too large": (messages(table(*range(20_000)))[1], 413),
    "a batch of too many rows": (messages(table(*range(1001)))[1], 422),
    "bytes changed": (messages(table(1, 2))[1].replace(b"\x02\0\0\0\0\0\0\0", b"\x09\0\0\0\0\0\0\0"), 400),
}


@pytest.mark.parametrize("case", LATER)
async def test_an_error_after_an_answer_ends_it_without_its_end(tmp_path, case):
    body, status = LATER[case]
    app = small.build(tmp_path, Doubles(), max_body_bytes=100_000)
    async with streaming(app) as client:
        client.send(*messages(table(1)))
        assert await client.status() == 200
        await client.piece()
        client.send(body)
        client.end()
        assert await client.rest() == [[2]]
        assert not client.whole
    assert app.engine.refused == {status: 1}


class Breaks(Doubles):
    """Fails for a negative number."""

    def predict(self, rows):
        if min(rows) < (0,):
            raise ValueError("negative")
        return super().predict(rows)


async def test_a_model_that_fails_is_an_error_before_the_first_answer_and_ends_it_after(tmp_path):
    app = small.build(tmp_path, Breaks())
    async with streaming(app) as client:
        client.send(*messages(table(-1)))
        assert await client.status() == 500
    async with streaming(app) as client:
        client.send(*messages(table(1), table(-1), table(2)))
        assert await client.status() == 200
        assert await client.rest() == [[2]]
        assert not client.whole
    row = app.engine.counters.row
    assert (row[metrics.REQUESTS], row[metrics.ERRORS]) == (3, 2)


async def test_a_full_server_refuses_the_first_batch_and_lets_others_wait(tmp_path, monkeypatch):
    app = small.build(tmp_path, Doubles())
    free, asked = [False], []

    def admits(rows):
        asked.append(rows)
        return free[0]

    monkeypatch.setattr(app.engine, "admits", admits)
    async with streaming(app) as client:
        client.send(*messages(table(1, 2, 3)))
        assert await client.status() == 429
        assert b"retry-after: 1" in client.head
    free[0] = True
    schema, first, second = messages(table(1, 2), table(3))
    async with streaming(app) as client:
        client.send(schema, first)
        assert await client.status() == 200
        await client.piece()
        free[0] = False
        before = len(asked)
        client.send(second)
        await eventually_async(lambda: len(asked) > before)
        [connection] = client.front.connections
        assert connection._paused
        assert connection._began > 1e9  # it is not the client that is slow
        free[0] = True
        await client.piece()
        client.send(END)
        client.end()
        assert await client.rest() == [[2, 4], [6]]
        assert client.whole
    assert asked[0] == 3
    assert app.engine.counters.row[metrics.REJECTED] == 1


async def test_a_batch_that_waits_for_too_long_is_rejected_and_ends_the_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_stream, "ADMISSION_SECONDS", 0.0)
    app = small.build(tmp_path, Doubles())
    room = iter([True])
    monkeypatch.setattr(app.engine, "admits", lambda _: next(room, False))
    async with streaming(app) as client:
        client.send(*messages(table(1), table(2)))
        await client.status()
        assert await client.rest() == [[2]]
        assert not client.whole
    assert app.engine.counters.row[metrics.REJECTED] == 1


async def test_a_client_that_reads_nothing_is_read_no_more(tmp_path):
    app = small.build(tmp_path, Doubles(), max_body_bytes=200_000)
    schema, message = messages(table(*range(1000)))
    async with streaming(app) as client:
        client.send(schema)
        sent = 0
        [connection] = client.front.connections

        async def send() -> None:
            nonlocal sent
            for _ in range(20_000):
                client.send(message)
                await client.writer.drain()
                sent += 1

        sender = asyncio.create_task(send())
        await eventually_async(lambda: connection._paused and connection.is_full())
        assert sent < 20_000
        assert app.budget.used < 600_000
        assert not connection.quiet
        assert await client.status() == 200  # it goes on as soon as it is read
        for _ in range(2 * sent):
            await client.piece()
        sender.cancel()


async def test_a_batch_has_the_time_of_a_request_and_bytes_alone_gain_none(tmp_path, monkeypatch):
    now = [1000.0]
    for module in (http, arrow_stream):
        monkeypatch.setattr(module, "clock", lambda: now[0])
    app = small.build(tmp_path, Doubles())
    schema, first, second = messages(table(1), table(2))
    async with streaming(app) as client:
        await eventually_async(lambda: client.front.connections)
        [connection] = client.front.connections
        client.send(schema, first)
        await client.status()
        await client.piece()
        now[0] += http.RECEIVE_SECONDS - 1
        client.front.sweep()
        client.send(second)
        await client.piece()
        client.send(second[:5])
        await eventually_async(lambda: len(connection._body) == 5)
        now[0] += http.RECEIVE_SECONDS - 1
        client.front.sweep()
        client.send(second[5:9])
        await eventually_async(lambda: len(connection._body) == 9)
        now[0] += 2
        client.front.sweep()
        assert await client.rest() == [[2], [4]]
        assert not client.whole
    assert app.engine.refused == {408: 1}


async def test_a_slow_first_batch_is_408(tmp_path, monkeypatch):
    app = small.build(tmp_path)
    monkeypatch.setattr(http, "RECEIVE_SECONDS", -1.0)
    async with streaming(app) as client:
        await eventually_async(lambda: client.front.connections)
        client.send(b"\xff")
        await eventually_async(lambda: any(each._receiving for each in client.front.connections))
        client.front.sweep()
        assert await client.status() == 408


@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_ends_its_side_too_early_gets_no_whole_answer(tmp_path, begun):
    app = small.build(tmp_path, Doubles())
    async with streaming(app) as client:
        if begun:
            client.send(*messages(table(1)))
            await client.status()
            await client.piece()
        client.writer.write_eof()
        if begun:
            assert await client.rest() == [[2]]
            assert not client.whole
        else:
            assert await client.status() == 400
    assert app.engine.refused == {400: 1}


async def test_a_client_that_goes_leaves_nothing(tmp_path):
    app = small.build(tmp_path, Doubles())
    async with streaming(app) as client:
        client.send(*messages(table(1)), b"\xff\xff")
        await client.status()
        client.writer.transport.abort()
        await eventually_async(lambda: not client.front.connections)
        assert app.budget.used == 0


async def test_each_batch_is_counted_and_logged_and_each_row_has_a_name_of_its_own(tmp_path):
    app = small.build(tmp_path, Doubles())
    kept = []
    app.engine._log = PredictionLog(tmp_path / "spool", small.MANIFEST, 1)
    app.engine._log.add = lambda request_id, _at, _latency, rows, _answers: kept.append((request_id, rows))
    async with streaming(app, b"x-request-id: mine") as client:
        client.send(*messages(table(1, 2), table(), table(3)), END)
        client.end()
        await client.status()
        assert await client.rest() == [[2, 4], [], [6]]
    assert kept == [("mine.0", [(1.0,), (2.0,)]), ("mine.1", [(3.0,)])]
    assert app.engine.counters.row[metrics.REQUESTS] == 2
    assert app.engine.counters._values == [2, 4, 6]


async def test_a_stream_waits_for_the_answer_before_it_and_is_the_last(tmp_path):
    app = small.build(tmp_path, Doubles())
    app._arrow = app._load_arrow()
    body = b"".join(chunk(piece) for piece in (*messages(table(1), table(2)), END))
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(small.post() + HEAD + b"\r\n" + body + b"0\r\n\r\n" + small.post())
        assert (await small.answer(reader))[0] == 200
        client = Client(reader, writer)
        assert await client.status() == 200
        assert b"connection: close" in client.head
        assert await client.rest() == [[2], [4]]
        assert client.whole
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""


async def test_a_client_may_wait_for_100_continue_and_pyarrow_may_come_later(tmp_path):
    app = small.build(tmp_path, Doubles())
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(HEAD + b"expect: 100-continue\r\n\r\n")
        client = Client(reader, writer)
        assert await client.status() == 100
        client.send(*messages(table(1)), END)
        client.end()
        assert await client.status() == 200
        assert await client.rest() == [[2]]


async def test_chunks_that_are_to_be_answered_in_json_are_taken_whole(tmp_path):
    app = small.build(tmp_path, Doubles())
    async with listening(app) as (_, port):
        body = b"".join(chunk(piece) for piece in messages(table(1))) + b"0\r\n\r\n"
        head = HEAD.replace(b"accept: " + ARROW, b"accept: */*")
        status, _, answer = await small.ask(port, head + b"\r\n" + body)
    assert (status, json.loads(answer)["predictions"]) == (200, [{"value": 2}])


async def test_a_stream_without_a_token_is_refused_by_its_head(tmp_path):
    (tmp_path / "tokens").write_text("secret\n")
    app = small.build(tmp_path, Doubles(), token_file=tmp_path / "tokens")
    async with streaming(app) as client:
        assert await client.status() == 401
    async with streaming(app, b"authorization: Bearer secret") as client:
        client.send(*messages(table(1)), END)
        client.end()
        assert await client.status() == 200


async def test_a_stream_that_waits_for_its_client_makes_room(tmp_path):
    app = small.build(tmp_path, Doubles())
    async with streaming(app, max_connections=1) as client:
        client.send(*messages(table(1)))
        await client.status()
        await client.piece()
        status, _, _ = await small.ask(client.front_port, small.post())
        assert status == 200
        assert await client.rest() == [[2]]
        assert not client.whole


def test_a_terminated_process_answers_a_stream_to_its_end(serve, example):
    server = serve(example).ready()
    rows = example_rows(40)
    schema, *sent = messages(*(pa.RecordBatch.from_pylist(rows[at : at + 10]) for at in (0, 10, 20, 30)))
    with server.connect() as client:
        client.sendall(HEAD + b"\r\n" + chunk(schema) + chunk(sent[0]))
        answer = client.recv(1 << 16)
        assert b" 200 " in answer
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in server.messages())
        client.sendall(b"".join(map(chunk, sent[1:])) + chunk(END) + b"0\r\n\r\n")
        while data := client.recv(1 << 16):
            answer += data
    assert server.ended() == 0
    assert answer.endswith(b"\r\n0\r\n\r\n")
    assert [line["cut_off"] for line in server.lines() if line["message"] == "ended"] == [0]
