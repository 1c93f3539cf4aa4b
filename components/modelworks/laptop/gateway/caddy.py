"""Caddy, as the laptop's gateway runs it: how it is started, its one configuration, and its admin API.

The configuration is written once and never changed: routes and pods reach Caddy as a table (see `table`), which its
gateway module swaps in memory. A new configuration would close the idle connections of every client, and under load
cost each time some requests (measured: about ten at 32 clients).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop import supervisor
from modelworks.laptop.state_dir import AUTHORITY, StateDir

TRY_SECONDS = 1
"""How long a request waits for a pod that can be reached, while none has been sent anything."""


PORTS = ("gateway", "gateway-tls")
"""The ports that users reach: plain, and TLS. As they are named in `laptop.json`."""

HOST_PORTS = 64
"""How many hosts have a port of their own. Caddy listens on all at once: one more would be a new configuration."""


def caddy_program(place: StateDir, facts: Mapping[str, Any], tools: Mapping[str, Path]) -> supervisor.Program:
    """The process to supervise; writes the configuration it starts with."""
    port, tls_port = (int(facts["ports"][name]) for name in PORTS)
    return supervisor.Program(
        "caddy",
        caddy_argv(place, port, tls_port, tools["caddy"], facts.get("host_ports", ())),
        # One place for everything it keeps, and a heap that suits a laptop.
        {"XDG_DATA_HOME": str(place.gateway), "XDG_CONFIG_HOME": str(place.gateway), "GOGC": "50"},
        stop_seconds=12,
    )


def caddy_argv(
    place: StateDir, port: int, tls_port: int, executable: Path, host_ports: Sequence[int] = ()
) -> list[str | Path]:
    """The command line of Caddy; writes the configuration it names."""
    path = config_path(place)
    write_whole(path, json.dumps(config(place, port, tls_port, host_ports), indent=2) + "\n")
    return [executable, "run", "--config", path]


def config_path(place: StateDir) -> Path:
    """Caddy's configuration."""
    return place.gateway / "caddy.json"


def table_path(place: StateDir) -> Path:
    """The last table of routes. Caddy reads it when it starts, so that no restart loses a route."""
    return place.gateway / "table.json"


def admin_socket(place: StateDir) -> Path:
    """Caddy's admin API: a unix socket, for only the user may change routes, and no web page can reach it."""
    return supervisor.socket_path(place).with_name("caddy.sock")


def config(place: StateDir, port: int, tls_port: int, host_ports: Sequence[int] = ()) -> dict[str, Any]:
    """Caddy's configuration."""
    own = {"hosts": {**_server(place, *host_ports, own=True), "protocols": ["h1", "h2c"]}} if host_ports else {}
    # Trusted by whoever is told to, never by the whole machine.
    authority = {"name": "modelworks laptop", "install_trust": False}
    issued = {"on_demand": True, "issuers": [{"module": "internal", "ca": AUTHORITY}]}
    return {
        "admin": {"listen": f"unix/{admin_socket(place)}|0600", "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "WARN", "encoder": {"format": "json"}}}},
        "storage": {"module": "file_system", "root": str(place.gateway / "caddy")},
        "apps": {
            "http": {
                # When Caddy ends: how long requests in flight may take.
                "grace_period": "10s",
                "servers": {
                    "gateway": {**_server(place, port), "protocols": ["h1", "h2c"]},
                    "tls": {**_server(place, tls_port), "protocols": ["h1", "h2"], "tls_connection_policies": [{}]},
                    **own,
                },
            },
            # Certificates are made at the first handshake for a host, of those that the table allows.
            "tls": {"automation": {"on_demand": {"permission": {"module": "gateway"}}, "policies": [issued]}},
            "pki": {"certificate_authorities": {AUTHORITY: authority}},
        },
    }


def _server(place: StateDir, *ports: int, own: bool = False) -> dict[str, Any]:
    """A server on these ports; with `own`, each of them is one host's, whatever a client calls it."""
    return {
        "listen": [f"127.0.0.1:{port}" for port in ports],
        "automatic_https": {"disable": True},
        "read_header_timeout": "10s",
        "idle_timeout": "120s",
        "max_header_bytes": 65536,
        "routes": [
            {"handle": [{"handler": "gateway", "file": str(table_path(place)), "own_ports": own}]},
            {"match": [{"vars": {"gateway.protocol": ["h2c"]}}], "handle": [_proxy(["h2c", "2"], own=own)]},
            {"match": [{"vars": {"gateway.protocol": [""]}}], "handle": [_proxy(["1.1"], own=own)]},
        ],
    }


def _proxy(versions: list[str], *, own: bool) -> dict[str, Any]:
    # Some applications refuse any Host but their own (MLflow does); what the client wrote is in X-Forwarded-Host.
    renamed = {"headers": {"request": {"set": {"Host": ["{http.vars.gateway.host}"]}}}} if own else {}
    return {
        "handler": "reverse_proxy",
        **renamed,
        "dynamic_upstreams": {"source": "gateway"},
        "flush_interval": -1,
        "load_balancing": {
            "try_duration": f"{TRY_SECONDS}s",
            "try_interval": "20ms",
            # A failed dial is tried again whatever the method: nothing was sent. After that only these are, for
            # repeating them changes nothing.
            "retry_match": [{"method": ["GET", "HEAD", "OPTIONS"]}],
        },
        "transport": {
            "protocol": "http",
            "versions": versions,
            "dial_timeout": "2s",
            # Servers close idle connections after 5 s (uvicorn) or 2 s (gunicorn), and a POST that meets the closing is
            # lost, so the gateway must be the one who closes first.
            "keep_alive": {"enabled": True, "idle_timeout": "1500ms", "max_idle_conns_per_host": 64},
            "compression": False,
        },
    }


async def put_table(socket: Path, table: str) -> None:
    """Make `table` (JSON) the routes of the Caddy that listens on `socket`. In force when this returns.

    Raises:
        OSError: Caddy cannot be reached; `TimeoutError` when it does not answer within 2 s.
        ModelworksError: Caddy refused the table.
    """
    body = table.encode()
    async with asyncio.timeout(2):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            head = ("PUT /gateway/table HTTP/1.1", "Host: caddy", f"Content-Length: {len(body)}", "Connection: close")
            writer.write("\r\n".join((*head, "", "")).encode() + body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    status, _, rest = answer.partition(b"\r\n")
    if b" 204 " not in status:
        why = rest.rpartition(b"\r\n\r\n")[2].decode(errors="replace")
        raise ModelworksError(f"Caddy refused the routes: {status.decode(errors='replace')} {why}".strip())
