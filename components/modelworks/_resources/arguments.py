"""Private: the arguments of a component, checked against their own `TypedDict` and completed with their defaults."""

from __future__ import annotations

import copy
import inspect
import reprlib
import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar

import pulumi

from modelworks import _bounds, _forms, defaults
from modelworks._spelling import did_you_mean

Args = TypeVar("Args", bound=Mapping[str, Any])

_Rule = _bounds.Bounds | _forms.Form | None

_NAMES = {str: "a text", int: "an integer", float: "a number", bool: "true or false", list: "a list", dict: "a mapping"}


def checked(name: str, kind: type[Args], args: Args) -> Args:
    """`args` with every default filled in, in nested arguments too.

    Args:
        name: Name of the component, for messages.
        kind: The `TypedDict` that lists the arguments.
        args: The program's arguments.

    Raises:
        ValueError: A key is unknown, a required one is missing, or a value is not of its type or form, or out of its
            bounds. All mistakes are listed.
    """
    component = f"{kind.__name__.removesuffix('Args')} {name!r}"
    if not isinstance(args, Mapping):
        raise ValueError(  # noqa: TRY004 - as for every argument of a wrong type
            f"{component}: args must be a mapping, got {type(args).__name__} {reprlib.repr(args)}"
        )
    if problems := list(_problems_of_arguments(kind, args, "")):
        raise ValueError("\n".join(f"{component}: {problem}" for problem in problems))
    return typing.cast("Args", _completed(kind, args))


def require_each(name: str, values: Iterable[Any], rule: Callable[[Any], Any]) -> None:
    """Refuse values that break a rule. Outputs, which are not known yet, pass.

    Args:
        name: Of the argument, for the message.
        values: Of the argument.
        rule: Raises ValueError for a value that breaks it.

    Raises:
        ValueError: One does.
    """
    for value in values:
        if isinstance(value, pulumi.Output) or inspect.isawaitable(value):
            continue
        try:
            rule(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def require_token(tokens: str | None) -> str:
    """The bearer tokens, one a line. Raises ValueError if there is none: pods would refuse to start."""
    if tokens is None or not tokens.strip():
        raise ValueError("tokens must have a bearer token on one line at least, got none")
    return tokens


@cache
def _hints(kind: type) -> dict[str, Any]:
    # `pulumi.Input` names Output as text, which is to be resolved as if it stood in Pulumi's own module.
    return typing.get_type_hints(kind, localns={"Output": pulumi.Output, "T": Any})


def _problems_of_arguments(kind: Any, args: Mapping[str, Any], path: str) -> Iterator[str]:
    hints = _hints(kind)
    for name in args:
        if name not in hints:
            yield f"{path}{name} is an unknown argument{did_you_mean(name, hints)}"
    if missing := [f"{path}{name}" for name in hints if name in kind.__required_keys__ and name not in args]:
        yield f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} required and missing"
    bounds = _bounds.OF_ARGUMENTS.get(kind.__name__, {})
    for name, hint in hints.items():
        if name in args:
            rule = bounds.get(name) or _forms.OF_ARGUMENTS.get(name)
            yield from _problems_of_value(hint, args[name], f"{path}{name}", rule)


def _problems_of_value(hint: Any, value: Any, path: str, rule: _Rule) -> Iterator[str]:
    plain = [item for item in _alternatives(hint) if not _is_deferred(item)]
    if Any in plain:
        return
    if isinstance(value, pulumi.Output) or inspect.isawaitable(value):
        if len(plain) == len(_alternatives(hint)):
            yield f"{path} decides what is declared, and so must be {_named(plain)}, got an output"
    elif value is None:
        if NoneType not in plain:
            yield f"{path} must be {_named(plain)}, got None"
    else:
        (wanted,) = [item for item in plain if item is not NoneType]
        yield from _problems_of_plain(wanted, value, path, rule)


def _problems_of_plain(wanted: Any, value: Any, path: str, rule: _Rule) -> Iterator[str]:
    if not _fits(wanted, value):
        # What is to be a text may be a secret: its value is not shown.
        found = type(value).__name__ if wanted is str else f"{type(value).__name__} {reprlib.repr(value)}"
        yield f"{path} must be {_named([wanted])}, got {found}"
    elif typing.is_typeddict(wanted):
        yield from _problems_of_arguments(wanted, value, f"{path}.")
    elif (origin := typing.get_origin(wanted)) is list:
        for index, item in enumerate(value):
            yield from _problems_of_value(typing.get_args(wanted)[0], item, f"{path}[{index}]", rule)
    elif origin is dict:
        for name, item in value.items():
            yield from _problems_of_value(typing.get_args(wanted)[1], item, f"{path}[{name!r}]", rule)
    elif isinstance(rule, _forms.Form):
        if not rule.fits(value):
            yield f"{path} must be {rule.meaning}, got {value!r}"
    elif rule and (bound := _bounds.broken(rule, value)):
        yield f"{path} must be {bound}, got {value}"


def _fits(wanted: Any, value: Any) -> bool:
    kind = _kind(wanted)
    if kind in {int, float}:
        return not isinstance(value, bool) and isinstance(value, int if kind is int else int | float)
    return isinstance(value, Mapping if kind is dict else kind)


def _kind(wanted: Any) -> Any:
    return dict if typing.is_typeddict(wanted) else typing.get_origin(wanted) or wanted


def _named(plain: list[Any]) -> str:
    return " or ".join("None" if item is NoneType else _NAMES[_kind(item)] for item in plain)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in {typing.Union, UnionType} else (hint,)


def _is_deferred(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in {Awaitable, pulumi.Output}


def _completed(kind: type, args: Mapping[str, Any]) -> dict[str, Any]:
    found = {**copy.deepcopy(dict(defaults.OF_ARGUMENTS.get(kind.__name__, {}))), **args}
    for name, hint in _hints(kind).items():
        nested = next((item for item in _alternatives(hint) if typing.is_typeddict(item)), None)
        if nested and (name not in found or found[name] is not None):
            found[name] = _completed(nested, found.get(name, {}))
        elif typing.get_origin(hint) is list and typing.is_typeddict(item := typing.get_args(hint)[0]):
            found[name] = [_completed(item, each) for each in found[name]]
    return found
