"""Truth and predictions over some rows, and the numbers that judge them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from modelworks.lifecycle.spec import Feature, Kind, ModelSpec
    from modelworks.runtime.manifest import Feature as ServedFeature

FLOOR = 1e-15
"""Probabilities are cut off here before a logarithm is taken."""


@dataclass(frozen=True)
class Outcome:
    """What was true and what was predicted for the same rows."""

    kind: Kind
    truth: np.ndarray
    """Positions in `classes`, or values."""
    scores: np.ndarray
    """Probabilities, [rows, classes], or values, [rows]."""
    rows: pd.DataFrame
    """The rows as loaded, in the same order."""
    threshold: float = 0.5

    @property
    def positive(self) -> np.ndarray:
        """Binary: the probability of the positive class."""
        return self.scores[:, 1]

    @property
    def labels(self) -> np.ndarray:
        """The answers: positions in `classes`, or the values themselves."""
        if self.kind == "binary":
            return (self.positive >= self.threshold).astype(np.int64)
        return self.scores.argmax(axis=1) if self.kind == "multiclass" else self.scores

    def take(self, index: np.ndarray) -> Outcome:
        """The outcome of some of the rows: a slice, or a bootstrap sample."""
        return Outcome(self.kind, self.truth[index], self.scores[index], self.rows.iloc[index], self.threshold)


def encode(rows: pd.DataFrame, features: Sequence[Feature | ServedFeature], how: str) -> Any:
    """Features as the estimator takes them; `modelworks.runtime.manifest` states the rule for a matrix.

    Values pass through float32 first, as they do in ONNX, so that training sees the numbers that serving will see.
    """
    import pandas as pd  # noqa: PLC0415 - only where rows are at hand

    columns = {}
    for feature in features:
        column = rows[feature.name]
        if feature.type == "string":
            if how == "frame":
                columns[feature.name] = column.astype(object).where(column.notna(), None)
            else:
                codes = pd.Categorical(column, categories=list(feature.categories)).codes
                columns[feature.name] = np.where(codes < 0, np.nan, codes)
        else:
            columns[feature.name] = pd.to_numeric(column).astype("float32").astype("float64")
    if how == "frame":
        return pd.DataFrame(columns, index=rows.index)
    return np.column_stack([np.asarray(each, dtype="float64") for each in columns.values()])


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


def predict(spec: ModelSpec, estimator: Any, x: Any) -> np.ndarray:
    """Scores of an estimator.

    Raises:
        ModelworksError: They are not finite, or not of the shape the kind demands.
    """
    raw = estimator.predict(x) if spec.kind == "regression" else estimator.predict_proba(x)
    return sound(spec, np.asarray(raw, dtype="float64"), len(x))


def sound(spec: ModelSpec, scores: np.ndarray, rows: int) -> np.ndarray:
    """`scores`, proven to be finite and of the right shape.

    Raises:
        ModelworksError: They are not.
    """
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
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if spec.evaluate is None:  # pragma: no cover - the spec refuses it when it is made
        raise ModelworksError(f"{spec.where}: {name!r} is not a metric")
    evaluate = spec.evaluate

    def own(outcome: Outcome) -> float:
        found = evaluate(outcome)
        if name not in found:
            raise ModelworksError(
                f"{spec.where}: {name!r} is neither a metric of a {spec.kind} model nor one of evaluate: "
                f"{sorted(found)}"
            )
        return float(found[name])

    return own


def all_metrics(spec: ModelSpec, outcome: Outcome) -> dict[str, float]:
    """Every metric of the kind and of the spec's own `evaluate`."""
    from modelworks.lifecycle.spec import METRICS  # noqa: PLC0415 - circular otherwise

    found = {name: FUNCTIONS[name](outcome) for name in METRICS[spec.kind]}
    own: Mapping[str, float] = spec.evaluate(outcome) if spec.evaluate else {}
    return found | {name: float(value) for name, value in own.items()}


def group_names(column: pd.Series[Any], min_rows: int, *, pool: bool) -> tuple[np.ndarray, dict[str, int]]:
    """The group of each row, and the groups with fewer than `min_rows` rows.

    With `pool`, those become one group called `other (A, B, ...)`, which may itself be too small.
    """
    names = np.array([f"{each:g}" if isinstance(each, float) else str(each) for each in column.tolist()], dtype=object)
    counts = {str(name): int(number) for name, number in zip(*np.unique(names, return_counts=True), strict=True)}
    small = {name: number for name, number in counts.items() if number < min_rows}
    if pool and small:
        together, number = f"other ({', '.join(small)})", sum(small.values())
        names = np.where(np.isin(names, list(small)), together, names)
        small = {together: number} if number < min_rows else {}
    return names, small


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
            metrics = {metric: FUNCTIONS[metric](part) for metric in OF_SLICES[spec.kind]}
            rows.append({"slice": name, "rows": len(part.truth), "metrics": metrics})
        found[column] = rows
    return found


# -- Metrics ---------------------------------------------------------------------------------------------------------
def _auc(outcome: Outcome) -> float:
    # The rank statistic (Mann-Whitney): ties count half.
    truth, scores = outcome.truth == 1, outcome.positive
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(scores, kind="stable")  # linear where the rows already stand in order, as a bootstrap sees to
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _average_precision(outcome: Outcome) -> float:
    truth = outcome.truth == 1
    if not truth.any():
        return float("nan")
    order = np.argsort(-outcome.positive, kind="stable")
    scores, hits = outcome.positive[order], np.cumsum(truth[order])
    last = np.r_[np.nonzero(np.diff(scores))[0], len(scores) - 1]  # one threshold a distinct score
    recall = hits[last] / hits[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * hits[last] / (last + 1)))


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    count = int(whole.sum())
    return float((part & whole).sum() / count) if count else float("nan")


def _accuracy(outcome: Outcome) -> float:
    return float(np.mean(outcome.labels == outcome.truth))


def _precision(outcome: Outcome) -> float:
    return _share(outcome.truth == 1, outcome.labels == 1)


def _recall(outcome: Outcome) -> float:
    return _share(outcome.labels == 1, outcome.truth == 1)


def _specificity(outcome: Outcome) -> float:
    return _share(outcome.labels == 0, outcome.truth == 0)


def _false_positive_rate(outcome: Outcome) -> float:
    return _share(outcome.labels == 1, outcome.truth == 0)


def _f1(outcome: Outcome) -> float:
    hits = int(((outcome.labels == 1) & (outcome.truth == 1)).sum())
    named = int((outcome.labels == 1).sum()) + int((outcome.truth == 1).sum())
    return 2 * hits / named if named else float("nan")


def _selection_rate(outcome: Outcome) -> float:
    return float(np.mean(outcome.labels == 1))


def _calibration_gap(outcome: Outcome) -> float:
    # How far the mean probability is from the share that came true: predictions that mean what they say.
    return float(abs(outcome.positive.mean() - np.mean(outcome.truth == 1)))


def _brier(outcome: Outcome) -> float:
    return float(np.mean((outcome.positive - (outcome.truth == 1)) ** 2))


def _log_loss(outcome: Outcome) -> float:
    chosen = outcome.scores[np.arange(len(outcome.truth)), outcome.truth]
    return float(-np.mean(np.log(np.clip(chosen, FLOOR, 1))))


def _recalls(outcome: Outcome) -> np.ndarray:
    present = np.unique(outcome.truth)
    return np.array([np.mean(outcome.labels[outcome.truth == each] == each) for each in present])


def _balanced_accuracy(outcome: Outcome) -> float:
    return float(_recalls(outcome).mean())


def _macro_f1(outcome: Outcome) -> float:
    scores = []
    for each in np.union1d(outcome.truth, outcome.labels):  # a class that is only predicted counts, with 0
        true, named = outcome.truth == each, outcome.labels == each
        scores.append(2 * float((true & named).sum()) / float(true.sum() + named.sum()))
    return float(np.mean(scores))


def _mae(outcome: Outcome) -> float:
    return float(np.mean(np.abs(outcome.scores - outcome.truth)))


def _median_error(outcome: Outcome) -> float:
    return float(np.median(np.abs(outcome.scores - outcome.truth)))


def _rmse(outcome: Outcome) -> float:
    return float(np.sqrt(np.mean((outcome.scores - outcome.truth) ** 2)))


def _r2(outcome: Outcome) -> float:
    spread = float(np.sum((outcome.truth - outcome.truth.mean()) ** 2))
    return 1 - float(np.sum((outcome.scores - outcome.truth) ** 2)) / spread if spread else float("nan")


FUNCTIONS: dict[str, Callable[[Outcome], float]] = {
    "auc": _auc, "average_precision": _average_precision, "accuracy": _accuracy, "precision": _precision,
    "recall": _recall, "specificity": _specificity, "false_positive_rate": _false_positive_rate, "f1": _f1,
    "selection_rate": _selection_rate, "calibration_gap": _calibration_gap, "brier": _brier, "log_loss": _log_loss,
    "balanced_accuracy": _balanced_accuracy, "macro_f1": _macro_f1, "mae": _mae, "median_error": _median_error,
    "rmse": _rmse, "r2": _r2,
}  # fmt: skip
