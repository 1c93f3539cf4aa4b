"""The laptop cloud in numbers: how fast it is there, what it weighs, how quickly pods start and answer.

    .venv/bin/python benchmarks/laptop.py [--pods 100]

Brings up a laptop cloud of its own in a temporary folder and takes it down again. Prints one JSON object; nothing is
asserted. Memory is proportional set size (shared pages counted once), in MiB; times are seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from modelworks.laptop import cloud, control_plane, supervisor
from modelworks.laptop.state_dir import StateDir, read_facts

NAMESPACE = "benchmark"
PATIENCE = 120

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.HTTPServer((sys.argv[1], 8000), Handler).serve_forever()
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=100, help="how many sleeping pods to start")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelworks-benchmark-"))
    place = StateDir(folder / "place")
    try:
        print(json.dumps(measure(place, options.pods), indent=2))
    finally:
        cloud.down(place)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(place: StateDir, pods: int) -> dict[str, Any]:
    """All of it, in one run."""
    first = _timed(lambda: cloud.up(place, report=_say))
    cloud.down(place, keep=True, report=_say)
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "first_start_s": first,
        "warm_start_s": _timed(lambda: cloud.up(place, report=_say)),
    }
    time.sleep(10)
    found["memory_mib"] = _memory(place)
    found["agent_idle_share_of_a_core"] = _cpu(place, "agent", 10)
    with control_plane.client(place, read_facts(place.root / "laptop.json")["ports"], timeout=30) as api:
        _post(api, "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        found["answer"] = _first_answer(place, api)
        found["pods"] = {"count": pods, **_start_pods(place, api, pods)}
    return found


def _start_pods(place: StateDir, api: httpx.Client, count: int) -> dict[str, float]:
    """Deploy sleeping processes, until the last one runs; and what the agent needs to look after them."""
    began = time.monotonic()
    _deploy(api, "sleepers", ["sleep", "100000"], replicas=count)
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/sleepers"
    _until(lambda: api.get(path).json()["status"].get("readyReplicas") == count)
    started = round(time.monotonic() - began, 2)
    time.sleep(5)
    return {"started_s": started, "agent_idle_share_of_a_core": _cpu(place, "agent", 10)}


def _first_answer(place: StateDir, api: httpx.Client) -> dict[str, float]:
    """From applying a Deployment to the first answer through the gateway, and what the process alone takes to start."""
    host = f"{NAMESPACE}.localhost"
    port = read_facts(place.root / "laptop.json")["ports"]["gateway"]
    _post(
        api,
        f"/api/v1/namespaces/{NAMESPACE}/services",
        {
            "metadata": {"name": "server"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
        },
    )
    _ingress(api, "server", host)
    ready = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1}
    time.sleep(1)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": host}, trust_env=False) as client:
        began = time.monotonic()
        _deploy(api, "server", [sys.executable, "-c", SERVER, "$(POD_IP)"], readinessProbe=ready)
        _until(lambda: client.get("/").text == "ok")
        answered = time.monotonic() - began
        follows = sorted(_seconds_behind(api, client, number) for number in range(20))
    own = _own_start(place)
    return {
        "applied_to_answer_s": round(answered, 2),
        "process_alone_s": own,
        "beyond_s": round(answered - own, 2),
        "gateway_follows_median_s": round(follows[len(follows) // 2], 3),
        "gateway_follows_worst_s": round(follows[-1], 3),
    }


def _seconds_behind(api: httpx.Client, client: httpx.Client, number: int) -> float:
    """From an Ingress that the API server has taken to its first answer."""
    host = f"{NAMESPACE}-{number}.localhost"
    _ingress(api, f"server-{number}", host)
    began = time.monotonic()
    _until(lambda: client.get("/", headers={"Host": host}).text == "ok", pause=0.002)
    return time.monotonic() - began


def _ingress(api: httpx.Client, name: str, host: str) -> None:
    backend = {"service": {"name": "server", "port": {"number": 80}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    path = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses"
    _post(api, path, {"metadata": {"name": name}, "spec": {"rules": [rule]}})


def _own_start(place: StateDir) -> float:
    address = read_facts(place.root / "laptop.json")["pod_network"].replace(".0.0/16", ".254.1")
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", SERVER, address])
    try:
        _until(lambda: httpx.get(f"http://{address}:8000/", trust_env=False).text == "ok")
        return round(time.monotonic() - began, 2)
    finally:
        process.kill()
        process.wait()


def _deploy(api: httpx.Client, name: str, command: list[str], *, replicas: int = 1, **container: Any) -> None:
    labels = {"app": name}
    main = {
        "name": "main",
        "image": "none",
        "command": command,
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        **container,
    }
    _post(
        api,
        f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
        {
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [main], "terminationGracePeriodSeconds": 1},
                },
            },
        },
    )


def _memory(place: StateDir) -> dict[str, float]:
    """Proportional set size of every process of the place, and of the supervisor's children by name."""
    names = {info["pid"]: info["name"] for info in supervisor.processes(place)}
    sizes: dict[str, float] = {}
    for process in supervisor.leftovers(place):
        try:
            size = process.memory_full_info().pss / 2**20
        except psutil.Error:
            continue
        owner = next((names[pid] for pid in (process.pid, process.ppid()) if pid in names), "supervisor")
        sizes[owner] = round(sizes.get(owner, 0) + size, 1)
    return {"all": round(sum(sizes.values()), 1), **dict(sorted(sizes.items()))}


def _cpu(place: StateDir, name: str, seconds: float) -> float:
    [pid] = [info["pid"] for info in supervisor.processes(place) if info["name"] == name]
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return round((after.user + after.system - before.user - before.system) / seconds, 4)


def _post(api: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = api.post(path, json=body)
    if answer.is_error:
        raise SystemExit(f"{path}: {answer.text}")


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 2)


def _until(claim: Callable[[], bool], pause: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if claim():
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"not there after {PATIENCE} s")
        time.sleep(pause)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
