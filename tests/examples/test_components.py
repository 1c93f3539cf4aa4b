"""The examples, evaluated as they lie there, with the config that the laptop gives them."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pytest
import yaml

import modelworks
from mocks import ROOT, Declared, declare, laptop_shell
from modelworks.feature_manifest import read_manifest
from modelworks.features.definitions import read_definitions

EXAMPLES = ROOT / "examples"
ROLLOUT = "kubernetes:argoproj.io/v1alpha1:Rollout"


@dataclass
class Transforming(Declared):
    """Does what the engine does and the SDK's mocks do not: a component's transforms change what it declares."""

    transforms: list[Any] = field(default_factory=list)

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[Any, Any]]:
        self.transforms += args.transforms
        for transform in self.transforms:
            given = pulumi.ResourceTransformArgs(
                bool(args.custom), args.typ, args.name, args.inputs, pulumi.ResourceOptions()
            )
            if result := transform(given):
                args.inputs = result.props
        return super().new_resource(args)


@pytest.fixture(autouse=True)
def _a_laptop(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PULUMI_", "AWS_"))]:
        monkeypatch.delenv(name)
    for name, value in laptop_shell("local").items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def evaluated(monkeypatch):
    """Evaluates an example for the stack `local`; what it declares, and what it exports."""

    def evaluate(name: str, mocks: type[Declared] = Declared, **more: str) -> tuple[Declared, dict[str, Any]]:
        folder, exported = EXAMPLES / name, {}
        project = yaml.safe_load((folder / "Pulumi.yaml").read_text())["name"]
        given = yaml.safe_load((folder / "local.template.yaml").read_text())["config"]
        config = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
        config |= {f"{project}:{key}": value for key, value in more.items()}
        monkeypatch.setattr("pulumi.export", exported.__setitem__)
        declared = declare(
            lambda: runpy.run_path(str(folder), run_name="__main__"),
            project=project,
            stack="local",
            config=config,
            mocks=mocks(caller_arn="arn:aws:iam::000000000000:user/somebody"),
        )
        return declared, exported

    return evaluate


def test_every_component_has_an_example_that_bears_its_name():
    folders = {path.parent.name.replace("-", "") for path in EXAMPLES.glob("*/Pulumi.yaml")}
    assert {name.lower() for name in modelworks.__all__} <= folders


@pytest.mark.parametrize("project", [*EXAMPLES.rglob("Pulumi.yaml")], ids=lambda path: path.parent.name)
def test_an_example_says_how_it_is_run_and_is_listed(project):
    listed = project.relative_to(EXAMPLES).parts[0]
    assert f"({listed}/README.md)" in (EXAMPLES / "README.md").read_text()
    assert "modelworks up local" in (EXAMPLES / listed / "README.md").read_text()
    assert (project.parent / "local.template.yaml").is_file()


def test_environment_declares_a_key_a_topic_and_a_budget(evaluated):
    declared, exported = evaluated("environment")
    assert declared.one("aws:budgets/budget:Budget")["limitAmount"] == "200.00"
    assert declared.one("aws:kms/key:Key")["tags"]["cost-centre"] == "4711"
    assert set(exported) == {"key", "alerts"}


def test_cluster_has_a_registry_in_it_and_an_endpoint_as_soon_as_there_is_a_bundle(evaluated):
    declared, exported = evaluated("cluster", registry_password="of the test alone")
    assert declared.one("aws:eks/cluster:Cluster")["vpcConfig"]["publicAccessCidrs"] == ["203.0.113.0/24"]
    claim = declared.one("kubernetes:core/v1:PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == "churn-encrypted"
    assert set(exported) == {"kubeconfig", "bundle_bucket", "registry"}
    secrets = {"registry_password": "of the test alone", "tokens": "t0ken"}
    declared, exported = evaluated("cluster", bundle_digest="sha256:" + "ab" * 32, **secrets)
    assert set(exported) == {"kubeconfig", "bundle_bucket", "registry", "url"}
    asked = declared.requests()
    strays = [
        urn
        for urn, each in asked.items()
        if urn.split("::")[2].split("$")[-1].startswith("kubernetes:")
        and "growth-kubernetes" not in each.get("provider", "")
    ]
    assert strays == []


def test_cluster_addons_declares_an_encrypted_class_of_volumes(evaluated):
    declared, exported = evaluated("cluster-addons")
    parameters = declared.one("kubernetes:storage.k8s.io/v1:StorageClass")["parameters"]
    assert (parameters["encrypted"], parameters["kmsKeyId"]) == ("true", "arn:aws:mock:::churn-key")
    assert declared.all("kubernetes:helm.sh/v3:Release") == {}
    assert set(exported) == {"storage_class"}


def test_model_registry_declares_its_buckets_and_a_server(evaluated):
    declared, exported = evaluated("model-registry", registry_password="of the test alone")
    assert set(declared.all("aws:s3/bucket:Bucket")) == {"registry-bundles", "registry-artifacts"}
    ingress = declared.one("kubernetes:networking.k8s.io/v1:Ingress")
    assert ingress["spec"]["rules"][0]["host"] == "registry.localhost"
    assert set(exported) == {"registry_url", "bundle_bucket", "artifact_bucket"}


def test_prediction_store_keeps_predictions_for_a_month(evaluated):
    declared, exported = evaluated("prediction-store")
    rules = declared.one("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")["rules"]
    assert [rule["expiration"] for rule in rules if "expiration" in rule] == [{"days": 30}]
    assert set(exported) == {"prediction_bucket", "prediction_reader_role_arn"}


def test_training_compute_declares_the_quota_that_its_arguments_say(evaluated):
    declared, exported = evaluated("training-compute")
    quota = declared.one("kubernetes:core/v1:ResourceQuota")
    assert quota["metadata"]["namespace"] == "modelworks-local-training"
    assert quota["spec"]["hard"]["requests.cpu"] == "8000m"
    assert set(exported) == {"training"}


def test_model_endpoint_serves_the_bundle_that_its_config_names(evaluated, tmp_path):
    bundle = tmp_path / "model.bento"
    bundle.write_bytes(b"a bundle")
    digest = hashlib.sha256(b"a bundle").hexdigest()
    declared, exported = evaluated("model-endpoint", bundle=str(bundle))
    assert declared.one("aws:s3/bucketObjectv2:BucketObjectv2")["key"] == f"bundles/plane-seats/{digest}.bento"
    annotations = declared.one(ROLLOUT)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["modelworks.dev/digest"] == f"sha256:{digest}"
    assert set(exported) == {"url"}


def test_feature_store_declares_a_table_for_each_view_of_its_manifest(evaluated, monkeypatch):
    folder = EXAMPLES / "feature-store"
    monkeypatch.setattr("modelworks.stack.pulumi.runtime.get_root_directory", lambda: str(folder))
    declared, exported = evaluated("feature-store")
    tables = {table["name"] for table in declared.all("aws:dynamodb/table:Table").values()}
    assert tables == {"features.weather", "features.delays"}
    assert read_definitions(folder).manifest == read_manifest(folder)
    assert set(exported) == {"features"}


def test_escape_hatches_change_the_key_and_add_a_name_to_it(evaluated):
    declared, _ = evaluated("escape-hatches", mocks=Transforming)
    assert declared.one("aws:kms/key:Key")["multiRegion"] is True
    assert "multiRegion" not in declared.one("aws:sns/topic:Topic")
    assert declared.all("aws:kms/alias:Alias")["shared"]["targetKeyId"] == "ground-key-id"
