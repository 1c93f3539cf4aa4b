"""SIGTERM and Ctrl-C, at any time of a server's life.

One handler is there from the beginning, because process 1 of a container ignores a signal that it has no handler for;
its effect depends on the phase: it raises before the server is ready, and wakes the event loop afterwards.
"""

from __future__ import annotations

import signal
from collections.abc import Callable


class Ended(BaseException):
    """A signal came before the server was ready."""


class Ends:
    """The handler. Raises `Ended`, once, until `on_signal` is replaced."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self.raised = False
        self.on_signal: Callable[[int], object] = self._raise
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: self.on_signal(number))

    def hold(self) -> None:
        """Only note signals, until `deliver`."""
        self.on_signal = self._noted.append

    def deliver(self, on_signal: Callable[[int], object]) -> None:
        """Call this on a signal from now on, and for those that were noted."""
        self.on_signal = on_signal
        while self._noted:
            on_signal(self._noted.pop(0))

    def resume(self) -> None:
        """Raise again."""
        self.deliver(self._raise)

    def _raise(self, _number: int) -> None:
        self.on_signal = _ignore  # what follows is clean-up
        self.raised = True
        raise Ended


def _ignore(_number: int) -> None:
    """Nothing."""
