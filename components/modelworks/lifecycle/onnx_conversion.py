"""The model as ONNX, where it is proven to answer as the original does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from modelworks._files import digest_of, write_json, write_whole
from modelworks.lifecycle import scores
from modelworks.lifecycle.edge_cases import ROUNDING, dependence
from modelworks.lifecycle.fitted import GRAPH, SKOPS
from modelworks.lifecycle.trust import load_estimator
from modelworks.runtime import manifest as of
from modelworks.runtime.encoding import Row, column_dtype
from modelworks.runtime.predictor import Infer, onnx_engine

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import ModelSpec

OPSET = 21
"""ONNX operator set: what ONNX Runtime 1.20 and later run."""
ONNX_DOMAIN_ML = 3
Precision = Literal["float64", "float32"]


def as_onnx(
    spec: ModelSpec, folder: Path, model: of.Skops | of.Onnx | of.Own, infer: Infer | None, asked: list[Row]
) -> tuple[of.Onnx | None, of.Parity | None]:
    """The model as ONNX and the proof that it is the same; nothing, and the reason in `parity.json`, otherwise."""
    (folder / "model.onnx").unlink(missing_ok=True)
    reasons = []
    if isinstance(model, of.Onnx):
        shutil.copyfile(folder / GRAPH, folder / model.path)
        write_json(folder / "parity.json", {"onnx": True, "reason": "train returned it"})
        return model, None
    if infer is None:
        reasons = ["its own service answers"]
    elif isinstance(model, of.Own):
        reasons = ["the project's own code answers"]
    elif not spec.service.onnx:
        reasons = ["the spec does not request it"]
    else:
        ours = np.asarray(infer(asked), dtype="float64")
        # float64 answers as scikit-learn does; graphs of trees exist in float32 only, which may do as well.
        for precision in ("float64", "float32"):
            found = _try_onnx(spec, folder, precision, asked, ours)
            if not isinstance(found, str):
                return found
            reasons.append(found)
    write_json(folder / "parity.json", {"onnx": False, "reason": "; ".join(dict.fromkeys(reasons))})
    return None, None


def _try_onnx(
    spec: ModelSpec, folder: Path, precision: Precision, asked: list[Row], ours: np.ndarray
) -> tuple[of.Onnx, of.Parity] | str:
    """The graph of one precision and its proof, or why it does not serve."""
    estimator = load_estimator(folder / SKOPS, spec.service, spec.package)
    try:
        graph, inputs, output = _convert(spec, estimator, precision)
        onnx = of.Onnx(path="model.onnx", sha256=digest_of(graph).hex, inputs=inputs, output=output)
        infer = onnx_engine(graph, onnx, spec.served_features)
        theirs = scores.validate(spec, np.asarray(infer(asked), dtype="float64"), len(asked))
        depends = dependence(infer, asked[-spec.service.max_rows :])
    except Exception as error:  # noqa: BLE001 - whatever a converter raises, the model is served by scikit-learn
        return f"it does not convert: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    if depends > ROUNDING:
        return f"its answer to a row depends on the rows beside it, by {depends:.1e}"
    parity, at = compare(spec, ours, theirs)
    if parity.different_labels or parity.max_difference > parity.tolerance:
        return f"its answers differ from scikit-learn's, by up to {parity.max_difference:.1e}"
    facts = {
        "onnx": True, "rows": parity.rows, "different_labels": parity.different_labels,
        "max_difference": parity.max_difference, "tolerance": parity.tolerance, "worst_row": at, "reason": "",
    }  # fmt: skip
    write_json(folder / "parity.json", facts)
    write_whole(folder / "model.onnx", graph)
    return msgspec.structs.replace(onnx, together=depends == 0), parity


def compare(spec: ModelSpec, ours: np.ndarray, theirs: np.ndarray) -> tuple[of.Parity, int]:
    """How the two engines differ over the same rows, and the row where they differ most.

    Probabilities are compared as they are, values relative to their size, and to that of the typical value where they
    are smaller.
    """
    ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    size = np.abs(ours).max(axis=1)
    scale = np.maximum(size, float(np.median(size)) or 1.0) if spec.kind == "regression" else 1.0
    by_row = np.abs(ours - theirs).max(axis=1) / scale
    if spec.kind == "regression":
        different = 0
    elif spec.kind == "binary":
        limit = spec.service.threshold
        different = int(((ours[:, 1] >= limit) != (theirs[:, 1] >= limit)).sum())
    else:
        different = int((ours.argmax(axis=1) != theirs.argmax(axis=1)).sum())
    at = int(by_row.argmax())
    parity = of.Parity(
        rows=len(ours),
        different_labels=different,
        max_difference=float(by_row[at]),
        tolerance=spec.service.onnx_tolerance,
    )
    return parity, at


def _convert(spec: ModelSpec, estimator: Any, precision: Precision) -> tuple[bytes, tuple[of.OnnxInput, ...], str]:
    from skl2onnx import to_onnx  # it takes a second to import
    from skl2onnx.common import data_types

    if spec.input == "matrix":
        inputs: tuple[of.OnnxInput, ...] = (of.OnnxInput(name="rows", columns=spec.feature_names, dtype=precision),)
    else:
        inputs = tuple(
            of.OnnxInput(name=each.name, columns=(each.name,), dtype=_tensor_dtype(each, precision))
            for each in spec.served_features
        )
    of_dtype = {
        "string": data_types.StringTensorType, "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType, "int64": data_types.Int64TensorType,
    }  # fmt: skip
    types = [(each.name, of_dtype[each.dtype]([None, len(each.columns)])) for each in inputs]
    options = {} if spec.kind == "regression" else {"zipmap": False}
    model = to_onnx(
        estimator, initial_types=types, options=options, target_opset={"": OPSET, "ai.onnx.ml": ONNX_DOMAIN_ML},
        name=spec.name,
    )  # fmt: skip
    model.graph.doc_string = model.doc_string = ""
    output = model.graph.output[0 if spec.kind == "regression" else 1].name
    return model.SerializeToString(deterministic=True), inputs, output


def _tensor_dtype(feature: of.Feature, precision: Precision) -> of.DType:
    if feature.type == "string":
        return "string"
    return "int64" if precision == "float64" and column_dtype(feature) == "int64" else precision
