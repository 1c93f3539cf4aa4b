"""A flood of refusals: one line a second of each kind, and every request counted."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.runtime.online import UnreadableError
from modelworks.runtime.server import metrics
from modelworks.runtime.server.logs import Limiter
from runtime import small
from runtime.small import ask, listening, post

MORE = "more requests were refused"
STEPS = st.lists(st.tuples(st.sampled_from((401, 413, 429, None)), st.sampled_from((0.0, 0.01, 0.3, 0.999, 1.0, 7.0))))
"""What comes, None for housekeeping, and how long after the one before."""


@given(STEPS)
def test_a_kind_has_at_most_one_line_a_second_and_nothing_is_lost(steps):
    limiter, now = Limiter(), 5.0
    lines: dict[int, list[float]] = {}
    accounted: Counter[int] = Counter()
    for kind, seconds in steps:
        now += seconds
        found = limiter.due(now) if kind is None else [(kind, 1)] if limiter.admits(kind, now) else []
        for each, count in found:
            lines.setdefault(each, []).append(now)
            accounted[each] += count
    for each, count in limiter.due(now, last=True):
        accounted[each] += count
    assert accounted == Counter(kind for kind, _ in steps if kind is not None)
    assert all(later - earlier >= 1 - 1e-9 for times in lines.values() for earlier, later in pairwise(times))


def test_at_the_end_there_is_nothing_left():
    limiter = Limiter()
    assert [limiter.admits(401, 0.0) for _ in range(3)] == [True, False, False]
    assert limiter.due(0.5) == []
    assert limiter.due(0.5, last=True) == [(401, 2)]
    assert limiter.due(0.5, last=True) == []


@pytest.fixture
def now(monkeypatch):
    """The time of the engine, which stands still until it is set."""
    time = [100.0]
    monkeypatch.setattr("modelworks.runtime.server.engine.clock", lambda: time[0])
    return time


def lines_of(app: Any) -> list[tuple[str, int, int | None]]:
    found = [json.loads(text) for text in app.engine._scribe._lines]
    return [(line["message"], line["status"], line.get("count")) for line in found if "status" in line]


async def flood(app: Any, request: bytes, status: int, times: int = 20) -> None:
    async with listening(app) as (_, port):
        for _ in range(times):
            assert (await ask(port, request))[0] == status


async def test_requests_without_a_token_have_a_line_and_their_number(tmp_path, now):
    file = tmp_path / "tokens"
    file.write_text("secret\n")
    app = small.build(tmp_path, token_file=file)
    await flood(app, post(), 401)
    app.tick()
    assert lines_of(app) == [("request", 401, None)]
    now[0] += 1
    app.tick()
    assert lines_of(app) == [("request", 401, None), (MORE, 401, 19)]


async def test_kinds_do_not_hide_each_other(tmp_path, now):
    app = small.build(tmp_path)
    await flood(app, post(body=b"{}"), 422)
    await flood(app, post(body=b"{"), 400)
    app.tick(last=True)
    assert lines_of(app) == [("request", 422, None), ("request", 400, None), (MORE, 422, 19), (MORE, 400, 19)]
    assert app.engine.counters.row[metrics.REQUESTS] == 40


async def test_a_full_server_counts_all_that_it_turns_away(tmp_path, now):
    app = small.build(tmp_path)
    small.fill(app)
    await flood(app, post(), 429)
    app.tick(last=True)
    assert lines_of(app) == [("request", 429, None), (MORE, 429, 19)]
    assert (app.engine.counters.row[metrics.REQUESTS], app.engine.counters.row[metrics.REJECTED]) == (20, 20)


async def test_large_bodies_have_a_line_and_their_number(tmp_path, now):
    app = small.build(tmp_path, max_body_bytes=1024)
    await flood(app, post(body=b"x" * 2000), 413)
    app.tick(last=True)
    assert lines_of(app) == [("request", 413, None), (MORE, 413, 19)]


async def test_features_that_cannot_be_read_are_errors_all_of_them(tmp_path, now):
    class Unread(small.Model):
        def predict(self, rows):
            raise UnreadableError("the table is gone")

    app = small.build(tmp_path, Unread())
    await flood(app, post(), 503)
    app.tick(last=True)
    assert lines_of(app) == [("request", 503, None), (MORE, 503, 19)]
    assert app.engine.counters.row[metrics.ERRORS] == 20
