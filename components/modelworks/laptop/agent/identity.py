"""The identity of a pod in AWS, as the webhook of EKS injects it: the token of its service account, for one role.

Source: https://github.com/aws/amazon-eks-pod-identity-webhook (README, "EKS Walkthrough").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Object = dict[str, Any]

ROLE: Final = "eks.amazonaws.com/role-arn"
"""The annotation of a service account that names its role."""
OF_THE_NETWORK: Final = ("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED")
"""Variables by which a pod finds the laptop's AWS at all: on AWS, DNS and the metadata service are there for that."""
_VOLUME: Final = "aws-iam-token"
_FOLDER: Final = "/var/run/secrets/eks.amazonaws.com/serviceaccount"
_AUDIENCE: Final = "sts.amazonaws.com"
_SECONDS: Final = 86_400


def admitted(pod: Object, account: Object, region: str) -> Object:
    """The pod with the volume, mounts and variables that the webhook adds; as it is without a role.

    Args:
        pod: The pod.
        account: Its service account.
        region: Of the environment.
    """
    role = (account["metadata"].get("annotations") or {}).get(ROLE)
    spec = pod["spec"]
    volumes = spec.get("volumes") or []
    if not role or any(volume["name"] == _VOLUME for volume in volumes):
        return pod
    token = {"audience": _AUDIENCE, "expirationSeconds": _SECONDS, "path": "token"}
    volume = {"name": _VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}
    added = {
        "AWS_STS_REGIONAL_ENDPOINTS": "regional",
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_ROLE_ARN": role,
        "AWS_WEB_IDENTITY_TOKEN_FILE": f"{_FOLDER}/token",
    }
    kinds = {kind: [_with(each, added) for each in spec[kind]] for kind in ("initContainers", "containers")
             if spec.get(kind)}  # fmt: skip
    return {**pod, "spec": {**spec, **kinds, "volumes": [*volumes, volume]}}


def _with(container: Mapping[str, Any], added: Mapping[str, str]) -> dict[str, Any]:
    """A container with variables that it does not state itself, and the token."""
    env = container.get("env") or []
    stated = {entry["name"] for entry in env}
    mounts = container.get("volumeMounts") or []
    return {
        **container,
        "env": [*env, *({"name": name, "value": value} for name, value in added.items() if name not in stated)],
        "volumeMounts": [*mounts, {"name": _VOLUME, "mountPath": _FOLDER, "readOnly": True}],
    }
