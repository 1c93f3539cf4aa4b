"""Examples brought up as their READMEs say, on a laptop cloud of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
import yaml

from e2e.rehearsal import ROWS, until
from mocks import ROOT
from modelworks import contract
from modelworks.cluster import requirements
from modelworks.cluster.client import KubernetesClient
from modelworks.laptop import cloud, environments
from modelworks.laptop.state_dir import StateDir, read_facts
from runtime import example_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

MODELWORKS = Path(sys.executable).with_name("modelworks")


@pytest.fixture(scope="module")
def place():
    home = Path(tempfile.mkdtemp(prefix="modelworks-examples-"))
    place = StateDir(home / "place")
    try:
        cloud.up(place, ("local",))
        yield place
    finally:
        cloud.down(place)
        shutil.rmtree(home, ignore_errors=True)


class Copy:
    """An example that somebody copied, in a shell that means the laptop's environment `local`."""

    def __init__(self, name: str, folder: Path, place: StateDir) -> None:
        self.folder = folder / name
        shutil.copytree(ROOT / "examples" / name, self.folder)
        variables = environments.environment_variables(place, "local")
        self.variables = {**os.environ, **variables, "MODELWORKS_HOME": str(place.root)}

    def run(self, *argv: str | Path) -> str:
        done = subprocess.run(
            [str(arg) for arg in argv],
            cwd=self.folder,
            env=self.variables,
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def destroyed(self) -> None:
        """All but the key, which the example leaves protected, is deleted."""
        said = self.run(MODELWORKS, "destroy", "local", "--yes", "--exclude-protected")
        assert len(re.findall(r"^aws:kms/key:Key .* stays: it is protected$", said, re.MULTILINE)) == 1

    def outputs(self) -> dict[str, object]:
        return json.loads(self.run("pulumi", "stack", "output", "--json", "--stack", "local"))

    def unchanged(self) -> str:
        return self.run("pulumi", "preview", "--expect-no-changes", "--diff", "--stack", "local")


@pytest.fixture
def copied(place, tmp_path):
    return lambda name: Copy(name, tmp_path, place)


def test_environment_goes_up_and_down(copied):
    example = copied("environment")
    example.run(MODELWORKS, "up", "local", "--yes")
    example.unchanged()
    assert str(example.outputs()["key"]).startswith("arn:aws:kms:eu-central-1:000000000000:key/")
    example.destroyed()


def test_cluster_addons_go_up_and_down(copied):
    example = copied("cluster-addons")
    example.run(MODELWORKS, "up", "local", "--yes")
    example.unchanged()
    found = yaml.safe_load(example.run("kubectl", "get", "storageclass", "churn-encrypted", "-o", "yaml"))
    assert (found["provisioner"], found["parameters"]["encrypted"]) == ("ebs.csi.aws.com", "true")
    example.destroyed()


def test_a_doctor_names_the_add_ons_that_an_api_server_does_not_have(copied):
    get = KubernetesClient(copied("environment").variables["KUBECONFIG"], None, "default").get
    found = [
        requirements.ingress_class(get, auto_mode=True, installed_by_us=False),
        requirements.load_balancer_controller(get, auto_mode=False),
        requirements.argo_rollouts(get, installed_by_us=False),
        requirements.volume_driver(get, driver="ebs.csi.aws.com"),
        requirements.network_policies(get, auto_mode=False, installed_by_us=False),
    ]
    assert {check.name for check in found if check.status == "missing" and check.fix} == {
        *("ingress class", "load balancer controller", "argo rollouts", "volume driver", "network policies")
    }
    assert requirements.pod_identity_agent(get, auto_mode=False).status == "skipped"
    assert requirements.reachable(get).status == "ok"


def test_training_compute_goes_up_and_down(copied):
    example = copied("training-compute")
    example.run(MODELWORKS, "up", "local", "--yes")
    example.unchanged()
    quota = example.run("kubectl", "-n", "modelworks-local-training", "get", "resourcequotas", "-o", "yaml")
    (found,) = yaml.safe_load(quota)["items"]
    assert found["spec"]["hard"]["requests.cpu"] == "8"
    example.destroyed()


def test_feature_store_goes_up_and_down(copied):
    example = copied("feature-store")
    example.run(MODELWORKS, "up", "local", "--yes")
    example.unchanged()
    tables = example.outputs()["features"]["tables"]
    assert tables["weather"] == "arn:aws:dynamodb:eu-central-1:000000000000:table/features.weather"
    example.destroyed()


def test_model_endpoint_answers_with_the_bundle_that_its_config_names(copied, place, tmp_path):
    bundle = example_bundle.build(tmp_path, model="plane-seats", trees=5)
    example = copied("model-endpoint")
    shutil.copy(example.folder / "local.template.yaml", example.folder / "Pulumi.local.yaml")
    example.run("pulumi", "stack", "init", "local")
    example.run("pulumi", "config", "set", "bundle", bundle.archive)
    example.run(MODELWORKS, "up", "local", "--yes")

    gateway = f"http://127.0.0.1:{read_facts(place.root / 'laptop.json')['ports']['gateway']}"
    with httpx.Client(base_url=gateway, headers={"Host": "plane-seats.localhost"}, timeout=10) as client:

        def answer():
            found = client.post("/v1/predict", json={"rows": ROWS[:1]})
            return found.json() if found.status_code == 200 else None

        assert until(answer)["version"] == contract.short_digest(bundle.digest)
    example.unchanged()


def test_escape_hatches_reach_what_the_engine_declares(copied):
    example = copied("escape-hatches")
    example.run(MODELWORKS, "up", "local", "--yes")
    example.unchanged()
    state = json.loads(example.run("pulumi", "stack", "export", "--stack", "local"))
    (key,) = (item for item in state["deployment"]["resources"] if item["type"] == "aws:kms/key:Key")
    assert key["inputs"]["multiRegion"] is True
    example.destroyed()
