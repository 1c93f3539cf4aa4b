"""`modelworks new`, `check-data`, `train`, `bundle` and `gates`: a model from its data to an evaluated bundle."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks.cli.console import COLOURS, MODELS, Json, Override, err, out, progress, table
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.laptop.state_dir import StateDir

if TYPE_CHECKING:
    from modelworks.lifecycle.checks import CheckReport
    from modelworks.lifecycle.gates import GateReport
    from modelworks.lifecycle.runs import Home, TrainedModel

Model = Annotated[str, typer.Argument(help="Name of a model in models/, its folder, or its model.py.", metavar="MODEL")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("new", rich_help_panel=MODELS, epilog=epilog("new"))(new)
    app.command("check-data", rich_help_panel=MODELS, epilog=epilog("check-data"))(check_data)
    app.command("train", rich_help_panel=MODELS, epilog=epilog("train"))(train)
    app.command("bundle", rich_help_panel=MODELS, epilog=epilog("bundle"))(bundle)
    app.command("gates", rich_help_panel=MODELS, epilog=epilog("gates"))(gates)


def new(
    model: Annotated[str, typer.Argument(help="Name: lower-case letters, digits and dashes.", metavar="MODEL")],
    into: Annotated[Path, typer.Option("--into", help="Folder to make it in.")] = Path("models"),
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder, Python file or notebook of a project.", metavar="PROJECT")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="With --from: file with rows. Default: the one that the code reads.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="With --from: column to predict. Default: the one that the code predicts.")
    ] = "",
) -> None:
    """Start a model project: one that passes its own tests, or one of code that is there.

    With --from, the code is copied, and model.py is made of what can be read of it and of its data: the steps of a
    script, a command or a notebook that lead to rows and from rows to a model, or functions that load, build, fit or
    predict; features with types and limits, target and kind. The command lists what is left to decide, by file and
    line.

    Example: `modelworks new churn`, then `pytest models/churn` and `modelworks train churn`.
    Or `modelworks new churn --from ../churn-project`, then edit the lines that it lists.
    """
    if source is None:
        from modelworks.lifecycle.scaffold import scaffold  # imports stay out of --help

        if data or target:
            raise ModelworksError("--data and --target describe the project that --from names", fix="Name it: --from.")
        folder = scaffold(model, into)
        out.print(f"made [bold]{folder}[/]: {', '.join(sorted(path.name for path in folder.iterdir()))}")
        todo = "edit model.py"
    else:
        from modelworks.lifecycle.adopt import adopt

        made = adopt(source, model, into, data, target)
        rows = table("read of it", "")
        for what, text in made.derived.items():
            rows.add_row(what, escape(text))
        out.print(rows)
        out.print(f"made [bold]{made.folder}[/]; to be filled in:")
        for each in made.open:
            out.print(f"  {escape(each)}", soft_wrap=True)
        todo = "fill these in"
    out.print(f"next: {todo}, then [bold]modelworks check-data {model}[/] and [bold]modelworks train {model}[/]")


def check_data(
    model: Model,
    *,
    save_baseline: Annotated[
        bool, typer.Option("--save-baseline", help="Save today's distributions as the baseline.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a model's data: schema, completeness, distribution, freshness, leakage, balance.

    Example: `modelworks check-data flight-delay`.
    """
    from modelworks.lifecycle import training

    home = home_here()
    report = training.check_data(training.project_at(model), home, save_baseline=save_baseline, progress=progress)
    if as_json:
        print(json.dumps(report.to_facts(), indent=2))
    else:
        _print_checks(report)
        out.print(f"report: {home.checks(report.model) / 'checks.html'}", soft_wrap=True)
    if not report.passed:
        raise typer.Exit(ExitCode.FAILED)


def train(
    model: Model,
    *,
    env: Env = "",
    data: Annotated[str, typer.Option("--data", help="Digest of a stored snapshot to train on.")] = "",
    as_json: Json = False,
) -> None:
    """Train a model, and show how it does on the training and the validation rows. The hold-out is for `gates`.

    The same data, code, parameters, seed and lock give the same run; if it exists, the command returns it without
    training. If MLFLOW_TRACKING_URI is set, the run is logged there.

    With --env, a Job in that environment's cluster trains the model, with the environment's data access and image. The
    command streams its log, fetches the run and logs it to the environment's MLflow. Ctrl-C cancels the Job.

    Example: `modelworks train flight-delay`, or `modelworks train flight-delay --env dev`.
    """
    from modelworks.lifecycle import training

    snapshot = Digest(data) if data else None
    project, home = training.project_at(model), home_here()
    if env:
        from modelworks.cli.context import EnvironmentContext
        from modelworks.cli.training import train_in

        run, tracked = train_in(EnvironmentContext.of(env), training.describe(project, home), home, snapshot, progress)
    else:
        run = training.train(project, home, data=snapshot, progress=progress)
        tracked = _track(run)
    if as_json:
        facts = {"model": run.model, "run": run.run, "folder": str(run.folder), "inputs": run.inputs}
        print(json.dumps({**facts, "metrics": run.scores, "origin": run.origin, "mlflow_run": tracked}, indent=2))
        return
    rows = table("metric", "train", "validation")
    for name in sorted(run.scores["train"]):
        shown = ["-" if (value := of[name]) is None else f"{value:.4f}" for of in run.scores.values()]
        rows.add_row(f"[bold]{escape(name)}[/]" if name == run.metric else escape(name), *shown)
    out.print(rows)
    if run.origin["dirty"]:
        err.print("[yellow]dirty:[/] the tree differs from its commit; this run can be released to local only")
    out.print(f"run {run.run} of {run.model}: {run.folder}", soft_wrap=True)


def bundle(model: Model, *, as_json: Json = False) -> None:
    """Bundle the last run of a model as a Bento whose digest is its release.

    It is made of what the run keeps: its own copy of the project, and its packages. Edits since then do not count.

    Example: `modelworks bundle flight-delay`, then `bentoml serve` on the unpacked bundle, or `modelworks gates`.
    """
    from modelworks.lifecycle import bundle as bundles

    home = home_here()
    run = last_run(model, home)
    built = bundles.build_bundle(run, home, progress)
    _track(run, built)
    facts = {
        "model": built.model, "run": run.run, "digest": built.digest, "path": str(built.path), "bytes": built.size,
        "served": built.served, "parity": built.parity,
    }  # fmt: skip
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    rows = table("", "")
    rows.add_row("digest", built.digest)
    rows.add_row("file", str(built.path))
    rows.add_row("size", f"{built.size / 1e6:.2f} MB")
    why = "" if built.parity.get("onnx") else f" ({built.parity.get('reason')})"
    rows.add_row("answers with", built.served + why)
    out.print(rows)


def gates(
    model: Model,
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    champion: Annotated[Path | None, typer.Option(help="Bundle to compare with, such as the one that serves.")] = None,
    override: Override = "",
    as_json: Json = False,
) -> None:
    """Evaluate the gates of the bundled model: metrics, champion, slices, fairness, latency, size, behaviour.

    The gates are those of its run, whatever model.py states by now.

    The environment's policy decides which results refuse it. Example: `modelworks gates flight-delay --env staging`.
    """
    from modelworks.lifecycle import bundle as bundles
    from modelworks.lifecycle import run_gates

    home = home_here()
    run = last_run(model, home)
    report = run_gates.run_gates(
        run, bundles.open_built(run), home, env, champion=champion, override=override, progress=progress
    )
    if as_json:
        print(json.dumps(report.to_facts(), indent=2))
    else:
        _print_gates(report)
        out.print(f"report: {run.folder / f'gates-{env}.html'}", soft_wrap=True)
    report.require()


def home_here() -> Home:
    """Where models are kept: beside the laptop cloud and not in it, so that no `down` deletes anything of a model."""
    from modelworks.lifecycle.runs import Home, make_home

    try:
        laptop = StateDir.here().root
    except ModelworksError:
        # A model project needs no Pulumi project around it.
        laptop = Path.cwd() / ".modelworks"
    root = make_home(laptop.with_name(f"{laptop.name}-models"))
    return Home(root, os.environ.get("MODELWORKS_DATA_STORE", ""))


def last_run(model: str, home: Home) -> TrainedModel:
    """The last run of a model. Notes which files of its project are others by now: they do not count.

    Args:
        model: Name of the model, or its folder or `model.py`.
        home: Where runs are kept.
    """
    from modelworks.lifecycle import runs, training
    from modelworks.lifecycle.model_project import changed_files, find_model

    name = model if runs.has_runs(model, home) else training.describe(training.project_at(model), home).name
    run = runs.latest_run(name, home)
    try:
        changed = changed_files(find_model(model).parent, run.project())
    except ModelworksError:
        return run  # a run can outlive its checkout; one that was changed is refused where it is used
    if changed:
        err.print(
            f"[yellow]note:[/] this is the run {run.run}, made before {escape(', '.join(changed))} changed; "
            f"[bold]modelworks train {run.model}[/] makes one of now",
            soft_wrap=True,
        )
    return run


def _track(run: Any, built: Any = None) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return ""
    from modelworks.lifecycle.tracking import track  # MLflow is slow to import

    start = time.monotonic()
    run_id = track(run, uri, built)
    err.print(f"  {'log to MLflow':<28}{time.monotonic() - start:6.1f} s", style="dim")
    return run_id


def _print_checks(report: CheckReport) -> None:
    rows = table("", "check", "column", "what", "rows")
    for each in report.findings:
        colour = COLOURS[each.severity]
        # Names and values of the data are no markup.
        what = "\n".join([escape(each.message), *(f"[dim]{escape(example)}[/]" for example in each.examples)])
        severity, count = f"[{colour}]{each.severity}[/]", f"{each.count:,}" if each.count else ""
        rows.add_row(severity, each.check, escape(each.subject), what, count)
    out.print(rows)
    state = "[green]passed[/]" if report.passed else "[red]stopped[/]"
    out.print(f"{state}: {report.rows:,} rows, {report.data}", soft_wrap=True)


def _print_gates(report: GateReport) -> None:
    rows = table("", "what", "number", "95 % interval", "rule")
    for each in report.results:
        number = "" if each.number is None else f"{each.number:.4g}"
        ends = each.interval and [("-" if end is None else f"{end:.4g}") for end in each.interval]
        action = f" [bold]{each.action}[/]" if each.action else ""
        verdict = f"[{COLOURS[each.verdict]}]{each.verdict}[/]{action}"
        interval = f"{ends[0]} - {ends[1]}" if ends else ""
        rows.add_row(verdict, escape(each.subject), number, interval, escape(each.message))
    out.print(rows)
    if report.override:
        out.print(f"[yellow]overridden[/] by {escape(report.override.by)}: {escape(report.override.reason)}")
    state = "[green]allowed[/]" if report.allowed else "[red]refused[/]"
    out.print(f"{state} for {report.target}: {report.digest}", soft_wrap=True)
