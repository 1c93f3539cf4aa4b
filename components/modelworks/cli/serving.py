"""`status`, `rollout`, `predict` and `logs`: what serves, how its rollout goes, what it answers and what it says."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from modelworks import contract, rollout
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from modelworks.cli.cluster import Cluster
    from modelworks.cli.target import Target
    from modelworks.lifecycle.registry import Registry
    from modelworks.settings import Release

_STATUS_CODES = """
Exit codes: 0 everything that is released serves; 1 a release was turned back, is degraded or was never rolled out, or
the environment cannot be asked; 2 a rollout is still under way (with --wait: at the end of the time it was given).
"""
_EXAMPLES_A_SECOND = 20
"""How often the laptop's idle endpoint is asked while a rollout waits for evidence."""
_POLL_SECONDS = 1.0

Model = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
Env = Annotated[str, typer.Option("--env", help="The environment.")]
Json = Annotated[bool, typer.Option("--json", help="Print facts as JSON.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", min=0, show_default=False, help="Seconds to wait at most. Default: what the rollout's steps need."
    ),
]
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

rollouts = typer.Typer(name="rollout", help="Watch a rollout, or take it in hand.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status", epilog=_STATUS_CODES)(status)
    app.command("predict")(predict)
    app.command("logs")(logs)
    app.add_typer(rollouts)


def status(
    environment: Annotated[str, typer.Argument(metavar="[ENV]", help="The environment.")] = "local",
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until no rollout is under way.")] = False,
    timeout: Timeout = 0,
    as_json: Json = False,
) -> None:
    """Tell of each endpoint what is wanted, what serves and why, and what its alarms say.

    A version that took all traffic becomes the registry's `champion`. With --wait on the laptop, the model's example is
    sent to an endpoint whose rollout is under way: without requests there is no evidence, and it would go back.

    Example: `modelworks up local && modelworks status local --wait`.
    """
    _tell(_target(environment), [], wait=wait, timeout=timeout, as_json=as_json)


@rollouts.command("watch", epilog=_STATUS_CODES)
def _watch(model: Model, *, env: Env = "local", timeout: Timeout = 0, as_json: Json = False) -> None:
    """Follow a rollout until it ends: `modelworks status --wait` of one model.

    Example: `modelworks rollout watch flight-delay --env dev`.
    """
    _tell(_target(env), [model], wait=True, timeout=timeout, as_json=as_json)


@rollouts.command("promote")
def _promote(
    model: Model,
    *,
    env: Env = "local",
    full: Annotated[bool, typer.Option("--full", help="Skip every step and analysis that is left.")] = False,
) -> None:
    """Let a rollout go on past the step it is at; with --full straight to all traffic.

    Example: `modelworks rollout promote flight-delay --env dev --full`.
    """
    cluster, seen = _rollout(env, model)
    patches = rollout.promotion(seen, full=full)
    if not patches.status and not patches.spec:
        out.print(f"{model} in {env} serves what it was told already: nothing to promote")
        return
    cluster.patch(seen, patches)
    _next(model, env, "takes all traffic, without further analysis" if full else "goes on to its next step")


@rollouts.command("abort")
def _abort(model: Model, *, env: Env = "local") -> None:
    """Take all traffic back to the stable version. The release is remembered as turned back.

    Example: `modelworks rollout abort flight-delay --env dev`.
    """
    cluster, seen = _rollout(env, model)
    now = seen.get("status") or {}
    if now.get("stableRS") == now.get("currentPodHash"):
        raise ModelworksError(
            f"no rollout of {model} is under way in {env}: all traffic is on what it was told to serve",
            fix=f"To serve what it did before: `modelworks rollback {model} --env {env}`.",
        )
    cluster.patch(seen, rollout.ABORT)
    _next(model, env, "goes back to the stable version")


@rollouts.command("retry")
def _retry(model: Model, *, env: Env = "local") -> None:
    """Try a release again that was turned back, from its first step.

    Example: `modelworks rollout retry flight-delay --env dev`.
    """
    cluster, seen = _rollout(env, model)
    if not (seen.get("status") or {}).get("abort"):
        raise ModelworksError(
            f"the rollout of {model} in {env} is not aborted: there is nothing to try again",
            fix=f"Run `modelworks status {env}`.",
        )
    cluster.patch(seen, rollout.RETRY)
    _next(model, env, "is tried again")


def predict(
    model: Model,
    *,
    env: Env = "local",
    example: Annotated[bool, typer.Option("--example", help="Send the model's own example. The default.")] = False,
    data: Annotated[str, typer.Option("--data", metavar="JSON|@FILE", help='One row, or {"rows": [...]}.')] = "",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="File with the bearer token.")] = None,
    as_json: Json = False,
) -> None:
    """Ask an endpoint for a prediction, and print its answer.

    Without --token-file a token of the stack's own secrets is used, if there is one.

    Example: `modelworks predict flight-delay --env dev --data '{"rows": [{"carrier": "UA", "distance": 1400}]}'`.
    """
    if example and data:
        raise ModelworksError("--example and --data exclude each other", fix="Give one of them.")
    target = _target(env)
    endpoint = _endpoint(target, model, _token(target, model, token_file))
    body = _read(data) if data else endpoint.example()
    sent = time.perf_counter()
    answer, version = endpoint.predict(body)
    milliseconds = (time.perf_counter() - sent) * 1000
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    if not data:
        out.print(f"[dim]asked:[/] {escape(json.dumps(body))}", soft_wrap=True)
    for prediction in answer.get("predictions", []):
        out.print("  ".join(f"{name} [bold]{escape(_shown(value))}[/]" for name, value in prediction.items()))
    out.print(f"[dim]{escape(str(answer.get('model', model)))} {escape(version)}, {milliseconds:.0f} ms[/]")


def logs(
    model: Model,
    *,
    env: Env = "local",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, with pods that come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of each pod's last lines.")] = 50,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of the container that ended last.")] = False,
) -> None:
    """Print what an endpoint's pods write, each line with its pod's version and name.

    Example: `modelworks logs flight-delay --env dev -f`.
    """
    cluster = _cluster(_target(env))

    def say(pod: rollout.Object, line: str) -> None:
        notes = pod["metadata"].get("annotations") or {}
        digest, name = str(notes.get(contract.ANNOTATION_DIGEST, "")), str(pod["metadata"]["name"])
        print(f"{digest.removeprefix('sha256:')[:12]} {name.rpartition('-')[2]} | {line}", flush=follow)

    try:
        pods = cluster.logs(model, say, follow=follow, lines=lines, previous=previous)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not pods:
        which = "pods that restarted" if previous else "pods"
        raise ModelworksError(f"{model} has no {which} in {env}", fix=f"Run `modelworks status {env}`.")


# -- Status ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Told:
    """All that `status` says of one endpoint."""

    stands: rollout.Status
    url: str
    alarms: list[dict[str, str]] = field(default_factory=list)
    alarms_unknown: str = ""
    override: dict[str, Any] | None = None
    aliases: tuple[str, ...] = ()
    registry: str = ""
    """What kept the registry from answering or from being told; empty if nothing did."""
    champion_moved: bool = False

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **self.stands.facts(),
            "url": self.url,
            "alarms": self.alarms,
            "alarms_unknown": self.alarms_unknown,
            "override": self.override,
            "aliases": list(self.aliases),
            "registry": self.registry,
            "champion_moved": self.champion_moved,
        }


def exit_code(stands: list[rollout.Status]) -> int:
    """0 all serve what is wanted, 1 one was turned back or is degraded, 2 one is still under way."""
    if any(not item.good and item.ended for item in stands):
        return 1
    return 2 if any(not item.ended for item in stands) else 0


def _tell(target: Target, only: list[str], *, wait: bool, timeout: float, as_json: bool) -> None:
    from modelworks.lifecycle.release import read_releases  # noqa: PLC0415

    releases = read_releases(target.stack_file)
    if missing := [model for model in only if model not in releases]:
        raise ModelworksError(
            f"{target.stack_file.name} releases no {missing[0]}",
            fix=f"Run `modelworks release {missing[0]} --env {target.environment}`.",
        )
    cluster = _cluster(target)
    models = only or sorted({*releases, *target.outputs.get("endpoints", {})})

    def look(model: str) -> rollout.Status:
        return _stands(cluster, model, releases.get(model))

    stands = [look(model) for model in models]
    if wait:
        stands = [item if item.ended else _wait(target, cluster, item, look, timeout, quiet=as_json) for item in stands]
    told = [_ask_around(target, item) for item in stands]
    if as_json:
        print(json.dumps({"environment": target.environment, "endpoints": [item.facts() for item in told]}, indent=2))
    else:
        _show(target, told)
    if code := exit_code(stands):
        raise typer.Exit(code)


def _stands(cluster: Cluster, model: str, release: Release | None) -> rollout.Status:
    digest = release.digest if release else ""
    version = str(release.version or "") if release else ""
    return rollout.status_of(model, digest, version, cluster.seen(model))


def _wait(
    target: Target,
    cluster: Cluster,
    item: rollout.Status,
    look: Callable[[str], rollout.Status],
    timeout: float,
    *,
    quiet: bool,
) -> rollout.Status:
    """Look until the rollout ends or its time is over, and say what changes."""
    seen = cluster.seen(item.model)
    bound = timeout or (rollout.seconds_needed(seen.rollout) if seen.rollout else 60)
    started, last, missed = time.monotonic(), "", 0
    with _examples(target, item.model):
        while not item.ended and time.monotonic() < started + bound:
            now = f"{_shares(item)}; {item.progress}"
            if now != last and not quiet:
                err.print(f"[dim]{time.monotonic() - started:4.0f} s[/]  {item.model}: {escape(now)}", soft_wrap=True)
            last = now
            time.sleep(_POLL_SECONDS)
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


@contextmanager
def _examples(target: Target, model: str) -> Iterator[None]:
    """On the laptop, ask the endpoint for its example meanwhile: nobody else may, and a rollout needs evidence."""
    if not target.engine.on_laptop:
        yield
        return
    over = threading.Event()
    # Whatever needs the engine is asked before: it is no question for a thread.
    try:
        endpoint = _endpoint(target, model, _token(target, model, None))
    except ModelworksError as error:
        err.print(f"no examples are sent: {escape(error.message)}", soft_wrap=True)
        yield
        return

    def ask() -> None:
        body: Any = None
        while not over.wait(1 / _EXAMPLES_A_SECOND):
            try:
                body = endpoint.example() if body is None else body
                endpoint.predict(body)
            except ModelworksError:
                over.wait(1)  # what fails here is counted by the endpoint itself, and judged by the rollout

    sender = threading.Thread(target=ask, name="examples", daemon=True)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join(timeout=5)


def _ask_around(target: Target, stands: rollout.Status) -> Told:
    """What CloudWatch and the registry add. Neither keeps `status` from telling the rest."""
    alarms, alarms_unknown = _alarms(target, stands.model)
    facts: dict[str, Any] = {"alarms": alarms, "alarms_unknown": alarms_unknown}
    if stands.wanted:
        try:
            facts |= _lineage(target.registry, stands)
        except ModelworksError as error:
            facts["registry"] = error.message
    return Told(stands, target.address(target.outputs.get("endpoints", {}).get(stands.model, "")), **facts)


def _lineage(registry: Registry, stands: rollout.Status) -> dict[str, Any]:
    """What the registry holds of the wanted version; it becomes the champion once it serves."""
    from modelworks.lifecycle.registry import CHALLENGER, CHAMPION  # noqa: PLC0415

    versions = registry.versions(stands.model)
    version = next((item for item in versions if item.digest == stands.wanted), None)
    if version is None:
        return {"registry": f"holds no version with the bundle {stands.wanted}"}
    aliases, moved = version.aliases, False
    if stands.state == "serves" and CHAMPION not in aliases:
        registry.point(CHAMPION, version, model=stands.model)
        aliases, moved = tuple(sorted({*aliases, CHAMPION})), True
    # Also where another version has it: one that was turned back, and rolled back from, challenges nothing any more.
    if stands.state == "serves" and any(CHALLENGER in item.aliases for item in versions):
        registry.point(CHALLENGER, None, model=stands.model)
        aliases = tuple(item for item in aliases if item != CHALLENGER)
    return {"override": version.facts.get("override"), "aliases": aliases, "champion_moved": moved}


def _alarms(target: Target, model: str) -> tuple[list[dict[str, str]], str]:
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    wanted = {contract.DIMENSION_ENVIRONMENT: target.environment, contract.DIMENSION_MODEL: model}
    try:
        client = target.session.client(
            "cloudwatch", config=Config(connect_timeout=5, retries={"total_max_attempts": 2})
        )
        pages = client.get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm"])
        found = [alarm for page in pages for alarm in page["MetricAlarms"]]
    except (BotoCoreError, ClientError) as error:
        return [], f"CloudWatch says: {error}"
    mine = [
        alarm
        for alarm in found
        if {item["Name"]: item["Value"] for item in alarm.get("Dimensions", [])} == wanted
        and alarm.get("Namespace") == contract.METRIC_NAMESPACE
    ]
    return [
        {
            "name": alarm["AlarmName"],
            "metric": alarm["MetricName"],
            "state": alarm["StateValue"],
            "since": alarm["StateUpdatedTimestamp"].isoformat(timespec="seconds"),
            "meaning": alarm.get("AlarmDescription", ""),
            "reason": alarm.get("StateReason", ""),
        }
        for alarm in sorted(mine, key=lambda alarm: str(alarm["AlarmName"]))
    ], ""


_COLOURS = {"serves": "green", "under way": "yellow", "turned back": "red", "degraded": "red"}


def _show(target: Target, told: list[Told]) -> None:
    if not told:
        out.print(f"{target.environment} releases no model yet; next: [bold]modelworks release MODEL[/]")
        return
    for item in told:
        stands = item.stands
        colour = _COLOURS.get(stands.state, "yellow")
        out.print(f"[bold]{stands.model}[/]  [{colour}]{stands.state}[/]  {item.url}", soft_wrap=True)
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(overflow="fold")
        for name, value in _lines(target, item):
            table.add_row(f"  {name}", escape(value))
        out.print(table)


def _lines(target: Target, told: Told) -> Iterator[tuple[str, str]]:
    stands = told.stands
    yield "wanted", rollout.name_of(stands.wanted, stands.wanted_version) if stands.wanted else "nothing"
    for number, share in enumerate(stands.shares or ()):
        yield "serves" if not number else "", f"{share.percent} %  {share.name}  since {share.since}"
    if not stands.shares:
        yield "serves", "nothing"
    if stands.progress:
        yield "progress", stands.progress
    if stands.reason and not stands.measured:
        yield "because", stands.reason
    for measured in stands.measured:
        yield "measured", f"{measured}  at {measured.at}"
    for alarm in told.alarms:
        yield "alarm", f"{alarm['metric']}  {alarm['state']}  since {alarm['since']}  ({alarm['meaning']})"
    if told.alarms_unknown:
        yield "alarms", f"unknown: {told.alarms_unknown}"
    if told.override:
        yield "override", f"{told.override.get('reason', '')}, by {told.override.get('by', 'unknown')}"
    if told.champion_moved:
        yield "registry", "this version is the champion now"
    if told.registry:
        yield "registry", told.registry
    if stands.fix:
        yield "fix", stands.fix.replace("ENV", target.environment)


def _shares(stands: rollout.Status) -> str:
    return ", ".join(f"{share.percent} % {share.name}" for share in stands.shares) or "nothing serves yet"


# -- Releases that were turned back ----------------------------------------------------------------------------------
def refuse_turned_back(target: Target, *, insist: bool, say: Callable[[str], None]) -> Callable[[], None]:
    """Keep `up` from rolling out what the cluster turned back before; to be asked before an update.

    Before another release takes an aborted one's place, the Rollout is given a note that remembers it.

    Args:
        target: The environment.
        insist: Roll it out all the same.
        say: Takes what is worth telling.

    Returns:
        What is to be done after the update: a release insisted on is tried again, if Argo still has it aborted.

    Raises:
        ModelworksError: A release of the stack's file was turned back, and nobody insists.
    """
    from modelworks.lifecycle.release import read_releases  # noqa: PLC0415

    again: list[str] = []
    try:
        releases = read_releases(target.stack_file)
        if not releases or not target.outputs.get("endpoints"):
            return lambda: None
    except ModelworksError:
        return lambda: None  # never up, or no file that we can read: the program says so itself, where it matters
    try:
        cluster = _cluster(target)
        seen = {model: cluster.seen(model) for model in releases}
    except ModelworksError as error:
        say(f"whether a release was turned back before is not known: {error.message}")
        return lambda: None
    for model, release in releases.items():
        here = seen[model]
        if here.rollout is None:
            continue
        why = rollout.turned_back(release.digest, here)
        name = rollout.name_of(release.digest, str(release.version or ""))
        if why and not insist:
            raise ModelworksError(
                f"{model} {name} was turned back by {target.environment} before: {why}",
                fix=f"Release another version (`modelworks rollback {model} --env {target.environment}`), "
                f"or insist: `modelworks up {target.environment} --insist`.",
            )
        if why:
            say(f"{model} {name} was turned back before ({why}), and is rolled out because you insist")
            again.append(model)
        note = rollout.to_forget(release.digest, here) if why else None
        if note is None and rollout.declared(here.rollout) != release.digest:
            note = rollout.to_note(here)
        if note is not None:
            cluster.annotate(here.rollout, rollout.ANNOTATION_TURNED_BACK, note)

    def retry() -> None:
        for model in again:
            aborted = cluster.seen(model).rollout
            if aborted and (aborted.get("status") or {}).get("abort"):
                cluster.patch(aborted, rollout.RETRY)

    return retry


# -- Endpoints -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Endpoint:
    """Where a model answers."""

    model: str
    client: Any
    """An httpx client, with its token if it needs one."""

    def example(self) -> Any:
        """A request that is valid, as the model itself documents it.

        Raises:
            ModelworksError: It does not answer, or documents none.
        """
        answer = self._ask("GET", "/openapi.json")
        content = answer["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
        if "example" in content:
            return content["example"]
        examples = list((content.get("examples") or {}).values())
        if not examples:
            raise ModelworksError(f"{self.model} documents no example", fix="Give one with --data.")
        return examples[0]["value"]

    def predict(self, body: Any) -> tuple[dict[str, Any], str]:
        """Its answer, and the version that gave it.

        Raises:
            ModelworksError: It does not answer, or refuses the request.
        """
        answer = self._ask("POST", "/v1/predict", body)
        return answer, str(answer.get("version", ""))

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        import httpx  # noqa: PLC0415

        try:
            response = self.client.request(method, path, json=body) if body is not None else self.client.get(path)
        except httpx.HTTPError as error:
            raise ModelworksError(
                f"{self.model} does not answer at {self.client.base_url}: {error or type(error).__name__}",
                fix="Run `modelworks status`.",
            ) from error
        try:
            answer = response.json()
        except ValueError:
            answer = {"detail": response.text[:500]}
        if response.is_error:
            raise ModelworksError(
                f"{self.model} answers {response.status_code}: {_problem(answer)}", fix=_fix(response)
            )
        if not isinstance(answer, dict):
            raise ModelworksError(f"{self.model} answers something else than an object at {path}")
        return answer


def _endpoint(target: Target, model: str, token: str) -> Endpoint:
    import httpx  # noqa: PLC0415

    url = target.models.get(model)
    if not url:
        have = ", ".join(sorted(target.models)) or "none"
        raise ModelworksError(
            f"{target.environment} has no endpoint {model!r}; it has {have}",
            fix=f"Release it and run `modelworks up {target.environment}`.",
        )
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Endpoint(
        model, httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=not target.engine.on_laptop)
    )


def _token(target: Target, model: str, file: Path | None) -> str:
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelworksError(f"cannot read the token file {file}: {error.strerror}") from error
    else:
        from modelworks.settings import load  # noqa: PLC0415

        tokens = load(target.stack_file).secrets.tokens
        text = target.secret(f"tokens.{model}") if model in tokens else ""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _read(data: str) -> Any:
    try:
        if data == "@-":
            return json.loads(sys.stdin.read())
        return json.loads(Path(data[1:]).read_text(encoding="utf-8") if data.startswith("@") else data)
    except OSError as error:
        raise ModelworksError(f"cannot read {data[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise ModelworksError(f"--data is not JSON: {error}", fix='Give one row, or {"rows": [...]}.') from error


def _problem(answer: Mapping[str, Any] | Any) -> str:
    if not isinstance(answer, dict):
        return str(answer)[:500]
    said = str(answer.get("detail") or answer.get("title") or answer)
    return f"{answer['field']}: {said}" if answer.get("field") else said


def _fix(response: Any) -> str:
    return {
        401: "Give a token of the stack's secrets with --token-file.",
        422: "See the schema at /v1/schema, or send the model's own with --example.",
        429: "It is full; try again in a moment.",
    }.get(response.status_code, "See `modelworks status` and `modelworks logs`.")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if not isinstance(value, str) else value


# -- Where it is -----------------------------------------------------------------------------------------------------
def _rollout(environment: str, model: str) -> tuple[Cluster, rollout.Object]:
    cluster = _cluster(_target(environment))
    found = cluster.seen(model).rollout
    if found is None:
        raise ModelworksError(
            f"{environment} has no rollout of {model}",
            fix=f"Release it and run `modelworks up {environment}`.",
        )
    return cluster, found


def _next(model: str, env: str, what: str) -> None:
    out.print(f"{model} in {env} {what}; next: [bold]modelworks rollout watch {model} --env {env}[/]", soft_wrap=True)


def _target(environment: str) -> Target:
    from modelworks.cli.target import Target  # noqa: PLC0415

    return Target.of(environment)


def _cluster(target: Target) -> Cluster:
    from modelworks.cli.cluster import Cluster  # noqa: PLC0415

    return Cluster.of(target)
