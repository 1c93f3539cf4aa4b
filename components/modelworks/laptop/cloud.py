"""A laptop cloud from nothing to ready, and back to nothing.

`up` may be run at any time and again: it makes what is missing, starts what is not running, and changes nothing else.
Its facts are in `laptop.json`; one lock a place keeps two commands apart.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop import aws, control_plane, parts, plugins, pod_network, supervisor, toolchain
from modelworks.laptop import environments as store
from modelworks.laptop.agent import images, isolation
from modelworks.laptop.agent.cgroup import Memory
from modelworks.laptop.gateway import caddy
from modelworks.laptop.parts import Tell
from modelworks.laptop.pod_network import Claim
from modelworks.laptop.state_dir import StateDir, read_facts
from modelworks.laptop.toolchain import packages

if TYPE_CHECKING:
    import httpx


def up(
    place: StateDir,
    environments: Sequence[str] = ("local",),
    *,
    kubernetes: bool = True,
    strict: bool = False,
    metrics_delay: float = 0,
    report: Tell = lambda _: None,
    building: toolchain.Report | None = None,
) -> dict[str, Any]:
    """Bring the laptop cloud up, with `environments` beside those it has.

    Args:
        place: Where.
        environments: Names of environments that shall be there.
        kubernetes: Whether Kubernetes shall run. A place that has it keeps it.
        strict: Whether it refuses what AWS refuses (docs/guides/laptop-aws.md). A place that is strict stays so.
        metrics_delay: Seconds until published metrics are readable, from the first `up` of a place on.
        report: Called with each step, one line each.
        building: Called with the progress of the tools; default: progress on stderr.

    Returns:
        The facts of the place, as in `laptop.json`.

    Raises:
        ModelworksError: A part is unavailable or does not start. The parts that this call started are stopped, and
            wiped if there was nothing before. Or the place exists, and is not `strict`.
    """
    _check_platform()
    _check_path(place)
    began = time.monotonic()
    with (
        _locked(place, claim=True) as fresh,
        _whole_or_nothing(place, fresh=fresh),
        contextlib.closing(_network(place)) as network,
    ):
        _make_folders(place)
        facts = _facts(place, network.network, kubernetes=kubernetes, strict=strict, metrics_delay=metrics_delay)
        images.keep_settings(place, packages.uv(), os.environ)
        for name in environments:
            store.create(place, name)
        was = {info["name"] for info in supervisor.processes(place) if info["statename"] == "RUNNING"}
        if facts["kubernetes"]:
            facts["isolation"] = _chosen_isolation(place, facts, was)
        started = _parts_up(place, facts, network, was, report, building)
        _write(place, facts)
        plugins.install(place, Path(facts["tools"][toolchain.PROVIDER]) if facts["kubernetes"] else None)
        took = None if {part.program.name for part in started} <= was else time.monotonic() - began
        _report_up(place, was, took, report)
        return facts


def _make_folders(place: StateDir) -> None:
    for folder in (place.root, place.logs, place.run, place.node, place.gateway, place.root / "pulumi"):
        place.folder(folder)


def _report_up(place: StateDir, was: set[str], took: float | None, report: Tell) -> None:
    for name in place.environments():
        if f"aws-{name}" not in was and (memory := aws.memory(place, name)):
            report(memory)
    when = "already" if took is None else f"after {took:.1f} s"
    report(f"the laptop cloud is up {when}: {', '.join(place.environments())}")


def _parts_up(
    place: StateDir,
    facts: dict[str, Any],
    network: Claim,
    was: set[str],
    report: Tell,
    building: toolchain.Report | None,
) -> list[parts.Part]:
    """Have every tool and start every part; returns the parts once they are ready."""
    amazon = parts.aws_accounts(place)
    if not supervisor.running(place):
        _ports_free(place, facts)
        # It needs no tools, and so it is there while they are still being built.
        supervisor.apply(place, [part.program for part in amazon], held=network.descriptors)
    needed = _tool_names(kubernetes=facts["kubernetes"])
    report(f"tools: {', '.join(needed)}")
    with toolchain.obtaining(toolchain.Toolchain(), needed, building) as tools:
        if facts["kubernetes"]:
            return _kubernetes_up(place, facts, amazon, was, report, tools)
        facts["tools"] = _paths(tools.wait_for_all())
        supervisor.apply(place, [part.program for part in amazon])
        parts.wait(place, amazon, was, report)
        return amazon


def _kubernetes_up(
    place: StateDir,
    facts: dict[str, Any],
    amazon: list[parts.Part],
    was: set[str],
    report: Tell,
    tools: toolchain.Obtaining,
) -> list[parts.Part]:
    control_plane.prepare(place, facts)
    for name in place.environments():
        store.identities(place, name, facts["ports"])
    # The control plane does not wait for the tools of what follows it.
    facts["tools"] = _paths(tools.wait_for_all() if was else tools.wait(control_plane.PROGRAMS))
    first = [*amazon, *parts.control_plane_parts(place, facts)]
    # Followers that run already stay: the first round must not end what the second one declares.
    early = [part for part in parts.followers(place, facts) if part.program.name in was] if was else []
    supervisor.apply(place, [part.program for part in (*first, *early)])
    parts.wait(place, first, was, report)
    with control_plane.client(place, facts["ports"]) as api:
        control_plane.set_up_cluster(api)
        for name in place.environments():
            control_plane.set_up_environment(api, name)
    facts["tools"] = _paths(tools.wait_for_all())
    followers = parts.followers(place, facts)
    supervisor.apply(place, [part.program for part in (*first, *followers)])
    parts.wait(place, followers, was, report)
    with control_plane.client(place, facts["ports"]) as api:
        control_plane.publish_metrics(api, place, facts["ports"])
        control_plane.wait_for_ownership(api)
        if _isolation(api) == isolation.NONE.kind:
            report(
                "this machine allows no mount namespaces: a container finds a volume only where a variable, an "
                "argument or its workingDir names the path (docs/guides/node-agent.md, Privileges)"
            )
    return [*first, *followers]


def down(place: StateDir, *, keep: bool = False, report: Tell = lambda _: None) -> None:
    """End everything and wipe it: processes, mounts, files. Safe when nothing is up.

    Models are kept elsewhere, and nothing of them is deleted.

    Args:
        place: The laptop cloud to stop.
        keep: Keep the files, so that the next `up` continues where this one ends.
        report: Called with each step.

    Raises:
        ModelworksError: A process or file withstands.
    """
    if not place.claimed and not supervisor.leftovers(place):
        report(f"nothing is up in {place.root}" + (", and nothing of it is deleted" if place.root.exists() else ""))
        return
    with _locked(place), _uninterrupted():
        _end(place, keep=keep)
    report(f"stopped; {place.root} is kept" if place.root.exists() else f"stopped and wiped {place.root}")


def logs(place: StateDir, name: str | None, *, lines: int = 20, follow: bool = False) -> Iterator[str]:
    """The last lines of one process's log or of all, and with `follow` what comes after, until interrupted.

    Raises:
        ModelworksError: There is no log of that name.
    """
    paths = {path.stem: path for path in sorted(place.logs.glob("*.log"))}
    if name is not None:
        if name not in paths:
            have = ", ".join(paths) or "none, for nothing is up"
            raise ModelworksError(f"there is no log of {name!r} (there is: {have})")
        paths = {name: paths[name]}
    prefix = {each: f"{each}: " if len(paths) > 1 else "" for each in paths}
    offsets = {}
    for each, path in paths.items():
        offsets[each] = path.stat().st_size
        yield from (prefix[each] + line for line in supervisor.tail(path, lines).splitlines())
    while follow:
        time.sleep(0.3)
        for each, path in paths.items():
            with contextlib.suppress(OSError), path.open("rb") as file:
                size = path.stat().st_size
                file.seek(offsets[each] if size >= offsets[each] else 0)  # shorter: it was rotated
                fresh = file.read()
                whole = fresh[: fresh.rfind(b"\n") + 1]
                offsets[each] = file.tell() - len(fresh) + len(whole)
                yield from (prefix[each] + line for line in whole.decode("utf-8", "replace").splitlines())


def _end(place: StateDir, *, keep: bool) -> None:
    supervisor.stop(place, grace=8 if keep else 1.5)
    if left := supervisor.leftovers(place):
        pids = ", ".join(str(process.pid) for process in left)
        raise ModelworksError(f"these processes of the laptop cloud withstand SIGKILL: {pids}", fix="End them as root.")
    _unmount(place)
    Memory.wipe(place.root)
    if place.claimed and not keep:
        _wipe(place)


def _wipe(place: StateDir) -> None:
    """Delete the folder, its mark last: whatever ends this half-way, the next `down` continues."""
    place.mark.touch()
    for attempt in range(6):
        if attempt:
            time.sleep(0.1)  # a process that was killed may still have been writing
        refused: list[OSError] = []
        for path in [path for path in place.root.iterdir() if path != place.mark]:
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError as error:
                refused.append(error)
        if not refused:
            shutil.rmtree(place.root)
            return
    raise ModelworksError(
        f"cannot remove {refused[0].filename or place.root}: {refused[0].strerror}", fix="Remove it as its owner."
    ) from refused[0]


def _unmount(place: StateDir) -> None:
    prefix = str(place.root) + os.sep
    fields = [line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    # The kernel writes blanks, line ends and backslashes in octal.
    mounts = [os.fsdecode(re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), field)) for field in fields]
    for target in sorted(mounts, reverse=True):
        if target.startswith(prefix):
            subprocess.run(["umount", "-l", target], capture_output=True, timeout=10, check=False)


def _network(place: StateDir) -> Claim:
    """The network of the place: as it was, or else a free one."""
    before: str | None = read_facts(place.root / "laptop.json").get("pod_network")
    if before is None:
        return pod_network.choose(place)
    if supervisor.running(place):
        return Claim(before, holder=None)
    return pod_network.keep(before)


def _facts(
    place: StateDir, network: str, *, kubernetes: bool, strict: bool = False, metrics_delay: float = 0
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
        _write(place, facts)
    return facts


def _chosen_isolation(place: StateDir, facts: dict[str, Any], was: set[str]) -> str:
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


def _write(place: StateDir, facts: dict[str, Any]) -> None:
    text = json.dumps(facts, indent=2) + "\n"
    path = place.root / "laptop.json"
    if not path.exists() or path.read_text("utf-8") != text:
        write_whole(path, text)


def _tool_names(*, kubernetes: bool) -> list[str]:
    return ["pulumi", *([*control_plane.TOOLS, "caddy", toolchain.PROVIDER] if kubernetes else [])]


def _paths(tools: dict[str, Path]) -> dict[str, str]:
    return {name: str(tools[name]) for name in toolchain.TOOLS if name in tools}


def _ports_free(place: StateDir, facts: dict[str, Any]) -> None:
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


def _isolation(api: httpx.Client) -> str:
    version = api.get(f"/api/v1/nodes/{control_plane.NODE}").json()["status"]["nodeInfo"]["containerRuntimeVersion"]
    return str(version).removeprefix("process://")


def _check_platform() -> None:
    if sys.platform != "linux":
        raise ModelworksError(
            f"the laptop cloud needs Linux, and this is {sys.platform}",
            fix="Use a Linux machine, container or virtual machine; what targets a real cloud works here too.",
        )


def _check_path(place: StateDir) -> None:
    # PATH and lists of folders have no way to write a colon; files of configuration none for a line end.
    if refused := re.search(r"[:\x00-\x1f\x7f]", str(place.root)):
        raise ModelworksError(
            f"the path of the laptop cloud must not contain {refused[0]!r}: {str(place.root)!r}",
            fix="Set MODELWORKS_HOME to a folder without it.",
        )


@contextlib.contextmanager
def _locked(place: StateDir, *, claim: bool = False) -> Iterator[bool]:
    """Hold the place for one command at a time; yields whether there was none before.

    With `claim` the folder becomes a laptop cloud's, or the call fails.

    The folder itself is locked: no lock file is left over, and whoever waited for a place that was wiped meanwhile sees
    that the name means another folder now.
    """
    told = False
    while True:
        try:
            place.root.mkdir(parents=True, mode=0o700)
            fresh = True
        except FileExistsError:
            fresh = not any(place.root.iterdir()) if place.root.is_dir() else False
        except OSError as error:
            raise ModelworksError(
                f"cannot make the folder {place.root}: {error.strerror}",
                fix="Free space or fix its permissions, or set MODELWORKS_HOME to a folder that can be written.",
            ) from error
        try:
            handle = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelworksError(f"cannot open the folder {place.root}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    print(f"waiting for another command that works on {place.root}", file=sys.stderr)
                    told = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                if os.stat(place.root).st_ino != os.fstat(handle).st_ino:  # noqa: PTH116 - compared with a descriptor
                    continue
            except FileNotFoundError:
                continue
            fresh = fresh and not place.claimed
            if claim:
                place.claim()
            yield fresh
            return
        finally:
            os.close(handle)


@contextlib.contextmanager
def _whole_or_nothing(place: StateDir, *, fresh: bool) -> Iterator[None]:
    """Undo what an `up` began that does not come to its end: all of it if nothing was there, else what it started."""
    was_running = supervisor.running(place)
    try:
        with _terminable():
            yield
    except BaseException as error:
        if not was_running:
            with _uninterrupted():
                kept = _keep_logs(place) if isinstance(error, ModelworksError) and fresh else None
                _end(place, keep=not fresh)
            if kept and isinstance(error, ModelworksError):
                error.fix = error.fix.replace(str(place.logs), str(kept))
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ModelworksError(
                f"the disk that holds {place.root} is full", fix="Free some space and try again."
            ) from error
        raise


def _keep_logs(place: StateDir) -> Path | None:
    """Copy the logs of an `up` that failed to where wiping does not reach; None when that is not possible."""
    import tempfile

    try:
        kept = Path(tempfile.mkdtemp(prefix="modelworks-logs-"))
        shutil.copytree(place.logs, kept, dirs_exist_ok=True)
    except (OSError, shutil.Error):
        return None
    return kept


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end this command as Ctrl-C does: with everything put in order."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put signals off while things are put in order: a second Ctrl-C must not leave half of them."""
    wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
