"""The facts of a laptop cloud, in `laptop.json`: what is decided when it first comes up, and kept from then on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from typing import Any

import psutil

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop import control_plane, pod_network, supervisor
from modelworks.laptop import environments as store
from modelworks.laptop.agent import isolation
from modelworks.laptop.gateway import caddy
from modelworks.laptop.pod_network import Claim
from modelworks.laptop.state_dir import StateDir, read_facts

STRICT_METRICS_DELAY = 5.0
"""Seconds until metrics of a strict laptop are readable. CloudWatch may take 120 for a new series, which no canary with
the short steps of a laptop waits for; what counts on metrics at once fails with this too."""


def facts_of(
    place: StateDir, network: str, *, kubernetes: bool, strict: bool = False, metrics_delay: float | None = None
) -> dict[str, Any]:
    """The facts of the place; what is missing is decided, written and never changed again."""
    facts = read_facts(place.root / "laptop.json")
    before = json.dumps(facts)
    if strict and facts and not facts.get("strict"):
        # Its pods were made with the keys of the owner, and its volumes by a default class.
        raise ModelworksError(
            f"the laptop cloud in {place.root} is not strict, and cannot become so",
            fix="Run `modelworks laptop down`, then `modelworks laptop up --strict`.",
        )
    facts.setdefault("strict", strict)
    if metrics_delay is None:
        metrics_delay = STRICT_METRICS_DELAY if facts["strict"] else 0
    facts.setdefault("metrics_delay", metrics_delay)
    facts["kubernetes"] = bool(facts.get("kubernetes")) or kubernetes
    facts["pod_network"] = network
    among = pod_network.ports(facts["pod_network"])
    ports = facts.setdefault("ports", {})
    needed = [*control_plane.PORTS, *caddy.PORTS] if facts["kubernetes"] else []
    missing = [name for name in needed if name not in ports]
    ports |= dict(zip(missing, store.free_ports(len(missing), among, taken=store.used_ports(place)), strict=True))
    if facts["kubernetes"]:
        facts["host_ports"] = _host_ports(place, facts.get("host_ports", []), among, taken=ports.values())
    if json.dumps(facts) != before:
        write_facts(place, facts)
    return facts


def network_of(place: StateDir) -> Claim:
    """The network of the place: as it was, or else a free one."""
    before: str | None = read_facts(place.root / "laptop.json").get("pod_network")
    if before is None:
        return pod_network.choose(place)
    if supervisor.running(place):
        return Claim(before, holder=None)
    return pod_network.keep(before)


def chosen_isolation(place: StateDir, facts: dict[str, Any], was: set[str]) -> str:
    """The one kind of isolation that the user chose for containers; empty for the best that works.

    Raises:
        ModelworksError: It does not work here, or containers run with another.
    """
    chosen = os.environ.get(isolation.VARIABLE, "")
    if "agent" not in was:
        if chosen:
            isolation.detect(place.node, chosen)
        return chosen
    before: str = facts.get("isolation", "")
    if chosen not in {"", before}:
        raise ModelworksError(
            f"{isolation.VARIABLE} is {chosen}, and the containers that run were started with "
            f"{before or 'the best kind that works'}",
            fix="Run `modelworks laptop down --keep` first.",
        )
    return before


def _host_ports(place: StateDir, before: list[int], among: range, *, taken: Iterable[int]) -> list[int]:
    """The ports for single hosts: as they were, but for those that a stranger took while this place was down."""
    used = {*store.used_ports(place), *taken}
    if not before:
        return store.free_range(caddy.HOST_PORTS, among, taken=used)
    if supervisor.running(place):
        return before
    lost = set(_foreign(place, before))
    return [port for port in before if port not in lost] + store.free_ports(len(lost), among, taken=used)


def write_facts(place: StateDir, facts: dict[str, Any]) -> None:
    """Write the facts of the place, where they differ."""
    text = json.dumps(facts, indent=2) + "\n"
    path = place.root / "laptop.json"
    if not path.exists() or path.read_text("utf-8") != text:
        write_whole(path, text)


def require_free_ports(place: StateDir, facts: dict[str, Any]) -> None:
    """Raise if a port that the place has recorded is held by somebody else."""
    wanted = {port: name for name, port in facts["ports"].items()}
    for name in place.environments():
        wanted[store.facts(place, name)["aws_port"]] = f"AWS of {name}"
    if foreign := _foreign(place, wanted):
        port, holder = next(iter(foreign.items()))
        raise ModelworksError(
            f"port {port} of 127.0.0.1, which the laptop cloud uses for {wanted[port]}, is held by {holder}",
            fix="End that program, or run `modelworks laptop down` and `up`, which chooses other ports.",
        )


def _foreign(place: StateDir, ports: Iterable[int]) -> dict[int, str]:
    """Those of `ports` that somebody else holds, and who."""
    busy = [port for port in ports if not store.holder_free(port)]
    if not busy:
        return {}
    mine = {process.pid for process in supervisor.leftovers(place)}
    holders = _listening()
    return {port: _named(holders.get(port)) for port in busy if holders.get(port) not in mine}


def _listening() -> dict[int, int]:
    """Which process listens on a port, as far as this user may see."""
    with contextlib.suppress(psutil.Error):
        return {
            connection.laddr.port: connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.pid
        }
    return {}


def _named(pid: int | None) -> str:
    with contextlib.suppress(psutil.Error):
        if pid is not None:
            return f"{psutil.Process(pid).name()} (pid {pid})"
    return "a program of another user"
