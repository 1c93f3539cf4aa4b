"""Queues, files and publications that go wrong: each alone, and with a count."""

from __future__ import annotations

import json
import os
import threading
from array import array
from datetime import UTC, datetime
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from modelworks.runtime import publisher
from modelworks.runtime.predictor import Predictions
from modelworks.runtime.publisher import Publisher
from modelworks.runtime.server import backlog, logs, metrics, spool
from modelworks.runtime.server.backlog import Backlog
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.logs import Losses, Scribe
from modelworks.runtime.server.prediction_log import PredictionLog
from runtime import small
from waiting import eventually

LAYOUT = metrics.Layout("regression", 0)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
ONE = Predictions([1.0], [0])
CONFIG = Config(
    bundle_uri="here", digest="sha256:" + "0" * 64, model="tiny", prediction_log="s3://store/log", metrics_seconds=60
)


def answered(log: PredictionLog, at: float = MIDNIGHT, name: str = "id") -> None:
    log.add(name, at, 1.0, [(1.0,)], ONE)


class Cloud:
    """S3 and CloudWatch: takes everything that `judge` raises nothing for."""

    def __init__(self, judge=lambda _data: None) -> None:
        self.judge, self.data, self.objects = judge, [], {}

    def put_metric_data(self, Namespace, MetricData):  # noqa: N803 - as boto3 names them
        self.judge(MetricData)
        self.data += MetricData

    def put_object(self, Bucket, Key, Body):  # noqa: N803
        self.judge(Key)
        self.objects[Key] = Body


def refusal(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Put")


@pytest.fixture
def publishing(tmp_path):
    def start(cloud: Cloud, config: Config = CONFIG) -> Publisher:
        made = Publisher(config, small.MANIFEST, tmp_path)
        made._clients = {"s3": cloud, "cloudwatch": cloud}
        return made

    return start


def count(folder, requests: float) -> None:
    row = LAYOUT.empty()
    row[metrics.REQUESTS] = requests
    row[LAYOUT.latency] = requests
    (folder / "counters").write_bytes(row.tobytes())


def published(cloud: Cloud, name: str = "error") -> float:
    """Requests that arrived, by one of the metrics, once for each of its two series."""
    return sum(sum(datum["Counts"]) for datum in cloud.data if datum["MetricName"] == name) / 2


# -- Lines and files -------------------------------------------------------------------------------------------------
def test_a_reader_of_lines_who_stops_delays_no_file_and_every_lost_line_is_counted(tmp_path, monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(logs.sys, "stdout", SimpleNamespace(fileno=lambda: write))
    monkeypatch.setattr(logs, "_WAITING_BYTES", 1 << 17)
    scribe, log = Scribe(), PredictionLog(tmp_path, small.MANIFEST, 1.0)
    scribe.start()
    log.start()
    given = 0
    while not scribe.dropped:
        scribe.say("info", "x" * 200, number=given)
        given += 1
    answered(log)
    log.flush()
    eventually(lambda: spool.waiting_rows(tmp_path) == 1)
    dropped = scribe.dropped
    closing = threading.Thread(target=scribe.close)
    closing.start()
    text = b""
    while b"too slow" not in text:
        text += os.read(read, 1 << 16)
    closing.join()
    lines = [json.loads(each) for each in text.splitlines()]
    assert lines[-1]["count"] == dropped
    assert [each["number"] for each in lines[:-1]] == list(range(given - dropped))
    log.close()


def test_a_disk_that_hangs_stops_no_line_and_every_lost_row_is_counted(tmp_path, monkeypatch):
    hanging, store = threading.Event(), PredictionLog._store
    monkeypatch.setattr("modelworks.runtime.server.prediction_log._WAITING_BYTES", 2000)
    monkeypatch.setattr(PredictionLog, "_store", lambda log, file: hanging.wait() and store(log, file))
    log = PredictionLog(tmp_path, small.MANIFEST, 1.0)
    log.start()
    for number in range(200):
        answered(log, name=f"request-{number}")
        log.flush()
    lost = log.losses.counts["memory"]
    assert 0 < lost < 200
    assert log.waiting_rows() == 200 - lost
    hanging.set()
    log.close()
    assert spool.waiting_rows(tmp_path) == 200 - lost


def test_a_full_spool_and_a_lost_disk_are_different_losses(tmp_path, monkeypatch):
    folder = tmp_path / "spool"
    log = PredictionLog(folder, small.MANIFEST, 1.0)
    log.start()
    monkeypatch.setattr(spool, "SPOOL_BYTES", 1)
    answered(log)
    log.flush()
    eventually(lambda: log.losses.counts == {"spool_full": 1})
    monkeypatch.undo()
    folder.rmdir()
    answered(log)
    log.close()
    assert log.losses.counts == {"spool_full": 1, "disk": 1}


def test_losses_are_reported_at_once_then_seldom_and_all_of_them_at_the_end():
    said: list[dict] = []
    losses = Losses("gone")
    for last in (False, False, False, True):
        losses.add("disk", 2)
        losses.report(lambda *_, **counts: said.append(counts), last=last)
    assert said == [{"disk": 2}, {"disk": 6}]


# -- Days ------------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_no_row_lies_under_another_day_whatever_the_clock_does(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("days")
    log = PredictionLog(folder / "spool", small.MANIFEST, 1.0)
    log.start()
    for second, flush in steps:
        answered(log, MIDNIGHT + second)
        if flush:
            log.flush()
    log.close()
    cloud = Cloud()
    made = Publisher(CONFIG, small.MANIFEST, folder)
    made._clients = {"s3": cloud}
    made._round(last=True)
    times = []
    for key, body in cloud.objects.items():
        (folder / "object").write_bytes(body)
        for row in pq.read_table(folder / "object").to_pylist():
            assert key.split("/")[1] == f"dt={row['time'].date()}"
            times.append(row["time"].timestamp() - MIDNIGHT)
    assert sorted(times) == sorted(second for second, _ in steps)


# -- What is left over -----------------------------------------------------------------------------------------------
def test_half_written_files_are_removed_at_the_start_and_while_running_and_their_rows_are_counted(tmp_path, publishing):
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / spool.file_name(MIDNIGHT, "w-1", 7)).with_suffix(".part").write_bytes(b"half")
    log = PredictionLog(folder, small.MANIFEST, 1.0)
    assert log.losses.counts == {"unfinished": 7}
    old = (folder / spool.file_name(MIDNIGHT, "w-2", 3)).with_suffix(".part")
    fresh = (folder / spool.file_name(MIDNIGHT, "w-3", 5)).with_suffix(".part")
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    publishing(Cloud())._round(last=True)
    assert list(folder.iterdir()) == [fresh]
    assert companion_state(tmp_path).rows_lost == {"unfinished": 3}


def companion_state(folder):
    from modelworks.runtime.server.companion import read_state

    return read_state(folder)


def test_a_file_that_cannot_be_read_is_set_aside_alone(tmp_path, publishing, capfd):
    log = PredictionLog(tmp_path / "spool", small.MANIFEST, 1.0)
    log.start()
    for _ in range(3):
        answered(log)
        log.flush()
    log.close()
    victim = sorted((tmp_path / "spool").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:-3])
    cloud = Cloud()
    publishing(cloud)._round(last=True)
    assert len(cloud.objects) == 1
    assert companion_state(tmp_path).rows_lost == {"unreadable": 1}
    assert not list((tmp_path / "spool").iterdir())
    assert [path.name.endswith(victim.name) for path in (tmp_path / "aside").iterdir()] == [True]


def test_a_batch_that_s3_refuses_while_it_takes_another_does_not_wait_for_ever(tmp_path, publishing):
    def judge(key: str) -> None:
        if "2026-03-01" in key:
            raise refusal("InvalidRequest")

    log = PredictionLog(tmp_path / "spool", small.MANIFEST, 1.0)
    log.start()
    answered(log, MIDNIGHT)
    log.flush()
    cloud = Cloud(judge)
    made = publishing(cloud)
    eventually(lambda: spool.waiting_rows(tmp_path / "spool") == 1)
    made._round(last=True)
    assert spool.waiting_rows(tmp_path / "spool") == 1  # S3 may refuse everything
    answered(log, MIDNIGHT + spool.DAY_SECONDS)
    log.close()
    made._round(last=True)
    assert spool.waiting_rows(tmp_path / "spool") == 0
    assert len(cloud.objects) == 1
    assert companion_state(tmp_path).rows_lost == {"refused": 1}


def test_an_empty_batch_is_nothing(tmp_path, publishing):
    (tmp_path / "spool" / "2026-03-01_p-r-1-2.batch").mkdir(parents=True)
    cloud = Cloud()
    publishing(cloud)._round(last=True)
    assert cloud.objects == {}
    assert not list((tmp_path / "spool").iterdir())


# -- Metrics ---------------------------------------------------------------------------------------------------------
def test_a_datapoint_that_cloudwatch_refuses_is_dropped_and_counted_alone(tmp_path, publishing):
    def judge(data: list[dict]) -> None:
        if any(datum["MetricName"] == "latency" for datum in data):
            raise refusal("InvalidParameterValue")

    cloud = Cloud(judge)
    made = publishing(cloud)
    for requests in (3, 10):
        count(tmp_path, requests)
        made._round(last=True)
    assert [published(cloud, name) for name in ("error", "slow", "rejected", "latency")] == [10, 10, 10, 0]
    state = companion_state(tmp_path)
    assert (state.cloudwatch_up, state.requests, state.datapoints_lost) == (True, 10, {"refused": 4})


@pytest.mark.parametrize(
    "trouble",
    [
        refusal("Throttling"),
        refusal("AccessDenied", 403),
        refusal("InternalFailure", 500),
        EndpointConnectionError(endpoint_url="http://x"),
    ],
)
def test_what_passes_is_waited_for_and_nothing_comes_twice(tmp_path, publishing, trouble):
    calls = []

    def judge(data: list[dict]) -> None:
        calls.append(data)
        if len(data) > 2:
            raise refusal("RequestEntityTooLarge", 413)  # so that a publication has parts
        if len(calls) in range(5, 9):
            raise trouble

    cloud = Cloud(judge)
    made = publishing(cloud)
    for requests in range(1, 9):
        count(tmp_path, requests)
        made._round(last=True)
    assert published(cloud) == published(cloud, "latency") == 8
    assert companion_state(tmp_path).datapoints_lost == {}


def test_a_publisher_continues_where_the_last_one_was(tmp_path, publishing):
    def away(_data: list[dict]) -> None:
        raise EndpointConnectionError(endpoint_url="http://x")

    first, cloud = publishing(Cloud(away)), Cloud()
    for requests in (4, 9):
        count(tmp_path, requests)
        first._round(last=True)
    assert not companion_state(tmp_path).cloudwatch_up
    publishing(cloud)._round(last=True)
    assert published(cloud) == 9
    assert len({datum["Timestamp"] for datum in cloud.data}) == 2


def test_a_long_outage_costs_resolution_and_no_count(tmp_path):
    waiting = Backlog(tmp_path / "queue", LAYOUT)
    for number in range(1, 2001):
        row = LAYOUT.empty()
        row[metrics.REQUESTS] = number
        waiting.add(float(number), row)
    assert len(waiting) <= backlog.KEPT
    total = 0.0
    ends = []
    again = Backlog(tmp_path / "queue", LAYOUT)
    while len(again):
        before, after = again.oldest()
        total += after.numbers()[metrics.REQUESTS] - before.numbers()[metrics.REQUESTS]
        ends.append(after.at)
        again.advance()
    assert total == ends[-1] == 2000
    assert ends == sorted(ends)


def test_counters_that_begin_again_are_not_taken_for_a_decrease(tmp_path, publishing):
    cloud = Cloud()
    made = publishing(cloud)
    for requests in (50, 5):
        count(tmp_path, requests)
        made._round(last=True)
    assert published(cloud) == 55


def test_a_state_that_cannot_be_written_ends_nothing(tmp_path, publishing, monkeypatch):
    cloud = Cloud()
    made = publishing(cloud)
    monkeypatch.setattr(publisher, "write_whole", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    count(tmp_path, 2)
    made._round(last=True)
    assert published(cloud) == 2


def test_a_row_of_another_layout_counts_nothing(tmp_path):
    (tmp_path / "counters").write_bytes(array("d", [1.0] * 5).tobytes())
    assert metrics.read_row(tmp_path / "counters", LAYOUT) == LAYOUT.empty()
