"""Where the gateway's hosts are reached from this machine, by any client: no name has to be resolved."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.laptop.gateway import caddy
from modelworks.laptop.gateway.routes import LOCAL
from modelworks.laptop.state_dir import read_facts

if TYPE_CHECKING:
    from modelworks.laptop.state_dir import StateDir

_FOLLOWS_SECONDS = 5
"""How long a host that was just declared may take to reach the gateway: 0.3 s, and more on a busy machine."""


def urls(place: StateDir) -> dict[str, str]:
    """The address of each host that has a port of its own.

    Raises:
        ModelworksError: The gateway's table of routes is damaged.
    """
    table = _table(place)
    ports = _ports(place, table)
    return {host: f"http://127.0.0.1:{ports[host]}" for host in table.get("hosts", {}) if host in ports}


def url_of(place: StateDir, host: str) -> str:
    """The address of one host: its own port, or its name at the gateway's port if it has none.

    The engine may return before the gateway has seen a host that it declared, so a missing host is waited for.

    Raises:
        ModelworksError: The gateway's table of routes is damaged, or there is no gateway.
    """
    deadline = time.monotonic() + _FOLLOWS_SECONDS
    while (table := _table(place)) and host not in table.get("hosts", {}) and time.monotonic() < deadline:
        time.sleep(0.1)
    return urls(place).get(host) or _by_name(place, host)


def remembered(place: StateDir) -> dict[str, int]:
    """The ports that the gateway assigned last, those of hosts that are gone included.

    Raises:
        ModelworksError: The gateway's table of routes is damaged.
    """
    return _ports(place, _table(place))


def _by_name(place: StateDir, host: str) -> str:
    port = read_facts(place.root / "laptop.json").get("ports", {}).get("gateway")
    if port is None:
        raise ModelworksError(f"the laptop cloud in {place.root} has no gateway", fix="Run `modelworks laptop up`.")
    return f"http://{host.removesuffix(f'.{LOCAL}')}.{LOCAL}:{port}"


def _ports(place: StateDir, table: dict[str, Any]) -> dict[str, int]:
    ports = table.get("ports", {})
    if not isinstance(ports, dict) or not all(type(port) is int for port in ports.values()):
        raise _damaged(place, "it does not map hosts to ports")
    return ports


def _table(place: StateDir) -> dict[str, Any]:
    """The table that Caddy follows, as the gateway wrote it last; empty before it did."""
    try:
        table = json.loads(caddy.table_path(place).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise _damaged(place, str(error)) from error
    if not isinstance(table, dict) or not isinstance(table.get("hosts", {}), dict):
        raise _damaged(place, "it is no table of routes")
    return table


def _damaged(place: StateDir, why: str) -> ModelworksError:
    return ModelworksError(
        f"{caddy.table_path(place)} is damaged: {why}",
        fix="Run `modelworks laptop down --keep` and `modelworks laptop up`: the gateway then writes a new one.",
    )
