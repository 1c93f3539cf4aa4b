"""Judging a bundled model on its hold-out: every gate of the spec, a verdict each.

Runs in the child process; `modelworks.lifecycle.run_gates` is the entry point. The gates evaluate the artifact that
will serve, out of the bundle, not the estimator it was made from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial, singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle import intervals, latency, scores
from modelworks.lifecycle import spec_gates as stated
from modelworks.lifecycle.bundle_scores import Champion, load_model, score_bundle, score_champion
from modelworks.lifecycle.intervals import Clusters, Estimate
from modelworks.lifecycle.metrics import METRICS, Outcome
from modelworks.lifecycle.project_errors import project_error
from modelworks.lifecycle.spec import ModelSpec
from modelworks.lifecycle.splits import cluster_numbers
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.predictor import Predictor
from modelworks.runtime.server.custom_service import Service
from modelworks.runtime.stored import example_rows

if TYPE_CHECKING:
    import pandas as pd

BEHAVIOUR_ROWS = 2000
"""Most hold-out rows a behaviour test changes."""
MOST_EVIDENCE = 0.9
"""Up to this share of all clusters, a report states how many a number rests on."""
TOLERANCE = 1e-6
"""A prediction that moves by less has not moved."""


Found = TypeVar("Found")


class Judged(NamedTuple):
    """Input of the gates."""

    spec: ModelSpec
    outcome: Outcome
    """Of the bundled model, on the hold-out."""
    clusters: Clusters
    """Of the rows of the hold-out."""
    train_target: np.ndarray
    champion: Champion | str | None
    """The bundle that serves now; or why it cannot be compared; or nothing serves."""
    score: Callable[[pd.DataFrame], np.ndarray]
    """Its scores for other rows."""
    model: Predictor | Service
    size: int
    """Bytes of the bundle."""


def judge(
    spec: ModelSpec,
    frame: pd.DataFrame,
    parts: dict[str, np.ndarray],
    job: dict[str, Any],
    step: Callable[[str], AbstractContextManager[None]],
) -> list[dict[str, Any]]:
    """Verdicts of the gates of the job, on the hold-out of `frame`, as `parts` have it."""
    target = scores.encode_target(spec, frame)
    rows = frame.iloc[parts["holdout"]].reset_index(drop=True)
    with tempfile.TemporaryDirectory(prefix="modelworks-gates-") as scratch, ExitStack() as services:
        path = Path(job["bundle"])
        bento = Path(scratch) / "bento"
        manifest = open_bundle(path, Digest(job["digest"]), spec.name, bento)
        with step("score the hold-out"):
            model = load_model(bento, manifest, services)
            score = partial(score_bundle, spec, model)
            truth = target[parts["holdout"]]
            predicted = score(rows)
            outcome = Outcome(spec.kind, truth, predicted, rows, spec.service.threshold)
            champion = score_champion(spec, job, Path(scratch) / "champion", outcome)
        size = path.stat().st_size
        judged = Judged(spec, outcome, clusters_of(spec, rows), target[parts["train"]], champion, score, model, size)
        results = []
        asked = [gate for gate in spec.gates if job["only"] in {"", type(gate).__name__}]
        with step(f"judge {len(asked)} gate{'s' if len(asked) != 1 else ''}"):
            for gate in asked:
                found = _judge(gate, judged)
                results += [
                    {"gate": type(gate).__name__, "because": gate.because, "source": gate.where, **each}
                    for each in found
                ]
    return results


# -- Verdicts --------------------------------------------------------------------------------------------------------
def _verdict(value: float, worst: float, limit: float, *, at_least: bool) -> str:
    """Pass when even the worse end of the interval holds, fail when not even the estimate does."""
    if not np.isfinite(value) or not np.isfinite(worst):
        return "inconclusive"
    sign = 1 if at_least else -1
    if sign * (value - limit) < 0:
        return "fail"
    return "pass" if sign * (worst - limit) >= 0 else "inconclusive"


def clusters_of(spec: ModelSpec, rows: pd.DataFrame) -> Clusters:
    """The rows that resemble each other, as the spec names them."""
    return Clusters(cluster_numbers(spec, rows), spec.data.clusters)


def _estimate(judged: Judged, metric: str, outcome: Outcome | None = None, rows: np.ndarray | None = None) -> Estimate:
    """A metric of some of the rows, with how it varies.

    Args:
        judged: The input of the gates.
        metric: Name of the metric.
        outcome: Over all rows. Default: that of the bundled model.
        rows: Their positions. Default: all.
    """
    outcome = outcome or judged.outcome
    known = METRICS.get(metric)
    if known is None:
        function = scores.metric_of(judged.spec, metric)
        return intervals.bootstrap(
            lambda index: _evaluate(judged, function, outcome.take(index)), judged.clusters, judged.spec.seed, rows
        )
    part = outcome if rows is None else outcome.numbers(rows)
    found = intervals.jackknife(_evaluate(judged, known.measure, part), judged.clusters, known.scale, rows)
    return found.of_size() if known.size else found


def _part(judged: Judged, rows: np.ndarray) -> Judged:
    """The same, on some of the rows."""
    return judged._replace(outcome=judged.outcome.take(rows), clusters=judged.clusters.take(rows))


def _evaluate(judged: Judged, function: Callable[[Outcome], Found], outcome: Outcome) -> Found:
    try:
        return function(outcome)
    except ModelworksError:
        raise
    except Exception as error:
        raise project_error(error, judged.spec.folder, "is evaluated") from error


def _assumes(judged: Judged, metric: str, *estimates: Estimate) -> str:
    """The assumption of an interval, with the evidence that it rests on where that is less than all clusters."""
    evidence = min(each.evidence for each in estimates)
    if evidence > MOST_EVIDENCE * judged.clusters.count:
        return str(judged.clusters)
    return f"{judged.clusters}; {metric} rests on what is worth {evidence:,.0f} of them"


def _result(subject: str, verdict: str, message: str, **numbers: Any) -> dict[str, Any]:
    without = numbers.get("interval") is not None and not np.isfinite(numbers["interval"]).all()
    return {
        "subject": subject,
        "verdict": verdict,
        "message": message + ("; too few rows or clusters for an interval" if without else ""),
        "number": None,
        "interval": None,
        "limit": None,
        "assumes": "",
        **numbers,
    }


# -- The gates -------------------------------------------------------------------------------------------------------
@singledispatch
def _judge(gate: stated.Gate, judged: Judged) -> list[dict[str, Any]]:
    raise ModelworksError(f"{gate.where}: {type(gate).__name__} is not a gate that {judged.spec.name} can be judged by")


@_judge.register
def _(gate: stated.MetricGate, judged: Judged) -> list[dict[str, Any]]:
    found = _estimate(judged, gate.metric)
    value, (low, high) = found.value, intervals.interval(found)
    at_least = gate.at_least is not None
    limit = gate.at_least if gate.at_least is not None else gate.at_most
    if limit is None:  # pragma: no cover - the gate refuses it when it is made
        return []
    verdict = _verdict(value, low if at_least else high, limit, at_least=at_least)
    message = f"must be at {'least' if at_least else 'most'} {limit:g}"
    numbers = {"number": value, "interval": [low, high], "limit": limit}
    assumes = _assumes(judged, gate.metric, found)
    return [_result(gate.metric, verdict, message, **numbers, assumes=assumes)]


@_judge.register
def _(gate: stated.BaselineGate, judged: Judged) -> list[dict[str, Any]]:
    outcome = judged.outcome
    if judged.spec.kind == "regression":
        trivial = np.full(len(outcome.truth), float(np.median(judged.train_target)))
    else:
        shares = np.bincount(judged.train_target, minlength=len(judged.spec.classes)) / len(judged.train_target)
        trivial = np.tile(shares, (len(outcome.truth), 1))
    rival = Outcome(outcome.kind, outcome.truth, trivial, outcome.rows, outcome.threshold)
    return [_gain(judged, gate.metric, rival, gate.margin, "better than the trivial answer ({:.4g}) by at least {:g}")]


@_judge.register
def _(gate: stated.ChampionGate, judged: Judged) -> list[dict[str, Any]]:
    if judged.champion is None:
        return [
            _result(
                gate.metric, "pass", "nothing serves there yet: there is no champion to lose to", limit=-gate.margin
            )
        ]
    if isinstance(judged.champion, str):
        return [_result(gate.metric, "inconclusive", judged.champion, limit=-gate.margin)]
    rows, rival = judged.champion
    if len(rows) < gate.min_rows:
        message = (
            f"of {len(judged.outcome.truth):,} hold-out rows the champion was not trained on {len(rows):,}, fewer than "
            f"the {gate.min_rows:,} it takes to decide"
        )
        return [_result(gate.metric, "inconclusive", message, limit=-gate.margin)]
    rule = "not worse than the champion ({:.4g}) by more than {:g}"
    part = _part(judged, rows)
    return [
        _gain(part, gate.metric, rival, -gate.margin, f"{rule}, on the {len(rows):,} rows that neither was trained on")
    ]


def _gain(judged: Judged, metric: str, rival: Outcome, least: float, rule: str) -> dict[str, Any]:
    """The verdict on how much better the model is than a rival on the same rows."""
    sign = 1 if judged.spec.higher_is_better(metric) else -1
    ours, theirs = _estimate(judged, metric), _estimate(judged, metric, rival)
    of_labels = metric in METRICS and METRICS[metric].of_labels
    differ = not np.array_equal(judged.outcome.scores, rival.scores)
    gain = intervals.paired(*(ours, theirs)[::sign], of_labels=of_labels and differ)
    ends = intervals.interval(gain)
    verdict = _verdict(gain.value, ends[0], least, at_least=True)
    numbers = {"number": gain.value, "interval": list(ends), "limit": least}
    message = rule.format(theirs.value, abs(least))
    return _result(metric, verdict, message, **numbers, assumes=_assumes(judged, metric, gain))


@_judge.register
def _(gate: stated.SliceGate, judged: Judged) -> list[dict[str, Any]]:
    at_least = judged.spec.higher_is_better(gate.metric)
    column, _ = scores.group_names(judged.outcome.rows[gate.by], 0, pool=False)
    results = []
    for name in sorted(set(column)):
        part = np.nonzero(column == name)[0]
        subject = f"{gate.metric} where {gate.by} is {name}"
        if len(part) < gate.min_rows:
            message = f"{len(part)} rows, fewer than the {gate.min_rows} it takes to decide"
            results.append(_result(subject, "inconclusive", message, limit=gate.limit))
            continue
        of_slice = _part(judged, part)
        found = _estimate(of_slice, gate.metric)
        value, (low, high) = found.value, intervals.interval(found)
        verdict = _verdict(value, low if at_least else high, gate.limit, at_least=at_least)
        message = f"must be at {'least' if at_least else 'most'} {gate.limit:g} in every slice"
        numbers = {"number": value, "interval": [low, high], "limit": gate.limit}
        assumes = _assumes(of_slice, gate.metric, found)
        results.append(_result(subject, verdict, message, **numbers, assumes=assumes))
    return results


@_judge.register
def _(gate: stated.FairnessGate, judged: Judged) -> list[dict[str, Any]]:
    group = next(each for each in judged.spec.groups if each.column == gate.group)
    names, small = scores.group_names(judged.outcome.rows[group.column], group.min_rows, pool=group.pool_small)
    results = [
        _result(f"{gate.metric} for {gate.group} {name}", "inconclusive", f"{number} rows, {group.min_rows} are needed")
        for name, number in small.items()
    ]
    big = sorted(set(names) - set(small))
    if len(set(names)) < 2 or not big:
        message = f"there are fewer than two groups, or none with {group.min_rows} rows"
        return [*results, _result(f"{gate.metric} across {gate.group}", "inconclusive", message)]
    pairs = [_against_the_rest(judged, gate.metric, names == name) for name in big]
    if gate.max_difference is not None:
        limits = (-gate.max_difference, gate.max_difference)
        rule = f"differs from the other rows by at most {gate.max_difference:g}"
        ends = intervals.simultaneous(pairs, intervals.difference)
        values = [one.value - rest.value for one, rest in pairs]
        results += [
            _fairness(gate, "difference", rule, limits, judged, *each)
            for each in zip(big, pairs, values, ends, strict=True)
        ]
    if gate.min_ratio is not None:
        limits = (gate.min_ratio, 1 / gate.min_ratio)
        rule = f"ratio to the other rows from {limits[0]:g} to {limits[1]:.4g}"
        ends = intervals.simultaneous(pairs, intervals.ratio)
        values = [one.value / rest.value if rest.value > 0 else np.nan for one, rest in pairs]
        results += [
            _fairness(gate, "ratio", rule, limits, judged, *each) for each in zip(big, pairs, values, ends, strict=True)
        ]
    return results


def _against_the_rest(judged: Judged, metric: str, inside: np.ndarray) -> tuple[Estimate, Estimate]:
    """A metric of a group, and of all rows outside of it."""
    one, rest = (_estimate(judged, metric, rows=np.nonzero(rows)[0]) for rows in (inside, ~inside))
    return one, rest


def _fairness(
    gate: stated.FairnessGate,
    kind: str,
    rule: str,
    limits: tuple[float, float],
    judged: Judged,
    name: str,
    pair: tuple[Estimate, Estimate],
    value: float,
    ends: tuple[float, float],
) -> dict[str, Any]:
    """The verdict on one group: with many of them, one beyond a limit by its estimate alone is chance."""
    low, high = ends
    verdict = "inconclusive"
    if np.isfinite([value, low, high]).all():
        if limits[0] <= low and high <= limits[1]:
            verdict = "pass"
        elif low > limits[1] or high < limits[0]:
            verdict = "fail"
    elif not np.isfinite(value):
        rule += f"; {gate.metric} has no number for it, or for the others"
    limit = limits[1] if kind == "difference" else limits[0]
    numbers = {"number": value, "interval": [low, high], "limit": limit}
    assumes = _assumes(judged, gate.metric, *pair)
    return _result(f"{gate.metric} for {gate.group} {name}, {kind}", verdict, rule, **numbers, assumes=assumes)


@_judge.register
def _(gate: stated.LatencyGate, judged: Judged) -> list[dict[str, Any]]:
    model, manifest, limit = judged.model, judged.model.manifest, gate.p99_ms / 1000
    rows = example_rows(manifest)[:1]
    with latency.own_time() as clock:
        found = latency.measure(lambda: model.predict(rows), limit, clock, latency.counting)
    return [_timed(gate.p99_ms, found, by=" by its own service" if manifest.service == "custom" else "")]


def _timed(limit_ms: float, found: latency.Timed, by: str = "") -> dict[str, Any]:
    """The verdict on the time of predictions."""
    verdict = found.verdict(limit_ms / 1000)
    message = f"p99 of predictions of one row{by} at most {limit_ms:g} ms, on this machine"
    if verdict == "inconclusive" and found.busy(limit_ms / 1000):
        message += (
            f"; the machine was busy: work that is always the same took up to {found.delay * 1000:.3g} ms longer at "
            "times. Run the gates again when it is not"
        )
    numbers = {"number": found.quantile * 1000, "interval": [end * 1000 for end in found.ends], "limit": limit_ms}
    assumes = f"{len(found.calls):,} predictions, taken to be independent of each other"
    return _result("latency of one row", verdict, message, **numbers, assumes=assumes)


@_judge.register
def _(gate: stated.SizeGate, judged: Judged) -> list[dict[str, Any]]:
    value = judged.size / 1e6
    verdict = "pass" if value <= gate.megabytes else "fail"
    return [
        _result("size of the bundle", verdict, f"at most {gate.megabytes:g} MB", number=value, limit=gate.megabytes)
    ]


@_judge.register
def _(gate: stated.InvarianceGate, judged: Judged) -> list[dict[str, Any]]:
    before, after = _changed(gate, judged)
    still = np.abs(after - before).reshape(len(before), -1).max(axis=1) <= gate.tolerance
    return [_behaviour(gate, float(still.mean()), f"may move by {gate.tolerance:g}")]


@_judge.register
def _(gate: stated.DirectionGate, judged: Judged) -> list[dict[str, Any]]:
    before, after = _changed(gate, judged)
    if judged.spec.kind == "binary":
        before, after = before[:, 1], after[:, 1]
    moved = (after - before) * (1 if gate.expect == "up" else -1)
    return [_behaviour(gate, float((moved >= -TOLERANCE).mean()), f"must go {gate.expect} or stay")]


def _behaviour(gate: stated.InvarianceGate | stated.DirectionGate, share: float, rule: str) -> dict[str, Any]:
    message = f"the prediction {rule}, for at least {gate.share:.0%} of rows"
    verdict = "pass" if share >= gate.share else "fail"
    return _result(gate.name, verdict, message, number=share, limit=gate.share)


def _changed(gate: stated.InvarianceGate | stated.DirectionGate, judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    rows = judged.outcome.rows
    index = np.linspace(0, len(rows) - 1, min(BEHAVIOUR_ROWS, len(rows))).astype(int)
    sample = rows.iloc[index]
    try:
        changed = gate.change(sample.copy())
    except Exception as error:
        raise project_error(error, judged.spec.folder, f"is tested ({gate.name})") from error
    if len(changed) != len(sample):
        raise ModelworksError(f"{gate.where}: the change of {gate.name!r} must keep the number of rows")
    return judged.outcome.scores[index], judged.score(changed)
