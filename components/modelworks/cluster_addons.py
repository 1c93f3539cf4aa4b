"""Objects that an environment needs in its cluster and a stock cluster lacks, declared with the program."""

from typing import NotRequired, TypedDict

import pulumi

from modelworks._resources.argo_rollouts import ArgoRollouts, argo_rollouts
from modelworks._resources.arguments import checked
from modelworks._resources.kubernetes import KubernetesObject, Manifest, labels

_INGRESS_CLASS = "alb"
"""The class that every host of an environment is of."""


class ClusterAddonsArgs(TypedDict):
    """Arguments of `ClusterAddons`."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`, by which the controller of Argo Rollouts assumes its role."""

    key_arn: pulumi.Input[str]
    """ARN of the KMS key that encrypts volumes."""

    auto_mode: NotRequired[bool]
    """Whether the cluster is of EKS Auto Mode, whose load balancers and volumes are made by drivers of its own. Default
    false."""

    storage_class: NotRequired[str | None]
    """Name of a StorageClass to declare, whose volumes the key encrypts. Default: none."""

    default_storage_class: NotRequired[bool]
    """Whether that class serves claims that name none, of the whole cluster. Default false."""

    install_ingress_class: NotRequired[bool]
    """Declare the IngressClass `alb`. The chart of the AWS load balancer controller brings it, EKS Auto Mode does not.
    Default false."""

    install_argo_rollouts: NotRequired[bool]
    """Install Argo Rollouts, which endpoints need, with its Helm chart and a role that may read metrics. Default false:
    the cluster has it."""

    enforce_network_policies: NotRequired[bool]
    """Let EKS Auto Mode enforce network policies, in the whole cluster. Elsewhere it is a setting of the add-on
    `vpc-cni`. Default false."""


class ClusterAddons(pulumi.ComponentResource):
    """A class of encrypted volumes and, on demand, what a cluster has once: Argo Rollouts, `alb` and enforced policies.

    Where several environments share a cluster, one of them declares the latter. Pass `needed_by_hosts` and
    `needed_by_endpoints` as `depends_on`: an Ingress without its class can be neither served nor deleted.

    Raises:
        ValueError: An argument is unknown, missing or of the wrong type, or two contradict each other.
    """

    storage_class: pulumi.Output[str]
    """Name of the StorageClass; empty if none was requested."""

    def __init__(self, name: str, args: ClusterAddonsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, ClusterAddonsArgs, args)
        _refuse_contradictions(args)
        super().__init__("modelworks:index:ClusterAddons", name, {}, opts)
        # These were children of the environment of that name once.
        self._before = [pulumi.Alias(parent=pulumi.create_urn(name, "modelworks:index:Environment"))]
        self.volumes = self._volumes(name, args["storage_class"], args) if args["storage_class"] else None
        self.ingress_class = self._ingress_class(name, args["auto_mode"]) if args["install_ingress_class"] else []
        self.network_policies = self._network_policies(name) if args["enforce_network_policies"] else None
        self.argo_rollouts = self._argo_rollouts(name, args) if args["install_argo_rollouts"] else None
        self.storage_class = self.volumes.name if self.volumes else pulumi.Output.from_input("")
        self.register_outputs({"storage_class": self.storage_class})

    @property
    def needed_by_hosts(self) -> list[pulumi.Resource]:
        """Resources that everything with an Ingress comes after, and goes before."""
        return [*self.ingress_class]

    @property
    def needed_by_endpoints(self) -> list[pulumi.Resource]:
        """Resources that a `ModelEndpoint` comes after, and goes before."""
        return [*self.needed_by_hosts, *([self.argo_rollouts.release] if self.argo_rollouts else [])]

    def _volumes(self, name: str, storage_class: str, args: ClusterAddonsArgs) -> KubernetesObject:
        # The name in the cluster is stated: a claim cannot change its class, and this one may be replaced under it.
        metadata: Manifest = {"name": storage_class, "labels": labels(name, "storage-class")}
        if args["default_storage_class"]:
            metadata["annotations"] = {"storageclass.kubernetes.io/is-default-class": "true"}
        return self._object(
            f"{name}-volumes",
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": metadata,
                "provisioner": "ebs.csi.eks.amazonaws.com" if args["auto_mode"] else "ebs.csi.aws.com",
                "parameters": {"type": "gp3", "encrypted": "true", "kmsKeyId": args["key_arn"]},
                # A volume is of one zone: that of the pod, which is scheduled first.
                "volumeBindingMode": "WaitForFirstConsumer",
                "allowVolumeExpansion": True,
                "reclaimPolicy": "Delete",
            },
        )

    def _ingress_class(self, name: str, auto_mode: bool) -> list[KubernetesObject]:
        metadata = {"name": _INGRESS_CLASS, "labels": labels(name, "ingress-class")}
        spec: Manifest = {"controller": "eks.amazonaws.com/alb" if auto_mode else "ingress.k8s.aws/alb"}
        parameters = []
        if auto_mode:
            # They state nothing: what they state wins over the annotations of each Ingress.
            kind = {"apiVersion": "eks.amazonaws.com/v1", "kind": "IngressClassParams"}
            parameters = [self._object(f"{name}-ingress-class-params", {**kind, "metadata": metadata})]
            spec["parameters"] = {
                "apiGroup": "eks.amazonaws.com",
                "kind": "IngressClassParams",
                "name": parameters[0].name,
            }
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass"}
        return [*parameters, self._object(f"{name}-ingress-class", {**kind, "metadata": metadata, "spec": spec})]

    def _network_policies(self, name: str) -> KubernetesObject:
        # "Use Network Policies with EKS Auto Mode", EKS user guide; built-in node classes allow what no policy denies.
        return self._object(
            f"{name}-network-policies",
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": "amazon-vpc-cni",
                    "namespace": "kube-system",
                    "labels": labels(name, "network-policies"),
                },
                "data": {"enable-network-policy-controller": "true"},
            },
        )

    def _argo_rollouts(self, name: str, args: ClusterAddonsArgs) -> ArgoRollouts:
        return argo_rollouts(
            f"{name}-argo-rollouts",
            parent=self,
            account_id=args["account_id"],
            oidc_issuer=args["oidc_issuer"],
            auto_mode=args["auto_mode"],
            aliases=self._before,
        )

    def _object(self, name: str, manifest: Manifest) -> KubernetesObject:
        return KubernetesObject(name, manifest, opts=pulumi.ResourceOptions(parent=self, aliases=self._before))


def _refuse_contradictions(args: ClusterAddonsArgs) -> None:
    if args["default_storage_class"] and not args["storage_class"]:
        raise ValueError("default_storage_class needs storage_class, the name of the class")
    if args["enforce_network_policies"] and not args["auto_mode"]:
        raise ValueError(
            "enforce_network_policies needs auto_mode; elsewhere set enableNetworkPolicy of the EKS add-on vpc-cni"
        )
