"""Shared options, consoles and tables of the commands."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Model = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
Json = Annotated[bool, typer.Option("--json", help="Print facts as JSON.")]
Override = Annotated[
    str,
    typer.Option("--override", metavar="REASON", help="Continue although gates refuse, and record the reason."),
]
SigningKeyOption = Annotated[
    str,
    typer.Option(
        "--signing-key",
        metavar="KEY",
        show_default=False,
        help="Key that signs the bundle: a file (Ed25519, PEM), or a KMS key (awskms:///ID?region=REGION).",
    ),
]

ENVIRONMENTS, MODELS, RELEASES, OBSERVE, LAPTOP = "Environments", "Models", "Releases", "Observe", "Laptop"
"""Panels of `modelworks --help`."""

COLOURS = {"error": "red", "fail": "red", "warning": "yellow", "inconclusive": "yellow", "note": "dim", "pass": "green"}
"""Of severities and verdicts."""

_WIDE = 200
"""Columns of what goes to a file or a pipe: folding a digest there would keep it from being searched for or copied."""

out = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE)
err = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Print a line to standard error as it is: nothing in it is markup."""
    print(line, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a problem that stops nothing."""
    err.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


def progress(step: str, state: str, seconds: float) -> None:
    """Print the state of a step (`start`, `done`, `kept`)."""
    if state == "start":
        if err.is_terminal:
            err.print(f"  {step} …", style="dim", end="\r")
        return
    taken = "   kept" if state == "kept" else f"{seconds:6.1f} s"
    err.print(f"  {step:<28}{taken}", style="dim")


def table(*columns: str) -> Table:
    """An empty table with these headings, or without a head for none; long cells are folded, never cut."""
    made = Table(box=None, pad_edge=False, header_style="dim", show_header=any(columns))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def moment(iso: str) -> str:
    """A time as people read it, in UTC; `iso` is ISO 8601, or empty if the time is unknown."""
    if not iso:
        return "an unknown time"
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
