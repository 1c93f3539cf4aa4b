"""`modelworks quickstart`: from an empty machine to a prediction, in one command."""

from __future__ import annotations

import json
import queue
import re
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from modelworks import contract
from modelworks.cli.console import LAPTOP, Json
from modelworks.cli.exit_codes import epilog
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.cli.context import EnvironmentContext
    from modelworks.cli.local_features import LocalFeatures
    from modelworks.cli.local_server import LocalServer
    from modelworks.lifecycle.bundle import Bundle
    from modelworks.lifecycle.runs import TrainedModel
    from modelworks.lifecycle.training import Described
    from modelworks.lifecycle.version import Version

out = Console(highlight=False, soft_wrap=True)
ENVIRONMENT = "local"
ANSWER_DEADLINE = 120
"""Seconds that a released model has to answer its first prediction."""
_Step = Callable[[str, str], AbstractContextManager[Callable[[str], None]]]
"""Begins a step, by its name and its command, and gives a function that takes its result."""

TOLD_SECONDS = 5
"""Seconds between two reports of an update's progress."""
_DONE = re.compile(r"\s+\S+\s+\S+ (\S+) (?:created|updated|replaced|deleted)\b")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quickstart", rich_help_panel=LAPTOP, epilog=epilog("quickstart"))(_run)


def _run(
    model: Annotated[str, typer.Argument(help="Name of a model in models/.", metavar="[MODEL]")] = "flight-delay",
    *,
    as_json: Json = False,
) -> None:
    """Create everything up to a prediction: laptop cloud, environment, training, gates, release, serving.

    For example:

        modelworks quickstart

    A second run finds every step done and changes nothing. Each step is also a command, which its line names. The model
    trains while the laptop cloud and its environment start. A local process serves it as soon as it is bundled, with
    the features that it reads, until the environment takes over.
    """
    began = time.monotonic()
    seconds: dict[str, float] = {}
    with (
        redirect_stdout(sys.stderr) if as_json else nullcontext(),
        tempfile.TemporaryDirectory(prefix="modelworks-history-", ignore_cleanup_errors=True) as history,
        closing(_local_features()) as features,
        closing(_local_server(model, began)) as local,
    ):
        target, row, answer = _story(model, partial(_step, seconds), local, features, Path(history))
        took = time.monotonic() - began
        if not as_json:
            out.print(f"\n[bold]{model} answers[/] after {took:.0f} s.\n")
            _what_next(target, model, row)
    if as_json:
        first = round((local.answer.at - began) if local.answer else took, 1)
        facts = {"model": model, "url": target.models[model], "seconds": round(took, 1), "first_answer_seconds": first}
        print(json.dumps({**facts, "steps": seconds, "asked": row, "answer": answer}, indent=2))


def _story(
    model: str, step: _Step, local: LocalServer, features: LocalFeatures, history: Path
) -> tuple[EnvironmentContext, dict[str, Any], dict[str, Any]]:
    """All steps; returns the environment, the row of a request, and its answer."""
    from modelworks.cli.feature_values import fill
    from modelworks.cli.local_features import provide
    from modelworks.cli.status import tell

    bundling = _begin_bundle(model, history)
    up = _laptop_is_up()
    variables: Future[dict[str, str]] = Future()
    bundling.history.add_done_callback(
        partial(_without_environment, None if up else features, bundling.described, variables)
    )
    local.begin(bundling.bundle, lambda: not (up and _answers(model)), variables)
    target = _laptop(step)
    with step("environment", f"modelworks up {ENVIRONMENT}") as done:
        target.engine.prepare(lambda line: out.print(f"    [dim]{escape(line)}[/]"))
        stands = _stands(target, model)
        done("it is up: its registry answers" if stands else _up(target)[0])
    if not stands:
        target = _fresh()
    if made := bundling.history.result():
        with step("features", f"modelworks features ingest {model}") as done:
            done(fill(target, model, made))
    if bundling.described.result().reads_features:
        provide(variables, _feature_variables(target))
    with step("train", f"modelworks train {model}") as done:
        run, built = bundling.finish()
        done(f"run {run.run}, bundle {contract.short_digest(built.digest)}, {built.size / 1e6:.1f} MB, {built.served}")
    with step("register", f"modelworks register {model}") as done:
        version = _register(target, model)
        done(f"version {version.version}, {_gates(version)}")
    with step("release", f"modelworks release {model}") as done:
        done(_release(target, version))
    with step("roll out", f"modelworks up {ENVIRONMENT}") as done:
        told, changed = _up(target)
        done(told)
    if changed or model not in target.models:
        target = _fresh()
    with step("predict", f"modelworks predict {model} --example") as done:
        row, answer = _first_answer(target, model)
        done(json.dumps(answer))
        if local.answer is not None:
            done(f"the environment has taken over; the local process at {local.answer.url} has ended")
    local.close()
    features.close()
    with step("status", "modelworks status --wait"):
        tell(target, [], wait=True, timeout=0, as_json=False)
    return target, row, answer


def _without_environment(
    features: LocalFeatures | None,
    described: Future[Described],
    variables: Future[dict[str, str]],
    history: Future[Path | None],
) -> None:
    """Let the local process begin before there is an environment.

    If the model reads features, it gets tables of its own: none where an environment is up already and gives its own
    soon, or where the model's project does not make the history itself.
    """
    from modelworks.cli.local_features import provide

    if history.exception() is not None:
        return
    model, made = described.result(), history.result()
    if not model.reads_features:
        provide(variables, {})
    elif features and made:
        features.begin(model.folder, made, variables)


def _feature_variables(target: EnvironmentContext) -> dict[str, str]:
    """The variables by which a server outside of the cluster reads an environment's features."""
    tables = {view: arn.rpartition("/")[2] for view, arn in target.output("features")["tables"].items()}
    account = {name: value for name, value in target.engine.variables.items() if name.startswith("AWS_")}
    return {**account, contract.ENV_FEATURE_TABLES: json.dumps(tables)}


def _laptop(step: _Step) -> EnvironmentContext:
    from modelworks.laptop import cloud
    from modelworks.laptop.state_dir import StateDir

    with step("laptop cloud", "modelworks laptop up") as done:
        said: list[str] = []

        def report(line: str) -> None:
            said.append(line)
            out.print(f"    [dim]{escape(line)}[/]")

        cloud.up(StateDir.here(), [ENVIRONMENT], report=report)
        done(said[-1] if said else "")
    return _fresh()


def _fresh() -> EnvironmentContext:
    from modelworks.cli.context import EnvironmentContext

    return EnvironmentContext.of(ENVIRONMENT)


def _stands(target: EnvironmentContext, model: str) -> bool:
    """Whether the environment is up and its registry answers."""
    try:
        target.registry.versions(model)
    except ModelworksError:
        return False
    return True


def _laptop_is_up() -> bool:
    from modelworks.laptop import supervisor
    from modelworks.laptop.state_dir import StateDir

    return supervisor.running(StateDir.here())


def _answers(model: str) -> bool:
    """Whether the environment answers for the model already."""
    from modelworks.cli.predict import endpoint_of, token_of

    try:
        target = _fresh()
        endpoint_of(target, model, token_of(target, model)).example()
    except ModelworksError:
        return False
    return True


def _local_server(model: str, began: float) -> LocalServer:
    """Serves the bundle until the environment does, and prints where."""
    from modelworks.cli.local_server import Answer, LocalServer
    from modelworks.laptop.state_dir import StateDir

    def answered(answer: Answer) -> None:
        out.print(
            f"    [bold]{model} answers already[/] after {answer.at - began:.0f} s, from a local process until the "
            f"environment takes over:\n    {escape(_curl(answer.url, answer.row))}\n"
            f"    {escape(json.dumps(answer.prediction))}"
        )

    return LocalServer(StateDir.here().logs / "local-server.log", answered, _aside)


def _local_features() -> LocalFeatures:
    """Fills the tables that the local process reads until the environment has its own."""
    from modelworks.cli.local_features import LocalFeatures
    from modelworks.laptop.state_dir import StateDir

    return LocalFeatures(StateDir.here().logs / "local-features.log", _aside)


def _aside(text: str) -> None:
    out.print(f"    [dim]{escape(text)}[/]")


@dataclass(frozen=True)
class _Bundling:
    """The results of a thread that trains and bundles a model, each as soon as it is there, or the thread's error."""

    described: Future[Described] = field(default_factory=Future)
    history: Future[Path | None] = field(default_factory=Future)
    """The folder with the history of features that the project makes; None if it makes none."""
    bundle: Future[tuple[TrainedModel, Bundle]] = field(default_factory=Future)
    events: queue.SimpleQueue[tuple[str, str, float] | None] = field(default_factory=queue.SimpleQueue)

    def work(self, model: str, folder: Path) -> None:
        """Train and bundle; the history goes into `folder`, once for all who read it."""
        from modelworks.cli.lifecycle import home_here
        from modelworks.lifecycle import bundle, training

        try:
            project, home = training.project_at(model), home_here()
            described = training.describe(project, home)
            self.described.set_result(described)
            if not described.makes_history:
                self.history.set_result(None)
            history = folder if described.makes_history else None
            run = training.train(project, home, history=history, progress=partial(self._progress, folder))
            self.bundle.set_result((run, bundle.build_bundle(run, home, partial(self._progress, folder))))
        except BaseException as error:  # noqa: BLE001 - it is raised by whoever waits for the outcome
            for awaited in (self.bundle, self.described, self.history):
                if not awaited.done():
                    awaited.set_exception(error)
        finally:
            self.events.put(None)

    def _progress(self, folder: Path, step: str, state: str, seconds: float) -> None:
        self.events.put((step, state, seconds))
        if (step, state) == ("write history", "done"):
            self.history.set_result(folder)

    def finish(self) -> tuple[TrainedModel, Bundle]:
        """Print the steps, wait for the bundle, and raise the error of the thread."""
        for event in iter(self.events.get, None):
            _progress(*event)
        return self.bundle.result()


def _begin_bundle(model: str, history: Path) -> _Bundling:
    """Train and bundle in a thread."""
    bundling = _Bundling()
    # A daemon, and its child ends with it: whatever ends the story ends the training.
    threading.Thread(target=bundling.work, args=(model, history), name="train", daemon=True).start()
    return bundling


def _register(target: EnvironmentContext, model: str) -> Version:
    from modelworks.cli.release import register_last

    return register_last(target, model, progress=_progress)


def _release(target: EnvironmentContext, version: Version) -> str:
    from modelworks.lifecycle.registration import release

    changed = release(target.registry, target.stack_file, version)
    line = f"{version.model}: {{digest: sha256:{contract.short_digest(version.digest)}…, version: {version.version}}}"
    return f"{line} in {target.stack_file.name}" if changed else "nothing changed"


def _up(target: EnvironmentContext) -> tuple[str, bool]:
    """Run `pulumi up` and report its progress; returns a summary, and whether it changed anything.

    The update skips its preview, so that the program runs once; it enforces the policies as well.
    """
    engine, began, count, last = target.engine, time.monotonic(), 0, time.monotonic()

    def heard(line: str) -> None:
        nonlocal count, last
        if found := _DONE.match(line):
            count += 1
            if time.monotonic() - last >= TOLD_SECONDS:
                last = time.monotonic()
                out.print(f"    [dim]{count} so far, {escape(found[1])} the last ({last - began:.0f} s)[/]")

    code, text = engine.capture("up", [*engine.policy(), "--yes", "--refresh", "--skip-preview"], heard=heard)
    if code:
        tail = "\n".join(text.rstrip().splitlines()[-25:])
        raise ModelworksError(
            f"`pulumi up` of {target.environment} exited with {code}:\n{tail}", fix=f"The whole log: {engine.log('up')}"
        )
    done = text.rpartition("Resources:")[2]
    lines = [" ".join(line.split()) for line in done.splitlines() if re.match(r"\s+(\S )?\d+ \w", line)]
    return ", ".join(lines), not all(line.endswith("unchanged") for line in lines)


def _first_answer(target: EnvironmentContext, model: str) -> tuple[Any, Any]:
    """The model's own example row, and the endpoint's answer."""
    from modelworks.cli.predict import endpoint_of, token_of

    endpoint = endpoint_of(target, model, token_of(target, model))
    try:
        return endpoint.first_answer(within=ANSWER_DEADLINE)
    except ModelworksError as error:
        raise ModelworksError(
            f"{model} gave no prediction within {ANSWER_DEADLINE} s: {error.message}",
            fix=f"Run `modelworks status {target.environment}` and `modelworks logs {model}`.",
        ) from error


def _what_next(target: EnvironmentContext, model: str, row: dict[str, Any]) -> None:
    url = target.models[model]
    out.print(f"  predict      {escape(_curl(url, row))}")
    out.print(f"  its page     {url}/  (API: {url}/openapi.json)")
    out.print(f"  experiments  {target.registry.uri}  (user {contract.REGISTRY_USER}; the password is printed by")
    out.print("               pulumi config get --path modelworks:secrets.registry_password -s local)")
    out.print("\nnext:")
    for command, what in (
        (
            'eval "$(.venv/bin/modelworks env local)"',
            "pulumi, kubectl, aws, boto3 and MLflow now mean the laptop",
        ),
        ("modelworks status", "the desired and the live version, and their shares of traffic"),
        (f"modelworks lineage {model}@champion", "its data, code, gates and releases"),
        (
            f"$EDITOR models/{model.replace('-', '_')}/model.py",
            "change something, and `make up` again: a canary takes over",
        ),
        ("make down", "stop everything and wipe it, but for your models"),
    ):
        out.print(f"  [bold]{escape(command):<42}[/] {what}")


def _curl(url: str, row: Any) -> str:
    return f"curl -s {url}/v1/predict -H 'content-type: application/json' -d {shlex.quote(json.dumps(row))}"


def _gates(version: Version) -> str:
    gates = version.facts.get("gates", [])
    others = [f"{gate['verdict']}: {gate['subject']}, {gate['message']}" for gate in gates if gate["verdict"] != "pass"]
    overridden = ["overridden"] if version.facts.get("overrides") else []
    return "; ".join([f"{len(gates) - len(others)} of {len(gates)} gates pass", *overridden, *others])


def _progress(step: str, state: str, seconds: float) -> None:
    if state == "done":
        out.print(f"    [dim]{step} ({seconds:.1f} s)[/]")


@contextmanager
def _step(seconds: dict[str, float], name: str, command: str) -> Iterator[Callable[[str], None]]:
    """Print a step: its name, its command, its result and its duration."""
    began = time.monotonic()
    out.print(f"[bold]{name}[/]  [dim]{escape(command)}[/]")
    told: list[str] = []
    yield told.append
    seconds[name] = round(time.monotonic() - began, 1)
    for line in told:
        out.print(f"  {escape(line)}  [dim]{seconds[name]:.1f} s[/]")
