"""Progress of getting tools: a bar on a terminal, plain lines elsewhere, nothing when all are cached."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from modelworks.laptop.toolchain import machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from modelworks.laptop.toolchain.tools import State


@dataclass(frozen=True)
class Step:
    """One thing that happens to one tool."""

    tool: str
    what: str
    """`building`, `waiting`, `fetching` (they take time and end with `ready`), `ready`, `note`, or `alarm`: bytes that
    are not what was pinned."""

    text: str
    seconds: int = 0
    """How long it is expected to take; 0 where nobody knows."""


Report = Callable[[Step], None]
"""Called with every step of `ensure`, and again about twice a second while a step lasts."""

PLAIN_EVERY = 15.0
"""Seconds between two plain lines on one step that lasts."""


@contextmanager
def narrate(console: Console | None = None) -> Iterator[Report]:
    """A `Report` that writes to stderr: a bar with the expected time on a terminal, else plain lines."""
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _plain(console)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[expected]}"),
        console=console,
        transient=True,
    ) as bar:
        tasks: dict[str, tuple[TaskID, str, float]] = {}

        def report(step: Step) -> None:
            if step.what in {"note", "alarm"}:
                _print(console, step)
                return
            task = tasks.get(step.tool)
            if task is not None and task[1] != step.text:
                bar.remove_task(task[0])
                del tasks[step.tool]
                if step.what == "ready":  # what was at hand from the start is not worth a line
                    _print(console, step)
                task = None
            if step.what == "ready":
                return
            if task is None:
                added = bar.add_task(f"{step.tool}: {step.text}", total=step.seconds or None, expected="")
                tasks[step.tool] = task = (added, step.text, time.monotonic())
            elapsed = time.monotonic() - task[2]
            completed = min(elapsed, step.seconds * 0.98) if step.seconds else None
            bar.update(task[0], completed=completed, expected=pace(elapsed, step.seconds, busy=machine.busy()))

        yield report


def _plain(console: Console) -> Report:
    last: dict[str, tuple[str, float, float]] = {}  # tool -> text, since, last told

    def report(step: Step) -> None:
        now = time.monotonic()
        text, since, told = last.get(step.tool, ("", now, 0.0))
        if step.text != text:
            last[step.tool] = (step.text, now, now)
            if step.what == "ready" and not text:
                return  # it was at hand: nothing to tell
            _print(console, step, f" (usually {_time(step.seconds)})" if step.seconds else "")
        elif now - told >= PLAIN_EVERY:
            last[step.tool] = (text, since, now)
            _print(console, step, f", {pace(now - since, step.seconds, busy=machine.busy())}")

    return report


def _print(console: Console, step: Step, more: str = "") -> None:
    style = "bold red" if step.what == "alarm" else None
    console.print(f"{step.tool}: {step.text}{more}", style=style, soft_wrap=True, markup=False)


def pace(elapsed: float, usual: int, *, busy: bool) -> str:
    """How long a step has taken, how long it usually takes, and why it takes longer: `9.8 min (usually 3.4; …)`."""
    now = _time(round(elapsed))
    if not usual:
        return now
    number, _, unit = _time(usual).partition(" ")
    usually = number if now.endswith(f" {unit}") else f"{number} {unit}"
    if elapsed <= usual:
        return f"{now} (usually {usually})"
    return f"{now} (usually {usually}; {'this machine is busy' if busy else 'longer than usual'})"


def table(states: Sequence[State]) -> Table:
    """The tools as a table: name, version, where it is from, its state, its path."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("TOOL", "VERSION", "FROM", "STATE"):
        drawn.add_column(column, no_wrap=True)
    drawn.add_column("PATH", overflow="fold")
    for state in states:
        colour = "green" if state.path else "yellow"
        drawn.add_row(
            state.name,
            state.version,
            state.source,
            f"[{colour}]{state.state}[/]",
            str(state.path) if state.path else state.note,
        )
    return drawn


def _time(seconds: int) -> str:
    return f"{seconds} s" if seconds < 90 else f"{seconds / 60:.1f} min"
