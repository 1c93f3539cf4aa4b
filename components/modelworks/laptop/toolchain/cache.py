"""The cache of built tools: found if whole, built once if not, by whichever process comes first."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain import golang, official
from modelworks.laptop.toolchain.progress import Report, Step
from modelworks.laptop.toolchain.tools import MODULES, TOOLS, Tool, on_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_HOST: Final = "pulumi-language-python"
_CORES_A_BUILD: Final = 4
"""Go keeps this many cores busy through most of a build; fewer builds at a time than cores / this only queue."""


@dataclass(frozen=True)
class State:
    """What there is of one tool."""

    name: str
    version: str
    source: str
    """Where it is taken from: `PATH (1.2.3)`, `installer`, `built`."""
    state: str
    """`ready`, `missing` or `damaged`."""
    path: Path | None
    note: str
    """Why the one on PATH was passed over."""

    def facts(self) -> dict[str, str | None]:
        """The same for `--json`."""
        return {
            "name": self.name,
            "version": self.version,
            "from": self.source,
            "state": self.state,
            "path": str(self.path) if self.path else None,
            "note": self.note,
        }


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/modelworks/toolchain`, or the same under `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".cache"
    return base / "modelworks" / "toolchain"


@dataclass(frozen=True)
class Toolchain:
    """Tools and where they are cached. The defaults are what everyone but a test wants."""

    cache: Path = field(default_factory=cache_folder)
    tools: Mapping[str, Tool] = field(default_factory=lambda: TOOLS)
    modules: Path = MODULES

    # -- what others call ------------------------------------------------------------------------------------------

    def ensure(
        self, names: Iterable[str], report: Report, ready: Callable[[str, Path], None] | None = None
    ) -> dict[str, Path]:
        """See `modelworks.laptop.toolchain.ensure`."""
        _check_platform()
        wanted = self._wanted(names)
        got: dict[str, Path] = {}

        def have(tool: Tool, path: Path, how: str) -> None:
            got[tool.name] = path
            report(Step(tool.name, "ready", how))
            if ready is not None:
                ready(tool.name, path)

        missing: list[tuple[Tool, str]] = []
        for tool in wanted:
            path, why = on_path(tool, besides=self.cache)
            if path is not None:
                have(tool, path, why)
            elif (cached := self._cached(tool)) is not None:
                have(tool, cached, "cached")
            else:
                missing.append((tool, why))
        if missing:
            self._get(missing, report, have)
        return {tool.name: got[tool.name] for tool in wanted}

    def bin_path(self, names: Iterable[str]) -> list[Path]:
        """See `modelworks.laptop.toolchain.bin_path`."""
        folders: list[Path] = []
        for tool in self._wanted(names):
            path, _ = on_path(tool, besides=self.cache)
            path = path or self._cached(tool)
            if path is not None and path.parent not in folders:
                folders.append(path.parent)
        return folders

    def states(self) -> list[State]:
        """See `modelworks.laptop.toolchain.states`."""
        return [self._state(tool) for tool in self.tools.values()]

    # -- the cache -------------------------------------------------------------------------------------------------

    def key(self, tool: Tool) -> str:
        """Names everything that the bytes of a built tool depend on, but for the release of Go."""
        digest = hashlib.sha256()
        for part in (
            *(path.read_bytes() for path in sorted((self.modules / tool.ours).glob("*.go")) if tool.ours),
            (self.modules / tool.module / "go.mod").read_bytes(),
            (self.modules / tool.module / "go.sum").read_bytes(),
            " ".join(golang.flags(tool)).encode(),
            platform.machine().encode(),
        ):
            digest.update(len(part).to_bytes(8, "big") + part)
        return f"{tool.version}-{digest.hexdigest()[:12]}"

    def built(self, tool: Tool) -> Path:
        """Where the tool's built executable is, or would be."""
        return self.cache / tool.name / self.key(tool) / tool.name

    def _cached(self, tool: Tool) -> Path | None:
        if tool.companions and (installed := official.installed(self.cache, tool)) is not None:
            return installed
        path = self.built(tool)
        if not _whole(path):
            return None
        if tool.companions:
            _write_language_host(path.parent)
        return path

    def _state(self, tool: Tool) -> State:
        path, found = on_path(tool, besides=self.cache)
        if path is not None:
            return State(tool.name, tool.version, found, "ready", path, "")
        cached = self._cached(tool)
        if cached is None:
            state = "damaged" if self.built(tool).exists() else "missing"
            return State(tool.name, tool.version, "-", state, None, f"{found}; built when needed, {tool.seconds} s")
        source = "built" if cached == self.built(tool) else "installer"
        return State(tool.name, tool.version, source, "ready", cached, found)

    def _wanted(self, names: Iterable[str]) -> list[Tool]:
        names = set(names)
        if unknown := names - set(self.tools):
            raise ModelworksError(
                f"there is no tool {', '.join(sorted(unknown))}", fix=f"The tools are {', '.join(self.tools)}."
            )
        return [tool for tool in self.tools.values() if tool.name in names]

    # -- getting what is missing -----------------------------------------------------------------------------------

    def _get(self, missing: list[tuple[Tool, str]], report: Report, have: Callable[[Tool, Path, str], None]) -> None:
        stop = threading.Event()
        slots = _slots()
        with ThreadPoolExecutor(max_workers=slots) as pool:
            pending: set[Future[tuple[Tool, Path, str]]] = {
                pool.submit(self._get_one, tool, why, report, stop) for tool, why in missing
            }
            try:
                while pending:
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        have(*future.result())
            except BaseException:
                stop.set()  # the first error or Ctrl-C ends every build; Go's own cache keeps what is compiled
                for future in pending:
                    future.cancel()
                raise

    def _get_one(self, tool: Tool, why: str, report: Report, stop: threading.Event) -> tuple[Tool, Path, str]:
        home = _folder(self.cache / tool.name)
        with self._alone(home / f"{self.key(tool)}.lock", tool, report, stop):
            if (cached := self._cached(tool)) is not None:
                return tool, cached, "ready, another process had it built"
            if tool.companions and (path := official.install(self.cache, tool, report)) is not None:
                return tool, path, "installed by the SDK's installer, with the official Python host"
            if self.built(tool).exists():
                report(Step(tool.name, "note", f"{self.built(tool)} is damaged and is built again"))
            with self._slot(tool, report, stop):
                started = time.monotonic()
                path = self._build(tool, why, report, stop)
            return tool, path, f"built in {time.monotonic() - started:.0f} s"

    def _build(self, tool: Tool, why: str, report: Report, stop: threading.Event) -> Path:
        path = self.built(tool)
        for left in path.parent.parent.glob(f".{path.parent.name}.*"):
            shutil.rmtree(left, ignore_errors=True)  # of a build that was killed; the lock is ours
        temporary = _folder(path.parent.parent / f".{path.parent.name}.{os.getpid()}")
        log = _folder(self.cache / "logs") / f"{tool.name}-{tool.version}.log"
        try:
            go = golang.find(self.modules / tool.module, self.cache, report, tool)
            golang.build(
                golang.Build(tool, self.modules / tool.module, go, temporary / tool.name, log, why, _slots()),
                report,
                stop,
            )
            executable = temporary / tool.name
            record = {"sha256": _sha256(executable), "size": executable.stat().st_size}
            _folder(path.parent)
            (path.parent / f"{tool.name}.json").unlink(missing_ok=True)
            executable.replace(path)
            write_whole(
                path.parent / f"{tool.name}.json",
                json.dumps({**record, "mtime_ns": path.stat().st_mtime_ns}),
                mode=0o644,
            )
            if tool.companions:
                _write_language_host(path.parent)
        except OSError as error:
            raise ModelworksError(
                f"cannot put {tool.name} into {path.parent}: {error.strerror}",
                fix="Free space or fix its permissions, or point XDG_CACHE_HOME at another folder.",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return path

    # -- one at a time ---------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, lock: Path, tool: Tool, report: Report, stop: threading.Event) -> Iterator[None]:
        with _open(lock) as file:
            while not _try(file.fileno()):
                holder = file.read().strip() or "?"
                file.seek(0)
                report(Step(tool.name, "waiting", f"process {holder} is getting it, waiting", tool.seconds))
                _pause(stop)
            _sign(file.fileno())
            yield

    @contextmanager
    def _slot(self, tool: Tool, report: Report, stop: threading.Event) -> Iterator[None]:
        slots = [_open(self.cache / f"slot-{number}.lock") for number in range(_slots())]
        try:
            while not any(_try(slot.fileno()) for slot in slots):
                report(Step(tool.name, "waiting", "waiting for another build to end"))
                _pause(stop)
            yield
        finally:
            for slot in slots:
                slot.close()


def _slots() -> int:
    return max(1, len(os.sched_getaffinity(0)) // _CORES_A_BUILD)


def _open(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202 (an io type that has no public name)
    _folder(path.parent)
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _pause(stop: threading.Event) -> None:
    if stop.wait(0.5):
        raise golang.Stopped


def _whole(path: Path) -> bool:
    """Whether `path` is the executable that was built: by size and time, by its digest where the time has changed."""
    try:
        record = json.loads((path.parent / f"{path.name}.json").read_text(encoding="utf-8"))
        status = path.stat()
    except (OSError, ValueError):
        return False
    if status.st_size != record["size"] or not os.access(path, os.X_OK):
        return False
    return bool(status.st_mtime_ns == record["mtime_ns"] or _sha256(path) == record["sha256"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_language_host(folder: Path) -> None:
    source = Path(__file__).with_name("language_host.py").read_text(encoding="utf-8")
    target = folder / _HOST
    if not target.exists() or target.read_text(encoding="utf-8") != source:
        write_whole(target, source, mode=0o755)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _unwritable(path: Path, error: OSError) -> ModelworksError:
    return ModelworksError(
        f"cannot write to the tool cache {path}: {error.strerror}",
        fix="Free space or fix its permissions, or point XDG_CACHE_HOME at another folder.",
    )


def _check_platform() -> None:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in {"x86_64", "aarch64"}:
        raise ModelworksError(
            f"the laptop cloud runs on Linux on x86-64 and arm64; this is {platform.system()} on {machine}",
            fix="Run it in a Linux virtual machine. Real clouds need none of it: use the pulumi command line.",
        )
