"""A request against AWS's own model of its service: lengths, ranges, patterns and enumerations.

botocore ships the models and checks types and required members by them; an account refuses the rest too, and the
emulator does not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import regex
from botocore.model import Shape

_MOST_SHOWN = 60
_ASTRAL = r"\uD800\uDC00-\uDBFF\uDFFF"
"""How the models, which are Java's, write the range of characters beyond sixteen bits."""


def violations(value: Any, shape: Shape, path: str = "") -> Iterator[str]:
    """The parts of `value` that AWS would refuse, each with its path and the rule.

    Values are shown, those of members that the model calls sensitive excepted.

    Args:
        value: The arguments of a call, or a part of them. botocore refuses a wrong type before.
        shape: The part of the service's model that describes `value`.
        path: Where `value` is in the arguments.
    """
    yield from (f"{path}: {problem}" for problem in _own(value, shape))
    if isinstance(value, dict):
        for name, member in value.items():
            if shape.type_name == "map":
                yield from violations(name, shape.key, f"{path}, key")
                yield from violations(member, shape.value, f"{path}.{name}")
            elif shape.type_name == "structure" and name in shape.members:
                yield from violations(member, shape.members[name], f"{path}.{name}".lstrip("."))
    elif isinstance(value, list | tuple) and shape.type_name == "list":
        for index, member in enumerate(value):
            yield from violations(member, shape.member, f"{path}[{index}]")


def _own(value: Any, shape: Shape) -> Iterator[str]:
    facts = shape.metadata
    shown = "a sensitive value" if facts.get("sensitive") else repr(value)[:_MOST_SHOWN]
    sized = isinstance(value, str | bytes | list | dict)
    if sized or (isinstance(value, int | float) and not isinstance(value, bool)):
        size, unit = (len(value), " long") if sized else (value, "")
        if (least := facts.get("min")) is not None and size < least:
            yield f"{shown} is {f'{size}{unit}' if unit else 'too small'}; the least is {least}"
        if (most := facts.get("max")) is not None and size > most:
            yield f"{shown} is {f'{size}{unit}' if unit else 'too large'}; the most is {most}"
    if isinstance(value, str):
        if (names := facts.get("enum")) and value not in names:
            yield f"{shown} is none of {', '.join(names)}"
        if (pattern := facts.get("pattern")) and (matches := _compiled(pattern)) and not matches(value):
            yield f"{shown} does not match {pattern}"


@functools.cache
def _compiled(pattern: str) -> Any:
    """The test of a pattern; `None` for the few that only Java can read."""
    try:
        read = regex.compile(pattern.replace(_ASTRAL, r"\U00010000-\U0010FFFF"))
    except regex.error:
        return None
    # Smithy's patterns are not anchored; those of older services are written without anchors and match the whole.
    return read.search if pattern.startswith("^") or pattern.endswith("$") else read.fullmatch
