"""The file of a stack, as the engine keeps it: config, the key of its secrets, and their ciphertexts."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import yaml

from modelworks._files import write_whole
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def read_config(file: Path) -> dict[str, Any]:
    """The config values in a stack's file, by full key."""
    config = read_file(file).get("config")
    return config if isinstance(config, dict) else {}


def read_file(file: Path) -> dict[str, Any]:
    """The content of a stack's file.

    Raises:
        ModelworksError: It is not YAML.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelworksError(f"{file} is not YAML: {error}", fix="Correct it: `modelworks check`.") from error
    return document if isinstance(document, dict) else {}


def forget_wiped(file: Path, say: Callable[[str], None]) -> None:
    """Take out of a stack's config what went with the laptop it was of: its secrets' key, its secrets, its releases.

    The settings stay. `stack init` would refuse the old key, and a released bundle is no longer in any store.
    """
    from ruamel.yaml import YAML  # only after a laptop was wiped

    yaml_file = YAML()
    yaml_file.preserve_quotes, yaml_file.width = True, 10_000
    document = yaml_file.load(file.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or "encryptionsalt" not in document:
        return
    del document["encryptionsalt"]
    config = document.get("config") or {}
    gone = [key for key, value in config.items() if key == "modelworks:releases" or _sealed(value)]
    for key in gone:
        del config[key]
    buffer = io.StringIO()
    yaml_file.dump(document, buffer)
    write_whole(file, buffer.getvalue(), mode=0o644)
    what = f" ({', '.join(gone)})" if gone else ""
    say(f"{file.name} is of a laptop that was wiped: its secrets and releases are taken out{what}")


def _sealed(value: object) -> bool:
    if isinstance(value, dict):
        return "secure" in value or any(_sealed(item) for item in value.values())
    return isinstance(value, list) and any(_sealed(item) for item in value)
