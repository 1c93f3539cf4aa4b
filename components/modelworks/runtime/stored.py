"""Rows of requests and stored values as rows of the model: the same for a server, for the gates and for the examples.

A request carries keys of entities and values of the moment; the other features are read by these keys. A stored value
that the feature does not accept (another type, outside of its limits, no category of it) counts as missing, and a
missing one becomes the feature's default, or None.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from modelworks.runtime.manifest import Feature, Manifest, Stored, bounds
from modelworks.runtime.schema import Rows

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row


class Read(NamedTuple):
    """Stored features of some rows."""

    values: list[Row]
    """For each row the stored features, view by view; None where there is none."""
    times: list[Row]
    """For each row the event time of each view's values, in seconds since the epoch; None where there are none."""
    at: float
    """The moment at which the values were young enough, in seconds since the epoch."""


class Inputs:
    """How the rows of a model come about."""

    def __init__(self, manifest: Manifest) -> None:
        stored = manifest.stored
        requested = {feature.name: number for number, feature in enumerate(manifest.request_features)}
        names = stored.names if stored else ()
        self.stored: tuple[Feature, ...] = tuple(manifest.feature(name) for name in names)
        """The features that are read, view by view."""
        self._keys = [requested[key.name] for key in (stored.keys if stored else ())]
        self._defaults = [stored.defaults.get(name) if stored else None for name in names]
        place = {name: len(requested) + number for number, name in enumerate(names)} | requested
        self._order = [place[feature.name] for feature in manifest.features]

    def complete(self, requests: Sequence[Row], values: Sequence[Row]) -> list[Row]:
        """The rows of the model.

        Args:
            requests: As `Rows.decode` returns them.
            values: For each the stored features, in the order of `stored`.
        """
        if not self.stored:
            return list(requests)
        order = self._order
        return [
            tuple([whole[number] for number in order])
            for whole in ((*row, *self._accepted(read)) for row, read in zip(requests, values, strict=True))
        ]

    def without_values(self, requests: Sequence[Row]) -> list[Row]:
        """The rows of the model if the store had none of their entities."""
        return self.complete(requests, [(None,) * len(self.stored)] * len(requests))

    def logged(self, requests: Sequence[Row], rows: Sequence[Row], read: Read) -> list[Row]:
        """Rows of the model, each followed by the keys, the times and the moment that `logged_columns` names."""
        return [
            (*row, *(request[number] for number in self._keys), *times, read.at)
            for request, row, times in zip(requests, rows, read.times, strict=True)
        ]

    def _accepted(self, values: Row) -> list[Any]:
        return [
            default if (value := accepted(feature, found)) is None else value
            for feature, found, default in zip(self.stored, values, self._defaults, strict=True)
        ]


def accepted(feature: Feature, value: Any) -> Any:
    """A stored value as a row carries it; None if the feature does not accept it."""
    if feature.type == "string":
        fits = isinstance(value, str) and (
            value in feature.categories if feature.categories else len(value) <= feature.max_length
        )
        return value if fits else None
    if feature.type == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int if feature.type == "integer" else int | float):
        return None
    low, high = bounds(feature)
    if not low <= value <= high:  # NaN is not
        return None
    return value if feature.type == "integer" else float(value)


def decoded(kind: str, value: Any) -> Any:
    """A value of a vendor's answer or frame, as the stated type has it; None if it is none of that type.

    Training and serving both decode by it, so that they see the same bits.

    Args:
        kind: One of `STORED_TYPES`.
        value: As JSON or a column of the frame has it. Tecton sends 64-bit integers as text, which keeps all digits;
            the online store of Hopsworks has 0 and 1 for booleans.
    """
    if value is None:
        return None
    if kind == "String":
        return value if isinstance(value, str) else None
    if kind == "Bool":
        return bool(value) if isinstance(value, bool) or (type(value) is int and value in {0, 1}) else None
    if isinstance(value, bool):
        return None
    if kind in {"Int32", "Int64"}:
        return _integer(value, 31 if kind == "Int32" else 63)
    if not isinstance(value, int | float):
        return None
    try:
        number = struct.unpack("<f", struct.pack("<f", value))[0] if kind == "Float32" else float(value)
    except OverflowError:
        return None
    return None if math.isnan(number) else number


def _integer(value: Any, bits: int) -> int | None:
    if isinstance(value, str):
        digits = value.removeprefix("-")
        whole = int(value) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    elif isinstance(value, float):  # a column of integers with a gap
        whole = int(value) if value.is_integer() else None
    else:
        whole = value if isinstance(value, int) else None
    return whole if whole is not None and -(1 << bits) <= whole < 1 << bits else None


def example_rows(manifest: Manifest) -> list[Row]:
    """The examples of a manifest as rows of the model, without stored values."""
    decode = Rows(manifest).decode
    requests = [decode(msgspec.json.encode(example))[0] for example in manifest.examples]
    return Inputs(manifest).without_values(requests)


LOGGED_STORED = b"modelworks.stored"
"""Name in a Parquet file's metadata of what its rows were read by: a `LoggedStored` as JSON."""


class LoggedStored(msgspec.Struct, frozen=True):
    """The definitions by which the rows of a prediction log were read: it can be verified without the bundle."""

    stored: Stored
    features: tuple[Feature, ...]
    """Those that are stored and not private."""

    @classmethod
    def of(cls, manifest: Manifest) -> LoggedStored | None:
        """Of a model; None for one without stored features."""
        if manifest.stored is None:
            return None
        read = [manifest.feature(name) for name in manifest.stored.names]
        return cls(manifest.stored, tuple(feature for feature in read if not feature.private))


class Column(NamedTuple):
    """A column of the prediction log."""

    name: str
    type: str
    """Of a feature, or `time`: seconds since the epoch."""
    position: int
    """In a row as it is logged."""


def logged_columns(manifest: Manifest) -> list[Column]:
    """Columns of the prediction log: features, and with stored ones the keys and times; nothing private."""
    stored = manifest.stored
    keys = stored.keys if stored else ()
    named = [(f"feature_{feature.name}", feature) for feature in manifest.features]
    named += [(f"key_{key.name}", key) for key in keys]
    columns = [
        Column(name, feature.type, number) for number, (name, feature) in enumerate(named) if not feature.private
    ]
    if stored:
        times = [*(f"time_{view.name}" for view in stored.views), "read_at"]
        columns += [Column(name, "time", len(named) + number) for number, name in enumerate(times)]
    return columns
