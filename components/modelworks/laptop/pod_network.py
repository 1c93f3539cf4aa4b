"""The loopback network of a laptop cloud's pods, and its ports: no other laptop cloud of this machine has them.

A socket holds a network, under a name that all users of the machine share (`man 7 unix`, abstract): the kernel gives
the name to one process, and takes it back when the last one that has the socket open ends, in whatever way. `up` holds
it from its choice on, and supervisord after that. A file reserves the network of a cloud that is down.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from modelworks._files import locked, write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain.store import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelworks.laptop.state_dir import StateDir

_OCTETS = range(77, 127)
"""127.77 first, for then addresses in the docs are right."""
PORTS = range(20_000, 32_000)
"""Of all laptop clouds. The kernel hands out none of these to connections: they stay free while a cloud is down."""
_PORTS_EACH = len(PORTS) // len(_OCTETS)
_NAME = "modelworks-laptop-cloud"
"""Begins the names of the sockets that hold networks."""
_CLAIM_SECONDS = 60
"""How long a claim counts whose laptop cloud is not written down yet, or no more."""


@dataclass(frozen=True)
class Claim:
    """A network that no other laptop cloud of the machine has."""

    network: str
    holder: socket.socket | None
    """Open while it is held by this process; a copy of it in another process holds it too. None: another one does."""

    def close(self) -> None:
        """Hold it no longer."""
        if self.holder is not None:
            self.holder.close()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors to hand to the process that shall hold it after this one."""
        return () if self.holder is None else (self.holder.fileno(),)


def keep(network: str) -> Claim:
    """Hold the network that a laptop cloud had before.

    Raises:
        ModelworksError: Another one took it meanwhile.
    """
    if (holder := _hold(network)) is None:
        raise ModelworksError(
            f"the loopback network {network} was taken by another laptop cloud while this one was down",
            fix="End the other one, or run `modelworks laptop down` and `up`, which chooses another network.",
        )
    return Claim(network, holder)


def choose(place: StateDir) -> Claim:
    """Hold a /16 of loopback that nobody listens in.

    Raises:
        ModelworksError: Every network is taken, or the claim cannot be written.
    """
    claims = cache_folder().parent / "pod-networks"
    used = _listened_in()
    try:
        claims.mkdir(parents=True, exist_ok=True)
        with locked(claims):  # or two would take over one stale claim
            for octet in _OCTETS:
                network = f"127.{octet}.0.0/16"
                if octet in used or not _free(claims / str(octet), place.root):
                    continue
                if (holder := _hold(network)) is not None:
                    write_whole(claims / str(octet), str(place.root))
                    return Claim(network, holder)
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


def lowest_port() -> int:
    """The lowest port that programs of this user may listen on."""
    # Of the namespace of the network, and so of pods too: theirs is that of the machine.
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    return 1 if os.geteuid() == 0 else max(1, start)


def _hold(network: str) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0{_NAME}-{network}")  # and nobody listens: there is nothing to connect to
    except OSError as error:
        holder.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return holder


def _free(claim: Path, root: Path) -> bool:
    """Whether nobody but this place claims a network, or whoever did is gone."""
    try:
        holder = Path(claim.read_text("utf-8"))
    except FileNotFoundError:
        return True
    is_there = (holder / "laptop.json").exists() or time.time() - claim.stat().st_mtime < _CLAIM_SECONDS
    return holder == root or not is_there


def _listened_in() -> set[int]:
    """Second octets of loopback addresses in use, by any user and any program."""
    addresses = [one.address.packed for family in ("tcp", "udp") for one in sockets(family)]
    return {octets[1] for octets in addresses if octets[0] == 127}


def listener(port: int) -> int | None:
    """The id of the user whose program listens on that port of 127.0.0.1; None if nobody is seen to."""
    wanted = IPv4Address("127.0.0.1"), port
    return next((one.uid for one in sockets("tcp") if one.listens and (one.address, one.port) == wanted), None)


@dataclass(frozen=True)
class Socket:
    """A socket of IPv4 on this machine."""

    address: IPv4Address
    port: int
    peer: tuple[IPv4Address, int]
    """Whom it is connected with; port 0 for nobody."""
    listens: bool
    uid: int
    """Of the user whose it is."""
    inode: int
    """Names it in the file descriptors of its processes; 0 if it has none any more."""


def sockets(family: str) -> Iterator[Socket]:
    """The sockets of the machine, of all users: every user may read these (`man 5 proc`, /proc/net/tcp)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/net/{family}").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            yield Socket(*_address(fields[1]), _address(fields[2]), fields[3] == "0A", int(fields[7]), int(fields[9]))


def _address(text: str) -> tuple[IPv4Address, int]:
    address, port = text.split(":")
    octets = bytes.fromhex(address)[:: -1 if sys.byteorder == "little" else 1]
    return IPv4Address(octets), int(port, 16)
