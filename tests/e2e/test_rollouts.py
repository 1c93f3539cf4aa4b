"""Releases good and bad on a laptop cloud, under clients that never stop: see docs/guides/rehearsals.md.

The tests share one endpoint and run in their order: each begins with what the one before left serving.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from e2e import rehearsal
from e2e.rehearsal import Load, Rehearsal, until
from modelworks.laptop import core
from modelworks.laptop.place import Place

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def endpoint(bundles):
    """An endpoint that serves a first good release."""
    home = Path(tempfile.mkdtemp(prefix="modelworks-rollouts-"))
    place = Place(home / "place")
    try:
        core.up(place, ("local",))
        program = home / "program"
        program.mkdir()
        endpoint = Rehearsal(place, program)
        endpoint.serving = endpoint.release(rehearsal.build(bundles, trees=10))
        until(endpoint.healthy, what=endpoint.rollout)
        yield endpoint
    finally:
        core.down(place)
        shutil.rmtree(home, ignore_errors=True)


def test_what_was_declared_is_there_and_a_preview_finds_nothing_to_do(endpoint):
    endpoint.unchanged()
    assert [pod["status"]["phase"] for pod in endpoint.pods()] == ["Running", "Running"]


def test_a_good_release_takes_over_and_no_request_is_lost(endpoint, bundles):
    with Load(endpoint.gateway, rate=400) as load:
        version = endpoint.release(rehearsal.build(bundles, trees=11))
        until(endpoint.healthy, 180, endpoint.rollout)
        # The old pods are still to end, and no request may be lost to that either.
        until(lambda: len(endpoint.pods()) == 2 and load.count >= 20_000, 120, endpoint.pods)
    assert load.failed == 0, load.faults
    assert load.of(endpoint.serving) > load.of(version) / 10
    assert load.lasts[version] > load.lasts[endpoint.serving]
    endpoint.serving = version
