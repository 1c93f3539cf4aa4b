"""The cache on disk: one folder a tool and version, complete or absent, and locks that keep processes apart."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from modelworks._files import write_whole
from modelworks._user import user_home
from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain import golang, official
from modelworks.laptop.toolchain.official import Download
from modelworks.laptop.toolchain.progress import Report, Step
from modelworks.laptop.toolchain.tools import MODULES, Tool

_HOST: Final = "pulumi-language-python"
_CLEARED: Final = ".work."
_REMOVE: Final = """
import os, shutil, sys
os.nice(19)
for folder in sys.argv[1:]:
    shutil.rmtree(folder, ignore_errors=True)
"""
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/modelworks/toolchain`, or the same under `~/.cache`.

    Raises:
        ModelworksError: The user has no home.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache and Path(cache).is_absolute():
        return Path(cache) / "modelworks" / "toolchain"
    if (home := user_home()) is None:
        raise ModelworksError(
            f"no folder can be found to cache tools in: user id {os.getuid()} has no home, and HOME is not set",
            fix="Set HOME or XDG_CACHE_HOME to a folder that can be written.",
        )
    return home / ".cache" / "modelworks" / "toolchain"


@dataclass(frozen=True)
class Store:
    """Where tools are cached, and under which names."""

    cache: Path = field(default_factory=cache_folder)
    modules: Path = MODULES
    downloads: Sequence[Download] = field(default_factory=official.pinned)

    def key(self, tool: Tool) -> str:
        """Names everything that the bytes of a built tool depend on, but for the release of Go."""
        digest = hashlib.sha256()
        for part in (
            *(path.read_bytes() for path in sorted((self.modules / tool.ours).rglob("*.go")) if tool.ours),
            (self.modules / tool.module / "go.mod").read_bytes(),
            (self.modules / tool.module / "go.sum").read_bytes(),
            " ".join(golang.flags(tool)).encode(),
            *(f"{staged.module} {staged.files} {staged.into}".encode() for staged in tool.staged),
            platform.machine().encode(),
        ):
            digest.update(len(part).to_bytes(8, "big") + part)
        return f"{tool.version}-{digest.hexdigest()[:12]}"

    def built(self, tool: Tool) -> Path:
        """Where the tool's executable is, or would be, if it is built here or comes from the wheel."""
        return self.cache / tool.program / self.key(tool) / tool.name

    def downloaded(self, tool: Tool) -> Path | None:
        """Where the tool's official executable is, or would be; None where none is pinned for this machine."""
        if tool.plugin:
            return self.cache / tool.name / f"{tool.version}-official" / tool.name
        if (download := self.download_of(tool)) is None:
            return None
        return self.cache / tool.name / f"{tool.version}-official-{download.sha256[:12]}" / tool.name

    @property
    def work(self) -> Path:
        """Go's own caches, and Go itself where it had to be fetched. Removed once nothing is left to build."""
        return self.cache / "work"

    def cached(self, tool: Tool) -> Path | None:
        """The tool's executable, if it is in the cache and whole."""
        downloaded = self.downloaded(tool)
        if downloaded is not None and _whole(downloaded) and _together(downloaded, tool):
            return downloaded
        path = self.built(tool)
        if not _whole(path):
            return None
        if tool.companions:
            _write_language_host(path.parent)
        return path

    def download_of(self, tool: Tool) -> Download | None:
        """The official download of the tool's pinned version for this machine."""
        wanted = (tool.name, tool.version, _ARCHITECTURES.get(platform.machine()))
        return next((each for each in self.downloads if (each.tool, each.version, each.arch) == wanted), None)

    def clear_work(self) -> None:
        """Remove what Go kept between builds, unless another process builds.

        It is out of the way at once. Gigabytes of small files take minutes on a slow disk, so a process of its own
        deletes them: only the end of this program waits for it, and a program that is killed leaves nothing.
        """
        if self.work.exists():
            with _open(self.cache / "work.lock") as file:
                if _try(file.fileno()):
                    self.work.rename(tempfile.mkdtemp(prefix=_CLEARED, dir=self.cache))
        if left := [str(path) for path in self.cache.glob(f"{_CLEARED}*")]:
            atexit.register(_await_removal, _remove(left), self.cache)

    # -- whole or not at all ---------------------------------------------------------------------------------------

    def put(self, tool: Tool, path: Path, source: str, fill: Callable[[Path], None]) -> None:
        """Have `fill` make a tool's files in a folder beside that of `path`, and move it there when it is complete."""
        folder = path.parent
        for left in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed; the lock is ours
        temporary = make_folder(folder.parent / f".{folder.name}.{os.getpid()}")
        try:
            fill(temporary)
            _record(temporary / tool.name, source)
            if tool.companions and not _together(temporary / tool.name, tool):
                _write_language_host(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        except OSError as error:
            raise ModelworksError(
                f"cannot put {tool.name} into {folder}: {error.strerror}",
                fix="Free space or fix its permissions, or point XDG_CACHE_HOME at another folder.",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    # -- one at a time ---------------------------------------------------------------------------------------------

    @contextmanager
    def alone_with(self, tool: Tool, report: Report, stop: threading.Event) -> Iterator[None]:
        """Keep others from getting the tool meanwhile."""
        with self.alone(self.cache / tool.program / f"{self.key(tool)}.lock", tool.name, tool.seconds, report, stop):
            yield

    @contextmanager
    def alone(self, lock: Path, name: str, seconds: int, report: Report, stop: threading.Event) -> Iterator[None]:
        """Hold `lock`, waiting for whoever does; `name` and `seconds` are of what the holder gets."""
        with _open(lock) as file:
            while not _try(file.fileno()):
                holder = file.read().strip() or "?"
                file.seek(0)
                report(Step(name, "waiting", f"process {holder} is getting it, waiting", seconds))
                _pause(stop)
            _sign(file.fileno())
            yield

    @contextmanager
    def slot(self, tool: Tool, at_a_time: int, report: Report, stop: threading.Event) -> Iterator[None]:
        """Hold one of the places that builds share, waiting for one."""
        slots = [_open(self.cache / f"slot-{number}.lock") for number in range(at_a_time)]
        try:
            while not any(_try(slot.fileno()) for slot in slots):
                report(Step(tool.name, "waiting", "waiting for another build to end"))
                _pause(stop)
            yield
        finally:
            for slot in slots:
                slot.close()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep others from removing what Go keeps between builds."""
        with _open(self.cache / "work.lock") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)  # whoever clears it holds the lock for a moment
            yield


def _open(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202 (an io type that has no public name)
    make_folder(path.parent)
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
    path = path.resolve()  # one of several names of an executable has no record of its own
    try:
        record = json.loads((path.parent / f"{path.name}.json").read_text(encoding="utf-8"))
        status = path.stat()
    except (OSError, ValueError):
        return False
    if status.st_size != record["size"] or not os.access(path, os.X_OK):
        return False
    return bool(status.st_mtime_ns == record["mtime_ns"] or _sha256(path) == record["sha256"])


def _record(path: Path, source: str) -> None:
    """Write beside the executable `path` a record of its digest and its source, which later checks read."""
    path = path.resolve()
    status = path.stat()
    record = {"sha256": _sha256(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns, "source": source}
    write_whole(path.parent / f"{path.name}.json", json.dumps(record), mode=0o644)


def source_of(path: Path) -> str:
    """Where the cached executable `path` came from: `wheel`, `download` or `built`."""
    path = path.resolve()
    record = json.loads((path.parent / f"{path.name}.json").read_text(encoding="utf-8"))
    return str(record.get("source", "built"))


def _together(path: Path, tool: Tool) -> bool:
    """Whether all that belongs beside the executable `path` is there."""
    return all((path.parent / name).exists() for name in tool.companions)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_language_host(folder: Path) -> None:
    source = Path(__file__).with_name("language_host.py").read_text(encoding="utf-8")
    target = folder / _HOST
    if not target.exists() or target.read_text(encoding="utf-8") != source:
        write_whole(target, source, mode=0o755)


def make_folder(path: Path) -> Path:
    """`path`, made if it is not there.

    Raises:
        ModelworksError: It cannot be made.
    """
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


def _remove(folders: list[str]) -> subprocess.Popen[bytes]:
    """A process that deletes `folders`, also when this one has ended."""
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _REMOVE, *folders],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _await_removal(process: subprocess.Popen[bytes], cache: Path) -> None:
    """A machine that ends with this command, such as a build of an image, would keep what is not deleted yet."""
    if process.poll() is None:
        print(f"{cache}: what only builds needed is being removed", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            process.wait()
