"""Data checks: what must hold of the rows before anything is learnt from them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modelworks._files import plain
from modelworks.errors import ModelworksError
from modelworks.lifecycle.drift import SIGNIFICANCE, Drift, drift, holm, profile_of, read_baseline
from modelworks.lifecycle.leakage import ROWS, strength
from modelworks.lifecycle.project_errors import project_error
from modelworks.lifecycle.splits import cluster_numbers, row_hashes, split_rows
from modelworks.runtime.manifest import bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec
    from modelworks.lifecycle.spec_features import Feature

Severity = Literal["error", "warning", "note"]

EXAMPLES = 5
"""Rows shown with a finding."""
SHOWN_BINS = 50
"""Bars of a distribution; the last is all other values."""
LEAK_AUC = 0.97
"""A single feature that separates classes this well is more likely computed from the target than good."""
LEAK_EXPLAINED = 0.98
"""So is one that explains this share of a regression's target."""
_HELD_AS = {
    "Int": {"integer", "floating"},
    "UInt": {"integer", "floating"},
    "Float": {"integer", "floating"},
    "boolean": {"boolean"},
    "string": {"string", "empty"},
}
"""Kinds of values that a type of pandas' own may be held as."""
RARE_CLASS = 0.01
"""Share of rows below which a class is too rare to be learnt without care."""


@dataclass(frozen=True)
class DataFinding:
    """One thing that a check found."""

    check: str
    """schema, completeness, distribution, freshness, leakage, balance or split."""
    severity: Severity
    subject: str
    """The column, or the data as a whole."""
    message: str
    count: int = 0
    """Rows it concerns."""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """All findings about one snapshot."""

    model: str
    data: str
    """Digest of the snapshot."""
    rows: int
    at: str
    """When it was checked, ISO 8601 in UTC."""
    findings: tuple[DataFinding, ...]
    columns: tuple[dict[str, Any], ...]
    """Each feature's type, missing share, range or top values, and shift."""
    checks: tuple[str, ...]
    """The checked subject."""

    @property
    def passed(self) -> bool:
        """Whether training may go on: no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def require(self) -> None:
        """Stop a run whose data is wrong.

        Raises:
            ModelworksError: There are errors; the message names each.
        """
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if errors:
            lines = "\n".join(f"  {each.check}: {each.subject}: {each.message}" for each in errors)
            raise ModelworksError(
                f"the data of {self.model} has {len(errors)} error{'s' if len(errors) > 1 else ''}:\n{lines}",
                fix="Correct the data or its source; `modelworks check-data` shows rows.",
            )

    def to_facts(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {**plain(asdict(self)), "passed": self.passed}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> CheckReport:
        """The report that `to_facts` gave."""
        findings = tuple(DataFinding(**{**each, "examples": tuple(each["examples"])}) for each in facts["findings"])
        return cls(
            facts["model"], facts["data"], facts["rows"], facts["at"], findings, tuple(facts["columns"]),
            tuple(facts["checks"]),
        )  # fmt: skip


def check_rows(spec: ModelSpec, frame: pd.DataFrame, data: str, now: datetime | None = None) -> CheckReport:
    """Run every check of the spec on the rows.

    Args:
        spec: The model's spec.
        frame: The rows.
        data: Digest of their snapshot.
        now: The time that freshness is measured from; default: now.
    """
    now = now or datetime.now(UTC)
    baseline, clusters = read_baseline(spec), cluster_numbers(spec, frame)
    drifts = {
        each.name: drift(baseline.get(each.name, {}), frame[each.name], spec.seed, clusters) for each in spec.features
    }
    checks: dict[str, Callable[[], Sequence[DataFinding]]] = {
        "schema": lambda: _schema(spec, frame),
        "completeness": lambda: _completeness(spec, frame),
        "distribution": lambda: _distribution(spec, baseline, drifts),
        "freshness": lambda: _freshness(spec, frame, now),
        "leakage": lambda: _leakage(spec, frame),
        "balance": lambda: _balance(spec, frame),
        "split": lambda: _split(spec, frame),
    }
    findings: list[DataFinding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except (TypeError, ValueError, ArithmeticError) as error:
            # Wrong types make every later check stumble; the schema's finding is the one to mend first.
            findings.append(DataFinding(name, "error", "data", f"cannot be checked: {type(error).__name__}: {error}"))
    columns = tuple(_describe(each, frame[each.name], drifts[each.name]) for each in spec.features)
    at = now.isoformat(timespec="seconds")
    return CheckReport(spec.name, data, len(frame), at, tuple(findings), columns, tuple(checks))


# -- The checks ------------------------------------------------------------------------------------------------------
def _schema(spec: ModelSpec, frame: pd.DataFrame) -> list[DataFinding]:
    from pandera.errors import SchemaErrors  # it takes a second to import

    try:
        spec.schema.validate(_as_declared(spec.schema, frame), lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        findings = []
        for (column, check), group in cases.groupby(["column", "check"], dropna=False, sort=True):
            subject = str(column) if column is not None and column == column else "data"  # noqa: PLR0124 - NaN
            shown = tuple(_example(row.index, row.failure_case) for row in group.head(EXAMPLES).itertuples(index=False))
            findings.append(
                DataFinding(
                    "schema", "error", subject, f"does not hold: {check}", len(group), _hide(spec, subject, shown)
                )
            )
        return findings
    except Exception as error:
        raise project_error(error, spec.folder, "checks its schema") from error
    return []


def _as_declared(schema: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with the types of pandas' own that a schema declares (`Int64`, `boolean`, `string`).

    Parquet keeps values and which are missing, and not which of two types of pandas held them. A column that does not
    fit the declared type without loss is left, for the schema to refuse.
    """
    import pandas as pd  # only where rows are at hand

    whole = schema.to_schema() if hasattr(schema, "to_schema") else schema
    found = {}
    for name, column in getattr(whole, "columns", {}).items():
        kinds = _HELD_AS.get(re.sub(r"\d+|\[.*", "", str(column.dtype)))
        if kinds is None or name not in frame.columns:
            continue
        if pd.api.types.infer_dtype(frame[name], skipna=True) in kinds:
            with suppress(TypeError, ValueError):
                found[name] = frame[name].astype(str(column.dtype))
    return frame.assign(**found) if found else frame


def _completeness(spec: ModelSpec, frame: pd.DataFrame) -> list[DataFinding]:
    findings = []
    if len(frame) < spec.data.min_rows:
        message = f"{len(frame)} rows, at least {spec.data.min_rows} are wanted (data.min_rows)"
        findings.append(DataFinding("completeness", "error", "data", message, len(frame)))
    duplicates = len(frame) - len(np.unique(row_hashes(frame, list(frame.columns))))
    if duplicates:
        findings.append(DataFinding("completeness", "warning", "data", "rows that repeat another row", duplicates))
    for feature in spec.features:
        missing = frame[feature.name].isna()
        count = int(missing.sum())
        limit = feature.max_missing if feature.nullable or not feature.required else 0.0
        if count / len(frame) > limit:
            message = f"{count / len(frame):.1%} missing, at most {limit:.1%} is allowed"
            examples = tuple(f"row {index}" for index in np.nonzero(missing.to_numpy())[0][:EXAMPLES])
            findings.append(DataFinding("completeness", "error", feature.name, message, count, examples))
        if feature.type in {"number", "integer"}:
            findings += _out_of_range(feature, frame)
        elif feature.categories:
            known = frame[feature.name].isin(feature.categories) | missing
            if not known.all():
                unknown = frame.loc[~known, feature.name].value_counts()
                examples = tuple(f"{value!r} ({number} rows)" for value, number in unknown.head(EXAMPLES).items())
                message = "values that are not among the categories"
                findings.append(
                    DataFinding("completeness", "error", feature.name, message, int((~known).sum()),
                            _hide(spec, feature.name, examples))
                )  # fmt: skip
    times = [each for each in (spec.data.prediction_time, spec.data.split.time) if each]
    needed = {
        spec.target: "the target",
        **dict.fromkeys(times, "the time"),
        **dict.fromkeys(spec.data.split.keys, "the key"),
    }
    for column, what in needed.items():
        missing = frame[column].isna().to_numpy()
        if missing.any():
            examples = tuple(f"row {index}" for index in np.nonzero(missing)[0][:EXAMPLES])
            findings.append(
                DataFinding("completeness", "error", column, f"{what} is missing", int(missing.sum()), examples)
            )
    return findings


def _out_of_range(feature: Feature, frame: pd.DataFrame) -> list[DataFinding]:
    values = frame[feature.name].to_numpy("float64", na_value=np.nan)
    low, high = bounds(feature.served)
    bad = np.isinf(values) | (values < low) | (values > high)
    if not bad.any():
        return []
    message = f"infinite, or outside of {low:g} to {high:g}"
    rows = np.nonzero(bad)[0][:EXAMPLES]
    examples = () if feature.private else tuple(_example(row, values[row].item()) for row in rows)
    return [DataFinding("completeness", "error", feature.name, message, int(bad.sum()), examples)]


def _distribution(spec: ModelSpec, baseline: dict[str, Any], drifts: dict[str, Drift | None]) -> list[DataFinding]:
    save = f"`modelworks check-data {spec.name} --save-baseline` writes it"
    if not baseline:
        return [DataFinding("distribution", "note", "data", f"no {spec.data.baseline} to compare with; {save}")]
    watched = [feature for feature in spec.features if feature.on_shift != "ignore" and not feature.private]
    missing = [feature.name for feature in watched if drifts[feature.name] is None]
    message = f"not in {spec.data.baseline}, or not as rows in bins; {save}"
    findings = [DataFinding("distribution", "note", name, message) for name in missing]
    compared = [(feature, found) for feature in watched if (found := drifts[feature.name])]
    chances = holm(found.p_value for _, found in compared)
    for (feature, found), chance in zip(compared, chances, strict=True):
        if found.shift > feature.max_shift and chance < SIGNIFICANCE:
            message = (
                f"differs from the stored baseline: population stability index {found.shift:.2f}, "
                f"limit {feature.max_shift:g}; by chance in {chance:.2g} of checks of {len(compared)} features"
            )
            severity: Severity = "error" if feature.on_shift == "refuse" else "warning"
            findings.append(DataFinding("distribution", severity, feature.name, message))
    return findings


def _freshness(spec: ModelSpec, frame: pd.DataFrame, now: datetime) -> list[DataFinding]:
    import pandas as pd  # only where rows are at hand

    if spec.data.prediction_time is None:
        return [DataFinding("freshness", "note", "data", "rows carry no time (data.prediction_time)")]
    times = pd.to_datetime(frame[spec.data.prediction_time], utc=True)
    newest = times.max()
    if spec.data.max_age_days is None:
        return [
            DataFinding("freshness", "note", "data", f"a closed data set, up to {newest:%Y-%m-%d}; no limit is stated")
        ]
    age = (pd.Timestamp(now) - newest).total_seconds() / 86_400
    if age > spec.data.max_age_days:
        message = f"the newest row is {age:.1f} days old, at most {spec.data.max_age_days:g} are allowed"
        return [DataFinding("freshness", "error", "data", message, len(frame), (f"newest {newest.isoformat()}",))]
    return []


def _leakage(spec: ModelSpec, frame: pd.DataFrame) -> list[DataFinding]:
    import pandas as pd  # only where rows are at hand

    findings = []
    if spec.data.prediction_time:
        moment = pd.to_datetime(frame[spec.data.prediction_time], utc=True)
        for column in sorted({feature.known_at for feature in spec.features if feature.known_at}):
            late = (pd.to_datetime(frame[column], utc=True) > moment).to_numpy()
            if late.any():
                names = [feature.name for feature in spec.features if feature.known_at == column]
                rows = np.nonzero(late)[0][:EXAMPLES]
                examples = tuple(
                    f"row {row}: known {frame[column].iloc[row]}, predicted {moment.iloc[row]}" for row in rows
                )
                message = f"known only after the prediction time ({column})"
                findings.append(DataFinding("leakage", "error", ", ".join(names), message, int(late.sum()), examples))
    return findings + [finding for feature in spec.features if (finding := _gives_away(spec, feature, frame))]


def _gives_away(spec: ModelSpec, feature: Feature, frame: pd.DataFrame) -> DataFinding | None:
    """A finding about a feature that predicts the target almost perfectly by itself."""
    found = strength(spec, feature, frame)
    limit = LEAK_EXPLAINED if spec.kind == "regression" else LEAK_AUC
    if found is None or found <= limit:
        return None
    how = (
        f"explains {found:.1%} of the target"
        if spec.kind == "regression"
        else f"ranks the target with an AUC of {found:.3f}"
    )
    message = f"alone {how} (limit {limit})"
    if feature.known_because:
        return DataFinding("leakage", "note", feature.name, f"{message}; known because: {feature.known_because}")
    line = f"{_place(spec, feature.where)}: {message}: is it computed from it?"
    fix = 'Leave it out, or state why it is known when predicting: Feature(known_because="...")'
    return DataFinding("leakage", "error", feature.name, f"{line} {fix}", min(len(frame), ROWS))


def _place(spec: ModelSpec, where: str) -> str:
    """File and line without the folder, which is a copy of the project's while its code runs."""
    return where.removeprefix(f"{spec.folder}/")


def _split(spec: ModelSpec, frame: pd.DataFrame) -> list[DataFinding]:
    """Parts that are empty, and hold-out rows whose features were trained on.

    A model may have memorized such rows (Kapoor and Narayanan 2023, "Leakage and the reproducibility crisis in
    machine-learning-based science", L1.4). A warning: rows of few features coincide by nature.
    """
    try:
        parts = split_rows(spec, frame)
    except ModelworksError as error:
        return [DataFinding("split", "error", "data", f"{_place(spec, error.message)}. {error.fix}", len(frame))]
    hashes = row_hashes(frame, spec.feature_names)
    seen = np.isin(hashes[parts["holdout"]], hashes[np.concatenate([parts["train"], parts["validation"]])])
    if not seen.any():
        return []
    message = (
        f"{seen.mean():.1%} of the hold-out rows have the features of a row to train on: a model may have "
        "memorized them. Split(key=...) keeps rows of one thing together"
    )
    examples = tuple(f"row {row}" for row in parts["holdout"][seen][:EXAMPLES])
    return [DataFinding("split", "warning", "data", message, int(seen.sum()), examples)]


def _balance(spec: ModelSpec, frame: pd.DataFrame) -> list[DataFinding]:
    if spec.kind == "regression":
        return [] if len(frame[spec.target].unique()) > 1 else [
            DataFinding("balance", "error", spec.target, "has one value only: there is nothing to learn", len(frame))
        ]  # fmt: skip
    shares = frame[spec.target].value_counts(normalize=True)
    counts = frame[spec.target].value_counts()
    findings = []
    for label in spec.classes:
        share = float(shares.get(label, 0.0))
        if share in {0, 1}:
            message = f"class {label!r} has {share:.0%} of the rows: there is nothing to learn"
            findings.append(DataFinding("balance", "error", spec.target, message, int(counts.get(label, 0))))
        elif share < RARE_CLASS:
            message = f"class {label!r} has {share:.2%} of the rows, fewer than {RARE_CLASS:.0%}"
            findings.append(DataFinding("balance", "warning", spec.target, message, int(counts[label])))
    return findings


# -- What a report shows ---------------------------------------------------------------------------------------------
def _describe(feature: Feature, column: pd.Series[Any], found: Drift | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": feature.name, "type": feature.type, "unit": feature.unit, "missing": float(column.isna().mean()),
        "shift": found and found.shift, "range": "", "shares": [],
    }  # fmt: skip
    try:
        counts = profile_of(feature, column)["counts"]
        facts["shares"] = [round(count / len(column), 6) for count in (*counts[:SHOWN_BINS], sum(counts[SHOWN_BINS:]))]
        if feature.private:
            facts["range"] = "private"
        elif feature.type == "string":
            facts["range"] = f"{column.nunique()} values: " + ", ".join(map(str, column.value_counts().index[:4]))
        else:
            facts["range"] = f"{float(column.min()):g} to {float(column.max()):g}"
    except (TypeError, ValueError):
        facts["range"] = "not of this type"
    return facts


def _example(row: Any, value: Any) -> str:
    return f"row {row}: {value!r}" if row is not None and row == row else repr(value)  # noqa: PLR0124 - NaN


def _hide(spec: ModelSpec, subject: str, examples: tuple[str, ...]) -> tuple[str, ...]:
    private = {feature.name for feature in spec.features if feature.private}
    return () if subject in private else examples
