"""From a run to a bundle: ONNX where it is proven equal, a model card, and a Bento whose bytes depend on nothing else.

Runs in the child process; `modelworks.lifecycle.bundle` is the door.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from modelworks._files import digest_of, digest_of_facts, read_json, write_json, write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle import data, scores
from modelworks.lifecycle.archive import pack, refuse_pickles
from modelworks.lifecycle.lockfile import PYTHON
from modelworks.lifecycle.model_card import model_card
from modelworks.lifecycle.trust import load_estimator, trusted_types
from modelworks.runtime import manifest as of
from modelworks.runtime.server.custom_service import read_facts

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec

Step = Callable[[str], AbstractContextManager[None]]

OPSET = 21
"""ONNX operator set: what ONNX Runtime 1.20 and later run."""
ONNX_DOMAIN_ML = 3
EXAMPLES = 3
"""Example rows in the manifest, the spec's own first."""


def build(
    spec: ModelSpec, folder: Path, frame: pd.DataFrame, step: Step, *, requirements: str, builder: str
) -> dict[str, Any]:
    """Build the bundle of the run in `folder` and return its path.

    Args:
        spec: The model.
        folder: The run's.
        frame: Its rows.
        step: Opens a step of the work.
        requirements: Packages that the bundle is served with, as pip reads them.
        builder: Digest of the code that builds it, kept beside the bundle.
    """
    parts = data.split_rows(spec, frame)
    holdout = frame.iloc[parts["holdout"]]
    with step("convert to ONNX"):
        onnx, parity = _onnx(spec, folder, holdout)
    with step("build the Bento"), tempfile.TemporaryDirectory(prefix="modelworks-bento-") as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        manifest = _manifest(spec, folder, holdout, onnx, parity)
        _fill(source, spec, folder, manifest, requirements)
        bento = _bento(spec, source, Path(scratch) / "store")
        refuse_pickles(bento)
        archive = pack(bento)
    digest = digest_of(archive)
    path = folder / "bundle" / f"{digest.removeprefix('sha256:')}.bento"
    write_whole(path, archive)
    facts = {
        "model": spec.name, "digest": digest, "file": path.name, "bytes": len(archive), "served": manifest.served,
        "parity": read_json(folder / "parity.json"), "requirements": digest_of(requirements.encode()),
        "builder": builder,
    }  # fmt: skip
    write_json(folder / "bundle.json", facts)
    return facts


# -- ONNX ------------------------------------------------------------------------------------------------------------
def _onnx(spec: ModelSpec, folder: Path, holdout: pd.DataFrame) -> tuple[of.Onnx | None, of.Parity | None]:
    """The model as ONNX and the proof that it is the same; nothing, and the reason in `parity.json`, otherwise."""
    (folder / "model.onnx").unlink(missing_ok=True)
    if not spec.service.onnx or spec.service.code:
        reason = "its own service answers" if spec.service.code else "the spec does not request it"
        write_json(folder / "parity.json", {"onnx": False, "reason": reason})
        return None, None
    estimator = load_estimator(folder / "model.skops", spec.service.trusted)
    x = scores.encode(holdout, spec.features, spec.input)
    try:
        graph, inputs, output = _convert(spec, estimator)
        theirs = scores.validate(spec, run_onnx(graph, inputs, output, holdout, spec.features), len(holdout))
    except Exception as error:  # noqa: BLE001 - whatever a converter raises, the model is served by scikit-learn
        reason = f"it does not convert: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[
            :300
        ]
        write_json(folder / "parity.json", {"onnx": False, "reason": reason})
        return None, None
    ours = scores.predict(spec, estimator, x)
    parity, at = compare(spec, ours, theirs)
    proven = parity.different_labels == 0 and parity.max_difference <= parity.tolerance
    facts = {
        "onnx": proven, "rows": parity.rows, "different_labels": parity.different_labels,
        "max_difference": parity.max_difference, "tolerance": parity.tolerance, "worst_row": at,
        "reason": "" if proven else "its answers differ from scikit-learn's",
    }  # fmt: skip
    write_json(folder / "parity.json", facts)
    if not proven:
        return None, None
    write_whole(folder / "model.onnx", graph)
    sha = digest_of(graph).removeprefix("sha256:")
    return of.Onnx(path="model.onnx", sha256=sha, inputs=inputs, output=output), parity


def compare(spec: ModelSpec, ours: np.ndarray, theirs: np.ndarray) -> tuple[of.Parity, int]:
    """How the two engines differ over the same rows, and the row where they differ most.

    Probabilities are compared as they are, values relative to the size of the typical value.
    """
    scale = float(np.mean(np.abs(ours))) or 1.0 if spec.kind == "regression" else 1.0
    by_row = np.abs(ours - theirs).reshape(len(ours), -1).max(axis=1) / scale
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


def _convert(spec: ModelSpec, estimator: Any) -> tuple[bytes, tuple[of.OnnxInput, ...], str]:
    from skl2onnx import to_onnx  # it takes a second to import
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    if spec.input == "matrix":
        inputs: tuple[of.OnnxInput, ...] = (of.OnnxInput(name="rows", columns=spec.feature_names, dtype="float32"),)
    else:
        inputs = tuple(
            of.OnnxInput(name=each.name, columns=(each.name,), dtype="string" if each.type == "string" else "float32")
            for each in spec.features
        )
    types = [
        (each.name, (StringTensorType if each.dtype == "string" else FloatTensorType)([None, len(each.columns)]))
        for each in inputs
    ]
    options = {} if spec.kind == "regression" else {"zipmap": False}
    model = to_onnx(
        estimator, initial_types=types, options=options, target_opset={"": OPSET, "ai.onnx.ml": ONNX_DOMAIN_ML},
        name=spec.name,
    )  # fmt: skip
    model.graph.doc_string = model.doc_string = ""
    output = model.graph.output[0 if spec.kind == "regression" else 1].name
    return model.SerializeToString(deterministic=True), inputs, output


def run_onnx(
    graph: bytes, inputs: tuple[of.OnnxInput, ...], output: str, rows: pd.DataFrame, features: Sequence[Any]
) -> np.ndarray:
    """The ONNX graph's predictions for some rows."""
    import onnxruntime  # only where there is a graph

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for each in inputs:
        taken = [feature for feature in features if feature.name in each.columns]
        if each.dtype == "string":
            column = rows[each.columns[0]]
            feeds[each.name] = column.astype(object).where(column.notna(), each.missing).to_numpy(object).reshape(-1, 1)
        else:
            feeds[each.name] = np.asarray(scores.encode(rows, taken, "matrix"), dtype="float32")
    return np.asarray(session.run([output], feeds)[0])


# -- The Bento -------------------------------------------------------------------------------------------------------
def _manifest(
    spec: ModelSpec, folder: Path, holdout: pd.DataFrame, onnx: of.Onnx | None, parity: of.Parity | None
) -> of.Manifest:
    content = (folder / "model.skops").read_bytes()
    skops = of.Skops(
        path="model.skops", sha256=digest_of(content).removeprefix("sha256:"), columns=spec.feature_names,
        trusted=tuple(trusted_types(content, spec.service.trusted)), input=spec.input,
    )  # fmt: skip
    return of.Manifest(
        model=spec.name, kind=spec.kind, task=spec.description, owner=spec.owner, classes=spec.classes,
        features=tuple(_feature(each) for each in spec.features), examples=_examples(spec, holdout),
        threshold=spec.service.threshold, unit=spec.unit, service="custom" if spec.service.code else "standard",
        onnx=onnx, skops=skops, parity=parity, latency_objective_ms=spec.service.latency_objective_ms,
        max_rows=spec.service.max_rows, card="card.md",
    )  # fmt: skip


def _feature(feature: Any) -> of.Feature:
    names = (
        "name", "type", "description", "required", "nullable", "minimum", "maximum", "categories", "private", "unit",
        "example",
    )  # fmt: skip
    return of.Feature(**{name: getattr(feature, name) for name in names})


def _examples(spec: ModelSpec, holdout: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """The spec's own example when every feature has one, then rows of the hold-out without what is private."""
    stated = {feature.name: feature.example for feature in spec.features}
    examples = [stated] if all(value is not None for value in stated.values()) else []
    shared = not any(feature.private for feature in spec.features)
    if shared or not examples:
        for position in np.linspace(0, len(holdout) - 1, EXAMPLES).astype(int):
            row = holdout.iloc[position]
            examples.append({feature.name: request_value(row[feature.name], feature.type) for feature in spec.features})
    return tuple(examples[:EXAMPLES])


def request_value(value: Any, kind: str) -> Any:
    """A value of a table as a request carries it."""
    if value is None or value != value:  # noqa: PLR0124 - NaN differs from itself
        return None
    if kind == "string":
        return str(value)
    if kind == "boolean":
        return bool(value)
    return int(value) if kind == "integer" or float(value).is_integer() else float(np.float32(value).astype(str))


def _fill(source: Path, spec: ModelSpec, folder: Path, manifest: of.Manifest, requirements: str) -> None:
    (source / "modelworks.json").write_bytes(of.encode(manifest))
    (source / "requirements.txt").write_text(requirements, encoding="utf-8")
    card = model_card(spec, folder, manifest)
    (source / "card.md").write_text(card, encoding="utf-8")
    shutil.copyfile(folder / "model.skops", source / "model.skops")
    if manifest.onnx:
        shutil.copyfile(folder / "model.onnx", source / "model.onnx")
    service = spec.folder / spec.service.code if spec.service.code else Path(__file__).with_name("bento_service.py")
    if not service.is_file():
        raise ModelworksError(f"{spec.service.where}: there is no {service}", fix="Name a file beside model.py.")
    shutil.copyfile(service, source / "service.py")


def _bento(spec: ModelSpec, source: Path, store: Path) -> Path:
    """Let BentoML build it, then take out what depends on the day and the machine."""
    store.mkdir()
    os.environ["BENTOML_HOME"] = str(store)
    import bentoml  # reads BENTOML_HOME when imported

    version = digest_of_facts({path.name: digest_of(path.read_bytes()) for path in sorted(source.iterdir())})[7:23]
    card = (source / "card.md").read_text(encoding="utf-8")
    # BentoML asks for the uv command even where there is nothing to lock.
    with patch("bentoml._internal.configuration.get_uv_command", return_value=["uv"]):
        built = bentoml.bentos.build(
            f"service:{_service_name(source / 'service.py')}",
            name=spec.name,
            version=version,
            build_ctx=str(source),
            include=[path.name for path in sorted(source.iterdir()) if path.name != "requirements.txt"],
            python={"requirements_txt": "requirements.txt", "lock_packages": False},
            docker={"python_version": PYTHON},
            description=card,
        )
    bento = Path(built.path)
    if spec.service.code:
        read_facts(bento)  # refused here, and not when it is to be served
    _settle(bento, (source / "requirements.txt").read_text(encoding="utf-8"))
    return bento


def _service_name(file: Path) -> str:
    found = re.findall(r"@bentoml\.service(?:\(.*?\)|)\s*\nclass (\w+)", file.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise ModelworksError(
            f"{file.name} has no class with @bentoml.service", fix="Add one, or leave Service(code) empty."
        )
    return str(found[-1])


def _settle(bento: Path, requirements: str) -> None:
    import yaml  # BentoML's own

    facts = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
    facts["creation_time"] = "1980-01-01T00:00:00+00:00"
    # BentoML adds a line of its own without a hash, which an installer that demands hashes refuses.
    facts["image"]["python_requirements"] = requirements
    (bento / "bento.yaml").write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
    (bento / "env" / "python" / "requirements.txt").write_text(requirements, encoding="utf-8")
    (bento / "env" / "python" / "requirements.in").unlink(missing_ok=True)
    for cache in bento.rglob("__pycache__"):
        shutil.rmtree(cache)
