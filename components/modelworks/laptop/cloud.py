"""A laptop cloud from nothing to ready, and back to nothing.

`up` may be run at any time and again: it makes what is missing, starts what is not running, and changes nothing else.
Its facts are in `laptop.json`; one lock a place keeps two commands apart.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.laptop import aws, control_plane, parts, plugins, supervisor, toolchain
from modelworks.laptop import environments as store
from modelworks.laptop.agent import images, isolation
from modelworks.laptop.cloud_facts import chosen_isolation, facts_of, network_of, require_free_ports, write_facts
from modelworks.laptop.exclusive import locked, terminable, uninterrupted
from modelworks.laptop.parts import Tell
from modelworks.laptop.pod_network import Claim
from modelworks.laptop.state_dir import StateDir
from modelworks.laptop.teardown import end
from modelworks.laptop.toolchain import packages

if TYPE_CHECKING:
    import httpx


def up(
    place: StateDir,
    environments: Sequence[str] = ("local",),
    *,
    kubernetes: bool = True,
    strict: bool = False,
    metrics_delay: float | None = None,
    report: Tell = lambda _: None,
    building: toolchain.Report | None = None,
) -> dict[str, Any]:
    """Bring the laptop cloud up, with `environments` beside those it has.

    Args:
        place: Where.
        environments: Names of environments that shall be there.
        kubernetes: Whether Kubernetes shall run. A place that has it keeps it.
        strict: Whether it refuses what AWS refuses (docs/guides/laptop-aws.md). A place that is strict stays so.
        metrics_delay: Seconds until published metrics are readable, from the first `up` of a place on. Default:
            `STRICT_METRICS_DELAY` if it is strict, else none.
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
        locked(place, claim=True) as fresh,
        _whole_or_nothing(place, fresh=fresh),
        contextlib.closing(network_of(place)) as network,
    ):
        _make_folders(place)
        facts = facts_of(place, network.network, kubernetes=kubernetes, strict=strict, metrics_delay=metrics_delay)
        images.keep_settings(place, packages.uv(), os.environ)
        for name in environments:
            store.create(place, name)
        was = {info["name"] for info in supervisor.processes(place) if info["statename"] == "RUNNING"}
        if facts["kubernetes"]:
            facts["isolation"] = chosen_isolation(place, facts, was)
        started = _parts_up(place, facts, network, was, report, building)
        write_facts(place, facts)
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
        require_free_ports(place, facts)
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
    with locked(place), uninterrupted():
        end(place, keep=keep)
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


def _tool_names(*, kubernetes: bool) -> list[str]:
    return ["pulumi", *([*control_plane.TOOLS, "caddy", toolchain.PROVIDER] if kubernetes else [])]


def _paths(tools: dict[str, Path]) -> dict[str, str]:
    return {name: str(tools[name]) for name in toolchain.TOOLS if name in tools}


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
def _whole_or_nothing(place: StateDir, *, fresh: bool) -> Iterator[None]:
    """Undo what an `up` began that does not come to its end: all of it if nothing was there, else what it started."""
    was_running = supervisor.running(place)
    try:
        with terminable():
            yield
    except BaseException as error:
        if not was_running:
            with uninterrupted():
                kept = _keep_logs(place) if isinstance(error, ModelworksError) and fresh else None
                end(place, keep=not fresh)
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
