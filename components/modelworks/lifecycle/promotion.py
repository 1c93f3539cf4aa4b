"""A version on its way to another environment: the project it was made from, judged against what serves there."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelworks.errors import ModelworksError
from modelworks.lifecycle.child_process import Progress
from modelworks.lifecycle.data import SnapshotStore
from modelworks.lifecycle.gates import carried
from modelworks.lifecycle.provenance import code_digest
from modelworks.lifecycle.run_gates import judge
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.spec import ChampionGate, ModelSpec, find_model, load_spec

_GIT_BOUND = 60
"""Seconds for git to give a folder of a commit."""


def judged_again(
    facts: dict[str, Any],
    bundle: Path,
    champion: Callable[[], Path | None],
    home: Home,
    scratch: Path,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The verdicts that a version carries, those about a champion made anew against the one of its next environment.

    All others are of the bundle and its hold-out alone, and hold anywhere.

    Args:
        facts: The version's lineage.
        bundle: Its bundle.
        champion: Gives the bundle that serves where it is to go; None if nothing does.
        home: Where its data is, if it could be had.
        scratch: A folder to unpack its project into.
        progress: Called at every step.

    Returns:
        The verdicts. One that cannot be made is inconclusive, with its reason.
    """
    kind = ChampionGate.__name__
    mine = [each for each in facts["gates"] if each["gate"] == kind]
    rest = [each for each in facts["gates"] if each["gate"] != kind]
    if not mine:
        return rest
    try:
        rival = champion()
        if rival is None:
            message = "nothing serves there yet: there is no champion to lose to"
            return [*rest, *({**each, "verdict": "pass", "number": None, "message": message} for each in mine)]
        SnapshotStore(home.data).get(facts["data"])
        spec = spec_as_made(facts["model"], facts["code"], facts["commit"], scratch)
        found = judge(spec, home, facts["data"], bundle, facts["bundle"], champion=rival, only=kind, progress=progress)
    except ModelworksError as error:
        message = f"cannot be compared with the champion: {error.message.splitlines()[0]}"
        return [*rest, *({**each, "verdict": "inconclusive", "number": None, "message": message} for each in mine)]
    return [*rest, *map(carried, found)]


def spec_as_made(model: str, code: str, commit: str, scratch: Path) -> ModelSpec:
    """The spec that a version was made from: the project here if its code is still that, else its commit's.

    Args:
        model: Its name.
        code: Digest of the project's code.
        commit: Where git has that code.
        scratch: A folder to unpack the commit's project into.

    Raises:
        ModelworksError: Neither is at hand, or the code raises.
    """
    folder = find_model(model).parent
    if code_digest(folder) == code:
        return load_spec(folder)
    then = scratch / folder.name
    _unpack(folder, commit, then)
    if code_digest(then) != code:
        raise ModelworksError(
            f"{model} at the commit {commit[:12]} is not the code that it was made from",
            fix="It was trained from a tree that differed from its commit. Train it again from a clean one.",
        )
    return load_spec(then)


def _unpack(folder: Path, commit: str, into: Path) -> None:
    """Write what `folder` was at a commit to `into`."""
    try:
        # Asked from the top: git takes a path of the tree as below the folder that it is called in.
        top = Path(_git(folder, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
        packed = _git(top, "archive", "--format=tar", f"{commit}:{folder.relative_to(top).as_posix()}")
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise ModelworksError(
            f"git has no {folder.name} of the commit {commit[:12] or '(none)'}: {said}",
            fix="Fetch that commit: `git fetch`.",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelworksError(f"git cannot be asked for the commit {commit[:12]}: {error}") from error
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(into, filter="data")


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, timeout=_GIT_BOUND
    ).stdout
