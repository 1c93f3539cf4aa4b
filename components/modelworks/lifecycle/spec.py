"""The declaration of a model project: one `model.py` with `spec = ModelSpec(...)`, and nothing found by magic.

Everything here is frozen and checked when it is made. A mistake is a `ModelworksError` that begins with the file and
the line where the user wrote it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from modelworks.contract import MODEL_NAME
from modelworks.errors import ModelworksError
from modelworks.lifecycle.metrics import KINDS, METRIC_NAME, METRICS, Kind, Outcome, metrics_of
from modelworks.lifecycle.model_project import sibling_imports
from modelworks.runtime.manifest import Feature as ServedFeature
from modelworks.runtime.manifest import feature_problems
from modelworks.runtime.schema import value_type

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from _typeshed.importlib import PathEntryFinderProtocol


FeatureType = Literal["number", "integer", "string", "boolean"]


def _where() -> str:
    """File and line of the user's code that is making an object of this module."""
    frame = sys._getframe(1)  # noqa: SLF001 - the one way to know who calls a dataclass's __init__
    while frame.f_back is not None and frame.f_code.co_filename in {"<string>", __file__}:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


_READ: ContextVar[tuple[Path, str] | None] = ContextVar("_READ", default=None)
"""The `model.py` that is being read, and the name of its module: whoever makes its spec, the spec is that file's."""


@dataclass(frozen=True, kw_only=True)
class _Placed:
    where: str = field(default_factory=_where, repr=False, compare=False)
    """File and line that states this; filled in by itself."""

    def _require(self, holds: bool, rule: str, fix: str = "") -> None:
        if not holds:
            raise ModelworksError(f"{self.where}: {rule}", fix=fix)


@dataclass(frozen=True, kw_only=True)
class Feature(_Placed):
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
            object.__setattr__(self, name, _native(getattr(self, name)))
        object.__setattr__(self, "categories", tuple(map(_native, self.categories)))
        self._require(bool(self.name), "a feature needs a name")
        self._require(
            self.type in {"number", "integer", "string", "boolean"},
            f"feature {self.name!r}: type must be number, integer, string or boolean, got {self.type!r}",
            _WAY_OUT.get(str(self.type), ""),
        )
        problems = feature_problems(self.served)
        self._require(not problems, "; ".join(problems))
        self._require(
            all(isinstance(each, str) for each in self.categories),
            f"feature {self.name!r}: categories are text, got {list(self.categories)}",
        )
        self._require(self.max_length >= 1, f"feature {self.name!r}: max_length is 1 or more, got {self.max_length}")
        self._require(
            0 <= self.max_missing <= 1, f"feature {self.name!r}: max_missing is a share, 0 to 1, got {self.max_missing}"
        )
        self._require(
            0 <= self.max_shift < math.inf,
            f"feature {self.name!r}: max_shift is a population stability index, 0 or more, got {self.max_shift}",
        )
        self._require(
            self.on_shift in {"warn", "refuse", "ignore"},
            f"feature {self.name!r}: on_shift must be warn, refuse or ignore, got {self.on_shift!r}",
        )
        self._require(
            not (self.private and self.on_shift == "refuse"),
            f"feature {self.name!r} is private and has on_shift='refuse': no baseline keeps private values",
        )
        self._require(
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
class StoredFeatures(_Placed):
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
        self._require(bool(self.service), "stored features need the name of a feature service")
        self._require(
            self.fallback in {"error", "default", "cached"},
            f"fallback must be error, default or cached, got {self.fallback!r}",
        )
        for key in self.keys:
            key._require(  # noqa: SLF001
                key.type in {"string", "integer"}, f"key {key.name!r} must be a string or an integer, got {key.type!r}"
            )


def _native(value: Any) -> Any:
    """A numpy scalar as Python's own; other values as they are."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_LENGTH = re.compile("([1-9][0-9]*)(min|h|d|w)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class Split(_Placed):
    """Which rows train, which validate, and which are held out and looked at only to judge.

    Without `time`, by the hash of a key, or of a row's features: a row is in the same part of any data it is ever in.
    """

    key: str | tuple[str, ...] = ()
    """Columns whose values name what a row is about, such as a customer: rows of one key are in one part. Default: the
    features, so that equal rows are in one part."""
    holdout_share: float = 0.25
    """By hash: share of the keys to hold out."""
    validation_share: float = 0.15
    """By hash: share of the keys to validate."""
    time: str | None = None
    """Column to split by time."""
    holdout: str = ""
    """With `time`: length of the hold-out, back from the newest row: `60d`. Minutes (`min`), hours, days, weeks."""
    validation: str = ""
    """With `holdout`: length of the validation rows before it. Default: as long as the hold-out."""
    holdout_from: str = ""
    """With `time`, instead of `holdout`: the first moment of the hold-out rows, ISO 8601; without an offset, in UTC."""
    validation_from: str = ""
    """With `holdout_from`: the first moment of the validation rows."""
    embargo: str = ""
    """With `time`: length of a gap before validation and before hold-out whose rows are in no part: as long as it takes
    until an outcome is known."""

    def __post_init__(self) -> None:
        """Check that the parts exist and do not overlap."""
        object.__setattr__(self, "validation", self.validation or self.holdout)
        if self.time:
            self._check_time()
            return
        by_time = ("holdout", "validation", "holdout_from", "validation_from", "embargo")
        stated = [name for name in by_time if getattr(self, name)]
        self._require(not stated, f"{' and '.join(stated)} of a split need time, the column to split by")
        self._require(
            self.validation_share > 0 and self.holdout_share > 0 and self.validation_share + self.holdout_share < 1,
            "validation_share and holdout_share must be above 0 and leave rows to train on",
        )

    def _check_time(self) -> None:
        self._require(not self.key, f"a split by time takes no key: the time of a row decides, got {self.key}")
        self._require(
            bool(self.holdout) != bool(self.holdout_from) and bool(self.holdout) == (not self.validation_from),
            "a split by time needs either holdout, such as 60d, or validation_from and holdout_from",
        )
        for name in ("holdout", "validation", "embargo"):
            text = getattr(self, name)
            self._require(
                not text or _LENGTH.fullmatch(text) is not None,
                f"{name} of a split is a number and min, h, d or w, such as 60d, got {text!r}",
            )
        if self.holdout_from:
            first, second = (self._moment(name) for name in ("validation_from", "holdout_from"))
            self._require(first < second, "a split by time needs validation_from before holdout_from")

    def _moment(self, name: str) -> datetime:
        text = getattr(self, name)
        try:
            moment = datetime.fromisoformat(text)
        except (TypeError, ValueError) as error:
            raise ModelworksError(f"{self.where}: {name} of a split must be ISO 8601, got {text!r}") from error
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns of the key; none where the features decide."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @property
    def holdout_length(self) -> timedelta:
        """Length of the hold-out."""
        return _length(self.holdout)

    @property
    def validation_length(self) -> timedelta:
        """Length of the validation rows."""
        return _length(self.validation)

    @property
    def embargo_length(self) -> timedelta:
        """Length of each gap."""
        return _length(self.embargo) if self.embargo else timedelta()


def _length(text: str) -> timedelta:
    number, unit = re.findall(_LENGTH, text)[0]  # the split refuses any other text
    return timedelta(**{_UNITS[unit]: int(number)})


@dataclass(frozen=True, kw_only=True)
class DataSource(_Placed):
    """Where the rows come from and what their columns mean in time."""

    load: Callable[[], pd.DataFrame]
    """Returns all rows: features, target and the columns named below. Must give the same rows for the same source."""
    description: str
    """Description of the data, for the model card: content, audience, source, licence."""
    split: Split = field(default_factory=Split)
    prediction_time: str | None = None
    """Column with the moment at which the prediction is made. Needed for freshness and for the leakage check."""
    outcomes: tuple[str, ...] = ()
    """Columns known only after the prediction: none of them may be a feature."""
    max_age_days: float | None = None
    """Freshness: the newest row may be at most this old. None: a closed, historical data set."""
    cluster: str | tuple[str, ...] = ()
    """Columns whose values name rows that resemble each other, such as a day or a customer: confidence intervals take
    only different ones for independent. Default: the key of the split; without one, every row by itself."""
    environment: tuple[str, ...] = ()
    """Variables of the caller's shell that `load` needs, such as `HTTPS_PROXY` or those of a warehouse. Others than
    these, `AWS_*` and `MODELWORKS_*` are hidden from it. They reach data and must not decide what is in it."""
    baseline: str = "baseline.json"
    """File beside `model.py` with the distributions to compare with; written by `check-data --save-baseline`."""
    min_rows: int = 100

    def __post_init__(self) -> None:
        """Check what can be checked without loading."""
        self._require(callable(self.load), f"data.load must be a function, got {type(self.load).__name__}")
        self._require(
            not isinstance(self.environment, str) and all(map(_VARIABLE.fullmatch, self.environment)),
            f"data.environment is names of variables, got {self.environment!r}",
            'Write environment=("HTTPS_PROXY",).',
        )
        self._require(bool(self.description), "data.description must describe the data: the model card shows it")
        self._require(
            self.max_age_days is None or self.prediction_time is not None,
            "data.max_age_days needs data.prediction_time, the column with the time of a row",
        )

    @property
    def clusters(self) -> tuple[str, ...]:
        """Columns of the clusters that intervals resample; none: every row by itself."""
        return ((self.cluster,) if isinstance(self.cluster, str) else tuple(self.cluster)) or self.split.keys


@dataclass(frozen=True, kw_only=True)
class Group(_Placed):
    """A protected group: people or parties between whom the model must be fair."""

    column: str
    min_rows: int = 300
    """A group with fewer hold-out rows is not judged by itself: see `pool_small`."""
    pool_small: bool = False
    """Judge the groups that are too small together, as one. Otherwise each of them is inconclusive."""
    because: str = ""
    """Why this group is protected."""


@dataclass(frozen=True, kw_only=True)
class Gate(_Placed):
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
        self._require(
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
        self._require(
            self.max_difference is not None or self.min_ratio is not None,
            f"the fairness gate on {self.group!r} needs max_difference or min_ratio",
        )
        self._require(
            self.max_difference is None or self.max_difference > 0,
            f"max_difference must be above 0, got {self.max_difference}: no two groups are measured to be equal",
        )
        self._require(
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
        self._require(0 < self.p99_ms < math.inf, f"p99_ms must be above 0, got {self.p99_ms}")


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


@dataclass(frozen=True, kw_only=True)
class Service(_Placed):
    """How the model answers."""

    latency_objective_ms: float = 50.0
    """A request beyond it counts as slow."""
    max_rows: int = 1000
    threshold: float = 0.5
    """Binary: probability from which the positive class is answered."""
    code: str = ""
    """A file beside `model.py` with a BentoML service of your own; empty: the standard service."""
    onnx: bool = True
    """Whether to try ONNX. It is bundled only where its answers are proven equal."""
    onnx_tolerance: float = 1e-5
    """Largest difference of a probability, or relative difference of a value, that counts as equal."""
    files: tuple[str, ...] = ()
    """Files in the folder of `model.py` that the code of the bundle reads: beside its service, or, with
    `trusted_code`, where they are in the folder."""
    trusted_code: bool = False
    """Put the project's Python files, but `model.py`, into the bundle, and have the server run them: for functions and
    classes of your own in a pipeline, and for a `Fitted.loader`. Digest and signature cover them."""
    trusted: tuple[str, ...] = ()
    """Classes of other libraries (`lightgbm.sklearn.LGBMClassifier`) that the bundle may hold beside scikit-learn's:
    those that the server loads, or with `code` any that your service does."""
    packages: tuple[str, ...] = ()
    """Packages of the lock that serving needs beside the standard ones."""


@dataclass(frozen=True, kw_only=True)
class Card(_Placed):
    """Caveats for a reader, beyond the numbers."""

    intended_use: str
    out_of_scope: str = ""
    limits: tuple[str, ...] = ()
    ethics: str = ""


@dataclass(frozen=True)
class TrainingData:
    """Inputs of `train`. Nothing else may decide its result."""

    x: Any
    """Training features: a float64 array, or a DataFrame when the spec's `input` is `frame`."""
    y: np.ndarray
    """Training targets: positions in `classes`, or values."""
    x_validation: Any
    y_validation: np.ndarray
    columns: tuple[str, ...]
    """Names of the columns of `x`."""
    rows: pd.DataFrame
    """The training rows as loaded, for weights or groups."""
    parameters: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Fitted:
    """The result of training, where it is more than an estimator: one with its curves, an ONNX graph, or files.

    Exactly one of `estimator`, `onnx` and `loader` is the model.
    """

    estimator: Any = None
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Value of a metric by iteration."""
    onnx: bytes | Path | None = None
    """A graph made by another library, or its file. It has one input, a matrix with a column a feature, or one for each
    feature, called after it. Its first output of numbers is the answer: probabilities [rows, classes], for a binary
    model also those of the positive class alone, [rows, 1]; for a regression values, [rows] or [rows, 1]."""
    artifacts: Mapping[str, bytes | Path] = field(default_factory=dict)
    """Files for the loader, or for a service of your own, by name: weights, tables, vocabularies."""
    loader: Callable[[Path], Any] | None = None
    """A function in a file beside `model.py`, called once with the folder of the artifacts. It returns an estimator, or
    a function from rows (as `TrainingData.x`) to what its `predict_proba`, or in a regression `predict`, would. A
    function of a binary model may answer the probabilities of the positive class alone, [rows] or [rows, 1]."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Placed):
    """A model project: what it predicts, from what, how it is trained, and what it must prove."""

    name: str
    """Lower-case letters, digits and dashes: the name in stacks, stores and URLs."""
    description: str
    """The meaning of the prediction, in one sentence a caller understands."""
    owner: str
    kind: Kind
    data: DataSource
    schema: Any
    """A `pandera.pandas.DataFrameSchema` for the rows that `data.load` returns."""
    features: tuple[Feature, ...]
    target: str
    train: Callable[[TrainingData], Any]
    """Returns an estimator with scikit-learn's API, or `Fitted`."""
    metric: str
    """The metric that decides, one of `metrics_of(kind)` or of `evaluate`."""
    card: Card
    classes: tuple[str | int | bool, ...] = ()
    """Labels, with the spelling of the target column. Binary: (negative, positive)."""
    evaluate: Callable[[Outcome], Mapping[str, float]] | None = None
    """More metrics, higher is better, from truth and predictions."""
    groups: tuple[Group, ...] = ()
    gates: tuple[Gate, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    input: Literal["matrix", "frame"] = "matrix"
    """`matrix`: numbers, strings as their category's position (fastest to serve). `frame`: a DataFrame as loaded, for a
    pipeline that picks columns by name."""
    service: Service = field(default_factory=Service)
    unit: str = ""
    """Unit of a regression's value."""
    stored: StoredFeatures | None = None
    """Features that are read from a feature store instead of the request."""
    read: tuple[Path, str] | None = field(default_factory=_READ.get, repr=False, compare=False)
    """Which file this is the spec of, and its module; filled in by itself."""

    def __post_init__(self) -> None:
        """Check the parts against each other.

        Raises:
            ModelworksError: With file and line of the part that is wrong.
        """
        for name in ("features", "groups", "gates", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "classes", tuple(map(_native, self.classes)))
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))
        self._check_names()
        self._check_columns()
        self._check_gates()
        self._check_service()

    @property
    def folder(self) -> Path:
        """The folder of `model.py`."""
        return self.file.parent

    @property
    def file(self) -> Path:
        """The `model.py` that exports this spec, or the file that makes it where none is read."""
        return self.read[0] if self.read else Path(self.where.rpartition(":")[0])

    @property
    def package(self) -> str:
        """The package that the project's code is imported as."""
        return self.read[1] if self.read else ""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def served_features(self) -> tuple[ServedFeature, ...]:
        """The features as a bundle's manifest states them."""
        return tuple(feature.served for feature in self.features)

    def higher_is_better(self, metric: str) -> bool:
        """Whether more of `metric` is better. Those of `evaluate` are by definition."""
        return metric not in metrics_of(self.kind) or METRICS[metric].higher_is_better

    def _check_names(self) -> None:
        self._require(
            MODEL_NAME.fullmatch(self.name) is not None,
            f"name must be 1 to 40 lower-case letters, digits and dashes, beginning with a letter, got {self.name!r}",
        )
        self._require(
            self.kind in KINDS,
            f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}",
            "A score of anomalies is a regression with a loader that answers it, where rows have a value to compare it "
            "with; other answers are those of a custom service (Service(code=...)).",
        )
        self._require(
            isinstance(self.target, str),
            f"target is the name of one column, got {self.target!r}",
            "Make a model for each, or have a custom service (Service(code=...)) answer more than it is judged by.",
        )
        self._require(bool(self.owner), "owner must name who is responsible for this model")
        self._require(callable(self.train), f"train must be a function, got {type(self.train).__name__}")
        self._require(isinstance(self.seed, int) and self.seed >= 0, f"seed must be 0 or more, got {self.seed!r}")
        self._require(
            hasattr(self.schema, "validate"),
            f"schema must be a pandera DataFrameSchema, got {type(self.schema).__name__}",
        )
        changes = _changes(self.schema)
        self._require(
            not changes,
            f"the schema changes what it checks ({', '.join(changes)}), and training gets the rows as data.load "
            "returned them",
            "Convert, drop and fill in data.load; have the schema state the result.",
        )
        self._check_classes()
        for name, value in self.parameters.items():
            self._require(
                _is_plain(value),
                f"parameter {name!r} is {value!r}: a run is called after its parameters, so that they are numbers, "
                "text, or lists and dicts of those",
                "State what it is made of, and make it in train.",
            )
        self._check_metric(self.metric, self)

    def _check_classes(self) -> None:
        wanted = {
            "binary": len(self.classes) == 2,
            "multiclass": len(self.classes) >= 3,
            "regression": not self.classes,
        }
        self._require(
            all(isinstance(each, str | int) for each in self.classes),
            f"classes are text, integers or booleans, got {list(self.classes)}",
            "Convert the target in data.load, and state its classes with the same spelling.",
        )
        self._require(
            wanted[self.kind] and len(set(self.classes)) == len(self.classes),
            f"a {self.kind} model needs {'no' if self.kind == 'regression' else 'its'} classes"
            f"{' (negative, positive)' if self.kind == 'binary' else ''}, got {self.classes!r}",
        )

    def _check_columns(self) -> None:
        self._require(bool(self.features), "a model needs at least one feature")
        self._require(
            self.stored is None or self.data.prediction_time is not None,
            "stored features need data.prediction_time: the column with the moment at which they are read",
        )
        keys = self.stored.keys if self.stored else ()
        names = tuple(feature.name for feature in (*self.features, *keys))
        for feature in (*self.features, *keys):
            feature._require(names.count(feature.name) == 1, f"feature {feature.name!r} is declared twice")  # noqa: SLF001
            feature._require(  # noqa: SLF001
                feature.name != self.target,
                f"feature {feature.name!r} is the target",
                "Leave it out: it is not known when predicting.",
            )
            feature._require(  # noqa: SLF001
                feature.name not in self.data.outcomes,
                f"feature {feature.name!r} is known only after the prediction (data.outcomes)",
                "Leave it out, or compute it from what was known at the prediction time.",
            )
            feature._require(  # noqa: SLF001
                feature in keys or self.input == "frame" or feature.type != "string" or bool(feature.categories),
                f"feature {feature.name!r} is text without categories, which has no place in a matrix",
                'State its categories, or set input="frame" and encode it in the pipeline.',
            )

    def _check_gates(self) -> None:
        groups = {group.column for group in self.groups}
        for gate in self.gates:
            if metric := getattr(gate, "metric", None):
                self._check_metric(metric, gate)
            if isinstance(gate, FairnessGate):
                gate._require(gate.group in groups, f"{gate.group!r} is not one of the spec's groups")  # noqa: SLF001

    def _check_service(self) -> None:
        service, code = self.service, self.service.code
        require = service._require  # noqa: SLF001
        require(
            not (code and service.trusted_code),
            "trusted_code is for the standard service, and code names another",
            "Leave one of them out: a service of your own loads what it needs, with Service(files=...).",
        )
        require(
            not service.files or bool(code) or service.trusted_code,
            "files are for the code of a bundle, and this service has none",
            "State trusted_code=True, or leave them out.",
        )
        for name in (*filter(None, [code]), *service.files):
            require(
                (self.folder / name).resolve().is_relative_to(self.folder.resolve()) and (self.folder / name).is_file(),
                f"{name!r} of the service is not a file in the folder of {self.file.name}",
                "Name a file in the folder of model.py.",
            )
        for name, line in sibling_imports(self.folder / code, self.folder) if code else ():
            if f"{name.replace('.', '/')}.py" in service.files:
                continue
            raise ModelworksError(
                f"{self.folder / code}:{line}: the service imports {name}, a file beside it, and the bundle does not "
                "hold it",
                fix=f"Name it in Service(files=({name.lstrip('.') + '.py'!r},)), and import it without a dot."
                if "/" not in name
                else "Move what it needs into that file, or install it as a package of uv.lock.",
            )

    def _check_metric(self, metric: str, placed: _Placed) -> None:
        placed._require(  # noqa: SLF001
            METRIC_NAME.fullmatch(metric) is not None,
            f"a metric's name is letters, digits and any of _-./: and blank, got {metric!r}",
            "Give it another name, such as recall_at_10.",
        )
        placed._require(  # noqa: SLF001
            metric in metrics_of(self.kind) or self.evaluate is not None,
            f"{metric!r} is not a metric of a {self.kind} model: {', '.join(sorted(metrics_of(self.kind)))}",
        )


def _changes(schema: Any) -> list[str]:
    """Options of a pandera schema that change rows, so that others than the given ones hold."""
    whole = schema.to_schema() if hasattr(schema, "to_schema") else schema
    parts = [("", whole), *((f" of {name!r}", column) for name, column in getattr(whole, "columns", {}).items())]
    found = [
        f"{option}{of}"
        for of, part in parts
        for option in ("coerce", "parsers", "drop_invalid_rows", "add_missing_columns", "default")
        if getattr(part, option, None) not in (None, False, [])
    ]
    return [*found, *(['strict="filter"'] if getattr(whole, "strict", False) == "filter" else [])]


def _is_plain(value: Any) -> bool:
    """Whether a value counts by its content: not by its address, and equal to itself."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if hasattr(value, "tolist"):  # numpy
        return _is_plain(value.tolist())
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def find_model(name: str, start: Path | None = None) -> Path:
    """The `model.py` that `name` means: a file, a folder, or a name that is looked up in `models/` upwards.

    Raises:
        ModelworksError: There is none; the message lists the models that are there.
    """
    path = Path(name)
    for candidate in (path, path / "model.py"):
        if candidate.suffix == ".py" and candidate.is_file():
            return candidate.resolve()
    start = (start or Path.cwd()).resolve()
    known: list[str] = []
    for folder in (start, *start.parents):
        models = folder / "models"
        found = models / name.replace("-", "_") / "model.py"
        if found.is_file():
            return found
        known += [each.parent.name.replace("_", "-") for each in sorted(models.glob("*/model.py"))]
    raise ModelworksError(
        f"there is no model {name!r} in models/ here or above; there is: {', '.join(known) or 'none'}",
        fix=f"Give the folder of its model.py, or start one with `modelworks new {path.name}`.",
    )


def load_spec(name: str | Path, package: str = "") -> ModelSpec:
    """The spec that a model project exports.

    Args:
        name: Name of the model, its folder, or its `model.py`.
        package: The package to import the project's code as. Default: one by the path of the file.

    Raises:
        ModelworksError: It cannot be found, its code raises, or it states something wrong; with file and line.
    """
    file = find_model(str(name))
    # One module name a file, so that two projects with a model.py each never meet.
    module_name = package or f"_modelworks_model_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    for stale in [each for each in sys.modules if each.startswith(f"{module_name}.")]:
        del sys.modules[stale]  # what an earlier version of the model imported beside itself
    loader = _TextLoader(module_name, str(file))
    found = importlib.util.spec_from_file_location(
        module_name, file, loader=loader, submodule_search_locations=[str(file.parent)]
    )
    if found is None:  # pragma: no cover - a file with a loader has a spec
        raise ModelworksError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module
    _find_by_text(file.parent)
    reading = _READ.set((file, module_name))
    try:
        loader.exec_module(module)
    except ModelworksError:
        raise
    except (Exception, SystemExit) as error:
        raise project_error(error, file.parent, "is read") from error
    finally:
        _READ.reset(reading)
    spec = getattr(module, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise ModelworksError(
            f"{file}: exports no spec, found {type(spec).__name__}", fix="End it with `spec = ModelSpec(...)`."
        )
    return spec


class _TextLoader(SourceFileLoader):
    """Loads a module from its text as it stands, never from bytecode.

    Python distinguishes versions of a file by second and size, so of two quick edits the first would run under the name
    of the second.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Nothing, which is how a loader shows that its files cannot be compared with their bytecode."""
        raise OSError(f"{path} is read as text")


@functools.cache
def _find_by_text(folder: Path) -> None:
    """Have every module below a folder loaded from its text."""
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_TextLoader, SOURCE_SUFFIXES))

    def hook(path: str) -> PathEntryFinderProtocol:
        if not Path(path).is_relative_to(folder):
            raise ImportError(f"{path} is not in {folder}")
        return finder(path)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()


def project_error(error: Exception | SystemExit, folder: Path, doing: str) -> ModelworksError:
    """An exception of the user's code as an error that names their file and line."""
    if isinstance(error, SyntaxError) and error.filename:
        return ModelworksError(f"{error.filename}:{error.lineno}: {error.msg}")
    frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).is_relative_to(folder)]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(folder / "model.py")
    text = str(error).strip() or "no message"
    return ModelworksError(
        f"{place}: {type(error).__name__} while the model {doing}: {text}", fix=_project_fix(error, folder)
    )


def _project_fix(error: Exception | SystemExit, folder: Path) -> str:
    """The fix of mistakes that a project makes when it is moved here; otherwise empty."""
    if isinstance(error, SystemExit):
        return (
            'It ends the process, as a script does: have it below `if __name__ == "__main__":`, or raise another '
            "exception there."
        )
    if isinstance(error, EOFError):
        return "Nobody answers input() in a run: state the value in `parameters` of the spec, or write it there."
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
            return f"{top} is next to model.py: import it with a dot, as in `from .{error.name} import ...`."
        return f"Install it as a package of uv.lock (`uv add {top}`), or take the import out."
    if isinstance(error, FileNotFoundError) and not Path(str(error.filename or "/")).is_absolute():
        return (
            f"A relative path is not looked up in the project: use Path(__file__).parent / {str(error.filename)!r}, "
            "and have the file in the folder of model.py."
        )
    return ""
