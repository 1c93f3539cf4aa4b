"""The Bento of a bundle: its files, built by BentoML so that its bytes depend on nothing else."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from modelworks._files import digest_of, digest_of_facts
from modelworks.errors import ModelworksError
from modelworks.lifecycle.fitted import SKOPS
from modelworks.lifecycle.lockfile import PYTHON
from modelworks.lifecycle.model_card import model_card
from modelworks.lifecycle.provenance import SERVICE
from modelworks.runtime import manifest as of
from modelworks.runtime.server.custom_service import read_facts

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import ModelSpec


def fill(
    source: Path,
    spec: ModelSpec,
    folder: Path,
    manifest: of.Manifest,
    requirements: str,
    files: dict[str, Path],
) -> None:
    """Write what the Bento is built from."""
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


def build_bento(spec: ModelSpec, source: Path, store: Path) -> Path:
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
