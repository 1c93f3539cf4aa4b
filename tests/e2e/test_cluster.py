"""A cluster and what is in it, by the real engine: `record_provider.py` stands for AWS and for Kubernetes.

It proves what the engine decides: unknown values in the first preview, the order of creates and deletes, what is
protected, and that nothing is replaced. Whether AWS takes the inputs is proven nowhere here.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import record_provider
from mocks import ROOT
from modelworks.laptop import toolchain
from programs import output_of
from standing_provider import engine_variables, standing

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BEFORE = """
import pulumi
from modelworks._resources.argo_rollouts import argo_rollouts
from modelworks._resources.kubernetes import KubernetesObject

MANIFEST = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "ours"}, "provisioner": "p"}
environment = pulumi.ComponentResource("modelworks:index:Environment", "dev", {})
inside = pulumi.ResourceOptions(parent=environment)
KubernetesObject("dev-volumes", MANIFEST, inside)
argo_rollouts(
    "dev-argo-rollouts",
    parent=environment,
    account_id="000000000000",
    oidc_issuer="oidc.example/id",
    auto_mode=False,
    aliases=[],
)
"""
"""The environment of a version whose environments declared the class and Argo Rollouts, as far as it matters."""
AFTER = """
from modelworks import ClusterAddons, Environment

Environment("dev", {"account_id": "000000000000"})
ClusterAddons(
    "dev",
    {
        "account_id": "000000000000",
        "oidc_issuer": "oidc.example/id",
        "key_arn": "arn:aws:kms:eu-central-1:000000000000:key/k",
        "storage_class": "ours",
        "install_argo_rollouts": True,
    },
)
"""

KEPT = [
    *("growth-key", "growth-network", "growth-network-private-0", "growth-network-nat-0", "growth-role", "growth-logs"),
    *("growth-oidc", "growth-kubernetes", "growth-administrator-user/somebody", "growth-metrics-server"),
    *("churn-key", "registry-bundles", "churn-volumes"),
]
"""All that a namespace with data in it needs, so that it can still be reached."""


@dataclass(frozen=True)
class Project:
    folder: Path
    record: Path
    variables: dict[str, str]

    def pulumi(self, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
        return output_of(["pulumi", *arguments, "--stack", "dev"], self.folder, self.variables, fine)

    def up(self) -> list[str]:
        """What an update did, in its order."""
        return self._done_by("up", "--yes", "--skip-preview")

    def destroy(self) -> list[str]:
        return self._done_by("destroy", "--yes", "--skip-preview")

    def _done_by(self, *arguments: str) -> list[str]:
        self.record.unlink(missing_ok=True)
        self.pulumi(*arguments)
        return self.record.read_text(encoding="utf-8").splitlines() if self.record.exists() else []

    def config(self, name: str, value: str, *flags: str) -> None:
        self.pulumi("config", "set", *flags, name, value)


@pytest.fixture(scope="module")
def tools() -> Path:
    return toolchain.ensure(["pulumi"])["pulumi"]


@pytest.fixture
def project(tmp_path: Path, tools: Path):
    folder, record = tmp_path / "project", tmp_path / "record"
    shutil.copytree(ROOT / "examples/cluster", folder)
    (folder / "local.template.yaml").rename(folder / "Pulumi.dev.yaml")
    with standing(record_provider.__file__, str(record)) as (_, port):
        made = Project(folder, record, engine_variables(tmp_path, tools, f"aws:{port},kubernetes:{port}"))
        made.pulumi("stack", "init")
        yield made


def before(done: list[str], first: str, *later: str) -> bool:
    """Whether everything of the first kind was done before anything of the others, all of which were done."""
    last = max(index for index, line in enumerate(done) if first in line)
    return all(last < min(index for index, line in enumerate(done) if each in line) for each in later)


def test_from_no_cluster_to_an_endpoint_and_back(project: Project):
    project.config("registry_password", "correct horse battery", "--secret")
    project.pulumi("preview")  # the cluster is not there, and nothing is known of it

    made = project.up()
    cluster, objects = "aws:eks/cluster:Cluster growth", "create kubernetes:"
    assert before(made, "aws:ec2/route:Route", cluster)
    assert before(made, "aws:iam/rolePolicyAttachment", cluster)
    assert before(made, "aws:cloudwatch/logGroup:LogGroup growth-logs", cluster)
    assert before(made, cluster, objects)
    assert before(made, "aws:eks/accessPolicyAssociation", objects)
    assert before(made, "aws:eks/addon:Addon growth-metrics-server", objects)
    assert before(made, "IngressClass ", "networking.k8s.io/v1:Ingress ")
    assert before(made, "StorageClass", "PersistentVolumeClaim")
    project.pulumi("preview", "--expect-no-changes")

    project.config("bundle_digest", "sha256:" + "ab" * 32)
    project.config("tokens", "t0ken", "--secret")
    released = project.up()
    assert {line.split()[0] for line in released} == {"create"}
    assert any("Rollout churn" in line for line in released)
    project.pulumi("preview", "--expect-no-changes")

    # Plain `pulumi destroy` deletes all but what is protected, and what that depends on.
    assert "it is protected" in project.pulumi("destroy", "--yes", "--skip-preview", fine=(1, 255))
    left = project.pulumi("stack")
    assert [kept for kept in KEPT if kept not in left] == []
    project.up()

    project.pulumi("state", "unprotect", "--all", "--yes")
    gone = project.destroy()
    kept = {line.removeprefix("create ") for line in [*made, *released]}
    kept -= {line.removeprefix("delete ") for line in gone}
    assert [line for line in kept if not re.match(r"aws:s3/bucket\w", line)] == []  # a bucket takes its settings along
    # The controller deletes load balancers, whose network interfaces would hold the VPC, while it still can.
    assert before(gone, "networking.k8s.io/v1:Ingress ", "IngressClass ", cluster)
    assert before(gone, "Rollout churn", "helm.sh/v3:Release")
    assert before(gone, "delete kubernetes:", "aws:eks/accessPolicyAssociation", "aws:eks/addon", cluster)
    assert before(gone, cluster, "aws:ec2/route:Route", "aws:ec2/natGateway", "aws:ec2/subnet", "aws:ec2/vpc:Vpc")
    assert before(gone, cluster, "rolePolicyAttachment", "Role growth-role", "Role growth-node-role", "Key growth-key")
    assert before(gone, "aws:ec2/natGateway", "internetGateway", "aws:ec2/eip")


def test_other_choices_about_the_cluster_replace_nothing(project: Project):
    project.config("registry_password", "correct horse battery", "--secret")
    project.up()
    program = project.folder / "__main__.py"
    more = '"nat_per_zone": True, "profile": "dev", "log_retention_days": 400, '
    program.write_text(program.read_text().replace('"administrators": config', f'{more}"administrators": config'))
    widened = project.up()
    assert {line.split()[0] for line in widened} == {"create", "update"}
    assert {line.split(maxsplit=1)[1] for line in widened if line.startswith("create")} == {
        f"aws:ec2/{kind} growth-network-nat-{index}"
        for kind in ("eip:Eip", "natGateway:NatGateway")
        for index in (1, 2)
    }
    assert not any("kubernetes:" in line for line in widened)
    program.write_text(program.read_text().replace('"nat_per_zone": True, ', ""))
    narrowed = project.up()
    assert before(narrowed, "update aws:ec2/route:Route", "delete aws:ec2/natGateway", "delete aws:ec2/eip")


def test_what_environments_declared_before_moves_to_the_addons_and_stays(project: Project):
    program = project.folder / "__main__.py"
    program.write_text(BEFORE)
    project.up()
    program.write_text(AFTER)
    moved = project.up()
    assert [line for line in moved if line.startswith("delete")] == []
    kept = ("StorageClass", "Role dev-argo-rollouts", "Release", "rolePolicy:RolePolicy dev-argo-rollouts-policy")
    assert [line for line in moved if line.startswith("create") and any(each in line for each in kept)] == []
    project.pulumi("preview", "--expect-no-changes")
