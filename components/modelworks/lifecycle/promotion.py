"""A version on its way to another environment: judged against what serves there, then copied, then released.

Like `registration`, it takes registries and stack files, and can be called from a step of a pipeline.
"""

from __future__ import annotations

import getpass
import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from modelworks._git import GitError, git
from modelworks.errors import ModelworksError
from modelworks.lifecycle.aliases import note_release, was_released
from modelworks.lifecycle.child_process import Progress
from modelworks.lifecycle.data import SnapshotStore
from modelworks.lifecycle.gates import lineage_verdict
from modelworks.lifecycle.provenance import code_digest
from modelworks.lifecycle.registration import apply_policy, fetch_champion, follow_release, write_release
from modelworks.lifecycle.registry import CHAMPION, Registry, Version
from modelworks.lifecycle.release import read_releases
from modelworks.lifecycle.run_gates import judge
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.spec import ChampionGate, ModelSpec, find_model, load_spec

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
    judged = _verdicts(version, bundle, target, target_file, there, scratch, progress)
    facts = {name: value for name, value in version.facts.items() if name not in _OF_ONE_ENVIRONMENT} | judged
    decided = {"promoted_from": source.environment, "promoted_by": getpass.getuser(), **judged}
    decided |= apply_policy(replace(version, facts=facts), target.environment, override)
    if data and not target.has_data(version.facts["data"]):
        target.keep_data(version.facts["data"], data)
    copied = target.register({**facts, **decided}, bundle, signature)
    # A version that was there already learns who decided what this time.
    missing = {name: value for name, value in decided.items() if copied.facts.get(name) != value}
    copied = target.note(copied, **missing)
    target.fetch(version.model, version.digest, scratch / "copied")
    return copied


def _data(version: Version, source: Registry, home: Home, there: Home, warn: Callable[[str], None]) -> Path | None:
    """The rows that a version was trained on, copied to `there`; None, with a warning, if they are nowhere."""
    digest = version.facts["data"]
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


def _verdicts(
    version: Version,
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
        version.facts,
        bundle,
        lambda: fetch_champion(target, target_file, version.model, version.digest, scratch / "champion"),
        home,
        scratch,
        progress,
    )
    return {"gates": gates, "champion": line.digest if line else ""}


def judged_again(
    facts: dict[str, Any],
    bundle: Path,
    champion: Callable[[], Path | None],
    home: Home,
    scratch: Path,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The verdicts of a version, with those about a champion evaluated again against that of the next environment.

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
    return [*rest, *map(lineage_verdict, found)]


def spec_as_made(model: str, code: str, commit: str, scratch: Path) -> ModelSpec:
    """The spec that a version was made from: the project here if its code is still that, else its commit's.

    Args:
        model: Its name.
        code: Digest of the project's code.
        commit: Where git has that code.
        scratch: A folder to unpack the commit's project into.

    Raises:
        ModelworksError: Neither is available, or the code raises.
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
        top = Path(git(folder, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
        packed = git(top, "archive", "--format=tar", f"{commit}:{folder.relative_to(top).as_posix()}")
    except GitError as error:
        raise ModelworksError(
            f"git has no {folder.name} of the commit {commit[:12] or '(none)'}: {error.said}",
            fix="Fetch that commit: `git fetch`.",
        ) from error
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(into, filter="data")
