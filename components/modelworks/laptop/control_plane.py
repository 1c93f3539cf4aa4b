"""The real Kubernetes control plane of the laptop: who its parts are, how they are started, what they are allowed.

Nothing here starts a process: it writes keys and kubeconfigs, and lists the programs that `supervisor` shall run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import time
from typing import TYPE_CHECKING, Any

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop import admission, flags, pki, pod_network, rollouts
from modelworks.laptop.cluster_roles import ROLES
from modelworks.laptop.supervisor import Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import httpx

    from modelworks.laptop.state_dir import StateDir

NODE = "laptop"
"""The name of the one node."""

ISSUER = "https://kubernetes.default.svc.cluster.local"
"""The issuer of service-account tokens."""

METRICS = "node-metrics"
"""The Service through which the API server finds the metrics API of the node agent."""
CUSTOM_RESOURCES = "argo-rollouts-custom-resources"
"""The ConfigMap that names the custom resource definitions that the cluster was given."""

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""The programs of the control plane."""

TOOLS = (*PROGRAMS, "kubectl", "rollouts-controller")
"""The tools that the toolchain must provide."""

PORTS = ("etcd", "etcd-peer", "apiserver", "controller-manager", "scheduler", "agent")
"""The ports that the control plane listens on, as they are named in `laptop.json`."""


def prepare(place: StateDir, facts: Mapping[str, Any]) -> None:
    """Write every key, certificate and kubeconfig of the control plane that is not there yet."""
    ports = facts["ports"]
    place.folder(place.cluster)
    folder = place.folder(place.cluster / "pki")
    place.folder(place.cluster / "etcd")
    authority = _authority(folder, "ca")
    etcd = _authority(folder, "etcd-ca")
    _pair(folder, "etcd", etcd, "etcd", hosts=("127.0.0.1", "localhost"))
    _pair(folder, "etcd-client", etcd, "kube-apiserver")
    service = str(pod_network.of_services(facts["pod_network"])[1])  # the API server's own Service
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    _pair(folder, "apiserver", authority, "kube-apiserver", hosts=("127.0.0.1", "localhost", service, *names))
    # The API server calls the node agent with this one, and the agent serves with the other.
    _pair(folder, "kubelet-client", authority, "kube-apiserver-kubelet-client")
    hosts = ("127.0.0.1", "localhost", NODE, f"{METRICS}.kube-system.svc")
    _pair(folder, "kubelet", authority, f"system:node:{NODE}", groups=("system:nodes",), hosts=hosts)
    for server in ("controller-manager", "scheduler"):
        _pair(folder, f"{server}-server", authority, server, hosts=("127.0.0.1", "localhost"))
    if not (folder / "service-accounts.pub").exists():
        key = pki.new_key()
        write_whole(folder / "service-accounts.key", key)
        write_whole(folder / "service-accounts.pub", pki.public_key(key))
    for name, (user, groups) in _IDENTITIES.items():
        identity(place, ports, place.cluster / f"{name}.kubeconfig", user, groups)
    authorizers = admission.authorizers(place.cluster / "agent.kubeconfig")
    write_whole(place.cluster / "authorization.json", json.dumps(authorizers, indent=2))


_IDENTITIES = {
    "admin": ("modelworks:admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "agent": (f"system:node:{NODE}", ("system:nodes",)),
    "gateway": ("modelworks:gateway", ()),
}


def identity(
    place: StateDir,
    ports: Mapping[str, int],
    path: Path,
    user: str,
    groups: tuple[str, ...] = (),
    *,
    namespace: str = "default",
) -> None:
    """Write a kubeconfig for `user` to `path`, with a certificate of its own, unless it is there."""
    if path.exists():
        return
    authority = _authority(place.cluster / "pki", "ca")
    pair = pki.issue(authority, user, groups=groups)
    write_whole(path, pki.kubeconfig(server(ports), authority, user, pair, namespace=namespace))


def server(ports: Mapping[str, int]) -> str:
    """The URL of the API server."""
    return f"https://127.0.0.1:{ports['apiserver']}"


def programs(place: StateDir, facts: Mapping[str, Any], tools: Mapping[str, Path]) -> list[Program]:
    """etcd, API server, controller manager and scheduler."""
    # Go's collector trades memory for CPU; the cluster is small, idle most of the time, and shares memory with models.
    environ = {"GOGC": "50"}
    # Bounds its heap while it comes up. It keeps about 220 MiB once the Kubernetes provider read its OpenAPI document;
    # a bound near that makes it collect garbage all the time (45 % of a core at 220 MiB).
    lean = {**environ, "GOMEMLIMIT": "360MiB"}
    values = {
        **facts["ports"],
        "cluster": place.cluster,
        "pki": place.cluster / "pki",
        "issuer": ISSUER,
        "service_network": pod_network.of_services(facts["pod_network"]),
    }

    def argv(tool: str, table: Sequence[str]) -> list[str | Path]:
        return [tools[tool], *(flag.format_map(values) for flag in table)]

    return [
        Program("etcd", argv("etcd", flags.ETCD), environ),
        Program("apiserver", argv("kube-apiserver", flags.APISERVER), lean),
        Program("controller-manager", argv("kube-controller-manager", flags.CONTROLLER_MANAGER), environ),
        Program("scheduler", argv("kube-scheduler", flags.SCHEDULER), environ),
    ]


def client(place: StateDir, ports: Mapping[str, int], *, timeout: float = 30) -> httpx.Client:
    """An HTTP client with the administrator's rights, for what is set up before anybody else has any."""
    import httpx  # a tenth of a second that `--help` does not owe

    folder = place.cluster / "pki"
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    pair = pki.Pair.read(folder, "admin")
    if pair is None:
        pair = pki.issue(_authority(folder, "ca"), "modelworks:admin", groups=("system:masters",)).write(
            folder, "admin"
        )
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    return httpx.Client(base_url=server(ports), verify=context, timeout=timeout, trust_env=False)


def apply(api: httpx.Client, path: str, manifest: Mapping[str, Any] | str) -> None:
    """Server-side apply one object.

    Args:
        api: From `client`.
        path: Its address, for example `/api/v1/namespaces/local`.
        manifest: The object, or its YAML text as it is.

    Raises:
        ModelworksError: The API server refused it.
    """
    import json

    answer = api.patch(
        path,
        params={"fieldManager": "modelworks-laptop", "force": "true"},
        headers={"Content-Type": "application/apply-patch+yaml"},
        content=manifest if isinstance(manifest, str) else json.dumps(manifest),
    )
    if answer.status_code >= 300:
        raise ModelworksError(f"the API server refused {path}: {_reason(answer)}")


def ready(api: httpx.Client) -> bool:
    """Whether the API server serves, with its built-in roles in place."""
    import httpx

    try:
        return api.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def set_up_cluster(api: httpx.Client) -> None:
    """Objects of no environment: roles, custom resources of Argo Rollouts, the ingress class."""
    for path, body in (*_cluster_objects(), *admission.objects()):
        apply(api, path, body)
    _set_up_custom_resources(api)


def _set_up_custom_resources(api: httpx.Client) -> None:
    """Apply those of Argo Rollouts, half a second's work, only if this cluster was not given these very ones before."""
    definitions = dict(rollouts.custom_resources())
    digest = hashlib.sha256(json.dumps(definitions, sort_keys=True).encode()).hexdigest()
    path = f"/api/v1/namespaces/kube-system/configmaps/{CUSTOM_RESOURCES}"
    applied = api.get(path)
    if applied.status_code == 200 and applied.json().get("data") == {"sha256": digest}:
        return
    for name, text in definitions.items():
        apply(api, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}", text)
    # A controller that starts before they are served waits half a minute before it asks again.
    deadline = time.monotonic() + 30
    while not _served(api, "argoproj.io/v1alpha1", len(definitions)):
        if time.monotonic() > deadline:
            raise ModelworksError("the API server does not serve the custom resources of Argo Rollouts")
        time.sleep(0.05)
    apply(api, path, _object("v1", "ConfigMap", CUSTOM_RESOURCES, data={"sha256": digest}))


def publish_metrics(api: httpx.Client, place: StateDir, ports: Mapping[str, int]) -> None:
    """Have the API server pass requests for metrics on to the node agent, which must run: else discovery fails."""
    authority = _authority(place.cluster / "pki", "ca").certificate.encode()
    spec = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "service": {"namespace": "kube-system", "name": METRICS, "port": ports["agent"]},
        "caBundle": base64.b64encode(authority).decode(),
    }
    # The API server follows an external name wherever it leads; it would refuse a loopback address as an endpoint.
    service = _object("v1", "Service", METRICS, spec={"type": "ExternalName", "externalName": "127.0.0.1"})
    apply(api, f"/api/v1/namespaces/kube-system/services/{METRICS}", service)
    name = "v1beta1.metrics.k8s.io"
    body = _object("apiregistration.k8s.io/v1", "APIService", name, spec=spec)
    apply(api, f"/apis/apiregistration.k8s.io/v1/apiservices/{name}", body)


def wait_for_ownership(api: httpx.Client) -> None:
    """Wait until environments are kept apart: a namespace that is made before that would be nobody's.

    Raises:
        ModelworksError: They are not in time.
    """
    deadline = time.monotonic() + 30
    while not admission.in_force(api):
        if time.monotonic() > deadline:
            raise ModelworksError("the API server does not keep environments apart: its admission policies do not act")
        time.sleep(0.05)


def _served(api: httpx.Client, group: str, kinds: int) -> bool:
    answer = api.get(f"/apis/{group}")
    return answer.status_code == 200 and sum("/" not in found["name"] for found in answer.json()["resources"]) >= kinds


def set_up_environment(api: httpx.Client, environment: str) -> None:
    """Permissions of an environment's user and its rollouts controller.

    Both reach further than it looks: admission keeps the user's changes to what its environment made (see
    `admission`), and the controller is started for one namespace, which need not be there yet.
    """
    for role, user in (
        ("environment", environment_user(environment)),
        ("rollouts", rollouts_user(environment)),
    ):
        name = f"modelworks:{role}:{environment}"
        apply(
            api,
            f"{_RBAC}/clusterrolebindings/{name}",
            _binding(name, f"modelworks:{role}", user),
        )


def environment_user(environment: str) -> str:
    """The user that an environment's programs and kubectl are."""
    return f"modelworks:environment:{environment}"


def rollouts_user(environment: str) -> str:
    """The user that an environment's rollouts controller is."""
    return f"modelworks:rollouts:{environment}"


_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_BINDINGS = (
    ("modelworks:agent", "modelworks:agent", f"system:node:{NODE}"),
    ("modelworks:gateway", "modelworks:gateway", "modelworks:gateway"),
    ("modelworks:kubelet-client", "system:kubelet-api-admin", "kube-apiserver-kubelet-client"),
)
"""Names of cluster role bindings, each with its role and its user."""


def _cluster_objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """The path of each object, and what to apply there."""
    for name, rules in ROLES.items():
        yield f"{_RBAC}/clusterroles/{name}", _role(name, rules)
    for name, role, user in _BINDINGS:
        yield f"{_RBAC}/clusterrolebindings/{name}", _binding(name, role, user)
    ingress_class = _object(
        "networking.k8s.io/v1", "IngressClass", "alb", spec={"controller": "modelworks.dev/gateway"}
    )
    yield "/apis/networking.k8s.io/v1/ingressclasses/alb", ingress_class


def _role(name: str, rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return _object("rbac.authorization.k8s.io/v1", "ClusterRole", name, rules=list(rules))


def _object(version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


def _binding(name: str, role: str, user: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return _object(
        f"{group}/v1",
        "ClusterRoleBinding",
        name,
        roleRef={"apiGroup": group, "kind": "ClusterRole", "name": role},
        subjects=[{"apiGroup": group, "kind": "User", "name": user}],
    )


def _authority(folder: Path, name: str) -> pki.Pair:
    return pki.Pair.read(folder, name) or pki.new_authority(f"modelworks-laptop-{name}").write(folder, name)


def _pair(
    folder: Path,
    name: str,
    authority: pki.Pair,
    subject: str,
    *,
    groups: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (),
) -> None:
    if pki.Pair.read(folder, name) is None:
        pki.issue(authority, subject, groups=groups, hosts=hosts).write(folder, name)


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code} {answer.text[:200]}"
