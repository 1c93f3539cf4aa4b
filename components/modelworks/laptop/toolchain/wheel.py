"""The toolchain as a platform wheel of the package index, with the executables that Go would build here.

Its manifest names the cache key under which each tool was built. A tool is taken from it only if this checkout has the
same key, so that an older or newer wheel never replaces what is pinned here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from modelworks.laptop.toolchain import packages
from modelworks.laptop.toolchain.tools import Tampered, Tool, Unavailable

NAME: Final = "modelworks-toolchain"
PACKAGE: Final = "modelworks_toolchain"
MANIFEST: Final = "manifest.json"
"""In the package: by tool its `version`, its `key`, and `files` with their SHA-256 digests, below `TOOL/`."""

PINNED: Final = Path(__file__).with_name("wheel.txt")
"""The pinned release and its hashes, as the release workflow prints them."""


@dataclass(frozen=True)
class Wheel:
    """A wheel that is unpacked somewhere."""

    folder: Path
    tools: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Wheel:
        """The wheel whose package is `folder`.

        Raises:
            Unavailable: It has no manifest that can be read.
        """
        try:
            return cls(folder, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise Unavailable(f"{folder / MANIFEST} cannot be read: {error}") from error

    def has(self, tool: Tool, key: str) -> bool:
        """Whether it holds the tool as this checkout would build it."""
        return bool(self.tools.get(tool.program, {}).get("key") == key)

    def put(self, tool: Tool, into: Path) -> None:
        """Copy the tool's files, verified, into the folder `into`.

        Raises:
            Tampered: A file is missing or is not the one that was built.
        """
        for name, expected in self.tools.get(tool.program, {}).get("files", {}).items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise Tampered(f"{NAME} holds {name}, which is outside of its folder")
            try:
                content = (self.folder / tool.program / name).read_bytes()
            except OSError as error:
                raise Tampered(f"{self.folder / tool.program / name} cannot be read: {error.strerror}") from error
            if (found := hashlib.sha256(content).hexdigest()) != expected:
                raise Tampered(
                    f"{self.folder / tool.program / name} is not what was built: "
                    f"expected sha256:{expected}, found sha256:{found}"
                )
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(content)
        if not (into / tool.program).is_file():
            raise Tampered(f"{NAME} holds no {tool.program}")
        (into / tool.program).chmod(0o755)


def installed() -> Wheel | None:
    """The wheel in this interpreter's environment."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        return Wheel.read(Path(spec.submodule_search_locations[0]))
    except Unavailable:
        return None  # of another making: the other ways remain


def obtain(requirements: Path, target: Path) -> Wheel:
    """Install the pinned wheel into the folder `target`.

    Raises:
        Unavailable: The package index does not have it, or it has another hash.
    """
    packages.install(requirements, target)
    return Wheel.read(target / PACKAGE)
