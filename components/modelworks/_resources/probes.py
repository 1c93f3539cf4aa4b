"""Private: probes of a canary: a Job of its analysis that sends it the example of its own bundle."""

from collections.abc import Sequence
from typing import Any

import pulumi

from modelworks import contract
from modelworks._manifests import RESTRICTED_CONTAINER, cores, mebibytes, with_additions
from modelworks._resources.kubernetes import KubernetesComponent, Manifest, labels, selector
from modelworks._resources.network import SERVICE_PORT, network_policy
from modelworks._resources.pod import PodArgs, restricted_pod
from modelworks._resources.serving_pod import Files

_PART = "probes"
_MEMORY_MIB = 128
_GRACE_SECONDS = 5
"""Seconds that probes have to end after SIGTERM: nothing of them is worth more."""


def probe_metric(
    component: KubernetesComponent,
    *,
    image: pulumi.Input[str],
    services: Sequence[pulumi.Input[str]],
    files: Sequence[Files],
    per_second: float,
    within_seconds: int,
    additions: PodArgs,
) -> Manifest:
    """A metric of an `AnalysisTemplate`: a Job that runs as long as its analysis does, and fails it if it fails.

    Its pod is nobody to AWS: it reads the example where everyone does, in the release's own documentation.

    Args:
        component: The endpoint.
        image: The runtime's, by digest.
        services: Names of the Services that take turns at being the canary's.
        files: The bearer tokens, if the endpoint needs one.
        per_second: Examples to send per second.
        within_seconds: How long the release may take to answer.
        additions: The environment's additions to the endpoint's pods. Devices are the model's alone.
    """
    arguments: list[pulumi.Input[str]] = [
        "--release={{args.version}}",
        f"--per-second={per_second:g}",
        f"--within-seconds={within_seconds}",
        *(pulumi.Output.concat("http://", service, f":{SERVICE_PORT}") for service in services),
    ]
    metadata = {"labels": labels(component.pulumi_resource_name, _PART)}
    template = {
        "metadata": metadata,
        "spec": restricted_pod(
            "default",
            container=_container(image, arguments, files),
            volumes=[{"name": item.name, **item.volume} for item in files],
            restartPolicy="Never",
            enableServiceLinks=False,
            terminationGracePeriodSeconds=_GRACE_SECONDS,
        ),
    }
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    job = {
        "backoffLimit": 1,
        "podFailurePolicy": {"rules": [disrupted]},
        "template": with_additions(template, {**additions, "extended_resources": {}}),
    }
    return {"name": _PART, "failureLimit": 0, "provider": {"job": {"metadata": metadata, "spec": job}}}


def _container(
    image: pulumi.Input[str], arguments: Sequence[pulumi.Input[str]], files: Sequence[Files]
) -> dict[str, Any]:
    return {
        "name": "probe",
        "image": image,
        "command": ["python", "-m", "modelworks.runtime.probe"],
        "args": arguments,
        "env": [{"name": item.variable, "value": item.path} for item in files],
        "resources": {
            "requests": {"cpu": cores(50), "memory": mebibytes(_MEMORY_MIB)},
            "limits": {"cpu": cores(500), "memory": mebibytes(_MEMORY_MIB)},
        },
        # Why probes failed is in the last line that they wrote: it becomes part of the pod's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": item.name, "mountPath": item.folder, "readOnly": True} for item in files],
    }


def probe_network_policy(component: KubernetesComponent) -> Manifest:
    """Network access of the probes of an endpoint: out to name servers and to the endpoint's pods, and nothing in."""
    policy = network_policy(selector(component.pulumi_resource_name, _PART), out=(), port=None)
    pods = [{"podSelector": {"matchLabels": component.selector}}]
    # Kubernetes leaves open whether the port of the Service is compared, or that of its pods. Calico takes that of the
    # pods, and so does the VPC CNI for a Service that selects by the labels of the rule.
    ports = [{"port": port, "protocol": "TCP"} for port in (SERVICE_PORT, contract.DEFAULT_PORT)]
    names = policy["egress"][0]
    return {**policy, "egress": [names, {"to": pods, "ports": ports}]}
