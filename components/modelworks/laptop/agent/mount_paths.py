"""Mount paths where the kernel allows no mount namespace: a container is led to where its volumes really are.

A path that a container was given by a variable, an argument or its working directory is replaced by that of the
volume. A volume whose mount path is in none of them cannot be shown to it, and it is not started.

Pure: plain values in, plain values out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from modelworks.laptop.agent.isolation import Mount

TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where every pod finds the token of its service account, whether it uses it or not."""

# The path of `file:///data/x` and of SQLAlchemy's `sqlite:////data/x`; in `https://host/data` it is none.
_URL = re.compile(r"([a-z][a-z0-9+.-]*:/{2,3})(/.*)", re.IGNORECASE | re.DOTALL)
_OPTION = re.compile(r"(--?[A-Za-z0-9][\w.-]*=)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """How a container's process is started."""

    argv: Sequence[str]
    variables: Mapping[str, str]
    workdir: str


def translate(command: Command, mounts: Sequence[Mount], *, partly: bool = False) -> Command:
    """`command` with the paths of volumes in place of mount paths.

    A value is a path as a whole, as a list with colons between, as a URL of a file, or behind the name of an option.

    Args:
        command: As the pod's specification gives it.
        mounts: The container's.
        partly: It is one of the commands that run beside the container's own, and needs not every volume.

    Raises:
        ValueError: The command names a mount path nowhere.
    """
    translation = _Translation(mounts)
    translated = Command(
        [translation.argument(word) for word in command.argv],
        {name: translation.value(value) for name, value in command.variables.items()},
        translation.path(command.workdir),
    )
    for mount in () if partly else mounts:
        if mount.target not in translation.used and not _normal(mount.target).startswith(TOKENS):
            raise ValueError(
                f"no variable, argument or workingDir names {mount.target}, and this machine allows no mount "
                "namespace to show a volume there; name the path, or allow user namespaces (docs/guides/node-agent.md)"
            )
    return translated


class _Translation:
    def __init__(self, mounts: Sequence[Mount]) -> None:
        # The deepest first: /data/cache may be another volume than /data.
        self._mounts = sorted(mounts, key=lambda mount: -len(_normal(mount.target)))
        self.used: set[str] = set()

    def argument(self, word: str) -> str:
        if option := _OPTION.fullmatch(word):
            return option[1] + self.value(option[2])
        return self.value(word)

    def value(self, value: str) -> str:
        if url := _URL.fullmatch(value):
            # What reads a file's URL decodes it; SQLAlchemy takes the path of a database as it is.
            return url[1] + self.path(url[2], quoted=url[1].lower().startswith("file:"))
        parts = value.split(":")
        if all(part.startswith("/") or not part for part in parts):
            return ":".join(map(self.path, parts))
        return value

    def path(self, path: str, *, quoted: bool = False) -> str:
        for mount in self._mounts:
            target = _normal(mount.target)
            if path == target or path.startswith(target + "/"):
                self.used.add(mount.target)
                return (quote(str(mount.source)) if quoted else str(mount.source)) + path[len(target) :]
        return path


def _normal(path: str) -> str:
    return path.rstrip("/") or "/"
