"""The real Kubernetes control plane of the laptop: who its parts are, how they are started, what they are allowed.

Nothing here starts a process: it writes keys and kubeconfigs, and says which programs `supervision` shall run.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop import admission, pki, rollouts
from modelworks.laptop.supervisor import Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import httpx

    from modelworks.laptop.state_dir import Place

NODE = "laptop"
"""The name of the one node."""

SERVICE_NETWORK = "240.77.0.0/16"
"""Cluster addresses of Services. Nothing routes them: it is a reserved block (RFC 1112, class E), so that an address
which means nothing on a laptop can never reach somebody else's machine. The gateway finds pods by selector instead."""

ISSUER = "https://kubernetes.default.svc.cluster.local"
"""The issuer of service-account tokens."""

CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "deployment-controller",
    "disruption-controller",
    "ephemeral-volume-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
)
"""What workloads rely on. Clouds, routes, attached disks, certificate requests and device claims do not exist here."""

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""What the control plane itself is made of."""

TOOLS = (*PROGRAMS, "kubectl", "rollouts-controller")
"""What the toolchain has to provide."""

NETWORK = "MODELWORKS_POD_NETWORK"
"""Tells other places of this user which pod network is taken, as long as the control plane runs."""

PORTS = ("etcd", "etcd-peer", "apiserver", "controller-manager", "scheduler", "agent")
"""The ports that the control plane listens on, as they are named in `laptop.json`."""


def prepare(place: Place, ports: Mapping[str, int]) -> None:
    """Write every key, certificate and kubeconfig of the control plane that is not there yet."""
    place.folder(place.cluster)
    folder = place.folder(place.cluster / "pki")
    place.folder(place.cluster / "etcd")
    authority = _authority(folder, "ca")
    etcd = _authority(folder, "etcd-ca")
    _pair(folder, "etcd", etcd, "etcd", hosts=("127.0.0.1", "localhost"))
    _pair(folder, "etcd-client", etcd, "kube-apiserver")
    service = SERVICE_NETWORK.replace(".0.0/16", ".0.1")
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    _pair(folder, "apiserver", authority, "kube-apiserver", hosts=("127.0.0.1", "localhost", service, *names))
    # The API server fetches logs from the node agent with this one, and the agent serves with the other.
    _pair(folder, "kubelet-client", authority, "kube-apiserver-kubelet-client")
    _pair(
        folder,
        "agent",
        authority,
        f"system:node:{NODE}",
        groups=("system:nodes",),
        hosts=("127.0.0.1", "localhost", NODE),
    )
    for server in ("controller-manager", "scheduler"):
        _pair(folder, f"{server}-server", authority, server, hosts=("127.0.0.1", "localhost"))
    if not (folder / "service-accounts.pub").exists():
        key = pki.new_key()
        write_whole(folder / "service-accounts.key", key)
        write_whole(folder / "service-accounts.pub", pki.public_key(key))
    for name, (user, groups) in _IDENTITIES.items():
        identity(place, ports, place.cluster / f"{name}.kubeconfig", user, groups)


_IDENTITIES = {
    "admin": ("modelworks:admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "agent": (f"system:node:{NODE}", ("system:nodes",)),
    "gateway": ("modelworks:gateway", ()),
}


def identity(
    place: Place,
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


def programs(place: Place, facts: Mapping[str, Any], tools: Mapping[str, Path]) -> list[Program]:
    """etcd, API server, controller manager and scheduler."""
    ports = facts["ports"]
    # Go's collector trades memory for CPU; the cluster is small, idle most of the time, and shares memory with models.
    environ = {"GOGC": "50", NETWORK: facts["pod_network"]}
    # Bounds its heap while it comes up; lower, and it would collect garbage all the time.
    lean = {**environ, "GOMEMLIMIT": "220MiB"}
    pki_folder = place.cluster / "pki"

    def kept(name: str) -> Path:
        return pki_folder / name

    etcd_url = f"https://127.0.0.1:{ports['etcd']}"
    peer_url = f"https://127.0.0.1:{ports['etcd-peer']}"
    trusted = [f"--trusted-ca-file={kept('etcd-ca.crt')}", f"--peer-trusted-ca-file={kept('etcd-ca.crt')}"]
    etcd: list[str | Path] = [
        tools["etcd"],
        "--name=laptop",
        f"--data-dir={place.cluster / 'etcd'}",
        f"--listen-client-urls={etcd_url}",
        f"--advertise-client-urls={etcd_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=laptop={peer_url}",
        *trusted,
        f"--cert-file={kept('etcd.crt')}",
        f"--key-file={kept('etcd.key')}",
        f"--peer-cert-file={kept('etcd.crt')}",
        f"--peer-key-file={kept('etcd.key')}",
        "--client-cert-auth",
        "--peer-client-cert-auth",
        # A killed etcd loses nothing by this, a laptop that loses power may: then it is declared anew from code.
        "--unsafe-no-fsync",
        "--auto-compaction-retention=10m",
        "--snapshot-count=5000",
        "--log-level=warn",
    ]
    apiserver: list[str | Path] = [
        tools["kube-apiserver"],
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={ports['apiserver']}",
        f"--tls-cert-file={kept('apiserver.crt')}",
        f"--tls-private-key-file={kept('apiserver.key')}",
        "--tls-min-version=VersionTLS12",
        f"--client-ca-file={kept('ca.crt')}",
        f"--etcd-servers={etcd_url}",
        f"--etcd-cafile={kept('etcd-ca.crt')}",
        f"--etcd-certfile={kept('etcd-client.crt')}",
        f"--etcd-keyfile={kept('etcd-client.key')}",
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,PodSecurity",
        *admission.FLAGS,
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={kept('service-accounts.pub')}",
        f"--service-account-signing-key-file={kept('service-accounts.key')}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--endpoint-reconciler-type=none",  # it would publish a loopback address, which the API refuses
        f"--kubelet-certificate-authority={kept('ca.crt')}",
        f"--kubelet-client-certificate={kept('kubelet-client.crt')}",
        f"--kubelet-client-key={kept('kubelet-client.key')}",
        "--kubelet-preferred-address-types=InternalIP,Hostname",
        "--enable-priority-and-fairness=false",  # one user; it costs start-up time and memory
        "--profiling=false",
        "--delete-collection-workers=1",
        "--event-ttl=1h",
    ]

    def serving(name: str, kubeconfig: Path) -> list[str]:
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--client-ca-file={kept('ca.crt')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={ports[name]}",
            f"--tls-cert-file={kept(f'{name}-server.crt')}",
            f"--tls-private-key-file={kept(f'{name}-server.key')}",
            "--authentication-skip-lookup",  # the request headers it would look up belong to aggregated APIs
            "--leader-elect=false",
            "--profiling=false",
        ]

    manager: list[str | Path] = [
        tools["kube-controller-manager"],
        *serving("controller-manager", place.cluster / "controller-manager.kubeconfig"),
        "--use-service-account-credentials",
        f"--service-account-private-key-file={kept('service-accounts.key')}",
        f"--root-ca-file={kept('ca.crt')}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--node-monitor-grace-period=20s",
        "--node-monitor-period=2s",
        "--terminated-pod-gc-threshold=200",
        "--kube-api-qps=100",
        "--kube-api-burst=200",
    ]
    scheduler: list[str | Path] = [
        tools["kube-scheduler"],
        *serving("scheduler", place.cluster / "scheduler.kubeconfig"),
        "--kube-api-qps=100",
        "--kube-api-burst=200",
    ]
    return [
        Program("etcd", etcd, environ),
        Program("apiserver", apiserver, lean),
        Program("controller-manager", manager, environ),
        Program("scheduler", scheduler, environ),
    ]


def client(place: Place, ports: Mapping[str, int], *, timeout: float = 30) -> httpx.Client:
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
    """What is no environment's: roles, custom resources of Argo Rollouts, the ingress class."""
    for kind, name, body in _cluster_objects():
        group = "networking.k8s.io/v1" if kind == "ingressclasses" else "rbac.authorization.k8s.io/v1"
        apply(api, f"/apis/{group}/{kind}/{name}", body)
    for path, body in admission.objects():
        apply(api, path, body)
    if not _served(api, "argoproj.io/v1alpha1", 5):
        for name, text in rollouts.custom_resources():
            apply(api, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}", text)
        # A controller that starts before they are served waits half a minute before it asks again.
        deadline = time.monotonic() + 30
        while not _served(api, "argoproj.io/v1alpha1", 5):
            if time.monotonic() > deadline:
                raise ModelworksError("the API server does not serve the custom resources of Argo Rollouts")
            time.sleep(0.05)


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
    """What an environment's user and its rollouts controller may do.

    Both reach further than it looks: admission keeps their changes to what the environment made (see `admission`), and
    the controller is started for one namespace, which need not be there yet.
    """
    for role, user in (
        ("environment", environment_user(environment)),
        ("rollouts", rollouts_user(environment)),
    ):
        name = f"modelworks:{role}:{environment}"
        apply(
            api,
            f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}",
            _binding(name, f"modelworks:{role}", user),
        )


def environment_user(environment: str) -> str:
    """The user that an environment's programs and kubectl are."""
    return f"modelworks:environment:{environment}"


def rollouts_user(environment: str) -> str:
    """The user that an environment's rollouts controller is."""
    return f"modelworks:rollouts:{environment}"


_READ = ["get", "list", "watch"]
_CHANGE = [*_READ, "create", "update", "patch", "delete"]


def _cluster_objects() -> Iterator[tuple[str, str, dict[str, Any]]]:
    roles = {
        # Beyond what the API server grants any node: claims are bound to local folders by the agent itself.
        "modelworks:agent": [
            _rule([""], ["namespaces"], ["get"]),  # whose pods these are
            _rule([""], ["persistentvolumes"], _CHANGE),
            _rule([""], ["persistentvolumeclaims"], _READ),
            _rule([""], ["persistentvolumeclaims/status"], ["update", "patch"]),
            _rule(["storage.k8s.io"], ["storageclasses"], _CHANGE),
        ],
        "modelworks:gateway": [
            _rule([""], ["services", "pods"], _READ),
            _rule(["networking.k8s.io"], ["ingresses", "ingressclasses"], _READ),
            _rule(["networking.k8s.io"], ["ingresses/status"], ["update", "patch"]),
            _rule([""], ["services/status"], ["update", "patch"]),
            _rule([""], ["endpoints"], ["create", "patch"]),
            _rule([""], ["events"], ["create", "patch"]),
        ],
        # The rights that Argo Rollouts documents for its controller, without the routers that are not here.
        "modelworks:rollouts": [
            _rule(["argoproj.io"], ["rollouts", "rollouts/status", "rollouts/finalizers"], [*_READ, "update", "patch"]),
            _rule(
                ["argoproj.io"],
                ["analysisruns", "analysisruns/finalizers", "experiments", "experiments/finalizers"],
                _CHANGE,
            ),
            _rule(["argoproj.io"], ["analysistemplates", "clusteranalysistemplates"], _READ),
            _rule(["apps"], ["replicasets"], _CHANGE),
            _rule(["", "apps"], ["deployments", "podtemplates"], [*_READ, "update"]),
            _rule([""], ["services"], [*_READ, "create", "patch", "delete"]),
            _rule([""], ["secrets", "configmaps"], _READ),
            _rule([""], ["pods"], ["list", "watch", "update"]),
            _rule([""], ["pods/eviction"], ["create"]),
            _rule([""], ["events"], ["create", "update", "patch"]),
            _rule(["networking.k8s.io"], ["ingresses"], [*_READ, "create", "update", "patch"]),
            _rule(["batch"], ["jobs"], [*_READ, "create", "update", "patch", "delete"]),
        ],
        # Rights in single namespaces would come a moment after these, and a program that goes on at once be refused.
        # The verbs are named: `*` would let it impersonate the administrator, to whom no admission policy applies.
        "modelworks:environment": [_rule(["*"], ["*"], [*_CHANGE, "deletecollection"])],
    }
    for name, rules in roles.items():
        yield "clusterroles", name, _object("rbac.authorization.k8s.io/v1", "ClusterRole", name, rules=rules)
    for name, user in (("modelworks:agent", f"system:node:{NODE}"), ("modelworks:gateway", "modelworks:gateway")):
        yield "clusterrolebindings", name, _binding(name, name, user)
    yield (
        "clusterrolebindings",
        "modelworks:kubelet-client",
        _binding("modelworks:kubelet-client", "system:kubelet-api-admin", "kube-apiserver-kubelet-client"),
    )
    yield (
        "ingressclasses",
        "alb",
        _object("networking.k8s.io/v1", "IngressClass", "alb", spec={"controller": "modelworks.dev/gateway"}),
    )


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> dict[str, list[str]]:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


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
