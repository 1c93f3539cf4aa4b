"""A port of its own for each host, so that clients that cannot resolve `*.localhost` reach it too. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence


def assign(hosts: Iterable[str], before: Mapping[str, int], ports: Sequence[int]) -> dict[str, int]:
    """The port of each host: the one it had, else one that no host has, else that of a host that is gone.

    Hosts that are gone keep theirs until another needs it, for they may come back. Where there are more hosts than
    ports, the last of `hosts` get none.

    Args:
        hosts: The hosts that are there.
        before: The last result of this function.
        ports: Those that may be given; a host whose port is not among them gets another.
    """
    present = list(dict.fromkeys(hosts))
    assigned = _kept(before, ports)
    for host in present:
        if host in assigned:
            continue
        port = _unused(host, ports, set(assigned.values()))
        if port is None and (gone := next((name for name in assigned if name not in present), None)):
            port = assigned.pop(gone)
        if port is not None:
            assigned[host] = port
    return assigned


def _kept(before: Mapping[str, int], ports: Sequence[int]) -> dict[str, int]:
    """Those that may stay as they were: each port is one of `ports`, and only the first host that claims it has it."""
    available, kept = set(ports), dict[str, int]()
    for host, port in before.items():
        if port in available:
            kept[host] = port
            available.remove(port)
    return kept


def _unused(host: str, ports: Sequence[int], used: set[int]) -> int | None:
    """A port that no host has. The search begins at a port of the name: without a table, most stay the same."""
    first = int(hashlib.sha256(host.encode()).hexdigest(), 16) % max(len(ports), 1)
    return next((port for port in (*ports[first:], *ports[:first]) if port not in used), None)
