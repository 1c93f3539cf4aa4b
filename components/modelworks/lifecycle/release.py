"""A release is a line in a stack's config file, in git; this edits that line and leaves all others as they are."""

from __future__ import annotations

import fcntl
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from modelworks.errors import ModelworksError
from modelworks.settings import RELEASES_KEY, Release, load


def read_releases(path: Path) -> dict[str, Release]:
    """What a stack's config file releases, by the model's name.

    Raises:
        ModelworksError: The file is missing or breaks a rule.
    """
    return load(path).releases


def set_release(path: Path, model: str, release: Release) -> bool:
    """Make `release` what `model` serves in a stack, keeping comments, order and every other line.

    Two who edit the same file at once come one after the other; the result is checked before it replaces the file.

    Args:
        path: The stack's config file.
        model: The model's name.
        release: What serves.

    Returns:
        Whether the file changed.

    Raises:
        ModelworksError: The file cannot be read or written, or would break a rule afterwards; it is untouched then.
    """
    with _locked(path):
        before = _read(path)
        document = _yaml().load(before)
        config = document.get("config") if isinstance(document, dict) else None
        if not isinstance(config, dict):
            raise ModelworksError(f"{path} has no mapping `config`", fix="It must be a stack's config file.")
        releases = config.setdefault(RELEASES_KEY, CommentedMap())
        if releases.get(model) == release.model_dump(exclude_none=True):
            return False
        releases[model] = _line(release)
        buffer = io.StringIO()
        _yaml().dump(document, buffer)
        _replace(path, buffer.getvalue())
    return True


def _line(release: Release) -> Any:
    line = CommentedMap(digest=DoubleQuotedScalarString(release.digest))
    if release.version is not None:
        line["version"] = release.version
    line.fa.set_flow_style()
    return line


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    # As Pulumi writes its own files, so that neither tool reformats what the other wrote.
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        _yaml().load(text)
    except FileNotFoundError as error:
        raise ModelworksError(f"{path} does not exist", fix="Check the environment's name.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ModelworksError(f"{path} is not YAML: {error}") from error
    return text


def _replace(path: Path, text: str) -> None:
    """Check the new text as a stack's config, then put it in place of the old one in one step."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".yaml")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            load(temporary)
            temporary.chmod(path.stat().st_mode & 0o777)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ModelworksError(
            f"cannot write {path}: {error.strerror}", fix="Free space or fix its permissions."
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only one who edits `path`. The lock is on its folder, which a replaced file leaves in place."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ModelworksError(f"cannot open {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
