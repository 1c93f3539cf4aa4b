"""The processes of a laptop cloud under supervisord: their configuration, start, status and end.

supervisord runs as a daemon of the place and listens on a unix socket only. Every process carries
`MODELWORKS_LAPTOP=<place>` in its environment, so that what a crash left behind is found exactly and nothing else is.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault, ServerProxy  # it speaks to a socket of our own; nothing foreign is parsed

import psutil

from modelworks._files import write_whole
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from modelworks.laptop.state_dir import StateDir

MARK = "MODELWORKS_LAPTOP"
PROCESS = "MODELWORKS_PROCESS"
# sun_path holds 108 bytes, and supervisord binds to a longer name beside the socket before it renames it.
LONGEST_SOCKET = 90
_SOCKET = "supervisor.sock"
_ANSWER_SECONDS = 60
"""How long supervisord may take to answer: longer than the longest stop that it waits for."""
_KILL_SECONDS = 30
"""How long a killed process may take to be gone: a busy machine takes its time for that, too."""
_EXEC_SECONDS = 5
"""How long a process may take to become another program."""
_PF_EXITING, _PF_KTHREAD = 0x4, 0x20_0000
"""Of the kernel (include/linux/sched.h): a process that ends, and a thread of the kernel's own."""


@dataclass(frozen=True)
class Program:
    """One process that is kept running."""

    name: str
    """Its name in `status`, and of its log file."""

    argv: Sequence[str | Path]
    """The command line. Never a secret in here: the process list shows it."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the small environment that every process of the laptop gets. No secrets either, but paths to them."""

    stop_seconds: int = 5
    """How long it may take to end before it is killed."""

    whole_group: bool = True
    """Whether its children end with it."""


def socket_path(place: StateDir) -> Path:
    """Where supervisord listens: in the place, or where its path is too long, in a private folder of its own."""
    return (_socket_folder(place) or place.run) / _SOCKET


def _socket_folder(place: StateDir) -> Path | None:
    """The folder to which the place's link leads, unless it is gone or another user made one of its name since."""
    with contextlib.suppress(OSError):
        folder = _socket_link(place).readlink()
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return None


def _socket_link(place: StateDir) -> Path:
    # Kept in the place: the next shell may have another TMPDIR, and means the same supervisord.
    return place.run / "sockets"


def _make_socket_folder(place: StateDir) -> None:
    """Make a folder with a short path where the place has a long one.

    Raises:
        ModelworksError: No folder for temporary files has a path that is short enough, or none can be written.
    """
    if len(os.fsencode(place.run / _SOCKET)) <= LONGEST_SOCKET or _socket_folder(place):
        return
    for base in dict.fromkeys([tempfile.gettempdir(), "/tmp"]):  # noqa: S108 - a private folder with a name of its own
        with contextlib.suppress(OSError):
            mode = Path(base).stat().st_mode
            if mode & 0o022 and not mode & stat.S_ISVTX:
                continue  # others may put a folder of theirs in place of ours
            folder = Path(tempfile.mkdtemp(prefix="modelworks-", dir=base))
            if len(os.fsencode(folder / _SOCKET)) <= LONGEST_SOCKET:
                _socket_link(place).unlink(missing_ok=True)
                _socket_link(place).symlink_to(folder)
                return
            folder.rmdir()
    raise ModelworksError(
        f"a socket in {place.run} has a path longer than {LONGEST_SOCKET} bytes, and no folder for temporary files is "
        "short and can be written",
        fix="Set MODELWORKS_HOME to a folder with a shorter path, or TMPDIR to one that can be written.",
    )


def log_path(place: StateDir, name: str) -> Path:
    """The log of the process `name`; older parts are beside it with `.1` and `.2` appended."""
    return place.logs / f"{name}.log"


def running(place: StateDir) -> bool:
    """Whether the place's supervisord answers."""
    return _rpc(place, "getState") is not None


def apply(place: StateDir, programs: Sequence[Program], *, held: Sequence[int] = ()) -> None:
    """Make exactly `programs` run: start what is missing, restart what is declared differently, end what is not listed.

    Args:
        place: Whose processes.
        programs: All processes that shall run.
        held: Descriptors that supervisord, if it is started now, holds open for as long as it runs.

    Raises:
        ModelworksError: supervisord does not start or does not answer, or can have no socket.
    """
    _make_socket_folder(place)
    write_whole(_config(place), _render(place, programs))
    if not running(place):
        end(_supervised(place), grace=0)  # what a killed supervisord left: it holds the ports
        _start(place, held)
    else:
        _reload(place)
    for info in processes(place):
        if info["statename"] in {"STOPPED", "EXITED", "FATAL"}:
            with contextlib.suppress(Fault):  # it started meanwhile
                _rpc(place, "startProcess", info["name"], False)


def processes(place: StateDir) -> list[dict[str, Any]]:
    """The state of each process in supervisord; empty when it does not run."""
    return list(_rpc(place, "getAllProcessInfo") or [])


def restart(place: StateDir, name: str) -> None:
    """Restart one process.

    Raises:
        ModelworksError: There is no such process.
    """
    try:
        with contextlib.suppress(Fault):
            _rpc(place, "stopProcess", name)
        _rpc(place, "startProcess", name, False)
    except Fault as fault:
        raise ModelworksError(f"cannot restart {name}: {fault.faultString}") from fault


def restarts(place: StateDir, name: str) -> int:
    """How often the process was started again since supervisord runs, as far back as its log reaches."""
    with contextlib.suppress(OSError):
        text = (place.logs / "supervisord.log").read_text("utf-8", "replace")
        text = text[max(0, text.rfind("supervisord started with pid")) :]
        return max(0, text.count(f"spawned: '{name}' with pid") - 1)
    return 0


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def stop(place: StateDir, *, grace: float) -> None:
    """End every process of the place, supervised or left over, and their descendants.

    Args:
        place: Whose processes.
        grace: Seconds between SIGTERM and SIGKILL.
    """
    # supervisord goes first, and at once: alive, it would restart what ends.
    supervisors = [process for process in _marked(place) if _is_supervisor(process, place)]
    for process in supervisors:
        with contextlib.suppress(psutil.Error):
            process.kill()
    for _ in range(10):
        if not (found := list(_marked(place))):
            break
        end(found, grace=grace)
        grace = 0  # whoever appears now was started while we asked
    # A process that ends loses its mark before its files, and with them what supervisord held.
    _alive(supervisors, _KILL_SECONDS)
    socket_path(place).unlink(missing_ok=True)
    if folder := _socket_folder(place):
        shutil.rmtree(folder, ignore_errors=True)
    _socket_link(place).unlink(missing_ok=True)


def end(found: Iterable[psutil.Process], *, grace: float) -> None:
    """End processes with everything they started: ask, wait for `grace` seconds, kill."""
    everyone: dict[int, psutil.Process] = {}
    for process in found:
        with contextlib.suppress(psutil.Error):
            everyone |= {child.pid: child for child in process.children(recursive=True)}
        everyone[process.pid] = process
    everyone.pop(os.getpid(), None)
    if grace > 0:
        for process in everyone.values():
            with contextlib.suppress(psutil.Error):
                process.terminate()
    alive = _alive(list(everyone.values()), grace)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _alive(alive, _KILL_SECONDS)


def _alive(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that have not ended when the time is over."""
    deadline = time.monotonic() + seconds
    while (processes := [each for each in processes if not _ended(each)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return processes


def _ended(process: psutil.Process) -> bool:
    """Whether its files are closed. Its parent may not notice: the first process of many containers never does."""
    try:
        # Threads that end after the first one have the files still.
        is_dead = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True
    return is_dead or not process.is_running()


def leftovers(place: StateDir) -> list[psutil.Process]:
    """Every process that carries the place's mark, except this one and those it runs under."""
    return list(_marked(place))


def _marked(place: StateDir) -> Iterator[psutil.Process]:
    mark = f"{MARK}={place.root}".encode()
    me = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, psutil.Error):
            if mark in _variables(folder).split(b"\0"):
                process = psutil.Process(int(folder.name))
                if process.pid not in me and process.status() != psutil.STATUS_ZOMBIE:
                    yield process


def _variables(folder: Path) -> bytes:
    """The environment of a process, by its folder in /proc."""
    deadline = time.monotonic() + _EXEC_SECONDS
    while not (found := (folder / "environ").read_bytes()) and _has_variables(folder):
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    return found


def _has_variables(folder: Path) -> bool:
    """Whether a process has an environment, or will: in the middle of `execve` it has none."""
    # See `man 5 proc_pid_stat`: the name, in parentheses, may hold anything.
    fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    state, flags, code, start, end = fields[0], *(int(fields[at]) for at in (6, 23, 47, 48))
    is_program = state not in "ZX" and not flags & (_PF_EXITING | _PF_KTHREAD)
    return is_program and (code == 0 or end > start)


def _supervised(place: StateDir) -> list[psutil.Process]:
    """The programs themselves, without the pods: a node agent that comes back adopts those."""
    return [process for process in _marked(place) if _is_supervisor(process, place) or _is_program(process)]


def _is_supervisor(process: psutil.Process, place: StateDir) -> bool:
    """Whether it is a supervisord of the place, or a copy of one that is about to become a program."""
    with contextlib.suppress(psutil.Error):
        return str(_config(place)) in process.cmdline()
    return False


def _is_program(process: psutil.Process) -> bool:
    # `env` starts a program: it has the name as an argument first, and the program has it as a variable after that.
    name = f"{PROCESS}="
    with contextlib.suppress(OSError, psutil.Error):
        variables = _variables(Path(f"/proc/{process.pid}")).split(b"\0")
        return any(each.startswith(name) for each in process.cmdline()) or any(
            each.startswith(name.encode()) for each in variables
        )
    return False


def _config(place: StateDir) -> Path:
    return place.run / "supervisord.conf"


def _start(place: StateDir, held: Sequence[int]) -> None:
    socket_path(place).unlink(missing_ok=True)
    try:
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(_config(place))],
            env=_environment(place),
            cwd=place.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            pass_fds=held,
            start_new_session=True,  # Ctrl-C in a terminal is for the command, not for the cloud
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(error.stderr or error.output or error).strip().splitlines() or ["it logged nothing"]
        # An error in its configuration is followed by a line that names its help.
        cause = next((line for line in said if line.startswith("Error: ")), said[-1])
        raise ModelworksError(
            f"the process supervisor does not start: {cause}", fix=f"Look into {place.logs / 'supervisord.log'}."
        ) from error
    deadline = time.monotonic() + 15
    while not running(place):
        if time.monotonic() > deadline:
            raise ModelworksError(
                "the process supervisor does not answer", fix=f"Look into {place.logs / 'supervisord.log'}."
            )
        time.sleep(0.02)


def _reload(place: StateDir) -> None:
    try:
        [[added, changed, removed]] = _rpc(place, "reloadConfig")
        for name in (*changed, *removed):
            with contextlib.suppress(Fault):
                _rpc(place, "stopProcessGroup", name)
            _rpc(place, "removeProcessGroup", name)
        for name in (*added, *changed):
            _rpc(place, "addProcessGroup", name)
    except Fault as fault:
        raise ModelworksError(f"the process supervisor refused its configuration: {fault.faultString}") from fault


def _rpc(place: StateDir, method: str, *args: object) -> Any:
    """The answer of supervisord, or None when it does not run.

    Raises:
        Fault: It refuses.
        ModelworksError: It does not answer.
    """
    from supervisor.xmlrpc import SupervisorTransport  # imports half of supervisor

    transport = SupervisorTransport(None, None, serverurl=f"unix://{socket_path(place)}")
    transport._get_connection = partial(_SocketConnection, socket_path(place))  # noqa: SLF001 - it has no time limit
    try:
        with ServerProxy("http://127.0.0.1", transport=transport, allow_none=True) as proxy:
            return getattr(proxy.supervisor, method)(*args)
    except TimeoutError as error:
        raise ModelworksError(
            f"supervisord of {place.root} did not answer within {_ANSWER_SECONDS} s",
            fix="It may be stopped, or the machine overloaded: try again, or run `modelworks laptop down`.",
        ) from error
    except OSError:
        return None
    finally:
        transport.close()


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _environment(place: StateDir) -> dict[str, str]:
    """Variables of every process: none of the user's credentials, proxies or settings."""
    kept = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "MODELWORKS_CACHE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        ),
        MARK: str(place.root),
    }


def _render(place: StateDir, programs: Sequence[Program]) -> str:
    def path(absolute: Path) -> str:
        """A path as supervisord, which works in the place, finds it: that of the place may begin a comment."""
        return _escape(absolute.relative_to(place.root) if absolute.is_relative_to(place.root) else absolute)

    sections = [
        f"""[unix_http_server]
file={path(socket_path(place))}
chmod=0700

[supervisord]
logfile={path(place.logs / "supervisord.log")}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={path(place.run / "supervisord.pid")}
childlogdir={path(place.logs)}
umask=077
minfds=4096
identifier=modelworks

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    ]
    for program in programs:
        # supervisor's own `environment=` cannot hold every value; `env` can, and becomes the program.
        pairs = [f"{name}={value}" for name, value in {PROCESS: program.name, **program.environment}.items()]
        group = str(program.whole_group).lower()
        # supervisord expands this one twice.
        log = _escape(path(log_path(place, program.name)))
        sections.append(
            f"""[program:{program.name}]
command={" ".join(_word(str(part)) for part in ("/usr/bin/env", *pairs, *program.argv))}
autostart=true
autorestart=true
startsecs=1
startretries=60
stopwaitsecs={program.stop_seconds}
stopasgroup={group}
killasgroup={group}
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""
        )
    return "\n".join(sections)


def _escape(value: object) -> str:
    return str(value).replace("%", "%%")


def _word(value: str) -> str:
    # A comment begins with one of these behind a blank, wherever it is.
    return re.sub(r"(?<=\s)([;#])", r"''\1", _escape(shlex.quote(value)))
