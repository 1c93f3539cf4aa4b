"""Programs of the tests, and what they write."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECONDS = 280


def started(argv: Sequence[str], folder: Path, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """A program that runs; what it writes is for `finished`."""
    return subprocess.Popen(
        argv,
        cwd=folder,
        env=variables,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(process: subprocess.Popen[str], fine: tuple[int, ...] = (0,)) -> str:
    """What a program wrote until its end; any exit code but those in `fine` fails the test."""
    try:
        said, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode in fine, said
    return said


def output_of(argv: Sequence[str], folder: Path, variables: Mapping[str, str], fine: tuple[int, ...] = (0,)) -> str:
    """What a program writes; any exit code but those in `fine` fails the test."""
    return finished(started(argv, folder, variables), fine)
