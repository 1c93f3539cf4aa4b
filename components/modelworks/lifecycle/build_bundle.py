"""From a run to a bundle: ONNX where it is proven equal, a model card, and a Bento whose bytes depend on nothing else.

Runs in the child process; `modelworks.lifecycle.bundle` is the door.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest.mock import patch

import msgspec
import numpy as np

from modelworks._files import digest_of, digest_of_facts, digest_of_file, read_json, write_json, write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle import scores
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.edge_cases import EdgeCase, dependence, edge_cases
from modelworks.lifecycle.fitted import GRAPH, SKOPS, artifacts_of, graph_of, loader_of
from modelworks.lifecycle.lockfile import PYTHON, refuse_other_imports
from modelworks.lifecycle.model_card import model_card
from modelworks.lifecycle.model_project import module_files
from modelworks.lifecycle.provenance import SERVICE
from modelworks.lifecycle.rows import rows_of
from modelworks.lifecycle.splits import hold_out
from modelworks.lifecycle.stored_features import stored_of
from modelworks.lifecycle.trust import load_estimator, trusted_types
from modelworks.runtime import manifest as of
from modelworks.runtime.contents import refuse_other_files
from modelworks.runtime.encoding import Row, column_dtype
from modelworks.runtime.predictor import ARTIFACTS, Infer, onnx_engine, own_engine, skops_engine
from modelworks.runtime.project_code import FOLDER, is_of
from modelworks.runtime.server.custom_service import read_facts

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec

Step = Callable[[str], AbstractContextManager[None]]

OPSET = 21
"""ONNX operator set: what ONNX Runtime 1.20 and later run."""
ONNX_DOMAIN_ML = 3
Precision = Literal["float64", "float32"]

PARITY_ROWS = 100_000
"""Most hold-out rows over which the two engines are compared."""
ROUNDING = 1e-6
"""Largest difference, relative to the largest answer, that comes of adding the same numbers in another order."""
EXAMPLES = 3
"""Example rows in the manifest, the spec's own first."""


def build(
    spec: ModelSpec,
    folder: Path,
    frame: pd.DataFrame,
    parts: dict[str, np.ndarray],
    step: Step,
    *,
    requirements: str,
    packages: dict[str, str],
    builder: str,
) -> dict[str, Any]:
    """Build the bundle of the run in `folder` and return its path.

    Args:
        spec: The model.
        folder: The run's.
        frame: Its rows.
        parts: How they were split.
        step: Opens a step of the work.
        requirements: Packages that the bundle is served with, as pip reads them.
        packages: Those of them that the server imports, and their versions.
        builder: Digest of the code that builds it, kept beside the bundle.
    """
    holdout = frame.iloc[parts["holdout"]]
    rows = _compared_rows(spec, holdout)
    edges = [] if spec.service.code else edge_cases(spec.served_features, rows[0])
    with step("try the edges of the schema"):
        model, infer = _model(spec, folder)
        if infer:
            model = _tried(spec, model, infer, rows, edges)
    with step("convert to ONNX"):
        onnx, parity = _onnx(spec, folder, model, infer, [*rows, *(edge.row for edge in edges)])
    with step("build the Bento"), tempfile.TemporaryDirectory(prefix="modelworks-bento-") as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        files = _files(spec, folder)
        rule = hold_out(spec, frame, parts)
        manifest = _manifest(spec, holdout, model, onnx, parity, rule, files, packages)
        _fill(source, spec, folder, manifest, requirements, files)
        bento = _bento(spec, source, Path(scratch) / "store")
        refuse_other_files(bento, manifest)
        if manifest.code:
            _refuse_incomplete_code(spec, bento)
        archive = pack(bento)
    return _kept(spec, folder, archive, manifest, requirements=requirements, builder=builder)


def _compared_rows(spec: ModelSpec, holdout: pd.DataFrame) -> list[Row]:
    """Rows over which the two engines are compared, evenly spread over the hold-out."""
    positions = np.unique(np.linspace(0, len(holdout) - 1, min(PARITY_ROWS, len(holdout))).astype(int))
    return rows_of(holdout.iloc[positions], spec.served_features)


def _kept(
    spec: ModelSpec, folder: Path, archive: bytes, manifest: of.Manifest, *, requirements: str, builder: str
) -> dict[str, Any]:
    """Write a bundle and its facts into the folder of its run; returns the facts."""
    digest = digest_of(archive)
    path = folder / "bundle" / f"{digest.hex}.bento"
    write_whole(path, archive)
    facts = {
        "model": spec.name, "digest": digest, "file": path.name, "bytes": len(archive), "served": manifest.served,
        "parity": read_json(folder / "parity.json"), "requirements": digest_of(requirements.encode()),
        "builder": builder,
    }  # fmt: skip
    write_json(folder / "bundle.json", facts)
    return facts


# -- The engines -----------------------------------------------------------------------------------------------------
_Model = of.Skops | of.Onnx | of.Own


def _model(spec: ModelSpec, folder: Path) -> tuple[_Model, Infer | None]:
    """The model that train returned and how it answers; no answer where a custom service does."""
    features, names, service = spec.served_features, spec.feature_names, spec.service
    if loader := loader_of(folder):
        own = of.Own(loader=loader, columns=names, input=spec.input)
        return own, own_engine(folder / ARTIFACTS, own, features, spec.kind, spec.package)
    if (folder / GRAPH).is_file():
        content = (folder / GRAPH).read_bytes()
        graph = graph_of(spec, content)
        return graph, None if service.code else onnx_engine(content, graph, features)
    content = (folder / SKOPS).read_bytes()
    trusted = tuple(trusted_types(content, service, spec.package))
    skops = of.Skops(path=SKOPS, sha256=digest_of(content).hex, columns=names, trusted=trusted, input=spec.input)
    return skops, None if service.code else skops_engine(content, skops, features, spec.kind, spec.package)


def _tried(spec: ModelSpec, model: _Model, infer: Infer, rows: list[Row], edges: list[EdgeCase]) -> _Model:
    """The model, known to answer what the schema admits, and whether rows may be answered together.

    Raises:
        ModelworksError: It does not answer a row that its features allow, or its answer depends on other rows.
    """
    _refuse_edges(spec, infer, edges)
    asked = [*(edge.row for edge in edges), *rows][: spec.service.max_rows]
    depends = dependence(infer, asked)
    if depends > ROUNDING:
        raise ModelworksError(
            f"{spec.where}: the answer of {spec.name} to a row depends on the rows beside it, by {depends:.1e}",
            fix="Every step must treat each row by itself; what needs many rows belongs into train.",
        )
    return msgspec.structs.replace(model, together=depends == 0)


def _refuse_edges(spec: ModelSpec, infer: Infer, edges: list[EdgeCase]) -> None:
    for edge in edges:
        try:
            scores.validate(spec, np.asarray(infer([edge.row]), dtype="float64"), 1)
        except Exception as error:
            what = f"feature {edge.feature!r} at {edge.edge}" if edge.feature else edge.edge
            raise ModelworksError(
                f"{spec.where}: {spec.name} does not answer a row that its features allow: {what}: {error}",
                fix="Have the pipeline take it, or state what is allowed: nullable, minimum and maximum, categories, "
                "max_length.",
            ) from error


def _onnx(
    spec: ModelSpec, folder: Path, model: _Model, infer: Infer | None, asked: list[Row]
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


# -- The Bento -------------------------------------------------------------------------------------------------------
def _manifest(
    spec: ModelSpec,
    holdout: pd.DataFrame,
    model: _Model,
    onnx: of.Onnx | None,
    parity: of.Parity | None,
    rule: of.HoldOut,
    files: dict[str, Path],
    packages: dict[str, str],
) -> of.Manifest:
    stored = stored_of(spec)
    digests = {name: digest_of_file(path).hex for name, path in files.items()}
    code = {name: digest for name, digest in digests.items() if name.startswith(f"{FOLDER}/")}
    return of.Manifest(
        model=spec.name, kind=spec.kind, task=spec.description, owner=spec.owner, classes=spec.classes,
        features=spec.served_features, examples=_examples(spec, holdout, stored), stored=stored,
        threshold=spec.service.threshold, unit=spec.unit, service="custom" if spec.service.code else "standard",
        onnx=onnx, skops=model if isinstance(model, of.Skops) else None,
        own=model if isinstance(model, of.Own) else None,
        code=of.Code(package=spec.package, files=code) if code else None,
        files={name: digest for name, digest in digests.items() if name not in code},
        parity=parity, holdout=rule, latency_objective_ms=spec.service.latency_objective_ms,
        max_rows=spec.service.max_rows, card="card.md", packages=packages,
    )  # fmt: skip


def _examples(spec: ModelSpec, holdout: pd.DataFrame, stored: of.Stored | None) -> tuple[dict[str, Any], ...]:
    """The spec's own example when every feature has one, then rows of the hold-out without what is private."""
    features = of.request_features(spec.served_features, stored) if stored else spec.served_features
    stated = {feature.name: feature.example for feature in features}
    examples = [stated] if all(value is not None for value in stated.values()) else []
    shared = not any(feature.private for feature in features)
    if shared or not examples:
        positions = np.linspace(0, len(holdout) - 1, EXAMPLES).astype(int)
        rows = rows_of(holdout.iloc[positions], features)
        names = [feature.name for feature in features]
        examples += [dict(zip(names, map(_readable, row), strict=True)) for row in rows]
    return tuple(examples[:EXAMPLES])


def _readable(value: Any) -> Any:
    """A value as people write it: a float32 of the data in the digits that it has."""
    return float(str(np.float32(value))) if isinstance(value, float) and np.float32(value) == value else value


def _files(spec: ModelSpec, folder: Path) -> dict[str, Path]:
    """Files beside the model, by their path below `src/`: its artifacts, and code of the project with what that reads.

    Raises:
        ModelworksError: The code imports what is not in the bundle.
    """
    service = spec.service
    found = artifacts_of(folder)
    if service.code:
        return found | {name: spec.folder / name for name in service.files}
    if not service.trusted_code:
        return found
    modules = [loader.partition(":")[0]] if (loader := loader_of(folder)) else _modules_of(spec, folder)
    stored = stored_of(spec)
    modules += [view.function.partition(":")[0] for view in (stored.on_demand if stored else ())]
    code = module_files(spec.folder, modules)
    refuse_other_imports(spec, code)
    names = [*(path.relative_to(spec.folder).as_posix() for path in code), *service.files]
    return found | {f"{FOLDER}/{name}": spec.folder / name for name in names}


def _modules_of(spec: ModelSpec, folder: Path) -> list[str]:
    """The project's modules whose functions and classes a model holds."""
    if not (folder / SKOPS).is_file():
        return []
    types = trusted_types((folder / SKOPS).read_bytes(), spec.service, spec.package)
    below = [each.removeprefix(f"{spec.package}.") for each in types if is_of(spec.package, each)]
    return sorted({name.rpartition(".")[0] for name in below})


def _refuse_incomplete_code(spec: ModelSpec, bento: Path) -> None:
    """Load the model where nothing of the project is but the bundle, as a server does.

    Raises:
        ModelworksError: It does not load there.
    """
    load = (
        "import sys; from pathlib import Path; from modelworks.errors import ModelworksError\n"
        "from modelworks.runtime.bento import read_manifest; from modelworks.runtime.predictor import Predictor\n"
        "try: Predictor(Path(sys.argv[1]), read_manifest(Path(sys.argv[1])))\n"
        "except ModelworksError as error: sys.exit('\\n'.join(filter(None, [error.message, error.fix])))"
    )
    with tempfile.TemporaryDirectory(prefix="modelworks-load-") as elsewhere:
        argv = [sys.executable, "-P", "-c", load, str(bento)]
        done = subprocess.run(argv, cwd=elsewhere, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        message, _, fix = done.stderr.strip().partition("\n")
        raise ModelworksError(f"{spec.service.where}: the bundle does not load by itself: {message}", fix=fix)


def _fill(
    source: Path,
    spec: ModelSpec,
    folder: Path,
    manifest: of.Manifest,
    requirements: str,
    files: dict[str, Path],
) -> None:
    for name, path in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, source / name)
    (source / "modelworks.json").write_bytes(of.encode(manifest))
    (source / "requirements.txt").write_text(requirements, encoding="utf-8")
    card = model_card(spec, folder, manifest)
    (source / "card.md").write_text(card, encoding="utf-8")
    if manifest.skops:
        shutil.copyfile(folder / SKOPS, source / SKOPS)
    if manifest.onnx:
        shutil.copyfile(folder / "model.onnx", source / "model.onnx")
    service = spec.folder / spec.service.code if spec.service.code else Path(__file__).with_name("bento_service.py")
    if not service.is_file():
        raise ModelworksError(f"{spec.service.where}: there is no {service}", fix="Name a file beside model.py.")
    shutil.copyfile(service, source / "service.py")
    if not spec.service.code:
        _copy_runtime(source / "modelworks")


def _copy_runtime(package: Path) -> None:
    """Copy the modules of modelworks that the standard service imports."""
    for name in SERVICE:
        file = package / name
        file.parent.mkdir(exist_ok=True, parents=True)
        shutil.copyfile(Path(__file__).parents[1] / name, file)
    for folder in (package, package / "runtime"):
        (folder / "__init__.py").write_text("", encoding="utf-8")


def _bento(spec: ModelSpec, source: Path, store: Path) -> Path:
    """Let BentoML build it, then take out what depends on the day and the machine."""
    store.mkdir()
    os.environ["BENTOML_HOME"] = str(store)
    import bentoml  # reads BENTOML_HOME when imported

    files = {path.relative_to(source).as_posix(): path for path in sorted(source.rglob("*")) if path.is_file()}
    version = digest_of_facts({name: digest_of(path.read_bytes()) for name, path in files.items()})[7:23]
    card = (source / "card.md").read_text(encoding="utf-8")
    # BentoML asks for the uv command even where there is nothing to lock.
    with patch("bentoml._internal.configuration.get_uv_command", return_value=["uv"]):
        built = bentoml.bentos.build(
            f"service:{_service_name(source / 'service.py')}",
            name=spec.name,
            version=version,
            build_ctx=str(source),
            include=[name for name in files if name != "requirements.txt"],
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
