"""From a run to a bundle: ONNX where it is proven equal, a model card, and a Bento whose bytes depend on nothing else.

Runs in the child process; `modelworks.lifecycle.bundle` is the door.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelworks._files import digest_of, digest_of_file, read_json, write_json, write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle import scores
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.build_bento import build_bento, fill
from modelworks.lifecycle.edge_cases import ROUNDING, EdgeCase, dependence, edge_cases
from modelworks.lifecycle.fitted import GRAPH, SKOPS, artifacts_of, graph_of, loader_of
from modelworks.lifecycle.lockfile import refuse_other_imports
from modelworks.lifecycle.model_project import module_files
from modelworks.lifecycle.onnx_conversion import as_onnx
from modelworks.lifecycle.rows import rows_of
from modelworks.lifecycle.splits import hold_out
from modelworks.lifecycle.stored_features import stored_of
from modelworks.lifecycle.trust import trusted_types
from modelworks.runtime import manifest as of
from modelworks.runtime.contents import refuse_other_files
from modelworks.runtime.encoding import Row
from modelworks.runtime.predictor import ARTIFACTS, Infer, onnx_engine, own_engine, skops_engine
from modelworks.runtime.project_code import FOLDER, is_of

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec

Step = Callable[[str], AbstractContextManager[None]]

PARITY_ROWS = 100_000
"""Most hold-out rows over which the two engines are compared."""
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
        onnx, parity = as_onnx(spec, folder, model, infer, [*rows, *(edge.row for edge in edges)])
    with step("build the Bento"), tempfile.TemporaryDirectory(prefix="modelworks-bento-") as scratch:
        source = Path(scratch) / "source"
        source.mkdir()
        files = _files(spec, folder)
        rule = hold_out(spec, frame, parts)
        manifest = _manifest(spec, holdout, model, onnx, parity, rule, files, packages)
        fill(source, spec, folder, manifest, requirements, files)
        bento = build_bento(spec, source, Path(scratch) / "store")
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


# -- The model ---------------------------------------------------------------------------------------------------------
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


# -- Its contents ------------------------------------------------------------------------------------------------------
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
