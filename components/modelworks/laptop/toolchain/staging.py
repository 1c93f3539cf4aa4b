"""A module of this package with files of others beside it, copied at build time: the repository has only checksums.

A package may embed files that its module publishes under other names, or need a part of a module whose whole costs far
more to compile. Go refuses an overlay of its module cache, so the package is built from a copy.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain import golang

if TYPE_CHECKING:
    from modelworks.laptop.toolchain.golang import Build


def stage(order: Build) -> Path:
    """The folder that the tool of `order` is built in: that of its module, or a copy with the staged files in place.

    Raises:
        ModelworksError: A module cannot be fetched, is not what `go.sum` states, or lacks the files.
    """
    tool = order.tool
    if not tool.staged:
        return order.module
    folder = order.work / "staged" / tool.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(order.module, folder)
    sources = {
        module: golang.download(order, module, required_version(order.module, module))
        for module in dict.fromkeys(staged.module for staged in tool.staged)
    }
    for staged in tool.staged:
        found = list(sources[staged.module].glob(staged.files))
        if not found:
            raise ModelworksError(f"cannot build {tool.name}: {staged.module} has no {staged.files}")
        (folder / staged.into).mkdir(parents=True, exist_ok=True)
        for path in found:
            shutil.copyfile(path, folder / staged.into / path.name)  # without its mode: Go's cache is read-only
    return folder


def required_version(module: Path, path: str) -> str:
    """The version in which `go.mod` of the folder `module` requires the module `path`.

    Raises:
        ModelworksError: It does not.
    """
    text = (module / "go.mod").read_text(encoding="utf-8")
    match = re.search(rf"^\s*(?:require\s+)?{re.escape(path)} (v\S+)", text, re.MULTILINE)
    if match is None:
        raise ModelworksError(f"{module / 'go.mod'} does not require {path}")
    return match.group(1)
