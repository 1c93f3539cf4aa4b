"""A version on its way to another environment: judged against what serves there, then copied, then released.

Like `registration`, it takes registries and stack files, and can be called from a step of a pipeline.
"""

from __future__ import annotations

import getpass
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from modelworks.errors import ModelworksError
from modelworks.lifecycle.aliases import note_release, was_released
from modelworks.lifecycle.artifacts import unpack_bytes
from modelworks.lifecycle.child_process import Progress
from modelworks.lifecycle.data import SnapshotStore
from modelworks.lifecycle.gates import lineage_verdict
from modelworks.lifecycle.registration import apply_policy, fetch_champion, follow_release, write_release
from modelworks.lifecycle.registry import CHAMPION, Registry, Version
from modelworks.lifecycle.release import read_releases
from modelworks.lifecycle.run_gates import judge
from modelworks.lifecycle.runs import Home, TrainedModel, open_run
from modelworks.lifecycle.spec import ChampionGate

_OF_ONE_ENVIRONMENT = ("mlflow_run", "registered_at", "promoted_from", "promoted_by")
"""Facts that a promoted version does not take along."""


class Promotion(NamedTuple):
    """The result of a promotion."""

    version: Version
    """As the target's registry has it."""
    changed: bool
    """Whether the target's release line changed."""


def promote(
    model: str,
    source: Registry,
    target: Registry,
    *,
    source_file: Path,
    target_file: Path,
    home: Home,
    override: str = "",
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda _: None,
    write: Callable[[Path, Version], bool] = write_release,
) -> Promotion:
    """Take what serves in one environment to another: gates, then bundle and lineage, then one line in git.

    The gates compare it with the version that serves in the target, on the same hold-out, under the target's policy.
    Bundle, signature, data and lineage are copied by digest into the target's own stores and registry and verified
    there; only then the target's stack file changes.

    Args:
        model: The model.
        source: Registry of the environment it serves in.
        target: Registry of the environment it is to serve in.
        source_file: The source's stack file, which names the release.
        target_file: The target's stack file, whose line changes.
        home: Where data is looked for that the source does not keep.
        override: A reason to go on in spite of what the target refuses.
        progress: Called at every step.
        warn: Called with each problem that does not stop the promotion.
        write: Writes the release line of a version into the target's stack file, and returns whether it changed.

    Raises:
        ModelworksError: It does not serve in the source, the target refuses it, or a registry is unreachable. The
            line is unchanged then.
    """
    line = read_releases(source_file).get(model)
    if line is None:
        raise ModelworksError(
            f"{source.environment} releases no {model}",
            fix=f"Run `modelworks release {model} --env {source.environment}`.",
        )
    version = source.find(model, line.digest)
    _require_champion(source.environment, version)
    with tempfile.TemporaryDirectory(prefix="modelworks-promote-") as scratch:
        copied = _copy(version, source, target, target_file, override, home, Path(scratch), progress, warn)
    changed = write(target_file, copied)
    follow_release(target, copied, changed=changed)
    if changed or not was_released(version, target.environment):
        note_release(source, version, target.environment)
    return Promotion(copied, changed)


def _require_champion(environment: str, version: Version) -> None:
    if CHAMPION not in version.aliases:
        raise ModelworksError(
            f"{environment} releases {version.model} {version.version}, but its champion is another: it does not "
            "serve it",
            fix=f"Bring it up and wait until it has all traffic: `modelworks up {environment}`, then "
            f"`modelworks status {environment} --wait`.",
        )


def _copy(
    version: Version,
    source: Registry,
    target: Registry,
    target_file: Path,
    override: str,
    home: Home,
    scratch: Path,
    progress: Progress | None,
    warn: Callable[[str], None],
) -> Version:
    """Have a version in the target's registry, with bundle, signature and data, if the target takes it."""
    there = Home(scratch / "home")
    bundle, signature = source.fetch(version.model, version.digest, scratch)
    data = _data(version, source, home, there, warn)
    project = _project(version, source, warn)
    judged = _verdicts(version, project, bundle, target, target_file, there, scratch, progress)
    facts = {name: value for name, value in version.facts.items() if name not in _OF_ONE_ENVIRONMENT} | judged
    decided = {"promoted_from": source.environment, "promoted_by": getpass.getuser(), **judged}
    decided |= apply_policy(replace(version, facts=facts), target.environment, override)
    if data and not target.has_data(version.data):
        target.keep_data(version.data, data)
    if project:
        target.keep_archive(project)
    copied = target.register({**facts, **decided}, bundle, signature)
    # A version that was there already learns who decided what this time.
    missing = {name: value for name, value in decided.items() if copied.facts.get(name) != value}
    copied = target.note(copied, **missing)
    target.fetch(version.model, version.digest, scratch / "copied")
    return copied


def _data(version: Version, source: Registry, home: Home, there: Home, warn: Callable[[str], None]) -> Path | None:
    """The rows that a version was trained on, copied to `there`; None, with a warning, if they are nowhere."""
    digest = version.data
    if source.has_data(digest):
        return source.fetch_data(digest, there.data)
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
    """The packed project of a version; nothing, with a warning, if the source does not keep it."""
    try:
        return source.archive_of(version)
    except ModelworksError as error:
        warn(
            f"{source.environment} does not keep the project of {version.model} {version.version} ({error.message}): "
            "it cannot be compared by its own gates"
        )
        return b""


def _verdicts(
    version: Version,
    project: bytes,
    bundle: Path,
    target: Registry,
    target_file: Path,
    home: Home,
    scratch: Path,
    progress: Progress | None,
) -> dict[str, Any]:
    """The verdicts for the target and the champion they compare with, as its lineage keeps them."""
    line = read_releases(target_file).get(version.model)
    if line and line.digest == version.digest:
        # It is what serves there: it was judged before it was, and would now be judged against itself.
        known = next((item for item in target.versions(version.model) if item.digest == version.digest), None)
        return {name: (known or version).facts[name] for name in ("gates", "champion")}
    gates = judged_again(
        version,
        bundle,
        lambda: _run_of(version, project, home),
        lambda: fetch_champion(target, target_file, version.model, version.digest, scratch / "champion"),
        home,
        progress,
    )
    return {"gates": gates, "champion": line.digest if line else ""}


def judged_again(
    version: Version,
    bundle: Path,
    run: Callable[[], TrainedModel],
    champion: Callable[[], Path | None],
    home: Home,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The verdicts of a version, with those about a champion evaluated again against that of the next environment.

    All others are of the bundle and its hold-out alone, and hold anywhere.

    Args:
        version: The version.
        bundle: Its bundle.
        run: Gives the run it was made by.
        champion: Gives the bundle that serves where it is to go; None if nothing does.
        home: Where its data is, if it could be had.
        progress: Called at every step.

    Returns:
        The verdicts. One that cannot be made is inconclusive, with its reason.
    """
    kind = ChampionGate.__name__
    mine = [each for each in version.facts["gates"] if each["gate"] == kind]
    rest = [each for each in version.facts["gates"] if each["gate"] != kind]
    if not mine:
        return rest
    try:
        rival = champion()
        if rival is None:
            message = "nothing serves there yet: there is no champion to lose to"
            return [*rest, *({**each, "verdict": "pass", "number": None, "message": message} for each in mine)]
        SnapshotStore(home.data).get(version.data)
        found = judge(run(), home, bundle, version.digest, champion=rival, only=kind, progress=progress)
    except ModelworksError as error:
        message = f"cannot be compared with the champion: {error.message.splitlines()[0]}"
        return [*rest, *({**each, "verdict": "inconclusive", "number": None, "message": message} for each in mine)]
    return [*rest, *map(lineage_verdict, found)]


def _run_of(version: Version, project: bytes, home: Home) -> TrainedModel:
    """The run that a version was made by, as far as its bundle is judged by it.

    Raises:
        ModelworksError: Its project is not kept, or is another.
    """
    name = f"{version.model} {version.version}"
    if not project:
        raise ModelworksError(f"the project of {name} is not kept")
    folder = home.runs(version.model) / version.run
    unpack_bytes(project, f"the project of {name}", folder)
    run = open_run(folder)
    if (run.model, run.inputs["data"]) != (version.model, version.data):
        raise ModelworksError(f"the project of {name} is that of another run")
    return run
