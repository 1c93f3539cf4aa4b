"""On-demand views: features that a function of the model's project makes of stored ones and of values of a request.

Training, gates and servers call the same function here, for one row at a time: what it returns for a row cannot depend
on the rows beside it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import INTEGER_MAX, STORED_TYPES, Feature, OnDemand, Stored
from modelworks.runtime.project_code import find

if TYPE_CHECKING:
    from modelworks.runtime.encoding import Row

_LONGEST = 2**31 - 1


class UncomputableError(ModelworksError):
    """An on-demand view gives no features for a row."""


class OnDemandViews:
    """The on-demand views of a model.

    Args:
        stored: The features of the model.
        requested: Position of each value in the row of a request.
        package: The project's code, importable.

    Raises:
        ModelworksError: A function is not there.
    """

    def __init__(self, stored: Stored, requested: Mapping[str, int], package: str) -> None:
        read = {f"{view.name}:{name}": None for view in stored.views for name in view.features}
        place = {name: len(requested) + number for number, name in enumerate(read)} | dict(requested)
        self._views = [_View(view, find(package, view.function), place) for view in stored.on_demand]

    def compute(self, request: Row, read: Row) -> Row:
        """The features of a row, view by view.

        Args:
            request: The row of the request.
            read: Its stored features, in the order of `Stored.read`.

        Raises:
            UncomputableError: A function raises, or returns what its view does not declare.
        """
        whole = (*request, *read)
        return tuple(value for view in self._views for value in view.compute(whole))


class _View:
    def __init__(self, view: OnDemand, function: Callable[[dict[str, Any]], Any], place: Mapping[str, int]) -> None:
        self._view, self._function = view, function
        # Feast gives a stored feature by its own name and by its full one.
        self._inputs = [
            (name, kind, place[entry])
            for entry, kind in view.inputs.items()
            for name in ((entry.partition(":")[2], entry.replace(":", "__")) if ":" in entry else (entry,))
        ]

    def compute(self, row: Row) -> list[Any]:
        values = {name: taken(kind, row[position]) for name, kind, position in self._inputs}
        given = values if self._view.singleton else {name: [value] for name, value in values.items()}
        try:
            made = self._function(given)
            return [self._value(name, kind, made) for name, kind in self._view.features.items()]
        except UncomputableError:
            raise
        except (Exception, SystemExit) as error:  # SystemExit would end the server
            raise UncomputableError(
                f"on-demand view {self._view.name!r}: {self._view.function} raised {type(error).__name__}: {error}",
                fix="Have it return None where it has no answer, such as where an input is None.",
            ) from error

    def _value(self, name: str, kind: str, made: Any) -> Any:
        if not isinstance(made, Mapping) or name not in made:
            raise self._wrong(f"returned no {name!r}")
        value = _plain(made[name])
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if len(value) != 1:
                raise self._wrong(f"returned {len(value)} values of {name!r} for one row")
            value = _plain(value[0])
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        found = typed(kind, value)
        if found is None:
            raise self._wrong(f"returned {name!r} as {type(value).__name__}, which is no {kind}")
        return found

    def _wrong(self, what: str) -> UncomputableError:
        return UncomputableError(
            f"on-demand view {self._view.name!r}: {self._view.function} {what}",
            fix="It must return a dict with what its schema declares: for each row one value, or None.",
        )


def _plain(value: Any) -> Any:
    """An array, a column or a scalar of numpy as Python has it."""
    return value.tolist() if hasattr(value, "tolist") else value


def typed(kind: str, value: Any) -> Any:
    """A value as Feast encodes one of its types; None if it is none of that type.

    Args:
        kind: One of `STORED_TYPES`.
        value: Of Python.
    """
    if kind == "String":
        return value if isinstance(value, str) else None
    if kind == "Bool":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind in {"Int32", "Int64"}:
        bits = 31 if kind == "Int32" else 63
        return value if isinstance(value, int) and -(1 << bits) <= value < 1 << bits else None
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0] if kind == "Float32" else float(value)
    except OverflowError:
        return None


def taken(kind: str, value: Any) -> Any:
    """An input of a function: None if it is missing, or not exact on every way to the function."""
    if value is None or (isinstance(value, int) and not -INTEGER_MAX <= value <= INTEGER_MAX):
        return None
    found = typed(kind, value)
    return None if isinstance(found, float) and not math.isfinite(found) else found


def input_feature(entry: str, kind: str) -> Feature:
    """An input `view:feature` as a column `view__feature` of a table, whatever its value."""
    return Feature(name=entry.replace(":", "__"), type=STORED_TYPES[kind], nullable=True, max_length=_LONGEST)
