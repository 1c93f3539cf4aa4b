"""The queue before a model: who is let in, and whose rows the next call takes. Pure: the caller passes the time.

**What waits is priced by the calls that it takes**, for one call answers many requests: waiting rows take as many calls
as they fill, each with its own cost and that of its rows. A request is let in if it should be answered within the
latency objective, by the cost that the model had when it was loaded times the drag: how many times longer calls take of
late, on a busy machine or one whose processor time is capped. The drag is learned from calls of the model and nothing
else, so that refusing requests, or a stall between two calls, never looks like a slow model.

**Never below one call.** Whatever the objective, a request is let in if it goes into the next call, and two may always
wait. So a model that takes longer than its objective is still used to its capacity, and no estimate, however wrong,
refuses for ever: the next call corrects it.

**Fair by size.** Requests of like size share a lane, in order of arrival. Each call takes as many rows from every lane
that waits, so a request waits for those of its own size before it, and for no more rows of any other size than these
have. A request of a thousand rows is answered in slices, and one of a single row goes past it. A connection has one
request here at a time, so none of them takes more than its share by sending more.

**Decided by the head of a request.** Its rows are estimated from the announced bytes of its body, before they come: see
`Estimate`. When they are counted, the request is judged once more.

**Nothing of this costs a request that need not wait.** What came since the last call is sorted into lanes only if it is
more than one call takes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from modelworks.runtime.predictor import Cost

T = TypeVar("T")
Part = tuple[T, int, int]
"""A request, and which of its rows: from, and before."""

_CALL_SECONDS = 0.004
"""A call takes rows for this long, or for as long as it takes without any: at least half of a call is work on rows."""
_MOST_ROWS = 65_536
"""Of a call, where a row costs next to nothing."""
_LATELY_SECONDS = 0.05
"""Enough work to estimate the drag: a single stall is a small part of it, and refuses no request."""
_MOST_DRAG = 50.0
"""Most that a second of work is taken to last: a process that was stopped for a while is not slow."""
_UNCOUNTED = 64
"""Of so many requests that are refused by an estimate, the next one is read and counted."""
_LEARNED = 0.25
"""The weight of a request that was counted, in the estimate for the next ones."""


class Call(msgspec.Struct, Generic[T], eq=False):
    """Rows that are answered together."""

    parts: list[Part[T]]
    whole: bool
    """Whether each part is certain to be a whole request."""
    work: float
    """Seconds that it takes on an idle machine."""
    began: float


class _Lane(Generic[T]):
    """Requests of like size, in order of arrival."""

    __slots__ = ("begun", "rows", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[T, int]] = deque()
        """Requests with their numbers of rows."""
        self.rows = 0
        """Those that no call took yet."""
        self.begun = 0
        """Rows of the first request that calls took already."""

    def take(self, most: int, parts: list[Part[T]]) -> int:
        """Move up to so many rows to `parts`; how many there were."""
        left, waiting = most, self.waiting
        while left and waiting:
            request, rows = waiting[0]
            start = self.begun
            stop = min(rows, start + left)
            parts.append((request, start, stop))
            left -= stop - start
            if stop == rows:
                waiting.popleft()
                self.begun = 0
            else:
                self.begun = stop
        self.rows -= most - left
        return most - left


class Admission(Generic[T]):
    """Requests that wait for a model.

    Args:
        cost: Of a call, in seconds, as measured when the model was loaded.
        objective: Latency objective in seconds.
        handling: Seconds that a row takes outside of calls, such as to decode it.
        slots: Calls that run at the same time.
        alone: Whether each request is a call of its own, whole. Then all of them share one lane.
    """

    def __init__(
        self, cost: Cost, objective: float, *, handling: float = 0.0, slots: int = 1, alone: bool = False
    ) -> None:
        self._cost, self._objective, self._slots, self._alone = cost, objective, slots, alone
        self._most = 1 if alone else _most_rows(cost)
        self.rows = 0
        """Those that wait."""
        self.always = max(self._most * slots, 2)
        """Rows that may wait whatever the objective is: with fewer, every request is let in."""
        self._full = cost.of(self._most) + handling * self._most
        """Seconds of a full call, and of what its rows take beside it."""
        self._came: list[Part[T]] = []
        """Requests since the last call, in no lane yet."""
        self._lanes: list[_Lane[T]] = [_Lane()]
        self._in_lanes = self._peak = self._turn = 0
        self._running: list[Call[T]] = []
        self._worked = self._took = _LATELY_SECONDS / 2
        """Work done lately, in seconds as measured on the idle machine, and how long that really took."""

    @property
    def running(self) -> int:
        """Calls that began and did not end."""
        return len(self._running)

    @property
    def drag(self) -> float:
        """How many times longer a call takes of late than when it was measured."""
        return self._took / self._worked

    # -- A request -----------------------------------------------------------------------------------------------
    def admits(self, rows: int, now: float) -> bool:
        """Whether a request of so many rows would be answered in time. With fewer than `always` it is."""
        self._sort()
        ahead = self._rows_ahead(rows)
        if ahead < self.always:
            return True
        own = self._cost.of(rows if self._alone else self._most)  # by then its call is full
        return self._left(now) + self.drag * (self._seconds(ahead // self._most) + own) <= self._objective

    def admits_counted(self, estimate: Estimate, size: int, rows: int, now: float) -> bool:
        """Whether a request that was decoded is admitted; so many rows are what the estimate learns."""
        estimate.learn(size, rows)
        return self.admits(rows, now)

    def add(self, request: T, rows: int) -> None:
        """Let a request wait, whether or not it was admitted."""
        size = self._size(rows) if self._alone else rows
        self._came.append((request, 0, size))
        self.rows += size

    def drop(self, request: T) -> None:
        """Take away the rest of a request of which a call has answered a part."""
        for lane in self._lanes:
            if lane.waiting and lane.waiting[0][0] is request:
                _, rows = lane.waiting.popleft()
                lane.rows -= rows - lane.begun
                self._in_lanes -= rows - lane.begun
                self.rows -= rows - lane.begun
                lane.begun = 0

    # -- A call --------------------------------------------------------------------------------------------------
    def take(self, now: float) -> Call[T] | None:
        """The next call, which begins now; None if nothing waits or every slot is taken."""
        rows = self.rows
        if not rows or len(self._running) >= self._slots:
            return None
        self._peak = max(self._peak, rows)
        whole = rows <= self._most and not self._in_lanes
        if whole:
            parts, self._came = self._came, []
        else:
            self._sort()
            parts = []
            rows = self._lanes[0].take(self._lanes[0].waiting[0][1], parts) if self._alone else self._shares(parts)
            self._in_lanes -= rows
        self.rows -= rows
        work = self._cost.of(1) * rows if self._alone else self._cost.of(rows)
        call = Call(parts, whole, work, now)
        self._running.append(call)
        return call

    def finish(self, call: Call[T], seconds: float | None) -> None:
        """A call ended.

        Args:
            call: The call.
            seconds: How long the model took; None if it failed, which is no measurement.
        """
        self._running.remove(call)
        if seconds is None:
            return
        self._worked += call.work
        self._took += min(seconds, _MOST_DRAG * call.work)
        if self._worked > _LATELY_SECONDS:
            self._worked, self._took = self._worked / 2, self._took / 2

    def saturation(self) -> float:
        """The most that waited since the last time, as a share of what may wait: 0 to 1."""
        peak, self._peak = max(self._peak, self.rows), 0
        full = self.drag * self._full
        return min(1.0, self.drag * self._seconds(peak / self._most) / max(self._objective - full, full))

    # -- Details -------------------------------------------------------------------------------------------------
    def _size(self, rows: int) -> int:
        """Of a request that is a call of its own: the rows that would cost the same one by one."""
        return max(1, round(self._cost.of(rows) / self._cost.of(1)))

    def _sort(self) -> None:
        """Put what came into lanes."""
        lanes = self._lanes
        for request, _, size in self._came:
            index = 0 if self._alone else size.bit_length()
            while len(lanes) <= index:
                lanes.append(_Lane())
            lanes[index].waiting.append((request, size))
            lanes[index].rows += size
        self._came.clear()
        self._in_lanes = self.rows

    def _seconds(self, calls: float) -> float:
        return calls * self._full / self._slots

    def _rows_ahead(self, rows: int) -> int:
        """Rows that calls take before the last one of a request that comes now."""
        index = 0 if self._alone else rows.bit_length()
        own = self._lanes[index].rows if index < len(self._lanes) else 0
        others = sum(min(lane.rows, own + rows) for number, lane in enumerate(self._lanes) if number != index)
        return own + others

    def _left(self, now: float) -> float:
        """Seconds until the calls that run have ended."""
        drag = self.drag
        return sum(max(0.0, drag * call.work - (now - call.began)) for call in self._running) / self._slots

    def _shares(self, parts: list[Part[T]]) -> int:
        """Move the rows of one call to `parts`, equal shares of every lane as far as they go; how many there were."""
        waiting = [lane for lane in self._lanes if lane.rows]
        if len(waiting) == 1:
            return waiting[0].take(self._most, parts)
        # Where a call has fewer rows than there are lanes, they take turns.
        self._turn = (self._turn + 1) % len(waiting)
        waiting = waiting[self._turn :] + waiting[: self._turn]
        left = self._most
        while left and waiting:
            share = max(1, left // len(waiting))
            for lane in waiting:
                left -= lane.take(min(share, left), parts)
            waiting = [lane for lane in waiting if lane.rows]
        return self._most - left


class Estimate:
    """How many rows a request has, by the bytes of its body; for requests of one form.

    It is learned from requests whose rows were counted, for each size by itself, as what a body has besides its rows
    weighs more in a small one. A wrong estimate corrects itself even if it refuses every request of a size: one of 65
    is read all the same.

    Args:
        first: The rows of so many bytes, as long as no request of this size was counted.
        most: Rows of any request.
    """

    def __init__(self, first: Callable[[int], int], most: int) -> None:
        self._first, self._most = first, most
        self._rows_of_byte: dict[int, float] = {}
        """By the size's number of bits."""
        self._refused: Counter[int] = Counter()
        """Requests since one was read, by the same."""

    def rows(self, size: int) -> int:
        """About how many rows so many bytes have; at least one."""
        learned = self._rows_of_byte.get(size.bit_length())
        return min(self._most, max(1, self._first(size) if learned is None else round(learned * size)))

    def learn(self, size: int, rows: int) -> None:
        """A request of so many bytes has so many rows."""
        bits, found = size.bit_length(), rows / max(1, size)
        before = self._rows_of_byte.get(bits, found)
        self._rows_of_byte[bits] = before + _LEARNED * (found - before)
        self._refused[bits] = 0

    def is_due(self, size: int) -> bool:
        """Whether a request of so many bytes is read and counted although it has too many rows by this estimate."""
        bits = size.bit_length()
        due = self._refused[bits] >= _UNCOUNTED
        # Whether or not its body comes, the next ones are refused.
        self._refused[bits] = 0 if due else self._refused[bits] + 1
        return due


def _most_rows(cost: Cost) -> int:
    """Rows of a full call."""
    seconds = max(_CALL_SECONDS, cost.call)
    return _MOST_ROWS if cost.row * _MOST_ROWS <= seconds else max(1, int(seconds / cost.row))
