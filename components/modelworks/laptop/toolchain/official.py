"""The official Pulumi command line, by the SDK's own installer, where the network allows."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelworks.laptop.toolchain.progress import Report, Step
from modelworks.laptop.toolchain.tools import version_of

if TYPE_CHECKING:
    from modelworks.laptop.toolchain.tools import Tool

_ADDRESS: Final = "https://get.pulumi.com/install.sh"
_KNOCK: Final = 4.0
_BOUND: Final = 180
"""Seconds: for one look whether the installer can be reached, and for the whole installation."""

_INSTALL: Final = (
    "import sys; from semver import VersionInfo; from pulumi.automation import PulumiCommand; "
    "PulumiCommand.install(root=sys.argv[1], version=VersionInfo.parse(sys.argv[2]))"
)


def installed(cache: Path, tool: Tool) -> Path | None:
    """The executable that the installer left, if it is there with its Python host."""
    folder = cache / tool.name / f"{tool.version}-official"
    path = folder / "bin" / tool.name
    there = (folder / "complete").exists() and all(
        (path.parent / name).exists() for name in (tool.name, *tool.companions)
    )
    return path if there else None


def install(cache: Path, tool: Tool, report: Report) -> Path | None:
    """Install it. None where the installer cannot be reached or does not finish in three minutes, which is told."""
    try:
        with urllib.request.urlopen(_ADDRESS, timeout=_KNOCK):
            pass
    except (OSError, urllib.error.URLError):
        report(Step(tool.name, "note", "get.pulumi.com cannot be reached, so it is built from source"))
        return None
    folder = cache / tool.name / f"{tool.version}-official"
    report(Step(tool.name, "fetching", "the SDK's installer fetches it from get.pulumi.com", 30))
    try:
        subprocess.run(
            [sys.executable, "-c", _INSTALL, str(folder), tool.version],
            check=True,
            timeout=_BOUND,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        report(
            Step(tool.name, "note", f"the SDK's installer failed ({type(error).__name__}), so it is built from source")
        )
        return None
    found = version_of(folder / "bin" / tool.name, tool)
    if found is None or not tool.fits(found):
        report(Step(tool.name, "note", f"the SDK's installer brought {found or 'nothing that runs'}, so it is built"))
        return None
    (folder / "complete").touch()
    return installed(cache, tool)
