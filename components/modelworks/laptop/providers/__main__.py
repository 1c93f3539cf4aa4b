"""The `aws` plugin of one environment, as the engine starts it for one run (see `plugins`).

    pulumi-resource-aws ENGINE

Its port is the first line of stdout. The variable that `modelworks env` sets names the environment.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from modelworks.errors import ModelworksError
from modelworks.laptop.aws_credentials import read_credentials
from modelworks.laptop.providers.aws import plugin
from modelworks.laptop.state_dir import StateDir, read_facts

_GRACE = 5.0  # seconds that a call in flight gets to finish before the process ends
_LOOK_SECONDS = 0.5  # how often it looks whether its engine is still there
_LOG_BYTES = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until the engine ends it, or is gone; returns the exit code."""
    parser = argparse.ArgumentParser(prog="pulumi-resource-aws", description=__doc__)
    parser.add_argument("engine", nargs="?", help="address of the engine, which it also states in its handshake")
    parser.add_argument("--place", type=Path, required=True, help="the laptop cloud's state folder")
    chosen, _ = parser.parse_known_args(arguments)  # the engine adds options of its own, such as for tracing
    place, stop = StateDir(chosen.place), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        environment = _environment(place)
        _log_to(place, environment)
        server, port = plugin(
            read_facts(place.environment(environment) / "environment.json"), read_credentials(place, environment)
        ).serve()
    except ModelworksError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(port, flush=True)
    while not stop.wait(_LOOK_SECONDS):
        if _is_unread(sys.stdout):  # the engine was killed: nobody hears what a call in flight would answer
            os._exit(1)
    server.stop(_GRACE).wait()
    return 0


def _is_unread(stream: TextIO) -> bool:
    """Whether the other end of a pipe is closed, as it is once its reader has ended, however early that was.

    The process that started this one would be a worse sign: who was orphaned before looking has another parent.
    """
    pipe = select.poll()
    pipe.register(stream, 0)
    return bool(pipe.poll(0))


def _environment(place: StateDir) -> str:
    name = os.environ.get("MODELWORKS_LAPTOP_ENVIRONMENT", "")
    if name in place.environments():
        return name
    raise ModelworksError(
        f"the laptop cloud in {place.root} has no environment {name!r} (MODELWORKS_LAPTOP_ENVIRONMENT)",
        fix='Run `eval "$(modelworks env ENV)"` in this shell first.',
    )


def _log_to(place: StateDir, environment: str) -> None:
    """Write the log beside those of the laptop cloud's processes: what goes to stderr, the engine shows to the user."""
    path = place.folder(place.logs) / f"plugin-aws-{environment}.log"
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        handlers=[RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)],
    )


if __name__ == "__main__":
    sys.exit(main())
