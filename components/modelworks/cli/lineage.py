"""`models` and `lineage`: the versions of a registry, their origin and their approvals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modelworks import contract
from modelworks.cli.console import COLOURS, RELEASES, Json, moment, out, table
from modelworks.cli.context import DEFAULT_ENVIRONMENT, Env, EnvArgument, EnvironmentContext, EnvOption, environment_of
from modelworks.cli.exit_codes import epilog

if TYPE_CHECKING:
    from modelworks.lifecycle.version import Version

_ENGINES = {"onnx": "ONNX", "skops": "scikit-learn", "own": "its own code", "custom": "a custom service"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("models", rich_help_panel=RELEASES, epilog=epilog("models"))(models)
    app.command("lineage", rich_help_panel=RELEASES, epilog=epilog("lineage"))(lineage)


def models(environment: EnvArgument = "", *, env: EnvOption = "", as_json: Json = False) -> None:
    """List the versions of every model that an environment's registry holds.

    Example: `modelworks models prod`.
    """
    registry = EnvironmentContext.of(environment_of(environment, env)).registry
    found = [version for model in registry.models() for version in registry.versions(model)]
    if as_json:
        print(json.dumps([facts_of(version) for version in found], indent=2))
        return
    rows = table("model", "version", "digest", "aliases", "commit", "registered", "gates")
    for version in found:
        facts = version.facts
        commit = str(facts.get("commit", ""))[:12] + ("-dirty" if facts.get("dirty") else "")
        rows.add_row(
            version.model,
            str(version.version),
            contract.short_digest(version.digest),
            ", ".join(version.aliases),
            commit,
            moment(facts["registered_at"]),
            verdict(facts),
        )
    out.print(rows)


def lineage(
    model: Annotated[str, typer.Argument(help="MODEL, or MODEL@VERSION, an alias or a digest.", metavar="MODEL[@V]")],
    *,
    env: Env = DEFAULT_ENVIRONMENT,
    as_json: Json = False,
) -> None:
    """Show the origin of a version: data, code, lock, run, gates, overrides, and every release of it.

    With a data digest (`sha256:…`) after the `@`, the command shows every version trained on that data.

    Example: `modelworks lineage flight-delay@champion --env prod`.
    """
    name, _, which = model.partition("@")
    registry = EnvironmentContext.of(env).registry
    from_data = [item for item in registry.versions(name) if which and item.facts.get("data") == which]
    found = from_data or [registry.find(name, which)]
    if as_json:
        print(json.dumps([facts_of(version) for version in found], indent=2))
        return
    for version in found:
        _show(version)


def facts_of(version: Version) -> dict[str, Any]:
    """All facts of a version in its registry, as plain values."""
    return {"model": version.model, "version": version.version, "aliases": list(version.aliases), **version.facts}


def verdict(facts: dict[str, Any]) -> str:
    """A summary of a version's gates."""
    verdicts = [gate["verdict"] for gate in facts.get("gates", [])]
    text = f"{verdicts.count('pass')} of {len(verdicts)} pass"
    return f"{text}, overridden" if facts.get("overrides") else text


def _show(version: Version) -> None:
    aliases = "".join(f"  [green]{alias}[/]" for alias in version.aliases)
    out.print(f"[bold]{version.model}[/]  version {version.version}{aliases}")
    lines = table("", "")
    for name, value in report_lines(version):
        lines.add_row(f"  {name}", escape(value))
    out.print(lines)
    if gates := version.facts.get("gates"):
        rows = table("  gates", "what", "number", "limit", "")
        for gate in gates:
            found, why = gate["verdict"], "" if gate["verdict"] == "pass" else gate["message"]
            cells = (gate["subject"], _number(gate["number"]), _number(gate["limit"]), why)
            rows.add_row(f"  [{COLOURS[found]}]{found}[/]", *(escape(cell) for cell in cells))
        out.print(rows)


def report_lines(version: Version) -> Iterator[tuple[str, str]]:
    """The lines of a version's report, each with a name: from its bundle to its last release."""
    facts = version.facts
    yield "bundle", version.digest
    yield "answers by", _ENGINES[facts["served"]]
    for name in ("data", "code", "lock"):
        yield name, facts[name]
    commit = facts.get("commit") or "none"
    yield "commit", f"{commit}, and the tree differed from it" if facts.get("dirty") else commit
    yield "parameters", _pairs({**facts.get("parameters", {}), "seed": facts.get("seed")})
    yield "metrics", _pairs(facts.get("metrics", {}))
    yield "run", facts["run"] + (f"  (in MLflow {facts['mlflow_run']})" if facts.get("mlflow_run") else "")
    for override in facts.get("overrides", []):
        yield "override", f"{override['reason']}, by {override['by']} for {override['environment']}"
    yield "registered", f"{moment(facts['registered_at'])} by {facts['registered_by']}"
    if source := facts.get("promoted_from"):
        yield "promoted", f"from {source} by {facts.get('promoted_by', 'an unknown user')}"
    for each in facts.get("released", []):
        yield "released", f"{moment(each['at'])} to {each['environment']} by {each['by']}"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
