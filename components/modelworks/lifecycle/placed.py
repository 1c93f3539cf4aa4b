"""The file and line at which a part of a spec is stated: messages about it begin with them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from modelworks.errors import ModelworksError


def _where() -> str:
    """File and line of the user's code that is making a part of a spec."""
    frame = sys._getframe(1)  # noqa: SLF001 - the one way to know who calls a dataclass's __init__
    while frame.f_back is not None and frame.f_code.co_filename == "<string>":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A part of a spec."""

    where: str = field(default_factory=_where, repr=False, compare=False)
    """File and line that states this; filled in by itself."""


def require(part: Placed, holds: bool, rule: str, fix: str = "") -> None:
    """Require a rule to hold of a part of a spec.

    Raises:
        ModelworksError: It does not; the message begins with the file and line of the part.
    """
    if not holds:
        raise ModelworksError(f"{part.where}: {rule}", fix=fix)
