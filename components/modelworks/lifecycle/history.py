"""The history of a model in an environment, kept with its versions: when each was released, champion, rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from modelworks.contract import Digest
from modelworks.lifecycle.identity import person_at
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.version import CHAMPION, Version

_RELEASED = "released"
_CHAMPION = "became_champion"
_ROLLED_BACK = "rolled_back"


# -- Decisions -------------------------------------------------------------------------------------------------------
def champions(versions: Sequence[Version], environment: str) -> list[Version]:
    """The versions that were champion in an environment, the last one first."""
    were = [each for each in versions if CHAMPION in each.aliases or _last(each, _CHAMPION, environment)]
    return sorted(were, key=lambda each: (CHAMPION in each.aliases, _last(each, _CHAMPION, environment)), reverse=True)


def way_back(versions: Sequence[Version], environment: str, current: str) -> Version | None:
    """The last champion besides the current release that was not rolled back since.

    Args:
        versions: The model's.
        environment: The environment.
        current: Digest of its current release; empty without one.
    """
    return next(
        (
            each
            for each in champions(versions, environment)
            if each.digest != current and not was_rolled_back(each, environment)
        ),
        None,
    )


def was_rolled_back(version: Version, environment: str) -> bool:
    """Whether an environment rolled a version back, and it did not become champion again since."""
    return _last(version, _ROLLED_BACK, environment) > _last(version, _CHAMPION, environment)


def is_last_release(version: Version, versions: Sequence[Version], environment: str) -> bool:
    """Whether the lineage records a version as the last release of an environment."""
    last = max((_last(each, _RELEASED, environment) for each in versions), default="")
    return bool(last) and _last(version, _RELEASED, environment) == last


def is_broken_rollback(version: Version, versions: Sequence[Version], environment: str) -> bool:
    """Whether the last rollback led to a version, and was interrupted before the lineage recorded its release."""
    marks = [mark for each in versions for mark in _marks(each, _ROLLED_BACK, environment)]
    last = max(marks, key=lambda mark: str(mark["at"]), default=None)
    return bool(last and last["to"] == version.digest and _last(version, _RELEASED, environment) < last["at"])


def _last(version: Version, kind: str, environment: str) -> str:
    return max((str(mark["at"]) for mark in _marks(version, kind, environment)), default="")


def _marks(version: Version, kind: str, environment: str) -> list[dict[str, Any]]:
    return [mark for mark in version.facts.get(kind, []) if mark["environment"] == environment]


# -- Records ---------------------------------------------------------------------------------------------------------
def note_release(registry: Registry, version: Version, environment: str) -> Version:
    """Record that an environment released a version: now, and by whoever runs this.

    Args:
        registry: Whose lineage it is.
        version: The version.
        environment: Where it was released.
    """
    return _note(registry, version, _RELEASED, environment, by=person_at(registry.store.session))


def note_champion(registry: Registry, version: Version) -> Version:
    """Record that a version took all traffic of the registry's environment."""
    return _note(registry, version, _CHAMPION, registry.environment)


def note_rollback(registry: Registry, version: Version, to: Digest) -> Version:
    """Record that the registry's environment leaves a version for `to`."""
    by = person_at(registry.store.session)
    return _note(registry, version, _ROLLED_BACK, registry.environment, by=by, to=str(to))


def _note(registry: Registry, version: Version, kind: str, environment: str, **more: str) -> Version:
    mark = {"environment": environment, "at": datetime.now(UTC).isoformat(timespec="microseconds"), **more}
    return registry.note(version, **{kind: [*version.facts.get(kind, []), mark]})
