"""A version on its way to another environment: judged against what serves there, then copied, then released.

Like `registration`, it takes registries and stack files, and can be called from a step of a pipeline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle.child_process import Progress
from modelworks.lifecycle.comparison import Kept, champion_of, fetch_champion, fetch_kept, judged_again
from modelworks.lifecycle.feature_services import require_features
from modelworks.lifecycle.history import is_last_release, note_release
from modelworks.lifecycle.identity import person_at
from modelworks.lifecycle.registration import apply_policy, follow_release, write_release
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.release import read_releases
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.version import CHAMPION, Version
from modelworks.runtime.signature import SigningKey, sign

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
    signing_key: SigningKey | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Promotion:
    """Release what serves in one environment in another: gates, then bundle and lineage, then one line in git.

    Args:
        model: The model.
        source: Registry of the environment it serves in.
        target: Registry of the environment it is to serve in.
        source_file: The source's stack file, which names the release.
        target_file: The target's stack file, whose line changes.
        home: Where data is looked for that the source does not keep.
        override: A reason to go on in spite of what the target refuses.
        signing_key: Signs the bundle for the target; default: it keeps its signature. See `signing.open_key`.
        progress: Called at every step.
        warn: Called with each problem that does not stop the promotion.

    Raises:
        ModelworksError: It does not serve in the source, the target refuses it, or a registry is unreachable. The
            line is unchanged then.
    """
    copied = prepare(
        model, source, target, source_file=source_file, target_file=target_file, home=home, override=override,
        signing_key=signing_key, progress=progress, warn=warn,
    )  # fmt: skip
    changed = write_release(target_file, copied)
    note_promotion(source, target, copied, changed=changed)
    return Promotion(copied, changed)


def prepare(
    model: str,
    source: Registry,
    target: Registry,
    *,
    source_file: Path,
    target_file: Path,
    home: Home,
    override: str = "",
    signing_key: SigningKey | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Version:
    """All of a promotion but its line: judge what serves in one environment, and copy it to another.

    The gates compare it with the champion of the target, on the same hold-out, under the target's policy. Bundle,
    signature, data and lineage are copied by digest into the target's own stores and registry, and verified there. As
    long as no line names it, it is not released.

    Args:
        model: The model.
        source: Registry of the environment it serves in.
        target: Registry of the environment it is to serve in.
        source_file: The source's stack file, which names the release.
        target_file: The target's stack file.
        home: Where data is looked for that the source does not keep.
        override: A reason to go on in spite of what the target refuses.
        signing_key: Signs the bundle for the target; default: it keeps its signature. See `signing.open_key`.
        progress: Called at every step.
        warn: Called with each problem that does not stop the promotion.

    Returns:
        The version, as the target's registry has it.

    Raises:
        ModelworksError: See `promote`.
    """
    version = _champion(model, source, source_file)
    require_features(version, target_file)
    # A promotion ends with a record in the source's lineage, when the target's line has changed already.
    source.require_writable(version)
    with tempfile.TemporaryDirectory(prefix="modelworks-promote-") as folder:
        scratch = Path(folder)
        kept = _signed(fetch_kept(version, source, home, scratch, warn), version, signing_key)
        target.store.require_trust(model, version.digest, kept.signature.read_bytes() if kept.signature else None)
        judged = _verdicts(version, kept, target, target_file, scratch, progress)
        return _copy(version, kept, source, target, judged, override, scratch)


def note_promotion(source: Registry, target: Registry, version: Version, *, changed: bool) -> None:
    """Let lineage and aliases of both environments follow a promoted line.

    Args:
        source: Where the version was promoted from.
        target: Where it is released now.
        version: The version.
        changed: Whether the line is new. An earlier try that broke behind the line is completed in any case.

    Raises:
        ModelworksError: A registry is unreachable, or refuses.
    """
    follow_release(target, version, changed=changed)
    original = source.find(version.model, version.digest)
    if changed or not is_last_release(original, source.versions(version.model), target.environment):
        note_release(source, original, target.environment)


def _champion(model: str, source: Registry, source_file: Path) -> Version:
    """The version that an environment both releases and serves."""
    line, environment = read_releases(source_file).get(model), source.environment
    if line is None:
        raise ModelworksError(
            f"{environment} releases no {model}", fix=f"Run `modelworks release {model} --env {environment}`."
        )
    version = source.find(model, line.digest)
    if CHAMPION not in version.aliases:
        raise ModelworksError(
            f"{environment} releases {version.model} {version.version}, but its champion is another: it does not "
            "serve it",
            fix=f"Bring it up and wait until it has all traffic: `modelworks up {environment}`, then "
            f"`modelworks status {environment} --wait`.",
        )
    return version


def _signed(kept: Kept, version: Version, key: SigningKey | None) -> Kept:
    """The same, signed by `key` if there is one."""
    if key is None:
        return kept
    path = kept.bundle.with_name(f"{kept.bundle.name}.sig")
    write_whole(path, sign(version.model, version.digest, key))
    return replace(kept, signature=path)


def _verdicts(
    version: Version, kept: Kept, target: Registry, target_file: Path, scratch: Path, progress: Progress | None
) -> dict[str, Any]:
    """The verdicts for the target and the champion they compare with, as its lineage keeps them."""
    champion, line = champion_of(target, target_file, version.model), read_releases(target_file).get(version.model)
    if version.digest in {champion, line and line.digest}:
        # It is what serves there: it was judged before it was, and would now be judged against itself.
        known = next((item for item in target.versions(version.model) if item.digest == version.digest), None)
        return {name: (known or version).facts[name] for name in ("gates", "champion")}

    def rival() -> Path | None:
        return fetch_champion(target, target_file, version.model, version.digest, scratch / "champion")

    return {"gates": judged_again(version, kept, rival, progress), "champion": champion or ""}


def _copy(
    version: Version,
    kept: Kept,
    source: Registry,
    target: Registry,
    judged: dict[str, Any],
    override: str,
    scratch: Path,
) -> Version:
    """Copy a version to the target's registry, with bundle, signature and data, if the target takes it."""
    facts = {name: value for name, value in version.facts.items() if name not in _OF_ONE_ENVIRONMENT} | judged
    person = person_at(target.store.session)
    decided = {"promoted_from": source.environment, "promoted_by": person, **judged}
    decided |= apply_policy(replace(version, facts=facts), target.environment, override, person)
    if kept.data and not target.store.has_data(version.data):
        target.store.keep_data(version.data, kept.data)
    if kept.project:
        target.store.keep_archive(kept.project)
    target.keep_bundle(version.model, version.digest, kept.bundle, kept.signature)
    target.store.fetch(version.model, version.digest, scratch / "copied")  # as pods will, before a version names it
    copied = target.name({**facts, **decided})
    # A version that was there already learns who decided what this time.
    missing = {name: value for name, value in decided.items() if copied.facts.get(name) != value}
    return target.note(copied, **missing)
