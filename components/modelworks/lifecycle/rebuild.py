"""A lost registry, rebuilt from the lineage that its environment keeps in the store beside the bundles.

Each object is about one bundle and named by its digest; the bundle's signature is verified again before a version names
it. The facts themselves are not signed: whoever may write to the store may write them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelworks import contract
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.version import Version

_ALIASES = "aliases.json"
_MOST_MISSING = 1000
"""Numbers without a version, of interrupted tries, that one model may have: restoring makes a version for each."""


@dataclass(frozen=True)
class Rebuilt:
    """The result of a rebuild for one model."""

    model: str
    state: Literal["rebuilt", "present", "refused"]
    """`present`: the registry has all of it already. `refused`: nothing of it was changed."""
    versions: tuple[int, ...] = ()
    """Versions that were restored, or whose aliases were."""
    problem: str = ""
    """Why it was refused."""
    fix: str = ""
    """The way to repair it."""


def rebuild(registry: Registry, progress: Callable[[Version], None] = lambda _: None) -> list[Rebuilt]:
    """Restore every model that the store has lineage of: versions with their numbers, facts and aliases.

    Rebuilding twice is rebuilding once, and an interrupted rebuild continues. A model whose versions in the registry
    differ from its lineage is refused, and so is one with a bundle whose signature the environment does not trust; the
    other models are rebuilt.

    Args:
        registry: Of the environment; empty, or with a part of what was rebuilt.
        progress: Called with each version before it is restored.

    Raises:
        ModelworksError: Registry or store is unreachable, or the store has no lineage.
    """
    lineage = registry.store.read_lineage()
    if not lineage:
        raise ModelworksError(
            f"s3://{registry.store.bucket}/{contract.LINEAGE_PREFIX}/ is empty: there is nothing to rebuild "
            f"{registry.environment} from",
            fix="Check the environment's name. `modelworks register` writes the lineage of each version there.",
        )
    there = {*registry.models()}
    return [
        _rebuild(registry, model, lineage[model], there=model in there, progress=progress) for model in sorted(lineage)
    ]


def _rebuild(
    registry: Registry, model: str, objects: Mapping[str, bytes], *, there: bool, progress: Callable[[Version], None]
) -> Rebuilt:
    existing = registry.versions(model) if there else []
    try:
        missing = plan(read_versions(registry.store.bucket, model, objects), existing)
        for version in missing:
            registry.store.require_trusted_release(model, version.digest)
    except ModelworksError as error:
        return Rebuilt(model, "refused", problem=error.message, fix=error.fix or "")
    for version in missing:
        progress(version)
        registry.restore(version)
    return Rebuilt(model, "rebuilt" if missing else "present", tuple(version.version for version in missing))


def plan(recorded: Sequence[Version], existing: Sequence[Version]) -> list[Version]:
    """The versions to restore, the lowest number first.

    Args:
        recorded: All versions of a model, as the store has them.
        existing: Those that the registry has.

    Raises:
        ModelworksError: The registry has something that the store does not.
    """
    by_number = {version.version: version for version in recorded}
    for version in existing:
        record = by_number.get(version.version)
        if record is None or record.facts != version.facts or {*version.aliases} - {*record.aliases}:
            raise ModelworksError(
                f"the registry's version {version.version} of {version.model} differs from the lineage in the store, "
                "and is left as it is",
                fix="Only lost models are rebuilt. If the registry is right, `modelworks verify --repair` writes its "
                "lineage into the store.",
            )
    last = max((version.version for version in existing), default=0)
    numbers = {version.version for version in existing}
    if gone := sorted(number for number in by_number.keys() - numbers if number < last):
        lost = by_number[gone[0]]
        raise ModelworksError(
            f"the registry has version {last} of {lost.model} and not version {gone[0]}, which was deleted there: its "
            "number cannot be used again",
            fix=f"If it is to stay deleted, delete {contract.lineage_key(lost.model, lost.digest)} from the store.",
        )
    known = {(version.version, version.aliases) for version in existing}
    return sorted(
        (version for version in recorded if (version.version, version.aliases) not in known),
        key=lambda version: version.version,
    )


def difference(registry: Registry, model: str, objects: Mapping[str, bytes]) -> str:
    """How the lineage of a model in the store differs from the registry; empty if a rebuild would restore it all.

    Args:
        registry: Of the environment.
        model: The model.
        objects: Content of each object, by the name of its file: see `Registry.read_lineage`.

    Raises:
        ModelworksError: The registry is unreachable.
    """
    try:
        recorded = {version.version: version for version in read_versions(registry.store.bucket, model, objects)}
    except ModelworksError as error:
        return error.message
    wrong = [str(version.version) for version in registry.versions(model) if recorded.get(version.version) != version]
    return f"versions {', '.join(wrong)}" if wrong else ""


def read_versions(bucket: str, model: str, objects: Mapping[str, bytes]) -> list[Version]:
    """The versions of a model in the lineage of the store.

    Args:
        bucket: The store, for messages.
        model: The model, as the objects' keys name it.
        objects: Content of each object, by the name of its file.

    Raises:
        ModelworksError: An object is malformed, is about another bundle, or claims the number of another or one that so
            few versions do not reach.
    """
    where = f"s3://{bucket}/{contract.LINEAGE_PREFIX}/{model}"
    if not contract.MODEL_NAME.fullmatch(model):
        raise _malformed(f"{where}/", "it is under no model's name")
    aliases = _aliases(f"{where}/{_ALIASES}", objects.get(_ALIASES, b"{}"))
    found = [
        _version(f"{where}/{name}", model, name, objects[name], aliases) for name in sorted(objects) if name != _ALIASES
    ]
    numbers = [version.version for version in found]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise _malformed(f"{where}/", f"two bundles claim to be version {twice[0]}")
    if found and max(numbers) > len(found) + _MOST_MISSING:
        raise _malformed(f"{where}/", f"one of {len(found)} versions claims to be version {max(numbers)}")
    if strangers := {*aliases.values()} - {version.digest for version in found}:
        raise _malformed(f"{where}/{_ALIASES}", f"no object is about {min(strangers)}")
    return found


def _version(where: str, model: str, name: str, data: bytes, aliases: Mapping[str, str]) -> Version:
    content = _json(where, data)
    number, facts = content.get("version"), content.get("facts")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or not isinstance(facts, dict):
        raise _malformed(where, "it states no version with its facts")
    try:
        digest = Digest(facts["bundle"])
    except (KeyError, TypeError, ModelworksError) as error:
        raise _malformed(where, "its facts name no bundle") from error
    if facts.get("model") != model or f"{digest.hex}.json" != name:
        raise _malformed(where, "its facts are about another bundle than its name")
    return Version(model, number, facts, tuple(sorted(alias for alias, bundle in aliases.items() if bundle == digest)))


def _aliases(where: str, data: bytes) -> dict[str, str]:
    content = _json(where, data)
    if not all(isinstance(digest, str) for digest in content.values()):
        raise _malformed(where, "an alias belongs to no digest")
    return content


def _json(where: str, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed(where, f"it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise _malformed(where, "it is no mapping")
    return content


def _malformed(where: str, why: str) -> ModelworksError:
    return ModelworksError(
        f"{where} cannot be used: {why}",
        fix="The bucket keeps earlier versions of each object: restore one, or delete this one if nothing needs it.",
    )
