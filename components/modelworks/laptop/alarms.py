"""CloudWatch alarms that fire on the laptop: moto keeps alarms but never evaluates them, so this does.

`evaluate` is the rule, pure and tested against CloudWatch's documented cases; `Evaluator` applies it to the moto of its
own process, sets states, keeps the history and publishes the notifications to SNS, from where moto delivers to SQS and
HTTP. The values come from `metric_data`.

Sources: "Evaluating an alarm" and "Configuring how CloudWatch alarms treat missing data" in the CloudWatch user guide.
Percentiles, functions that `metric_math` lacks, anomaly detection and composite alarms are recorded, not emulated:
they keep their state.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from modelworks.laptop.metric_data import Watched, compact, utc, watched
from modelworks.laptop.metric_math import MetricMathError

log = logging.getLogger(__name__)

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]

INTERVAL_SECONDS = 5.0
"""How often alarms are evaluated. CloudWatch does so once a minute, or every ten seconds for short periods."""
EXTRA_PERIODS = 2
"""CloudWatch looks back further than the evaluation periods, to use real datapoints instead of missing ones. How far is
its own business; its documented examples, which the tests repeat, look two periods further."""
HISTORY = 100
"""Entries of history kept an alarm."""

_CREATED = "Unchecked: Initial alarm creation"
_HOLDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanThreshold": (lambda value, threshold: value > threshold, "greater than"),
    "GreaterThanOrEqualToThreshold": (lambda value, threshold: value >= threshold, "greater than or equal to"),
    "LessThanThreshold": (lambda value, threshold: value < threshold, "less than"),
    "LessThanOrEqualToThreshold": (lambda value, threshold: value <= threshold, "less than or equal to"),
}


@dataclass(frozen=True)
class Alarm:
    """The fields of an alarm that its evaluation depends on, in CloudWatch's words."""

    statistic: str
    """Empty for an expression."""
    comparison: str
    threshold: float
    period: int
    """Seconds a datapoint spans."""
    evaluation_periods: int
    datapoints_to_alarm: int
    missing: str
    """`missing`, `ignore`, `breaching` or `notBreaching`."""
    state: State
    """The state it is in."""

    def breaches(self, value: float) -> bool:
        """Whether a datapoint is on the wrong side of the threshold."""
        return _HOLDS[self.comparison][0](value, self.threshold)

    def periods(self, now: datetime) -> list[datetime]:
        """Beginnings of the complete periods that are looked at, oldest first, on the clock's own grid."""
        end = int(now.timestamp()) // self.period * self.period
        count = self.evaluation_periods + EXTRA_PERIODS
        return [datetime.fromtimestamp(end - self.period * back, UTC) for back in range(count, 0, -1)]


@dataclass(frozen=True)
class Verdict:
    """The result of an evaluation."""

    state: State
    reason: str
    data: dict[str, Any]
    """`StateReasonData`, as CloudWatch gives it."""


def evaluate(alarm: Alarm, datapoints: Mapping[datetime, float], now: datetime) -> Verdict:
    """The state that `alarm` shall have at `now`.

    Real datapoints are preferred over missing ones, also those a little older than the evaluation periods. Only what
    they leave open of the evaluation periods is filled by `alarm.missing`. Where missing ones are not filled
    (`missing`), an alarm fires on fewer datapoints than it requires if all existing ones breach and the first of them
    is at least `datapoints_to_alarm` periods old, since by then the rest should have come.

    Args:
        alarm: The alarm, with the state it is in.
        datapoints: The statistic's value by beginning of period. Periods without data are absent.
        now: Only periods that are over by now are looked at.
    """
    periods = alarm.periods(now)
    real = [(begin, datapoints[begin]) for begin in periods if begin in datapoints][-alarm.evaluation_periods :]
    breaching = [point for point in real if alarm.breaches(point[1])]
    absent = alarm.evaluation_periods - len(real)
    state = _state(alarm, periods, real, breaching, absent)
    return Verdict(state, _reason(alarm, state, real, breaching, absent), _data(alarm, periods, real, now))


_Points = list[tuple[datetime, float]]


def _state(alarm: Alarm, periods: list[datetime], real: _Points, breaching: _Points, absent: int) -> State:
    if absent and alarm.missing == "breaching":
        return "ALARM" if len(breaching) + absent >= alarm.datapoints_to_alarm else "OK"
    if len(breaching) >= alarm.datapoints_to_alarm:
        return "ALARM"
    if not absent or alarm.missing == "notBreaching" or len(breaching) < len(real):
        return "OK"
    if alarm.missing == "ignore":
        return alarm.state
    if not real:
        return "INSUFFICIENT_DATA"
    age = len(periods) - periods.index(breaching[0][0])
    return "ALARM" if age >= alarm.datapoints_to_alarm else alarm.state


def _reason(alarm: Alarm, state: State, real: _Points, breaching: _Points, absent: int) -> str:
    if state == "INSUFFICIENT_DATA" or not real:
        said = f"no datapoints were received for {alarm.evaluation_periods} periods"
        if state == "INSUFFICIENT_DATA":
            return f"Insufficient Data: {said}."
        treated = {"breaching": "[Breaching]", "notBreaching": "[NonBreaching]"}.get(alarm.missing, "[Ignored]")
        return f"Threshold Crossed: {said} and {absent} missing datapoints were treated as {treated}."
    chosen = breaching if state == "ALARM" and breaching else real
    values = ", ".join(f"{value!r} ({begin:%d/%m/%y %H:%M:%S})" for begin, value in reversed(chosen))
    were = "was" if len(chosen) == 1 else "were"
    held = "" if chosen is breaching else "not "
    if chosen is real and breaching:
        held = "not all "
    filled = f", {absent} missing" if absent else ""
    return (
        f"Threshold Crossed: {len(chosen)} out of the last {alarm.evaluation_periods} datapoints [{values}]{filled} "
        f"{were} {held}{_HOLDS[alarm.comparison][1]} the threshold ({alarm.threshold!r}) "
        f"(minimum {alarm.datapoints_to_alarm} datapoints for OK -> ALARM transition)."
    )


def _data(alarm: Alarm, periods: list[datetime], real: _Points, now: datetime) -> dict[str, Any]:
    return {
        "version": "1.0",
        "queryDate": _stamp(now),
        "startDate": _stamp(periods[EXTRA_PERIODS]),
        **({"statistic": alarm.statistic} if alarm.statistic else {}),
        "period": alarm.period,
        "recentDatapoints": [value for _, value in real],
        "threshold": alarm.threshold,
        "evaluatedDatapoints": [{"timestamp": _stamp(begin), "value": value} for begin, value in reversed(real)],
    }


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def notification(
    alarm: Any, old: State, verdict: Verdict, now: datetime, *, account: str, region: str
) -> dict[str, Any]:
    """The message that CloudWatch publishes to SNS when `alarm` (moto's) changes from `old`."""
    return {
        "AlarmName": alarm.name,
        "AlarmDescription": alarm.description,
        "AWSAccountId": account,
        "AlarmConfigurationUpdatedTimestamp": _stamp(utc(alarm.configuration_updated_timestamp)),
        "NewStateValue": verdict.state,
        "NewStateReason": verdict.reason,
        "StateChangeTime": _stamp(now),
        "Region": _region_name(region),
        "AlarmArn": alarm.alarm_arn,
        "OldStateValue": old,
        "OKActions": alarm.ok_actions,
        "AlarmActions": alarm.alarm_actions,
        "InsufficientDataActions": alarm.insufficient_data_actions,
        "Trigger": {
            **_watched_metrics(alarm),
            "EvaluationPeriods": int(alarm.evaluation_periods),
            "DatapointsToAlarm": int(alarm.datapoints_to_alarm or alarm.evaluation_periods),
            "ComparisonOperator": alarm.comparison_operator,
            "Threshold": float(alarm.threshold or 0),
            "TreatMissingData": alarm.treat_missing_data or "missing",
            "EvaluateLowSampleCountPercentile": alarm.evaluate_low_sample_count_percentile or "",
        },
    }


def _watched_metrics(alarm: Any) -> dict[str, Any]:
    if alarm.metric_data_queries:
        return {"Metrics": [_query(query) for query in alarm.metric_data_queries]}
    return {
        "MetricName": alarm.metric_name,
        "Namespace": alarm.namespace,
        "StatisticType": "Statistic",
        "Statistic": (alarm.statistic or "").upper(),
        "Unit": alarm.unit,
        "Dimensions": _pairs(alarm.dimensions),
        "Period": int(alarm.period or 0),
    }


def _query(query: Any) -> dict[str, Any]:
    shown = {"Id": query.id, "Label": query.label, "Expression": query.expression}
    if stat := query.metric_stat:
        metric = {
            "Namespace": stat.metric.namespace,
            "MetricName": stat.metric.metric_name,
            "Dimensions": _pairs(stat.metric.dimensions),
        }
        shown["MetricStat"] = {"Metric": metric, "Period": int(stat.period), "Stat": stat.stat}
    return {key: value for key, value in shown.items() if value is not None} | {"ReturnData": query.return_data}


def _pairs(dimensions: Any) -> list[dict[str, str]]:
    return [{"value": dimension.value, "name": dimension.name} for dimension in dimensions]


def _region_name(region: str) -> str:
    import botocore.session  # present where moto is

    try:
        regions = botocore.session.get_session().get_data("endpoints")["partitions"][0]["regions"]
        return str(regions[region]["description"]).replace("Europe", "EU")
    except (KeyError, IndexError):
        return region


# -- In moto's process ---------------------------------------------------------------------------------------------


class Evaluator:
    """Evaluates every metric alarm that this process's moto holds, in all accounts and regions."""

    def __init__(self) -> None:
        # What moto forgets: an alarm that is declared anew keeps its state, and there is no history in its API.
        self._states: dict[str, State] = {}
        self.history: dict[str, deque[dict[str, Any]]] = {}

    def step(self, now: datetime | None = None) -> None:
        """Evaluate all alarms once."""
        from moto.cloudwatch.models import cloudwatch_backends  # only where moto runs

        now = now or datetime.now(UTC)
        known: set[str] = set()
        for account, regions in list(cloudwatch_backends.items()):
            for region, backend in list(regions.items()):
                compact(backend, now)
                for alarm in list(backend.alarms.values()):
                    known.add(alarm.alarm_arn)
                    try:
                        self._one(alarm, backend.metric_data, now, account, region)
                    except Exception:  # one alarm that cannot be judged must not silence the others
                        log.exception("the alarm %s cannot be evaluated", alarm.name)
        for gone in set(self._states) - known:
            del self._states[gone]

    def _one(self, alarm: Any, data: list[Any], now: datetime, account: str, region: str) -> None:
        before = self._states.get(alarm.alarm_arn, "INSUFFICIENT_DATA")
        if alarm.state_reason == _CREATED:
            # moto calls a new alarm OK, and one that was declared anew too. CloudWatch does neither.
            alarm.state_value = before
            alarm.state_reason = "Unchecked: Alarm declared"
        elif alarm.state_value != before:
            # Somebody called SetAlarmState: CloudWatch notifies, and its next evaluation has the last word.
            set_by_hand = Verdict(alarm.state_value, alarm.state_reason, {})
            self._changed(alarm, before, set_by_hand, now, account, region)
            before = alarm.state_value
        self._states[alarm.alarm_arn] = before
        try:
            source = watched(alarm)
        except MetricMathError as error:
            alarm.state_reason = f"Unchecked: the laptop does not evaluate it: {error}"
            return
        if source is None or alarm.comparison_operator not in _HOLDS:
            return
        rule = _rule(alarm, source, before)
        verdict = evaluate(rule, source.datapoints(data, rule.periods(now)), now)
        if verdict.state != before:
            alarm.update_state(verdict.reason, json.dumps(verdict.data), verdict.state)
            self._states[alarm.alarm_arn] = verdict.state
            self._changed(alarm, before, verdict, now, account, region)

    def _changed(self, alarm: Any, old: State, verdict: Verdict, now: datetime, account: str, region: str) -> None:
        said = {
            "version": "1.0",
            "oldState": {"stateValue": old},
            "newState": {
                "stateValue": verdict.state,
                "stateReason": verdict.reason,
                "stateReasonData": verdict.data,
            },
        }
        self._remember(alarm, "StateUpdate", f"Alarm updated from {old} to {verdict.state}", said, now)
        actions = {
            "ALARM": alarm.alarm_actions,
            "OK": alarm.ok_actions,
            "INSUFFICIENT_DATA": alarm.insufficient_data_actions,
        }[verdict.state]
        if not alarm.actions_enabled:
            return
        message = notification(alarm, old, verdict, now, account=account, region=region)
        for action in actions:
            problem = _publish(action, message)
            summary = f"{'Failed to execute' if problem else 'Successfully executed'} action {action}"
            self._remember(alarm, "Action", summary, {"actionState": problem or "Succeeded"}, now)

    def _remember(self, alarm: Any, kind: str, summary: str, data: dict[str, Any], now: datetime) -> None:
        self.history.setdefault(alarm.alarm_arn, deque(maxlen=HISTORY)).appendleft(
            {
                "AlarmName": alarm.name,
                "AlarmType": "MetricAlarm",
                "Timestamp": now,
                "HistoryItemType": kind,
                "HistorySummary": summary,
                "HistoryData": json.dumps(data),
            }
        )


def start(interval: float = INTERVAL_SECONDS) -> Evaluator:
    """Evaluate the alarms of this process's moto every `interval` seconds, in a thread that ends with the process.

    Also gives moto the call it lacks, `DescribeAlarmHistory`.
    """
    evaluator = Evaluator()
    pause = threading.Event()

    def run() -> None:
        pause.wait(min(interval, 1.0))  # the server starts first; what is imported here would only delay it
        _serve_history(evaluator)
        while not pause.wait(interval):
            try:
                evaluator.step()
            except Exception:  # moto was reset or is busy: the next round finds it whole
                log.exception("alarms were not evaluated")

    threading.Thread(target=run, name="alarms", daemon=True).start()
    return evaluator


def _rule(alarm: Any, source: Watched, state: State) -> Alarm:
    return Alarm(
        alarm.statistic or "",
        alarm.comparison_operator,
        float(alarm.threshold),
        source.period,
        int(alarm.evaluation_periods),
        int(alarm.datapoints_to_alarm or alarm.evaluation_periods),
        alarm.treat_missing_data or "missing",
        state,
    )


def _publish(action: str, message: dict[str, Any]) -> str | None:
    """Deliver to the topic `action`; what went wrong, or None."""
    from moto.sns.models import sns_backends  # only where moto runs

    parts = action.split(":")
    if len(parts) != 6 or parts[2] != "sns":
        return "only SNS topics are emulated as alarm actions"
    try:
        subject = f'{message["NewStateValue"]}: "{message["AlarmName"]}" in {message["Region"]}'[:100]
        sns_backends[parts[4]][parts[3]].publish(json.dumps(message), arn=action, subject=subject)
    except Exception as error:  # noqa: BLE001 - moto raises its HTTP errors; a lost topic must not stop the others
        log.warning("the alarm action %s failed: %s", action, error)
        return f"{type(error).__name__}: {error}"
    return None


def _serve_history(evaluator: Evaluator) -> None:
    from moto.cloudwatch.responses import CloudWatchResponse  # only where moto runs
    from moto.core.responses import ActionResult

    def describe_alarm_history(self: Any) -> Any:
        name, kind = self._get_param("AlarmName"), self._get_param("HistoryItemType")
        prefix = f"arn:aws:cloudwatch:{self.region}:{self.current_account}:alarm:"
        items = [
            item
            for arn, entries in list(evaluator.history.items())
            if arn.startswith(prefix) and name in {None, arn.removeprefix(prefix)}
            for item in list(entries)
            if kind in {None, item["HistoryItemType"]}
        ]
        items.sort(key=lambda item: item["Timestamp"], reverse=True)
        return ActionResult({"AlarmHistoryItems": items[: int(self._get_param("MaxRecords") or HISTORY)]})

    setattr(CloudWatchResponse, "describe_alarm_history", describe_alarm_history)  # noqa: B010 - it has none
