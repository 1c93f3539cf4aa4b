"""Private: the end of a program that is the first process of a container."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn


def end_on_sigterm() -> None:
    """Exit with 143 on SIGTERM: a first process that does not handle the signal is not ended by it."""
    signal.signal(signal.SIGTERM, _end)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
