"""The flags of the control plane's programs.

Names in braces differ between places: ports by their names in `laptop.json`, and the folders `{pki}` and
`{cluster}`.
"""

from __future__ import annotations

from typing import Final

from modelworks.laptop import admission

_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
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
"""Controllers that workloads need. Not here: clouds, routes, attached disks, certificate requests, endpoint slices."""


def _serving(program: str) -> tuple[str, ...]:
    kubeconfig = f"{{cluster}}/{program}.kubeconfig"
    return (
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--client-ca-file={pki}/ca.crt",
        "--bind-address=127.0.0.1",
        f"--secure-port={{{program}}}",
        f"--tls-cert-file={{pki}}/{program}-server.crt",
        f"--tls-private-key-file={{pki}}/{program}-server.key",
        "--authentication-skip-lookup",  # the request headers it would look up belong to aggregated APIs
        "--leader-elect=false",
        "--profiling=false",
    )


ETCD: Final = (
    "--name=laptop",
    "--data-dir={cluster}/etcd",
    "--listen-client-urls=https://127.0.0.1:{etcd}",
    "--advertise-client-urls=https://127.0.0.1:{etcd}",
    "--listen-peer-urls=https://127.0.0.1:{etcd-peer}",
    "--initial-advertise-peer-urls=https://127.0.0.1:{etcd-peer}",
    "--initial-cluster=laptop=https://127.0.0.1:{etcd-peer}",
    "--trusted-ca-file={pki}/etcd-ca.crt",
    "--peer-trusted-ca-file={pki}/etcd-ca.crt",
    "--cert-file={pki}/etcd.crt",
    "--key-file={pki}/etcd.key",
    "--peer-cert-file={pki}/etcd.crt",
    "--peer-key-file={pki}/etcd.key",
    "--client-cert-auth",
    "--peer-client-cert-auth",
    # A killed etcd loses nothing by this, a laptop that loses power may: then it is declared anew from code.
    "--unsafe-no-fsync",
    "--auto-compaction-retention=10m",
    "--snapshot-count=5000",
    "--log-level=warn",
)
APISERVER: Final = (
    "--bind-address=127.0.0.1",
    "--advertise-address=127.0.0.1",
    "--secure-port={apiserver}",
    "--tls-cert-file={pki}/apiserver.crt",
    "--tls-private-key-file={pki}/apiserver.key",
    "--tls-min-version=VersionTLS12",
    "--client-ca-file={pki}/ca.crt",
    "--etcd-servers=https://127.0.0.1:{etcd}",
    "--etcd-cafile={pki}/etcd-ca.crt",
    "--etcd-certfile={pki}/etcd-client.crt",
    "--etcd-keyfile={pki}/etcd-client.key",
    "--anonymous-auth=false",
    "--authorization-config={cluster}/authorization.json",
    "--enable-admission-plugins=NodeRestriction,PodSecurity",
    *admission.FLAGS,
    "--service-account-issuer={issuer}",
    "--service-account-key-file={pki}/service-accounts.pub",
    "--service-account-signing-key-file={pki}/service-accounts.key",
    "--service-cluster-ip-range={service_network}",
    "--endpoint-reconciler-type=none",  # it would publish a loopback address, which the API refuses
    "--kubelet-certificate-authority={pki}/ca.crt",
    "--kubelet-client-certificate={pki}/kubelet-client.crt",
    "--kubelet-client-key={pki}/kubelet-client.key",
    # The node agent serves the metrics API too, and hears nobody else. It needs no names of users in headers, which
    # `--requestheader-client-ca-file` would be for: the API server checks what each may.
    "--proxy-client-cert-file={pki}/kubelet-client.crt",
    "--proxy-client-key-file={pki}/kubelet-client.key",
    "--kubelet-preferred-address-types=InternalIP,Hostname",
    "--enable-priority-and-fairness=false",  # one user; it costs start-up time and memory
    "--profiling=false",
    "--delete-collection-workers=1",
    "--event-ttl=1h",
)
CONTROLLER_MANAGER: Final = (
    *_serving("controller-manager"),
    "--use-service-account-credentials",
    "--service-account-private-key-file={pki}/service-accounts.key",
    "--root-ca-file={pki}/ca.crt",
    f"--controllers={','.join(_CONTROLLERS)}",
    "--node-monitor-grace-period=20s",
    "--node-monitor-period=2s",
    "--terminated-pod-gc-threshold=200",
    "--kube-api-qps=100",
    "--kube-api-burst=200",
)
SCHEDULER: Final = (
    *_serving("scheduler"),
    "--kube-api-qps=100",
    "--kube-api-burst=200",
)
