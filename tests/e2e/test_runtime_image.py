"""The packages of the runtime image, installed by the step of its Dockerfile that installs them, serve each bundle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from brought import ROOT, STRANGERS, bring
from modelworks import contract
from modelworks.laptop.toolchain import packages
from modelworks.lifecycle.bundle import verify_bundle
from runtime import example_bundle
from runtime.running import Server, settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

THEIR_OWN = {"energy": "xgboost-cpu", "wine": "lightgbm"}
"""Packages that models name in `Service(packages=...)`, which no extra of ours has."""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """The interpreter of an environment with the extra `runtime` alone, and modelworks' source."""
    folder = tmp_path_factory.mktemp("image")
    dockerfile = (ROOT / "images/runtime/Dockerfile").read_text()
    found = re.search(r"^RUN (uv export (?:.*\\\n)*.*)$", dockerfile, re.MULTILINE)
    assert found is not None
    step = found[1].replace("python -m venv", f"{sys.executable} -m venv")
    for theirs, ours in (("/tmp/requirements.txt", "requirements.txt"), ("/opt/modelworks", "venv")):
        step = step.replace(theirs, str(folder / ours))
    path = f"{Path(packages.uv()).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", step], cwd=ROOT, env={**os.environ, "PATH": path, "EXTRAS": "runtime"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(folder / "venv/bin/python")


@pytest.fixture
def serve(python, tmp_path):
    """A function that starts a server of a bundle in that environment."""
    started: list[Server] = []

    def start(environ: dict[str, str]) -> Server:
        scratch = {contract.ENV_SCRATCH: str(tmp_path / "scratch")}
        started.append(Server({**environ, **scratch}, tmp_path / "log", python=python))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.mark.parametrize("onnx", [True, False], ids=["onnx", "skops"])
def test_a_standard_bundle_answers(serve, tmp_path, onnx):
    example = example_bundle.build(tmp_path, onnx=onnx)
    server = serve(settings(example)).ready()
    assert server.ask("POST", "/v1/predict", {"rows": list(example.manifest.examples)})[0] == 200


@pytest.mark.parametrize("model", STRANGERS)
def test_a_strangers_bundle_answers_or_names_the_package_that_the_image_lacks(serve, tmp_path, model):
    bundle = bring(model, tmp_path).bundle
    manifest = verify_bundle(bundle.path, bundle.digest, model)
    server = serve(
        {
            contract.ENV_MODEL: model,
            contract.ENV_BUNDLE_URI: str(bundle.path),
            contract.ENV_BUNDLE_DIGEST: bundle.digest,
            contract.ENV_ALLOW_ANONYMOUS: "true",
        }
    )
    if lacking := THEIR_OWN.get(model):
        assert server.ended() == 1
        (line,) = [line for line in server.lines() if line["level"] == "critical"]
        version = manifest.packages[lacking]
        assert f"the bundle of {model} is served with {lacking} {version}, which this image" in line["message"]
        assert "EXTRAS" in line["fix"]
        return
    server.ready()
    status, body, _ = server.ask("POST", "/v1/predict", {"rows": list(manifest.examples)})
    assert (status, len(body["predictions"])) == (200, len(manifest.examples))
