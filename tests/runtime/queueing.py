"""A queue and its model on a clock that is told the time: hours of load in milliseconds."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from modelworks.runtime.predictor import Cost
from modelworks.runtime.server.admission import Admission, Call, Estimate

OBJECTIVE = 0.1
"""The default of an endpoint."""


@dataclass
class Tally:
    """What happened to the requests of one kind."""

    admitted: int = 0
    refused: int = 0
    answered: int = 0
    rows: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.refused + self.admitted)


class World:
    """One model behind an `Admission`, and whoever sends requests.

    Args:
        cost: As measured when the model was loaded.
        speed: How many times longer a call really takes, by the time at which it begins.
        estimate: Refuses requests before their rows are counted; each row has a byte. None: the rows are known.
    """

    def __init__(
        self,
        cost: Cost,
        objective: float = OBJECTIVE,
        speed: Callable[[float], float] = lambda _: 1.0,
        estimate: Estimate | None = None,
        **more: Any,
    ) -> None:
        self.estimate = estimate
        self.cost, self.speed, self.now = cost, speed, 0.0
        self.queue: Admission[list[Any]] = Admission(cost, objective, **more)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    # -- Those who send ------------------------------------------------------------------------------------------
    def stream(self, gaps: Iterator[float], rows: int, *, since: float = 0.0, until: float) -> Tally:
        """Requests that come whether or not others were answered."""
        tally = Tally()

        def arrive() -> None:
            self._offer(rows, tally, lambda: None)
            follow()

        def follow() -> None:
            at = max(self.now, since) + next(gaps)
            if at < until:
                self._at(at, arrive)

        follow()
        return tally

    def clients(self, count: int, rows: int, *, until: float, pause: float = 0.0, retry: float = 0.001) -> Tally:
        """Clients that each send the next request after the last answer, and again soon after a refusal."""
        tally = Tally()

        def send() -> None:
            if self.now < until and not self._offer(rows, tally, lambda: self._at(self.now + pause, send)):
                self._at(self.now + retry, send)

        for _ in range(count):
            self._at(self.now, send)
        return tally

    def run(self) -> None:
        """Until nothing is left to do."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()

    # -- The server ----------------------------------------------------------------------------------------------
    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _offer(self, rows: int, tally: Tally, then: Callable[[], None]) -> bool:
        if not self._lets_in(rows):
            tally.refused += 1
            return False
        tally.admitted += 1
        self.queue.add([tally, rows, rows, self.now, then], rows)
        self._begin()
        return True

    def _lets_in(self, rows: int) -> bool:
        queue, estimate, now = self.queue, self.estimate, self.now
        if estimate is None or queue.rows < queue.always:
            return queue.admits(rows, now)
        is_read = queue.admits(estimate.rows(rows), now) or estimate.is_due(rows)
        return is_read and queue.admits_counted(estimate, rows, rows, now)

    def _begin(self) -> None:
        while (call := self.queue.take(self.now)) is not None:
            seconds = call.work * self.speed(self.now)
            self._at(self.now + seconds, lambda call=call, seconds=seconds: self._end(call, seconds))

    def _end(self, call: Call[list[Any]], seconds: float) -> None:
        self.queue.finish(call, seconds)
        for request, start, stop in call.parts:
            tally, rows, _, came, then = request
            request[2] -= stop - start
            if request[2] == 0:
                tally.answered += 1
                tally.rows += rows
                tally.latencies.append(self.now - came)
                then()
        self._begin()


def poisson(rate: float, seed: int = 0) -> Iterator[float]:
    """Gaps between requests that know nothing of each other."""
    chance = random.Random(seed)
    while True:
        yield chance.expovariate(rate)


def paced(rate: float) -> Iterator[float]:
    """Gaps between requests that come evenly."""
    return itertools.repeat(1 / rate)


def capacity(cost: Cost) -> float:
    """Rows a second that a model answers in full calls."""
    most = Admission[Any](cost, OBJECTIVE)._most
    return most / cost.of(most)
