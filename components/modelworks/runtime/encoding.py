"""How rows become what a model takes: written once, for training, for judging and for every server.

A row is a tuple of JSON values in the order of the features: `float`, `int`, `bool`, `str`, or None where a value is
missing. In a numeric matrix a boolean is 0 or 1, a string is its position in the feature's categories, and a missing
value is NaN. In a string tensor a value stands as it is. In a frame each column has the dtype of `column_dtype`,
whatever a request carries, so that a row is the same alone and among others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from modelworks.runtime.manifest import DType, Feature

Row = tuple[Any, ...]
Encoder = Callable[[Sequence[Row]], Any]
"""Rows to what a model takes."""

DTYPES: dict[DType, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "int64": np.int64,
    "string": object,
    "bool": np.bool_,
}


def matrix_encoder(features: Sequence[Feature], columns: Sequence[str], dtype: DType = "float64") -> Encoder:
    """Rows to a matrix of numbers, [rows, columns].

    Args:
        features: The features of a row, in order.
        columns: The features that the matrix holds, in order.
        dtype: Of its numbers. Those without NaN have no place for a missing value.
    """
    positions = _positions(features, columns)
    kind, width, pick = DTYPES[dtype], len(columns), _pick(positions, len(features))
    codes = [
        (number, {category: code for code, category in enumerate(features[position].categories)})
        for number, position in enumerate(positions)
        if features[position].type == "string"
    ]

    def encode(rows: Sequence[Row]) -> Any:
        values = list(pick(rows))
        for number, code in codes:
            values[number::width] = map(code.get, values[number::width])
        return np.fromiter(values, kind, len(values)).reshape(-1, width)

    return encode


def text_encoder(features: Sequence[Feature], columns: Sequence[str], missing: str) -> Encoder:
    """Rows to a tensor of strings, [rows, columns], with `missing` where there is none."""
    width, pick = len(columns), _pick(_positions(features, columns), len(features))

    def encode(rows: Sequence[Row]) -> Any:
        values = [missing if value is None else value for value in pick(rows)]
        return np.array(values, dtype=object).reshape(-1, width)

    return encode


def frame_encoder(features: Sequence[Feature], columns: Sequence[str]) -> Encoder:
    """Rows to a pandas DataFrame with these columns."""
    import pandas as pd  # only models that take a frame pay for pandas

    taken = [(position, features[position]) for position in _positions(features, columns)]
    dtypes = {feature.name: column_dtype(feature) for _, feature in taken}
    types = {
        name: pd.CategoricalDtype(list(dtype)) if isinstance(dtype, tuple) else dtype for name, dtype in dtypes.items()
    }

    def encode(rows: Sequence[Row]) -> Any:
        values = {feature.name: [row[position] for row in rows] for position, feature in taken}
        return pd.DataFrame({name: pd.Series(values[name], dtype=types[name]) for name in columns})

    return encode


def column_dtype(feature: Feature) -> str | tuple[str, ...]:
    """The dtype of a feature's column in a frame: the same for every request and for training.

    `int64` for integers that are never missing, `float64` for other numbers and for booleans, the categories where
    they are stated, else `object` with None for a missing text.
    """
    if feature.type == "string":
        return feature.categories or "object"
    return "int64" if feature.type == "integer" and feature.required and not feature.nullable else "float64"


def _positions(features: Sequence[Feature], columns: Sequence[str]) -> list[int]:
    position = {feature.name: number for number, feature in enumerate(features)}
    return [position[name] for name in columns]


def _pick(positions: Sequence[int], width: int) -> Callable[[Sequence[Row]], Iterable[Any]]:
    """A function from rows of `width` values to the values at `positions`, row after row."""
    if list(positions) == list(range(width)):
        return chain.from_iterable
    if len(positions) == 1:
        only = itemgetter(positions[0])
        return lambda rows: map(only, rows)
    some = itemgetter(*positions)
    return lambda rows: chain.from_iterable(map(some, rows))
