from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelworks.lifecycle import ModelSpec, load_spec
from modelworks.lifecycle.bundle import Bundle, build_bundle
from modelworks.lifecycle.runs import Home, TrainedModel
from modelworks.lifecycle.scaffold import scaffold
from modelworks.lifecycle.training import train

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    folder: Path
    home: Home

    @property
    def spec(self) -> ModelSpec:
        return load_spec(self.folder)

    def edit(self, old: str, new: str) -> ModelSpec:
        file = self.folder / "model.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        return self.spec


def make_project(folder: Path) -> Project:
    shutil.copyfile(ROOT / "uv.lock", folder / "uv.lock")
    return Project(scaffold("churn", folder / "models").resolve(), Home(folder / "home"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A freshly scaffolded project beside the repository's lock."""
    return make_project(tmp_path)


@dataclass(frozen=True)
class Built:
    project: Project
    run: TrainedModel
    bundle: Bundle


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A scaffolded project, trained and bundled. Read-only."""
    project = make_project(tmp_path_factory.mktemp("built"))
    run = train(project.spec, project.home)
    return Built(project, run, build_bundle(project.spec, run, project.home))
