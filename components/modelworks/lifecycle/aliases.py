"""Aliases of a registry: `champion` has an environment's traffic, `challenger` is on its way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from modelworks.contract import Digest
from modelworks.lifecycle.history import note_champion, was_rolled_back
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.version import CHALLENGER, CHAMPION, Version


class Move(NamedTuple):
    """An alias that does not point where it belongs."""

    alias: str
    now: Version | None
    """Where it points; None for nowhere."""
    wanted: Version | None
    """Where it belongs; None for nowhere."""


def aliases_for(digest: Digest, versions: Sequence[Version], *, serves: bool) -> Mapping[str, Digest | None]:
    """Where the aliases of a model belong in an environment that releases the bundle `digest`.

    Args:
        digest: The digest that the stack's file releases.
        versions: The model's, as the environment's registry has them.
        serves: Whether all traffic is on it already.

    Returns:
        The digest that each alias belongs to; None for none.
    """
    if serves:
        return {CHAMPION: digest, CHALLENGER: None}
    if any(CHAMPION in version.aliases and version.digest == digest for version in versions):
        return {CHALLENGER: None}  # back to what has the traffic: nothing is on its way
    return {CHALLENGER: digest}


def moves(wanted: Mapping[str, Digest | None], versions: Sequence[Version]) -> list[Move]:
    """The changes that put the aliases where they belong.

    A digest that no version is registered for is left out: the release itself is wrong then.
    """
    found = []
    for alias, digest in wanted.items():
        now = next((version for version in versions if alias in version.aliases), None)
        target = next((version for version in versions if version.digest == digest), None)
        if (now.digest if now else None) != digest and (target or digest is None):
            found.append(Move(alias, now, target))
    return found


def move_aliases(registry: Registry, model: str, digest: Digest, *, serves: bool) -> list[Move]:
    """Let the aliases of a model point where they belong, record a new champion, and return what was changed.

    Args:
        registry: Of the environment.
        model: The model.
        digest: The digest that the environment's stack file releases.
        serves: Whether all traffic is on it already.

    Raises:
        ModelworksError: The registry is unreachable, or refuses.
    """
    versions = registry.versions(model)
    changed = moves(aliases_for(digest, versions, serves=serves), versions)
    for move in changed:
        point_alias(registry, model, move)
    champion = next((each for each in versions if serves and each.digest == digest), None)
    if champion and CHAMPION in champion.aliases and was_rolled_back(champion, registry.environment):
        note_champion(registry, champion)  # released again before it had lost the traffic
    return changed


def point_alias(registry: Registry, model: str, move: Move) -> None:
    """Let one alias point where it belongs. A champion enters the history first, so that none is ever missing there.

    Args:
        registry: Of the environment.
        model: The model.
        move: The alias, and where it belongs.

    Raises:
        ModelworksError: The registry is unreachable, or refuses.
    """
    if move.alias == CHAMPION and move.wanted:
        note_champion(registry, move.wanted)
    registry.point(move.alias, move.wanted, model=model)
