"""The view of the file system that a container has: what this kernel allows, and the script that makes it."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelworks._files import write_whole
from modelworks.errors import ModelworksError

log = logging.getLogger(__name__)

_SPECIAL = ("/proc", "/sys", "/dev")
# The kernel writes blanks and backslashes in octal, and everything else as it is.
_ESCAPED = re.compile(r"\\([0-7]{3})")
# Kinds of file system that overlayfs takes as a lower layer; others are shared with the machine as they are.
_LAYERED = {"ext4", "ext3", "xfs", "btrfs", "tmpfs", "overlay"}


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine that a container sees at `target`."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Isolation:
    """The isolation that this kernel allows for a container."""

    kind: str
    """`overlay`: a private copy of the whole root. `links`: a root of links and binds, as an ordinary user can make it.
    `none`: the machine's own root."""
    flags: tuple[str, ...]
    """Arguments of `unshare`; empty where there are no namespaces."""
    layers_in_memory: bool = False
    """Writes of a container outside its volumes are kept in memory, because the place's own disk cannot be layered."""


@dataclass(frozen=True)
class HostMount:
    """A file system of this machine: where, and of what kind."""

    path: str
    kind: str


VARIABLE = "MODELWORKS_ISOLATION"
"""Names the one kind of isolation to use, instead of the best that works here."""
NONE = Isolation("none", ())
_ROOT = ("--mount", "--uts", "--pid", "--fork", "--propagation", "private")
_CANDIDATES = (
    Isolation("overlay", _ROOT),
    Isolation("overlay", _ROOT, layers_in_memory=True),
    Isolation("links", ("--user", "--map-root-user", *_ROOT)),
)


def host_mounts(mountinfo: str, without: Path) -> list[HostMount]:
    """The file systems to show in a private root: the topmost ones, except special ones and those below `without`."""
    found: dict[str, HostMount] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        path = _ESCAPED.sub(lambda escape: chr(int(escape[1], 8)), before.split(" ")[4])
        found[path] = HostMount(path, after.split()[0])
    chosen: list[HostMount] = []
    for mount in sorted(found.values(), key=lambda m: m.path):
        hidden = mount.path == "/" or any(_below(mount.path, special) for special in _SPECIAL)
        if not hidden and not _below(mount.path, str(without)) and not any(_below(mount.path, c.path) for c in chosen):
            chosen.append(mount)
    return chosen


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def setup_script(
    isolation: Isolation,
    folder: Path,
    mounts: Sequence[Mount],
    machine: Sequence[HostMount],
    hosts: Path | None = None,
    hostname: str = "",
) -> str:
    """The shell script that makes a container's root at `folder/root`, run inside its namespaces.

    Targets are resolved here, on the machine's root: in the new one an absolute symbolic link such as /var/run would
    lead a `mkdir` out of it.

    Raises:
        ValueError: A target does not exist in /proc, /sys or /dev.
    """
    root, layer = folder / "root", folder / "layer"
    lines = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"mkdir -p {_q(root)} {_q(layer)}"]
    if hostname:
        # Root may do without the program, which a small system lacks; others keep the machine's name then.
        name = _q(hostname)
        lines.append(f"hostname {name} 2>/dev/null || {{ echo {name} >/proc/sys/kernel/hostname; }} 2>/dev/null || :")
    binds = [Mount(m.source, os.path.realpath(m.target), m.read_only) for m in mounts]
    for bind in binds:
        # These are the machine's own in every root: a new entry would be made on the machine.
        if any(_below(bind.target, special) for special in _SPECIAL) and not os.path.exists(bind.target):  # noqa: PTH110
            raise ValueError(f"cannot mount at {bind.target}: {', '.join(_SPECIAL)} are shared with the machine")
    if hosts is not None:
        binds.insert(0, Mount(hosts, os.path.realpath("/etc/hosts")))
    if isolation.kind == "overlay":
        if isolation.layers_in_memory:
            lines.append(f"mount -t tmpfs -o mode=755 tmpfs {_q(layer)}")
        # Layers are named from here: commas and backslashes of the place's own path would end an option.
        lines.append(f"cd -- {_q(layer)}")
        lines += _overlay("/", "root", root)
        for index, mount in enumerate(machine):
            plain = not re.search(r"[,:\\]", mount.path)
            if plain and mount.kind in _LAYERED and os.path.isdir(mount.path):  # noqa: PTH112 - a string in, a string out
                lines += _overlay(mount.path, str(index), _inside(root, mount.path))
            else:
                lines.append(f"mount --rbind {_q(mount.path)} {_q(_inside(root, mount.path))}")
    else:
        lines += _links(root, [m.target for m in binds])
    lines.append(f"mount -t proc proc {_q(root / 'proc')}")
    if isolation.kind == "overlay":
        lines += [f"mount --rbind {special} {_q(_inside(root, special))}" for special in ("/sys", "/dev")]
    for bind in sorted(binds, key=lambda m: m.target.count("/")):
        target = _q(_inside(root, bind.target))
        if bind.source.is_dir():
            lines.append(f"mkdir -p {target}")
        else:
            lines.append(f"mkdir -p {_q(_inside(root, bind.target).parent)}; [ -e {target} ] || : >{target}")
        lines.append(f"mount --bind {_q(bind.source)} {target}")
        if bind.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
    return "\n".join(lines) + "\n"


def _overlay(lower: str, layer: str, at: Path) -> list[str]:
    upper, work = f"{layer}/upper", f"{layer}/work"
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    # The merged folder takes its mode from the upper one.
    return [
        f"mkdir -p {_q(upper)} {_q(work)}",
        f"chmod --reference={_q(lower)} {_q(upper)}",
        f"mount -t overlay overlay -o {_q(options)} {_q(at)}",
    ]


def _links(root: Path, targets: Sequence[str]) -> list[str]:
    """A root in memory: the machine's folders, but folders of links where a new entry is needed."""
    lines = [f"mount -t tmpfs -o mode=755 tmpfs {_q(root)}", f"mkdir {_q(root / '.machine')} {_q(root / 'proc')}"]
    lines.append(f"mount --rbind / {_q(root / '.machine')}")
    split = _split(targets)
    for folder in sorted(split):
        at = _inside(root, folder)
        lines.append(f"mkdir -p {_q(at)}")
        linked = []
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            if entry.path == "/proc" or entry.path in split or (entry.path in targets and not entry.is_dir()):
                continue
            passed = folder == "/" or any(_below(path, entry.path) for path in targets)
            if passed and entry.is_dir() and not entry.is_symlink():
                link = _inside(root, entry.path)
                lines.append(f"mkdir -p {_q(link)}; mount --rbind {_q(entry.path)} {_q(link)}")
            else:
                linked.append(_q("/.machine" + entry.path))
        # A process a link would take seconds where /tmp has thousands of entries.
        batches = [linked[first : first + 500] for first in range(0, len(linked), 500)]
        lines += [f"ln -s -t {_q(at)} -- {' '.join(batch)}" for batch in batches]
    return lines


def _split(targets: Sequence[str]) -> set[str]:
    """The folders that a root needs of its own: above each target that does not exist, and above each of those."""
    needed = {"/", "/tmp"}  # noqa: S108 - private to each container
    for target in targets:
        path = target
        while not os.path.exists(path):  # noqa: PTH110
            path = os.path.dirname(path)  # noqa: PTH120
            needed |= {path} if os.path.exists(path) else set()  # noqa: PTH110
    return needed | {str(parent) for path in needed for parent in Path(path).parents}


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _q(path: Path | str) -> str:
    return shlex.quote(str(path))


def detect(scratch: Path, only: str = "") -> Isolation:
    """The best isolation that works here, found by trying it in `scratch`.

    Args:
        scratch: A folder to write in.
        only: The one kind to try. Empty: every kind, and `none` where nothing else works.

    Raises:
        ModelworksError: There is no such kind, or it does not work here.
    """
    kinds = sorted({candidate.kind for candidate in _CANDIDATES} | {NONE.kind})
    if only and only not in kinds:
        raise ModelworksError(f"{VARIABLE} must be one of {', '.join(kinds)}, got {only!r}")
    found = next(_working(scratch, [kind for kind in _CANDIDATES if not only or kind.kind == only]), NONE)
    if only and found.kind != only:
        raise ModelworksError(
            f"{VARIABLE} is {only}, and this machine does not allow it",
            fix=f"Unset {VARIABLE}: the best kind is found.",
        )
    return found


def _working(scratch: Path, candidates: Sequence[Isolation]) -> Iterator[Isolation]:
    unshare = shutil.which("unshare")
    if not unshare or not shutil.which("mount"):
        return
    for candidate in candidates:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            probe = folder / "probe"
            probe.mkdir()
            mount = Mount(probe, "/var/run/modelworks-probe", read_only=True)
            write_whole(folder / "setup.sh", setup_script(candidate, folder, [mount], machine_mounts(scratch)))
            argv = [unshare, *candidate.flags, "/bin/sh", "-e", str(folder / "setup.sh")]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
            if done.returncode == 0:
                yield candidate
            else:
                log.info("no %s isolation here: %s", candidate.kind, done.stderr.strip())
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def machine_mounts(without: Path) -> list[HostMount]:
    """The file systems of this machine to show in a private root, except those below `without`."""
    return host_mounts(os.fsdecode(Path("/proc/self/mountinfo").read_bytes()), without)
