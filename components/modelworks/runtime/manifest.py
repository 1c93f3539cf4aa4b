"""The manifest of a bundle: the one file that the builder writes and the server reads.

A bundle is an ordinary Bento; the manifest is `src/modelworks.json` inside it. Every other path in the manifest is
relative to that `src/` folder. The builder makes a `Manifest` and writes `encode(manifest)`; the server calls `decode`.

How a row becomes what the model takes is stated, and done, in `modelworks.runtime.encoding`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from modelworks.contract import MODEL_NAME
from modelworks.errors import ModelworksError

PATH_IN_BENTO = "src/modelworks.json"
"""Where the manifest lies inside the unpacked Bento."""

FORMAT = 1
"""Version of this file format. A server refuses a manifest with an unknown number."""

Kind = Literal["binary", "multiclass", "regression"]
FeatureType = Literal["number", "integer", "string", "boolean"]
DType = Literal["float32", "float64", "int64", "string", "bool"]

FLOAT32_MAX = 3.4028234e38
INTEGER_MAX = 2**53 - 1

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Feature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One value of a row, and what is accepted for it."""

    name: Name
    """As requests spell it, and as columns refer to it."""
    type: FeatureType
    description: str = ""
    required: bool = True
    """Whether a row must carry the key. An absent optional feature is treated as null."""
    nullable: bool = False
    """Whether null is accepted (a missing value the model can take). An optional feature is nullable by nature."""
    minimum: float | None = None
    """Smallest value accepted, itself included. Numbers and integers only."""
    maximum: float | None = None
    """Largest value accepted, itself included. Numbers and integers only."""
    categories: tuple[str, ...] = ()
    """The only values accepted, in the order that gives each its number. Strings only; empty: any text."""
    max_length: Annotated[int, Meta(ge=1)] = 256
    """Longest text accepted, in characters. Strings only."""
    private: bool = False
    """Private values are used to predict and then forgotten: they are never in the prediction log."""
    unit: str = ""
    example: float | int | str | bool | None = None


Engine = Literal["feast", "hopsworks", "tecton"]
"""The system that keeps the features, and computes them for training."""
Fallback = Literal["error", "default", "cached"]
"""When features cannot be read: refuse the request, take every value for missing, or use the one read last."""

STORED_TYPES: dict[str, FeatureType] = {
    "Float32": "number",
    "Float64": "number",
    "Int32": "integer",
    "Int64": "integer",
    "String": "string",
    "Bool": "boolean",
}
"""Types of Feast whose values a model may read, and what they are in a row. A number also takes an integer."""
KEY_TYPES = {"String": "string", "Int32": "integer", "Int64": "integer"}
"""Types of Feast that a key may have, and what they are in a request."""


class StoredView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A feature view that the model reads."""

    name: Name
    keys: dict[str, str]
    """Feast's type of each join key. None: one value for everybody."""
    features: Annotated[dict[str, str], Meta(min_length=1)]
    """Feast's type of each feature that is read."""
    digest: str
    """Of the view's whole definition, as it was when the model was trained."""
    ttl_seconds: float | None = None
    """An older value is not read. None: any age."""
    event_time: str = ""
    """The feature of a Hopsworks feature view that is the event time of the others. Empty: the engine states it, or
    nobody does."""


class OnDemand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Features that a function of the project's code makes of stored ones and of values of the request."""

    name: Name
    function: Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`module:function` in the project's code."""
    inputs: Annotated[dict[str, str], Meta(min_length=1)]
    """Feast's type of each input: `view:feature`, or the name of a value of the request."""
    features: Annotated[dict[str, str], Meta(min_length=1)]
    """Feast's type of each feature that the model takes."""
    digest: str
    """Of the view's whole definition and of the file with its function, as they were when the model was trained."""
    singleton: bool = False
    """Whether the function takes values. Otherwise it takes lists of them, each of length one."""


class Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Features that the server reads from the feature store, so that a request carries the keys of entities instead."""

    service: Name
    """The feature service that names them."""
    views: Annotated[tuple[StoredView, ...], Meta(min_length=1)]
    keys: tuple[Feature, ...] = ()
    """Join keys and inputs of on-demand views that are no features of the model: requests carry them besides."""
    on_demand: tuple[OnDemand, ...] = ()
    defaults: dict[str, float | int | str | bool] = {}
    """The value of a feature that the store lacks; without one it is missing."""
    fallback: Fallback = "error"
    engine: Engine = "feast"
    place: dict[str, str] = {}
    """Where the engine keeps the service: `workspace` for Tecton, `project` and `version` for Hopsworks."""

    @property
    def read(self) -> tuple[str, ...]:
        """Names of all features that are read, view by view: those of the model, and inputs of on-demand views."""
        return tuple(name for view in self.views for name in view.features)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all features that no request carries: those that are read, then those that are computed."""
        return (*self.read, *(name for view in self.on_demand for name in view.features))

    @property
    def inputs(self) -> dict[str, str]:
        """Type of each stored feature, as `view:feature`, that an on-demand view takes."""
        found = {name: kind for view in self.on_demand for name, kind in view.inputs.items() if ":" in name}
        return dict(sorted(found.items()))


def bounds(feature: Feature) -> tuple[float, float]:
    """Smallest and largest value that a number or an integer may have: what is stated, within what is exact.

    Beyond the largest float32 a tree of scikit-learn and a float32 tensor see infinity; beyond 2^53 a float64 skips
    integers (RFC 8259, section 6).
    """
    low = -math.inf if feature.minimum is None else feature.minimum
    high = math.inf if feature.maximum is None else feature.maximum
    if feature.type == "integer":
        return math.ceil(max(-INTEGER_MAX, low)), math.floor(min(INTEGER_MAX, high))
    return max(-FLOAT32_MAX, low), min(FLOAT32_MAX, high)


class OnnxInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One input tensor of the graph, of shape [rows, len(columns)].

    A graph with one float matrix has one of these with every column; a graph with a tensor a column has one for each.
    """

    name: Name
    columns: Annotated[tuple[Name, ...], Meta(min_length=1)]
    dtype: DType = "float32"
    missing: str = ""
    """The value for null in a string tensor."""


class Onnx(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The model as an ONNX graph. Converted with ZipMap off: probabilities are a plain float tensor."""

    path: Name
    sha256: Sha256
    inputs: Annotated[tuple[OnnxInput, ...], Meta(min_length=1)]
    output: Name
    """The tensor that decides: for classes their probabilities, [rows, classes] in the order of `Manifest.classes`;
    for a regression the values, [rows] or [rows, 1]."""
    together: bool = True
    """Whether a row's answer is the same, bit for bit, alone and among others. Otherwise each is answered by itself."""


class Skops(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The model as scikit-learn objects in a skops file, which needs no pickle."""

    path: Name
    sha256: Sha256
    columns: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """Order of the columns the estimator was fitted on."""
    trusted: tuple[str, ...] = ()
    """Types beyond skops' own safe list that the builder vouches for. Any other type in the file is refused."""
    input: Literal["matrix", "frame"] = "matrix"
    """`matrix`: a float64 array. `frame`: a pandas DataFrame with these columns, for pipelines that pick columns by
    name; costs memory and time."""
    together: bool = True
    """As `Onnx.together`."""


class Code(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Code of the model's project, which the model needs, and which the server therefore runs."""

    package: Annotated[str, Meta(pattern="^modelworks_project_[0-9a-f]{16}$")]
    """The name it is imported under: the same code has the same name."""
    files: Annotated[dict[str, Sha256], Meta(min_length=1)]
    """Its files, and those that it reads beside itself, by their path."""


class Own(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The model as files (`Manifest.files`) that the project's code reads, and as what that code answers."""

    loader: Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """`module:function` in the project's code. Called once with the folder `artifacts` of the bundle."""
    columns: Annotated[tuple[Name, ...], Meta(min_length=1)]
    input: Literal["matrix", "frame"] = "matrix"
    """As `Skops.input`."""
    together: bool = True
    """As `Onnx.together`."""


class Parity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Proof that the ONNX graph answers as scikit-learn does, over the hold-out and the edges of the schema."""

    rows: Annotated[int, Meta(ge=1)]
    different_labels: Annotated[int, Meta(ge=0)]
    max_difference: Annotated[float, Meta(ge=0)]
    """Largest difference of a probability or value."""
    tolerance: Annotated[float, Meta(ge=0)]


class HoldOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The rule by which rows were left out of training: a later model is compared with this one on such rows."""

    columns: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """Columns of the data whose values decide: a time, or those that are hashed."""
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """By hash: share of the hash's range, from its start, that was left out."""
    after: str = ""
    """By time: rows later than this moment were left out. ISO 8601."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model as it is served.

    The version label and the bundle's digest are not here: a digest cannot contain itself, and a label is the
    registry's to give.
    """

    model: Annotated[str, Meta(pattern=f"^{MODEL_NAME.pattern}$")]
    """Name of the model, as in `modelworks:releases`."""
    kind: Kind
    task: str
    """The meaning of the prediction, in one sentence a caller understands."""
    features: Annotated[tuple[Feature, ...], Meta(min_length=1)]
    examples: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)]
    """Rows that are valid. The first is the example in the documentation and the row that warms the server up."""
    format: int = FORMAT
    owner: str = ""
    classes: tuple[str | int | bool, ...] = ()
    """The labels, in the order of the probabilities. Binary: (negative, positive). Regression: none."""
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Binary: the positive class is answered when its probability is at least this."""
    unit: str = ""
    """Unit of a regression's value."""
    service: Literal["standard", "custom"] = "standard"
    """`custom`: the Bento's own service code answers; BentoML serves it."""
    onnx: Onnx | None = None
    """Served when there is one. Its parity with `skops` must have been proven."""
    skops: Skops | None = None
    own: Own | None = None
    """Served when there is neither of the others."""
    code: Code | None = None
    """Code of the project, which `skops` or `own` needs."""
    files: dict[str, Sha256] = {}
    """Files that the project's code or its service reads, by their path."""
    parity: Parity | None = None
    holdout: HoldOut | None = None
    """Which rows the model was not trained on. None: not known."""
    latency_objective_ms: Annotated[float, Meta(gt=0)] = 50.0
    """A request that takes longer counts as slow."""
    max_rows: Annotated[int, Meta(ge=1)] = 1000
    """Most rows in one request."""
    card: str = "card.md"
    """The model card, Markdown."""
    stored: Stored | None = None
    """Which of the features are read from a feature store."""
    packages: dict[str, str] = {}
    """Packages that a server must have to load the model, and the versions that it was judged with."""

    @property
    def served(self) -> Literal["onnx", "skops", "own", "custom"]:
        """Which of the artifacts answers requests."""
        if self.service == "custom":
            return "custom"
        if self.onnx:
            return "onnx"
        return "own" if self.own else "skops"

    @property
    def artifacts(self) -> dict[str, str]:
        """Every file that only its sha256 vouches for: those of the model, and the code that it needs."""
        single = {each.path: each.sha256 for each in (self.onnx, self.skops) if each}
        return single | self.files | (self.code.files if self.code else {})

    @property
    def request_features(self) -> tuple[Feature, ...]:
        """The values that a request's row carries: keys of entities first, then features that are not stored."""
        return request_features(self.features, self.stored) if self.stored else self.features

    def feature(self, name: str) -> Feature:
        """The feature called `name`. Raises KeyError."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(name)


def encode(manifest: Manifest) -> bytes:
    """The bytes of the manifest: the same for the same manifest, readable in a diff.

    Raises:
        ModelworksError: The manifest contradicts itself (see `problems`).
    """
    _refuse(problems(manifest))
    # Names of keys keep their order of declaration; nothing here depends on a hash seed.
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes) -> Manifest:
    """The manifest in `data`.

    Raises:
        ModelworksError: It is not one, is of a later format, or contradicts itself.
    """
    try:
        number = msgspec.json.decode(data, type=_FormatOnly).format
        if number != FORMAT:
            raise ModelworksError(
                f"the bundle's manifest has format {number}; this runtime reads {FORMAT}",
                fix="Build the bundle again with this version of modelworks, or serve it with the one that built it.",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise ModelworksError(f"the bundle's manifest ({PATH_IN_BENTO}) cannot be read: {error}") from error
    _refuse(problems(manifest))
    return manifest


def problems(manifest: Manifest) -> list[str]:
    """Everything in which the manifest contradicts itself; empty when it is sound."""
    return [
        *_feature_problems(manifest),
        *_class_problems(manifest),
        *_artifact_problems(manifest),
        *(stored_problems(manifest.features, manifest.stored) if manifest.stored else ()),
        *_on_demand_problems(manifest),
        *(f"{what} must be a path inside src/, got {path!r}" for what, path in _paths(manifest) if not _inside(path)),
    ]


def _on_demand_problems(manifest: Manifest) -> list[str]:
    if not (manifest.stored and manifest.stored.on_demand):
        return []
    if manifest.service == "custom":
        return ["a custom service computes no on-demand views"]
    return [] if manifest.code else ["on-demand views need the project's code, and there is none"]


class _FormatOnly(msgspec.Struct):
    format: int = FORMAT


def _refuse(found: list[str]) -> None:
    if found:
        raise ModelworksError("the bundle's manifest contradicts itself: " + "; ".join(found))


def _feature_problems(manifest: Manifest) -> list[str]:
    found = []
    keys = manifest.stored.keys if manifest.stored else ()
    names = [feature.name for feature in (*manifest.features, *keys)]
    found += [f"feature {name!r} is declared twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if "rows" in names:
        found.append("a feature cannot be called 'rows': requests use that key for many rows")
    return found + [problem for feature in (*manifest.features, *keys) for problem in feature_problems(feature)]


def feature_problems(feature: Feature) -> list[str]:
    """Everything in which one feature contradicts itself; empty when it is sound."""
    found = []
    numeric = feature.type in {"number", "integer"}
    limits = [value for value in (feature.minimum, feature.maximum) if value is not None]
    if not numeric and limits:
        found.append(f"feature {feature.name!r} is a {feature.type}: it has no minimum or maximum")
    elif not all(isinstance(value, int | float) and math.isfinite(value) for value in limits):
        found.append(f"feature {feature.name!r}: minimum and maximum are finite numbers, got {limits}")
    elif feature.minimum is not None and feature.maximum is not None and feature.minimum > feature.maximum:
        found.append(f"feature {feature.name!r}: minimum {feature.minimum} is above maximum {feature.maximum}")
    elif numeric and operator.gt(*bounds(feature)):
        found.append(f"feature {feature.name!r}: no {feature.type} is between its minimum and its maximum")
    if feature.categories and feature.type != "string":
        found.append(f"feature {feature.name!r} is a {feature.type}: only strings have categories")
    if len(set(feature.categories)) != len(feature.categories):
        found.append(f"feature {feature.name!r} has a category twice")
    return found


def class_name(label: str | int | bool) -> str:
    """A class as text, which is the same wherever it is text: keys of probabilities, tensors, metrics, logs."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def _class_problems(manifest: Manifest) -> list[str]:
    count = len(manifest.classes)
    if manifest.kind == "binary" and count != 2:
        return [f"a binary model has 2 classes, got {count}"]
    if manifest.kind == "multiclass" and count < 2:
        return [f"a multiclass model has at least 2 classes, got {count}"]
    if manifest.kind == "regression" and count:
        return ["a regression has no classes"]
    names = [class_name(label) for label in manifest.classes]
    return [f"two classes have the name {name!r}" for name in sorted({each for each in names if names.count(each) > 1})]


def _artifact_problems(manifest: Manifest) -> list[str]:
    if manifest.service == "custom":
        return []
    if manifest.files and not manifest.code:
        return ["files need code of the project that reads them"]
    if not (manifest.onnx or manifest.skops or manifest.own):
        return ["a standard service needs an artifact: onnx, skops or files of the project's own code"]
    found = []
    known = {feature.name: feature for feature in manifest.features}
    columns: list[tuple[str, str, DType | None]] = []
    if manifest.onnx:
        columns += [("onnx", name, each.dtype) for each in manifest.onnx.inputs for name in each.columns]
    if manifest.skops:
        raw = manifest.skops.input == "frame"
        columns += [("skops", name, None if raw else "float64") for name in manifest.skops.columns]
    if manifest.own:
        raw = manifest.own.input == "frame"
        columns += [("own", name, None if raw else "float64") for name in manifest.own.columns]
        if not manifest.code:
            found.append("own needs the project's code, and there is none")
    for where, name, dtype in columns:
        feature = known.get(name)
        if feature is None:
            found.append(f"{where} takes column {name!r}, which is not a feature")
        elif dtype == "string" and feature.type != "string":
            found.append(f"{where} takes {name!r} as text, but it is a {feature.type}")
        elif dtype not in {None, "string"} and feature.type == "string" and not feature.categories:
            found.append(f"{where} takes {name!r} as a number, but it is a string without categories")
        elif dtype in {"int64", "bool"} and (feature.nullable or not feature.required):
            found.append(f"{where} takes {name!r} as {dtype}, which has no value for null, but it may be missing")
    if manifest.onnx and manifest.skops and manifest.parity is None:
        found.append("onnx and skops are both there without a parity report")
    if manifest.parity and (
        manifest.parity.different_labels or manifest.parity.max_difference > manifest.parity.tolerance
    ):
        found.append("by the parity report, onnx and skops differ: leave onnx out")
    return found


def request_features(features: tuple[Feature, ...], stored: Stored) -> tuple[Feature, ...]:
    """The values that requests carry for a model that takes `features`."""
    names = set(stored.names)
    return (*stored.keys, *(feature for feature in features if feature.name not in names))


def stored_problems(taken: tuple[Feature, ...], stored: Stored) -> list[str]:
    """Everything in which stored features contradict the features that a model takes."""
    found = []
    features = {feature.name: feature for feature in taken}
    requested = {feature.name: feature.type for feature in request_features(taken, stored)}
    if not requested:
        found.append("a request carries nothing: the model needs a key or a feature that is not stored")
    names = stored.names
    taken_in = {f"{view.name}:{name}": kind for view in stored.views for name, kind in view.features.items()}
    found += [f"feature {name!r} is read from two views" for name in sorted({n for n in names if names.count(n) > 1})]
    found += [f"{name!r} has a default and is not read from a view" for name in stored.defaults if name not in names]
    for view in stored.views:
        for name, kind in view.keys.items():
            if KEY_TYPES.get(kind) != requested.get(name):
                has = f"as {requested[name]}" if name in requested else "not at all"
                found.append(f"view {view.name!r} has the key {name!r} of type {kind}; a request carries it {has}")
        for name, kind in view.features.items():
            if name in features or f"{view.name}:{name}" not in stored.inputs:
                found += _read_problems(view.name, name, kind, features.get(name), stored)
    for each in stored.on_demand:
        for name, kind in each.features.items():
            found += _read_problems(each.name, name, kind, features.get(name), stored)
        for name, kind in each.inputs.items():
            found += _input_problems(each.name, name, kind, taken_in, requested)
    return found


def _input_problems(
    view: str, name: str, kind: str, read: Mapping[str, str], requested: Mapping[str, FeatureType]
) -> list[str]:
    if kind not in STORED_TYPES:
        return [f"view {view!r} takes {name!r} as {kind}; it may take {', '.join(STORED_TYPES)}"]
    if ":" in name:
        return [] if read.get(name) == kind else [f"view {view!r} takes {name!r} as {kind}, which is not read so"]
    if requested.get(name) != STORED_TYPES[kind]:
        has = f"as {requested[name]}" if name in requested else "not at all"
        return [f"view {view!r} takes {name!r} of type {kind}; a request carries it {has}"]
    return []


def _read_problems(view: str, name: str, kind: str, feature: Feature | None, stored: Stored) -> list[str]:
    if feature is None:
        return [f"view {view!r} gives {name!r}, which is no feature of the model"]
    if feature.type != STORED_TYPES.get(kind) and (feature.type, STORED_TYPES.get(kind)) != ("number", "integer"):
        return [f"view {view!r} gives {name!r} as {kind}, and the model takes it as {feature.type}"]
    if name not in stored.defaults and not feature.nullable and feature.required:
        return [f"feature {name!r} may be missing in its view: it must be nullable or have a default"]
    return []


def _paths(manifest: Manifest) -> list[tuple[str, str]]:
    return [("card", manifest.card), *(("an artifact's path", path) for path in manifest.artifacts)]


def _inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path
