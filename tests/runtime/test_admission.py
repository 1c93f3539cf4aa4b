"""Who is let in, on a clock of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelworks.runtime import predictor
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.predictor import Cost, measure_cost
from modelworks.runtime.server import engine
from modelworks.runtime.server.admission import Admission, Estimate
from modelworks.runtime.server.app import App
from modelworks.runtime.server.http import Request
from runtime import small
from runtime.queueing import OBJECTIVE, World, capacity, paced, poisson

BOOSTER = Cost(call=0.000_03, row=0.000_001_5)
"""30 microseconds, whether for one row or ten."""
FOREST = Cost(call=0.06, row=0.000_05)
"""60 milliseconds, most of them whatever the number of rows."""
ROW_BY_ROW = Cost(call=0.0, row=0.06)
"""60 milliseconds for each row: nothing is gained by answering several together."""

MODELS = {
    "booster": BOOSTER,
    "5 ms": Cost(call=0.005, row=0.000_1),
    "15 ms": Cost(call=0.015, row=0.000_1),
    "25 ms": Cost(call=0.025, row=0.000_1),
    "25 ms a row": Cost(call=0.0, row=0.025),
    "forest": FOREST,
    "60 ms a row": ROW_BY_ROW,
}
models = pytest.mark.parametrize("cost", MODELS.values(), ids=MODELS)
costs = st.builds(
    Cost,
    call=st.sampled_from([0.0, 0.000_03, 0.001, 0.005, 0.025, 0.06, 0.2]),
    row=st.sampled_from([0.000_000_1, 0.000_001, 0.000_02, 0.000_5, 0.01, 0.06]),
)


# -- Goodput ---------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(cost=costs, load=st.floats(0.4, 0.8))
def test_requests_one_by_one_are_never_refused_below_capacity(cost, load):
    world, rate = World(cost), load / cost.of(1)
    tally = world.stream(paced(rate), 1, until=500 / rate)
    world.run()
    assert (tally.refused, tally.answered) == (0, tally.admitted)


@models
def test_requests_by_chance_are_refused_less_than_an_alarm_tolerates(cost):
    world, rate = World(cost), 0.4 / cost.of(1)
    tally = world.stream(poisson(rate), 1, until=4000 / rate)
    world.run()
    assert tally.refused_share < 0.02


@models
@pytest.mark.parametrize("times", [3, 10])
def test_an_overloaded_model_answers_at_its_capacity_and_refuses_the_rest(cost, times):
    rows = max(1, round(0.002 * capacity(cost)))  # few requests, so that the test takes no longer than the others
    rate = times * capacity(cost) / rows
    world = World(cost)
    tally = world.stream(poisson(rate), rows, until=max(2.0, 60 * world.queue._full))
    world.run()
    assert tally.rows / world.now > 0.9 * capacity(cost)
    assert tally.refused_share > 0.5


@settings(max_examples=30, deadline=None)
@given(cost=costs, rows=st.sampled_from([1, 10, 300]), objective=st.sampled_from([0.01, 0.1, 1.0]))
def test_what_is_let_in_is_answered_in_time_or_within_three_calls(cost, rows, objective):
    world = World(cost, objective)
    call = world.queue._full
    rate = 3 / max(cost.row * rows, call * rows / world.queue._most)
    tally = world.stream(poisson(rate), rows, until=1000 / rate)
    world.run()
    slices = 1 + rows // world.queue._most
    assert max(tally.latencies) <= max(objective + 0.001, 3 * call) + slices * call


def test_many_at_once_are_let_in_if_the_model_can_answer_them_in_time():
    world = World(Cost(call=0.000_03, row=0.000_001_8))
    tally = world.clients(2000, 1, until=1e-6)
    world.run()
    assert (tally.refused, tally.answered) == (0, 2000)


# -- Fairness --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["booster", "5 ms", "15 ms", "25 ms", "forest"])
def test_small_requests_are_answered_beside_clients_with_a_thousand_rows(name):
    cost = MODELS[name]
    rate = min(200.0, 0.2 / cost.of(1))
    world, until = World(cost), 400 / rate
    large = world.clients(4, 1000, until=until)
    few = world.stream(poisson(rate), 1, until=until)
    world.run()
    assert few.refused_share < 0.01
    assert large.answered > 0


@settings(max_examples=20, deadline=None)
@given(cost=costs.filter(lambda cost: cost.row < 0.001), rows=st.integers(64, 1000), clients=st.integers(1, 8))
def test_neither_size_starves_the_other(cost, rows, clients):
    world = World(cost)
    until = 100 * max(cost.of(rows), world.queue._full)
    large = world.clients(clients, rows, until=until, pause=cost.of(rows) / 10, retry=until / 500)
    few = world.clients(64, 1, until=until, pause=until / 50, retry=until / 50)
    world.run()
    assert large.answered >= 10
    assert few.answered >= 64
    assert few.refused_share < 0.5


# -- Estimates -------------------------------------------------------------------------------------------------------
wrong = st.sampled_from([0.0, 0.01, 0.3, 1.0, 3.0, 100.0])
"""How many times as many rows as a request has, by an estimate that has learned nothing."""


def estimate(wrong: float) -> Estimate:
    return Estimate(lambda size: int(wrong * size), 10_000)


@settings(max_examples=30, deadline=None)
@given(cost=costs, wrong=wrong, times=st.sampled_from([3, 10]))
def test_a_wrong_estimate_costs_no_goodput(cost, wrong, times):
    rows = max(1, round(0.002 * capacity(cost)))
    world = World(cost, estimate=estimate(wrong))
    tally = world.stream(poisson(times * capacity(cost) / rows), rows, until=max(2.0, 60 * world.queue._full))
    world.run()
    assert tally.rows / world.now > 0.9 * capacity(cost)


@settings(max_examples=20, deadline=None)
@given(cost=costs.filter(lambda cost: cost.row < 0.001), wrong=wrong, rows=st.integers(64, 1000))
def test_a_wrong_estimate_starves_neither_size(cost, wrong, rows):
    world = World(cost, estimate=estimate(wrong))
    until = 100 * max(cost.of(rows), world.queue._full)
    large = world.clients(4, rows, until=until, pause=cost.of(rows) / 10, retry=until / 500)
    few = world.clients(64, 1, until=until, pause=until / 50, retry=until / 50)
    world.run()
    assert large.answered >= 10
    assert few.answered >= 64
    assert few.refused_share < 0.5


@settings(max_examples=30, deadline=None)
@given(cost=costs, wrong=wrong, load=st.floats(0.4, 0.8))
def test_a_wrong_estimate_refuses_nobody_below_capacity(cost, wrong, load):
    world, rate = World(cost, estimate=estimate(wrong)), load / cost.of(1)
    tally = world.stream(paced(rate), 1, until=500 / rate)
    world.run()
    assert (tally.refused, tally.answered) == (0, tally.admitted)


@given(
    counted=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 10_000)), max_size=50),
    size=st.integers(0, 1 << 20),
    rows=st.integers(1, 10_000),
)
def test_an_estimate_forgets_what_it_learned_before(counted, size, rows):
    found = estimate(1.0)
    for each in counted:
        found.learn(*each)
    for _ in range(60):
        found.learn(size, rows)
    assert found.rows(size) in range(rows - 1, rows + 2) if size else found.rows(size) == 1


@given(wrong=wrong, size=st.integers(0, 1 << 40))
def test_an_estimate_is_a_number_of_rows_that_a_request_may_have(wrong, size):
    assert 1 <= estimate(wrong).rows(size) <= 10_000


def test_of_requests_that_an_estimate_refuses_one_of_sixty_five_is_counted():
    found = estimate(1.0)
    due = [found.is_due(100) for _ in range(200)]
    assert [number for number, each in enumerate(due) if each] == [64, 129, 194]


def test_sizes_are_learned_by_themselves():
    """What a body has besides its rows weighs more in a small one."""
    found = estimate(1.0)
    found.learn(300, 1)
    found.learn(100_000, 1000)
    assert (found.rows(280), found.rows(100_000), found.rows(5000)) == (1, 1000, 5000)


# -- Stalls ----------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(cost=costs, stalls=st.lists(st.floats(0, 10_000), max_size=50))
def test_a_stall_is_forgotten(cost, stalls):
    """However long calls took, a second later nobody is refused at 60 per cent of the capacity."""
    world = World(cost)
    rows = max(1, min(1000, int(0.001 / cost.row)))  # so that a second of load has few requests
    rate = 0.6 / cost.of(rows)
    for seconds in stalls:
        world.queue.add([], 1)
        call = world.queue.take(0.0)
        assert call is not None
        world.queue.finish(call, seconds)
    recovery = max(1.0, 40 / rate)
    world.stream(paced(rate), rows, until=recovery)
    world.run()
    after = world.stream(paced(rate), rows, since=recovery, until=recovery + 200 / rate)
    world.run()
    assert (after.refused, after.answered) == (0, after.admitted)
    assert world.queue.drag == pytest.approx(1.0, rel=0.1)


def test_one_stall_of_fifty_calls_doubles_the_estimate_at_most():
    queue: Admission[str] = Admission(Cost(call=0.0, row=0.001), OBJECTIVE)
    for number in range(1000):
        queue.add("somebody", 1)
        call = queue.take(number)
        assert call is not None
        queue.finish(call, 0.05 if number == 990 else 0.001)
    assert queue.drag < 2


def test_a_machine_that_became_slow_lets_in_less():
    def let_in(slower: float) -> int:
        world = World(Cost(call=0.0, row=0.001), speed=lambda _: slower)
        world.stream(paced(100), 1, until=1)
        world.run()
        tally = world.clients(300, 1, until=world.now + 1e-6)
        world.run()
        return tally.admitted

    assert let_in(1.0) in range(90, 105)
    assert let_in(5.0) in range(15, 25)


def test_a_machine_measured_while_it_was_busy_lets_in_more_later():
    world = World(Cost(call=0.0, row=0.01), speed=lambda _: 0.1)
    world.stream(paced(100), 1, until=2)
    world.run()
    assert world.queue.drag == pytest.approx(0.1, rel=0.1)


# -- The queue -------------------------------------------------------------------------------------------------------
class Queue(RuleBasedStateMachine):
    """Any order of events: each row is in one call, in order, and a request is let in if nothing waits."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Admission[int] = Admission(Cost(call=0.002, row=0.000_3), OBJECTIVE, slots=2)
        self.estimate = Estimate(lambda size: size, 10_000)
        self.now, self.sizes, self.taken = 0.0, [], {}  # type: ignore[var-annotated]
        self.calls: list[Any] = []

    @rule(rows=st.integers(1, 100))
    def come(self, rows: int) -> None:
        self.taken[len(self.sizes)] = 0
        self.queue.add(len(self.sizes), rows)
        self.sizes.append(rows)

    @rule(rows=st.integers(1, 1000))
    def ask(self, rows: int) -> None:
        assert self.queue.admits(rows, self.now) or self.queue.rows

    @rule(size=st.integers(0, 100_000), rows=st.integers(1, 1000))
    def ask_by_size(self, size: int, rows: int) -> None:
        assert self.queue.admits(self.estimate.rows(size), self.now) or self.queue.rows
        assert self.queue.admits_counted(self.estimate, size, rows, self.now) or self.queue.rows

    @rule(seconds=st.floats(0, 1000))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.calls) < 2)
    @rule()
    def begin(self) -> None:
        call = self.queue.take(self.now)
        assert (call is None) == (self.taken == dict(enumerate(self.sizes)))
        for request, start, stop in call.parts if call else ():
            assert start == self.taken[request] < stop <= self.sizes[request]
            self.taken[request] = stop
        self.calls += [call] if call else []

    @precondition(lambda self: self.calls)
    @rule(seconds=st.none() | st.floats(0, 1000), first=st.booleans())
    def end(self, seconds: float | None, first: bool) -> None:
        self.queue.finish(self.calls.pop(0 if first else -1), seconds)

    @rule()
    def give_up(self) -> None:
        """The rest of a request that has begun is dropped."""
        for request, rows in enumerate(self.sizes):
            if 0 < self.taken[request] < rows:
                self.queue.drop(request)
                self.taken[request] = rows
                return

    @invariant()
    def the_estimate_is_sound(self) -> None:
        assert 0 <= self.queue.saturation() <= 1
        assert self.queue.drag >= 0
        assert self.queue.running == len(self.calls)


TestQueue = Queue.TestCase


def test_a_service_takes_whole_requests_as_many_as_it_has_slots():
    queue: Admission[str] = Admission(Cost(call=0.01, row=0.001), OBJECTIVE, slots=2, alone=True)
    for name, rows in (("first", 500), ("second", 1), ("third", 3)):
        queue.add(name, rows)
    calls = [queue.take(0.0), queue.take(0.0), queue.take(0.0)]
    assert [[request for request, _, _ in call.parts] if call else None for call in calls] == [
        ["first"],
        ["second"],
        None,
    ]


# -- The app ---------------------------------------------------------------------------------------------------------
class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Connection:
    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []

    def respond(self, request, status, body, *rest) -> None:
        self.statuses.append(status)
        self.bodies.append(body)

    def back_off(self) -> None:
        """There is nothing to read."""


class Model(small.Model):
    """Answers each row with its value, in 20 milliseconds and more on a clock of its own."""

    cost = Cost(call=0.004, row=0.000_1)

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: list[list[float]] = []

    def predict(self, rows) -> Predictions:
        self.clock.now += self.cost.of(len(rows))
        self.calls.append([row[0] for row in rows])
        if 13.0 in self.calls[-1]:
            raise ValueError("no luck")
        return Predictions([row[0] for row in rows], [0] * len(rows))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(engine, "clock", clock)
    return clock


@pytest.fixture
def model(clock):
    return Model(clock)


@pytest.fixture
def ask(tmp_path, clock, model):
    """Sends bodies at the same time; gives the connections that got the answers."""
    app = small.build(tmp_path, model)

    async def send(*bodies: bytes) -> list[Connection]:
        connections = [Connection() for _ in bodies]
        for body, connection in zip(bodies, connections, strict=True):
            app.handle(Request(b"POST", b"/v1/predict", {}, body, clock.now, keep_alive=True), connection)
        await until_idle(app)
        return connections

    return send


async def until_idle(app: App) -> None:
    while not app.engine.idle:  # noqa: ASYNC110 - the turns of the loop are what is awaited
        await asyncio.sleep(0)


def many(*values: float) -> bytes:
    return b'{"rows":[%b]}' % b",".join(b'{"x":%g}' % value for value in values)


async def test_a_large_request_is_answered_in_slices_and_whole(ask, model, monkeypatch):
    monkeypatch.setattr(engine, "OFF_LOOP_SECONDS", 1.0)
    [large, one] = await ask(many(*range(100, 400)), many(1))
    assert len(model.calls) > 2
    assert 1.0 in model.calls[0]
    assert large.bodies[0].count(b"value") == 300
    assert b'{"value":100.0},{"value":101.0}' in large.bodies[0]
    assert one.statuses == [200]


async def test_the_error_of_a_slice_is_the_answer_of_its_request_alone(ask, model, monkeypatch):
    monkeypatch.setattr(engine, "OFF_LOOP_SECONDS", 1.0)
    [broken, good] = await ask(many(13.0, *range(100, 400)), many(1))
    assert (broken.statuses, good.statuses) == ([500], [200])
    assert sum(map(len, model.calls)) < 300  # its other slices are not predicted


async def test_slices_in_a_thread_are_answered_alike(ask):
    [large, one] = await ask(many(*range(100, 400)), many(1))
    assert large.bodies[0].count(b"value") == 300
    assert one.statuses == [200]


async def test_what_is_too_much_is_refused_before_it_is_decoded(ask, model, monkeypatch):
    monkeypatch.setattr(engine, "OFF_LOOP_SECONDS", 1.0)
    connections = await ask(*[many(*range(100, 600))] * 10, b"[" * 5000)
    statuses = [connection.statuses[0] for connection in connections]
    assert statuses.count(200) in range(1, 5)
    assert set(statuses) == {200, 429}  # the last one is no JSON


@given(
    row=st.floats(1e-6, 0.01),
    rows_of_a_call=st.floats(0, 5_000),
    noise=st.lists(st.floats(1.0, 1.1), min_size=5, max_size=5),
)
def test_the_cost_of_a_row_is_told_from_noise(row, rows_of_a_call, noise):
    """A tenth of noise in each measurement, and a call that takes as long as thousands of rows."""
    pending = iter(noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "fastest", lambda run: run() * next(pending))
        cost = measure_cost(lambda rows: row * (rows_of_a_call + rows), 100, 10_000)
    assert row / 2 < cost.row < row * 2


def test_a_model_that_takes_long_is_measured_in_few_calls(monkeypatch):
    """A start-up probe waits for two minutes at most."""
    now = [0.0]
    monkeypatch.setattr(predictor.time, "perf_counter", lambda: now[0])

    def call(rows):
        now[0] += 2.0 + rows / 1_000

    assert measure_cost(call, 100, 10_000).row == pytest.approx(1 / 1_000, rel=0.1)
    assert now[0] < 25
