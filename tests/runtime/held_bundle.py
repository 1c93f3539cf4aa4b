"""A real bundle whose model waits, whenever the test wants it to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from modelworks.runtime.manifest import encode
from runtime.example_bundle import Example, pack
from runtime.own_bundle import manifest_of

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
    files = {"project/held.py": MODEL, "artifacts/gate": str(gate).encode()}
    manifest = manifest_of(files, "held:load")
    content = {f"src/{name}": data for name, data in files.items()}
    archive = folder / "held.bento"
    pack(archive, {**content, "src/modelworks.json": encode(manifest), "bento.yaml": b"service: standard\n"})
    digest = "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    return Example(archive, digest, manifest, None, ("x",))
