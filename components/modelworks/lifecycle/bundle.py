"""Bundles: a run as a Bento that is the same bytes wherever it is built, and its signature."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks._files import digest_of_file, read_json, write_whole
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.child_process import Progress, work
from modelworks.lifecycle.provenance import builder_digest
from modelworks.lifecycle.runs import Home, TrainedModel
from modelworks.lifecycle.signing import read_key
from modelworks.runtime import bundle as runtime_bundle
from modelworks.runtime import signature
from modelworks.runtime.signature import SigningKey

if TYPE_CHECKING:
    from modelworks.runtime.manifest import Manifest


@dataclass(frozen=True)
class Bundle:
    """A built bundle."""

    model: str
    path: Path
    """The `.bento` file."""
    digest: Digest
    """`sha256:…` of its bytes: the release."""
    size: int
    """Bytes."""
    served: str
    """Which engine answers: `onnx`, `skops`, `own` or `custom`."""
    parity: dict[str, Any]
    """The proof that ONNX answers as scikit-learn does, or why there is none."""

    @property
    def signature(self) -> Path:
        """Where the detached signature lies, if there is one."""
        return self.path.with_name(self.path.name + ".sig")


def build_bundle(run: TrainedModel, home: Home, progress: Progress | None = None) -> Bundle:
    """Build the bundle of a run from what it keeps; one that is there, whole and made by the same code is kept.

    Raises:
        ModelworksError: The run was changed, the installed packages are not its own, or the model cannot be bundled.
    """
    builder = builder_digest()
    if kept := _kept(run, builder):
        if progress:
            progress("build the Bento", "kept", 0.0)
        return kept
    job = {"verb": "bundle", "folder": str(run.folder), "inputs": run.inputs, "builder": builder}
    work(run.project(), run.model, home, job, progress)
    return open_built(run)


def _kept(run: TrainedModel, builder: str) -> Bundle | None:
    """The bundle of a run, if code with this digest built it and nobody changed it since."""
    try:
        built = open_built(run)
    except ModelworksError:
        return None
    return built if read_json(run.folder / "bundle.json").get("builder") == builder else None


def open_built(run: TrainedModel) -> Bundle:
    """The bundle that was built of a run, verified.

    Raises:
        ModelworksError: There is none, or its bytes changed.
    """
    if not (run.folder / "bundle.json").is_file():
        raise ModelworksError(
            f"the run {run.run} of {run.model} has no bundle", fix=f"Run `modelworks bundle {run.model}`."
        )
    facts = read_json(run.folder / "bundle.json")
    path = run.folder / "bundle" / facts["file"]
    if not path.is_file() or digest_of_file(path) != facts["digest"]:
        raise ModelworksError(f"{path} is missing or was changed", fix=f"Run `modelworks bundle {run.model}`.")
    return Bundle(facts["model"], path, Digest(facts["digest"]), facts["bytes"], facts["served"], facts["parity"])


def verify_bundle(path: Path, digest: Digest, model: str, trusted_keys: Path | None = None) -> Manifest:
    """Verify that a bundle is the one of a release: bytes, signature if required, manifest, and no file beside its own.

    Raises:
        ModelworksError: It is not; nothing in it was loaded.
    """
    with tempfile.TemporaryDirectory(prefix="modelworks-verify-") as scratch:
        return runtime_bundle.open_bundle(path, digest, model, Path(scratch) / "bento", trusted_keys=trusted_keys)


def sign(bundle: Bundle, key: SigningKey | Path) -> Path:
    """Sign a bundle, and write the signature beside it.

    Args:
        bundle: The bundle.
        key: The key, or the file of one: see `signing`.

    Raises:
        ModelworksError: The key cannot be read, or does not sign bundles.
    """
    made = signature.sign(bundle.model, bundle.digest, read_key(key) if isinstance(key, Path) else key)
    write_whole(bundle.signature, made)
    return bundle.signature
