"""The settings that all workloads have in common: their pods, permissions, load balancers and ways out.

Pure: no cloud, no clock, and no Pulumi.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from modelworks import _bounds as bounds
from modelworks import _workload_rules as rules
from modelworks import defaults
from modelworks._forms import ACCOUNT, CERTIFICATE

AccountId = Annotated[str, StringConstraints(pattern=ACCOUNT.whole)]
"""An AWS account: 12 digits, quoted in YAML so that a leading zero survives."""
Cidr = Annotated[str, AfterValidator(rules.network)]
"""A network, such as `10.0.0.0/8`."""
Visibility = Literal["internal", "public"]
_OwnKey = Annotated[str, AfterValidator(rules.own_key)]
_LabelValue = Annotated[str, AfterValidator(rules.label_value)]


class Strict(BaseModel):
    """Settings that cannot change, and refuse what they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class SharedIngress(Strict):
    """Settings of all load balancers of the environment, unless a host states its own."""

    certificate_arn: Annotated[str, StringConstraints(pattern=CERTIFICATE.whole)] | None = defaults.INGRESS[
        "certificate_arn"
    ]
    """TLS certificate in ACM, of the stack's region: one for `*.DOMAIN` is enough. Without one, hosts answer plain
    HTTP, which is refused off the laptop wherever passwords or tokens would cross it."""
    inbound_cidrs: list[Cidr] = defaults.INGRESS["inbound_cidrs"]
    """Networks whose clients may connect, such as `10.0.0.0/8`: that of the cluster too, whose uptime checks are
    clients. None: every client that reaches the load balancer."""
    group: Annotated[str, AfterValidator(rules.group_name)] | None = defaults.INGRESS["group"]
    """Hosts of one group share one load balancer, and its price. They need the same visibility and the same
    `inbound_cidrs`. A group is known in the whole cluster: name the environment in it. Default: none, and each host
    has a load balancer of its own."""


class Ingress(SharedIngress):
    """The load balancer before one host. `cluster.ingress` holds for all that it leaves out."""

    visibility: Visibility = defaults.INGRESS["visibility"]
    """`internal`: for the cluster's network. `public`: for the internet, which takes a certificate."""


class Toleration(Strict):
    """A taint of nodes that pods accept, as Kubernetes has it."""

    key: str | None = defaults.TOLERATION["key"]
    """Key of the taint. Default: none, which with `Exists` is every taint."""
    operator: Literal["Equal", "Exists"] = defaults.TOLERATION["operator"]
    """`Equal`: the taint has this value. `Exists`: it may have any."""
    value: str | None = defaults.TOLERATION["value"]
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = defaults.TOLERATION["effect"]
    """Effect of the taint. Default: all of them."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        rules.toleration(self.model_dump())
        return self


class Pod(Strict):
    """Additions to pods. Another value starts pods again, those of an endpoint by a canary."""

    extended_resources: dict[
        Annotated[str, AfterValidator(rules.device)], Annotated[int, Field(**bounds.POD["extended_resources"])]
    ] = defaults.POD["extended_resources"]
    """Devices of each pod, by the name of their resource, such as `nvidia.com/gpu: 1`. The cluster
    needs their device plugin. Default: none."""
    node_selector: dict[Annotated[str, AfterValidator(rules.key)], _LabelValue] = defaults.POD["node_selector"]
    """Labels that a node must have, such as `karpenter.sh/nodepool: gpu`. Default: any node."""
    tolerations: list[Toleration] = defaults.POD["tolerations"]
    """Taints of nodes that pods accept. Default: none."""
    image_pull_secrets: list[Annotated[str, AfterValidator(rules.secret_name)]] = defaults.POD["image_pull_secrets"]
    """Secrets in the pods' namespace by which nodes pull the image. ECR in the cluster's account needs none."""
    labels: dict[_OwnKey, _LabelValue] = defaults.POD["labels"]
    """Further labels of the pods."""
    annotations: dict[_OwnKey, str] = defaults.POD["annotations"]
    """Further annotations of the pods."""
    scratch_mib: Annotated[int, Field(**bounds.POD["scratch_mib"])] | None = defaults.POD["scratch_mib"]
    """Limit of a pod's scratch volume, in MiB: a pod that writes more is evicted. Default: for endpoints twice their
    memory and 1024, which holds a bundle that fits into memory; else none."""


class Permission(Strict):
    """A permission in AWS, beside those that the work needs."""

    actions: Annotated[list[Annotated[str, AfterValidator(rules.action)]], Field(min_length=1)]
    """Actions of IAM, such as `s3:GetObject`."""
    resources: Annotated[list[Annotated[str, AfterValidator(rules.resource)]], Field(min_length=1)]
    """ARNs that they are allowed on."""


class Egress(Strict):
    """A way out for pods, where the cluster enforces network policies."""

    cidr: Cidr
    """Network that they may connect to, such as `10.0.0.0/8`."""
    ports: Annotated[list[Annotated[int, Field(**bounds.EGRESS["ports"])]], Field(min_length=1)]
    """TCP ports there."""


class Workload(Strict):
    """Additions to a workload."""

    pod: Pod = Pod()
    """Additions to its pods: a GPU, a node pool, pull secrets, labels."""
    permissions: list[Permission] = []
    """Further permissions of its role, such as reading another bucket. Default: none."""
    egress: list[Egress] = []
    """Networks that its pods may connect to, besides name servers and port 443 anywhere. Default: none."""
