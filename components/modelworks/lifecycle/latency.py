"""Whether predictions are fast enough: a test of a quantile of their time, beside work whose time is known.

The interval of the quantile is between two order statistics of the sample, which holds for any distribution of times
(Hahn and Meeker, *Statistical Intervals*, 1991, section 5.2). Its upper end is within a limit if and only if the
exact upper bound of the share of slower calls (Clopper and Pearson, Biometrika 26, 1934) is within one percent.

After each call comes a loop of constant work, made to take as long. Only the machine makes some loops take longer than
the fastest. Where that delay would carry even the fastest call over the limit, the machine is busy, and
slow calls decide nothing. The loops alone, never the calls, decide whether another round follows, so that no round
has another for its result. A busy machine makes no slow model fast: calls that are fast enough are so on any machine.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy import stats

from modelworks.lifecycle.gates import Verdict

QUANTILE = 0.99
LEVEL = 0.95
CALLS = 1000
"""Of a round. A model passes with at most 3 of them beyond the limit, and fails with 18."""
ROUNDS = 5
"""Most rounds, until one is undisturbed."""
MOST_SECONDS = 30.0
"""After so long, no further round is begun."""
WARM_UP = 20
"""Calls before the first round: their median is how long the loops are made to take."""

Call = Callable[[], object]
Clock = Callable[[], float]
"""Seconds since some moment."""


@dataclass(frozen=True)
class Timed:
    """Calls of a model, and loops of constant work between them."""

    calls: np.ndarray
    """Seconds."""
    loops: np.ndarray
    """Seconds."""

    @property
    def quantile(self) -> float:
        """The quantile of the calls, seconds."""
        return float(np.quantile(self.calls, QUANTILE))

    @property
    def ends(self) -> tuple[float, float]:
        """The interval of the quantile of the calls, seconds."""
        return _ends(self.calls)

    @property
    def delay(self) -> float:
        """How much longer than the fastest the slowest hundredth of the loops took, at most, seconds."""
        return _ends(self.loops)[1] - float(self.loops.min())

    def busy(self, limit: float) -> bool:
        """Whether the machine alone may have carried calls over a limit, seconds."""
        fastest = float(self.calls.min())
        return fastest <= limit < fastest + self.delay

    def verdict(self, limit: float) -> Verdict:
        """Whether the quantile is within a limit, seconds: pass or fail where its whole interval is on one side."""
        low, high = self.ends
        if high <= limit:
            return "pass"
        return "fail" if low > limit and not self.busy(limit) else "inconclusive"


def _ends(values: np.ndarray) -> tuple[float, float]:
    ordered, count = np.append(np.sort(values), np.inf), len(values)
    below, above = (int(stats.binom.ppf(level, count, QUANTILE)) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(ordered[max(below - 1, 0)]), float(ordered[above])


def measure(call: Call, limit: float, clock: Clock, loop: Callable[[float, Clock], Call]) -> Timed:
    """Time calls of a model, in rounds, until the machine leaves one of them undisturbed.

    Args:
        call: Makes one prediction.
        limit: Of its time, seconds.
        clock: Returns the time.
        loop: Makes a loop of constant work that takes so many seconds by a clock.
    """
    with _without_collector():
        start = clock()
        usual = float(np.median([_seconds(call, clock) for _number in range(WARM_UP)]))
        work = loop(min(usual, limit), clock)
        for _round in range(ROUNDS):
            pairs = [(_seconds(call, clock), _seconds(work, clock)) for _number in range(CALLS)]
            calls, loops = np.array(pairs).T
            found = Timed(calls, loops)
            if not found.busy(limit) or clock() - start > MOST_SECONDS:
                break
    return found


def _seconds(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


@contextmanager
def _without_collector() -> Iterator[None]:
    """A pause of the garbage collector is the server's to count, not the model's."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def counting(seconds: float, clock: Clock) -> Call:
    """A loop that counts to a number, which takes about so many seconds."""
    number = 1000

    def work() -> None:
        for _number in range(number):
            pass

    fastest = min(_seconds(work, clock) for _number in range(WARM_UP))
    number = max(1, round(number * seconds / max(fastest, 1e-9)))
    return work


@contextmanager
def own_time() -> Iterator[Clock]:
    """A clock of this thread that stands while the kernel has it wait for a processor: others work then.

    Linux reports how long that was (`sched-stats.rst` in its documentation). Elsewhere, the clock does not stand.
    """
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        yield time.perf_counter
        return
    try:
        yield lambda: time.perf_counter() - int(os.pread(file, 80, 0).split()[1]) / 1e9
    finally:
        os.close(file)
