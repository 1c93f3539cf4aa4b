"""Rows at the edges of what a model's features allow, and how much an answer depends on other rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Feature, bounds

ROUNDING = 1e-6
"""Largest difference, relative to the largest answer, that comes of adding the same numbers in another order."""
NEIGHBOURS = (1, 2, 7)
"""Rows in one call that are compared with one call for all: linear algebra adds in another order for each."""
ALONE_ROWS = 32
"""Rows that such calls predict."""


@dataclass(frozen=True)
class EdgeCase:
    """A row that the schema admits and that data may never have held."""

    feature: str
    """The one that is at an edge; empty for several at once."""
    edge: str
    """Which edge, in words."""
    row: Row


def edge_cases(features: Sequence[Feature], row: Row) -> list[EdgeCase]:
    """A row of the data with each feature at each edge of what requests may carry.

    Args:
        features: The features of a row, in order.
        row: One that stands for the others.
    """
    cases = [
        EdgeCase(feature.name, edge, (*row[:position], value, *row[position + 1 :]))
        for position, feature in enumerate(features)
        for edge, value in _edges(feature)
    ]
    optional = [feature.nullable or not feature.required for feature in features]
    if sum(optional) > 1:
        none = tuple(None if may else value for may, value in zip(optional, row, strict=True))
        cases.append(EdgeCase("", "everything missing that may be", none))
    return cases


def _edges(feature: Feature) -> Iterator[tuple[str, Any]]:
    if feature.nullable or not feature.required:
        yield "missing", None
    if feature.type == "boolean":
        yield from (("false", False), ("true", True))
    elif feature.type != "string":
        low, high = bounds(feature)
        yield from ((f"{low:g}, its lowest", low), (f"{high:g}, its highest", high))
    elif feature.categories:
        yield from ((f"the category {category!r}", category) for category in feature.categories)
    else:
        unseen = "no such text: \N{SNOWMAN}"[: feature.max_length]
        yield from (("empty", ""), ("a text that no row has", unseen), ("the longest text", "x" * feature.max_length))


def dependence(infer: Callable[[list[Row]], Any], rows: list[Row]) -> float:
    """How much an answer depends on the other rows of its request.

    Args:
        infer: An engine.
        rows: As many as one request may bring.

    Returns:
        The largest difference of an answer, relative to the largest answer; 0 when there is none in any bit.
    """
    together = np.asarray(infer(rows), dtype="float64")
    worst = _difference(together[::-1], infer(rows[::-1]))
    few = rows[:ALONE_ROWS]
    for size in NEIGHBOURS:
        parts = [infer(few[start : start + size]) for start in range(0, len(few), size)]
        worst = max(worst, _difference(together[: len(few)], np.concatenate(parts)))
    return worst / max(1.0, float(np.abs(together).max()))


def _difference(one: Any, other: Any) -> float:
    other = np.asarray(other, dtype="float64")
    return float(np.max(np.abs(one - other), initial=0.0)) if one.shape == other.shape else float("inf")
