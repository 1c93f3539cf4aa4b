"""`bentoml containerize` takes our bundle: everything up to the container engine is BentoML's own code, run for real.

The engine is a stand-in that writes down what it was asked and keeps the build context; no image is built here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

STAND_IN = """#!{python}
import json, shutil, sys
from pathlib import Path
arguments = sys.argv[1:]
if arguments[0] == "version":
    print('"27.3.1"')
else:
    record = Path({record!r})
    (record / "argv.json").write_text(json.dumps(arguments))
    shutil.copytree(arguments[-1], record / "context")
    shutil.copyfile(arguments[arguments.index("--file") + 1], record / "Dockerfile")
"""


class Asked(NamedTuple):
    arguments: list[str]
    dockerfile: str
    context: Path

    @property
    def instructions(self) -> list[str]:
        """Those of the Dockerfile, a line each."""
        lines = re.sub(r"\\\n", " ", self.dockerfile).splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def asked(built, tmp_path_factory) -> Asked:
    """What `bentoml containerize` asks a container engine to build of our bundle."""
    folder = tmp_path_factory.mktemp("containerize")
    (folder / "bin").mkdir()
    engine = folder / "bin" / "docker"
    engine.write_text(STAND_IN.format(python=sys.executable, record=str(folder)))
    engine.chmod(0o755)
    environment = {
        **os.environ, "BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True",
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    (folder / "home").mkdir()
    importing = f"import bentoml; print(bentoml.import_bento({str(built.bundle.path)!r}, input_format='gz').tag)"
    done = subprocess.run(
        [sys.executable, "-c", importing], env=environment, capture_output=True, text=True, check=True
    )
    tag = done.stdout.split()[-1]
    subprocess.run(
        [sys.executable, "-m", "bentoml", "containerize", tag, "--image-tag", "registry.example/churn:1"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Asked(
        json.loads((folder / "argv.json").read_text()), (folder / "Dockerfile").read_text(), folder / "context"
    )


def test_the_engine_is_asked_for_one_image_of_that_name(asked):
    assert asked.arguments[0] in {"build", "buildx"}
    assert asked.arguments[asked.arguments.index("--tag") + 1] == "registry.example/churn:1"


def test_everything_that_the_dockerfile_copies_is_in_the_context(asked):
    copied = [shlex.split(line)[1:] for line in asked.instructions if line.startswith("COPY")]
    sources = [part for words in copied for part in words[:-1] if not part.startswith("--")]
    assert sources
    assert [source for source in sources if not (asked.context / source).exists()] == []


def test_the_context_holds_model_manifest_and_service(asked):
    names = {path.name for path in (asked.context / "src").iterdir()}
    assert {"modelworks.json", "model.skops", "model.onnx", "service.py", "card.md"} <= names


def test_the_image_installs_the_locked_packages_by_hash(asked, built):
    [install] = [line for line in asked.instructions if "pip install -r" in line]
    [wanted] = re.findall(r"pip install -r \$BENTO_PATH/(\S+)", install)
    lines = (asked.context / wanted).read_text().replace("\\\n", " ").splitlines()
    assert any(line.startswith("bentoml==") for line in lines)
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_the_image_has_the_python_that_trained(asked):
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert any(line.startswith("FROM") and f"python:{minor}" in line for line in asked.instructions)


def test_the_image_serves_as_a_user_of_its_own(asked):
    assert [line for line in asked.instructions if line.startswith("USER")][-1] == "USER bentoml"
    [entrypoint] = [line for line in asked.instructions if line.startswith("ENTRYPOINT")]
    assert (asked.context / "env" / "docker" / "entrypoint.sh").read_bytes().startswith(b"#!")
    assert "env/docker/entrypoint.sh" in entrypoint
