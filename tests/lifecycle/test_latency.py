"""Latency is judged by an interval, and a busy machine decides nothing. Time is told, never measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modelworks.errors import ModelworksError
from modelworks.lifecycle import LatencyGate
from modelworks.lifecycle.evaluate_gates import _timed
from modelworks.lifecycle.latency import CALLS, ROUNDS, WARM_UP, Timed, counting, measure, own_time

LIMIT = 0.005


class Told:
    """A clock that moves only when work is done, and by as much as the work is told to take."""

    def __init__(self, calls, loops=lambda number: 1.0):
        self.now, self.calls, self.loops, self.made = 0.0, calls, loops, [0, 0]

    def __call__(self):
        return self.now

    def call(self):
        self.now += self.calls(self.made[0])
        self.made[0] += 1

    def loop(self, seconds, clock):
        def work():
            self.now += seconds * self.loops(self.made[1])
            self.made[1] += 1

        return work

    def timed(self):
        return measure(self.call, LIMIT, self, self.loop)


def slow_in(share_of_thousand, seconds=0.02):
    return lambda number: seconds if number % 1000 >= 1000 - share_of_thousand else 0.001


@pytest.mark.parametrize(
    ("slow", "verdict"), [(0, "pass"), (3, "pass"), (4, "inconclusive"), (17, "inconclusive"), (18, "fail")]
)
def test_a_quantile_passes_or_fails_by_its_whole_interval(slow, verdict):
    assert Told(slow_in(slow)).timed().verdict(LIMIT) == verdict


@pytest.mark.parametrize("slow", range(25))
def test_order_statistics_decide_as_the_exact_bounds_of_the_share_of_slow_calls_do(slow):
    times = np.where(np.arange(CALLS) < slow, 0.02, 0.001)
    bounds = stats.binomtest(slow, CALLS).proportion_ci(0.95, method="exact")
    expected = "pass" if bounds.high <= 0.01 else "fail" if bounds.low > 0.01 else "inconclusive"
    assert Timed(times, np.full(CALLS, 0.001)).verdict(LIMIT) == expected


def test_few_calls_never_pass():
    assert Timed(np.full(367, 0.001), np.full(367, 0.001)).verdict(LIMIT) == "inconclusive"
    assert Timed(np.full(368, 0.001), np.full(368, 0.001)).verdict(LIMIT) == "pass"


def test_a_busy_machine_decides_nothing_and_is_named():
    found = Told(slow_in(100), loops=lambda number: 20 if number % 10 == 0 else 1).timed()
    result = _timed(LIMIT * 1000, found)
    assert result["verdict"] == "inconclusive"
    assert "the machine was busy: work that is always the same took up to 19 ms longer" in result["message"]


def test_a_busy_machine_is_tried_again_and_the_first_undisturbed_round_decides():
    busy = 2 * CALLS
    machine = Told(
        lambda number: 0.02 if number < WARM_UP + busy and number % 10 == 0 else 0.001,
        loops=lambda number: 20 if number < busy and number % 10 == 0 else 1,
    )
    assert machine.timed().verdict(LIMIT) == "pass"
    assert machine.made[0] == WARM_UP + 3 * CALLS


def test_rounds_of_a_machine_that_stays_busy_are_bounded():
    machine = Told(slow_in(0), loops=lambda number: 6 if number % 10 == 0 else 1)
    machine.timed()
    assert machine.made[0] == WARM_UP + ROUNDS * CALLS


def test_slow_calls_of_an_undisturbed_machine_are_not_tried_again():
    machine = Told(slow_in(100))
    assert machine.timed().verdict(LIMIT) == "fail"
    assert machine.made[0] == WARM_UP + CALLS


def test_a_model_that_is_slow_at_its_fastest_fails_on_a_busy_machine_too():
    found = Told(lambda number: 0.006, loops=lambda number: 20 if number % 10 == 0 else 1).timed()
    assert found.verdict(LIMIT) == "fail"


def test_a_model_that_is_fast_on_a_busy_machine_is_fast():
    machine = Told(slow_in(0), loops=lambda number: 6 if number % 10 == 0 else 1)
    assert machine.timed().verdict(LIMIT) == "pass"


def test_the_report_states_the_interval_and_its_assumption():
    result = _timed(5, Told(slow_in(4)).timed(), by=" by its own service")
    assert result["interval"] == pytest.approx([1, 20])
    assert result["assumes"] == "1,000 predictions, taken to be independent of each other"
    assert result["message"] == "p99 of predictions of one row by its own service at most 5 ms, on this machine"


def test_a_loop_takes_about_as_long_as_it_is_made_to():
    steps = iter(np.arange(10_000) * 0.001)  # any work takes a millisecond by this clock
    assert counting(0.005, lambda: next(steps)).__closure__ is not None
    with own_time() as clock:
        work, start = counting(0.002, clock), clock()
        work()
        assert clock() > start


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_time(limit):
    with pytest.raises(ModelworksError, match="p99_ms must be above 0"):
        LatencyGate(p99_ms=limit)
