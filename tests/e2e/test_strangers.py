"""Projects of strangers on one laptop: from `modelworks new --from` to an endpoint that answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from brought import PROJECTS, ROOT, STRANGERS
from modelworks.laptop import cloud
from modelworks.laptop.state_dir import StateDir, read_facts
from waiting import PATIENCE, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

BIN = Path(sys.executable).parent
STACK = """\
config:
  aws:region: eu-central-1
  aws:allowedAccountIds: ["111111111111"]
  modelworks:settings:
    owner: tests
    cost_centre: "1"
    registry: {{}}
    endpoints:
{endpoints}
"""
ENDPOINT = "      {}: {{allow_anonymous: true, minimum_replicas: 1, maximum_replicas: 1, cpu_millicores: 100}}"


class Laptop:
    """A repository with nothing but what the documents name, on a laptop cloud that rehearses `dev`."""

    def __init__(self, folder: Path) -> None:
        self.project, self.place = folder / "project", StateDir(folder / "home")
        shutil.copytree(ROOT / "policy", self.project / "policy", ignore=shutil.ignore_patterns("__pycache__"))
        (self.project / "stacks").mkdir()
        for name in ("stacks/__main__.py", "Pulumi.yaml", "uv.lock", "pyproject.toml"):
            shutil.copyfile(ROOT / name, self.project / name)
        endpoints = "\n".join(map(ENDPOINT.format, STRANGERS))
        (self.project / "stacks" / "Pulumi.dev.yaml").write_text(STACK.format(endpoints=endpoints))
        self.run("git", "init", "--quiet")

    def run(self, *argv: str) -> str:
        env = {**os.environ, "MODELWORKS_HOME": str(self.place.root), "PATH": f"{BIN}:{os.environ['PATH']}"}
        done = subprocess.run(argv, cwd=self.project, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{argv}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def modelworks(self, *arguments: str) -> str:
        return self.run(str(BIN / "modelworks"), *arguments)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        self.run("git", *who, "commit", "--quiet", "--message", "as it is")

    def get(self, model: str, path: str) -> httpx.Response:
        port = read_facts(self.place.root / "laptop.json")["ports"]["gateway"]
        url, host = f"http://127.0.0.1:{port}{path}", f"{model}.dev.localhost"
        return httpx.get(url, headers={"Host": host}, timeout=PATIENCE, trust_env=False)


@pytest.fixture(scope="module")
def laptop():
    folder = Path(tempfile.mkdtemp(prefix="modelworks-strangers-"))
    laptop = Laptop(folder)
    script = """
        set -e
        eval "$(modelworks env dev)"
        pulumi stack init dev --no-select
        printf a-password-of-dev | pulumi config set --secret --stack dev --path modelworks:secrets.registry_password
    """
    try:
        laptop.modelworks("laptop", "up", "dev")
        laptop.run("bash", "-c", script)
        laptop.modelworks("up", "dev", "--yes")
        yield laptop
    finally:
        cloud.down(laptop.place)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("model", STRANGERS)
def test_a_strangers_project_answers_at_its_endpoint(laptop, model):
    project, target, _ = STRANGERS[model]
    options = ["--target", target] if target else []
    laptop.modelworks("new", model, "--from", str(PROJECTS / project), *options)
    laptop.commit()
    laptop.modelworks("train", model)
    digest = json.loads(laptop.modelworks("bundle", model, "--json"))["digest"]
    laptop.modelworks("register", model, "--env", "dev")
    laptop.modelworks("release", model, "--env", "dev")
    laptop.modelworks("up", "dev", "--yes")
    eventually(lambda: laptop.get(model, "/openapi.json").status_code == 200)
    answer = json.loads(laptop.modelworks("predict", model, "--env", "dev", "--json"))
    assert answer["version"] == digest.removeprefix("sha256:")[:12]
