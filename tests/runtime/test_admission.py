"""Who is let in, on a clock of its own."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from modelworks.runtime.manifest import Feature, Manifest
from modelworks.runtime.predictor import Cost, Predictions
from modelworks.runtime.server import app as door
from modelworks.runtime.server import metrics
from modelworks.runtime.server.app import App
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.http import Request
from modelworks.runtime.server.logs import Scribe


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Connection:
    def __init__(self) -> None:
        self.statuses: list[int] = []

    def respond(self, request, status, *rest) -> None:
        self.statuses.append(status)


class Model:
    """Takes a millisecond a row on an idle machine, and really as long as it is told."""

    cost = Cost(call=0.0, row=0.001)

    def __init__(self, clock: Clock) -> None:
        self.clock, self.really = clock, 0.001

    def predict(self, rows) -> Predictions:
        self.clock.now += self.really * len(rows)
        return Predictions([b'{"value":1}'] * len(rows), [1.0] * len(rows), [0] * len(rows))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(door, "clock", clock)
    return clock


@pytest.fixture
def model(clock):
    return Model(clock)


@pytest.fixture
def ask(tmp_path, clock, model):
    """Sends so many one-row requests at the same time; gives their statuses."""
    manifest = Manifest(
        model="tiny",
        kind="regression",
        task="Something",
        features=(Feature(name="x", type="number"),),
        examples=({"x": 1},),
    )
    config = Config(
        bundle_uri="here", digest="sha256:" + "0" * 64, model="tiny", allow_anonymous=True, access_log=0.0, queue_ms=25
    )
    counters = metrics.Counters(metrics.Layout("regression", 0), tmp_path / "worker-0")
    app = App(config, manifest, model, counters, Scribe(), bento=tmp_path, scratch=tmp_path)
    body = msgspec.json.encode({"x": 1})

    async def send(count: int) -> list[int]:
        connection = Connection()
        for _ in range(count):
            app.handle(Request(b"POST", b"/v1/predict", {}, body, clock.now, keep_alive=True), connection)
        for _ in range(count):  # each turn of the loop answers at least one
            await asyncio.sleep(0)
        return connection.statuses

    return send


async def test_one_stall_refuses_nobody(ask, model):
    for _ in range(200):
        assert await ask(1) == [200]
    model.really = 0.05
    assert await ask(1) == [200]
    model.really = 0.001
    assert await ask(8) == [200] * 8


async def test_a_machine_that_became_slow_takes_in_less(ask, model):
    model.really = 0.005
    for _ in range(200):
        await ask(1)
    assert (await ask(10)).count(200) in {5, 6}


async def test_a_machine_that_is_as_fast_as_when_it_was_measured_takes_in_a_queue_full(ask):
    for _ in range(200):
        await ask(1)
    assert (await ask(40)).count(200) in {25, 26}
