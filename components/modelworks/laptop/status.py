"""How a laptop cloud is doing: processes, endpoints, environments, and what it does not do as a cloud would."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import psutil

from modelworks.errors import ModelworksError
from modelworks.laptop import aws, environments, pod_network, supervisor, toolchain
from modelworks.laptop.agent import traffic
from modelworks.laptop.gateway import addresses
from modelworks.laptop.providers.aws import RECORDED_NOT_EMULATED
from modelworks.laptop.state_dir import read_facts

if TYPE_CHECKING:
    from modelworks.laptop.state_dir import StateDir

NOT_ENFORCED = (
    "the user that a container runs as: every process is yours",
    "capabilities, seccomp, and a read-only root file system: what is written there ends with the container",
    "limits of cpu and sizes of volumes: those of memory hold where the kernel lets the node make control groups",
    "reads by environment: each may read all objects, Secrets included; only changes are kept apart",
    "network policies: every process reaches every port of this machine",
)
"""Rules that the real API server checks and stores, and the node agent does not enforce."""

KINDER = (
    "services that act by themselves (alarms, budgets, lifecycle rules): their rights are not checked",
    "the owner's keys, of the engine and your shell: they may do everything, and no policy applies to them",
    "the controller of Argo Rollouts: it reads metrics with the owner's keys",
    "sessions of roles: they do not expire",
    "organizations' policies, grants of keys, and boundaries of users: there are none; those of roles are enforced",
    "the cluster's identity provider: its tokens are those of whichever issuer a role trusts",
    "loopback: every request counts as encrypted (aws:SecureTransport), and comes from 127.0.0.1",
    "a request to delete many objects: it is refused as a whole if one of them may not be deleted",
    "iam:PassRole: it is not checked where a service is given a role",
    "quotas and throttling: there are none",
    "readiness gates: in a namespace with the controller's label, a ready pod is a target at once",
    "network policies: a connection of a pod that they refuse is reported and not cut; a short one may not be seen",
    "network policies: connections over UDP or IPv6 are not looked at, but for that with a name server",
    "network policies: an `ipBlock` counts as one that has AWS, load balancers and every name outside of the cluster",
    "network policies: a Service is compared at the port of its pods; the VPC CNI takes its own if rules name no pods",
    "images of modelworks: packages that they lack and the environment here has can be imported",
    "metrics: they are readable after 5 s, unless `--metrics-delay` states more; a new series may take 120 s on AWS",
)
"""Differences from AWS that remain when the laptop is strict, beside `NOT_ENFORCED`."""

ONLY_STRICT = (
    "IAM: every role may do everything",
    "keys that are pending deletion: S3 and KMS use them still",
    "a missing object: it is not found, also for who may not list the bucket",
    "volume claims without a class: they are of the class `laptop`, and EKS has no default one",
    "network policies: the gateway reaches pods whose policies refuse a load balancer, and no connection is reported",
    "emptyDir: a pod may write beyond a volume's sizeLimit",
    "images of modelworks: the environment here runs them, also where its packages are other ones",
    "load balancers: a ready pod is a target at once, and the share of a Service without pods goes to the others",
)
"""Rules of AWS that only a strict laptop enforces."""


def condition(place: StateDir) -> dict[str, Any]:
    """Everything that `modelworks laptop status` shows, as plain values.

    `up` is true when every process runs. Times are seconds, memory is MiB; what
    processes share is divided among them.
    """
    facts = read_facts(place.root / "laptop.json")
    processes = [_process(place, info) for info in supervisor.processes(place)]
    ports = facts.get("ports", {})
    notes = _notes(place, processes)
    try:
        hosts = addresses.urls(place)
    except ModelworksError as error:
        hosts, notes = {}, [*notes, str(error)]
    return {
        "place": str(place.root),
        "strict": bool(facts.get("strict")),
        "up": bool(processes) and all(process["state"] == "RUNNING" for process in processes),
        "memory_mib": round(sum(process["memory_mib"] for process in processes) + _own_memory(place), 1),
        "processes": processes,
        "leftovers": [] if processes else [process.pid for process in supervisor.leftovers(place)],
        "endpoints": {
            **({"kubernetes": f"https://127.0.0.1:{ports['apiserver']}"} if "apiserver" in ports else {}),
            **({"gateway": f"http://127.0.0.1:{ports['gateway']}"} if "gateway" in ports else {}),
            **({"gateway_tls": f"https://127.0.0.1:{ports['gateway-tls']}"} if "gateway-tls" in ports else {}),
        },
        "hosts": hosts,
        "gateway_authority": str(place.gateway_authority) if "gateway-tls" in ports else None,
        "pod_network": facts.get("pod_network"),
        "environments": [_environment(place, name) for name in place.environments()],
        "tools": {name: toolchain.TOOLS[name].version for name in facts.get("tools", {}) if name in toolchain.TOOLS},
        "not_enforced": [
            *(() if facts.get("strict") else ONLY_STRICT),
            *([*NOT_ENFORCED, *_ports_not_served()] if facts.get("kubernetes") else ()),
            *(KINDER if facts.get("strict") else ()),
        ],
        "recorded_not_emulated": dict(RECORDED_NOT_EMULATED),
        "notes": notes,
    }


def _ports_not_served() -> list[str]:
    lowest = pod_network.lowest_port()
    message = (
        f"ports below {lowest} of pods and Services: this machine gives them to root, until its administrator runs "
        "`sysctl net.ipv4.ip_unprivileged_port_start=80`"
    )
    return [message] if lowest > 1 else []


def _notes(place: StateDir, processes: list[dict[str, Any]]) -> list[str]:
    ended = [found["name"] for found in processes if found["name"].startswith("aws-") and found["restarts"]]
    notes = [f"{name} was started again. {aws.memory(place, name.removeprefix('aws-'))}".strip() for name in ended]
    for name in place.environments():
        denied = aws.denials(place, name)
        if denied.exists():
            count = len(denied.read_bytes().splitlines())
            notes.append(f"AWS of {name} denied {count} requests: modelworks laptop logs {denied.stem}")
    refused = traffic.refusals(place)
    if refused.exists():
        count = len(refused.read_bytes().splitlines())
        notes.append(f"network policies refuse {count} connections of pods: modelworks laptop logs {refused.stem}")
    return notes


def _process(place: StateDir, info: dict[str, Any]) -> dict[str, Any]:
    running = bool(info["pid"])
    memory = 0.0
    if running:
        with contextlib.suppress(psutil.Error):
            memory = _memory(info["pid"])
    return {
        "name": info["name"],
        "state": info["statename"],
        "pid": info["pid"] or None,
        "since": round(time.time() - info["start"]) if running else None,
        "memory_mib": round(memory, 1),
        "restarts": supervisor.restarts(place, info["name"]),
        "log": info["logfile"],
        "why": info["spawnerr"] or None,
    }


def _own_memory(place: StateDir) -> float:
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        pid = int((place.run / "supervisord.pid").read_text("ascii"))
        return _memory(pid)
    return 0.0


def _memory(pid: int) -> float:
    """Proportional: a page that processes share counts once among them."""
    return float(psutil.Process(pid).memory_full_info().pss) / 2**20


def _environment(place: StateDir, name: str) -> dict[str, Any]:
    facts = environments.facts(place, name)
    return {
        "name": name,
        "aws": f"http://127.0.0.1:{facts['aws_port']}",
        "account": facts["account"],
        "region": facts["region"],
        "namespace": facts["namespace"],
        "backend": environments.backend(place, name),
    }
