"""Exit codes of the commands: one table, which `--help` and the reference show."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit code of a command."""

    OK = 0
    FAILED = 1
    PROGRESSING = 3
    """Not 2, which is that of an invalid command line: a script that waits must not wait for a typing error."""
    UNAVAILABLE = 75
    """`EX_TEMPFAIL` of sysexits.h: a retry may succeed."""
    INTERRUPTED = 130


COMMON: Mapping[int, str] = {
    ExitCode.OK: "success",
    ExitCode.FAILED: "the command was refused or failed",
    2: "the command line is invalid",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}
"""Meanings that hold unless a command defines another."""

_PULUMI: Mapping[int, str] = {
    4: "a resource failed (Pulumi's own code, like all others)",
    5: "a policy is violated",
    6: "the stack does not exist",
    7: "`--expect-no-changes` found changes",
}
_STATUS: Mapping[int, str] = {
    ExitCode.OK: "every released endpoint is `Healthy`",
    ExitCode.FAILED: "an endpoint is `Aborted`, `Degraded` or `OutOfSync`, the environment is unreachable, or the "
    "registry could not record the result that was waited for",
    ExitCode.PROGRESSING: "a rollout is still `Progressing`; with `--wait`, after its timeout",
}
_WATCH = {**_STATUS, ExitCode.PROGRESSING: "the rollout is still `Progressing` after `--timeout`"}
EXIT_CODES: Mapping[str, Mapping[int, str]] = {
    "up": _PULUMI,
    "preview": _PULUMI,
    "destroy": _PULUMI,
    "check": {ExitCode.FAILED: "a file is invalid"},
    "verify": {
        ExitCode.OK: "everything matches the code, or was repaired",
        ExitCode.FAILED: "something differs, or a check could not be performed",
    },
    "doctor": {
        ExitCode.OK: "nothing is missing",
        ExitCode.FAILED: "something is missing, or a check could not be performed",
    },
    "registry rebuild": {
        ExitCode.OK: "the registry has everything that the lineage in the store has",
        ExitCode.FAILED: "a model was refused, or registry or store is unreachable",
    },
    "compare": {
        ExitCode.OK: "every difference is declared",
        ExitCode.FAILED: "a difference is undeclared, or an environment is unreachable",
    },
    "check-data": {ExitCode.FAILED: "the data is not fit for training"},
    "train": {
        ExitCode.FAILED: "the data, the model's code or the environment stopped the training",
        ExitCode.UNAVAILABLE: "a bucket is unreachable",
        137: "with `--env`: the container was killed, out of memory; other codes of the container are passed on too",
    },
    "features apply": {ExitCode.FAILED: "a definition is invalid, or a change would break a released model"},
    "features verify": {
        ExitCode.OK: "every compared value is that of history",
        ExitCode.FAILED: "a value differs or is missing, or a view was never materialized",
    },
    "gates": {ExitCode.FAILED: "the environment's policy refuses the bundle"},
    "status": _STATUS,
    "rollout watch": _WATCH,
    "quickstart": {ExitCode.OK: "the model answers", ExitCode.FAILED: "a step failed; its error names the cause"},
    "laptop status": {ExitCode.OK: "the laptop cloud is up", ExitCode.FAILED: "it is not"},
}
"""Codes of the commands that define some: by command and code, what the code means."""


def epilog(command: str) -> str:
    """The line of `--help` that lists the exit codes of a command."""
    codes = {**COMMON, **EXIT_CODES.get(command, {})}
    return f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in sorted(codes.items()))}."
