"""An estimator's targets and predictions, and its metrics over all rows and by slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modelworks.errors import ModelworksError
from modelworks.lifecycle.metrics import METRIC_NAME, METRICS, Kind, Outcome, metrics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec


def encode_target(spec: ModelSpec, rows: pd.DataFrame) -> np.ndarray:
    """The target as positions in `classes`, or as values.

    Raises:
        ModelworksError: A value is no class, missing or not finite.
    """
    column = rows[spec.target]
    if spec.kind == "regression":
        values = np.asarray(column, dtype="float64")
        bad = ~np.isfinite(values)
        if bad.any():
            raise ModelworksError(f"target {spec.target!r} is missing or not finite in {int(bad.sum())} rows")
        return values
    position = {label: index for index, label in enumerate(spec.classes)}
    unknown = sorted({str(value) for value in column.unique() if value not in position})
    if unknown:
        raise ModelworksError(
            f"target {spec.target!r} has values that are not among the classes {list(spec.classes)}: {unknown[:5]}",
            fix=f"Map them in data.load, or add them to classes in {spec.file}.",
        )
    return np.asarray(column.map(position), dtype=np.int64)


def validate(spec: ModelSpec, answer: Any, rows: int) -> np.ndarray:
    """A model's answer, proven to be finite and of the right shape.

    Raises:
        ModelworksError: It is not.
    """
    scores = np.asarray(answer, dtype="float64")
    if spec.kind == "regression":
        scores = scores.reshape(-1)
    shape = (rows,) if spec.kind == "regression" else (rows, len(spec.classes))
    if scores.shape != shape:
        raise ModelworksError(
            f"{spec.name} predicts an array of shape {scores.shape}; {shape} is expected",
            fix="Every class must be among the training rows, and the last step must be a classifier of these classes.",
        )
    bad = ~np.isfinite(scores)
    if bad.any():
        raise ModelworksError(
            f"{spec.name} predicts NaN or infinity for {int(bad.reshape(rows, -1).any(axis=1).sum())} of {rows} rows",
            fix="Scale or bound the features, or choose parameters that converge; nothing was kept.",
        )
    return scores


def metric_of(spec: ModelSpec, name: str) -> Callable[[Outcome], float]:
    """The function that computes a metric; NaN where it is undefined (one class only, no positives)."""
    if name in METRICS:
        return METRICS[name].function
    if spec.evaluate is None:  # pragma: no cover - the spec refuses it when it is made
        raise ModelworksError(f"{spec.where}: {name!r} is not a metric")

    def own(outcome: Outcome) -> float:
        found = _own_metrics(spec, outcome)
        if name not in found:
            raise ModelworksError(
                f"{spec.where}: {name!r} is neither a metric of a {spec.kind} model nor one of evaluate: "
                f"{sorted(found)}"
            )
        return float(found[name])

    return own


def all_metrics(spec: ModelSpec, outcome: Outcome) -> dict[str, float]:
    """Every metric of the kind and of the spec's own `evaluate`."""
    found = {name: METRICS[name].function(outcome) for name in metrics_of(spec.kind)}
    return found | {name: float(value) for name, value in _own_metrics(spec, outcome).items()}


def _own_metrics(spec: ModelSpec, outcome: Outcome) -> Mapping[str, float]:
    """The result of the spec's `evaluate`, which adds metrics and replaces none."""
    found: Mapping[str, float] = spec.evaluate(outcome) if spec.evaluate else {}
    if taken := sorted(set(found) & set(METRICS)):
        raise ModelworksError(
            f"{spec.where}: evaluate returns {', '.join(map(repr, taken))}, the name of a built-in metric",
            fix="Give it another name: gates would go by the built-in one, and the card would show yours.",
        )
    if odd := sorted(str(name) for name in found if not METRIC_NAME.fullmatch(str(name))):
        raise ModelworksError(
            f"{spec.where}: evaluate returns {', '.join(map(repr, odd))}; a metric's name is letters, digits and any "
            "of _-./: and blank",
            fix="Give it another name, such as recall_at_10.",
        )
    return found


def group_names(column: pd.Series[Any], min_rows: int, *, pool: bool) -> tuple[np.ndarray, dict[str, int]]:
    """The group of each row, and the groups with fewer than `min_rows` rows.

    With `pool`, those become one group called `other (A, B, ...)`, which may itself be too small.
    """
    names = np.array([_group_name(each) for each in column.to_numpy()], dtype=object)
    counts = {str(name): int(number) for name, number in zip(*np.unique(names, return_counts=True), strict=True)}
    small = {name: number for name, number in counts.items() if number < min_rows}
    if pool and small:
        together, number = f"other ({', '.join(small)})", sum(small.values())
        names = np.where(np.isin(names, list(small)), together, names)
        small = {together: number} if number < min_rows else {}
    return names, small


def _group_name(value: Any) -> str:
    """A group as people write it, with every digit that distinguishes it from another."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return "missing"
    if isinstance(value, float | np.floating):
        return np.format_float_positional(value, trim="-")
    return str(value)


OF_SLICES: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("auc", "brier", "recall", "false_positive_rate", "selection_rate"),
    "multiclass": ("accuracy", "macro_f1", "log_loss"),
    "regression": ("mae", "rmse"),
}
"""Metrics that the model card shows for slices and groups."""


def slices_of(spec: ModelSpec, outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """Metrics of every slice and protected group that the spec names, by column."""
    groups = {group.column: group for group in spec.groups}
    columns = [*groups, *(gate.by for gate in spec.gates if hasattr(gate, "by"))]
    found = {}
    for column in dict.fromkeys(columns):
        group = groups.get(column)
        names, _ = group_names(
            outcome.rows[column], group.min_rows if group else 0, pool=bool(group and group.pool_small)
        )
        rows = []
        for name in sorted(set(names)):
            part = outcome.take(np.nonzero(names == name)[0])
            metrics = {metric: METRICS[metric].function(part) for metric in OF_SLICES[spec.kind]}
            rows.append({"slice": name, "rows": len(part.truth), "metrics": metrics})
        found[column] = rows
    return found
