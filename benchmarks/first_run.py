"""The first run in numbers: `make up`, packages apart, as root and as an ordinary user with each kind of isolation.

    sudo .venv/bin/python benchmarks/first_run.py [--kinds overlay links none] [--tools ready|downloaded|built]

Each kind has a home of its own with a fresh checkout of the last commit and the packages of this checkout, and runs
`modelworks quickstart` and `modelworks laptop down` there, one after the other. The tools of the laptop are there, or
downloaded (from this machine over loopback: those that it has, packed as their makers pack them, with their digests
pinned in the checkout; what has no download is built), or all built. Prints one JSON object; nothing is asserted but an
answer. Times are seconds; sizes are what the run left, in MB (10^6 bytes).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from e2e import ordinary_user
from e2e.ordinary_user import Shell
from modelworks.laptop import toolchain
from modelworks.laptop.toolchain import engine_plugins, official
from modelworks.laptop.toolchain.tools import TOOLS

KINDS = {"overlay": 0, "links": ordinary_user.UID, "none": ordinary_user.UID}
"""Who runs each kind of isolation; only root may have the first."""
NETWORK = re.compile(r"(UV|PIP|SSL|GO)\w*|\w+_(PROXY|proxy|CERT|CERTS|CA_BUNDLE)")
"""Variables with which this machine reaches the registries of packages."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of isolation; default: all"
    )
    parser.add_argument(
        "--tools", choices=["ready", "downloaded", "built"], default="ready", help="tools of the laptop; default: ready"
    )
    arguments = parser.parse_args()
    print(json.dumps({kind: measure(kind, KINDS[kind], arguments.tools) for kind in arguments.kinds}, indent=2))
    return 0


def measure(kind: str, uid: int, tools: str) -> dict[str, Any]:
    """One first run, and its end."""
    with ordinary_user.home(uid, tools=tools == "ready") as home, mirror(home / "checkout") as address:
        shell = Shell(home, kind, uid)
        shell.variables |= {name: value for name, value in os.environ.items() if NETWORK.fullmatch(name)}
        shell.variables[official.MIRROR] = address if tools == "downloaded" else "off"
        shell.variables["PYTHONPATH"] = str(shell.checkout / "components")  # where the digests are pinned
        before = _megabytes(home)
        story = json.loads(shell("quickstart", "--json", stderr=sys.stderr))
        after = _megabytes(home)
        began = time.monotonic()
        shell("laptop", "down")
        return {
            "first_answer": story["first_answer_seconds"],
            "environment_answers": story["seconds"],
            "steps": story["steps"],
            "down": round(time.monotonic() - began, 1),
            "left_while_up": round(after - before),
            "left_after_down": round(_megabytes(home) - before),
        }


@contextmanager
def mirror(checkout: Path) -> Iterator[str]:
    """Serve this machine's tools as their makers do, and pin their digests in the checkout. Yields the base URL."""
    ready = toolchain.ensure(list(TOOLS))
    with tempfile.TemporaryDirectory() as folder:
        pins = checkout / "components/modelworks/laptop/toolchain/downloads.json"
        downloads = json.loads(pins.read_text(encoding="utf-8"))
        for each in downloads:
            file = Path(folder, each["url"].removeprefix("https://"))
            file.parent.mkdir(parents=True, exist_ok=True)
            tool = ready[each["tool"]]
            if each.get("folder"):
                _pack(file, [path for path in tool.parent.iterdir() if path.suffix != ".json"], each["folder"])
            else:
                shutil.copy2(tool, file)
            each["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        pins.write_text(json.dumps(downloads, indent=2), encoding="utf-8")
        plugin = TOOLS["pulumi-resource-kubernetes"]
        plugins = Path(folder, engine_plugins.source(plugin).url.removeprefix("https://"))
        plugins.mkdir(parents=True)
        _pack(plugins / f"{plugin.name}-v{plugin.version}-linux-amd64.tar.gz", [ready[plugin.name]], "")
        server = _Mirror(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


def _pack(archive: Path, files: list[Path], folder: str) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=1) as members:
        for file in files:
            members.add(file.resolve(), str(Path(folder, file.name)))


class _Mirror(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that goes away is no failure."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
