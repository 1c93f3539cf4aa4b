"""A real bundle whose model waits, whenever the test wants it to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from modelworks.runtime.manifest import Code, Feature, Manifest, Own, encode
from runtime.example_bundle import Example, pack

MODEL = b"""
import time
from pathlib import Path


def load(folder):
    gate = Path((folder / "gate").read_text())

    def answer(x):
        time.sleep(0.02)  # shorter calls are made in the event loop, which would wait too
        if gate.exists():
            gate.read_bytes()
        return x[:, 0]

    return answer
"""


def build(folder: Path, gate: Path) -> Example:
    """Pack it: while there is a FIFO at `gate`, each call of the model waits until that was opened and closed."""
    code, files = {"project/held.py": MODEL}, {"artifacts/gate": str(gate).encode()}
    manifest = Manifest(
        model="delays",
        kind="regression",
        task="How late will this flight be?",
        features=(Feature(name="x", type="number"),),
        examples=({"x": 1.0},),
        code=Code(package="modelworks_project_" + "0123456789abcdef", files=_digests(code)),
        files=_digests(files),
        own=Own(loader="held:load", columns=("x",)),
    )
    content = {f"src/{name}": data for name, data in {**code, **files}.items()}
    archive = folder / "held.bento"
    pack(archive, {**content, "src/modelworks.json": encode(manifest), "bento.yaml": b"service: standard\n"})
    digest = "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    return Example(archive, digest, manifest, None, ("x",))


def _digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
