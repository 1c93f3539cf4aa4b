"""Every component with the fewest arguments it takes, and all kinds of arguments that there are."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from types import NoneType
from typing import Any

import pulumi

import modelworks
from mocks import ACCOUNT

_GROUND = {
    "account_id": ACCOUNT,
    "oidc_issuer": "oidc.example/id",
    "key_arn": f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/k",
    "namespace": "modelworks-dev",
    "image": "registry.example/image@sha256:" + "0" * 64,
}
_STORE = {name: _GROUND[name] for name in ("account_id", "oidc_issuer", "key_arn")}
_WATCHED = {"environment": "dev", "alerts_topic_arn": f"arn:aws:sns:eu-central-1:{ACCOUNT}:alerts"}

SMALLEST: dict[str, dict[str, Any]] = {
    "Cluster": {"account_id": ACCOUNT, "administrators": [f"arn:aws:iam::{ACCOUNT}:user/somebody"]},
    "ClusterAddons": _STORE,
    "Environment": {"account_id": ACCOUNT},
    "FeatureStore": {**_STORE, **_WATCHED},
    "ModelEndpoint": {**_GROUND, **_WATCHED, "bundle_bucket": "store", "host": "churn.example.com"},
    "ModelRegistry": {**_GROUND, "host": "registry.example.com", "admin_password": "correct horse"},
    "PredictionStore": {name: _GROUND[name] for name in ("account_id", "key_arn")},
    "TrainingCompute": {**_GROUND, **_WATCHED, "artifact_bucket": "artifacts"},
}
"""Required arguments by component: a new component gets a line here, and with it the tests that all of them pass."""
ADDITIONS = {
    "extended_resources": {"nvidia.com/gpu": 1},
    "node_selector": {"karpenter.sh/nodepool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "image_pull_secrets": ["registry-login"],
    "labels": {"team": "pricing"},
    "annotations": {"example.com/scrape": "yes"},
    "scratch_mib": 8192,
}
"""Of a pod, one of each."""
PERMISSIONS = [{"actions": ["s3:GetObject"], "resources": ["arn:aws:s3:::raw-data/*"]}]
EGRESS = [{"cidr": "10.0.0.0/8", "ports": [5432]}]
INGRESS = {
    "certificate_arn": f"arn:aws:acm:eu-central-1:{ACCOUNT}:certificate/c",
    "group": "modelworks-dev",
    "tags": {"owner": "growth", "cost-centre": "4711"},
}
FULLEST: dict[str, dict[str, Any]] = {
    "Cluster": {
        "viewers": [f"arn:aws:iam::{ACCOUNT}:role/preview"],
        "public_access_cidrs": ["203.0.113.0/24"],
        "profile": "dev",
        "role_arn": f"arn:aws:iam::{ACCOUNT}:role/deploy",
        "availability_zones": ["eu-central-1a", "eu-central-1b"],
        "nat_per_zone": True,
    },
    "ClusterAddons": {
        "auto_mode": True,
        "storage_class": "modelworks-dev-encrypted",
        "default_storage_class": True,
        "install_ingress_class": True,
        "install_argo_rollouts": True,
        "enforce_network_policies": True,
    },
    "Environment": {
        "alert_emails": ["a@example.com"],
        "budget": {"monthly_usd": 5},
        "namespace": "modelworks-dev",
        "encrypts_volumes": True,
    },
    "FeatureStore": {
        "views": [{"name": "weather", "columns": {"origin": "string"}, "path": "weather"}],
        "readers": ["modelworks-dev/churn"],
        "materialization": {name: _GROUND[name] for name in ("namespace", "image")},
    },
    "ModelEndpoint": {
        "feature_api": {
            "url": "https://acme.tecton.ai",
            "key_secret_arn": f"arn:aws:secretsmanager:eu-central-1:{ACCOUNT}:secret:k",
        },
        "release": {"digest": "sha256:" + "ab" * 32, "version": 12},
        "tokens": "t0ken",
        "grpc": True,
        "trusted_keys": {"release.pem": "-----BEGIN PUBLIC KEY-----"},
        "prediction_bucket": "predictions",
        "feature_tables": {"weather": f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/features.weather"},
        "ingress": {**INGRESS, "visibility": "public"},
        "pod": ADDITIONS,
        "permissions": PERMISSIONS,
        "egress": EGRESS,
    },
    "ModelRegistry": {
        "pod": ADDITIONS,
        "permissions": PERMISSIONS,
        "egress": EGRESS,
        "ingress": INGRESS,
        "alerts_topic_arn": _WATCHED["alerts_topic_arn"],
    },
    "PredictionStore": {},
    "TrainingCompute": {"pod": ADDITIONS, "permissions": PERMISSIONS, "egress": EGRESS},
}
"""What makes each component declare all that it can."""

COMPONENTS = [
    item
    for name in modelworks.__all__
    if inspect.isclass(item := getattr(modelworks, name)) and issubclass(item, pulumi.ComponentResource)
]


def kind_of_arguments(component: type) -> Any:
    """The `TypedDict` of a component's arguments."""
    return inspect.get_annotations(component.__init__)["args"]


def kinds_of_arguments() -> dict[str, Any]:
    """Every `TypedDict` of arguments, nested ones included, by its name."""
    return {kind.__name__: kind for component in COMPONENTS for kind in _with_nested(kind_of_arguments(component))}


def _with_nested(kind: Any) -> Iterator[Any]:
    yield kind
    for hint in hints_of(kind).values():
        for item in typing.get_args(hint) or (hint,):
            if typing.is_typeddict(item):
                yield from _with_nested(item)


def hints_of(kind: Any) -> dict[str, Any]:
    """Type of each argument, without the mark that it may be missing."""
    return typing.get_type_hints(kind, localns={"Output": pulumi.Output, "T": Any})


def takes_outputs(hint: Any) -> bool:
    return any(typing.get_origin(item) is pulumi.Output for item in typing.get_args(hint))


def may_be_none(hint: Any) -> bool:
    return NoneType in typing.get_args(hint)
