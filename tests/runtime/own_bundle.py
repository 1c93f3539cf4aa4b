"""The manifest of a bundle whose model is the project's own code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from modelworks.runtime.manifest import Code, Feature, Manifest, Own

PACKAGE = "modelworks_project_" + "0123456789abcdef"


def manifest_of(files: Mapping[str, bytes], loader: str, **more: Any) -> Manifest:
    """A manifest of these files, code below `project/` and others below `artifacts/`, and with `more`."""
    shas = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    facts = {
        "code": Code(package=PACKAGE, files={name: sha for name, sha in shas.items() if name.startswith("project/")}),
        "files": {name: sha for name, sha in shas.items() if name.startswith("artifacts/")},
        "own": Own(loader=loader, columns=("x",)),
        **more,
    }
    one = Feature(name="x", type="number")
    return Manifest(model="delays", kind="regression", task="t", features=(one,), examples=({"x": 1.0},), **facts)
