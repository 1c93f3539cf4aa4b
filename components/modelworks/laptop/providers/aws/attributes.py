"""Properties kept as attributes, in SNS and SQS."""

# A resource's methods have one signature; few need all of it.

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Resource


def _said(value: Any) -> str:
    """An attribute as SNS and SQS take it: always text."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _heard(text: str | None, spec: Mapping[str, Any]) -> Any:
    """The opposite of `_said`, by the property's type."""
    if text is None or text == "":
        return None
    kind = spec.get("type")
    if kind == "boolean":
        return text.lower() == "true"
    return int(text) if kind == "integer" else text


class Attributes(Resource):
    """Both services keep a thing's properties as attributes, most of them named after the property."""

    attributes: ClassVar[Mapping[str, str]]
    """Attribute of each property."""

    def wanted(self, inputs: Mapping[str, Any], keys: Collection[str]) -> dict[str, str]:
        """Attributes for those of `keys` that have a value, or lost it."""
        values = {key: inputs.get(key, self.defaults.get(key)) for key in keys if key in self.attributes}
        return {self.attributes[key]: "" if value is None else _said(value) for key, value in values.items()}

    def heard(self, attributes: Mapping[str, str]) -> dict[str, Any]:
        """Properties from attributes."""
        return {key: _heard(attributes.get(name), self.type.inputs[key]) for key, name in self.attributes.items()}
