"""Kubernetes quantities and divisors, as plain numbers."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_SUFFIX = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([A-Za-z]{0,2})")


def parse(text: str | float) -> Decimal:
    """The value of a quantity such as `500m`, `1.5Gi` or `2e3`.

    Raises:
        ValueError: It is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(text))
    if not match or match[2] not in _SUFFIX:
        raise ValueError(f"not a Kubernetes quantity: {text!r}")
    return Decimal(match[1]) * _SUFFIX[match[2]]


def divided(value: Decimal, divisor: str | float | None) -> str:
    """`value` in units of `divisor` (default 1), rounded up, as `resourceFieldRef` gives it."""
    unit = parse(divisor) if divisor not in (None, "", "0", 0) else Decimal(1)
    return str(math.ceil(value / unit))
