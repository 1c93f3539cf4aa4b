"""A small, real bundle: trees on 15 features, trained in a second, as ONNX and as skops."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelworks.runtime.manifest import Feature, Manifest, Onnx, OnnxInput, Parity, Skops, encode

FEATURES = 15
CARRIERS = ("AA", "B6", "DL", "UA")


@dataclass(frozen=True)
class Example:
    """A built bundle and the model it was made of."""

    archive: Path
    digest: str
    manifest: Manifest
    model: Any
    columns: tuple[str, ...]

    def matrix(self, rows: list[dict[str, Any]]) -> Any:
        """Rows as the estimator takes them."""
        return np.array(
            [
                [CARRIERS.index(row[name]) if name == "carrier" else row.get(name) for name in self.columns]
                for row in rows
            ],
            dtype=np.float64,
        )


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Valid rows, with some missing values."""
    random = np.random.default_rng(seed)
    made = []
    for values, carrier in zip(random.normal(size=(count, FEATURES - 1)), random.integers(0, 4, count), strict=True):
        row: dict[str, Any] = {f"x{index}": float(np.float32(value)) for index, value in enumerate(values)}
        row["carrier"] = CARRIERS[carrier]
        if random.random() < 0.2:
            row["x1"] = None
        made.append(row)
    return made


def build(folder: Path, *, onnx: bool = True, trees: int = 50, model: str = "delays", **changes: Any) -> Example:
    """Train, convert, and pack a Bento-shaped archive with a manifest."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    columns = (*(f"x{index}" for index in range(FEATURES - 1)), "carrier")
    features = (
        *(
            Feature(name=name, type="number", nullable=name == "x1", minimum=-100, maximum=100, private=name == "x2")
            for name in columns[:-1]
        ),
        Feature(name="carrier", type="string", categories=CARRIERS, description="Who flies"),
    )
    draft = Example(Path(), "", None, None, columns)  # type: ignore[arg-type]
    table = draft.matrix(rows(4000, seed=1))
    target = (np.nan_to_num(table).sum(axis=1) + table[:, 14] > 2).astype(int)
    # Threads that wait for each other take minutes where other tests keep the cores busy.
    with threadpool_limits(1, user_api="openmp"):
        estimator = HistGradientBoostingClassifier(max_iter=trees, random_state=0).fit(table, target)
    files: dict[str, bytes] = {"src/card.md": b"# A card\n"}
    onnx_part = skops_part = parity = None
    if onnx:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        graph = to_onnx(
            estimator,
            initial_types=[("X", FloatTensorType([None, FEATURES]))],
            options={id(estimator): {"zipmap": False}},
            target_opset=17,
        ).SerializeToString()
        files["src/model.onnx"] = graph
        onnx_part = Onnx(
            path="model.onnx",
            sha256=hashlib.sha256(graph).hexdigest(),
            inputs=(OnnxInput(name="X", columns=columns),),
            output="probabilities",
        )
        parity = Parity(rows=4000, different_labels=0, max_difference=1e-6, tolerance=1e-5)
    else:
        import skops.io

        weights = skops.io.dumps(estimator)
        files["src/model.skops"] = weights
        skops_part = Skops(
            path="model.skops",
            sha256=hashlib.sha256(weights).hexdigest(),
            columns=columns,
            trusted=tuple(skops.io.get_untrusted_types(data=weights)),
        )
    settings: dict[str, Any] = {
        "model": model,
        "kind": "binary",
        "task": "Will this flight be late?",
        "features": features,
        "examples": tuple(rows(3, seed=7)),
        "classes": ("on time", "late"),
        "onnx": onnx_part,
        "skops": skops_part,
        "parity": parity,
        **changes,
    }
    manifest = Manifest(**settings)
    files["src/modelworks.json"] = encode(manifest)
    files["bento.yaml"] = b"service: standard\n"
    archive = folder / f"{model}.bento"
    pack(archive, files)
    return Example(archive, "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest(), manifest, estimator, columns)


def pack(archive: Path, files: dict[str, bytes]) -> None:
    """A gzipped tar of these files."""
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def repack(example: Example, graph: bytes, artifact: Onnx) -> Example:
    """The same bundle with another graph: what a bad release is made of."""
    manifest = msgspec.structs.replace(example.manifest, onnx=artifact)
    pack(
        example.archive,
        {
            "src/card.md": b"# A card\n",
            "src/model.onnx": graph,
            "src/modelworks.json": encode(manifest),
            "bento.yaml": b"service: standard\n",
        },
    )
    digest = "sha256:" + hashlib.sha256(example.archive.read_bytes()).hexdigest()
    return replace(example, digest=digest, manifest=manifest)
