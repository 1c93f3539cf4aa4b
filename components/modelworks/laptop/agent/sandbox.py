"""Processes of containers: started with a view of the file system of their own, found again, ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelworks._files import write_whole
from modelworks.errors import ModelworksError

log = logging.getLogger(__name__)

SHIM = Path(__file__).with_name("shim.sh")
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DROPPED = "MODELWORKS_OTHER_VARIABLES"
_SET_AND_EXEC = f"""\
import json, os, sys
variables = dict(os.environ)
variables |= json.loads(variables.pop({_DROPPED!r}))
try:
    os.execvpe(sys.argv[1], sys.argv[1:], variables)
except OSError as error:
    sys.exit(f"exec: {{sys.argv[1]!r}}: {{error.strerror}}")
"""
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
_ROOT = ("--mount", "--pid", "--fork", "--propagation", "private")
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
    isolation: Isolation, folder: Path, mounts: Sequence[Mount], machine: Sequence[HostMount], hosts: Path | None = None
) -> str:
    """The shell script that makes a container's root at `folder/root`, run inside its namespaces.

    Targets are resolved here, on the machine's root: in the new one an absolute symbolic link such as /var/run would
    lead a `mkdir` out of it.

    Raises:
        ValueError: A target does not exist in /proc, /sys or /dev.
    """
    root, layer = folder / "root", folder / "layer"
    lines = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"mkdir -p {_q(root)} {_q(layer)}"]
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
            write_whole(folder / "setup.sh", setup_script(candidate, folder, [mount], _machine(scratch)))
            argv = [unshare, *candidate.flags, "/bin/sh", "-e", str(folder / "setup.sh")]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
            if done.returncode == 0:
                yield candidate
            else:
                log.info("no %s isolation here: %s", candidate.kind, done.stderr.strip())
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _machine(without: Path) -> list[HostMount]:
    return host_mounts(os.fsdecode(Path("/proc/self/mountinfo").read_bytes()), without)


def process_start(pid: int) -> str | None:
    """When a process started (clock ticks since boot), None if there is none or it is a zombie."""
    try:
        return _start(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))[1]
    except (OSError, ValueError):
        return None


def _start(line: str) -> tuple[int, str]:
    """Process id and start time of a line of /proc/PID/stat.

    Raises:
        ValueError: It is not one, or that of a zombie.
    """
    pid, _, rest = line.partition(" (")
    fields = rest.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] == "Z":
        raise ValueError(line)
    return int(pid), fields[19]


@functools.cache
def _boot() -> str:
    """Names the time since this machine was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Marked:
    """A process of this boot that was there once: its id and when it started, which together are never used twice."""

    pid: int
    started: str

    @classmethod
    def read(cls, path: Path) -> Marked | None:
        """The process whose line of /proc/PID/stat and boot were kept in `path`; None if it is of an earlier boot."""
        try:
            line, _, boot = path.read_text(encoding="utf-8", errors="replace").strip().rpartition(" ")
            return cls(*_start(line)) if boot == _boot() else None
        except (OSError, ValueError):
            return None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return process_start(self.pid) == self.started


class Process:
    """One run of a container on this machine, identified by its folder: ours or adopted."""

    def __init__(self, folder: Path, isolation: Isolation, owned: subprocess.Popen[bytes] | None = None) -> None:
        self.folder = folder
        self.isolation = isolation
        self._owned = owned

    @property
    def shim(self) -> Marked | None:
        """The process that waits for the container's."""
        return Marked.read(self.folder / "shim")

    @property
    def main(self) -> Marked | None:
        """The container's first process, leader of its group."""
        return Marked.read(self.folder / "main")

    @property
    def alive(self) -> bool:
        """Whether the run has not ended."""
        if self._owned is not None:
            return self._owned.poll() is None
        return (shim := self.shim) is not None and shim.alive

    @property
    def exit_code(self) -> int | None:
        """The exit code that was written down; None if nobody could."""
        with contextlib.suppress(OSError, ValueError):
            text = (self.folder / "exit").read_text(encoding="ascii")
            return int(text) if text.endswith("\n") else None
        return None

    @property
    def finished(self) -> float | None:
        """When the exit code was written (Unix seconds)."""
        with contextlib.suppress(OSError):
            return (self.folder / "exit").stat().st_mtime
        return None

    async def ended(self) -> None:
        """Wait until the run has ended, without polling."""
        pid = self._owned.pid if self._owned else (shim.pid if (shim := self.shim) else None)
        if pid is not None and self.alive:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                descriptor = -1
            if descriptor >= 0:
                loop = asyncio.get_running_loop()
                done = asyncio.Event()
                loop.add_reader(descriptor, done.set)
                try:
                    # Between `alive` and `pidfd_open` the id may have gone to another process.
                    if self.alive:
                        await done.wait()
                finally:
                    loop.remove_reader(descriptor)
                    os.close(descriptor)
        if self._owned is not None:
            self._owned.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the container's process group."""
        main = self.main
        if main is not None and main.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(main.pid, number)

    def kill(self) -> None:
        """End every process of the run at once: with its first process, a PID namespace ends whole."""
        self.signal(signal.SIGKILL)

    def kill_shim(self) -> None:
        """End the run when its shim does not react."""
        if (shim := self.shim) is not None and shim.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(shim.pid, signal.SIGKILL)
        if self._owned is not None and self.shim is None:
            self._owned.kill()

    def command_inside(self, argv: Sequence[str], workdir: str) -> list[str]:
        """The argv that runs `argv` where the container runs.

        Raises:
            ProcessLookupError: It does not run.
        """
        shim = self.shim
        if shim is None or not shim.alive:
            raise ProcessLookupError(f"no process in {self.folder}")
        inside = ["/bin/sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh", workdir, *argv]
        if self.isolation.kind == "none":
            return inside
        user = ["--user", "--preserve-credentials"] if "--user" in self.isolation.flags else []
        enter = [_tool("nsenter"), "--target", str(shim.pid), *user, "--mount", "--pid", "--"]
        return [*enter, _tool("chroot"), str(self.folder / "root"), *inside]

    def environment(self) -> dict[str, str]:
        """The variables that the container's process was started with; empty when it is gone."""
        main = self.main
        try:
            raw = Path(f"/proc/{main.pid}/environ").read_bytes() if main and main.alive else b""
        except OSError:
            raw = b""
        pairs = (entry.split(b"=", 1) for entry in raw.split(b"\0") if b"=" in entry)
        return {os.fsdecode(key): os.fsdecode(value) for key, value in pairs}


class Sandbox:
    """Starts the processes of containers."""

    def __init__(self, isolation: Isolation, without: Path) -> None:
        self.isolation = isolation
        self._without = without

    async def start(
        self,
        folder: Path,
        argv: Sequence[str],
        variables: Mapping[str, str],
        *,
        workdir: str,
        logfile: Path,
        mounts: Sequence[Mount],
        hosts: Path | None,
        cgroup: Path | None,
    ) -> tuple[Process, str]:
        """Start one run; returns it with what failed, empty if its command runs.

        Raises:
            OSError: No process can be started at all.
        """
        root = ""
        if self.isolation.kind != "none":
            root = str(folder / "root")
            script = setup_script(self.isolation, folder, mounts, _machine(self._without), hosts)
            (folder / "setup.sh").write_text(script, encoding="utf-8")
        command, variables = _past_the_shell(argv, variables)
        prefix = [_tool("unshare"), *self.isolation.flags] if self.isolation.flags else []
        shim = [
            *prefix,
            "/bin/sh",
            str(SHIM),
            _tool("setsid"),
            _tool("chroot"),
            str(folder),
            root,
            workdir,
            str(cgroup or ""),
            *command,
        ]
        owned, reader = _spawned(shim, variables, folder, logfile)
        process = Process(folder, self.isolation, owned)
        heard = await _first_line(reader)
        return process, heard.removeprefix("failed ") if heard != "started" else ""


def _spawned(
    shim: Sequence[str], variables: Mapping[str, str], folder: Path, logfile: Path
) -> tuple[subprocess.Popen[bytes], int]:
    """A shim's process, and the pipe on which it reports what became of its command: its standard input."""
    reader, writer = os.pipe()
    try:
        with logfile.open("ab") as output:
            process = subprocess.Popen(
                shim,
                stdin=writer,
                stdout=output,
                stderr=output,
                env=dict(variables),
                cwd=folder,
                start_new_session=True,
            )
    finally:
        os.close(writer)
    return process, reader


def _past_the_shell(argv: Sequence[str], variables: Mapping[str, str]) -> tuple[list[str], Mapping[str, str]]:
    """A command and variables that start `argv` with all of `variables`, also those that a shell drops.

    It drops those whose names it could not hold itself, such as `db.password`. They travel in one variable, for every
    user of the machine can read command lines.
    """
    dropped = {name: value for name, value in variables.items() if not _SHELL_NAME.fullmatch(name)}
    if not dropped:
        return list(argv), variables
    kept = {name: value for name, value in variables.items() if name not in dropped}
    return [sys.executable, "-I", "-c", _SET_AND_EXEC, *argv], {**kept, _DROPPED: json.dumps(dropped)}


async def _first_line(descriptor: int) -> str:
    """The first line from a pipe, which is closed then; something readable if the other end went away silently."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        line = await asyncio.wait_for(stream.readline(), 60)
    except TimeoutError:
        return "failed the container's process was not started within 60 s"
    finally:
        transport.close()
    return line.decode(errors="replace").strip() or "failed the container's shim ended before its command was started"


def with_terminal(argv: Sequence[str]) -> list[str]:
    """The argv that runs `argv` in a session of its own, whose terminal is its standard input."""
    return [_tool("setsid"), "--ctty", *argv]


def _tool(name: str) -> str:
    return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ.get("PATH", "")) or name
