"""Events about pods, sent in the background and counted instead of repeated."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass

import httpx

from modelworks.laptop.agent.api import STRATEGIC, ApiClient, Object, RefusedError
from modelworks.laptop.agent.status import timestamp

log = logging.getLogger(__name__)

FORGET_SECONDS = 3600.0
_WAITING = 1000


@dataclass
class _Told:
    name: str
    count: int
    at: float


class Events:
    """A queue of events; when it is full, the newest are dropped and logged."""

    def __init__(self, cluster: ApiClient, node: str) -> None:
        self._cluster = cluster
        self._node = node
        self._queue: asyncio.Queue[tuple[Object, str, str, str, str, float]] = asyncio.Queue(_WAITING)
        self._told: dict[tuple[str, ...], _Told] = {}

    def tell(self, about: Object, kind: str, reason: str, message: str, path: str = "") -> None:
        """Record an event of an object, now."""
        log.info("%s/%s: %s: %s", about["metadata"].get("namespace", ""), about["metadata"]["name"], reason, message)
        try:
            self._queue.put_nowait((about, kind, reason, message[:1000], path, time.time()))
        except asyncio.QueueFull:
            log.warning("more than %d events are queued, this one is dropped", _WAITING)

    async def run(self) -> None:
        """Send the queue, for ever."""
        while True:
            item = await self._queue.get()
            for attempt in range(5):
                try:
                    await self._send(*item)
                except RefusedError as error:
                    log.warning("event refused: %s", error.reason)  # its namespace is being deleted, most likely
                except httpx.HTTPError:
                    await asyncio.sleep(2**attempt)
                    continue
                break

    async def _send(self, about: Object, kind: str, reason: str, message: str, path: str, at: float) -> None:
        meta = about["metadata"]
        namespace = meta.get("namespace", "default")
        folder = f"/api/v1/namespaces/{namespace}/events"
        key = (meta.get("uid", meta["name"]), path, kind, reason, message)
        for old in [key for key, told in self._told.items() if at - told.at > FORGET_SECONDS]:
            del self._told[old]
        if told := self._told.get(key):
            told.count, told.at = told.count + 1, at
            change = {"count": told.count, "lastTimestamp": timestamp(at)}
            try:
                await self._cluster.call("PATCH", f"{folder}/{told.name}", change, kind=STRATEGIC)
            except RefusedError as error:
                if error.status != 404:
                    raise
            else:
                return
        name = f"{meta['name'][:200]}.{uuid.uuid4().hex[:16]}"
        involved = {
            "apiVersion": about.get("apiVersion", "v1"),
            "kind": about.get("kind", "Pod"),
            "name": meta["name"],
            "uid": meta.get("uid", ""),
            **({"namespace": meta["namespace"]} if meta.get("namespace") else {}),
            **({"fieldPath": path} if path else {}),
        }
        body = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": timestamp(at),
            "lastTimestamp": timestamp(at),
            "count": 1,
        }
        await self._cluster.call("POST", folder, body)
        self._told[key] = _Told(name, 1, at)
