from __future__ import annotations

from modelworks.lifecycle.aliases import aliases_for, moves
from modelworks.lifecycle.version import CHALLENGER, CHAMPION, Version

OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def version(number: int, digest: str, *aliases: str) -> Version:
    return Version("churn", number, {"bundle": digest}, aliases)


def points(versions: list[Version], digest: str, *, serves: bool) -> dict[str, int | None]:
    """What is pointed anew, and at which version."""
    found = moves(aliases_for(digest, versions, serves=serves), versions)
    return {move.alias: move.wanted.version if move.wanted else None for move in found}


def test_a_release_challenges_until_it_has_all_traffic():
    versions = [version(2, NEW), version(1, OLD, CHAMPION)]
    assert points(versions, NEW, serves=False) == {CHALLENGER: 2}


def test_what_has_all_traffic_is_the_champion_and_challenges_nothing():
    versions = [version(2, NEW, CHALLENGER), version(1, OLD, CHAMPION)]
    assert points(versions, NEW, serves=True) == {CHAMPION: 2, CHALLENGER: None}


def test_back_to_the_champion_nothing_is_on_its_way():
    versions = [version(2, NEW, CHALLENGER), version(1, OLD, CHAMPION)]
    assert points(versions, OLD, serves=False) == {CHALLENGER: None}


def test_what_points_where_it_belongs_is_left_alone():
    assert points([version(1, OLD, CHAMPION)], OLD, serves=True) == {}
    assert points([version(2, NEW, CHALLENGER), version(1, OLD, CHAMPION)], NEW, serves=False) == {}


def test_an_alias_is_never_taken_away_for_a_bundle_that_nobody_registered():
    assert points([version(1, OLD, CHAMPION)], NEW, serves=True) == {}
