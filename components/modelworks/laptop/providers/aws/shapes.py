"""Shapes that AWS's interfaces share: tags as pairs, and names that differ from Pulumi's by their first letter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def pairs(tags: Mapping[str, str], *, key: str = "Key", value: str = "Value") -> list[dict[str, str]]:
    """Tags as most services take them."""
    return [{key: name, value: tag} for name, tag in tags.items()]


def tags_of(listed: list[dict[str, str]], *, key: str = "Key", value: str = "Value") -> dict[str, str]:
    """The opposite of `pairs`."""
    return {each[key]: each[value] for each in listed}


def change_tags(
    untag: Callable[..., Any], tag: Callable[..., Any], add: Any, remove: list[str], **resource: str
) -> None:
    """Take tags from a resource and add others; AWS refuses a call that names none."""
    if remove:
        untag(TagKeys=remove, **resource)
    if add:
        tag(Tags=add, **resource)


def pascal(value: Any) -> Any:
    """Names with an upper-case first letter, at every depth; of a text, the text itself."""
    if isinstance(value, str):
        return value[:1].upper() + value[1:]
    if isinstance(value, dict):
        return {pascal(key): _inside(each, pascal) for key, each in value.items() if each is not None}
    return _inside(value, pascal)


def camel(value: Any) -> Any:
    """The opposite of `pascal`."""
    if isinstance(value, str):
        return value[:1].lower() + value[1:]
    if isinstance(value, dict):
        return {camel(key): _inside(each, camel) for key, each in value.items() if each is not None}
    return _inside(value, camel)


def _inside(value: Any, change: Any) -> Any:
    """Values are not names: only objects and lists of them are changed."""
    if isinstance(value, dict):
        return change(value)
    if isinstance(value, list):
        return [_inside(each, change) for each in value]
    return value
