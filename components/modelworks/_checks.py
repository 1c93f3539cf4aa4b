"""Private: the result of one check of the needs of an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "unknown", "skipped"]


@dataclass(frozen=True)
class Check:
    """A need of an environment, and whether it is met."""

    name: str
    status: Status
    """`missing`: the environment does not work without it. `unknown`: the check could not be performed. `skipped`: it
    does not apply here."""
    message: str
    fix: str = ""
    """The command or the setting that helps."""
