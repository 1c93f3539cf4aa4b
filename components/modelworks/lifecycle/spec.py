"""The declaration of a model project: one `model.py` with `spec = ModelSpec(...)`, and nothing found by magic.

Everything here is frozen and checked when it is made. A mistake is a `ModelworksError` that begins with the file and
the line where the user wrote it. Features, data and gates are in modules beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from modelworks.contract import MODEL_NAME
from modelworks.errors import ModelworksError
from modelworks.lifecycle.metrics import KINDS, METRIC_NAME, METRICS, Kind, Outcome, metrics_of
from modelworks.lifecycle.model_project import sibling_imports
from modelworks.lifecycle.placed import Placed, require
from modelworks.lifecycle.spec_data import DataSource
from modelworks.lifecycle.spec_features import Feature, StoredFeatures, native
from modelworks.lifecycle.spec_gates import FairnessGate, Gate, Group
from modelworks.runtime.manifest import Feature as ServedFeature

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

READING: ContextVar[tuple[Path, str] | None] = ContextVar("READING", default=None)
"""The `model.py` that is being read, and the name of its module: whoever makes its spec, the spec is that file's."""


@dataclass(frozen=True, kw_only=True)
class Service(Placed):
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
class Card(Placed):
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
class ModelSpec(Placed):
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
    read: tuple[Path, str] | None = field(default_factory=READING.get, repr=False, compare=False)
    """Which file this is the spec of, and its module; filled in by itself."""

    def __post_init__(self) -> None:
        """Check the parts against each other.

        Raises:
            ModelworksError: With file and line of the part that is wrong.
        """
        for name in ("features", "groups", "gates", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "classes", tuple(map(native, self.classes)))
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
        require(
            self,
            MODEL_NAME.fullmatch(self.name) is not None,
            f"name must be 1 to 40 lower-case letters, digits and dashes, beginning with a letter, got {self.name!r}",
        )
        require(
            self,
            self.kind in KINDS,
            f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}",
            "A score of anomalies is a regression with a loader that answers it, where rows have a value to compare it "
            "with; other answers are those of a custom service (Service(code=...)).",
        )
        require(
            self,
            isinstance(self.target, str),
            f"target is the name of one column, got {self.target!r}",
            "Make a model for each, or have a custom service (Service(code=...)) answer more than it is judged by.",
        )
        require(self, bool(self.owner), "owner must name who is responsible for this model")
        require(self, callable(self.train), f"train must be a function, got {type(self.train).__name__}")
        require(self, isinstance(self.seed, int) and self.seed >= 0, f"seed must be 0 or more, got {self.seed!r}")
        require(
            self,
            hasattr(self.schema, "validate"),
            f"schema must be a pandera DataFrameSchema, got {type(self.schema).__name__}",
        )
        changes = _changes(self.schema)
        require(
            self,
            not changes,
            f"the schema changes what it checks ({', '.join(changes)}), and training gets the rows as data.load "
            "returned them",
            "Convert, drop and fill in data.load; have the schema state the result.",
        )
        self._check_classes()
        for name, value in self.parameters.items():
            require(
                self,
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
        require(
            self,
            all(isinstance(each, str | int) for each in self.classes),
            f"classes are text, integers or booleans, got {list(self.classes)}",
            "Convert the target in data.load, and state its classes with the same spelling.",
        )
        require(
            self,
            wanted[self.kind] and len(set(self.classes)) == len(self.classes),
            f"a {self.kind} model needs {'no' if self.kind == 'regression' else 'its'} classes"
            f"{' (negative, positive)' if self.kind == 'binary' else ''}, got {self.classes!r}",
        )

    def _check_columns(self) -> None:
        require(self, bool(self.features), "a model needs at least one feature")
        require(
            self,
            self.stored is None or self.data.prediction_time is not None,
            "stored features need data.prediction_time: the column with the moment at which they are read",
        )
        keys = self.stored.keys if self.stored else ()
        names = tuple(feature.name for feature in (*self.features, *keys))
        for feature in (*self.features, *keys):
            require(feature, names.count(feature.name) == 1, f"feature {feature.name!r} is declared twice")
            require(
                feature,
                feature.name != self.target,
                f"feature {feature.name!r} is the target",
                "Leave it out: it is not known when predicting.",
            )
            require(
                feature,
                feature.name not in self.data.outcomes,
                f"feature {feature.name!r} is known only after the prediction (data.outcomes)",
                "Leave it out, or compute it from what was known at the prediction time.",
            )
            require(
                feature,
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
                require(gate, gate.group in groups, f"{gate.group!r} is not one of the spec's groups")

    def _check_service(self) -> None:
        service, code = self.service, self.service.code
        require(
            service,
            not (code and service.trusted_code),
            "trusted_code is for the standard service, and code names another",
            "Leave one of them out: a service of your own loads what it needs, with Service(files=...).",
        )
        require(
            service,
            not service.files or bool(code) or service.trusted_code,
            "files are for the code of a bundle, and this service has none",
            "State trusted_code=True, or leave them out.",
        )
        for name in (*filter(None, [code]), *service.files):
            require(
                service,
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

    def _check_metric(self, metric: str, placed: Placed) -> None:
        require(
            placed,
            METRIC_NAME.fullmatch(metric) is not None,
            f"a metric's name is letters, digits and any of _-./: and blank, got {metric!r}",
            "Give it another name, such as recall_at_10.",
        )
        require(
            placed,
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
