"""Private and pure: the rules for what is added to pods, roles and networks, in settings and in arguments alike.

Each function raises ValueError with the rule and the value. The cluster or AWS would refuse the same, later and in the
middle of an update.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

TOLERATION_OPERATORS = ("Equal", "Exists")
TOLERATION_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TAKEN = (
    "app.kubernetes.io/",
    "batch.kubernetes.io/",
    "modelworks.dev/",
    "controller-uid",
    "job-name",
    "pod-template-hash",
    "rollouts-pod-template-hash",
)
"""Beginnings of keys by which we, Kubernetes and Argo find pods."""
_DNS = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"({_DNS}/)?{_NAME}")
_DEVICE = re.compile(rf"{_DNS}/{_NAME}")
_LABEL = re.compile(rf"({_NAME})?")
_SECRET = re.compile(_DNS)
_FILE = re.compile(r"[A-Za-z0-9._-]{1,253}")
_GROUP = re.compile(r"([a-z0-9][a-z0-9.-]{0,61})?[a-z0-9]")
_TAG_NAME = re.compile(r"(?!aws:)[\w.:/+@-][\w .:/+@-]{0,127}")
_TAG_VALUE = re.compile(r"[\w .:/=+@-]{0,256}")
_MOST_PROBES = 50
"""Per second: beyond it, they would be a load test."""
_ACTION = re.compile(r"[a-z0-9-]+:[A-Za-z0-9]+\*?")


def key(text: str) -> str:
    """The key of a label or an annotation, as Kubernetes takes it."""
    if not _KEY.fullmatch(text) or len(text.partition("/")[0]) > 253:
        raise ValueError(f"must be a key such as team or example.com/team, got {text!r}")
    return text


def own_key(text: str) -> str:
    """A key that is free."""
    if key(text).startswith(_TAKEN):
        raise ValueError(f"{text!r} is a key by which pods are found, and set for them")
    return text


def label_value(text: str) -> str:
    """The value of a label."""
    if not _LABEL.fullmatch(text):
        raise ValueError(
            f"must be at most 63 letters, digits, '-', '_' and '.', with a letter or a digit at its ends, got {text!r}"
        )
    return text


def device(text: str) -> str:
    """A resource that a device plugin offers. CPU and memory have arguments of their own."""
    if not _DEVICE.fullmatch(text) or text.startswith(("kubernetes.io/", "requests.")):
        raise ValueError(f"must be the resource of a device, such as nvidia.com/gpu, got {text!r}")
    return text


def secret_name(text: str) -> str:
    """The name of a Secret."""
    if not _SECRET.fullmatch(text) or len(text) > 253:
        raise ValueError(f"must be the name of a Secret, got {text!r}")
    return text


def file_name(text: str) -> str:
    """The name of a file in a ConfigMap."""
    if not _FILE.fullmatch(text) or text.startswith("..") or text == ".":
        raise ValueError(f"must be the name of a file: letters, digits, '-', '_' and '.', got {text!r}")
    return text


def toleration(each: Mapping[str, Any]) -> None:
    """A toleration that the API server takes."""
    if each["operator"] not in TOLERATION_OPERATORS:
        raise ValueError(f"operator must be {' or '.join(TOLERATION_OPERATORS)}, got {each['operator']!r}")
    if each["effect"] not in (None, *TOLERATION_EFFECTS):
        raise ValueError(f"effect must be one of {', '.join(TOLERATION_EFFECTS)}, got {each['effect']!r}")
    if each["operator"] == "Exists" and each["value"] is not None:
        raise ValueError(f"operator Exists takes no value, got {each['value']!r}")
    if each["operator"] == "Equal" and each["key"] is None:
        raise ValueError("operator Equal needs a key; to tolerate every taint, state operator Exists alone")
    if each["key"] is not None:
        key(each["key"])
    if each["value"] is not None:
        label_value(each["value"])


def group_name(text: str) -> str:
    """The name of an IngressGroup, as the AWS Load Balancer Controller takes it."""
    if not _GROUP.fullmatch(text):
        raise ValueError(
            f"must be at most 63 lower-case letters, digits, '-' and '.', with no '-' or '.' at its ends, got {text!r}"
        )
    return text


def tag(pair: tuple[str, str]) -> None:
    """A tag that an annotation can hold: name and value separated by `=`, tags by commas."""
    name, value = pair
    if not _TAG_NAME.fullmatch(name) or not _TAG_VALUE.fullmatch(value):
        raise ValueError(
            f"must have letters, digits, blanks and . : / + - @ _ alone (= in values too), got {name}={value}"
        )


def network(text: str) -> str:
    """A network, such as `10.0.0.0/8`."""
    ipaddress.ip_network(text)
    return text


def egress(each: Mapping[str, Any]) -> None:
    """A way out that leads somewhere: without ports, Kubernetes would open all of them."""
    if not each["ports"]:
        raise ValueError(f"ports must name one at least for {each['cidr']}, got none")


def action(text: str) -> str:
    """An action of IAM, which names at least the beginning of what it allows."""
    if not _ACTION.fullmatch(text):
        raise ValueError(f"must be named one by one, such as s3:GetObject, got {text!r}")
    return text


def resource(text: str) -> str:
    """The ARN of what an action is allowed on."""
    if not text.startswith("arn:"):
        raise ValueError(f"must be an ARN, got {text!r}")
    return text


def permission(each: Mapping[str, Any]) -> None:
    """A permission that allows something, and on something."""
    for name in ("actions", "resources"):
        if not each[name]:
            raise ValueError(f"{name} must name one at least, got none")


def backup(hours: int | None, days: int) -> None:
    """Dumps of which one is there at all times: one is kept until the one after the next is made, or longer."""
    if hours is not None and days * 24 < 2 * hours:
        raise ValueError(f"backup_days must last for two dumps, {2 * hours} hours, got {days}")


def probes_per_second(minimum_requests: int, step_seconds: int) -> float:
    """Probes that make the evidence of a canary's step within a quarter of it.

    The other three quarters are for a Job that starts, pods that publish, and CloudWatch, which may take two minutes to
    show a new series: of the shortest step off the laptop, 180 s, 135 s are left.
    """
    found = 4 * minimum_requests / step_seconds
    if found > _MOST_PROBES:
        raise ValueError(
            f"probes would be {found:g} requests per second (4 * minimum_requests / step_seconds), and {_MOST_PROBES} "
            "is the most: state fewer minimum_requests, or longer steps"
        )
    return found
