"""The settings of the Kubernetes cluster that an environment is in, or makes.

Pure: no cloud, no clock, and no Pulumi.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, StringConstraints, model_validator

from modelworks import _cluster_rules, defaults
from modelworks._forms import IMAGE, ISSUER
from modelworks.workload_settings import SharedIngress, Strict

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$")]
ImageDigest = Annotated[str, StringConstraints(pattern=IMAGE.whole)]
"""An image that cannot change under its name."""


class Eks(Strict):
    """A cluster of EKS Auto Mode, `modelworks-<stack>`, in a VPC of its own."""

    administrators: Annotated[list[str], AfterValidator(_cluster_rules.administrators)]
    """ARNs of the IAM roles and users that may do everything in it. The caller of an update is one of them."""
    viewers: Annotated[list[str], AfterValidator(_cluster_rules.viewers)] = defaults.CLUSTER["viewers"]
    """ARNs of the IAM roles and users that may read everything in it, Secrets included: the role of previews in CI."""
    public_access_cidrs: list[Annotated[str, AfterValidator(_cluster_rules.api_server_range)]] = defaults.CLUSTER[
        "public_access_cidrs"
    ]
    """Ranges of IPv4 that reach its API server from the internet, such as an office's `203.0.113.0/24`. Without any,
    only the VPC does, and so must the caller of an update."""
    version: Annotated[str, AfterValidator(_cluster_rules.version)] = defaults.CLUSTER["version"]
    """Version of Kubernetes. EKS goes up by one minor version at a time, and never down; it supports each for 14 months
    (EKS user guide, "Kubernetes version lifecycle"), and costs six times as much after that."""
    vpc_cidr: Annotated[str, AfterValidator(_cluster_rules.vpc_range)] = defaults.CLUSTER["vpc_cidr"]
    """Range of the VPC, with a prefix of 16 to 22 bits. It must not overlap with networks that are to be connected, and
    cannot be changed."""
    availability_zones: Annotated[list[str], AfterValidator(_cluster_rules.zones)] = defaults.CLUSTER[
        "availability_zones"
    ]
    """Names of two or three zones. Default: the region's first three."""
    nat_per_zone: bool = defaults.CLUSTER["nat_per_zone"]
    """Whether each zone has a NAT gateway of its own, which survives the loss of another zone. Off: one for all, at a
    third of the cost."""
    flow_logs: bool = defaults.CLUSTER["flow_logs"]
    """Record who connects to whom in the VPC (Checkov CKV2_AWS_11)."""
    log_retention_days: Annotated[int, AfterValidator(_cluster_rules.retention_days)] = defaults.CLUSTER[
        "log_retention_days"
    ]
    """How long logs of the control plane and of the network are kept, in days that CloudWatch Logs has. A year is
    required by Checkov CKV_AWS_338."""

    @model_validator(mode="after")
    def _one_entry_for_each(self) -> Self:
        _cluster_rules.apart(self.administrators, self.viewers)
        return self


class Cluster(Strict):
    """The Kubernetes cluster that serves and trains.

    It exists before the environment does, and the provider's own config names it, `kubernetes:context` and
    `kubernetes:kubeconfig`; or the environment makes it, `eks`.
    """

    eks: Eks | None = None
    """Make a cluster. It is of EKS Auto Mode, so that `auto_mode`, the installs and enforced policies are on, and
    `oidc_issuer` is its own. Default: none, and the cluster is there."""

    namespace: Namespace | None = None
    """Namespace of the environment's pods. Default: `modelworks-<stack>`."""
    oidc_issuer: Annotated[str, StringConstraints(pattern=ISSUER.whole)] = defaults.LAPTOP_ISSUER
    """The cluster's OIDC issuer without `https://` (EKS shows it); by it pods assume their roles. The default is the
    laptop's, and refused elsewhere."""
    domain: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?$")] | None = None
    """Domain under which the environment's host names lie. Default: `<stack>.localhost`, which only a laptop serves."""
    ingress: SharedIngress = SharedIngress()
    """The load balancers of all hosts: TLS, and who may connect."""
    auto_mode: bool = defaults.CLUSTER_ADDONS["auto_mode"]
    """Whether it is a cluster of EKS Auto Mode, whose load balancers and volumes are made by drivers of its own."""
    install_argo_rollouts: bool = defaults.CLUSTER_ADDONS["install_argo_rollouts"]
    """Install Argo Rollouts with its Helm chart, with a role that may read CloudWatch. Off: the cluster has it, and
    `modelworks up` checks that it has a region. One environment of a cluster installs it."""
    install_ingress_class: bool = defaults.CLUSTER_ADDONS["install_ingress_class"]
    """Declare the IngressClass `alb`, which EKS Auto Mode lacks. Off: the cluster has it, by the chart of the AWS load
    balancer controller or by another environment."""
    enforce_network_policies: bool = defaults.CLUSTER_ADDONS["enforce_network_policies"]
    """Let EKS Auto Mode enforce network policies, in the whole cluster. Elsewhere it is `enableNetworkPolicy` of the
    add-on `vpc-cni`."""
    default_storage_class: bool = defaults.CLUSTER_ADDONS["default_storage_class"]
    """Whether the class of the environment's encrypted volumes also serves claims that name none, of the whole
    cluster."""
    runtime_image: ImageDigest | None = None
    """Image of the serving pods, by digest. Default: a stand-in named after the lock, for laptops, which pull none;
    refused elsewhere."""
    registry_image: ImageDigest | None = None
    """Image of the MLflow server, by digest: see `images/registry`. Default: as above."""
    training_image: ImageDigest | None = None
    """Image of training runs, by digest. Default: as above."""
    features_image: ImageDigest | None = None
    """Image of the feature store's jobs, by digest. Default: as above."""

    @model_validator(mode="before")
    @classmethod
    def _what_a_new_cluster_lacks(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("eks"):
            installs = ("auto_mode", "install_argo_rollouts", "install_ingress_class", "enforce_network_policies")
            return {**dict.fromkeys(installs, True), **given}
        return given

    @property
    def volume_driver(self) -> str:
        """The CSI driver of its volumes."""
        return "ebs.csi.eks.amazonaws.com" if self.auto_mode else "ebs.csi.aws.com"

    @model_validator(mode="after")
    def _policies_of_auto_mode(self) -> Self:
        if self.eks and not self.auto_mode:
            raise ValueError("eks makes a cluster of EKS Auto Mode, so that auto_mode must be true or left out")
        if self.eks and "oidc_issuer" in self.model_fields_set:
            raise ValueError("eks makes a cluster with an issuer of its own: leave oidc_issuer out")
        if self.enforce_network_policies and not self.auto_mode:
            raise ValueError(
                "enforce_network_policies needs auto_mode: true; elsewhere set enableNetworkPolicy of the EKS add-on "
                "vpc-cni"
            )
        return self
