"""How a laptop cloud is doing: processes, endpoints, environments, and what it does not do as a cloud would."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import psutil

from modelworks.laptop import environments, supervision, toolchain
from modelworks.laptop.place import read_facts

if TYPE_CHECKING:
    from modelworks.laptop.place import Place

NOT_ENFORCED = (
    "the user that a container runs as: every process is yours",
    "a read-only root file system",
    "network policies: every process reaches every port of this machine",
    "metrics for autoscaling: an autoscaler keeps the replicas it is told at first",
)
"""What the real API server checks and stores, and the node agent does not enforce."""

RECORDED = (
    "IAM: policies are stored and not evaluated",
    "Budgets: stored, nothing is ever spent",
    "KMS: key policies and rotation are stored; keys never rotate",
    "SNS e-mail subscriptions: stored, no mail is sent",
    "OIDC providers: stored, nobody is federated",
    "S3 lifecycle rules: stored, nothing expires",
    "CloudWatch alarms on percentiles, metric math or anomalies, and composite alarms: stored, never evaluated",
    "Alarm actions other than SNS topics: stored, never taken",
)
"""What the AWS emulator records and does not act on."""


def condition(place: Place) -> dict[str, Any]:
    """Everything that `modelworks laptop status` shows, as plain values.

    `up` is true when every process runs. Times are seconds, memory is MiB; what
    processes share is divided among them.
    """
    facts = read_facts(place.root / "laptop.json")
    processes = [_process(place, info) for info in supervision.processes(place)]
    ports = facts.get("ports", {})
    return {
        "place": str(place.root),
        "up": bool(processes) and all(process["state"] == "RUNNING" for process in processes),
        "memory_mib": round(sum(process["memory_mib"] for process in processes) + _own_memory(place), 1),
        "processes": processes,
        "leftovers": [] if processes else [process.pid for process in supervision.leftovers(place)],
        "endpoints": {
            **({"kubernetes": f"https://127.0.0.1:{ports['apiserver']}"} if "apiserver" in ports else {}),
            **({"gateway": f"http://127.0.0.1:{ports['gateway']}"} if "gateway" in ports else {}),
        },
        "pod_network": facts.get("pod_network"),
        "environments": [_environment(place, name) for name in place.environments()],
        "tools": {name: toolchain.TOOLS[name].version for name in facts.get("tools", {}) if name in toolchain.TOOLS},
        "not_enforced": list(NOT_ENFORCED) if facts.get("kubernetes") else [],
        "recorded_not_emulated": recorded(),
    }


def recorded() -> list[str]:
    """What of AWS is recorded and not emulated: the AWS provider's own table where it has one."""
    with contextlib.suppress(ImportError):
        from modelworks.laptop.providers import aws  # noqa: PLC0415 - loads boto3

        if table := getattr(aws, "RECORDED_NOT_EMULATED", None):
            return [f"{token}: {why}" for token, why in table.items()] if isinstance(table, dict) else list(table)
    return list(RECORDED)


def _process(place: Place, info: dict[str, Any]) -> dict[str, Any]:
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
        "restarts": supervision.restarts(place, info["name"]),
        "log": info["logfile"],
        "why": info["spawnerr"] or None,
    }


def _own_memory(place: Place) -> float:
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        pid = int((place.run / "supervisord.pid").read_text("ascii"))
        return _memory(pid)
    return 0.0


def _memory(pid: int) -> float:
    """Proportional: a page that processes share counts once among them."""
    return float(psutil.Process(pid).memory_full_info().pss) / 2**20


def _environment(place: Place, name: str) -> dict[str, Any]:
    facts = environments.facts(place, name)
    return {
        "name": name,
        "aws": f"http://127.0.0.1:{facts['aws_port']}",
        "account": facts["account"],
        "region": facts["region"],
        "namespace": facts["namespace"],
        "backend": f"file://{place.environment(name) / 'backend'}",
    }
