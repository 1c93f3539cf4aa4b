"""The loopback network of a laptop cloud's pods, and its ports: no other laptop cloud of this machine has them."""

from __future__ import annotations

import contextlib
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from modelworks._files import locked, write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain.store import cache_folder

if TYPE_CHECKING:
    from modelworks.laptop.state_dir import StateDir

_OCTETS = range(77, 127)
"""127.77 first, for then addresses in the docs are right."""
PORTS = range(20_000, 32_000)
"""Of all laptop clouds. The kernel hands out none of these to connections: they stay free while a cloud is down."""
_PORTS_EACH = len(PORTS) // len(_OCTETS)
_CLAIM_SECONDS = 60
"""How long a claim counts whose laptop cloud is not written down yet, or no more."""


def choose(place: StateDir) -> str:
    """A /16 of loopback that nobody listens in, claimed for this place.

    Two that come up at once listen nowhere yet, so each leaves a file named after its network where both look.

    Raises:
        ModelworksError: Every network is taken, or the claim cannot be written.
    """
    claims = cache_folder().parent / "pod-networks"
    used = _listened_in()
    try:
        claims.mkdir(parents=True, exist_ok=True)
        with locked(claims):  # or two would take over one stale claim
            for octet in _OCTETS:
                if octet not in used and _free(claims / str(octet), place.root):
                    write_whole(claims / str(octet), str(place.root))
                    return f"127.{octet}.0.0/16"
    except OSError as error:
        raise ModelworksError(
            f"cannot claim a network for pods in {claims}: {error.strerror}",
            fix="Free space or fix its permissions, or point XDG_CACHE_HOME at another folder.",
        ) from error
    raise ModelworksError("every loopback network from 127.77 to 127.126 is in use", fix="End another laptop cloud.")


def of_pods(network: str) -> IPv4Network:
    """The half of a laptop cloud's network that pods have their addresses of."""
    return next(IPv4Network(network).subnets())


def of_services(network: str) -> IPv4Network:
    """The other half, for cluster addresses of Services: the node listens on them."""
    return list(IPv4Network(network).subnets())[1]


def ports(network: str) -> range:
    """The ports of the laptop cloud that has this network.

    A search for free ports does not find those that another cloud has chosen and does not listen on yet.
    """
    first = PORTS.start + (int(network.split(".")[1]) - _OCTETS.start) * _PORTS_EACH
    return range(first, first + _PORTS_EACH)


def _free(claim: Path, root: Path) -> bool:
    """Whether nobody but this place claims a network, or whoever did is gone."""
    try:
        holder = Path(claim.read_text("utf-8"))
    except FileNotFoundError:
        return True
    is_there = (holder / "laptop.json").exists() or time.time() - claim.stat().st_mtime < _CLAIM_SECONDS
    return holder == root or not is_there


def _listened_in() -> set[int]:
    """Second octets of loopback addresses in use, those of other users' laptop clouds without pods included."""
    used = set()
    for family in ("tcp", "udp"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{family}").read_text("ascii").splitlines()[1:]:
                octets = bytes.fromhex(line.split()[1].split(":")[0])[::-1]
                if octets[0] == 127:
                    used.add(octets[1])
    for process in psutil.process_iter(["environ"]):
        if network := (process.info["environ"] or {}).get("MODELWORKS_POD_NETWORK"):
            used.add(int(network.split(".")[1]))
    return used
