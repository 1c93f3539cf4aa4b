"""Private: the uptime check of a host: a pod that requests it as clients do, and the alarm on what it publishes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from modelworks._manifests import RESTRICTED_CONTAINER, cores, mebibytes, with_additions
from modelworks._resources.alarm import paging_alarm
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject, labels, selector
from modelworks._resources.network import AT_ONCE, IngressArgs, network_policy, url
from modelworks._resources.pod import PodArgs, restricted_pod
from modelworks._resources.pod_identity import PodIdentity
from modelworks.alarms import cloudwatch_alarm, uptime_alarm

_PART = "uptime"
_MEMORY_MIB = 96
"""Twice what it uses."""
_GRACE_SECONDS = 5
"""Seconds that a check has to end after SIGTERM: the next one continues."""


@dataclass(frozen=True)
class Uptime:
    """Whether clients are answered, watched from within the cluster."""

    deployment: KubernetesObject
    network_policy: KubernetesObject
    alarm: aws.cloudwatch.MetricAlarm


def uptime(
    component: KubernetesComponent,
    *,
    host: pulumi.Input[str],
    ingress: IngressArgs,
    path: str,
    image: pulumi.Input[str],
    identity: PodIdentity,
    namespace: str,
    dimensions: Mapping[str, pulumi.Input[str]],
    period_seconds: int,
    topic: pulumi.Input[str],
    additions: PodArgs,
) -> Uptime:
    """Declare the uptime check of a host.

    Args:
        component: Whose host it is.
        host: The host.
        ingress: The load balancer before it.
        path: Of a page that needs no token.
        image: Of the component's own pods, by digest.
        identity: Theirs: it may publish in `namespace`.
        namespace: Of CloudWatch.
        dimensions: Of the metric.
        period_seconds: Length of one datapoint, and the time between two requests.
        topic: ARN of the alerts topic.
        additions: The environment's additions to the component's pods. Devices are for those alone.
    """
    name = component.pulumi_resource_name
    order: list[pulumi.Input[str]] = [
        f"--every-seconds={period_seconds}",
        f"--namespace={namespace}",
        *(pulumi.Output.concat(f"--dimension={key}=", value) for key, value in dimensions.items()),
        pulumi.Output.concat(url(ingress, host), path),
    ]
    pods = selector(name, _PART)
    template = {"metadata": {"labels": labels(name, _PART)}, "spec": _pod(identity.account.name, image, order)}
    deployment = component.object(
        "apps/v1",
        "Deployment",
        _PART,
        annotations=AT_ONCE,  # one that does not start is what the alarm is for
        after=[identity.policy],
        spec={
            "replicas": 1,
            "selector": {"matchLabels": pods},
            "template": with_additions(template, {**additions, "extended_resources": {}}),
        },
    )
    # A load balancer has no labels, and its addresses change: the port is what can be stated.
    ports = [443] if ingress["certificate_arn"] else [80, 443]
    policy = component.object(
        "networking.k8s.io/v1", "NetworkPolicy", _PART, spec=network_policy(pods, out=ports, port=None)
    )
    alarm = uptime_alarm(namespace, period_seconds)
    page = paging_alarm(
        component.child_name(alarm.name),
        parent=component,
        topic=topic,
        **cloudwatch_alarm(alarm, dimensions),
    )
    return Uptime(deployment, policy, page)


def _pod(account: pulumi.Input[str], image: pulumi.Input[str], order: list[pulumi.Input[str]]) -> dict[str, Any]:
    container = {
        "name": _PART,
        "image": image,
        "command": ["python", "-m", "modelworks.runtime.uptime"],
        "args": order,
        "resources": {
            "requests": {"cpu": cores(10), "memory": mebibytes(_MEMORY_MIB)},
            "limits": {"cpu": cores(500), "memory": mebibytes(_MEMORY_MIB)},
        },
        "securityContext": RESTRICTED_CONTAINER,
    }
    return restricted_pod(
        account,
        container=container,
        volumes=[],
        enableServiceLinks=False,
        terminationGracePeriodSeconds=_GRACE_SECONDS,
    )
