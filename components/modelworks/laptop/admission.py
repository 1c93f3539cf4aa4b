"""Which environment owns what in the cluster: namespaces, and kinds of its own, belong to the one that made them.

RBAC cannot express "the namespaces that this user made", nor "every kind but the cluster's own". The API server's own
admission policies can: one marks what an environment makes outside of any namespace, the other refuses an environment's
changes to what does not carry its mark. Admission does not cover reads: RBAC lets an environment read everything. Nor
does it cover the policies themselves, which Kubernetes exempts from admission: an authorizer denies changes to these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

LABEL = "modelworks.dev/environment"
"""On namespaces and other cluster-wide objects: the environment that made them."""

USERS = ("modelworks:environment:", "modelworks:rollouts:")
"""Users that end with the name of their environment."""

FLAGS = (
    # Beta in Kubernetes 1.35, and therefore off unless asked for.
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config="
    + ",".join(
        f"admissionregistration.k8s.io/v1beta1/mutatingadmission{kind}=true" for kind in ("policies", "policybindings")
    ),
)
"""The API server's configuration for it."""


def _of_environment(name: str) -> str:
    return " || ".join(f"{name}.startsWith('{user}')" for user in USERS)


_ENVIRONMENT = "request.userInfo.username.substring(request.userInfo.username.lastIndexOf(':') + 1)"
_ONLY_THEIRS = [{"name": "of-an-environment", "expression": _of_environment("request.userInfo.username")}]


def _mark(of: str) -> str:
    return f"{of}.metadata.?labels['{LABEL}'].orValue('')"


_EVERYTHING = {"apiGroups": ["*"], "apiVersions": ["*"]}


def authorizers(kubeconfig: Path) -> dict[str, Any]:
    """The API server's `AuthorizationConfiguration`: no environment may change the policies that keep them apart.

    RBAC cannot express an exception. An authorizer denies on its own if a condition of it fails to evaluate
    (Kubernetes, Authorization, `failurePolicy`), and the last one here always does: nothing is ever sent.

    Args:
        kubeconfig: Any that is there; the API server loads it.
    """
    refusal = "admission belongs to the laptop cloud itself"
    conditions = (
        _of_environment("request.user"),
        "has(request.resourceAttributes)",
        "request.resourceAttributes.group == 'admissionregistration.k8s.io'",
        "!(request.resourceAttributes.verb in ['get', 'list', 'watch'])",
        f"{{'': false}}['{refusal}']",
    )
    webhook = {
        "timeout": "3s",
        "subjectAccessReviewVersion": "v1",
        "matchConditionSubjectAccessReviewVersion": "v1",
        "authorizedTTL": "1s",
        "unauthorizedTTL": "1s",
        "failurePolicy": "Deny",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": str(kubeconfig)},
        "matchConditions": [{"expression": expression} for expression in conditions],
    }
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthorizationConfiguration",
        "authorizers": [
            {"type": "Webhook", "name": "admission", "webhook": webhook},
            {"type": "Node", "name": "node"},
            {"type": "RBAC", "name": "rbac"},
        ],
    }


_MARKING = {
    "matchConstraints": {
        "resourceRules": [{**_EVERYTHING, "operations": ["CREATE", "UPDATE"], "resources": ["*"], "scope": "Cluster"}]
    },
    # An update that leaves the label out keeps it; one that changes it is refused below.
    "matchConditions": [*_ONLY_THEIRS, {"name": "unmarked", "expression": f"{_mark('object')} == ''"}],
    "failurePolicy": "Fail",
    "reinvocationPolicy": "Never",
    "mutations": [
        {
            "patchType": "ApplyConfiguration",
            "applyConfiguration": {
                "expression": f"Object{{metadata: Object.metadata{{labels: {{'{LABEL}': {_ENVIRONMENT}}}}}}}"
            },
        }
    ],
}
"""Marks what an environment makes outside of any namespace."""

_KEEPING_APART = {
    "matchConstraints": {"resourceRules": [{**_EVERYTHING, "operations": ["*"], "resources": ["*/*"], "scope": "*"}]},
    "matchConditions": [
        *_ONLY_THEIRS,
        # Questions about one's own rights and name are objects to create, and change nothing.
        {
            "name": "changes",
            "expression": "!(request.resource.group in ['authorization.k8s.io', 'authentication.k8s.io'])",
        },
    ],
    "failurePolicy": "Fail",
    "variables": [
        {"name": "environment", "expression": _ENVIRONMENT},
        {
            "name": "wide",
            "expression": "request.resource.resource == 'namespaces' || !has(request.namespace)"
            " || request.namespace == ''",
        },
        {
            "name": "theirs_to_make",
            "expression": "request.resource.resource in ['namespaces', 'customresourcedefinitions', 'storageclasses']"
            " || (request.resource.group.contains('.') && !('.' + request.resource.group).endsWith('.k8s.io')"
            " && !request.resource.group.endsWith('.kubernetes.io'))",
        },
        {
            "name": "owner",
            "expression": f"variables.wide ? (oldObject != null ? {_mark('oldObject')} : {_mark('object')})"
            f" : {_mark('namespaceObject')}",
        },
    ],
    "validations": [
        {
            "expression": "variables.owner == variables.environment",
            "messageExpression": "(variables.wide ? request.resource.resource + ' ' + request.name"
            " : 'namespace ' + request.namespace) + (variables.owner == ''"
            " ? ' belongs to the laptop cloud itself' : ' belongs to the environment ' + variables.owner)"
            " + ', and not to ' + variables.environment + ': declare a namespace of its own'",
            "reason": "Forbidden",
        },
        {
            "expression": "!variables.wide || variables.theirs_to_make",
            "messageExpression": "request.resource.resource + ' are for the laptop cloud alone to change:'"
            " + ' outside of namespaces, an environment has these, and kinds of its own with their objects'",
            "reason": "Forbidden",
        },
        {
            "expression": f"!variables.wide || object == null || {_mark('object')} == variables.environment",
            "message": f"the label {LABEL} names the owner, and stays",
            "reason": "Forbidden",
        },
    ],
}
"""Refuses an environment's changes to what does not carry its mark."""


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """The path of each policy and binding, and what to apply there."""
    yield from _policy("Mutating", "v1beta1", _MARKING, {})
    yield from _policy("Validating", "v1", _KEEPING_APART, {"validationActions": ["Deny"]})


def in_force(api: httpx.Client) -> bool:
    """Whether the API server goes by it already: it takes up policies once a second. Tried, and nothing changed."""
    probe = {"metadata": {"name": "modelworks-probe"}}
    headers = {"Impersonate-User": f"{USERS[0]}probe", "Impersonate-Group": "system:masters"}
    dry = {"dryRun": "All"}
    # A master's rights, so that it is the policies that answer and not RBAC.
    made = api.post("/api/v1/namespaces", json=probe, params=dry, headers=headers)
    refused = api.post("/api/v1/namespaces/default/configmaps", json=probe, params=dry, headers=headers)
    return made.is_success and LABEL in made.json()["metadata"].get("labels", {}) and refused.status_code == 403


def _policy(
    kind: str, version: str, spec: dict[str, Any], binding: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    group = f"admissionregistration.k8s.io/{version}"
    name = f"modelworks-environments-{kind.lower()}"
    bound = {"policyName": name, **binding}
    for suffix, plural, body in (("Policy", "policies", spec), ("PolicyBinding", "policybindings", bound)):
        yield (
            f"/apis/{group}/{kind.lower()}admission{plural}/{name}",
            {"apiVersion": group, "kind": f"{kind}Admission{suffix}", "metadata": {"name": name}, "spec": body},
        )
