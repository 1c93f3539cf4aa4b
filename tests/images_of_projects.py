"""Folders of images, with a real lock of a package that no index has and no environment of ours."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from modelworks.laptop.toolchain import packages

UV = packages.uv()


def wheel(folder: Path, version: str) -> Path:
    """A wheel of the package `onlyhere`."""
    path = folder / f"onlyhere-{version}-py3-none-any.whl"
    info = f"onlyhere-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("onlyhere.py", f"VERSION = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: onlyhere\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def lock_only_here(folder: Path, version: str) -> None:
    """Have the folder of an image lock that version of `onlyhere`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = wheel(folder, version).name
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "own"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["onlyhere"]\n'
        f'[tool.uv.sources]\nonlyhere = {{ path = "{source}" }}\n'
    )
    subprocess.run([UV, "lock", "--quiet", "--offline"], cwd=folder, check=True)
