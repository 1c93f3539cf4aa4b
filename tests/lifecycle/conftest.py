from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest

from modelworks._files import digest_of_file
from modelworks.lifecycle import ModelSpec, load_spec
from modelworks.lifecycle.bundle import Bundle, build_bundle
from modelworks.lifecycle.runs import Home, TrainedModel
from modelworks.lifecycle.scaffold import scaffold
from modelworks.lifecycle.training import train

ROOT = Path(__file__).parents[2]
STACK = """\
config:
  aws:allowedAccountIds: ["111111111111"]
  modelworks:settings:
    owner: ml
    cost_centre: "1"
    registry: {}
    endpoints:
      churn: {allow_anonymous: true}
  modelworks:secrets:
    registry_password: {secure: "v1:a:b"}
"""
"""The file of an environment with a registry and an endpoint of `churn`."""


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
    project = Project(scaffold("churn", folder / "models").resolve(), Home(folder / "home-models"))
    # What a loaded machine makes of a p99 is not what is tested.
    project.edit("LatencyGate(p99_ms=10,", "LatencyGate(p99_ms=1e9,")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A freshly scaffolded project beside the repository's lock."""
    return make_project(tmp_path)


@dataclass(frozen=True)
class Built:
    project: Project
    run: TrainedModel
    bundle: Bundle

    @property
    def root(self) -> Path:
        return self.project.folder.parents[1]

    def copy(self, folder: Path) -> Built:
        """All of it in another folder."""
        shutil.copytree(self.root, folder, ignore=shutil.ignore_patterns("__pycache__"))
        return Built(
            Project(folder / self.project.folder.relative_to(self.root), Home(folder / "home-models")),
            replace(self.run, folder=folder / self.run.folder.relative_to(self.root)),
            replace(self.bundle, path=folder / self.bundle.path.relative_to(self.root)),
        )


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A scaffolded project, trained and bundled, for tests that only read it: one that writes fails."""
    project = make_project(tmp_path_factory.mktemp("built"))
    run = train(project.spec, project.home)
    return Built(project, run, build_bundle(run, project.home))


@pytest.fixture
def rebuilt(built: Built, tmp_path: Path) -> Built:
    """A copy of it, for tests that write."""
    return built.copy(tmp_path / "rebuilt")


@pytest.fixture(autouse=True)
def _built_is_only_read(request: pytest.FixtureRequest) -> Iterator[None]:
    if "built" not in request.fixturenames:
        yield
        return
    folder = request.getfixturevalue("built").root
    before = _contents(folder)
    yield
    assert _contents(folder) == before, "a test changed the project that all tests share"


def _contents(folder: Path) -> dict[Path, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path: digest_of_file(path) for path in files}


@pytest.fixture
def dynamodb(aws_by_variables):
    """A DynamoDB of its own; its endpoint is where clients go by themselves."""
    client = boto3.client("dynamodb")
    yield client
    # One process has one moto, and tables keep the mark of how far they were filled.
    for table in client.list_tables()["TableNames"]:
        client.delete_table(TableName=table)


@pytest.fixture
def uploads(dynamodb):
    """S3 beside it, with an empty bucket `log`: one process has one moto, whatever its servers."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="log", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield client
    for item in client.list_objects_v2(Bucket="log").get("Contents", ()):
        client.delete_object(Bucket="log", Key=item["Key"])
    client.delete_bucket(Bucket="log")
