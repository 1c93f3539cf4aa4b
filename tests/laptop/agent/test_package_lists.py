"""What images of modelworks have, compared with the environment that runs them on a strict laptop."""

from __future__ import annotations

import importlib.metadata
import re
import shutil

import pytest

from mocks import ROOT
from modelworks.errors import ModelworksError
from modelworks.laptop.agent import package_lists
from modelworks.laptop.agent.images import lock_of_build
from modelworks.laptop.agent.package_lists import EXTRAS, refuse_other_packages
from modelworks.lifecycle.lockfile import read_lock

LOCKED = importlib.metadata.version("urllib3")


def lock(folder, version):
    """A lock of modelworks, whose extra `runtime` has urllib3.

    Nobody needs `surely-missing`: it is for Pulumi programs, for another platform, and of an extra of urllib3.
    """
    path = folder / "uv.lock"
    path.write_text(
        '[[package]]\nname = "modelworks"\nversion = "0.1.0"\ndependencies = [{ name = "surely-missing" }]\n'
        '[package.optional-dependencies]\nruntime = [{ name = "urllib3" }, '
        """{ name = "surely-missing", marker = "sys_platform == 'win32'" }]\n"""
        f'[[package]]\nname = "urllib3"\nversion = "{version}"\n'
        '[package.optional-dependencies]\nsocks = [{ name = "surely-missing" }]\n'
        '[[package]]\nname = "surely-missing"\nversion = "1"\n'
    )
    return path


def test_the_extras_of_each_image_are_those_that_its_dockerfile_installs():
    found = {}
    for dockerfile in (ROOT / "images").glob("*/Dockerfile"):
        text = dockerfile.read_text("utf-8").replace("--extra %s ' $EXTRAS)", "--extra runtime ")
        found[dockerfile.parent.name] = tuple(sorted(re.findall(r"--extra (\w+)", text)))
    assert found == EXTRAS


@pytest.mark.parametrize("image", EXTRAS)
def test_this_environment_has_what_each_image_has(image):
    refuse_other_packages(image, None)


def test_a_lock_without_modelworks_is_none_of_an_image_of_it(tmp_path):
    (tmp_path / "uv.lock").write_text("package = []")
    with pytest.raises(ModelworksError, match=r"modelworks is not in .*uv\.lock"):
        refuse_other_packages("runtime", tmp_path / "uv.lock")


def test_an_extra_of_a_package_is_of_the_image_too():
    """The registry's server has users only with `mlflow[auth]`, whose packages nothing else of it requires."""
    locked = read_lock(ROOT / "uv.lock")
    assert "mlflow[auth]" in locked.of_extras("modelworks", EXTRAS["registry"])
    assert "flask-wtf" in locked.closure(locked.of_extras("modelworks", EXTRAS["registry"]))
    assert "flask-wtf" not in locked.closure(("mlflow",))


@pytest.mark.parametrize("image", EXTRAS)
def test_this_environment_has_what_the_lock_of_each_image_has(image):
    refuse_other_packages(image, ROOT / "uv.lock")


@pytest.mark.parametrize("image", ["airflow", ""])
def test_an_image_of_somebody_else_has_no_list(image, tmp_path):
    refuse_other_packages(image, tmp_path / "not-there")


def test_a_package_that_is_locked_and_the_same_here_is_none_to_name(tmp_path):
    refuse_other_packages("runtime", lock(tmp_path, importlib.metadata.version("urllib3")))


def test_a_package_of_another_version_than_the_lock_is_named_and_one_that_the_image_lacks_is_not(tmp_path):
    file = lock(tmp_path, "1.0")
    with pytest.raises(ModelworksError) as refused:
        refuse_other_packages("runtime", file)
    assert refused.value.message == (
        "image runtime has the packages of modelworks[runtime]: this environment differs from "
        f"{file}: urllib3 {LOCKED} (locked: 1.0)"
    )
    assert "uv sync" in refused.value.fix


def test_a_lock_that_changed_is_read_again(tmp_path):
    refuse_other_packages("runtime", lock(tmp_path, LOCKED))
    with pytest.raises(ModelworksError):
        refuse_other_packages("runtime", lock(tmp_path, "1.0.0.0.0"))


def test_a_missing_package_and_one_that_is_too_old_are_named_with_the_requirement(monkeypatch):
    needs = [
        'surely-missing>=1; extra == "registry"',
        'urllib3>=99; extra == "registry"',
        'numpy>=99; extra == "models"',
    ]
    monkeypatch.setattr(package_lists.importlib.metadata, "requires", {"modelworks": [*needs, "pulumi>=99"]}.get)
    with pytest.raises(ModelworksError) as refused:
        refuse_other_packages("registry", None)
    assert refused.value.message.endswith(f": surely-missing is missing, urllib3 is {LOCKED}, not >=99")
    assert refused.value.fix == "Run `uv pip install 'modelworks[registry]'`."


def test_the_lock_of_an_image_is_that_of_the_project_that_builds_it(tmp_path):
    assert lock_of_build("host:5000/runtime@sha256:00", tmp_path) is None
    shutil.copytree(ROOT / "images", tmp_path / "images")
    assert lock_of_build("host:5000/runtime@sha256:00", tmp_path) is None
    made = lock(tmp_path, "1.0")
    assert lock_of_build("host:5000/runtime@sha256:00", tmp_path) == made
    assert lock_of_build("host:5000/other:1", tmp_path) is None
    assert lock_of_build("runtime", None) is None
