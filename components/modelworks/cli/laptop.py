"""`modelworks laptop` and `modelworks env`: the laptop cloud, and a shell for one of its environments."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks import contract
from modelworks.cli.console import LAPTOP, Json, err, out, say, table
from modelworks.cli.context import EnvArgument, EnvOption, environment_of
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.laptop.state_dir import StateDir


_SECRET = {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"}
_KEPT = {"PATH", "NO_PROXY", "no_proxy"}
"""Variables that `--unset` keeps: they had a value before, and the additions do no harm."""

laptop = typer.Typer(
    help="The laptop cloud: AWS, Kubernetes and a gateway on this machine.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(laptop, name="laptop", rich_help_panel=LAPTOP)
    app.command("env", rich_help_panel=LAPTOP, epilog=epilog("env"))(_env)


@laptop.command("up", epilog=epilog("laptop up"))
def _up(
    environments: Annotated[
        list[str] | None, typer.Argument(metavar="ENV...", help="Environments to create. Default: local.")
    ] = None,
    aws_only: Annotated[bool, typer.Option("--aws-only", help="Start neither Kubernetes nor the gateway.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what AWS refuses, by IAM above all. Stays so until `down`.")
    ] = False,
    metrics_delay: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=900,
            help="Seconds until metrics are readable. Default: 5 with --strict, else 0. CloudWatch: up to 120 for new "
            "series.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the laptop cloud. A second run starts stopped processes and adds missing environments.

    For example:

        modelworks laptop up
        modelworks laptop up dev staging      # two environments side by side
        modelworks laptop up --strict         # roles may do what their policies say, and nothing else

    Missing tools are downloaded, or built from pinned Go modules, once.
    """
    from modelworks.laptop import cloud

    place = _place()
    names = environments or ["local"]
    facts = cloud.up(place, names, kubernetes=not aws_only, strict=strict, metrics_delay=metrics_delay, report=say)
    if as_json:
        _print_json(facts)


@laptop.command("down", epilog=epilog("laptop down"))
def _down(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the files for the next `up`.")] = False,
) -> None:
    """Stop the laptop cloud and delete its files. Environments are reproduced from code.

    Runs, data snapshots, bundles and the signing key are in `.modelworks-models/`, and no command deletes them.

    For example:

        modelworks laptop down

    The laptop cloud of another checkout keeps running.
    """
    from modelworks.laptop import cloud

    cloud.down(_place(), keep=keep, report=say)


@laptop.command("status", epilog=epilog("laptop status"))
def _status(as_json: Json = False) -> None:
    """Show the processes, their addresses, and the differences from a real cloud.

    For example:

        modelworks laptop status
        modelworks laptop status --json | jq .endpoints

    The differences are resources that are recorded but not emulated, and rules that are not enforced.
    """
    from modelworks.laptop.status import condition

    found = condition(_place())
    if as_json:
        _print_json(found)
    else:
        _show(found)
    if not found["up"]:
        raise typer.Exit(ExitCode.FAILED)


@laptop.command("logs", epilog=epilog("laptop logs"))
def _logs(
    name: Annotated[str | None, typer.Argument(help="A process, as `status` names it. Default: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of lines from the end.")] = 20,
) -> None:
    """Print the end of a process's log.

    For example:

        modelworks laptop logs apiserver -f

    For the logs of an endpoint's pods, use `modelworks logs`.
    """
    from modelworks.laptop import cloud

    for line in cloud.logs(_place(), name, lines=lines, follow=follow):
        print(line, flush=follow)


@laptop.command("toolchain", epilog=epilog("laptop toolchain"))
def _toolchain(
    names: Annotated[list[str] | None, typer.Argument(metavar="TOOL...", help="Tools. Default: all.")] = None,
    build: Annotated[bool, typer.Option("--build", help="Build the tools that are missing, or download them.")] = False,
    as_json: Json = False,
) -> None:
    """Show the programs of the laptop cloud, and the source of each.

    For example:

        modelworks laptop toolchain --build

    Each comes from PATH if its version fits, else from the cache that checkouts share, the wheel modelworks-toolchain,
    an official download, or a build.
    """
    from modelworks.laptop import toolchain

    if build:
        toolchain.ensure(names or toolchain.WANTED)
    states = [state for state in toolchain.states() if not names or state.facts()["name"] in names]
    if as_json:
        _print_json([state.facts() for state in states])
    else:
        out.print(toolchain.table(states))


def _env(
    environment: EnvArgument = "",
    *,
    env: EnvOption = "",
    unset: Annotated[bool, typer.Option("--unset", help="Print the lines that unset the variables.")] = False,
    as_json: Json = False,
) -> None:
    """Print variables that point pulumi, kubectl, aws, boto3 and MLflow to ENV on the laptop.

    For example:

        eval "$(modelworks env local)"
        eval "$(modelworks env local --unset)"

    The variables affect this shell alone. The AWS keys are valid for the account on the laptop only. Until the registry
    of ENV is up, MLflow's variables are unset, so that MLflow writes to no other registry. Secrets are not printed on a
    terminal.
    """
    from modelworks.laptop.environments import environment_variables

    environment = environment_of(environment, env)
    variables = environment_variables(_place(), environment)
    if unset:
        print("\n".join(f"unset {name}" for name in (*variables, *contract.MLFLOW_VARIABLES) if name not in _KEPT))
        return
    variables |= _mlflow_variables(environment)
    hidden = sorted(_SECRET & set(variables)) if sys.stdout.isatty() else []
    shown = {name: value for name, value in variables.items() if name not in hidden}
    if as_json:
        _print_json(shown)
    else:
        for name in contract.MLFLOW_VARIABLES:
            if name not in variables:
                print(f"unset {name}")
        for name, value in shown.items():
            print(f"export {name}={shlex.quote(value)}")
    if sys.stdout.isatty():
        err.print(f"\n# Not shown on a terminal: {', '.join(hidden)}. For a shell that uses {environment}:")
        err.print(f'# eval "$(modelworks env {environment})"')


def _mlflow_variables(environment: str) -> dict[str, str]:
    """Variables that point MLflow's client to the registry; none while the registry is not up."""
    from modelworks.laptop.environments import stack_config

    # Asking the engine takes a second, and without a password in the stack there is no registry.
    secrets = stack_config(environment).get("modelworks:secrets")
    if not isinstance(secrets, dict) or "registry_password" not in secrets:
        return {}
    from modelworks.cli.context import EnvironmentContext

    try:
        return EnvironmentContext.of(environment).mlflow_variables
    except ModelworksError as error:
        err.print(f"# MLflow's variables are left out: {error.message}", soft_wrap=True, markup=False)
        return {}


def _place() -> StateDir:
    from modelworks.laptop.state_dir import StateDir

    return StateDir.here()


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _show(found: dict[str, Any]) -> None:
    if not found["processes"]:
        out.print(f"Nothing is up in {found['place']}.", markup=False, soft_wrap=True)
        if found["leftovers"]:
            pids = ", ".join(str(pid) for pid in found["leftovers"])
            out.print(f"Processes without a supervisor: {pids}. `modelworks laptop up` or `down` ends them.")
        return
    processes = table("process", "state", "pid", "since", "MiB", "restarts")
    for process in found["processes"]:
        colour = "green" if process["state"] == "RUNNING" else "red"
        since = "" if process["since"] is None else _duration(process["since"])
        state = f"[{colour}]{process['state'].lower()}[/]"
        cells = (process["name"], state, process["pid"] or "", since, process["memory_mib"], process["restarts"])
        processes.add_row(*(str(cell) for cell in cells))
    out.print(processes)
    strict = ", strict" if found["strict"] else ""
    out.print(f"\n{found['memory_mib']} MiB in all, in {found['place']}{strict}", markup=False, soft_wrap=True)
    for name, url in found["endpoints"].items():
        out.print(f"{name}: {url}", soft_wrap=True)
    if authority := found["gateway_authority"]:
        out.print(f"  trusted with: curl --cacert {authority}", markup=False, soft_wrap=True)
    if hosts := found["hosts"]:
        addresses = table("host", "address")
        for host, url in hosts.items():
            addresses.add_row(host, url)
        out.print()
        out.print(addresses)
    environments = table("environment", "AWS", "account", "region", "namespace")
    for item in found["environments"]:
        environments.add_row(item["name"], item["aws"], item["account"], item["region"], item["namespace"])
    out.print()
    out.print(environments)
    out.print("\ntools: " + ", ".join(f"{name} {version}" for name, version in found["tools"].items()))
    recorded = [f"{kind}: {what}" for kind, what in found["recorded_not_emulated"].items()]
    for title, lines in (
        ("not enforced", found["not_enforced"]),
        ("recorded, not emulated", recorded),
        ("to know", found["notes"]),
    ):
        if lines:
            out.print(f"\n{title}:")
            for line in lines:
                out.print(f"  - {line}", markup=False, soft_wrap=True)


def _duration(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
