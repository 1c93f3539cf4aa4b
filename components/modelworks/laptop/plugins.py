"""The provider plugins of a laptop cloud, where its engine looks for them: it starts each for one run and ends it.

None keeps a port open between runs. They are in the engine's home (`PULUMI_HOME`) under the versions of the SDKs that
are installed here, so nothing is downloaded, and nothing of the user's own is used or changed.
"""

from __future__ import annotations

import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop.state_dir import read_facts

if TYPE_CHECKING:
    from modelworks.laptop.state_dir import StateDir


def install(place: StateDir, kubernetes: Path | None) -> None:
    """Put the plugins in place.

    Args:
        place: The laptop cloud.
        kubernetes: The executable of the provider of Kubernetes; none where the place has no cluster.
    """
    for name in _names(kubernetes=kubernetes is not None):
        place.folder(_executable(place, name).parent)
    write_whole(_executable(place, "aws"), _stand_in(place), mode=0o755)
    if kubernetes is not None:
        _link(_executable(place, "kubernetes"), kubernetes)


def check(place: StateDir, environment: str) -> None:
    """Fail if the engine lacks a plugin of the installed SDKs, with a sentence that names the way out.

    Raises:
        ModelworksError: Another version of modelworks or of an SDK started the laptop cloud, or its tools are gone.
    """
    for name in _names(kubernetes=bool(read_facts(place.root / "laptop.json").get("kubernetes"))):
        if not _executable(place, name).exists():
            raise ModelworksError(
                f"the laptop cloud in {place.root} has no plugin {name} {_version(name)}: "
                "it was started with other versions, or its tools were removed",
                fix=f"Run `modelworks laptop up {environment}`.",
            )


def _names(*, kubernetes: bool) -> tuple[str, ...]:
    return ("aws", "kubernetes") if kubernetes else ("aws",)


def _executable(place: StateDir, name: str) -> Path:
    folder = place.root / "pulumi" / "plugins" / f"resource-{name}-v{_version(name)}"
    return folder / f"pulumi-resource-{name}"


def _version(name: str) -> str:
    return version(f"pulumi_{name}")


def _stand_in(place: StateDir) -> str:
    # -P: no module of the user's project may shadow one of these.
    argv = [sys.executable, "-P", "-m", "modelworks.laptop.providers", "--place", str(place.root)]
    return f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n'


def _link(path: Path, target: Path) -> None:
    """Have `path` be a link to `target`, unless `pulumi plugin install --reinstall` put the official one there."""
    if path.is_file() and not path.is_symlink():
        return
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(path)
