"""Stands in for a kubelet where no node agent runs: it says what pods would do, and runs nothing.

A container whose command has `exit N` ends with that code, over and over where its pod restarts it; any other runs and
is ready.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any

from modelworks.laptop.providers.kubernetes.client import Cluster, access
from modelworks.laptop.providers.kubernetes.kinds import Kind
from modelworks.laptop.providers.plugin import ProviderError

POD = Kind("", "v1", "Pod")
NODE = "stand-in"


class Kubelet:
    """One node that every pod fits on."""

    def __init__(self, kubeconfig: str) -> None:
        self._cluster = Cluster(access(kubeconfig))
        self._stop = threading.Event()
        self._pods = 0
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._beat, self._serve)]
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self._cluster.request("POST", "/api/v1/nodes", doing="registering", body=node)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _beat(self) -> None:
        room = {"cpu": "64", "memory": "256Gi", "pods": "500"}
        while not self._stop.is_set():
            ready = {"type": "Ready", "status": "True", "reason": "StandIn", "message": "", "lastHeartbeatTime": _now()}
            self._say(f"/api/v1/nodes/{NODE}", {"conditions": [ready], "capacity": room, "allocatable": room})
            self._stop.wait(5)

    def _serve(self) -> None:
        for what, pod in self._cluster.watch(POD, "", self._stop):
            if what in {"ADDED", "MODIFIED"} and pod["spec"].get("nodeName") == NODE:
                self._treat(pod)

    def _treat(self, pod: dict[str, Any]) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if meta.get("deletionTimestamp"):
            try:
                self._cluster.request("DELETE", path, doing="ending", body={"gracePeriodSeconds": 0})
            except ProviderError:
                return
        elif pod.get("status", {}).get("phase", "Pending") == "Pending":
            self._pods += 1
            self._say(path, self._status(pod["spec"]))

    def _status(self, spec: dict[str, Any]) -> dict[str, Any]:
        container = spec["containers"][0]
        ends = re.search(r"exit (\d+)", " ".join(container.get("command", [])))
        code = int(ends[1]) if ends else None
        common = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        ended = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
        running = {"running": {"startedAt": _now()}}
        if code is None:
            phase, state, ready = "Running", {"state": running, "started": True}, "True"
        elif spec.get("restartPolicy") == "Never":
            phase, state, ready = "Failed" if code else "Succeeded", {"state": ended}, "False"
        else:
            waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting"}}
            phase, state, ready = "Running", {"state": waiting, "lastState": ended}, "False"
        conditions = [
            {"type": kind, "status": ready, "lastTransitionTime": _now()} for kind in ("Ready", "ContainersReady")
        ]
        return {
            "phase": phase,
            "podIP": f"10.77.{self._pods // 250}.{self._pods % 250 + 1}",
            "startTime": _now(),
            "conditions": conditions,
            "containerStatuses": [{**common, **state, "ready": ready == "True"}],
        }

    def _say(self, path: str, status: dict[str, Any]) -> None:
        kind = "application/merge-patch+json"
        try:
            self._cluster.request(
                "PATCH", f"{path}/status", doing="telling", body={"status": status}, content_type=kind
            )
        except ProviderError:
            return  # the pod is gone, or the API server for a moment


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
