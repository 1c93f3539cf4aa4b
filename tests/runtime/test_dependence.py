"""A model whose answers depend on the other rows of a call, noticed while it serves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from modelworks.runtime.server import engine, metrics
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.custom_app import CustomApp, ServiceEngine
from modelworks.runtime.server.custom_service import Facts, RefusedError
from modelworks.runtime.server.logs import Scribe
from runtime import small
from runtime.small import ask, get, listening, logged, post
from waiting import eventually_async

TWO = b'{"rows": [{"x": 1}, {"x": 2}]}'


class Depends(small.Model):
    """Answers the number of rows of the call."""

    def predict(self, rows: list[Any]) -> Any:
        return small.Model().predict(rows)._replace(values=[float(len(rows))] * len(rows))


async def test_a_call_in_a_thousand_is_checked_and_what_depends_is_counted_and_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_CHECKED_CALLS", 10)
    app = small.build(tmp_path, Depends())
    async with listening(app) as (_, port):
        for _ in range(20):
            assert (await ask(port, post(body=TWO)))[0] == 200
            assert (await ask(port, post()))[0] == 200  # one row depends on nobody
        page = (await ask(port, get(b"/metrics")))[2].decode()
    assert "modelworks_dependent_answers_total 2" in page
    assert [each for each in logged(app) if "depends" in each] == [
        "an answer depends on the other rows of its call"
    ] * 2


class Service:
    """A service in this process, that predicts as a model does."""

    cost = small.Model.cost
    facts = Facts("/predict", {}, 2, 60.0, {})
    ready = True

    def __init__(self, model: Any) -> None:
        self._model, self.calls = model, 0

    def predict(self, rows: list[Any], _headers: Any = None) -> Any:
        self.calls += 1
        return self._model.predict(rows)._replace(json=[b"{}"] * len(rows))


class Unsteady(small.Model):
    """Never answers the same twice."""

    _numbers = itertools.count()

    def predict(self, rows: list[Any]) -> Any:
        return super().predict(rows)._replace(values=[float(next(self._numbers)) for _ in rows])


class Refuses(Depends):
    """Answers no row by itself."""

    def predict(self, rows: list[Any]) -> Any:
        if len(rows) == 1:
            raise RefusedError(429, "full")
        return super().predict(rows)


@pytest.mark.parametrize(
    ("model", "calls", "dependent"), [(small.Model(), 3, 0), (Depends(), 3, 1), (Unsteady(), 3, 0), (Refuses(), 2, 0)]
)
async def test_a_service_of_its_own_is_checked_after_its_answer(tmp_path, monkeypatch, model, calls, dependent):
    monkeypatch.setattr(engine, "_CHECKED_CALLS", 10)
    config = Config(bundle_uri="here", digest="sha256:" + "0" * 64, model="tiny", allow_anonymous=True, access_log=0.0)
    counters, scribe, service = (
        metrics.Counters(metrics.Layout("regression", 0), tmp_path / "0"),
        Scribe(),
        Service(model),
    )
    app = CustomApp(ServiceEngine(config, small.MANIFEST, service, counters, scribe), scribe, bento=tmp_path)
    async with listening(app) as (_, port):
        for _ in range(10):
            assert (await ask(port, post(body=TWO)))[0] == 200
        await eventually_async(lambda: service.calls == 9 + calls)
        app.engine._pool.shutdown()
    assert app.engine.dependent == dependent
    assert len([each for each in logged(app) if "depends" in each]) == dependent
