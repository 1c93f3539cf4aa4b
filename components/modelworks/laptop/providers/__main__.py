"""Serve the provider plugins of one environment until SIGTERM.

    python -m modelworks.laptop.providers --place .modelworks --environment local

Ports, account, region and kubeconfig are the environment's facts (`environments/<name>/environment.json`).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from modelworks.errors import ModelworksError
from modelworks.laptop import rbac
from modelworks.laptop.providers.plugin import Plugin
from modelworks.laptop.state_dir import Place, read_facts

_GRACE = 5.0  # seconds that a call in flight gets to finish before the process ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; returns the exit code once SIGTERM or SIGINT came."""
    parser = argparse.ArgumentParser(prog="python -m modelworks.laptop.providers", description=__doc__)
    parser.add_argument("--place", type=Path, required=True, help="the laptop cloud's state folder")
    parser.add_argument("--environment", required=True, help="name of the environment to serve")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        servers = []
        for name, port, plugin in plugins(Place(chosen.place.resolve()), chosen.environment):
            server, bound = plugin.serve(port)
            servers.append(server)
            logging.getLogger(__package__).info("%s serves on 127.0.0.1:%d", name, bound)
    except ModelworksError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    rbac.follow(Place(chosen.place.resolve()), chosen.environment, stop)
    stop.wait()
    for stopped in [server.stop(_GRACE) for server in servers]:
        stopped.wait()
    return 0


def plugins(place: Place, environment: str) -> list[tuple[str, int, Plugin]]:
    """Name, port and plugin of each provider that `environment` of `place` has a port for.

    Raises:
        ModelworksError: The environment is not there.
    """
    folder = place.environment(environment)
    facts = read_facts(folder / "environment.json")
    if not facts:
        raise ModelworksError(
            f"the laptop cloud in {place.root} has no environment {environment!r}",
            fix=f"It has: {', '.join(place.environments()) or 'none'}.",
        )
    # Each is a module of this package with a function `plugin(facts, folder)`; imported only if it is served.
    return [
        (name, port, importlib.import_module(f"{__package__}.{name}").plugin(facts, folder))
        for name, port in sorted(facts["providers"].items())
    ]


if __name__ == "__main__":
    sys.exit(main())
