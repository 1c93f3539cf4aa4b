"""The cluster roles of the laptop: what the node agent, the gateway, rollouts controllers and environments may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Rule = dict[str, Any]


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> Rule:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


_READ = ["get", "list", "watch"]
_CHANGE = [*_READ, "create", "update", "patch", "delete"]

ROLES: Final[Mapping[str, Sequence[Rule]]] = {
    # Beyond what the API server grants any node: claims are bound to local folders by the agent itself.
    "modelworks:agent": [
        _rule([""], ["namespaces"], _READ),  # whose pods these are
        _rule(["networking.k8s.io"], ["networkpolicies"], _READ),
        _rule([""], ["serviceaccounts"], ["get"]),  # whose role in AWS they have
        _rule([""], ["secrets", "configmaps"], _READ),  # at once: the kubelet follows those of its pods one by one
        # An audience that the pod's own specification does not name: EKS's webhook would have written it there.
        _rule([""], ["sts.amazonaws.com"], ["request-serviceaccounts-token-audience"]),
        _rule([""], ["persistentvolumes"], _CHANGE),
        _rule([""], ["persistentvolumeclaims"], _READ),
        _rule([""], ["persistentvolumeclaims/status"], ["update", "patch"]),
        _rule(["storage.k8s.io"], ["storageclasses"], _CHANGE),
    ],
    "modelworks:gateway": [
        _rule([""], ["namespaces", "services", "pods"], _READ),
        _rule(["networking.k8s.io"], ["ingresses", "ingressclasses", "networkpolicies"], _READ),
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
    # Admission keeps its changes to what it made (see `admission`). Rights in single namespaces could only follow
    # these, and a program that uses a namespace at once would be refused.
    # The verbs are listed: `*` would include `impersonate`, and no admission policy applies to the administrator.
    "modelworks:environment": [_rule(["*"], ["*"], [*_CHANGE, "deletecollection"])],
}
"""The rules of each role, by its name."""
