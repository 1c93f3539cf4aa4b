"""Conditions of IAM policies: operators, sets of values, and policy variables.

Sources, all of the IAM user guide:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

Context = Mapping[str, Sequence[str]]
"""Values by condition key, whose case does not matter. A key that is not there is missing from the request."""


class PolicyError(ValueError):
    """A policy has a part that cannot be evaluated; the message names it."""


def holds(condition: Mapping[str, Mapping[str, Any]], context: Context, *, variables: bool = True) -> bool:
    """Whether every operator and every key of a `Condition` element is satisfied.

    Args:
        condition: The element as the policy has it.
        context: Condition keys of the request.
        variables: Whether the policy is of the version that has variables, 2012-10-17.

    Raises:
        PolicyError: An operator is unknown, or a value is not of its type.
    """
    known = {key.lower(): list(values) for key, values in context.items()}
    return all(
        _key_holds(operator, known.get(key.lower()), [_text(value) for value in _list(wanted)], context, variables)
        for operator, keys in condition.items()
        for key, wanted in keys.items()
    )


def substituted(text: str, context: Context) -> str | None:
    """`text` with its variables replaced, in which `*` and `?` from values are literal; None if one has no value."""
    known = {key.lower(): list(values) for key, values in context.items()}
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        name, _, default = match[1].partition(",")
        if name in {"*", "?", "$"}:
            return _LITERAL.get(name, name)
        held = known.get(name.strip().lower())
        if held is not None and len(held) == 1:  # a key with many values is no variable
            return _literally(held[0])
        if default:
            return _literally(default.strip().strip("'"))
        missing = True
        return ""

    replaced = re.sub(r"\$\{([^}]*)\}", value, text)
    return None if missing else replaced


def matches(pattern: str, text: str) -> bool:
    """Whether `text` is like `pattern`, in which `*` is any number of characters and `?` one."""
    return re.fullmatch(_expression(pattern, ".*", "."), text, re.DOTALL) is not None


_LITERAL: Final = {"*": "\ue000", "?": "\ue001"}
"""A wildcard's characters where they are no wildcards: of the private use area, which no name of AWS contains."""


def _literally(text: str) -> str:
    return "".join(_LITERAL.get(each, each) for each in text)


def _plain(text: str) -> str:
    return text.replace(_LITERAL["*"], "*").replace(_LITERAL["?"], "?")


def _expression(pattern: str, many: str, one: str) -> str:
    return "".join({"*": many, "?": one}.get(each) or re.escape(_plain(each)) for each in pattern)


def _key_holds(operator: str, held: list[str] | None, wanted: list[str], context: Context, variables: bool) -> bool:
    quantifier, _, rest = operator.rpartition(":")
    name = rest.removesuffix("IfExists")
    if name == "Null":
        return all((held is None) == _boolean(value) for value in wanted)
    if name not in _POSITIVE and name not in _NEGATIVE:
        raise PolicyError(f"the condition operator {operator!r} is not known")
    if quantifier not in {"", "ForAllValues", "ForAnyValue"}:
        raise PolicyError(f"the set operator {quantifier!r} is not known")
    if held is None or (quantifier and not held):
        # Without a value, a negated operator holds, and so does one about all values.
        return name != rest or (quantifier != "ForAnyValue" and (quantifier == "ForAllValues" or name in _NEGATIVE))
    values = [substituted(each, context) if variables else each for each in wanted]
    patterns = [each for each in values if each is not None]
    judge = _POSITIVE.get(name) or _NEGATIVE[name]
    found = [any(judge(pattern, each) for pattern in patterns) != (name in _NEGATIVE) for each in held]
    # An operator that is negated without a set refuses the key if any value matches.
    every = quantifier == "ForAllValues" or (not quantifier and name in _NEGATIVE)
    return all(found) if every else any(found)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _boolean(value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        raise PolicyError(f"{value!r} is neither true nor false")
    return value.lower() == "true"


def _arn_like(pattern: str, arn: str) -> bool:
    # Each of the six parts is matched by itself; only the last one may hold colons.
    patterns, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(map(matches, patterns, parts))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise PolicyError(f"{text!r} is not a number") from error


def _date(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise PolicyError(f"{text!r} is not a date") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _in_network(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError as error:
        raise PolicyError(f"{network!r} or {address!r} is not an address") from error


_Judge = Callable[[str, str], bool]
"""Whether a policy's value is met by the request's."""

_POSITIVE: Final[Mapping[str, _Judge]] = {
    "StringEquals": lambda wanted, held: _plain(wanted) == held,
    "StringEqualsIgnoreCase": lambda wanted, held: _plain(wanted).casefold() == held.casefold(),
    "StringLike": matches,
    "NumericEquals": lambda wanted, held: _number(held) == _number(wanted),
    "NumericLessThan": lambda wanted, held: _number(held) < _number(wanted),
    "NumericLessThanEquals": lambda wanted, held: _number(held) <= _number(wanted),
    "NumericGreaterThan": lambda wanted, held: _number(held) > _number(wanted),
    "NumericGreaterThanEquals": lambda wanted, held: _number(held) >= _number(wanted),
    "DateEquals": lambda wanted, held: _date(held) == _date(wanted),
    "DateLessThan": lambda wanted, held: _date(held) < _date(wanted),
    "DateLessThanEquals": lambda wanted, held: _date(held) <= _date(wanted),
    "DateGreaterThan": lambda wanted, held: _date(held) > _date(wanted),
    "DateGreaterThanEquals": lambda wanted, held: _date(held) >= _date(wanted),
    "Bool": lambda wanted, held: _plain(wanted).lower() == held.lower(),
    "BinaryEquals": lambda wanted, held: wanted == held,
    "IpAddress": _in_network,
    # These two behave identically, as do their negations.
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
}
_NEGATIVE: Final[Mapping[str, _Judge]] = {
    "StringNotEquals": _POSITIVE["StringEquals"],
    "StringNotEqualsIgnoreCase": _POSITIVE["StringEqualsIgnoreCase"],
    "StringNotLike": matches,
    "NumericNotEquals": _POSITIVE["NumericEquals"],
    "DateNotEquals": _POSITIVE["DateEquals"],
    "NotIpAddress": _in_network,
    "ArnNotEquals": _arn_like,
    "ArnNotLike": _arn_like,
}
