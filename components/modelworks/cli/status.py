"""`status` and `logs`: the desired and the live version of each endpoint, and the logs of its pods."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks.cli.console import OBSERVE, Json, Model, err, moment, out, table
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env, EnvArgument, EnvironmentContext, EnvOption, environment_of
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.cli.predict import examples
from modelworks.cluster import rollout
from modelworks.cluster.client import KubernetesClient
from modelworks.cluster.rollout_objects import Object
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from modelworks.lifecycle.registry import Registry
    from modelworks.settings import Release

_POLL_SECONDS = 1.0

Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0,
        show_default=False,
        help="Seconds to wait at most. Default: the length of the rollout.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status", rich_help_panel=OBSERVE, epilog=epilog("status"))(status)
    app.command("logs", rich_help_panel=OBSERVE, epilog=epilog("logs"))(logs)


def status(
    environment: EnvArgument = "",
    *,
    env: EnvOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until no rollout is in progress, and record the result.")
    ] = False,
    timeout: Timeout = 0,
    as_json: Json = False,
) -> None:
    """Show each endpoint's desired and live version, and its alarms.

    Without --wait the command changes nothing. With --wait it ends a release: it waits for the rollout and records the
    result in the registry, where a version that takes all traffic becomes the `champion`; without the registry it
    fails. On the laptop it also sends the model's example to each endpoint whose rollout is in progress: without
    requests a rollout has no evidence and is aborted.

    Example: `modelworks up local && modelworks status local --wait`.
    """
    tell(EnvironmentContext.of(environment_of(environment, env)), [], wait=wait, timeout=timeout, as_json=as_json)


def logs(
    model: Model,
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the logs, also of new pods.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines from the end of each log.")] = 50,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Logs of the previous container.")] = False,
) -> None:
    """Print the logs of an endpoint's pods, each line with the version and name of its pod.

    Example: `modelworks logs flight-delay --env dev -f`.
    """
    cluster = EnvironmentContext.of(env).cluster()

    def say(pod: Object, line: str) -> None:
        notes = pod["metadata"].get("annotations") or {}
        digest, name = str(notes.get(contract.ANNOTATION_DIGEST, "")), str(pod["metadata"]["name"])
        print(f"{digest.removeprefix('sha256:')[:12]} {name.rpartition('-')[2]} | {line}", flush=follow)

    try:
        pods = cluster.logs(model, say, follow=follow, lines=lines, previous=previous)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not pods:
        which = "pods that restarted" if previous else "pods"
        raise ModelworksError(f"{model} has no {which} in {env}", fix=f"Run `modelworks status {env}`.")


# -- Status ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Told:
    """The report of `status` on one endpoint."""

    stands: rollout.Status
    url: str
    alarms: list[dict[str, str]] = field(default_factory=list)
    alarms_unknown: str = ""
    overrides: tuple[dict[str, Any], ...] = ()
    aliases: tuple[str, ...] = ()
    registry: str = ""
    """The error of the registry; empty if there is none."""
    champion_moved: bool = False
    """Whether this command made it the champion."""

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **self.stands.facts(),
            "url": self.url,
            "alarms": self.alarms,
            "alarms_unknown": self.alarms_unknown,
            "overrides": list(self.overrides),
            "aliases": list(self.aliases),
            "registry": self.registry,
            "champion_moved": self.champion_moved,
        }


def exit_code(stands: list[rollout.Status]) -> ExitCode:
    """The worst state decides: a failed endpoint, then one in progress."""
    if any(not item.good and item.ended for item in stands):
        return ExitCode.FAILED
    return ExitCode.PROGRESSING if any(not item.ended for item in stands) else ExitCode.OK


def tell(target: EnvironmentContext, only: list[str], *, wait: bool, timeout: float, as_json: bool) -> None:
    from modelworks.lifecycle.release import read_releases

    releases = read_releases(target.stack_file)
    if missing := [model for model in only if model not in releases]:
        raise ModelworksError(
            f"{target.stack_file.name} releases no {missing[0]}",
            fix=f"Run `modelworks release {missing[0]} --env {target.environment}`.",
        )
    cluster = target.cluster()
    models = only or sorted({*releases, *target.outputs.get("endpoints", {})})

    def look(model: str) -> rollout.Status:
        return _stands(cluster, model, releases.get(model))

    stands = [look(model) for model in models]
    if wait:
        stands = [item if item.ended else _wait(target, cluster, item, look, timeout, quiet=as_json) for item in stands]
    told = [_ask_around(target, item, record=wait) for item in stands]
    if as_json:
        print(json.dumps({"environment": target.environment, "endpoints": [item.facts() for item in told]}, indent=2))
    else:
        _show(target, told)
    if wait and (unrecorded := next((item for item in told if item.registry), None)):
        raise ModelworksError(
            f"the result of {unrecorded.stands.model} is not recorded: {unrecorded.registry}",
            fix=f"Run `modelworks status {target.environment} --wait` again where the registry answers.",
        )
    if code := exit_code(stands):
        raise typer.Exit(code)


def _stands(cluster: KubernetesClient, model: str, release: Release | None) -> rollout.Status:
    digest = release.digest if release else ""
    version = str(release.version or "") if release else ""
    return rollout.status_of(model, digest, version, cluster.seen(model))


def _wait(
    target: EnvironmentContext,
    cluster: KubernetesClient,
    item: rollout.Status,
    look: Callable[[str], rollout.Status],
    timeout: float,
    *,
    quiet: bool,
) -> rollout.Status:
    """Poll until the rollout ends or its time is over, and print each change."""
    seen = cluster.seen(item.model)
    bound = timeout or (rollout.seconds_needed(seen.rollout) if seen.rollout else 60)
    started, last, missed = time.monotonic(), "", 0
    with examples(target, item.model):
        while not item.ended and time.monotonic() < started + bound:
            now = f"{_shares(item)}; {item.progress}"
            if now != last and not quiet:
                err.print(f"[dim]{time.monotonic() - started:4.0f} s[/]  {item.model}: {escape(now)}", soft_wrap=True)
            last = now
            _pause()
            try:
                item, missed = look(item.model), 0
            except ModelworksError as error:
                # An API server that restarts is back within seconds.
                missed += 1
                if missed == 1:
                    err.print(f"{escape(error.message)}; trying again", soft_wrap=True)
                if missed > 30:
                    raise
    return item


def _pause() -> None:
    time.sleep(_POLL_SECONDS)


def _ask_around(target: EnvironmentContext, stands: rollout.Status, *, record: bool) -> Told:
    """Add the facts of CloudWatch and the registry. A failure of one is part of the report."""
    alarms, alarms_unknown = _alarms(target, stands.model)
    facts: dict[str, Any] = {"alarms": alarms, "alarms_unknown": alarms_unknown}
    if stands.desired:
        try:
            facts |= _lineage(target.registry, stands, record=record)
        except ModelworksError as error:
            facts["registry"] = error.message
    return Told(stands, target.address(target.outputs.get("endpoints", {}).get(stands.model, "")), **facts)


def _lineage(registry: Registry, stands: rollout.Status, *, record: bool) -> dict[str, Any]:
    """The registry's facts of the desired version; with `record`, after it learned what the cluster has."""
    from modelworks.lifecycle.registration import follow_release
    from modelworks.lifecycle.version import CHAMPION

    versions = registry.versions(stands.model)
    version = next((item for item in versions if item.digest == stands.desired), None)
    if version is None:
        return {"registry": f"holds no version with the bundle {stands.desired}"}
    moved = []
    if record and stands.state != "OutOfSync":
        moved = follow_release(registry, version, changed=False, serves=stands.state == "Healthy")
    aliases = {*version.aliases} - {move.alias for move in moved} | {move.alias for move in moved if move.wanted}
    return {
        "overrides": tuple(version.facts.get("overrides", ())),
        "aliases": tuple(sorted(aliases)),
        "champion_moved": any(move.alias == CHAMPION for move in moved),
    }


def _alarms(target: EnvironmentContext, model: str) -> tuple[list[dict[str, str]], str]:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    wanted = {contract.DIMENSION_ENVIRONMENT: target.environment, contract.DIMENSION_MODEL: model}
    try:
        client = target.session.client(
            "cloudwatch", config=Config(connect_timeout=5, retries={"total_max_attempts": 2})
        )
        pages = client.get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm"])
        found = [alarm for page in pages for alarm in page["MetricAlarms"]]
    except ModelworksError as error:
        return [], error.message
    except (BotoCoreError, ClientError) as error:
        return [], f"CloudWatch failed: {error}"
    mine = [
        (alarm, metric)
        for alarm in found
        for metric, _ in [_watched(alarm)]
        if {item["Name"]: item["Value"] for item in metric.get("Dimensions", [])} == wanted
        and metric.get("Namespace") == contract.METRIC_NAMESPACE
    ]
    return [
        {
            "name": alarm["AlarmName"],
            "metric": metric["MetricName"],
            "state": _state(alarm),
            "since": alarm["StateUpdatedTimestamp"].isoformat(timespec="seconds"),
            "meaning": alarm.get("AlarmDescription", ""),
            "reason": alarm.get("StateReason", ""),
        }
        for alarm, metric in sorted(mine, key=lambda each: str(each[0]["AlarmName"]))
    ], ""


def _watched(alarm: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """The metric that an alarm watches, or the first in its expression, and the seconds of a datapoint."""
    stat = next((query["MetricStat"] for query in alarm.get("Metrics", ()) if "MetricStat" in query), None)
    return (stat["Metric"], stat["Period"]) if stat else (alarm, alarm.get("Period", 0))


def _state(alarm: Mapping[str, Any]) -> str:
    """The state of an alarm; `INSUFFICIENT_DATA` while one that takes silence for a fault is younger than its window.

    CloudWatch fires such an alarm as soon as it is made, before a pod can have reported.
    """
    window = timedelta(seconds=_watched(alarm)[1] * (alarm["EvaluationPeriods"] + 1))
    young = datetime.now(UTC) - alarm["AlarmConfigurationUpdatedTimestamp"] < window
    silent = alarm.get("TreatMissingData") == "breaching" and alarm["StateValue"] == "ALARM"
    return "INSUFFICIENT_DATA" if silent and young else str(alarm["StateValue"])


_COLOURS = {"Healthy": "green", "Progressing": "yellow", "Aborted": "red", "Degraded": "red"}


def _show(target: EnvironmentContext, told: list[Told]) -> None:
    if not told:
        out.print(f"{target.environment} releases no model yet; next: [bold]modelworks release MODEL[/]")
        return
    for item in told:
        stands = item.stands
        colour = _COLOURS.get(stands.state, "yellow")
        out.print(f"[bold]{stands.model}[/]  [{colour}]{stands.state}[/]  {item.url}", soft_wrap=True)
        lines = table("", "")
        for name, value in _lines(target, item):
            lines.add_row(f"  {name}", escape(value))
        out.print(lines)


def _lines(target: EnvironmentContext, told: Told) -> Iterator[tuple[str, str]]:
    stands = told.stands
    yield "desired", rollout.name_of(stands.desired, stands.desired_version) if stands.desired else "nothing"
    for number, share in enumerate(stands.shares or ()):
        yield "live" if not number else "", f"{share.percent} %  {share.name}  since {moment(share.since)}"
    if not stands.shares:
        yield "live", "nothing"
    if stands.progress:
        yield "progress", stands.progress
    if stands.reason and not stands.measured:
        yield "because", stands.reason
    for measured in stands.measured:
        yield "measured", f"{measured}  at {moment(measured.at)}"
    for alarm in told.alarms:
        yield "alarm", f"{alarm['metric']}  {alarm['state']}  since {moment(alarm['since'])}  ({alarm['meaning']})"
    if told.alarms_unknown:
        yield "alarms", f"unknown: {told.alarms_unknown}"
    for each in told.overrides:
        yield "override", f"{each['reason']}, by {each['by']} for {each['environment']} at {each['at']}"
    if told.champion_moved:
        yield "registry", "this version is the champion now"
    if told.registry:
        yield "registry", told.registry
    if stands.fix:
        yield "fix", stands.fix.replace("ENV", target.environment)


def _shares(stands: rollout.Status) -> str:
    return ", ".join(f"{share.percent} % {share.name}" for share in stands.shares) or "nothing serves yet"
