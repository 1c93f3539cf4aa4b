"""Property values as they cross the engine's wire, and as plain Python.

Plain values are `None`, `bool`, `int`, `float`, `str`, `list`, `dict`, `Asset` and `Archive`, plus two marks that must
never get lost: `UNKNOWN`, a value that is unknown in a preview, and `Secret`, a value that must not be shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import struct_pb2

# The engine's protocol tells special values from ordinary ones by these fixed keys: they are part of its interface.
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105  a type's signature, no secret
_ASSET = "c44067f5952c0a294b673a41bacd8c17"
_ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"
_RESOURCE = "5cf8f73096256a8f31e491e813e4eb8e"
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"

Path = tuple[str | int, ...]
"""The path of a value in a property map: `("tags", "owner")`, `("rules", 0, "id")`."""


class Unknown:
    """The type of `UNKNOWN`. It has no truth value on purpose: deciding on an unknown is a mistake."""

    def __repr__(self) -> str:
        return "<unknown>"

    def __bool__(self) -> bool:
        raise TypeError("an unknown value was used to decide something; test `value is UNKNOWN` first")


UNKNOWN: Final = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that the engine encrypts in its state and masks in its output."""

    value: Any = field(repr=False)


@dataclass(frozen=True)
class Asset:
    """A file, a text or an address. At most one of `path`, `text` and `uri` is set; none means an empty text."""

    hash: str = ""
    path: str | None = None
    text: str | None = None
    uri: str | None = None


@dataclass(frozen=True)
class Archive:
    """A folder or archive file, an address, or assets by name. Exactly one of `path`, `uri` and `assets` is set."""

    hash: str = ""
    path: str | None = None
    uri: str | None = None
    assets: Mapping[str, Any] | None = None


def from_wire(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A property map as plain values, with `UNKNOWN` and `Secret` where the engine marked them."""
    return {key: _read(value) for key, value in struct.fields.items()}


def to_wire(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """The opposite of `from_wire`.

    Raises:
        TypeError: A value is of no kind that the wire can carry.
    """
    struct = struct_pb2.Struct()
    for key, value in values.items():
        _write(struct.fields[key], value)
    return struct


def revealed(value: Any) -> Any:
    """`value` without its `Secret` marks."""
    if isinstance(value, Secret):
        return revealed(value.value)
    if isinstance(value, dict):
        return {key: revealed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [revealed(each) for each in value]
    return value


def has_secrets(value: Any) -> bool:
    """Whether `value` is or contains a `Secret`."""
    return any(isinstance(each, Secret) for _, each in walk(value))


def has_unknowns(value: Any) -> bool:
    """Whether `value` is or contains `UNKNOWN`."""
    return any(each is UNKNOWN for _, each in walk(value))


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value in `value`, itself included, with its path. A secret and what it hides share a path."""
    yield path, value
    if isinstance(value, Secret):
        yield from walk(value.value, path)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from walk(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from walk(each, (*path, index))


def keep_secret(value: Any, like: Any) -> Any:
    """`value` with the secrets of `like` marked again.

    A list is marked as a whole when `like` has a secret anywhere in it: its elements may be in another order. One that
    is the very same keeps its marks where they are.
    """
    if isinstance(value, Secret) or value is None:
        return value
    if isinstance(like, Secret):
        return Secret(revealed(value))
    if isinstance(value, dict) and isinstance(like, dict):
        return {key: keep_secret(each, like.get(key)) for key, each in value.items()}
    if isinstance(value, list) and has_secrets(like):
        if value == revealed(like):
            return like
        return Secret(revealed(value))
    return value


def path_text(path: Path) -> str:
    """A path as the engine writes it: `rules[0].id`, `tags["cost.centre"]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("_", "a").replace("-", "a").replace("$", "a").isalnum():
            text += f".{step}" if text else step
        else:
            quoted = step.replace("\\", "\\\\").replace('"', '\\"')
            text += f'["{quoted}"]'
    return text


def parsed_path(path: str) -> Path:
    """A property path as the engine writes it: the opposite of `path_text`."""
    steps: list[str | int] = []
    for match in re.finditer(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|([^.\[\]]+)', path):
        quoted, index, plain = match.groups()
        if quoted is not None:
            steps.append(quoted.replace('\\"', '"').replace("\\\\", "\\"))
        else:
            steps.append(int(index) if index and index.isdecimal() else index or plain)
    return tuple(steps)


def decoded(value: Any) -> Any:
    """A provider's configuration value as what it means: SDKs send lists, objects and booleans as JSON in a string."""
    if not isinstance(value, str):
        return value
    if value in {"true", "false"}:
        return value == "true"
    if value[:1] in {"[", "{"}:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _read(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value == _UNKNOWN else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_read(each) for each in value.list_value.values]
    if kind == "struct_value":
        fields = {key: _read(each) for key, each in value.struct_value.fields.items()}
        special = _SPECIAL.get(fields.get(_SIGNATURE, ""))
        return special(fields) if special else fields
    return None


def _read_output(fields: dict[str, Any]) -> Any:
    value = fields.get("value", UNKNOWN)
    return Secret(value) if fields.get("secret") else value


_SPECIAL: dict[str, Callable[[dict[str, Any]], Any]] = {
    _SECRET: lambda fields: Secret(fields.get("value")),
    _OUTPUT: _read_output,
    # A resource where a plain value is wanted means its id, or its URN where it has none.
    _RESOURCE: lambda fields: fields.get("id") if fields.get("id") not in (None, "") else fields.get("urn"),
    _ASSET: lambda fields: Asset(**{key: fields[key] for key in ("hash", "path", "text", "uri") if fields.get(key)}),
    _ARCHIVE: lambda fields: Archive(
        **{key: fields[key] for key in ("hash", "path", "uri", "assets") if fields.get(key)}
    ),
}


def _write(target: struct_pb2.Value, value: Any) -> None:
    if value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif value is UNKNOWN:
        target.string_value = _UNKNOWN
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, Mapping):
        target.struct_value.SetInParent()
        for key, each in value.items():
            _write(target.struct_value.fields[key], each)
    elif isinstance(value, list | tuple):
        target.list_value.SetInParent()
        for each in value:
            _write(target.list_value.values.add(), each)
    elif isinstance(value, Secret):
        _write(target, {_SIGNATURE: _SECRET, "value": value.value})
    elif isinstance(value, Asset | Archive):
        signature = _ASSET if isinstance(value, Asset) else _ARCHIVE
        parts = {key: part for key, part in vars(value).items() if part is not None}
        _write(target, {_SIGNATURE: signature, **parts})
    else:
        raise TypeError(f"a property cannot hold {value!r} ({type(value).__name__})")
