"""`python -m modelworks.laptop.gateway --place ROOT`: the process that sends Caddy the routes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

from modelworks.errors import ModelworksError
from modelworks.laptop.gateway import controller
from modelworks.laptop.state_dir import StateDir


def main() -> int:
    """Run until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m modelworks.laptop.gateway", description=__doc__)
    parser.add_argument("--place", type=Path, required=True, help="the laptop cloud's folder")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(_until_told(StateDir(arguments.place.resolve())))
    except ModelworksError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


async def _until_told(place: StateDir) -> None:
    work = asyncio.current_task()
    assert work is not None  # noqa: S101 - asyncio.run gives every coroutine a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    await controller.run(place)


if __name__ == "__main__":
    sys.exit(main())
