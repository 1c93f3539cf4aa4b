"""The `modelworks` command.

Commands live in one module a subject (`laptop`, `engine`, ...), each with a `register(app)` that adds them; imports of
anything heavy happen inside a command, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Final

import typer
from rich.markup import escape

import modelworks
from modelworks.cli.console import err
from modelworks.cli.exit_codes import ExitCode
from modelworks.deploy.process import Interrupted
from modelworks.errors import ModelworksError

_EXTRAS: Final = {
    "models": "data, training, bundles, registry",
    "features": "feature store",
    "laptop": "the laptop cloud",
}

app = typer.Typer(
    name="modelworks",
    help="Every machine-learning environment, reproduced from code.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(modelworks.__version__)
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: a `ModelworksError` becomes its message and its exit code, never a traceback."""
    try:
        _register()
        app()
    except Interrupted:
        err.print("[bold]interrupted:[/] nothing of it is left running; run the command again to go on")
        sys.exit(ExitCode.INTERRUPTED)
    except ModelworksError as error:
        err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        if error.fix:
            err.print(f"[bold]fix:[/] {escape(error.fix)}", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except ModuleNotFoundError as error:
        if (error.name or "modelworks").startswith("modelworks"):
            raise
        err.print(f"[bold red]error:[/] this command needs the Python package {error.name}", soft_wrap=True)
        err.print(f"[bold]fix:[/] {escape(_with_package(error.name or ''))}", soft_wrap=True)
        sys.exit(ExitCode.FAILED)


def _with_package(name: str) -> str:
    """The sentence that names the extras with which a module is there."""
    package = {"sklearn": "scikit-learn"}.get(name, name.partition(".")[0].replace("_", "-"))
    extras = [extra for extra in _EXTRAS if package in _packages(extra)] or [*_EXTRAS]
    return f"Install {' or '.join(f'`modelworks[{extra}]` ({_EXTRAS[extra]})' for extra in extras)}."


def _packages(extra: str) -> Iterator[str]:
    for requirement in importlib.metadata.requires("modelworks") or ():
        found = re.fullmatch(r"([\w.-]+)(?:\[(\w+)\])?.*extra == [\"'](\w+)[\"'].*", requirement)
        if found and found[3] == extra:
            yield from _packages(found[2]) if found[1] == "modelworks" else [found[1]]


@functools.cache  # once a process: tests call it too
def _register() -> None:
    from modelworks.cli import (
        bootstrap,
        compare,
        doctor,
        engine,
        features,
        laptop,
        lifecycle,
        lineage,
        predict,
        promote,
        quickstart,
        registry,
        release,
        rollouts,
        settings,
        status,
        verify,
    )

    # The order of the panels of `--help`, and of the commands in each.
    for subject in (
        engine,
        settings,
        verify,
        compare,
        bootstrap,
        doctor,
        lifecycle,
        features,
        release,
        promote,
        rollouts,
        lineage,
        registry,
        status,
        predict,
        quickstart,
        laptop,
    ):
        subject.register(app)
