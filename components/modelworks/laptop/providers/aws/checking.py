"""Inputs against a type's schema: what is not a property, what is missing, what is of the wrong type."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelworks.laptop.providers.aws.schema import ResourceType, object_type
from modelworks.laptop.providers.property_values import UNKNOWN, Archive, Asset, Path

Failure = tuple[Path, str]

_KINDS = {"string": "a string", "integer": "an integer", "number": "a number", "boolean": "true or false"}


def checked(type_: ResourceType, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], list[Failure]]:
    """`inputs` as the provider keeps them, and what is wrong with them.

    As the real provider does: nulls are dropped, a number or boolean in a string is converted, and a policy given as an
    object becomes its JSON text.
    """
    failures: list[Failure] = []
    result = _properties((), inputs, type_.inputs, type_.required, type_.token.rpartition(":")[2], failures)
    return result, failures


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean …?` where one of `names` resembles `name`."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def _properties(
    path: Path,
    values: Mapping[str, Any],
    specs: Mapping[str, Any],
    required: Iterable[str],
    owner: str,
    failures: list[Failure],
) -> dict[str, Any]:
    result = {}
    for name, value in values.items():
        if name.startswith("__") or value is None:
            continue
        if name not in specs:
            failures.append(((*path, name), f"{owner} has no property {name!r}{nearest(name, specs)}"))
            continue
        result[name] = _value((*path, name), value, specs[name], failures)
    failures += [((*path, name), f"{owner} requires {name!r}") for name in required if values.get(name) is None]
    return result


def _value(path: Path, value: Any, spec: Mapping[str, Any], failures: list[Failure]) -> Any:
    if value is UNKNOWN or value is None:
        return value
    if "oneOf" in spec:
        return _one_of(path, value, spec["oneOf"], failures)
    if "$ref" in spec:
        return _referenced(path, value, spec["$ref"], failures)
    kind = spec["type"]
    if kind == "array":
        if not isinstance(value, list):
            return _wrong(path, value, "a list", failures)
        return [_value((*path, index), each, spec["items"], failures) for index, each in enumerate(value)]
    if kind == "object":
        if not isinstance(value, dict):
            return _wrong(path, value, "an object", failures)
        return {key: _value((*path, key), each, spec["additionalProperties"], failures) for key, each in value.items()}
    return _plain(path, value, kind, failures)


def _one_of(path: Path, value: Any, members: list[Mapping[str, Any]], failures: list[Failure]) -> Any:
    texts = any(member.get("type") == "string" for member in members)
    if texts and isinstance(value, dict):
        return UNKNOWN if any(True for _ in _unknowns(value)) else json.dumps(value)
    for member in members:
        attempt: list[Failure] = []
        result = _value(path, value, member, attempt)
        if not attempt:
            return result
    return _wrong(path, value, "a string or an object" if texts else "one of its types", failures)


def _unknowns(value: Any) -> Iterator[Any]:
    if value is UNKNOWN:
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _unknowns(each)


def _referenced(path: Path, value: Any, reference: str, failures: list[Failure]) -> Any:
    if reference == "pulumi.json#/Asset":
        return value if isinstance(value, Asset | Archive) else _wrong(path, value, "an asset or archive", failures)
    spec = object_type(reference)
    if spec is None:
        return value
    if not isinstance(value, dict):
        return _wrong(path, value, "an object", failures)
    name = reference.rpartition(":")[2]
    return _properties(path, value, spec["properties"], spec.get("required", ()), name, failures)


def _plain(path: Path, value: Any, kind: str, failures: list[Failure]) -> Any:
    if kind == "string":
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, str | int | float) else _wrong(path, value, _KINDS[kind], failures)
    if kind == "boolean":
        if value in ("true", "false"):
            return value == "true"
        return value if isinstance(value, bool) else _wrong(path, value, _KINDS[kind], failures)
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return _wrong(path, value, _KINDS[kind], failures)
    fits = isinstance(value, int) or (kind == "number" and isinstance(value, float))
    return value if fits and not isinstance(value, bool) else _wrong(path, value, _KINDS[kind], failures)


def _wrong(path: Path, value: Any, wanted: str, failures: list[Failure]) -> Any:
    # The value itself may be a secret: its type is what helps.
    found = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}.get(type(value), "a number")
    found = "an asset" if isinstance(value, Asset | Archive) else found
    failures.append((path, f"expected {wanted}, found {found}"))
    return value
