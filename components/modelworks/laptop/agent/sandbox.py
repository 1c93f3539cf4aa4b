"""Processes of containers: started with their view of the file system, found again, ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelworks.laptop.agent.isolation import Isolation, Mount, machine_mounts, setup_script

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
        enter = [_tool("nsenter"), "--target", str(shim.pid), *user, "--mount", "--uts", "--pid", "--"]
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
        hostname: str,
        cgroup: Path | None,
    ) -> tuple[Process, str]:
        """Start one run; returns it with what failed, empty if its command runs.

        Raises:
            OSError: No process can be started at all.
        """
        root = ""
        if self.isolation.kind != "none":
            root = str(folder / "root")
            machine = machine_mounts(self._without)
            script = setup_script(self.isolation, folder, mounts, machine, hosts, hostname)
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
