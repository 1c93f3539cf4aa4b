"""The gates of a model project: what a model must prove before it is registered as promotable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from modelworks.lifecycle.placed import Placed, require

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Group(Placed):
    """A protected group: people or parties between whom the model must be fair."""

    column: str
    min_rows: int = 300
    """A group with fewer hold-out rows is not judged by itself: see `pool_small`."""
    pool_small: bool = False
    """Judge the groups that are too small together, as one. Otherwise each of them is inconclusive."""
    because: str = ""
    """Why this group is protected."""


@dataclass(frozen=True, kw_only=True)
class Gate(Placed):
    """One condition a model meets before it is registered as promotable."""

    because: str = ""
    """Where the limit comes from: an agreement, a requirement, a measurement."""


@dataclass(frozen=True, kw_only=True)
class MetricGate(Gate):
    """A metric on the hold-out, judged by its confidence interval."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        """Exactly one limit."""
        require(
            self,
            (self.at_least is None) != (self.at_most is None),
            f"the gate on {self.metric!r} needs exactly one of at_least and at_most",
        )


@dataclass(frozen=True, kw_only=True)
class BaselineGate(Gate):
    """Better than the trivial answer (the training rows' class shares, or their median) by more than `margin`."""

    metric: str
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ChampionGate(Gate):
    """Not worse than what serves now by more than `margin`, on the hold-out rows that neither was trained on."""

    metric: str
    margin: float
    min_rows: int = 100
    """Fewer such rows decide nothing."""


@dataclass(frozen=True, kw_only=True)
class SliceGate(Gate):
    """No slice worse than a floor (or a ceiling, for metrics where lower is better)."""

    by: str
    metric: str
    limit: float
    min_rows: int = 300


@dataclass(frozen=True, kw_only=True)
class FairnessGate(Gate):
    """A metric alike across a protected group: each part of it against all other rows, by simultaneous intervals."""

    group: str
    metric: str
    max_difference: float | None = None
    """Largest difference from the others, either way."""
    min_ratio: float | None = None
    """Smallest ratio to the others, or of the others to it."""

    def __post_init__(self) -> None:
        """At least one limit."""
        require(
            self,
            self.max_difference is not None or self.min_ratio is not None,
            f"the fairness gate on {self.group!r} needs max_difference or min_ratio",
        )
        require(
            self,
            self.max_difference is None or self.max_difference > 0,
            f"max_difference must be above 0, got {self.max_difference}: no two groups are measured to be equal",
        )
        require(
            self,
            self.min_ratio is None or 0 < self.min_ratio < 1,
            f"min_ratio must be above 0 and below 1, got {self.min_ratio}: no two groups are measured to be equal",
        )


@dataclass(frozen=True, kw_only=True)
class LatencyGate(Gate):
    """Time of one prediction of one row by the bundled model itself, without a server: 99th percentile.

    Passes or fails where the whole 95 % interval of that percentile is on one side of the limit. On a machine whose
    other work may be what makes predictions slow, it is inconclusive, by that name. A custom service is timed as
    BentoML runs it, its socket included.
    """

    p99_ms: float
    """Milliseconds."""

    def __post_init__(self) -> None:
        """A time."""
        require(self, 0 < self.p99_ms < math.inf, f"p99_ms must be above 0, got {self.p99_ms}")


@dataclass(frozen=True, kw_only=True)
class SizeGate(Gate):
    """Size of the bundle, megabytes (10^6 bytes)."""

    megabytes: float


@dataclass(frozen=True, kw_only=True)
class InvarianceGate(Gate):
    """A change of the rows that must not change the prediction."""

    name: str
    change: Callable[[pd.DataFrame], pd.DataFrame]
    tolerance: float
    """Largest change of a probability or value that still counts as none."""
    share: float = 0.99
    """Share of rows for which it must hold."""


@dataclass(frozen=True, kw_only=True)
class DirectionGate(Gate):
    """A change of the rows that must move the prediction one way."""

    name: str
    change: Callable[[pd.DataFrame], pd.DataFrame]
    expect: Literal["up", "down"]
    share: float = 0.9
    """Share of rows that may not move the other way."""
