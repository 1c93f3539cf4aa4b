"""The features of a model project: those that a request carries, and those that are read from a store."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from modelworks.errors import ModelworksError
from modelworks.lifecycle.placed import Placed, require
from modelworks.runtime.manifest import Feature as ServedFeature
from modelworks.runtime.manifest import feature_problems
from modelworks.runtime.schema import value_type

FeatureType = Literal["number", "integer", "string", "boolean"]


@dataclass(frozen=True, kw_only=True)
class Feature(Placed):
    """One value a row carries, known when the prediction is made."""

    name: str
    type: FeatureType
    description: str = ""
    unit: str = ""
    nullable: bool = False
    """Whether the model can take a missing value."""
    required: bool = True
    """Whether a request must carry the key. An optional feature is treated as missing when absent."""
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    """Strings only: the values accepted, in the order that gives each its number in a matrix."""
    max_length: int = 256
    """Strings only: longest text that a request may carry, in characters."""
    private: bool = False
    """Used to predict and then forgotten: never in a prediction log, a report's examples or a tracking server."""
    known_at: str | None = None
    """Column with the time at which this value was known; the leakage check compares it with the prediction time."""
    known_because: str | None = None
    """Why a value that alone predicts the target almost perfectly is known when predicting, in a sentence: the leakage
    check then accepts it, and the model card shows the reason."""
    max_missing: float = 1.0
    """Largest share of missing values tolerated in the data, 0 to 1."""
    max_shift: float = 0.1
    """Largest population stability index against the baseline: from 0.1 on, a shift worth a look; from 0.25 on, a major
    one (Siddiqi, *Credit Risk Scorecards*, 2006). One that chance explains in so few rows is no finding."""
    on_shift: Literal["warn", "refuse", "ignore"] = "warn"
    """On a larger one: warn, refuse to train, or do not compare this feature."""
    example: float | int | str | bool | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        for name in ("minimum", "maximum", "example"):
            object.__setattr__(self, name, native(getattr(self, name)))
        object.__setattr__(self, "categories", tuple(map(native, self.categories)))
        require(self, bool(self.name), "a feature needs a name")
        require(
            self,
            self.type in {"number", "integer", "string", "boolean"},
            f"feature {self.name!r}: type must be number, integer, string or boolean, got {self.type!r}",
            _WAY_OUT.get(str(self.type), ""),
        )
        problems = feature_problems(self.served)
        require(self, not problems, "; ".join(problems))
        require(
            self,
            all(isinstance(each, str) for each in self.categories),
            f"feature {self.name!r}: categories are text, got {list(self.categories)}",
        )
        require(self, self.max_length >= 1, f"feature {self.name!r}: max_length is 1 or more, got {self.max_length}")
        require(
            self,
            0 <= self.max_missing <= 1,
            f"feature {self.name!r}: max_missing is a share, 0 to 1, got {self.max_missing}",
        )
        require(
            self,
            0 <= self.max_shift < math.inf,
            f"feature {self.name!r}: max_shift is a population stability index, 0 or more, got {self.max_shift}",
        )
        require(
            self,
            self.on_shift in {"warn", "refuse", "ignore"},
            f"feature {self.name!r}: on_shift must be warn, refuse or ignore, got {self.on_shift!r}",
        )
        require(
            self,
            not (self.private and self.on_shift == "refuse"),
            f"feature {self.name!r} is private and has on_shift='refuse': no baseline keeps private values",
        )
        require(
            self,
            self.known_because is None or len(self.known_because.split()) > 2,
            f"feature {self.name!r}: known_because is a sentence, got {self.known_because!r}",
            "State where the value comes from, and why it is there before the outcome.",
        )
        self._check_example()

    def _check_example(self) -> None:
        if self.example is None:
            return
        try:
            msgspec.json.decode(msgspec.json.encode(self.example), type=value_type(self.served))
        except (msgspec.ValidationError, TypeError) as error:
            raise ModelworksError(
                f"{self.where}: the example of feature {self.name!r} is {self.example!r}, which a request may not "
                f"carry: {str(error).replace('`', '')}",
                fix="State one of its type and within its limits.",
            ) from error

    @property
    def served(self) -> ServedFeature:
        """The feature as a bundle's manifest states it."""
        names = [each.name for each in msgspec.structs.fields(ServedFeature)]
        return ServedFeature(**{name: getattr(self, name) for name in names})


_MOMENT = "A moment is no feature: compute the number that the model uses in data.load, such as the hour or days since."
_VECTOR = "State a feature for each of its numbers, made in a loop, and have data.load return a column for each."
_WAY_OUT = {
    **dict.fromkeys(("datetime", "date", "time", "timestamp"), _MOMENT),
    **dict.fromkeys(("vector", "embedding", "array", "list", "tensor"), _VECTOR),
    **dict.fromkeys(("float", "double", "float32", "float64"), "It is called number."),
    **dict.fromkeys(("int", "int64"), "It is called integer."),
    **dict.fromkeys(("str", "text", "category"), "It is called string; categories are stated beside it."),
    "bool": "It is called boolean.",
    "image": "Have a custom service (Service(code=...)) fetch it by a reference that the row carries.",
}
"""The fix for a type that there is not."""


@dataclass(frozen=True, kw_only=True)
class StoredFeatures(Placed):
    """Features that are read by key: point-in-time from history to train, from the online store to serve.

    Which of the spec's features these are is the feature service's to state; a request carries the others, and the
    keys.
    """

    service: str
    """Name of the feature service, as `models/features.json` has it."""
    keys: tuple[Feature, ...] = ()
    """Join keys that are no features of the model. `data.load` returns them, and requests carry them."""
    defaults: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    """The value of a feature that the store lacks for a key. Without one it is missing, and must be nullable."""
    fallback: Literal["error", "default", "cached"] = "error"
    """When the store cannot be read: refuse the request with 503, take every feature for missing, or take what was
    read last for the same key, and otherwise for missing."""
    history: Callable[[Path], None] | None = None
    """Writes the history that this project makes itself below a folder: the Parquet of each source, by its relative
    path. `train` joins it where no other history is stated, and `modelworks features ingest` writes it into an
    environment. Default: others write it."""

    def __post_init__(self) -> None:
        """Check what can be checked without definitions."""
        object.__setattr__(self, "keys", tuple(self.keys))
        object.__setattr__(self, "defaults", MappingProxyType(dict(self.defaults)))
        require(self, bool(self.service), "stored features need the name of a feature service")
        require(
            self,
            self.fallback in {"error", "default", "cached"},
            f"fallback must be error, default or cached, got {self.fallback!r}",
        )
        for key in self.keys:
            require(
                key,
                key.type in {"string", "integer"},
                f"key {key.name!r} must be a string or an integer, got {key.type!r}",
            )


def native(value: Any) -> Any:
    """A numpy scalar as Python's own; other values as they are."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
