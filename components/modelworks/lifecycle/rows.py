"""Tables as the rows that requests carry, so that training, gates and servers encode one and the same thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelworks.errors import ModelworksError
from modelworks.runtime.encoding import Row, frame_encoder, matrix_encoder
from modelworks.runtime.manifest import Feature, Manifest
from modelworks.runtime.schema import Rows, explain
from modelworks.runtime.stored import Inputs

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 50_000
"""Rows that stand as Python objects at a time, so that a table of any length costs little more than its encoding."""


def encode_table(table: pd.DataFrame, features: Sequence[Feature], how: str) -> Any:
    """A table as the estimator takes it: `matrix` or `frame` (see `modelworks.runtime.encoding`).

    Args:
        table: One row a row, with a column a feature at least.
        features: The features that the estimator takes, in order.
        how: Which of the two.

    Raises:
        ModelworksError: A value is not of its feature's type.
    """
    columns = [feature.name for feature in features]
    if how == "frame":
        import pandas as pd  # only where rows are at hand

        encode = frame_encoder(features, columns)
        parts = [encode(rows) for rows in chunks(table, features)] or [encode([])]
        return pd.concat(parts, ignore_index=True).set_index(table.index)
    encode, filled, matrix = matrix_encoder(features, columns), 0, np.empty((len(table), len(columns)))
    for rows in chunks(table, features):
        matrix[filled : filled + len(rows)] = encode(rows)
        filled += len(rows)
    return matrix


def request_rows(table: pd.DataFrame, manifest: Manifest, at_most: int) -> Iterator[list[Row]]:
    """A table as the rows that a model gets for requests, each decoded and completed by the server's own code.

    Stored features are those of the table, which were joined point-in-time, where a server reads them online.

    Args:
        table: One row a row.
        manifest: Of the bundle.
        at_most: Rows in a request; fewer where the manifest allows fewer.

    Raises:
        ModelworksError: A row is not what the manifest accepts.
    """
    decode, inputs, features = Rows(manifest).decode, Inputs(manifest), manifest.request_features
    names, size = [feature.name for feature in features], min(at_most, manifest.max_rows)
    for start in range(0, len(table), size):
        part = table.iloc[start : start + size]
        rows = [dict(zip(names, row, strict=True)) for row in rows_of(part, features)]
        try:
            requests = decode(msgspec.json.encode({"rows": rows}))
        except msgspec.ValidationError as error:
            field, what = explain(error)
            raise ModelworksError(
                f"a row that {manifest.model} is judged by would be refused: {field}: {what}",
                fix="The spec's features must allow what is in the data.",
            ) from error
        yield inputs.complete(requests, _values_of(part, requests, inputs, manifest))


def _values_of(part: pd.DataFrame, requests: list[Row], inputs: Inputs, manifest: Manifest) -> list[Row]:
    """Stored features of the rows of a table, and those that the bundle's on-demand views make of them."""
    if not inputs.columns:
        return []
    values, _ = inputs.compute(requests, rows_of(part, inputs.columns))
    if inputs.computed:
        names = [feature.name for feature in manifest.features]
        places = [names.index(feature.name) for feature in inputs.computed]
        now = [tuple(row[place] for place in places) for row in inputs.complete(requests, values)]
        if now != rows_of(part, inputs.computed):
            computed = ", ".join(feature.name for feature in inputs.computed)
            raise ModelworksError(
                f"the on-demand features {computed} of {manifest.model} are not those that it was trained on",
                fix="Their function must depend on its inputs alone: no clock, no chance, no state.",
            )
    return values


def rows_of(table: pd.DataFrame, features: Sequence[Feature]) -> list[Row]:
    """A table as the rows that requests carry.

    Raises:
        ModelworksError: A value is not of its feature's type.
    """
    return list(zip(*(_values(table[feature.name], feature) for feature in features), strict=True))


def chunks(table: pd.DataFrame, features: Sequence[Feature], size: int = CHUNK_ROWS) -> Iterator[list[Row]]:
    """A table as the rows that requests carry, so many at a time."""
    for start in range(0, len(table), size):
        yield rows_of(table.iloc[start : start + size], features)


def _values(column: pd.Series[Any], feature: Feature) -> list[Any]:
    """The values of a column as a request carries them: None where one is missing."""
    missing = column.isna().to_numpy()
    try:
        values = _present(column[~missing], feature)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelworksError(
            f"feature {feature.name!r} is a {feature.type}, and its column holds something else: {error}",
            fix="Convert it in data.load, or state the type that it has.",
        ) from error
    if not missing.any():
        return values
    found = np.full(len(column), None, dtype=object)
    found[~missing] = values
    return found.tolist()


def _present(column: pd.Series[Any], feature: Feature) -> list[Any]:
    if feature.type == "string":
        return [str(value) for value in column.tolist()]
    if feature.type == "boolean":
        return [_boolean(value) for value in column.tolist()]
    values = column.to_numpy("float64" if feature.type == "number" else None)
    if feature.type == "integer" and values.dtype.kind not in "iu":
        whole = values.astype("float64")
        if (whole != np.floor(whole)).any():
            raise ValueError(f"{whole[whole != np.floor(whole)][0]:g} is not a whole number")
        values = whole.astype("int64")
    return list(values.tolist())


def _boolean(value: Any) -> bool:
    if value not in {0, 1}:
        raise ValueError(f"{value!r} is neither true nor false")
    return bool(value)
