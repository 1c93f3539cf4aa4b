"""Needs of an environment that its Kubernetes cluster meets or lacks. Pure but for the reads.

A cluster of EKS Auto Mode has load balancers and volumes of its own kind; the settings state which kind is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from modelworks._checks import Check
from modelworks.cluster import argo_controller
from modelworks.cluster.rollout_objects import Object

Get = Callable[[str], Object | None]
"""The object at a path of the API server; None where there is none."""

INGRESS_CLASS: Final = "/apis/networking.k8s.io/v1/ingressclasses/alb"
_AUTO_MODE: Final = "eks.amazonaws.com/alb"
_PODS: Final = "/api/v1/pods?labelSelector="
_DEPLOYMENTS: Final = "/apis/apps/v1/deployments?labelSelector="
_OTHER_ENFORCERS: Final = ("calico-node", "cilium", "antrea-agent")
"""DaemonSets that enforce network policies where the VPC CNI does not."""


def reachable(get: Get) -> Check:
    """Whether the API server answers."""
    version = get("/version") or {}
    return Check("cluster", "ok", f"Kubernetes {version.get('gitVersion', 'of an unknown version')} answers")


def ingress_class(get: Get, *, auto_mode: bool, installed_by_us: bool) -> Check:
    """Whether Ingresses of the class `alb` are served by somebody, and whether the settings state that kind of cluster.

    Args:
        get: Reads the cluster.
        auto_mode: Of the settings.
        installed_by_us: The environment's program declares the class.
    """
    name = "ingress class"
    if (found := get(INGRESS_CLASS)) is None and installed_by_us:
        return Check(name, "ok", "not there yet: `modelworks up` declares it (cluster.install_ingress_class)")
    if found is None:
        return Check(
            name,
            "missing",
            "the cluster has no IngressClass alb, which every host of the environment is of",
            "Set cluster.install_ingress_class: true."
            if auto_mode
            else "Install the AWS load balancer controller, which creates it.",
        )
    if auto_mode != (_controller(found) == _AUTO_MODE):
        return Check(
            name,
            "missing",
            f"alb is served by {_controller(found)}, and cluster.auto_mode is {str(auto_mode).lower()}: volumes and "
            "Argo Rollouts would be set up for a cluster of another kind",
            f"Set cluster.auto_mode: {str(not auto_mode).lower()}.",
        )
    return Check(name, "ok", f"alb, served by {_controller(found)}")


def load_balancer_controller(get: Get, *, auto_mode: bool) -> Check:
    """Whether the AWS load balancer controller runs, unless EKS brings its own.

    Args:
        get: Reads the cluster.
        auto_mode: Of the settings.
    """
    name = "load balancer controller"
    if auto_mode:
        return Check(name, "ok", "EKS Auto Mode has its own")
    found = _items(get(f"{_DEPLOYMENTS}app.kubernetes.io/name=aws-load-balancer-controller"))
    if any((each.get("status") or {}).get("availableReplicas") for each in found):
        return Check(name, "ok", "the AWS load balancer controller is available")
    why = "has no pod that is ready" if found else "is not installed"
    return Check(
        name,
        "missing",
        f"the AWS load balancer controller {why}: no host gets a load balancer",
        "helm repo add eks https://aws.github.io/eks-charts && helm upgrade --install aws-load-balancer-controller "
        "eks/aws-load-balancer-controller --namespace kube-system --set clusterName=CLUSTER --set region=REGION "
        "--set vpcId=VPC --set serviceAccount.name=aws-load-balancer-controller "
        "--set 'serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn=ROLE'; docs/guides/aws.md makes the role",
    )


def argo_rollouts(get: Get, *, installed_by_us: bool) -> Check:
    """Whether Argo Rollouts is there and can judge a canary.

    Args:
        get: Reads the cluster.
        installed_by_us: The environment's program installs it.
    """
    name = "argo rollouts"
    crd = get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rollouts.argoproj.io")
    verdict = argo_controller.judge(_items(get(_PODS + argo_controller.SELECTOR)))
    if crd is None and installed_by_us:
        return Check(name, "ok", "not installed yet: `modelworks up` installs it (cluster.install_argo_rollouts)")
    if crd is None or verdict.missing:
        return Check(
            name,
            "missing",
            "the cluster has no kind Rollout" if crd is None else verdict.missing,
            "Set cluster.install_argo_rollouts: true, or install its chart with the values in docs/guides/aws.md.",
        )
    return Check(name, "ok", "; ".join(["the controller has a region", *verdict.doubts]))


def metrics_server(get: Get) -> Check:
    """Whether pods have metrics, by which endpoints scale."""
    name = "metrics server"
    conditions = _conditions(get("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"))
    if conditions.get("Available") == "True":
        return Check(name, "ok", "the metrics API is available")
    return Check(
        name,
        "missing",
        "the cluster has no metrics API that answers: endpoints stay at their fewest pods",
        "aws eks create-addon --cluster-name CLUSTER --addon-name metrics-server",
    )


def volume_driver(get: Get, *, driver: str) -> Check:
    """Whether the driver of the registry's volume is installed.

    Args:
        get: Reads the cluster.
        driver: The one that `cluster.auto_mode` means.
    """
    name = "volume driver"
    if get(f"/apis/storage.k8s.io/v1/csidrivers/{driver}") is not None:
        return Check(name, "ok", f"{driver} is installed")
    return Check(
        name,
        "missing",
        f"the cluster has no CSI driver {driver} (cluster.auto_mode): the registry's volume stays pending",
        "aws eks create-addon --cluster-name CLUSTER --addon-name aws-ebs-csi-driver --pod-identity-associations "
        "serviceAccount=ebs-csi-controller-sa,roleArn=ROLE; on EKS Auto Mode, set cluster.auto_mode: true",
    )


def pod_identity_agent(get: Get, *, auto_mode: bool) -> Check:
    """Whether the agent of EKS Pod Identity runs. No component needs it: pods assume roles by the OIDC provider.

    Args:
        get: Reads the cluster.
        auto_mode: Of the settings.
    """
    name = "pod identity agent"
    if auto_mode:
        return Check(name, "ok", "EKS Auto Mode has its own")
    if get("/apis/apps/v1/namespaces/kube-system/daemonsets/eks-pod-identity-agent") is not None:
        return Check(name, "ok", "the agent is installed")
    return Check(
        name,
        "skipped",
        "not installed; components need none, only add-ons with a role of their own do, such as the volume driver",
        "aws eks create-addon --cluster-name CLUSTER --addon-name eks-pod-identity-agent",
    )


def network_policies(get: Get, *, auto_mode: bool, installed_by_us: bool) -> Check:
    """Whether network policies are enforced: on a new cluster of EKS they are stored and without effect.

    Args:
        get: Reads the cluster.
        auto_mode: Of the settings.
        installed_by_us: The environment's program has them enforced.
    """
    name = "network policies"
    config = get("/api/v1/namespaces/kube-system/configmaps/amazon-vpc-cni") or {}
    if str((config.get("data") or {}).get("enable-network-policy-controller")).lower() == "true":
        return Check(name, "ok", "the VPC CNI enforces them")
    node = get("/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node")
    if node is not None and _has_argument(node, "--enable-network-policy=true"):
        return Check(name, "ok", "the VPC CNI enforces them")
    running = {each["metadata"]["name"] for each in _items(get("/apis/apps/v1/daemonsets"))}
    if others := sorted(running & set(_OTHER_ENFORCERS)):
        return Check(name, "ok", f"{', '.join(others)} enforces them")
    if installed_by_us:
        return Check(name, "ok", "not enforced yet: `modelworks up` sees to it (cluster.enforce_network_policies)")
    return Check(
        name,
        "missing",
        "nothing in the cluster enforces network policies: every pod reaches every other one",
        "Set cluster.enforce_network_policies: true."
        if auto_mode
        else "aws eks update-addon --cluster-name CLUSTER --addon-name vpc-cni --configuration-values "
        '\'{"enableNetworkPolicy": "true"}\'',
    )


def _controller(ingress_class: Object) -> str:
    return str((ingress_class.get("spec") or {}).get("controller") or "nobody")


def _items(found: Object | None) -> list[Object]:
    return list((found or {}).get("items") or [])


def _conditions(found: Object | None) -> dict[str, str]:
    conditions = ((found or {}).get("status") or {}).get("conditions") or []
    return {each["type"]: each["status"] for each in conditions}


def _has_argument(workload: Mapping[str, Any], argument: str) -> bool:
    containers = workload["spec"]["template"]["spec"].get("containers") or []
    return any(argument in (each.get("args") or []) for each in containers)
