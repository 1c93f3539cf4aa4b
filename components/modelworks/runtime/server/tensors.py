"""Tensors of the Open Inference Protocol (V2) as rows, and predictions as tensors, for REST and gRPC alike.

Each feature is a tensor of its name, of shape [rows] or [rows, 1]. Its values pass the same checks as those of a row
in JSON, and the same encoder makes the model's input of them, so that a row has the same prediction in every protocol.

A missing value is `null` in JSON and NaN in FP32 or FP64. Where the wire has neither, a BOOL tensor called
`<feature>.isnull` marks the missing ones. An optional feature that has no tensor is missing in every row.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Container, Sequence
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Feature, FeatureType, Manifest, class_name
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.schema import value_type
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.refusals import InvalidRequestError, undecodable

PLATFORMS = {"onnx": "onnxruntime_onnx", "skops": "sklearn_skops", "own": "python_own", "custom": "bentoml_service"}
ISNULL = ".isnull"
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_FLOATS = ("FP16", "FP32", "FP64")
ACCEPTED: dict[FeatureType, tuple[str, ...]] = {
    "number": (*_FLOATS, *_INTEGERS),
    "integer": (*_INTEGERS, *_FLOATS),
    "boolean": ("BOOL", *_INTEGERS, *_FLOATS),
    "string": ("BYTES",),
}
"""Datatypes of a feature's tensor. A boolean as a number is 0 or 1; with NaN it may be missing."""
STATED: dict[FeatureType, str] = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "string": "BYTES"}
"""The datatype that metadata has for a feature."""
_NUMPY: dict[str, Any] = {
    "BOOL": np.dtype("?"),
    **{name: np.dtype(f"<{name[0].lower()}{int(name.lstrip('UINT')) // 8}") for name in _INTEGERS},
    **{name: np.dtype(f"<f{int(name[2:]) // 8}") for name in _FLOATS},
}
DATATYPES = ("BYTES", *_NUMPY)
"""Those that are understood."""
_BYTES: dict[FeatureType, int] = {"number": 8, "integer": 8, "boolean": 1, "string": 4}
"""Of a value in a binary form; of a text, those of its length."""
_UNSUPPORTED = ("shared_memory_region", "classification")
"""Parameters of an output: extensions that are not here."""
_LENGTH = struct.Struct("<I")
_INT64 = range(-(2**63), 2**63)


class Tensor(NamedTuple):
    """A tensor of a request, or of an answer."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: list[Any]
    """One Python value an element; None where it is missing."""


class Requested(Protocol):
    """An output that a request names, in the form of its protocol."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def parameters(self) -> Container[str]:
        """Names of parameters, with whatever values."""


class Spec(NamedTuple):
    """The metadata of one tensor."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1: any number of rows."""


class Served:
    """A model in the terms of the protocol.

    Args:
        config: Names the release.
        manifest: Of the bundle.
    """

    def __init__(self, config: Config, manifest: Manifest) -> None:
        self.name, self.version = manifest.model, config.release
        self.platform = PLATFORMS[manifest.served]
        self.inputs = [Spec(feature.name, STATED[feature.type], (-1,)) for feature in manifest.request_features]
        self.outputs = _outputs(manifest)
        self._labels = {config.version, config.release, ""}
        self.rows, self.tensors = row_decoder(manifest), tensor_encoder(manifest)

    def has(self, name: str, version: str) -> bool:
        """Whether a request for this model and version is one for what is served."""
        return name == self.name and version in self._labels

    def not_here(self) -> str:
        """Why a request for another model or version is refused."""
        return f"there is no such model or version here; there is {self.name}, version {self.version}"

    def wanted(self, requested: Sequence[Requested]) -> list[str]:
        """The names of the outputs of an answer, in order: those requested, or all.

        Raises:
            InvalidRequestError: There is no such output, or it has a parameter that is not supported.
        """
        known = [each.name for each in self.outputs]
        for number, output in enumerate(requested):
            field = f"outputs[{number}]"
            if output.name not in known:
                raise InvalidRequestError(field, f"there is no output {output.name!r}; there are {_list(known)}")
            for name in _UNSUPPORTED:
                if name in output.parameters:
                    raise InvalidRequestError(f"{field}.parameters.{name}", "this is not supported")
        return [output.name for output in requested] or known


# -- Requests --------------------------------------------------------------------------------------------------------
def row_decoder(manifest: Manifest) -> Callable[[Sequence[Tensor]], list[Row]]:
    """A function from the tensors of a request to its rows, checked as rows in JSON are. Raises InvalidRequestError."""
    # As a class: msgspec looks at any other type anew in each call.
    types: dict[str, Any] = {
        feature.name: msgspec.defstruct("Column", [("data", list[value_type(feature)])])  # type: ignore[misc]
        for feature in manifest.request_features
    }
    names = list(types)

    def decode(tensors: Sequence[Tensor]) -> list[Row]:
        given = _by_name(tensors)
        rows = _rows(tensors, manifest.max_rows)
        columns = []
        for feature in manifest.request_features:
            found = given.pop(feature.name, None)
            mask = given.pop(feature.name + ISNULL, None)
            if found is None:
                if feature.required:
                    raise InvalidRequestError("inputs", f"there is no tensor {feature.name!r}")
                columns.append([None] * rows)
                continue
            values = _values(*found, feature, rows)
            if mask is not None:
                _check(*mask, ("BOOL",), rows)
                missing = mask[1].data
                values = [None if null else value for value, null in zip(values, missing, strict=True)]
            try:
                columns.append(msgspec.convert({"data": values}, types[feature.name]).data)
            except msgspec.ValidationError as error:
                raise undecodable(error, f"inputs[{found[0]}].", feature.name) from error
        for number, tensor in given.values():
            raise InvalidRequestError(
                f"inputs[{number}]", f"the model has no input {tensor.name!r}; it has {_list(names)}"
            )
        return list(zip(*columns, strict=True))

    return decode


def json_row_bytes(manifest: Manifest) -> int:
    """Bytes that a row adds to tensors in JSON, judged by the examples."""
    examples = [[row.get(feature.name) for feature in manifest.request_features] for row in manifest.examples]
    return max(1, sum(len(msgspec.json.encode(example)) for example in examples) // len(examples))


def binary_row_bytes(manifest: Manifest) -> int:
    """Bytes that a row adds to columns or tensors in a binary form."""
    return max(1, sum(_BYTES[feature.type] for feature in manifest.request_features))


def element_type(datatype: str) -> Any:
    """The Python type of one value of a tensor in JSON, or None where it is missing.

    Raises:
        KeyError: There is no such datatype here.
    """
    if datatype == "BYTES":
        return str | None
    kind = _NUMPY[datatype].kind
    if kind == "b":
        return bool | None
    if kind == "f":
        return float | None
    limits = np.iinfo(_NUMPY[datatype])
    # Beyond an int64 the bounds of a feature refuse it anyway.
    return Annotated[int, Meta(ge=int(limits.min), le=min(int(limits.max), 2**63 - 1))] | None


def from_bytes(field: str, datatype: str, raw: bytes) -> list[Any]:
    """The values of a tensor in its binary form: little-endian; texts each after their length.

    Args:
        field: The part of the request, for the error.
        datatype: Of the tensor.
        raw: The bytes.

    Raises:
        InvalidRequestError: They are no such tensor.
    """
    if datatype == "BYTES":
        return _texts(field, raw)
    if datatype not in _NUMPY:
        raise InvalidRequestError(field, f"datatype {datatype!r} is not supported")
    if len(raw) % _NUMPY[datatype].itemsize:
        raise InvalidRequestError(field, f"{len(raw)} bytes are no whole number of {datatype}", 400)
    values: list[Any] = np.frombuffer(raw, _NUMPY[datatype]).tolist()
    return values


def _texts(field: str, raw: bytes) -> list[Any]:
    texts, at = [], 0
    try:
        while at < len(raw):
            [length] = _LENGTH.unpack_from(raw, at)
            at += _LENGTH.size + length
            texts.append(raw[at - length : at].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise InvalidRequestError(field, f"the bytes are no texts, each after its length: {error}", 400) from error
    if at != len(raw):
        raise InvalidRequestError(field, "the bytes end within a text", 400)
    return texts


def _by_name(tensors: Sequence[Tensor]) -> dict[str, tuple[int, Tensor]]:
    given: dict[str, tuple[int, Tensor]] = {}
    for number, tensor in enumerate(tensors):
        if tensor.name in given:
            raise InvalidRequestError(f"inputs[{number}]", f"tensor {tensor.name!r} is there twice")
        given[tensor.name] = number, tensor
    return given


def _rows(tensors: Sequence[Tensor], most: int) -> int:
    if not tensors:
        raise InvalidRequestError("inputs", "there is no tensor")
    shape = tensors[0].shape
    if not shape or not 1 <= shape[0] <= most:
        raise InvalidRequestError("inputs[0].shape", f"a request has 1 to {most} rows; the shape is {list(shape)}")
    return shape[0]


def _check(number: int, tensor: Tensor, datatypes: Sequence[str], rows: int) -> None:
    field = f"inputs[{number}]"
    if tensor.datatype not in datatypes:
        raise InvalidRequestError(
            f"{field}.datatype", f"{tensor.name} is {_list(datatypes)}, not {tensor.datatype or 'without a datatype'}"
        )
    if list(tensor.shape) not in ([rows], [rows, 1]):
        raise InvalidRequestError(
            f"{field}.shape",
            f"{tensor.name} has shape [{rows}] or [{rows}, 1], as the first tensor; not {list(tensor.shape)}",
        )
    if len(tensor.data) != rows:
        raise InvalidRequestError(f"{field}.data", f"{tensor.name} has {len(tensor.data)} values for {rows} rows", 400)


def _values(number: int, tensor: Tensor, feature: Feature, rows: int) -> list[Any]:
    """The values of a feature: None for NaN, and of the precision of the datatype."""
    _check(number, tensor, ACCEPTED[feature.type], rows)
    values = tensor.data
    if tensor.datatype in {"FP16", "FP32"}:
        # A value of JSON has the precision that its datatype has in the binary form.
        with np.errstate(over="ignore"):
            values = np.array([math.nan if value is None else value for value in values]).astype(
                _NUMPY[tensor.datatype]
            ).tolist()  # fmt: skip
    if tensor.datatype in _FLOATS:
        values = [None if value is None or math.isnan(value) else value for value in values]
    if feature.type == "boolean" and tensor.datatype != "BOOL":
        values = [{0: False, 1: True}.get(value, value) for value in values]
    return values


# -- Answers ---------------------------------------------------------------------------------------------------------
def tensor_encoder(manifest: Manifest) -> Callable[[Predictions, Sequence[str]], list[Tensor]]:
    """A function from predictions, and the names of outputs, to these tensors."""
    outputs = {each.name: each for each in _outputs(manifest)}
    labels: Sequence[Any] = manifest.classes
    if outputs.get("label", Spec("", "", ())).datatype == "BYTES":
        labels = [class_name(label) for label in labels]

    def values(name: str, predictions: Predictions) -> list[Any]:
        if name == "label":
            return [labels[label] for label in predictions.labels]
        if name == "probabilities":
            return [share for shares in predictions.probabilities for share in shares]
        return predictions.values

    def encode(predictions: Predictions, names: Sequence[str]) -> list[Tensor]:
        rows = len(predictions.values)
        return [
            Tensor(name, outputs[name].datatype, [rows, *outputs[name].shape[1:]], values(name, predictions))
            for name in names
        ]

    return encode


def to_bytes(tensor: Tensor) -> bytes:
    """The binary form of a tensor."""
    if tensor.datatype == "BYTES":
        texts = [text.encode() for text in tensor.data]
        return b"".join([_LENGTH.pack(len(text)) + text for text in texts])
    return np.array(tensor.data, _NUMPY[tensor.datatype]).tobytes()


def _outputs(manifest: Manifest) -> list[Spec]:
    if manifest.kind == "regression":
        return [Spec("value", "FP64", (-1,))]
    found = [Spec("label", label_datatype(manifest.classes), (-1,)), Spec("score", "FP64", (-1,))]
    if manifest.kind == "multiclass":
        found.append(Spec("probabilities", "FP64", (-1, len(manifest.classes))))
    return found


def label_datatype(classes: Sequence[str | int | bool]) -> str:
    """The datatype of labels: one that all of them have, or text."""
    if all(isinstance(label, bool) for label in classes):
        return "BOOL"
    whole = all(isinstance(label, int) and not isinstance(label, bool) and label in _INT64 for label in classes)
    return "INT64" if whole else "BYTES"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
