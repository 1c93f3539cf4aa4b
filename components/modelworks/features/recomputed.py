"""On-demand features that were served, computed again from their inputs in the prediction log.

The functions of a project run here, in its own checkout. The job of an environment has none of them, and runs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from modelworks._files import digest_of_file
from modelworks.feature_manifest import OnDemandView, read_manifest
from modelworks.features.definitions import importable
from modelworks.features.served import EXAMPLES, Served, Skew, input_column, key_column
from modelworks.runtime.manifest import OnDemand
from modelworks.runtime.on_demand import OnDemandViews, UncomputableError
from modelworks.runtime.stored import accepted


def verify_computed(served: Iterable[Served], project: Path) -> Iterator[Skew]:
    """Compare what on-demand views gave with what their functions give now.

    Views of another definition, or whose function's file was changed since it was applied, are not compared; nor are
    those with an input or a feature that is private, because the log does not have it.

    Args:
        served: Rows of the prediction log.
        project: The project that defines the views.

    Raises:
        ModelworksError: A function is not where its definition has it.
    """
    known = read_manifest(project).on_demand
    with importable(project / "models"):
        for each in served:
            for view in each.stored.stored.on_demand:
                now = known.get(view.name)
                if now and now.digest == view.digest and _is_same_code(now, project):
                    yield from _skew(each, view, now.function.partition(".")[0])


def _is_same_code(view: OnDemandView, project: Path) -> bool:
    module = view.function.partition(":")[0]
    file = project.joinpath("models", *module.split(".")).with_suffix(".py")
    return file.is_file() and digest_of_file(file) == view.code


def _skew(served: Served, view: OnDemand, package: str) -> Iterator[Skew]:
    rows, stored = served.rows, served.stored.stored
    asked = [name for name in view.inputs if ":" not in name]
    columns = [key_column(rows, name) for name in asked]
    read = [f"{each.name}:{name}" for each in stored.views for name in each.features]
    if not all(columns) or any(input_column(entry) not in rows.columns for entry in view.inputs if ":" in entry):
        return
    requests = _rows([rows[str(column)].to_list() for column in columns], len(rows))
    nothing: list[Any] = [None] * len(rows)
    inputs = [rows[column].to_list() if (column := input_column(entry)) in rows.columns else nothing for entry in read]
    function = OnDemandViews(
        msgspec.structs.replace(stored, on_demand=(view,)), {name: place for place, name in enumerate(asked)}, package
    )
    computed = [_computed(function, *row) for row in zip(requests, _rows(inputs, len(rows)), strict=True)]
    for place, name in enumerate(view.features):
        feature = next((each for each in served.stored.features if each.name == name), None)
        if feature is None:
            continue
        default, different = stored.defaults.get(name), 0
        examples: list[str] = []
        for row, got in enumerate(rows[f"feature_{name}"].to_list()):
            made = accepted(feature, computed[row][place]) if computed[row] else None
            if got == (default if made is None else made):
                continue
            different += 1
            if len(examples) < EXAMPLES:
                given = ", ".join(f"{each}={value}" for each, value in zip(asked, requests[row], strict=True))
                examples.append(
                    f"{given} at {rows['read_at'][row]:%Y-%m-%dT%H:%M:%SZ}: different, served {got}, computed {made}"
                )
        yield Skew(view.name, name, len(rows), different, 0, tuple(examples), served.model)


def _rows(columns: list[list[Any]], count: int) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=True)) if columns else [()] * count


def _computed(function: OnDemandViews, request: tuple[Any, ...], read: tuple[Any, ...]) -> tuple[Any, ...]:
    """The features of a row; none where the fallback answered for the function."""
    try:
        return function.compute(request, read)
    except UncomputableError:
        return ()
