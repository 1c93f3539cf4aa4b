"""A laptop cloud for the tests that cross it: brought up once a session, and gone afterwards, whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import v2_clients
from modelworks.laptop import cloud, environments
from modelworks.laptop.state_dir import StateDir


def _place():
    folder = Path(tempfile.mkdtemp(prefix="modelworks-e2e-"))
    place = StateDir(folder / "place")
    try:
        yield place
    finally:
        cloud.down(place)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def laptop():
    """The whole laptop cloud with the environment `local`."""
    for place in _place():
        cloud.up(place, environments=["local"], report=print)
        yield place


@pytest.fixture(scope="session")
def aws_laptop():
    """The AWS side alone, with the environment `local`."""
    for place in _place():
        cloud.up(place, environments=["local"], kubernetes=False, report=print)
        yield place


@pytest.fixture(scope="session")
def kubectl(laptop):
    """kubectl with an administrator's rights; what it prints."""
    variables = {
        **environments.environment_variables(laptop, "local"),
        "KUBECONFIG": str(laptop.cluster / "admin.kubeconfig"),
    }

    def run(*arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", *arguments],
            env={**os.environ, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def empty_place():
    """A place where nothing is yet; whatever a test brings up there is ended with it."""
    yield from _place()


@pytest.fixture(scope="session")
def v2_python(tmp_path_factory):
    """The interpreter that has the clients of the Open Inference Protocol."""
    return v2_clients.install(tmp_path_factory.mktemp("v2"))
