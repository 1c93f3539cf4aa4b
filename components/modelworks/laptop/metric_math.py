"""CloudWatch's metric math, as far as our alarms need it: numbers, arithmetic, comparisons and `IF`.

Everything outside of this grammar is refused by name: a stand-in that guesses would judge releases differently from
CloudWatch.

Source: "Using math expressions with CloudWatch metrics" in the CloudWatch user guide, whose tables the tests repeat:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

Series = Mapping[datetime, float]
"""Values by beginning of period. Missing ones are absent."""
Value = float | Series

KNOWN = "numbers, ids, + - * /, == != < <= > >=, parentheses and IF"
"""The parts of an expression."""
LONGEST = 2048
"""Characters of an expression, as the API of CloudWatch limits them."""
DEEPEST = 50
"""Parentheses, calls and signs within each other. A limit of the laptop's, which ends before Python's stack does."""

_TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<sign>[=!<>]=|[-+*/<>(),])", re.ASCII
)
_SUMS: Mapping[str, Callable[[float, float], float | None]] = {"+": operator.add, "-": operator.sub}
_PRODUCTS: Mapping[str, Callable[[float, float], float | None]] = {
    "*": operator.mul,
    "/": lambda left, right: left / right if right else None,  # CloudWatch drops such a point
}
_COMPARISONS: Mapping[str, Callable[[float, float], float | None]] = {
    sign: lambda left, right, holds=holds: float(holds(left, right))  # type: ignore[misc]
    for sign, holds in {
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }.items()
}


class MetricMathError(ValueError):
    """An expression that is not evaluated: the message names it, the place and the rule."""


def evaluate(expression: str, series: Mapping[str, Series]) -> dict[datetime, float]:
    """The series that an expression comes to, oldest point first.

    Where one of two series has a point, arithmetic and comparisons take the other for 0. A division by zero has no
    point, and `IF` has none where its condition has none.

    Args:
        expression: Such as `IF(bad >= 5, bad / requests, 0)`.
        series: The values of the ids in it.

    Raises:
        MetricMathError: It is no such expression, or comes to a number instead of a series.
    """
    if len(expression) > LONGEST:
        raise MetricMathError(f"an expression may have {LONGEST} characters, got {len(expression)}")
    found = _Parser(expression, tuple(_tokens(expression)), series).whole()
    if isinstance(found, float):
        raise MetricMathError(f"{expression!r} comes to a number; it must come to a time series")
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Token:
    text: str
    kind: str
    """`number`, `name`, `sign` or `end`."""
    at: int


def _tokens(expression: str) -> list[_Token]:
    found, at = [], 0
    while at < len(expression):
        if expression[at].isspace():
            at += 1
        elif match := _TOKEN.match(expression, at):
            found.append(_Token(match[0], str(match.lastgroup), at))
            at = match.end()
        else:
            raise _unknown(expression, expression[at], at)
    return [*found, _Token("", "end", at)]


def _unknown(expression: str, text: str, at: int) -> MetricMathError:
    return MetricMathError(f"{expression!r} has {text!r} at character {at + 1}, where only {KNOWN} are evaluated")


class _Parser:
    """Reads an expression from left to right and computes as it reads: comparison, sum, product, sign, atom."""

    def __init__(self, expression: str, tokens: tuple[_Token, ...], series: Mapping[str, Series]) -> None:
        self._expression, self._tokens, self._series = expression, tokens, series
        self._next = self._depth = 0

    def whole(self) -> Value:
        found = self._comparison()
        if self._peek.kind != "end":
            raise self._unexpected()
        return found

    def _comparison(self) -> Value:
        left = self._sum()
        if self._peek.text in _COMPARISONS:
            sign = self._take().text
            left = self._pairwise(_COMPARISONS[sign], left, self._sum())
        return left

    def _sum(self) -> Value:
        left = self._product()
        while self._peek.text in _SUMS:
            sign = self._take().text
            left = self._pairwise(_SUMS[sign], left, self._product())
        return left

    def _product(self) -> Value:
        left = self._signed()
        while self._peek.text in _PRODUCTS:
            sign = self._take().text
            left = self._pairwise(_PRODUCTS[sign], left, self._signed())
        return left

    def _signed(self) -> Value:
        if self._peek.text != "-":
            return self._atom()
        self._take()
        with self._deeper():
            return self._pairwise(operator.mul, -1.0, self._signed())

    def _atom(self) -> Value:
        token = self._take()
        if token.kind == "number":
            return float(token.text)
        if token.text == "(":
            return self._enclosed()
        if token.text == "IF" and self._peek.text == "(":
            return self._if()
        if token.kind == "name" and token.text in self._series:
            return self._series[token.text]
        if token.kind == "name" and token.text[0].islower() and self._peek.text != "(":
            ids = ", ".join(self._series) or "none"
            raise MetricMathError(f"{self._expression!r} names {token.text!r}, which is no metric of it: it has {ids}")
        raise _unknown(self._expression, token.text, token.at)

    def _enclosed(self) -> Value:
        with self._deeper():
            value = self._comparison()
        self._expect(")")
        return value

    def _if(self) -> Value:
        self._take()
        otherwise: Value = {}
        with self._deeper():
            condition = self._comparison()
            self._expect(",")
            then = self._comparison()
            if self._peek.text == ",":
                self._take()
                otherwise = self._comparison()
        self._expect(")")
        if not isinstance(condition, float):
            return _chosen(condition, then, otherwise)
        if isinstance(then, float) or isinstance(otherwise, float):
            raise MetricMathError(f"{self._expression!r}: IF of a number must choose between time series")
        return then if condition else otherwise

    def _pairwise(self, operation: Callable[[float, float], float | None], left: Value, right: Value) -> Value:
        if isinstance(left, float) and isinstance(right, float):
            value = operation(left, right)
            if value is None:
                raise MetricMathError(f"{self._expression!r} divides a number by zero")
            return value
        times = [*({} if isinstance(left, float) else left), *({} if isinstance(right, float) else right)]
        return _present({when: operation(_at(left, when), _at(right, when)) for when in times})

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek
        if token.kind == "end":
            raise self._unexpected()
        self._next += 1
        return token

    def _expect(self, text: str) -> None:
        if self._peek.text != text:
            raise self._unexpected(f"; {text!r} is expected")
        self._take()

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > DEEPEST:
            raise MetricMathError(f"an expression may be {DEEPEST} levels deep, got more: {self._expression[:60]!r}…")
        yield
        self._depth -= 1

    def _unexpected(self, more: str = "") -> MetricMathError:
        token = self._peek
        said = "ends too early" if token.kind == "end" else f"has {token.text!r} too much at character {token.at + 1}"
        return MetricMathError(f"{self._expression!r} {said}{more}")


def _chosen(condition: Series, then: Value, otherwise: Value) -> Series:
    """`IF`, point by point: a missing value to take is 0, a missing one to fall back to stays missing."""
    return _present(
        {
            when: _at(then, when) if holds else otherwise if isinstance(otherwise, float) else otherwise.get(when)
            for when, holds in condition.items()
        }
    )


def _at(value: Value, when: datetime) -> float:
    return value if isinstance(value, float) else value.get(when, 0.0)


def _present(points: Mapping[datetime, float | None]) -> Series:
    return {when: value for when, value in points.items() if value is not None}
