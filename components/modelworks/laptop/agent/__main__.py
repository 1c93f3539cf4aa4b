"""`python -m modelworks.laptop.agent --place ROOT`: run the node agent of a place until SIGTERM.

SIGTERM and SIGINT end the agent and leave its pods running: the next one adopts them. `modelworks laptop down` ends
both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

from modelworks.errors import ModelworksError
from modelworks.laptop import pod_network
from modelworks.laptop.agent import kubelet_api
from modelworks.laptop.agent.api import ApiClient
from modelworks.laptop.agent.cgroup import Memory
from modelworks.laptop.agent.events import Events
from modelworks.laptop.agent.host import NAME, REFRESH_SECONDS, Addresses, Host
from modelworks.laptop.agent.images import Images
from modelworks.laptop.agent.isolation import VARIABLE, detect
from modelworks.laptop.agent.node import Node
from modelworks.laptop.agent.reconcile import Backoff
from modelworks.laptop.agent.sandbox import Sandbox
from modelworks.laptop.agent.traffic import Traffic
from modelworks.laptop.state_dir import StateDir, read_facts

log = logging.getLogger("modelworks.laptop.agent")


async def serve(place: StateDir, backoff: Backoff, refresh: float) -> None:
    """Run the agent until SIGTERM or SIGINT."""
    facts = read_facts(place.root / "laptop.json")
    cluster = ApiClient.from_kubeconfig(place.cluster / "agent.kubeconfig")
    url = urlsplit(cluster.server)
    place.folder(place.node)
    isolation = await asyncio.to_thread(detect, place.node, os.environ.get(VARIABLE, ""))
    memory = await asyncio.to_thread(Memory.detect, place.root)
    log.info("isolation: %s; memory limits: %s", isolation.kind, f"cgroup v{memory.version}" if memory else "none")
    network = facts.get("pod_network", "127.77.0.0/16")
    host = Host(
        place=place,
        cluster=cluster,
        address=(url.hostname or "127.0.0.1", str(url.port or 443)),
        addresses=Addresses(pod_network.of_pods(network)),
        service_network=pod_network.of_services(network),
        sandbox=Sandbox(isolation, place.root),
        memory=memory,
        backoff=backoff,
        refresh_seconds=refresh,
        events=Events(cluster, NAME),
        images=Images(place),
        strict=bool(facts.get("strict")),
        traffic=Traffic(place, cluster) if facts.get("strict") else None,
    )
    node = Node(host, port=int(facts.get("ports", {}).get("agent", 0)))
    task = asyncio.ensure_future(_work(node))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        await cluster.close()


async def _work(node: Node) -> None:
    """Run the node, and serve the logs of its containers, until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(node.run())
        group.create_task(kubelet_api.serve(node, node.host.place.cluster / "pki"))


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="modelworks.laptop.agent", description=__doc__)
    parser.add_argument("--place", type=Path, required=True, help="state folder of the laptop cloud")
    parser.add_argument("--backoff", type=float, default=Backoff.first, help="seconds before the second restart")
    parser.add_argument(
        "--backoff-longest", type=float, default=Backoff.longest, help="seconds between restarts at most"
    )
    parser.add_argument(
        "--refresh", type=float, default=REFRESH_SECONDS, help="seconds between refreshes of mounted config"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    place = StateDir(arguments.place.resolve())
    os.environ["MODELWORKS_LAPTOP"] = str(place.root)
    if sys.version_info < (3, 12):
        # Python 3.11 starts a thread for each child process otherwise.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    backoff = Backoff(arguments.backoff, arguments.backoff_longest)
    try:
        asyncio.run(serve(place, backoff, arguments.refresh))
    except ModelworksError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
