"""Batches as Arrow IPC streams and as columns: the same answers as rows in JSON, and nothing believed."""

from __future__ import annotations

import itertools
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.runtime.manifest import Feature, Manifest
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server import media, metrics
from modelworks.runtime.server.arrow_ipc import MOST_MESSAGES, ArrowStreams
from modelworks.runtime.server.http import Request
from modelworks.runtime.server.prediction_log import PredictionLog
from modelworks.runtime.server.refusals import InvalidRequestError
from runtime import arrow_fuzz, small
from runtime.arrow_fuzz import stream
from runtime.small import ask, listening, post
from runtime.test_v2 import NAMES, ROWS, build, send

PREDICT = b"/v1/predict"
ARROW = {b"content-type": media.ARROW}
BOTH = {**ARROW, b"accept": media.ARROW}
NUMBERS = (pa.float64(), pa.dictionary(pa.int16(), pa.float64()))
INTEGERS = (pa.int64(), pa.float64(), pa.dictionary(pa.int8(), pa.int64()))
TEXTS = (
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.uint8(), pa.large_string()),
)
GOOD = {"price": [1.5, None], "day": [1, 2], "seats": [None, 3], "paid": [True, None], "kind": ["a", "bé"]}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    made = build(tmp_path_factory.mktemp("app"))
    made._arrow = made._load_arrow()
    return made


def column(values, kind):
    if not pa.types.is_dictionary(kind):
        return pa.array(values, kind)
    return pa.array(values, kind.value_type).dictionary_encode().cast(kind)


def good(**changes):
    """A batch of two rows, with columns changed, or left out as None."""
    columns = {name: pa.array(values) for name, values in GOOD.items()} | changes
    return pa.record_batch({name: values for name, values in columns.items() if values is not None})


def refused(app, body):
    """Status, field and detail."""
    told = send(app, PREDICT, body, ARROW)
    assert told.status != 200, told.body
    problem = json.loads(told.body)
    return told.status, problem.get("field", ""), problem["detail"]


def cut(batch, sizes):
    """Batches of these sizes; the last one takes the rest."""
    starts = list(itertools.accumulate(sizes, initial=0))
    return [batch.slice(start, size) for start, size in zip(starts, [*sizes, len(batch)], strict=True)]


# -- The same answers ------------------------------------------------------------------------------------------------
@given(
    rows=ROWS,
    kinds=st.tuples(
        st.sampled_from(NUMBERS),
        st.sampled_from((*INTEGERS, pa.uint64())),
        st.sampled_from(INTEGERS),
        st.just(pa.bool_()),
        st.sampled_from(TEXTS),
    ),
    sizes=st.lists(st.integers(0, 3), max_size=3),
)
def test_a_row_is_the_same_in_a_batch_in_columns_and_by_itself(app, rows, kinds, sizes):
    expected = json.loads(
        send(app, PREDICT, json.dumps({"rows": [dict(zip(NAMES, r, strict=True)) for r in rows]}).encode()).body
    )
    columns = {name: list(values) for name, values in zip(NAMES, zip(*rows, strict=True), strict=True)}
    assert json.loads(send(app, PREDICT, json.dumps({"columns": columns}).encode()).body) == expected
    batch = pa.record_batch({name: column(columns[name], kind) for name, kind in zip(NAMES, kinds, strict=True)})
    batches = cut(batch, sizes)
    assert json.loads(send(app, PREDICT, stream(*batches), ARROW).body) == expected
    told = send(app, PREDICT, stream(*batches), BOTH)
    answer = pa.ipc.open_stream(told.body)
    answers = list(answer)
    assert [len(each) for each in answers] == [len(each) for each in batches]
    assert [row for each in answers for row in each.to_pylist()] == expected["predictions"]
    about = {key.decode(): value.decode() for key, value in answer.schema.metadata.items()}
    assert about == {name: expected[name] for name in ("model", "version")}


@pytest.mark.parametrize(
    "kind",
    ["int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"],
)
@pytest.mark.parametrize("name", ["price", "seats"])
def test_a_number_of_any_width_is_the_number(app, kind, name):
    columns = {**GOOD, name: [3, None]}
    expected = send(app, PREDICT, json.dumps({"columns": columns}).encode()).body
    values = pa.array([3.0, None]).cast(pa.float32()).cast(pa.type_for_alias(kind))
    assert send(app, PREDICT, stream(good(**{name: values})), ARROW).body == expected


def test_a_value_of_float32_is_the_number_that_it_is(app):
    exact = struct.unpack("<f", struct.pack("<f", 0.1))[0]
    expected = send(app, PREDICT, json.dumps({"columns": {**GOOD, "price": [exact, None]}}).encode()).body
    assert send(app, PREDICT, stream(good(price=pa.array([0.1, None], pa.float32()))), ARROW).body == expected


def test_nan_and_a_column_of_nulls_are_missing(app):
    expected = send(app, PREDICT, json.dumps({"columns": {**GOOD, "price": [1.5, None]}}).encode()).body
    assert send(app, PREDICT, stream(good(price=pa.array([1.5, math.nan]))), ARROW).body == expected
    nulls = send(app, PREDICT, json.dumps({"columns": {**GOOD, "price": [None, None], "seats": [None, None]}}).encode())
    assert send(app, PREDICT, stream(good(price=pa.nulls(2), seats=None)), ARROW).body == nulls.body


def test_data_frames_are_sent_as_they_are(app):
    expected = send(app, PREDICT, json.dumps({"columns": GOOD}).encode()).body
    written = pl.DataFrame(GOOD).write_ipc_stream(None).getvalue()
    assert send(app, PREDICT, written, ARROW).body == expected
    categories = pl.DataFrame(GOOD).with_columns(pl.col("kind").cast(pl.Categorical))
    assert send(app, PREDICT, categories.write_ipc_stream(None).getvalue(), ARROW).body == expected
    frame = good().to_pandas()
    assert send(app, PREDICT, stream(pa.RecordBatch.from_pandas(frame)), ARROW).body == expected


@pytest.mark.parametrize("deltas", [False, True])
def test_dictionaries_may_be_replaced_and_extended(app, deltas):
    first = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["a"]))
    second = pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array(["a", "bé"]))
    expected = send(
        app, PREDICT, json.dumps({"columns": {n: 2 * v for n, v in {**GOOD, "kind": ["a", "a"]}.items()}}).encode()
    )
    told = send(app, PREDICT, stream(good(kind=first), good(kind=second), emit_dictionary_deltas=deltas), ARROW)
    answers, same = (json.loads(each.body)["predictions"] for each in (told, expected))
    assert (answers[:2], answers[3], answers[2] == same[2]) == (same[:2], same[3], False)


@pytest.mark.parametrize(
    ("kind", "classes", "expected"),
    [
        ("binary", (False, True), [{"label": True, "score": 0.75}]),
        ("binary", (3, 7), [{"label": 7, "score": 0.75}]),
        ("binary", (1, "b"), [{"label": "b", "score": 0.75}]),
        ("regression", (), [{"value": 0.75}]),
    ],
)
def test_answers_have_the_form_of_the_kind(tmp_path, kind, classes, expected):
    class Certain(small.Model):
        def predict(self, rows):
            return Predictions([0.75] * len(rows), [1 if classes else 0] * len(rows))

    features = (Feature(name="x", type="number"),)
    manifest = Manifest(model="tiny", kind=kind, task="T", features=features, classes=classes, examples=({"x": 1},))
    made = build(tmp_path, manifest, Certain())
    made._arrow = made._load_arrow()
    told = send(made, PREDICT, b'{"x": 1}', {b"accept": media.ARROW})
    assert pa.ipc.open_stream(told.body).read_all().to_pylist() == expected


# -- What is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"day": None}, "columns.day", "there is no column 'day'"),
        ({"other": pa.array([1, 2])}, "columns.other", "the model has no feature 'other'"),
        ({"kind": pa.array(["a", "z"])}, "columns.kind[1]", "kind: not one of its categories"),
        ({"kind": pa.array(["a", "z"]).dictionary_encode()}, "columns.kind[1]", "not one of its categories"),
        ({"day": pa.array([1, None])}, "columns.day[1]", "day: Expected"),
        ({"day": pa.array([1, 2.5])}, "columns.day[1]", "day: Expected"),
        ({"day": pa.array([1, 2**63], pa.uint64())}, "columns.day[1]", "day: "),
        ({"day": pa.array([1, 2**53])}, "columns.day[1]", "day: Expected"),
        ({"price": pa.array([math.inf, 1])}, "columns.price[0]", "price: Expected"),
        ({"price": pa.array([1, 2]).cast(pa.decimal128(25, 2))}, "columns.price", "cast it to float64"),
        ({"day": pa.array([1, 2], pa.timestamp("us"))}, "columns.day", "a time has no unit here"),
        ({"day": pa.array([1, 2], pa.date32())}, "columns.day", "a time has no unit here"),
        ({"price": pa.array([[1.0], [2.0]])}, "columns.price", "a feature has one value in a row"),
        ({"price": pa.array([True, False])}, "columns.price", "price is sent as int8 to uint64"),
        ({"paid": pa.array([1, 0])}, "columns.paid", "paid is sent as bool"),
        ({"kind": pa.array([b"a", b"b"])}, "columns.kind", "kind is sent as string"),
        ({"kind": pa.array([1, 2])}, "columns.kind", "kind is sent as string"),
    ],
)
def test_a_column_that_is_no_feature_is_refused_by_name(app, changes, field, said):
    status, where, detail = refused(app, stream(good(**changes)))
    assert (status, where) == (422, field)
    assert said in detail


def test_a_column_may_be_there_once(app):
    batch = good()
    twice = pa.RecordBatch.from_arrays([*batch.columns, batch.column(1)], names=[*batch.schema.names, "day"])
    assert refused(app, stream(twice)) == (422, "columns.day", "column 'day' is there twice")


@pytest.mark.parametrize(("count", "said"), [(0, "the stream has none"), (101, "the stream has more")])
def test_rows_are_as_many_as_in_json(app, count, said):
    rows = pa.Table.from_batches([good()] * 51).combine_chunks().to_batches()[0].slice(0, count)
    status, _, detail = refused(app, stream(*rows_of_ten(rows)))
    assert (status, said in detail) == (422, True)


def rows_of_ten(batch):
    return [batch.slice(start, 10) for start in range(0, max(1, len(batch)), 10)]


def test_a_batch_has_no_more_rows_than_bytes(app):
    everything = pa.record_batch({"seats": pa.Array.from_buffers(pa.null(), 2**31 - 2, [None])})
    manifest = Manifest(
        model="tiny",
        kind="regression",
        task="T",
        features=(Feature(name="seats", type="integer", required=False),),
        examples=({},),
    )
    with pytest.raises(InvalidRequestError, match="the stream has more"):
        ArrowStreams(app.config, manifest).decode(stream(everything))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compression_is_refused(app, compression):
    status, _, detail = refused(app, stream(good(), compression=compression))
    assert status == 400
    assert "is compressed; write the stream without compression" in detail


def test_texts_that_many_rows_refer_to_count_each_time():
    text = "x" * 4000
    batch = pa.record_batch(
        {name: pa.nulls(100) for name in ("price", "paid", "kind")} | {"text": pa.array([text] * 100)}
    )
    small_streams = ArrowStreams(small_config(100_000), arrow_fuzz.MANIFEST)
    viewed = batch.set_column(3, "text", shared_view(text, 100))
    with pytest.raises(InvalidRequestError, match="take more than 100000 bytes") as caught:
        small_streams.decode(stream(viewed))
    assert caught.value.status == 413


def shared_view(text, count):
    """Rows of views of the same text."""
    [one] = pa.array([text], pa.string_view()).to_pylist()
    views = pa.array([one], pa.string_view()).buffers()
    return pa.Array.from_buffers(
        pa.string_view(), count, [None, pa.py_buffer(views[1].to_pybytes()[:16] * count), views[2]]
    )


def small_config(most):
    return msgspec.structs.replace(arrow_fuzz.CONFIG, max_body_bytes=most)


def test_a_dictionary_counts_with_every_batch():
    dictionary = pa.array([str(number) for number in range(3000)])
    kind = pa.DictionaryArray.from_arrays(pa.array([0], pa.int16()), dictionary)
    batch = pa.record_batch({name: pa.nulls(1) for name in ("price", "paid", "kind")} | {"text": kind})
    decode = ArrowStreams(small_config(100_000), arrow_fuzz.MANIFEST).decode
    assert len(decode(stream(batch, batch)).rows) == 2
    with pytest.raises(InvalidRequestError, match="take more than 100000 bytes"):
        decode(stream(*[batch] * 10))


def test_what_a_dictionary_costs_is_known_before_it_is_read(monkeypatch):
    kind = pa.DictionaryArray.from_arrays(pa.array([0], pa.int16()), pa.array(["x" * 9000]))
    batch = pa.record_batch({name: pa.nulls(1) for name in ("price", "paid", "kind")} | {"text": kind})
    monkeypatch.setattr(pa.ipc, "open_stream", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(InvalidRequestError, match="take more than 100000 bytes"):
        ArrowStreams(small_config(100_000), arrow_fuzz.MANIFEST).decode(stream(*[batch] * 12))


def test_a_stream_has_so_many_messages_at_most(app):
    status, _, detail = refused(app, stream(good(), *[good().slice(0, 0)] * MOST_MESSAGES))
    assert (status, detail) == (400, f"a stream has at most {MOST_MESSAGES} messages")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no Arrow IPC stream"),
        (b'{"rows": []}', "no Arrow IPC stream"),
        (b"ARROW1\0\0", "this is Arrow's file format"),
        (stream(good())[:-80], "no Arrow IPC stream"),
        (stream(good()) + b"12345678", "8 bytes follow the end of the stream"),
    ],
)
def test_what_is_no_stream_is_refused(app, body, said):
    status, _, detail = refused(app, body)
    assert (status, said in detail) == (400, True)


@pytest.mark.parametrize(("old", "new"), [(("<q", 16), ("<q", 2**62)), (("<q", 16), ("<q", -1))])
def test_buffers_lie_within_their_message(app, old, new):
    body = stream(good())
    changed = body.replace(struct.pack(*old), struct.pack(*new))
    assert changed != body
    assert refused(app, changed)[0] == 400


@pytest.mark.parametrize("seed", [1, 2])
def test_streams_with_bytes_changed_are_refused_and_crash_nothing(seed):
    argv = [sys.executable, Path(arrow_fuzz.__file__), str(seed), "3000"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) <= {"decoded", "400", "413", "422"}
    assert said["400"] > 1000


# -- Around it -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("accept", "arrow"),
    [
        (b"application/vnd.apache.arrow.stream", True),
        (b"Application/Vnd.Apache.Arrow.Stream", True),
        (b"application/vnd.apache.arrow.stream, application/json;q=0.5", True),
        (b"application/vnd.apache.arrow.stream;q=0.5, application/json", False),
        (b"application/vnd.apache.arrow.stream;q=0.5, */*", False),
        (b"application/vnd.apache.arrow.stream;q=0", False),
        (b"application/vnd.apache.arrow.stream;q=x", False),
        (b"application/vnd.apache.arrow.file", False),
        (b"*/*", False),
        (b"", False),
    ],
)
def test_the_answer_has_the_form_that_is_accepted(accept, arrow):
    assert media.wants_arrow({b"accept": accept}) == arrow


def test_pyarrow_is_not_imported_before_it_is_needed():
    code = "import sys, modelworks.runtime.serve, modelworks.runtime.server.app; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_requests_wait_until_pyarrow_is_there_and_accept_may_be_in_two_lines(tmp_path):
    app = build(tmp_path)
    headers = (b"content-type: " + media.ARROW, b"accept: text/html", b"accept: " + media.ARROW)
    async with listening(app) as (_, port):
        status, head, body = await ask(port, post(*headers, body=stream(good())))
    assert (status, media.ARROW in head) == (200, True)
    assert len(pa.ipc.open_stream(body).read_all()) == 2
    assert app.engine.counters.row[metrics.REQUESTS] == 1


async def test_tokens_and_a_full_server_refuse_as_for_json(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("secret\n")
    app = small.build(tmp_path, token_file=file)
    body = stream(pa.record_batch({"x": pa.array([1.0])}))
    arrow, token = b"content-type: " + media.ARROW, b"authorization: Bearer secret"
    async with listening(app) as (_, port):
        assert (await ask(port, post(arrow, body=body)))[0] == 401
        assert (await ask(port, post(arrow, token, body=body)))[0] == 200
        small.fill(app)
        status, head, problem = await ask(port, post(arrow, token, body=body))
    assert (status, json.loads(problem)["status"], b"retry-after: 1" in head) == (429, 429, True)


async def test_pyarrow_that_cannot_be_imported_is_an_error_of_the_server(tmp_path, monkeypatch):
    app = small.build(tmp_path)

    def broken():
        raise ImportError("no pyarrow")

    monkeypatch.setattr(app, "_load_arrow", broken)
    async with listening(app) as (_, port):
        status, _, _ = await ask(port, post(b"content-type: " + media.ARROW))
        assert (await ask(port, post()))[0] == 200
    assert (status, app.engine.counters.row[metrics.ERRORS]) == (500, 1)


def test_the_prediction_log_has_the_same_rows(app, tmp_path, monkeypatch):
    log = PredictionLog(tmp_path, app.manifest, 1.0)
    kept = []
    monkeypatch.setattr(log, "add", lambda *args: kept.append(args[3:]))
    monkeypatch.setattr(app.engine, "_log", log)
    send(app, PREDICT, json.dumps({"columns": GOOD}).encode())
    send(app, PREDICT, stream(good().slice(0, 1), good().slice(1)), BOTH)
    assert kept[0] == kept[1]
    assert len(kept[0][0]) == 2


@pytest.mark.parametrize("form", ["columns", "arrow"])
def test_the_number_of_rows_is_guessed_from_the_bytes(app, form):
    columns = {name: (values * 50)[:100] for name, values in GOOD.items()}
    arrow = form == "arrow"
    body = stream(pa.record_batch(columns)) if arrow else json.dumps({"columns": columns}).encode()
    headers = {b"content-type": media.ARROW} if arrow else {}
    assert 25 <= app._estimate_of(Request(b"POST", PREDICT, headers)).rows(len(body)) <= 200
