"""The processes of a laptop cloud: which there are, and how each is known to be ready."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.laptop import aws, control_plane, pod_network, rollouts, supervisor
from modelworks.laptop import environments as store
from modelworks.laptop.agent import isolation
from modelworks.laptop.gateway import caddy
from modelworks.laptop.state_dir import StateDir
from modelworks.laptop.supervisor import Program

if TYPE_CHECKING:
    import httpx

Tell = Callable[[str], None]
"""Called with each step, one line each."""

READY_SECONDS = 90
"""How long parts may take to become ready before `up` gives up; two busy cores need some twenty."""

FULL_BYTES = 65_536
"""A disk with less room than this is called full."""

PATIENCE = 5
"""How often a part may end before it is ready. Some do once or twice until the API server serves them."""


@dataclass(frozen=True)
class Part:
    """One process, with how to see that it is ready."""

    program: Program
    ready: Callable[[], bool]


def aws_accounts(place: StateDir) -> list[Part]:
    """An AWS account an environment."""
    parts = []
    for name in place.environments():
        found = store.facts(place, name)
        port = int(found["aws_port"])
        parts.append(Part(aws.program(place, name, found), partial(_answers, port, "/")))
    return parts


def control_plane_parts(place: StateDir, facts: dict[str, Any]) -> list[Part]:
    """Parts that start at once and wait for each other."""
    ports = facts["ports"]
    api = control_plane.client(place, ports, timeout=3)
    checks: dict[str, Callable[[], bool]] = {
        "etcd": partial(_all_listen, [ports["etcd"]]),
        "apiserver": partial(control_plane.ready, api),
        "controller-manager": partial(_serves_tls, api, ports["controller-manager"]),
        "scheduler": partial(_serves_tls, api, ports["scheduler"]),
    }
    tools = {name: Path(path) for name, path in facts["tools"].items()}
    return [Part(program, checks[program.name]) for program in control_plane.programs(place, facts, tools)]


def followers(place: StateDir, facts: dict[str, Any]) -> list[Part]:
    """Parts that need a configured cluster: rollouts controllers, node agent, gateway."""
    tools = {name: Path(path) for name, path in facts["tools"].items()}
    parts = [
        Part(rollouts.program(place, name, store.facts(place, name), tools), lambda: True)
        for name in place.environments()
    ]
    argv: list[str | Path] = [sys.executable, "-m", "modelworks.laptop.agent", "--place", place.root]
    api = control_plane.client(place, facts["ports"], timeout=3)
    # Its pods outlive it, so that it may crash and adopt them; `down` finds them by their mark.
    chosen = {isolation.VARIABLE: facts["isolation"]} if facts.get("isolation") else {}
    parts.append(Part(Program("agent", argv, chosen, whole_group=False), partial(_node_ready, api)))
    argv = [sys.executable, "-m", "modelworks.laptop.gateway", "--place", place.root]
    ports = [facts["ports"][name] for name in caddy.PORTS]
    parts.append(Part(caddy.caddy_program(place, facts, tools), partial(_all_listen, ports)))
    parts.append(Part(Program("gateway", argv), caddy.table_path(place).exists))
    return parts


def wait(place: StateDir, parts: Sequence[Part], was: set[str], report: Tell) -> None:
    """Poll until each of the parts is ready and runs; report each that was not running before.

    Raises:
        ModelworksError: One gave up, or is not ready in time; the message carries the end of its log.
    """
    waiting = list(parts)
    began = time.monotonic()
    pids: dict[str, set[int]] = {part.program.name: set() for part in parts}
    while waiting:
        infos = {info["name"]: info for info in supervisor.processes(place)}
        for part in list(waiting):
            name = part.program.name
            state = infos.get(name, {}).get("statename", "UNKNOWN")
            pids[name] |= {infos[name]["pid"]} - {0} if name in infos else set()
            # RUNNING is what `status` calls up: a process that answers and ends within its first second is not.
            if state == "RUNNING" and part.ready():
                waiting.remove(part)
                if name not in was:
                    report(f"{name} is ready ({time.monotonic() - began:.1f} s)")
            elif state == "FATAL" or (state == "UNKNOWN" and time.monotonic() - began > 10):
                raise _not_ready(place, name, "does not start")
            elif len(pids[name]) > PATIENCE and time.monotonic() - began > 20:
                raise _not_ready(place, name, f"ended {len(pids[name]) - 1} times")
        if waiting and time.monotonic() - began > READY_SECONDS:
            raise _not_ready(place, waiting[0].program.name, f"is not ready after {READY_SECONDS} s")
        if waiting:
            time.sleep(0.05)


def _not_ready(place: StateDir, name: str, what: str) -> ModelworksError:
    path = supervisor.log_path(place, name)
    said = supervisor.tail(path, 6)
    fix = f"Look into {path}."
    # What finds no room for its work finds none for its last words either.
    if "no space left on device" in said.lower() or shutil.disk_usage(place.root).free < FULL_BYTES:
        return ModelworksError(
            f"{name} {what}: the disk that holds {place.root} is full", fix="Free some space and try again."
        )
    return ModelworksError(f"{name} {what}; the end of its log:\n{said or '(nothing)'}", fix=fix)


def _check_ours(port: int) -> None:
    """Raise if a program of another user took the port just before the part that is to have it.

    The part would try again and again, and requests with everything in them would reach that program.
    """
    if (uid := pod_network.listener(port)) not in {None, os.geteuid()}:
        raise ModelworksError(
            f"port {port} of 127.0.0.1 was taken by a program of another user (id {uid}) as the laptop cloud started",
            fix="Have it ended, or run `modelworks laptop down` and `up`, which chooses other ports.",
        )


def _all_listen(ports: Sequence[int]) -> bool:
    try:
        for port in ports:
            _check_ours(port)
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(port: int, path: str) -> bool:
    _check_ours(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _serves_tls(api: httpx.Client, port: int) -> bool:
    import httpx

    try:
        return api.get(f"https://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def _node_ready(api: httpx.Client) -> bool:
    import httpx

    try:
        answer = api.get(f"/api/v1/nodes/{control_plane.NODE}")
    except httpx.HTTPError:
        return False
    conditions = answer.json().get("status", {}).get("conditions", []) if answer.status_code == 200 else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
