"""The part of kubectl's JSONPath that `pulumi.com/waitFor` needs: fields, indexes, wildcards and filters. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

Step = tuple[str, Any]
"""`("field", name)`, `("index", number)`, `("all", None)`, `("filter", (path, operator, value))`."""

_TOKEN: Final = re.compile(
    r"""
      \.(?P<field>[\w$/-]+(?:\\\.[\w$/-]+)*)   # .status or .metadata.labels.app\.kubernetes\.io/name
    | \.(?P<every>\*)
    | \[(?P<index>-?\d+)\]
    | \[(?P<all>\*)\]
    | \[(?P<quote>['"])(?P<quoted>.+?)(?P=quote)\]
    | \[\?\(\s*@(?P<path>[^=!<>)]*?)\s*(?:(?P<operator>==|!=)\s*(?P<value>[^)]+?)\s*)?\)\]
    """,
    re.VERBOSE,
)


def parse_wait(text: str) -> tuple[list[Step], str | None]:
    """The path and wanted value of `{.path}` (it only must be there) or `{.path}=value`.

    Raises:
        ValueError: It is not of that form.
    """
    match = re.fullmatch(r"\{(?P<path>.*)\}(?:=(?P<value>.+))?", text.strip(), re.DOTALL)
    if match is None:
        raise ValueError(f"a JSONPath in braces was expected, such as {{.status.phase}}=Running, got {text!r}")
    value = match["value"]
    if value is not None:
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
    return parse(match["path"]), value


def parse(path: str) -> list[Step]:
    """The steps of a path without its braces.

    Raises:
        ValueError: A part of it cannot be understood; the message shows where.
    """
    steps: list[Step] = []
    position = 1 if path.startswith("$") else 0
    while position < len(path):
        match = _TOKEN.match(path, position)
        if match is None:
            raise ValueError(f"the JSONPath {path!r} cannot be understood from {path[position:]!r} on")
        position = match.end()
        if match["field"] is not None:
            steps.append(("field", match["field"].replace("\\.", ".")))
        elif match["quoted"] is not None:
            steps.append(("field", match["quoted"].replace("\\.", ".")))
        elif match["index"] is not None:
            steps.append(("index", int(match["index"])))
        elif match["path"] is not None:
            value = match["value"]
            steps.append(("filter", (parse(match["path"]), match["operator"], _literal(value) if value else None)))
        else:
            steps.append(("all", None))
    if not steps:
        raise ValueError("the JSONPath is empty")
    return steps


def find(steps: Sequence[Step], value: Any) -> list[Any]:
    """Every value that the path leads to; none where it leads nowhere."""
    values = [value]
    for kind, detail in steps:
        values = [found for each in values for found in _step(kind, detail, each)]
    return values


def text(value: Any) -> str:
    """A value as it is compared and shown: `true`, `3`, `Running`, or JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def _step(kind: str, detail: Any, value: Any) -> list[Any]:
    if kind == "field":
        return [value[detail]] if isinstance(value, dict) and detail in value else []
    if kind == "all":
        return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
    if not isinstance(value, list):
        return []
    if kind == "index":
        return [value[detail]] if -len(value) <= detail < len(value) else []
    path, operator, wanted = detail
    if operator is None:
        return [each for each in value if find(path, each)]
    return [each for each in value if ((wanted in [text(found) for found in find(path, each)]) == (operator == "=="))]


def _literal(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
