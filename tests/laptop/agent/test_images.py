"""Environments of images, made by the real uv of packages that lie beside their locks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from multiprocessing import get_context
from pathlib import Path

import pytest

from images_of_projects import UV, lock_only_here
from modelworks.laptop.agent import images
from modelworks.laptop.agent.images import Image, Images, PullError
from modelworks.laptop.agent.sandbox import process_start
from modelworks.laptop.state_dir import StateDir
from waiting import eventually


@pytest.fixture
def project(tmp_path):
    """A project with an image `own`."""
    lock_only_here(tmp_path / "project" / "images" / "own", "1.0")
    return tmp_path / "project"


@pytest.fixture
def image(project):
    return Image.of("registry.example/team/own@sha256:0123", project)


@pytest.fixture
def place(tmp_path):
    place = StateDir(tmp_path / "place")
    for folder in (place.root, place.node, place.logs, place.run):
        place.folder(folder)
    images.keep_settings(place, UV, {**os.environ, "UV_OFFLINE": "1"})
    return place


class Events(list):
    def __call__(self, reason: str, message: str) -> None:
        self.append((reason, message))

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, _ in self]


def version_in(environment: Path) -> str:
    argv = [environment / "bin" / "python", "-c", "import onlyhere; print(onlyhere.VERSION)"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "reference", ["own", "own:2", "host:5000/team/own", "host:5000/own:2@sha256:01", "own@sha256:01"]
)
def test_the_last_part_of_an_images_name_names_its_folder(project, reference):
    assert Image.of(reference, project).folder == project / "images" / "own"


@pytest.mark.parametrize("reference", ["", "other", "own/else", "team/..", "host:5000/", "Own", "."])
def test_an_image_without_a_folder_has_no_environment_of_its_own(project, reference):
    assert Image.of(reference, project) is None


def test_a_folder_with_a_dockerfile_alone_is_no_python_project(project):
    (project / "images" / "runtime").mkdir()
    (project / "images" / "runtime" / "Dockerfile").touch()
    assert Image.of("runtime", project) is None


async def test_an_environment_has_what_the_lock_says_and_is_made_once(place, image):
    events = Events()
    first = await Images(place).environment(image, events)
    assert events.reasons == ["Pulling", "Pulled"]
    assert str(image.lock) in events[0][1]
    assert version_in(first) == "1.0"
    # Another agent of the place finds it too.
    assert await Images(place).environment(image, events) == first
    assert events.reasons == ["Pulling", "Pulled", "Pulled"]


async def test_containers_that_start_at_once_wait_for_one_environment(place, image):
    events, of_place = Events(), Images(place)
    made = await asyncio.gather(*(of_place.environment(image, events) for _ in range(5)))
    assert len(set(made)) == 1
    assert events.reasons.count("Pulling") == 1


async def test_a_changed_lock_has_an_environment_of_its_own_and_the_old_one_goes_when_nobody_uses_it(place, image):
    of_place = Images(place)
    old = await of_place.environment(image, Events())
    lock_only_here(image.folder, "2.0")
    new = await of_place.environment(image, Events())
    assert version_in(new) == "2.0"
    await of_place.sweep(lambda: {old})
    assert version_in(old) == "1.0"
    await of_place.sweep(set)
    assert not old.exists()
    assert version_in(new) == "2.0"


async def test_an_environment_that_was_changed_is_made_anew(place, image):
    of_place = Images(place)
    first = await of_place.environment(image, Events())
    shutil.rmtree(next(first.glob("lib/*/site-packages/onlyhere-1.0.dist-info")))
    second = await of_place.environment(image, Events())
    assert second != first
    assert version_in(second) == "1.0"


@pytest.fixture
def slow(place, tmp_path):
    """The place has a uv that begins an environment and comes to no end; the file with its process id."""
    program, noted = tmp_path / "slow", tmp_path / "pid"
    begin = "mkdir -p $UV_PROJECT_ENVIRONMENT/bin"
    program.write_text(f"#!/bin/sh\n{begin}; echo $$ >{noted}.part; mv {noted}.part {noted}; exec sleep 600\n")
    program.chmod(0o755)
    images.keep_settings(place, str(program), {})
    yield noted
    if process_start(pid := int(noted.read_text())):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def half_made(place, image, slow):
    """What an agent left that was killed while uv was at work."""
    making = get_context("fork").Process(target=lambda: asyncio.run(Images(place).environment(image, Events())))
    making.start()
    eventually(slow.exists)
    making.kill()
    making.join()
    images.keep_settings(place, UV, {**os.environ, "UV_OFFLINE": "1"})
    [half] = (place.node / "images" / "made").iterdir()
    return half


async def test_an_environment_whose_maker_was_killed_is_never_found_and_swept(place, image, half_made):
    of_place = Images(place)
    whole = await of_place.environment(image, Events())
    assert whole != half_made
    assert version_in(whole) == "1.0"
    await of_place.sweep(set)
    assert not half_made.exists()
    assert version_in(whole) == "1.0"


async def test_uv_ends_with_the_agent_that_started_it(place, image, slow):
    making = asyncio.ensure_future(Images(place).environment(image, Events()))
    await asyncio.to_thread(eventually, slow.exists)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await asyncio.to_thread(eventually, lambda: process_start(int(slow.read_text())) is None)


async def refusal(place, image) -> str:
    with pytest.raises(PullError) as refused:
        await Images(place).environment(image, Events())
    return str(refused.value)


async def test_a_project_without_a_lock_is_refused_with_the_command_that_writes_it(place, image):
    image.lock.unlink()
    assert await refusal(place, image) == f"{image.lock} is not there: run `uv lock` in {image.folder}"


async def test_a_lock_that_is_none_is_refused_by_its_name(place, image):
    image.lock.write_text("garbage [")
    assert (await refusal(place, image)).startswith(f"{image.lock} is not a lock of uv: ")


async def test_a_package_that_is_not_there_is_named_with_the_lock_and_the_log(place, image):
    next(image.folder.glob("*.whl")).unlink()
    said = await refusal(place, image)
    assert said.startswith(f"{image.lock} cannot be installed: error: ")
    assert "onlyhere-1.0-py3-none-any.whl" in said
    assert str(place.logs / "image-own.log") in said


async def test_a_machine_without_uv_is_told_where_to_get_it(place, image):
    images.keep_settings(place, None, {})
    assert "needs uv, which was not found" in await refusal(place, image)


async def test_a_lock_that_failed_is_tried_again_after_a_pause_and_a_corrected_one_at_once(place, image, monkeypatch):
    of_place, events = Images(place), Events()
    next(image.folder.glob("*.whl")).unlink()
    for _ in range(3):
        with pytest.raises(PullError, match="onlyhere"):
            await of_place.environment(image, events)
    assert events.reasons == ["Pulling"]
    lock_only_here(image.folder, "2.0")
    assert version_in(await of_place.environment(image, events)) == "2.0"


def test_uv_gets_where_packages_come_from_in_a_private_file_and_no_other_settings(place):
    given = {
        "UV_INDEX_URL": "https://user:secret@index",
        "UV_PROJECT_ENVIRONMENT": "/x",
        "https_proxy": "p",
        "AWS_X": "y",
    }
    images.keep_settings(place, UV, given)
    path = images.settings_path(place)
    assert json.loads(path.read_text())["variables"] == {
        "UV_INDEX_URL": "https://user:secret@index",
        "https_proxy": "p",
    }
    assert path.stat().st_mode & 0o077 == 0
