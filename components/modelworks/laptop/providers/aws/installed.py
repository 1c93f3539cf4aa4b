"""The facts that the installed `pulumi_aws` declares of the types that are served here; writes `schema.json`.

    python -m modelworks.laptop.providers.aws.installed

Only this module imports `pulumi_aws`. The provider's process never does.
"""

from __future__ import annotations

import collections.abc
import enum
import importlib
import importlib.metadata
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
from pulumi import _types as sdk_types

from modelworks._files import write_whole
from modelworks.laptop.providers.aws.schema import replacements

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema(tokens: typing.Iterable[str]) -> dict[str, Any]:
    """The package schema of `tokens`, from the installed SDK and the facts about replacement.

    Raises:
        AttributeError: The SDK has no such type any more.
    """
    objects: dict[str, Any] = {}
    listed = {token: _resource(token, objects) for token in sorted(tokens)}
    return {
        "name": "aws",
        "version": importlib.metadata.version("pulumi_aws"),
        "meta": {"moduleFormat": "(.*)(?:/[^/]*)"},
        "resources": listed,
        "types": dict(sorted(objects.items())),
    }


def _resource(token: str, objects: dict[str, Any]) -> dict[str, Any]:
    module, name = token.split(":")[1].partition("/")[0], token.rpartition(":")[2]
    resource = getattr(importlib.import_module(f"pulumi_aws.{module}"), name)
    source = sys.modules[resource.__module__]
    # Where a nested type has the name already, the SDK calls the resource's own `InitArgs`.
    arguments = getattr(source, f"{name}InitArgs", None) or getattr(source, f"{name}Args")
    inputs, required = _inputs(arguments, objects)
    outputs = {key: _spec(type_, None) for key, type_ in sdk_types.resource_types(resource).items()}
    for key in replacements(token, inputs):
        inputs[key]["willReplaceOnChanges"] = True
    for key in _secret_outputs(resource):
        for properties in (inputs, outputs):
            if key in properties:
                properties[key]["secret"] = True
    # An output that is an input too has its type; others are told to `pulumi import` only by name.
    for key, spec in outputs.items():
        if key in inputs:
            outputs[key] = {part: value for part, value in inputs[key].items() if part != "willReplaceOnChanges"}
        elif "$ref" in json.dumps(spec):
            outputs[key] = {"$ref": "pulumi.json#/Any"}
    return {"inputProperties": inputs, "requiredInputs": sorted(required), "properties": outputs}


def _inputs(arguments: type, objects: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    names = dict(sdk_types.input_type_py_to_pulumi_names(arguments))
    wire_types = sdk_types.input_type_types(arguments)
    required = [
        names.get(parameter.name, parameter.name)
        for parameter in inspect.signature(arguments.__init__).parameters.values()  # type: ignore[misc]
        if parameter.name != "__self__" and parameter.default is inspect.Parameter.empty
    ]
    return {name: _spec(type_, objects) for name, type_ in sorted(wire_types.items())}, required


def _spec(type_: Any, objects: dict[str, Any] | None) -> dict[str, Any]:
    """A type in the notation of package schemas; object types met on the way are added to `objects`."""
    if type_ in _PLAIN:
        return {"type": _PLAIN[type_]}
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if origin in {typing.Union, types.UnionType}:
        return _union(arguments, objects)
    if origin in {collections.abc.Sequence, list}:
        return {"type": "array", "items": _spec(arguments[0], objects)}
    if origin in {collections.abc.Mapping, dict}:
        return {"type": "object", "additionalProperties": _spec(arguments[1], objects)}
    if isinstance(type_, type):
        if issubclass(type_, enum.Enum):
            return {"type": "string"}
        if issubclass(type_, pulumi.Asset | pulumi.Archive):
            return {"$ref": "pulumi.json#/Asset"}
        if type_.__module__.startswith("pulumi_aws."):
            return _object(type_, objects)
    return {"$ref": "pulumi.json#/Any"}


def _union(members: tuple[Any, ...], objects: dict[str, Any] | None) -> dict[str, Any]:
    specs: list[dict[str, Any]] = []
    for member in members:
        if member is types.NoneType or typing.get_origin(member) in {collections.abc.Awaitable, pulumi.Output}:
            continue
        if (spec := _spec(member, objects)) not in specs:
            specs.append(spec)
    return specs[0] if len(specs) == 1 else {"oneOf": specs}


def _object(type_: type, objects: dict[str, Any] | None) -> dict[str, Any]:
    name, module = type_.__name__.removesuffix("Args"), type_.__module__.split(".")[1]
    token = f"aws:{module}/{name}:{name}"
    if objects is not None and token not in objects:
        objects[token] = {}  # it may contain itself
        properties, required = _inputs(type_, objects)
        objects[token] = {"type": "object", "properties": properties, "required": sorted(required)}
    return {"$ref": f"#/types/{token}"}


def _secret_outputs(resource: type) -> list[str]:
    """The SDK marks them where it builds the resource; there is no table of them to read."""
    # Of a class, `getsource` parses the module, which now and then fails before CPython 3.11.8 (its issue 106905).
    source = inspect.getsource(resource.__dict__["_internal_init"])
    found = re.search(r"additional_secret_outputs=\[([^\]]*)\]", source)
    return re.findall(r'"(\w+)"', found.group(1)) if found else []


def main() -> None:
    """Write `schema.json` for the types that the registry has."""
    from modelworks.laptop.providers.aws.registry import RESOURCES  # it needs the file that this writes

    path = Path(__file__).with_name("schema.json")
    write_whole(path, json_text(schema(RESOURCES)), mode=0o644)
    print(f"{path}: {len(RESOURCES)} types of pulumi_aws {importlib.metadata.version('pulumi_aws')}")


def json_text(schema: Mapping[str, Any]) -> str:
    """One line a property, so that an upgrade of the SDK reads well as a diff and the file stays short."""
    parts = [f" {json.dumps(key)}: {json.dumps(schema[key])}" for key in ("name", "version", "meta")]
    for section, groups in (("resources", ("inputProperties", "properties")), ("types", ("properties",))):
        entries = []
        for token, spec in schema[section].items():
            fields = []
            for key, value in spec.items():
                if key in groups:
                    lines = [f"    {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items()]
                    fields.append(f"   {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n   }")
                else:
                    fields.append(f"   {json.dumps(key)}: {json.dumps(value)}")
            entries.append(f"  {json.dumps(token)}: {{\n" + ",\n".join(fields) + "\n  }")
        parts.append(f" {json.dumps(section)}: {{\n" + ",\n".join(entries) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
