"""The worth of each view of the reference model: its AUC without the view, and with this view alone.

The model is trained by its own code on the rows of `modelworks train`; a view is taken away by setting its features to
zero. Intervals are of the difference on the same hold-out rows, by a bootstrap of whole days, and hold for all of them
at once with 95 % (`modelworks.lifecycle.intervals`). Prints JSON, asserts nothing.

Usage: `python benchmarks/ablation.py`
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from modelworks.lifecycle import Fitted, TrainingData, load_spec
from modelworks.lifecycle.data import load_rows
from modelworks.lifecycle.intervals import Clusters, simultaneous
from modelworks.lifecycle.rows import encode_table
from modelworks.lifecycle.scores import encode_target
from modelworks.lifecycle.splits import split_rows
from modelworks.lifecycle.stored_features import stored_of, with_history

MODEL = Path(__file__).parents[1] / "models" / "flight_delay"


class Scores:
    """The scores of some rows, ranked once so that the AUC of a resample of them costs little."""

    def __init__(self, late: np.ndarray, score: np.ndarray) -> None:
        self._late, self._rank = late, np.unique(score, return_inverse=True)[1]
        self._ranks = int(self._rank.max()) + 1

    def auc(self, rows: np.ndarray) -> float:
        """The share of pairs of a late flight and another in which the late one scores higher (Mann-Whitney)."""
        late, rank = self._late[rows], self._rank[rows]
        positive = np.bincount(rank[late], minlength=self._ranks)
        negative = np.bincount(rank[~late], minlength=self._ranks)
        below = np.cumsum(negative) - negative / 2
        return float((positive * below).sum() / (positive.sum() * negative.sum()))


def main() -> None:
    """Train once with everything, and once without each view and without all of them."""
    spec = load_spec(MODEL)
    stored = stored_of(spec)
    if stored is None:
        raise SystemExit(f"{spec.name} reads no features")
    frame = with_history(spec, load_rows(spec, stored), stored)
    parts, target = split_rows(spec, frame), encode_target(spec, frame)
    table = encode_table(frame, spec.served_features, spec.input)

    def scores(without: tuple[str, ...]) -> np.ndarray:
        x = np.array(table, copy=True)
        x[:, [spec.feature_names.index(name) for name in without]] = 0
        train, validation = parts["train"], parts["validation"]
        made = spec.train(
            TrainingData(
                x=x[train], y=target[train], x_validation=x[validation], y_validation=target[validation],
                columns=spec.feature_names, rows=frame.iloc[train], parameters=spec.parameters, seed=spec.seed,
            )
        )  # fmt: skip
        estimator = made.estimator if isinstance(made, Fitted) else made
        found: np.ndarray = estimator.predict_proba(x[parts["holdout"]])[:, 1]
        return found

    late = target[parts["holdout"]].astype(bool)
    days = Clusters(np.unique(frame["day"].iloc[parts["holdout"]], return_inverse=True)[1], ("day",))
    everything, nothing = Scores(late, scores(())), Scores(late, scores(stored.names))
    pairs = {"with all of them, less with none": (everything, nothing)}
    for view in stored.views:
        others = tuple(name for name in stored.names if name not in view.features)
        pairs[f"without {view.name}, less with all"] = (Scores(late, scores(tuple(view.features))), everything)
        pairs[f"with {view.name} alone, less with none"] = (Scores(late, scores(others)), nothing)

    def differences(rows: np.ndarray) -> np.ndarray:
        return np.array([one.auc(rows) - other.auc(rows) for one, other in pairs.values()])

    rows = np.arange(len(late))
    intervals = simultaneous(differences, days, [days.count] * len(pairs), spec.seed)
    print(
        json.dumps(
            {
                "rows": {name: len(index) for name, index in parts.items()},
                "clusters": str(days),
                "auc of the hold-out": round(everything.auc(rows), 4),
                "difference": {
                    name: [round(float(each), 4) for each in (found, *ends)]
                    for name, found, ends in zip(pairs, differences(rows), intervals, strict=True)
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
