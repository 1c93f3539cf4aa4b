"""Two homes: `down` wipes the laptop cloud, and nothing of a model."""

from __future__ import annotations

import pytest

from modelworks.cli.lifecycle import home_here
from modelworks.errors import ModelworksError
from modelworks.laptop import cloud
from modelworks.laptop.state_dir import StateDir
from modelworks.lifecycle.signing import make_key


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("MODELWORKS_HOME", raising=False)
    monkeypatch.delenv("MODELWORKS_DATA_STORE", raising=False)
    (tmp_path / "Pulumi.yaml").write_text("name: modelworks\nruntime: python\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("home", ["", "elsewhere"])
def test_down_deletes_nothing_of_a_model(checkout, monkeypatch, home):
    if home:
        monkeypatch.setenv("MODELWORKS_HOME", str(checkout / home))
    models = home_here()
    files = [make_key(models.root / "signing")]
    for folder in (
        models.data,
        models.runs("churn") / "a" / "bundle",
        models.checks("churn"),
        models.root / "champions",
    ):
        folder.mkdir(parents=True)
        (folder / "file").write_text("precious")
        files.append(folder / "file")
    place = StateDir.here()
    place.folder(place.logs)
    place.claim()
    cloud.down(place)
    assert not place.root.exists()
    assert all(file.is_file() for file in files)


def test_git_sees_nothing_of_the_home_of_models_whatever_the_project_ignores(checkout):
    root = home_here().root
    assert (root.name, (root / ".gitignore").read_text()) == (".modelworks-models", "*\n")
    assert root.stat().st_mode & 0o077 == 0


def test_without_a_pulumi_project_models_are_kept_in_the_working_directory(checkout):
    (checkout / "Pulumi.yaml").unlink()
    assert home_here().root == checkout / ".modelworks-models"


def test_a_home_that_cannot_be_made_is_an_error_that_names_it(checkout):
    (checkout / ".modelworks-models").write_text("a file")
    with pytest.raises(ModelworksError, match=r"cannot write .*modelworks-models"):
        home_here()
