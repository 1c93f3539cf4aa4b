"""Bytes of requests that are on their way or wait, and of answers that nobody reads: of all protocols together.

Each protocol has a share. It may take what the others leave, but for the two largest requests that each of them may
always have: so a flood over one protocol is bounded, and closes no other.
"""

from __future__ import annotations

from collections.abc import Callable

BUDGET_BYTES = 64 << 20
"""Of all protocols; if that is less than two of the largest requests for each of them, those."""
_ALWAYS = 2


class Budget:
    """The bytes that all protocols may take together.

    Args:
        largest: Bytes of the largest request.
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.shares: list[Share] = []

    @property
    def bytes(self) -> int:
        """The most that may be taken."""
        return max(BUDGET_BYTES, len(self.shares) * _ALWAYS * self.largest)

    @property
    def used(self) -> int:
        """The bytes that are taken."""
        return sum(share.used for share in self.shares)

    def share(self) -> Share:
        """That of one more protocol."""
        self.shares.append(Share(self))
        return self.shares[-1]


class Share:
    """The part of one protocol in a budget.

    Args:
        budget: Of all of them.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget, self.used = budget, 0
        self.freed: Callable[[], None] | None = None
        """Called when a share, this one or another, has taken less than before."""

    def take(self, change: int) -> None:
        """Take so many bytes more, whether or not there is room for them; less if it is negative."""
        self.used += change
        if change < 0:
            for share in self._budget.shares:
                if share.freed is not None:
                    share.freed()

    def room(self, more: int = 0) -> bool:
        """Whether all that is taken, and so much more here, is within the budget."""
        always = _ALWAYS * self._budget.largest
        others = sum(max(share.used, always) for share in self._budget.shares if share is not self)
        return self.used + more <= self._budget.bytes - others
