"""What modelworks declares, checked by others: Checkov, parliament, AWS's service models, Kubernetes' own schemas.

The provider that makes the AWS resources here validates each call by botocore's model of the service, and refuses what
an account would.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as kubernetes
import pytest
import yaml
from ruamel.yaml import YAML

from emulated import ACCOUNT, Emulated, emulator
from mocks import ROOT, declare
from modelworks.laptop import rollouts
from reference import FILES, SECRETS, evaluated

pytestmark = pytest.mark.e2e

HOME = ROOT / "tests/second_opinion"
EXCEPTIONS = {
    ("CKV_AWS_18", "*"): "access to objects is logged by CloudTrail's data events, once an account, with the caller",
    ("CKV_AWS_144", "*"): "bundles and runs come from code and data by digest; copies of them are a team's decision",
    ("CKV2_AWS_62", "*"): "nothing waits for an object: no program would receive the event",
    (
        "CKV_AWS_61",
        "predictions-reader",
    ): "the account's root in a trust policy leaves the decision to its IAM policies",
    ("CKV_AWS_61", "features-*"): "as that of predictions: people and jobs assume these by IAM policies of the account",
    ("CKV_K8S_11", "CronJob.features-*"): "a limit of CPU would throttle a job that nobody waits for beside idle cores",
    ("RESOURCE_STAR", "*-key"): "in the policy of a key, `*` is that key",
    ("CKV_K8S_8", "Deployment.registry-server"): "its sidecar serves nobody, and an alarm watches the dumps' age",
    ("CKV_K8S_9", "Deployment.registry-server"): "no request waits for the sidecar, and a failed dump stops no server",
    ("CKV_K8S_8", "Deployment.*-uptime"): "it serves nobody, and an alarm watches what it publishes",
    ("CKV_K8S_9", "Deployment.*-uptime"): "it serves nobody, and an alarm watches what it publishes",
    ("CKV_K8S_35", "Deployment.registry-server"): "MLflow reads its database and its session key from variables alone",
    ("CKV_K8S_40", "*"): "the images' user is 1000, and volumes of registries that run belong to it",
    ("CKV2_AWS_57", "features-api-key"): "a vendor makes its keys: nobody else can rotate one",
    ("CKV_AWS_51", "features-hopsworks-images"): "Hopsworks tags the images of its projects, and pushes tags again",
    ("MISMATCHED_TYPE", "modelworks-dev-key"): "as CloudWatch Logs documents the policy of a key of log groups",
    ("UNKNOWN_CONDITION_FOR_ACTION", "modelworks-dev-key"): "the same",
    (
        "RESOURCE_STAR",
        "modelworks-dev-role-policy",
    ): "a load balancer that is yet to be made has no ARN: a condition on its tag narrows it to this cluster",
    ("CKV2_K8S_6", "*"): "Checkov 3.3 compares policies with the pods of a Deployment before these have labels",
}
"""Findings that stand, by rule and resource, each with its reason. One that nothing finds any more fails the test."""


def _in_a_cluster_of_its_own(settings: dict[str, Any]) -> None:
    settings["cluster"] |= {"eks": {"administrators": [f"arn:aws:iam::{ACCOUNT}:user/somebody"]}}
    del settings["cluster"]["oidc_issuer"]


def _with_features_of_tecton(settings: dict[str, Any]) -> None:
    vendor = {"url": "https://acme.tecton.ai", "deployment": "acme", "external_id": "from-tecton"}
    settings["features"] = {"engine": "tecton", "vendor": {**vendor, "control_plane_account_id": "222222222222"}}
    settings["endpoints"]["flight-delay"]["feature_services"] = []


def _with_features_of_hopsworks(settings: dict[str, Any]) -> None:
    vendor = {"url": "https://features.example.com", "repository": "acme/hopsworks-base"}
    settings["features"] = {"engine": "hopsworks", "vendor": vendor}
    settings["endpoints"]["flight-delay"]["feature_services"] = []


VARIANTS = {
    "a cluster of its own": _in_a_cluster_of_its_own,
    "tecton": _with_features_of_tecton,
    "hopsworks": _with_features_of_hopsworks,
}
"""Changes of the stack `dev` that declare what no stack's file does."""


@pytest.fixture
def account():
    with emulator() as url:
        yield url


@pytest.fixture(scope="module")
def opinions(tmp_path_factory):
    """Asks them all: `(rule, resource)` of what each finds in a program, with its message."""
    uv = ROOT / ".uv/bin/uv"
    # Beside uv: an environment of its own, made once a checkout.
    variables = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(ROOT / ".uv/second-opinion")}
    variables.pop("VIRTUAL_ENV", None)
    python = ["--frozen", "--python", sys.executable, "--project", str(HOME), "python"]
    command = [str(uv) if uv.exists() else "uv", "run", *python]

    def ask(declared: Emulated) -> dict[tuple[str, str], str]:
        folder = tmp_path_factory.mktemp("declared")
        _write(declared, folder)
        done = subprocess.run(
            [*command, str(HOME / "opinions.py"), str(folder)],
            env=variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return {(rule, resource): message for rule, resource, message in found} | dict(_custom_resources(declared))

    return ask


@pytest.mark.parametrize("stack", FILES)
def test_nothing_is_found_in_a_stack_but_what_has_a_reason(opinions, account, stack):
    found = opinions(_stack(stack, account))
    unexplained = [f"{found}: {message}" for found, message in found.items() if not _exceptions_for(found)]
    assert not unexplained, "\n".join(unexplained)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_found_in_a_variant_but_what_has_a_reason(opinions, account, variant):
    found = opinions(_stack("dev", account, VARIANTS[variant]))
    unexplained = [f"{found}: {message}" for found, message in found.items() if not _exceptions_for(found)]
    assert not unexplained, "\n".join(unexplained)


def test_every_exception_is_still_needed(opinions, account):
    # Its database is embedded: the other files declare less.
    changes = [lambda _: None, *VARIANTS.values()]
    found = [each for change in changes for each in opinions(_stack("dev", account, change))]
    assert {exception for each in found for exception in _exceptions_for(each)} == EXCEPTIONS.keys()


def test_each_of_them_finds_what_is_wrong(opinions, account):
    """Otherwise a translation that they do not understand would pass for a clean program."""

    def program():
        aws.s3.Bucket("open")
        aws.eks.Cluster("bare", role_arn="arn:aws:iam::111111111111:role/r", vpc_config={"subnet_ids": ["subnet-1"]})
        aws.iam.Policy("typo", policy=_policy("s3:GetObjekt", "arn:aws:s3:::bucket/*"))
        aws.iam.Policy("mismatch", policy=_policy("s3:ListBucket", "arn:aws:s3:::bucket/*"))
        aws.iam.Policy("all", policy=_policy("*", "*"))
        aws.dynamodb.Table(
            "plain",
            name="plain",
            hash_key="id",
            billing_mode="PAY_PER_REQUEST",
            attributes=[{"name": "id", "type": "S"}],
        )
        container = {"name": "server", "image": "image:latest", "ports": [{"containerPort": 80, "porto": 1}]}
        labels = {"matchLabels": {"app": "server"}}
        kubernetes.apiextensions.CustomResource(
            "canary",
            api_version="argoproj.io/v1alpha1",
            kind="Rollout",
            metadata={"namespace": "ours"},
            spec={"selector": labels, "strategy": {"canary": {"stops": []}}, "template": {"spec": {"containers": []}}},
        )
        pulumi.CustomResource(
            "kubernetes:apps/v1:Deployment",
            "server",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"namespace": "ours", "name": "server"},
                "spec": {
                    "selector": labels,
                    "template": {"metadata": {"labels": {"app": "server"}}, "spec": {"containers": [container]}},
                },
            },
        )

    found = opinions(declare(program, mocks=Emulated(url=account)))
    assert {("CKV_AWS_145", "open"), ("CKV2_AWS_6", "open"), ("CKV_AWS_119", "plain")} <= found.keys()
    assert {("CKV_AWS_37", "bare"), ("CKV_AWS_39", "bare"), ("CKV_AWS_58", "bare")} <= found.keys()
    assert ("UNKNOWN_ACTION", "typo") in found
    assert ("RESOURCE_MISMATCH", "mismatch") in found
    assert ("CKV_AWS_62", "all") in found
    assert ("CKV_K8S_16", "Deployment.server") not in found
    assert {("CKV_K8S_20", "Deployment.server"), ("CKV_K8S_22", "Deployment.server")} <= found.keys()
    assert {f"kubernetes-1.{minor}.0" for minor in range(31, 36)} == {
        rule for rule, resource in found if rule.startswith("kubernetes-") and resource == "Deployment.server"
    }
    assert "stops" in found["argoproj.io", "Rollout.canary"]


def _stack(stack: str, url: str, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Emulated:
    releases = {"flight-delay": {"digest": "sha256:" + "ab" * 32, "version": 3}}
    secrets = {**SECRETS, "tokens": {"flight-delay": "t0ken"}, "feature_api_key": "the-key-of-the-vendor"}
    settings = YAML(typ="safe").load(FILES[stack].read_text())["config"]["modelworks:settings"]
    change(settings)
    changes = {"modelworks:releases": releases, "modelworks:secrets": secrets, "modelworks:settings": settings}
    return evaluated(stack, mocks=lambda **arguments: Emulated(url=url, **arguments), **changes)


def _exceptions_for(found: tuple[str, str]) -> list[tuple[str, str]]:
    rule, resource = found
    return [(known, names) for known, names in EXCEPTIONS if known == rule and fnmatch.fnmatch(resource, names)]


def _policy(action: str, resource: str) -> str:
    statement = {"Effect": "Allow", "Action": [action], "Resource": [resource]}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


# ---- in the words of those who look


def _write(declared: Emulated, folder: Path) -> None:
    for name in ("aws", "kubernetes", "policies"):
        (folder / name).mkdir()
    resources: dict[str, dict[str, Any]] = {}
    references = _references(declared)
    for (token, name), outputs in declared.made.items():
        inputs = _inputs(declared, token, name)
        resources.setdefault(_terraform_type(token), {})[name] = _terraform(inputs, references)
        if isinstance(inputs.get("policy"), str):
            (folder / "policies" / f"{name}.json").write_text(outputs["policy"], encoding="utf-8")
    if resources:
        (folder / "aws/main.tf.json").write_text(json.dumps({"resource": resources}), encoding="utf-8")
    for name, manifest in _manifests(declared):
        text = json.dumps(manifest)
        (folder / "kubernetes" / f"{name}.json").write_text(text, encoding="utf-8")
        if manifest["kind"] == "Rollout":  # Checkov knows no custom resource; its pods are those of a Deployment
            spec = {name: manifest["spec"][name] for name in ("selector", "template")}
            text = json.dumps({**manifest, "apiVersion": "apps/v1", "kind": "Deployment", "spec": spec})
            (folder / "kubernetes" / f"pods-of-{name}.json").write_text(text, encoding="utf-8")


def _inputs(declared: Emulated, token: str, name: str) -> dict[str, Any]:
    return declared.resources[token, name]


def _references(declared: Emulated) -> dict[str, str]:
    """Terraform's reference for each id and ARN: by them Checkov finds what belongs to a bucket."""
    return {
        outputs[output]: f"${{{_terraform_type(token)}.{name}.{output}}}"
        for (token, name), outputs in declared.made.items()
        for output in ("arn", "id")
        if isinstance(outputs.get(output), str)
        and (token.endswith(":Bucket") or "bucket" not in _inputs(declared, token, name))
    }


def _terraform_type(token: str) -> str:
    service, kind = re.fullmatch(r"aws:(\w+)/(\w+):\w+", token).groups()
    return f"aws_{service}_{_snake(kind)}"


def _terraform(value: Any, references: dict[str, str]) -> Any:
    """Inputs as Terraform has them: names in snake case, objects as blocks, lists of blocks in the singular."""
    if isinstance(value, dict):
        block = {}
        for name, inner in value.items():
            if name in {"tags", "dimensions"}:
                block[name] = inner
                continue
            if isinstance(inner, list) and any(isinstance(item, dict) for item in inner):
                block[_singular(_snake(name))] = _terraform(inner, references)
            else:
                block[_snake(name)] = _terraform([inner] if isinstance(inner, dict) else inner, references)
        return block
    if isinstance(value, list):
        return [_terraform(item, references) for item in value]
    return references.get(value, value) if isinstance(value, str) else value


def _singular(name: str) -> str:
    return f"{name.removesuffix('ies')}y" if name.endswith("ies") else name.removesuffix("s")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _manifests(declared: Emulated) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for (token, name), inputs in declared.resources.items():
        # A release of Helm is no object of the API.
        if match := re.fullmatch(r"kubernetes:(?!helm\.sh/)(?:core/)?(.+):(\w+)", token):
            found.append((f"{match[2]}.{name}", {"apiVersion": match[1], "kind": match[2], **inputs}))
    return found


def _custom_resources(declared: Emulated) -> list[tuple[tuple[str, str], str]]:
    """What the definitions of Argo's custom resources refuse, unknown fields included."""
    definitions = {}
    for _, text in rollouts.custom_resources():
        definition = yaml.safe_load(text)["spec"]
        definitions[definition["names"]["kind"]] = _closed(definition["versions"][0]["schema"]["openAPIV3Schema"])
    return [
        (("argoproj.io", name), error.message)
        for name, manifest in _manifests(declared)
        if manifest["apiVersion"].startswith("argoproj.io/")
        for error in jsonschema.Draft7Validator(definitions[manifest["kind"]]).iter_errors(manifest)
    ]


def _closed(schema: Any) -> Any:
    """A structural schema that refuses what Kubernetes would prune."""
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(inner) for name, inner in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict):
        closed["properties"] = {name: _closed(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed
