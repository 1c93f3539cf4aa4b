"""The official release of a provider plugin, downloaded by the engine itself, as for every user of Pulumi.

The makers publish no digest that could be pinned, so the certificate of the host is what vouches for the archive.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from modelworks.laptop.toolchain import official
from modelworks.laptop.toolchain.official import Download
from modelworks.laptop.toolchain.tools import Tool, Unavailable

_FOLDER: Final = "https://get.pulumi.com/releases/plugins"

_BOUND: Final = 600.0
"""Seconds for one download: the build takes as long."""


def source(tool: Tool) -> Download:
    """The folder in which the engine finds the plugin of its machine, or that of the user's mirror."""
    return Download(tool.name, tool.version, arch="", url=_FOLDER, sha256="")


def obtain(pulumi: Path, tool: Tool, into: Path, goes_on: Callable[[], None]) -> None:
    """Let the engine download a plugin, and put its executable into the folder `into`.

    Args:
        pulumi: The engine.
        tool: The plugin.
        into: A folder that is there.
        goes_on: Called twice a second; an exception in it ends the download.

    Raises:
        Unavailable: The engine does not get it.
    """
    home = into / ".home"
    argv = [str(pulumi), "plugin", "install", "resource", tool.plugin, tool.version]
    if os.environ.get(official.MIRROR):
        argv += ["--server", source(tool).address]
    try:
        home.mkdir()
        _run(argv, home, goes_on)
        found = home / "plugins" / f"resource-{tool.plugin}-v{tool.version}" / tool.name
        if not found.is_file():
            raise Unavailable(f"the engine downloaded {tool.name} {tool.version} without its executable")
        found.replace(into / tool.name)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _run(argv: list[str], home: Path, goes_on: Callable[[], None]) -> None:
    log, deadline = home / "log", time.monotonic() + _BOUND
    with log.open("wb") as file:
        process = subprocess.Popen(
            argv,
            env={**os.environ, "PULUMI_HOME": str(home), "PULUMI_SKIP_UPDATE_CHECK": "true"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            goes_on()
            if time.monotonic() > deadline:
                raise Unavailable(f"the engine did not download the plugin within {_BOUND:.0f} s")
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise Unavailable(
            f"the engine cannot download the plugin: {''.join(last) or f'exit code {process.returncode}'}"
        )
