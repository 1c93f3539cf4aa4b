"""Which Kubernetes kind a Pulumi type token means, and which of its fields cannot be changed in place. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from modelworks.laptop.providers.plugin import ProviderError
from modelworks.laptop.providers.property_values import Path


@dataclass(frozen=True)
class Kind:
    """A kind of Kubernetes object, as a type token names it."""

    group: str
    """API group; empty for the core group."""
    version: str
    name: str
    """`Deployment`; without the `Patch` of a patch resource."""
    patch: bool = False
    """The resource edits fields of an object that someone else owns, and never creates or deletes the object."""

    @property
    def api_version(self) -> str:
        """As in a manifest: `v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.api_version} {self.name}"


def kind_of(token: str, inputs: dict[str, Any] | None = None) -> Kind:
    """The kind that a type token and, where known, the resource's `apiVersion` and `kind` mean.

    The object itself decides where it can: a custom resource may well be called `ServerPatch`.

    Raises:
        ProviderError: The token is none of a Kubernetes object.
    """
    _, module, type_name = token.split(":", 2)
    group, separator, version = module.rpartition("/")
    if group == "helm.sh" or module.startswith("helm."):
        raise ProviderError(
            f"{token}: Helm is not part of the laptop's Kubernetes provider",
            fix="Render the chart with `helm template` and declare the result with "
            "`pulumi_kubernetes.yaml.ConfigFile`, or declare the chart only where the stack is on a real cluster.",
        )
    if not separator:
        raise ProviderError(f"{token} names no kind of Kubernetes object: it lacks an API group and version")
    api_version, name = (inputs or {}).get("apiVersion"), (inputs or {}).get("kind")
    if isinstance(api_version, str) and api_version:
        group, _, version = api_version.rpartition("/")
    if not isinstance(name, str) or not name:
        name = type_name.removesuffix("Patch")
    return Kind("" if group == "core" else group, version, name, patch=type_name == f"{name}Patch")


# What the real provider replaces instead of updating, from its `provider/pkg/provider/diff.go` (fields in its order).
# `*` stands for any position in a list. One difference: it writes `Daemonset` and so never matches a DaemonSet.
_SELECTOR: Final = ("spec.selector",)
_CONTAINER: Final = (  # noqa: SIM905  words read best as words
    "args command env image imagePullPolicy lifecycle livenessProbe ports readinessProbe resources securityContext "
    "stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts workingDir"
).split()
_POD: Final = (  # noqa: SIM905  words read best as words
    "affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostAliases hostIPC hostNetwork "
    "hostPID hostname imagePullSecrets nodeName nodeSelector overhead preemptionPolicy priority priorityClassName "
    "readinessGates restartPolicy runtimeClassName schedulerName securityContext serviceAccount serviceAccountName "
    "shareProcessNamespace subdomain terminationGracePeriodSeconds volumes"
).split()
_VOLUME_SOURCES: Final = (  # noqa: SIM905  words read best as words
    "awsElasticBlockStore azureDisk azureFile cephfs cinder csi fc flexVolume flocker gcePersistentDisk glusterfs "
    "hostPath iscsi local nfs photonPersistentDisk portworxVolume quobyte rbd scaleIO storageos vsphereVolume"
).split()

_IMMUTABLE: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("", "ConfigMap"): ("binaryData", "data"),
    ("", "PersistentVolume"): tuple(f"spec.{source}" for source in _VOLUME_SOURCES),
    ("", "PersistentVolumeClaim"): ("spec",),
    ("", "Pod"): (
        *(f"spec.{field}" for field in _POD),
        *(f"spec.{containers}.*.{field}" for containers in ("containers", "initContainers") for field in _CONTAINER),
    ),
    ("", "ResourceQuota"): ("spec.scopes",),
    ("", "Secret"): ("type", "stringData", "data"),
    ("", "Service"): ("spec.clusterIP",),
    ("apps", "DaemonSet"): _SELECTOR,
    ("apps", "Deployment"): _SELECTOR,
    ("apps", "StatefulSet"): (
        "spec.podManagementPolicy",
        "spec.revisionHistoryLimit",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ),
    ("batch", "Job"): ("spec.completions", "spec.parallelism", "spec.selector", "spec.template"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): ("roleRef",),
    ("rbac.authorization.k8s.io", "RoleBinding"): ("roleRef",),
    ("storage.k8s.io", "StorageClass"): ("parameters", "provisioner"),
}
_IDENTITY: Final = ("metadata.name", "metadata.namespace")


def replaces(kind: Kind, path: Path, *, mutable_data: bool = False) -> bool:
    """Whether a change at `path` takes a new object.

    Args:
        kind: The object's kind.
        path: Where its inputs differ.
        mutable_data: A ConfigMap or Secret may change in place (a provider setting; off in the real provider too).
    """
    patterns: tuple[str, ...] = _IDENTITY
    if not kind.patch and not (mutable_data and kind.name in {"ConfigMap", "Secret"}):
        patterns += _IMMUTABLE.get((kind.group, kind.name), ())
    # The shorter of the two decides: all of `spec` may change at once, or one label deep in `spec.selector`.
    return any(
        all(step in {"*", str(place)} for step, place in zip(pattern.split("."), path, strict=False))
        for pattern in patterns
    )
