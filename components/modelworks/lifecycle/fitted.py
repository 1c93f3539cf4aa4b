"""The result of `train`: kept in the run's folder, and answering from there, as a server would have it.

An estimator is a skops file, a graph an ONNX file. Everything else is files, and a function of the project that reads
them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from modelworks._files import digest_of, read_json, write_json, write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import canonical_skops
from modelworks.lifecycle.project_errors import project_error
from modelworks.lifecycle.rows import chunks, encode_table
from modelworks.lifecycle.spec import Fitted, ModelSpec
from modelworks.lifecycle.trust import trusted_types
from modelworks.runtime import manifest as of
from modelworks.runtime.predictor import ARTIFACTS, answers_of, onnx_engine

if TYPE_CHECKING:
    import pandas as pd

Answer = Callable[["pd.DataFrame"], Any]
"""A table to probabilities [rows, classes], or to values [rows]."""

SKOPS = "model.skops"
GRAPH = "graph.onnx"
"""In a run's folder: the graph that train returned. (The one that is made of an estimator is the bundle's.)"""
LOADER = "loader.json"
"""In a run's folder: which function reads its artifacts."""
_ARTIFACT = re.compile(r"[\w.-]+(/[\w.-]+)*")
_NUMBERS = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64", "tensor(bool)": "bool"}


def keep(spec: ModelSpec, folder: Path, fitted: Fitted) -> Answer:
    """Write a model into the folder of its run, and return what it answers.

    Raises:
        ModelworksError: It cannot be kept, or does not load; with file and line.
    """
    models = [name for name in ("estimator", "onnx", "loader") if getattr(fitted, name) is not None]
    if len(models) != 1:
        raise ModelworksError(
            f"{spec.where}: train returned {' and '.join(models) or 'no model'}; a model is one of estimator, onnx "
            "and loader",
            fix="Return a fitted estimator, Fitted(onnx=...), or Fitted(artifacts={...}, loader=...).",
        )
    _refuse_files_without_a_reader(spec, fitted)
    shutil.rmtree(folder / ARTIFACTS, ignore_errors=True)  # of a training that was interrupted
    for name, content in fitted.artifacts.items():
        if not _ARTIFACT.fullmatch(name) or ".." in PurePosixPath(name).parts:
            raise ModelworksError(f"{spec.where}: an artifact's name is that of a file, got {name!r}")
        write_whole(folder / ARTIFACTS / name, _content(spec, content))
    if fitted.onnx is not None:
        write_whole(folder / GRAPH, _with_both_classes(spec, _content(spec, fitted.onnx)))
        return _graph_answer(spec, folder)
    if fitted.loader is not None:
        write_json(folder / LOADER, {"loader": _loader_name(spec, fitted.loader)})
        return _own_answer(spec, folder, fitted.loader)
    # A search answers with the estimator that it found; no server needs its folds, and the function of its scores.
    estimator = getattr(fitted.estimator, "best_estimator_", fitted.estimator)
    write_whole(folder / SKOPS, _skops(spec, estimator))
    return lambda table: _method(spec, estimator)(encode_table(table, spec.served_features, spec.input))


def _refuse_files_without_a_reader(spec: ModelSpec, fitted: Fitted) -> None:
    if fitted.loader is not None and not spec.service.trusted_code:
        raise ModelworksError(
            f"{spec.service.where}: train returned a loader, code of yours that the server must run",
            fix="State it: Service(trusted_code=True). Digest and signature of the bundle cover the code.",
        )
    if fitted.artifacts and fitted.loader is None and not spec.service.code:
        raise ModelworksError(
            f"{spec.where}: train returned the files {', '.join(fitted.artifacts)}, and nothing reads them",
            fix="Return Fitted(artifacts={...}, loader=...), or answer with a service of your own (Service(code=...)).",
        )


def _content(spec: ModelSpec, content: bytes | Path | str) -> bytes:
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    path = spec.folder / content
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelworksError(
            f"{spec.where}: train returned the file {content}, which cannot be read: {error.strerror}",
            fix="Return its bytes, or a path in the folder of model.py.",
        ) from error


# -- Estimators ------------------------------------------------------------------------------------------------------
def _method(spec: ModelSpec, estimator: Any) -> Callable[[Any], Any]:
    """The method that an estimator answers by.

    Raises:
        ModelworksError: It has no such method, or other classes.
    """
    name = "predict" if spec.kind == "regression" else "predict_proba"
    if not hasattr(estimator, name):
        raise ModelworksError(
            f"{spec.where}: train returned {type(estimator).__name__}, which has no {name}",
            fix="A classifier gets one from sklearn.calibration.CalibratedClassifierCV. A model that is no estimator "
            "is files and a function that reads them: Fitted(artifacts={...}, loader=...).",
        )
    found = getattr(estimator, "classes_", None)
    if spec.kind != "regression" and found is not None:
        _require_class_order(spec, np.asarray(found).tolist())
    return getattr(estimator, name)  # type: ignore[no-any-return]


def _require_class_order(spec: ModelSpec, found: list[Any]) -> None:
    """Require the columns of an estimator's probabilities to be in the order of the spec's classes."""
    if found != list(range(len(spec.classes))):
        raise ModelworksError(
            f"{spec.where}: the estimator's classes_ are {found}; targets arrive in train as "
            f"positions in classes, 0 to {len(spec.classes) - 1}, and its probabilities must be in that order",
            fix="Fit it on data.y as it is, without labels of your own; the server answers with the spec's classes.",
        )


def _skops(spec: ModelSpec, estimator: Any) -> bytes:
    import skops.io  # brings scikit-learn

    _method(spec, estimator)
    try:
        content = canonical_skops(skops.io.dumps(estimator))
    except Exception as error:
        raise ModelworksError(
            f"{spec.where}: {spec.name} cannot be kept without pickle: {error}",
            fix="Name its functions: a lambda has no name to be found by. Where a library has only its own format, "
            "keep its files: Fitted(artifacts={...}, loader=...).",
        ) from error
    trusted_types(content, spec.service, spec.package)
    return content


# -- Graphs ----------------------------------------------------------------------------------------------------------
def graph_of(spec: ModelSpec, graph: bytes) -> of.Onnx:
    """How a graph made elsewhere is fed, and which of its outputs is the answer.

    Raises:
        ModelworksError: It cannot be loaded, or takes or gives something else than the spec states.
    """
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelworksError(f"{spec.where}: ONNX Runtime does not load the graph: {error}") from error
    names, inputs = spec.feature_names, session.get_inputs()
    outputs = [each.name for each in session.get_outputs() if each.type in {"tensor(float)", "tensor(double)"}]
    fed = {each.name: each for each in inputs}
    if len(inputs) == 1 and inputs[0].type in _NUMBERS and (len(names) == 1 or inputs[0].name not in names):
        fits = inputs[0].shape[-1] in (len(names), None) or isinstance(inputs[0].shape[-1], str)
        columns = {inputs[0].name: names} if fits and len(inputs[0].shape) == 2 else {}
    else:
        columns = {name: (name,) for name in names} if fed.keys() == set(names) else {}
    if not columns or not outputs:
        shapes = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise ModelworksError(
            f"{spec.where}: the graph has the inputs {shapes} and the outputs of numbers {outputs}; the spec has the "
            f"features {', '.join(names)}",
            fix=f"Export it with one input [rows, {len(names)}], or with an input [rows, 1] for each feature, called "
            "after it. Where it needs more around it, call it from code of yours: Fitted(artifacts={...}, loader=...).",
        )
    dtypes = {name: "string" if fed[name].type == "tensor(string)" else _NUMBERS[fed[name].type] for name in columns}
    return of.Onnx(
        path="model.onnx",
        sha256=digest_of(graph).hex,
        inputs=tuple(of.OnnxInput(name=name, columns=columns[name], dtype=dtypes[name]) for name in columns),  # type: ignore[arg-type]
        output=outputs[0],
    )


def _graph_answer(spec: ModelSpec, folder: Path) -> Answer:
    graph = (folder / GRAPH).read_bytes()
    infer = onnx_engine(graph, graph_of(spec, graph), spec.served_features)
    return lambda table: np.concatenate([np.asarray(infer(rows)) for rows in chunks(table, spec.served_features)])


def _with_both_classes(spec: ModelSpec, graph: bytes) -> bytes:
    """A graph with probabilities of both classes, where it has only those of the positive one."""
    if spec.kind != "binary":
        return graph
    output = graph_of(spec, graph).output
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    [found] = [each for each in model.graph.output if each.name == output]
    shape = found.type.tensor_type.shape.dim
    if len(shape) == 2 and shape[1].dim_value == 2:
        return graph
    if len(shape) == 2 and shape[1].dim_value != 1:
        raise ModelworksError(
            f"{spec.where}: the graph's output {output!r} has {shape[1].dim_value or 'unstated'} columns; a "
            "binary model answers the probabilities of both classes, [rows, 2], or of the positive one, [rows, 1]",
        )
    kind = found.type.tensor_type.elem_type
    prefix = f"{output}_of_both_classes"
    one = numpy_helper.from_array(np.array(1, dtype=helper.tensor_dtype_to_np_dtype(kind)), f"{prefix}_one")
    column = numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), f"{prefix}_column")
    model.graph.initializer.extend([one, column])
    model.graph.node.extend(
        [
            helper.make_node("Reshape", [output, column.name], [f"{prefix}_positive"]),
            helper.make_node("Sub", [one.name, f"{prefix}_positive"], [f"{prefix}_negative"]),
            helper.make_node("Concat", [f"{prefix}_negative", f"{prefix}_positive"], [prefix], axis=1),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(prefix, kind or TensorProto.FLOAT, [None, 2]))
    return bytes(model.SerializeToString(deterministic=True))


# -- Code of the project ---------------------------------------------------------------------------------------------
def _loader_name(spec: ModelSpec, loader: Any) -> str:
    module, name = getattr(loader, "__module__", ""), getattr(loader, "__qualname__", "")
    below = module.removeprefix(f"{spec.package}.")
    if not spec.package or below == module or not name.isidentifier():
        raise ModelworksError(
            f"{spec.where}: the loader {name or loader!r} is not a function of a file beside model.py, and model.py "
            "itself is not in the bundle",
            fix="Move it into a file of its own, such as serving.py, and `from .serving import ...`.",
        )
    return f"{below}:{name}"


def _own_answer(spec: ModelSpec, folder: Path, loader: Callable[[Path], Any]) -> Answer:
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    try:
        answer = answers_of(loader(folder / ARTIFACTS), spec.kind)
    except ModelworksError:
        raise
    except (Exception, SystemExit) as error:
        raise project_error(error, spec.folder, "is loaded") from error
    return lambda table: answer(encode_table(table, spec.served_features, spec.input))


def loader_of(folder: Path) -> str:
    """The function that reads the artifacts of a run, as `module:function`; empty where there is none."""
    path = folder / LOADER
    try:
        return str(read_json(path)["loader"]) if path.is_file() else ""
    except (json.JSONDecodeError, KeyError) as error:
        raise ModelworksError(f"{path} was changed", fix="Train again.") from error


def artifacts_of(folder: Path) -> dict[str, Path]:
    """The files that train returned, by the path that they have below `src/` of a bundle."""
    found = folder / ARTIFACTS
    return {path.relative_to(folder).as_posix(): path for path in sorted(found.rglob("*")) if path.is_file()}
