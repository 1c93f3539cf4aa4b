"""The worth of each view of the reference model: its AUC without the view, and with this view alone.

The model is trained by its own code; a view is taken away by setting its features to zero. Every two months from May on
are a hold-out of their own: the two before them end the training, all earlier ones are trained on. The AUC is that of
all hold-outs together. Intervals are of the difference on the same rows, by a jackknife of whole days, and hold for all
of them at once with 95 % (`modelworks.lifecycle.intervals`). Prints JSON, asserts nothing.

Usage: `python benchmarks/ablation.py`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from modelworks.lifecycle import Fitted, TrainingData, load_spec
from modelworks.lifecycle.data import load_rows
from modelworks.lifecycle.intervals import Clusters, Estimate, difference, jackknife, simultaneous
from modelworks.lifecycle.metrics import METRICS, Outcome
from modelworks.lifecycle.rows import encode_table
from modelworks.lifecycle.scores import encode_target
from modelworks.lifecycle.splits import moments
from modelworks.lifecycle.stored_features import stored_of, with_history

MODEL = Path(__file__).parents[1] / "models" / "flight_delay"
HOLDOUTS = pd.date_range("2013-05-01", "2013-11-01", freq="2MS", tz="UTC")
LENGTH = pd.DateOffset(months=2)


def folds(time: pd.Series) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions of the rows to train on, to stop by, and to judge by."""
    for begin in HOLDOUTS:
        masks = (
            time < begin - LENGTH,
            (time >= begin - LENGTH) & (time < begin),
            (time >= begin) & (time < begin + LENGTH),
        )
        train, validation, holdout = (np.nonzero(mask.to_numpy())[0] for mask in masks)
        yield train, validation, holdout


def main() -> None:
    """Train with everything, without each view, with each alone, and with none, once a hold-out."""
    spec = load_spec(MODEL)
    stored = stored_of(spec)
    if stored is None:
        raise SystemExit(f"{spec.name} reads no features")
    frame = with_history(spec, load_rows(spec, stored), stored)
    target, table = encode_target(spec, frame), encode_table(frame, spec.served_features, spec.input)
    parts = list(folds(moments(frame[spec.data.split.time])))
    judged = np.concatenate([holdout for *_, holdout in parts])
    clusters = Clusters(np.unique(frame["day"].iloc[judged], return_inverse=True)[1], ("day",))

    def auc(without: Sequence[str]) -> Estimate:
        x = np.array(table, copy=True)
        x[:, [spec.feature_names.index(name) for name in without]] = 0
        scores = []
        for train, validation, holdout in parts:
            made = spec.train(
                TrainingData(
                    x=x[train], y=target[train], x_validation=x[validation], y_validation=target[validation],
                    columns=spec.feature_names, rows=frame.iloc[train], parameters=spec.parameters, seed=spec.seed,
                )
            )  # fmt: skip
            estimator = made.estimator if isinstance(made, Fitted) else made
            scores.append(estimator.predict_proba(x[holdout]))
        outcome = Outcome(spec.kind, target[judged], np.concatenate(scores), frame.iloc[judged])
        print(f"without {', '.join(without) or 'nothing'}", file=sys.stderr)
        return jackknife(METRICS["auc"].measure(outcome), clusters, METRICS["auc"].scale)

    everything, nothing = auc(()), auc(stored.names)
    pairs = {"with all of them, less with none": (everything, nothing)}
    for view in stored.views:
        others = [name for name in stored.names if name not in view.features]
        pairs[f"without {view.name}, less with all"] = (auc(list(view.features)), everything)
        pairs[f"with {view.name} alone, less with none"] = (auc(others), nothing)
    intervals = simultaneous(list(pairs.values()), difference)
    print(
        json.dumps(
            {
                "rows": [dict(zip(("train", "validation", "holdout"), map(len, part), strict=True)) for part in parts],
                "clusters": str(clusters),
                "auc of the hold-outs": {"all": round(everything.value, 4), "none": round(nothing.value, 4)},
                "difference": {
                    name: [round(float(each), 4) for each in (one.value - two.value, *ends)]
                    for (name, (one, two)), ends in zip(pairs.items(), intervals, strict=True)
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
