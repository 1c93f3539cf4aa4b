"""Rows of requests and stored values as rows of the model: the same for a server, for the gates and for the examples.

A request carries keys of entities and values of the moment; the other features are read by these keys. A stored value
that the feature does not accept (another type, outside of its limits, no category of it) counts as missing, and a
missing one becomes the feature's default, or None.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from modelworks.runtime.manifest import Feature, Manifest, Stored, bounds
from modelworks.runtime.on_demand import OnDemandViews, UncomputableError, input_feature
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
    """How the rows of a model come about.

    Raises:
        ModelworksError: The code of the bundle, which must be importable, lacks the function of an on-demand view.
    """

    def __init__(self, manifest: Manifest) -> None:
        stored = manifest.stored
        requested = {feature.name: number for number, feature in enumerate(manifest.request_features)}
        names = stored.names if stored else ()
        features = {feature.name: feature for feature in manifest.features}
        self.columns: tuple[Feature, ...] = tuple(stored_columns(stored, features)) if stored else ()
        """The columns of a table that hold what is read, view by view."""
        self.computed = tuple(features[name] for name in names[len(self.columns) :])
        """The features that on-demand views give, view by view."""
        self._stored = tuple(features.get(name) for name in names)
        self._on_demand: OnDemandViews | None = None
        if stored and stored.on_demand:
            package = manifest.code.package if manifest.code else ""
            self._on_demand = OnDemandViews(stored, requested, package)
        self._refuses = stored is not None and stored.fallback == "error"
        self._keys = [requested[key.name] for key in (stored.keys if stored else ())]
        self._logged = [len(requested) + number for number, _ in _logged_inputs(manifest)]
        self._defaults = [stored.defaults.get(name) if stored else None for name in names]
        place = {name: len(requested) + number for number, name in enumerate(names)} | requested
        self._order = [place[feature.name] for feature in manifest.features]

    def complete(self, requests: Sequence[Row], values: Sequence[Row]) -> list[Row]:
        """The rows of the model.

        Args:
            requests: As `Rows.decode` returns them.
            values: For each the stored features, in the order of `columns`, and those of `compute`.
        """
        if not self._stored:
            return list(requests)
        order = self._order
        return [
            tuple([whole[number] for number in order])
            for whole in ((*row, *self._accepted(read)) for row, read in zip(requests, values, strict=True))
        ]

    def without_values(self, requests: Sequence[Row]) -> list[Row]:
        """The rows of the model if the store had none of their entities."""
        return self.complete(requests, [(None,) * len(self._stored)] * len(requests))

    def compute(self, requests: Sequence[Row], values: Sequence[Row]) -> tuple[list[Row], bool]:
        """Stored features followed by those of on-demand views, and whether the fallback replaced some of these.

        Raises:
            UncomputableError: A view gives none for a row, and the fallback is `error`.
        """
        if self._on_demand is None:
            return list(values), False
        found, failed = [], False
        for request, read in zip(requests, values, strict=True):
            try:
                computed = self._on_demand.compute(request, read)
            except UncomputableError:
                if self._refuses:
                    raise
                computed, failed = (None,) * len(self.computed), True
            found.append((*read, *computed))
        return found, failed

    def logged(self, requests: Sequence[Row], rows: Sequence[Row], read: Read) -> list[Row]:
        """Rows of the model, each followed by keys, times, moment and inputs, as `logged_columns` names them."""
        return [
            (
                *row,
                *(request[number] for number in self._keys),
                *times,
                read.at,
                *((*request, *values)[number] for number in self._logged),
            )
            for request, row, values, times in zip(requests, rows, read.values, read.times, strict=True)
        ]

    def _accepted(self, values: Row) -> list[Any]:
        return [
            default if feature is None or (value := accepted(feature, found)) is None else value
            for feature, found, default in zip(self._stored, values, self._defaults, strict=True)
        ]


def stored_columns(stored: Stored, features: Mapping[str, Feature]) -> Iterator[Feature]:
    """The columns of a table that hold what is read, view by view: inputs of on-demand views as they were read."""
    for view in stored.views:
        for name in view.features:
            entry = f"{view.name}:{name}"
            yield input_feature(entry, stored.inputs[entry]) if entry in stored.inputs else features[name]


def _logged_inputs(manifest: Manifest) -> list[tuple[int, Feature]]:
    """The inputs of on-demand views, each with its position in what is read; none of a private feature."""
    stored = manifest.stored
    if stored is None or not stored.on_demand:
        return []
    features = {feature.name: feature for feature in manifest.features}
    private = {
        entry
        for view in stored.on_demand
        if any(features[name].private for name in view.features)
        for entry in view.inputs
    }
    entries = [(view.name, name) for view in stored.views for name in view.features]
    return [
        (number, column)
        for number, ((view, name), column) in enumerate(zip(entries, stored_columns(stored, features), strict=True))
        if f"{view}:{name}" in stored.inputs.keys() - private and not (name in features and features[name].private)
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
        names = set(manifest.stored.names)
        read = [feature for feature in manifest.features if feature.name in names]
        return cls(manifest.stored, tuple(feature for feature in read if not feature.private))


class Column(NamedTuple):
    """A column of the prediction log."""

    name: str
    type: str
    """Of a feature, or `time`: seconds since the epoch."""
    position: int
    """In a row as it is logged."""


def logged_columns(manifest: Manifest) -> list[Column]:
    """Columns of the prediction log: features, and with stored ones keys, times and inputs; nothing private."""
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
        after = len(named) + len(times)
        inputs = [input_ for _, input_ in _logged_inputs(manifest)]
        columns += [Column(f"read_{each.name}", each.type, after + number) for number, each in enumerate(inputs)]
    return columns
