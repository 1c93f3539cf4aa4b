"""Private: components that declare objects of a cluster, by manifests as they are written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import pulumi

Manifest = Any
"""A piece of a manifest: plain mappings and lists with camel-case keys, Pulumi inputs allowed as values."""


def labels(name: str, component: str) -> dict[str, str]:
    """The labels Kubernetes recommends, for our objects."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "modelworks",
        "app.kubernetes.io/managed-by": "pulumi",
    }


def selector(name: str, component: str) -> dict[str, str]:
    """The labels that pods are found by: those that never change."""
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/component": component}


class KubernetesComponent(pulumi.ComponentResource):
    """A component that declares objects of a cluster: its children, named after it and labelled as its own.

    Args:
        token: Type token of the component.
        name: Name of the component.
        part: The kind of component, such as `endpoint`: a label of every object.
        namespace: Kubernetes namespace of its objects; None where the component makes one, and sets it then.
        opts: The program's arguments.
    """

    def __init__(
        self,
        token: str,
        name: str,
        *,
        part: str,
        namespace: pulumi.Input[str] | None,
        opts: pulumi.ResourceOptions | None,
    ) -> None:
        super().__init__(token, name, {}, opts)
        self._namespace = namespace
        self.labels = labels(name, part)
        self.selector = selector(name, part)

    def child_name(self, suffix: str = "") -> str:
        """Name of a child: the component's, with `suffix` behind it."""
        return f"{self.pulumi_resource_name}-{suffix}" if suffix else self.pulumi_resource_name

    def metadata(self, annotations: Mapping[str, pulumi.Input[str]] | None = None) -> Manifest:
        """Namespace and labels of an object."""
        found = {"namespace": self._namespace, "labels": self.labels}
        return found | ({"annotations": dict(annotations)} if annotations else {})

    def object(
        self,
        api_version: str,
        kind: str,
        suffix: str = "",
        *,
        annotations: Mapping[str, pulumi.Input[str]] | None = None,
        ignore_changes: Sequence[str] | None = None,
        protect: bool | None = None,
        fixed_name: bool = False,
        **fields: Any,
    ) -> KubernetesObject:
        """Declare an object as a child of the component.

        Args:
            api_version: Such as `apps/v1`.
            kind: Such as `Deployment`.
            suffix: The suffix of the object's name, after the component's.
            annotations: Of the object.
            ignore_changes: Paths that a controller writes and the program only starts.
            protect: Refuse to delete it; None for what the component has.
            fixed_name: Call it in the cluster as it is called here. One that is replaced keeps its name then: pods that
                run, and revisions that Argo may return to, still find it.
            fields: The fields next to the metadata, such as `spec`.
        """
        name, metadata = self.child_name(suffix), self.metadata(annotations)
        if fixed_name:
            metadata["name"] = name
        return KubernetesObject(
            name,
            {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields},
            opts=pulumi.ResourceOptions(parent=self, protect=protect, ignore_changes=list(ignore_changes or [])),
        )


class KubernetesObject(pulumi.CustomResource):
    """An object in a cluster, declared by its manifest.

    The engine and the provider see what they would see of the SDK's own class of that kind. Those classes cannot be
    imported one by one: the handful used here took a quarter of the reference program's evaluation, 0.3 s and 31 MB.
    """

    metadata: pulumi.Output[dict[str, Any]]
    """As the cluster has it, the name that the provider gave included."""

    def __init__(self, name: str, manifest: Mapping[str, Any], opts: pulumi.ResourceOptions | None = None) -> None:
        api = manifest["apiVersion"]
        super().__init__(
            f"kubernetes:{api if '/' in api else f'core/{api}'}:{manifest['kind']}",
            name,
            dict(manifest),
            pulumi.ResourceOptions.merge(pulumi.ResourceOptions(version=_plugin_version()), opts),
        )

    @property
    def name(self) -> pulumi.Output[str]:
        """Its name in the cluster."""
        return self.metadata["name"]


@cache
def _plugin_version() -> str:
    return version("pulumi-kubernetes")


def restricted_namespace(
    name: str, *, parent: pulumi.Resource, namespace: pulumi.Input[str], protect: bool | None = None
) -> KubernetesObject:
    """A namespace that admits only what keeps the `restricted` Pod Security standard, and lets no traffic pass.

    A separate network policy allows the connections that a pod needs.
    """
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    home = KubernetesObject(
        name,
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {**labels(name, "namespace"), **level}},
        },
        opts=pulumi.ResourceOptions(parent=parent, protect=protect),
    )
    KubernetesObject(
        f"{name}-default-deny",
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": home.name, "labels": labels(name, "namespace")},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
        opts=pulumi.ResourceOptions(parent=home),
    )
    return home
