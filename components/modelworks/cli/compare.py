"""`modelworks compare`: an environment against another one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from modelworks._git import git_succeeds
from modelworks.cli.console import ENVIRONMENTS, Json, out, table
from modelworks.cli.context import EnvironmentContext
from modelworks.cli.exit_codes import ExitCode, epilog


@dataclass(frozen=True)
class Difference:
    """A difference between two environments."""

    declared: bool
    """Whether the stack files declare it."""
    path: str
    here: Any
    there: Any


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", rich_help_panel=ENVIRONMENTS, epilog=epilog("compare"))(compare)


def compare(
    here: Annotated[str, typer.Argument(metavar="ENV_A", help="One environment.")],
    there: Annotated[str, typer.Argument(metavar="ENV_B", help="The other.")],
    *,
    as_json: Json = False,
) -> None:
    """List how two environments differ: as their stack files declare, or in any other way.

    A difference is undeclared if one environment has a resource that no stack file explains, or if the commits of the
    program differ.

    Example: `modelworks compare staging prod`.
    """
    one, other = EnvironmentContext.of(here), EnvironmentContext.of(there)
    found = [*declared(_config(one), _config(other)), *undeclared(_deployed(one), _deployed(other))]
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        rows = table("", "what", here, there)
        for each in found:
            kind = "declared" if each.declared else "[red]undeclared[/]"
            rows.add_row(kind, escape(each.path), escape(_shown(each.here)), escape(_shown(each.there)))
        out.print(rows if found else f"{here} and {there} do not differ")
    if any(not each.declared for each in found):
        raise typer.Exit(ExitCode.FAILED)


def declared(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Difference]:
    """How two stack files differ, path by path; secrets only by their names."""
    one, other = dict(_leaves("", here)), dict(_leaves("", there))
    return [
        Difference(declared=True, path=path, here=one.get(path), there=other.get(path))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    ]


def undeclared(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[Difference]:
    """How what two stacks deployed differs beyond their files: the program's commit, and resources of one alone."""
    found = []
    if not _same_program(here["commit"], there["commit"]):
        found.append(Difference(declared=False, path="commit", here=here["commit"], there=there["commit"]))
    # What follows from a declared endpoint or setting is declared with it.
    named = here["declares"] ^ there["declares"]
    for resource in sorted(here["resources"] ^ there["resources"]):
        name = resource.rpartition(" ")[2]
        if any(name == each or name.startswith(f"{each}-") for each in named):
            continue
        has = resource in here["resources"]
        found.append(Difference(declared=False, path=resource, here=has, there=not has))
    return found


def _same_program(here: str, there: str) -> bool:
    """Whether two commits differ only in stack files: a release is a commit too, and a declared difference."""
    one, other = here.removesuffix("-dirty"), there.removesuffix("-dirty")
    if one == other:
        return True
    paths = (":/", ":(exclude,top,glob)**/Pulumi.*.yaml")
    return git_succeeds(Path.cwd(), "diff", "--quiet", one, other, "--", *paths)


def _deployed(target: EnvironmentContext) -> dict[str, Any]:
    """The state of a stack, without the environment's own name."""
    exported = json.loads(target.engine.ask("stack", "export", "--stack", target.environment))
    resources, own = set(), target.environment
    for each in exported["deployment"].get("resources") or []:
        _, _, kind, name = each["urn"].split("::", 3)
        if not kind.startswith("pulumi:"):
            name = "ENV" + name.removeprefix(own) if name == own or name.startswith(f"{own}-") else name
            resources.add(f"{kind.rpartition('$')[2]} {name}")
    config = _config(target)
    emails = (config.get("modelworks:settings", {}).get("alerts") or {}).get("emails") or []
    # An endpoint is there when it is both declared and released; a subscription is called after its address.
    settings = config.get("modelworks:settings", {})
    declares = {*(settings.get("endpoints") or {}).keys() & (config.get("modelworks:releases") or {}).keys()}
    declares |= {f"ENV-alerts-{email}" for email in emails} | {
        name for name in ("registry", "training") if settings.get(name) is not None
    }
    declares |= {"ENV-budget"} if settings.get("budget") else set()
    return {"commit": target.outputs.get("commit", ""), "resources": resources, "declares": declares}


def _config(target: EnvironmentContext) -> dict[str, Any]:
    from ruamel.yaml import YAML

    document = YAML(typ="safe").load(target.stack_file.read_text(encoding="utf-8")) or {}
    return dict(document.get("config") or {})


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and set(value) == {"secure"}:
        yield path, "(a secret)"
    elif isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner)
    elif path:
        yield path, value


def _shown(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
