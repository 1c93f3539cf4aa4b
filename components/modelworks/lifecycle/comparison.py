"""A version compared with the champion of an environment, by what registries keep and not by what is checked out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.artifacts import unpack_bytes
from modelworks.lifecycle.child_process import Progress
from modelworks.lifecycle.data import SnapshotStore
from modelworks.lifecycle.gates import lineage_verdict
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.release import read_releases
from modelworks.lifecycle.run_gates import judge
from modelworks.lifecycle.runs import Home, TrainedModel, open_run
from modelworks.lifecycle.spec_gates import ChampionGate
from modelworks.lifecycle.store import ForbiddenError
from modelworks.lifecycle.version import CHAMPION, Version

_GATE = ChampionGate.__name__


@dataclass(frozen=True)
class Kept:
    """All that an environment keeps of a version, fetched."""

    bundle: Path
    signature: Path | None
    home: Home
    """Holds the rows that it was trained on, if they are available."""
    data: Path | None
    project: bytes
    """The packed project; empty if it is not available."""


def champion_of(registry: Registry, stack_file: Path, model: str) -> Digest | None:
    """The bundle to compare with: the champion, or the release while there is no champion yet; None without either.

    Raises:
        ModelworksError: The registry or the file is unavailable.
    """
    champion = next((each for each in registry.versions(model) if CHAMPION in each.aliases), None)
    if champion:
        return champion.digest
    line = read_releases(stack_file).get(model)
    return Digest(line.digest) if line else None


def fetch_champion(registry: Registry, stack_file: Path, model: str, digest: Digest, folder: Path) -> Path | None:
    """The bundle of the champion, downloaded into `folder`; None if it is `digest` itself, or there is none.

    Raises:
        ModelworksError: It is not available, or its bytes are not the digest's.
    """
    champion = champion_of(registry, stack_file, model)
    return None if champion in {None, digest} else registry.store.fetch(model, Digest(champion), folder)[0]


def fetch_kept(version: Version, source: Registry, home: Home, scratch: Path, warn: Callable[[str], None]) -> Kept:
    """Fetch all that an environment keeps of a version.

    Args:
        version: The version.
        source: Registry of the environment.
        home: Where data is looked for that the environment does not keep.
        scratch: Folder for it.
        warn: Called with what is not available.

    Raises:
        ForbiddenError: Some of it may not be read.
        ModelworksError: The bundle is not available, or was changed.
    """
    there = Home(scratch / "home")
    bundle, signature = source.store.fetch(version.model, version.digest, scratch)
    data = _data(version, source, home, there, warn)
    return Kept(bundle, signature, there, data, _project(version, source, warn))


def _data(version: Version, source: Registry, home: Home, there: Home, warn: Callable[[str], None]) -> Path | None:
    digest = version.data
    if source.store.has_data(digest):
        return source.store.fetch_data(digest, there.data)
    try:
        kept = SnapshotStore(home.data, home.data_store).get(digest).path
    except ModelworksError as error:
        warn(
            f"{source.environment} does not keep the rows of {version.model} {version.version} ({error.message}): "
            "it cannot be compared on them, nor trained on them again"
        )
        return None
    there.data.mkdir(parents=True)
    return Path(shutil.copy(kept, there.data))


def _project(version: Version, source: Registry, warn: Callable[[str], None]) -> bytes:
    try:
        return source.store.archive_of(version)
    except ForbiddenError:
        raise  # what may not be read is not for that reason absent
    except ModelworksError as error:
        warn(
            f"{source.environment} does not keep the project of {version.model} {version.version} ({error.message}): "
            "it cannot be compared by its own gates"
        )
        return b""


def has_champion_verdict(version: Version) -> bool:
    """Whether a verdict of a version is about a champion."""
    return any(each["gate"] == _GATE for each in version.facts["gates"])


def judged_again(
    version: Version, kept: Kept, champion: Callable[[], Path | None], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The verdicts of a version, with those about a champion evaluated again against that of an environment.

    All others are of the bundle and its hold-out alone, and hold anywhere.

    Args:
        version: The version.
        kept: The copy that its environment keeps of it.
        champion: Returns the bundle that serves where it is to go; None if nothing does.
        progress: Called at every step.

    Returns:
        The verdicts. One that cannot be made is inconclusive, with its reason.

    Raises:
        ForbiddenError: The champion may not be read.
    """
    mine = [each for each in version.facts["gates"] if each["gate"] == _GATE]
    rest = [each for each in version.facts["gates"] if each["gate"] != _GATE]
    if not mine:
        return rest
    try:
        rival = champion()
        if rival is None:
            message = "nothing serves there yet: there is no champion to lose to"
            return [*rest, *({**each, "verdict": "pass", "number": None, "message": message} for each in mine)]
        SnapshotStore(kept.home.data).get(version.data)
        run = _run_of(version, kept)
        found = judge(run, kept.home, kept.bundle, version.digest, champion=rival, only=_GATE, progress=progress)
    except ForbiddenError:
        raise  # a champion that may not be read is no verdict
    except ModelworksError as error:
        message = f"cannot be compared with the champion: {error.message.splitlines()[0]}"
        return [*rest, *({**each, "verdict": "inconclusive", "number": None, "message": message} for each in mine)]
    return [*rest, *map(lineage_verdict, found)]


def _run_of(version: Version, kept: Kept) -> TrainedModel:
    """The run that a version was made by, as far as its bundle is judged by it.

    Raises:
        ModelworksError: Its project is not kept, or is another.
    """
    name = f"{version.model} {version.version}"
    if not kept.project:
        raise ModelworksError(f"the project of {name} is not kept")
    folder = kept.home.runs(version.model) / version.run
    unpack_bytes(kept.project, f"the project of {name}", folder)
    run = open_run(folder)
    if (run.model, run.inputs["data"]) != (version.model, version.data):
        raise ModelworksError(f"the project of {name} is that of another run")
    return run
