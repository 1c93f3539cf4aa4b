"""A program of somebody who has the wheel and not the checkout: installed, declared, up on the laptop, gone."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from modelworks.laptop import cloud
from modelworks.laptop.state_dir import StateDir
from programs import output_of

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".uv" / "bin"), os.environ["PATH"]]))
PROGRAM = (ROOT / "examples/environment/__main__.py").read_text()
CONFIG = 'config:\n  aws:region: eu-central-1\n  aws:allowedAccountIds: ["000000000000"]\n'

PROJECT = """\
[project]
name = "ours"
version = "1"
requires-python = ">=3.11"
dependencies = ["modelworks[models]"]

[tool.uv]
sources = {{ modelworks = {{ path = {wheel} }} }}
constraint-dependencies = {constraints}
"""


def run(*argv, cwd, fine=(0,), **variables):
    # What leads uv to the environment of these tests would have it changed: `make` sets such variables.
    ours = ("PULUMI_", "AWS_", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return output_of([str(arg) for arg in argv], cwd, {**kept, **variables}, fine)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if UV is None:
        pytest.skip("uv is not here: `make setup` brings it")
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--wheel", "--out-dir", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_what_is_not_python_and_nothing_beside_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    data = {Path(name).suffix for name in names if name.startswith("modelworks/laptop/toolchain/")}
    assert {".mod", ".sum", ".go", ".txt", ".json"} <= data
    assert "modelworks/py.typed" in names
    assert "modelworks/laptop/providers/aws/schema.json" in names
    assert "modelworks/laptop/agent/shim.sh" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"modelworks"}


def locked(extra: str) -> list[str]:
    """The locked versions of what an extra needs: a resolver's mood is not what is tested."""
    words = (
        "export",
        "--frozen",
        "--quiet",
        "--no-emit-project",
        "--no-dev",
        "--no-hashes",
        "--no-annotate",
        "--no-header",
    )
    return run(UV, *words, "--extra", extra, cwd=ROOT).splitlines()


@pytest.mark.timeout(600)
def test_a_model_of_ones_own_is_trained_bundled_and_judged_with_the_extra_for_models_alone(wheel, tmp_path):
    folder = tmp_path / "churn"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        PROJECT.format(wheel=json.dumps(str(wheel)), constraints=json.dumps(locked("models")))
    )
    run(UV, "sync", "--quiet", "--python", sys.executable, cwd=folder)
    modelworks, home = folder / ".venv/bin/modelworks", {"MODELWORKS_HOME": str(folder / ".modelworks")}
    for words in ("new churn", "check-data churn", "train churn", "bundle churn", "gates churn"):
        run(modelworks, *words.split(), cwd=folder, **home)


@pytest.mark.timeout(600)
def test_a_program_of_ones_own_goes_up_on_the_laptop_from_the_wheel_alone(wheel, tmp_path):
    folder = tmp_path / "churn"
    folder.mkdir()
    run(UV, "venv", "--python", sys.executable, ".venv", cwd=folder)
    (folder / "locked.txt").write_text("\n".join(locked("laptop")))
    python = folder / ".venv/bin/python"
    run(
        UV,
        "pip",
        "install",
        "--python",
        python,
        "-r",
        "locked.txt",
        f"modelworks[laptop] @ {wheel.as_uri()}",
        cwd=folder,
    )
    (folder / "Pulumi.yaml").write_text("name: churn\nruntime:\n  name: python\n  options:\n    virtualenv: .venv\n")
    (folder / "__main__.py").write_text(PROGRAM)
    (folder / "Pulumi.local.yaml").write_text(CONFIG)
    modelworks = folder / ".venv/bin/modelworks"
    home = {"MODELWORKS_HOME": ""}
    try:
        run(modelworks, "laptop", "up", "--aws-only", cwd=folder, **home)
        run(modelworks, "preview", "local", cwd=folder, **home)
        run(modelworks, "up", "local", "--yes", cwd=folder, **home)
        variables = json.loads(run(modelworks, "env", "local", "--json", cwd=folder, **home))

        run("pulumi", "preview", "-s", "local", "--expect-no-changes", cwd=folder, **variables)
        outputs = json.loads(run("pulumi", "stack", "output", "--json", "-s", "local", cwd=folder, **variables))
        assert outputs["key"].startswith("arn:aws:kms:eu-central-1:000000000000:key/")

        run("pulumi", "destroy", "-s", "local", "--yes", "--exclude-protected", cwd=folder, **variables)
        run(modelworks, "laptop", "down", cwd=folder, **home)
    finally:
        cloud.down(StateDir(folder / ".modelworks"))
