from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from modelworks.laptop.agent.api import ApiClient
from modelworks.laptop.gateway import caddy, controller
from modelworks.laptop.gateway.controller import Gateway
from modelworks.laptop.state_dir import StateDir
from waiting import eventually_async

INGRESSES, SERVICES, PODS = "/apis/networking.k8s.io/v1/ingresses", "/api/v1/services", "/api/v1/pods"

PORTS = [24_000, 24_001]


def service() -> dict:
    metadata = {"name": "model", "namespace": "local", "uid": "u-1", "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"selector": {"app": "model"}, "ports": [{"port": 80, "targetPort": 3000}]}}


def ingress() -> dict:
    backend = {"service": {"name": "model", "port": {"number": 80}}}
    rule = {"host": "model.localhost", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    metadata = {"name": "model", "namespace": "local", "resourceVersion": "1", "creationTimestamp": "2026"}
    return {"metadata": metadata, "spec": {"rules": [rule]}}


def pod(name: str, ip: str, version: str = "1") -> dict:
    metadata = {"name": name, "namespace": "local", "labels": {"app": "model"}, "resourceVersion": version}
    return {
        "metadata": metadata,
        "spec": {"containers": [{}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    }


class Api:
    """An API server with lists, watches that last until they are cut, and a memory of what was written."""

    def __init__(self) -> None:
        self.items = {INGRESSES: [ingress()], SERVICES: [service()], PODS: [pod("a", "127.77.0.1")]}
        self.watches = {path: asyncio.Queue() for path in self.items}
        self.lists = {path: asyncio.Event() for path in self.items}
        for lists in self.lists.values():
            lists.set()
        self.watched: set[str] = set()
        self.written: list[tuple[str, str, dict]] = []
        self.taken: set[tuple[str, str]] = set()

    async def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method != "GET":
            self.written.append((request.method, path, json.loads(request.content)))
            return httpx.Response(409 if (request.method, path) in self.taken else 200, json={})
        if "watch" in request.url.params:
            self.watched.add(path)
            return httpx.Response(200, content=self._events(path))
        await self.lists[path].wait()
        return httpx.Response(200, json={"items": self.items[path], "metadata": {"resourceVersion": "1"}})

    async def _events(self, path: str) -> AsyncIterator[bytes]:
        while (event := await self.watches[path].get()) is not None:
            yield json.dumps({"type": event[0], "object": event[1]}).encode() + b"\n"
        raise httpx.ReadError("cut")

    def change(self, path: str, kind: str, thing: dict) -> None:
        self.watches[path].put_nowait((kind, thing))

    def cut(self, path: str) -> None:
        self.watches[path].put_nowait(None)


class Caddy:
    """Keeps the tables it is given; refuses while it is down."""

    def __init__(self) -> None:
        self.tables: list[dict] = []
        self.down = False

    async def put(self, _: object, table: str) -> None:
        if self.down:
            raise ConnectionRefusedError("Caddy is down")
        self.tables.append(json.loads(table))

    def pods(self) -> list[str] | None:
        return self.tables[-1]["hosts"]["model.localhost"][0]["backends"][0]["pods"] if self.tables else None


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def told(monkeypatch) -> Caddy:
    proxy = Caddy()
    monkeypatch.setattr(caddy, "put_table", proxy.put)
    monkeypatch.setattr(controller, "RETRY_SECONDS", 0.01)
    return proxy


@pytest.fixture
async def work(api, told, tmp_path):
    transport = httpx.MockTransport(api.answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        tasks = []

        def begin() -> StateDir:
            place = StateDir(tmp_path)
            tasks.append(asyncio.create_task(Gateway(place, ApiClient(client), 8080, 8443, PORTS).run()))
            return place

        yield begin
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_caddy_is_told_the_cluster_and_the_table_is_kept_on_disk(work, told):
    place = work()
    await eventually_async(lambda: told.pods() == ["127.77.0.1:3000"])
    assert json.loads(caddy.table_path(place).read_text()) == told.tables[-1]


async def test_a_gateway_gives_hosts_the_ports_that_the_one_before_it_gave(work, told, tmp_path):
    StateDir(tmp_path).gateway.mkdir()
    caddy.table_path(StateDir(tmp_path)).write_text(
        '{"hosts": {}, "ports": {"gone.localhost": 24000, "model.localhost": 24001}}'
    )
    work()
    await eventually_async(lambda: told.tables)
    assert told.tables[-1]["ports"] == {"gone.localhost": 24_000, "model.localhost": 24_001}


async def test_a_gateway_whose_table_is_damaged_assigns_ports_anew(work, told, tmp_path, caplog):
    StateDir(tmp_path).gateway.mkdir()
    caddy.table_path(StateDir(tmp_path)).write_text("{")
    place = work()
    await eventually_async(lambda: told.tables)
    assert told.tables[-1]["ports"]["model.localhost"] in PORTS
    assert json.loads(caddy.table_path(place).read_text()) == told.tables[-1]
    assert "is damaged" in caplog.text


async def test_nothing_is_told_before_the_whole_cluster_was_seen(work, api, told, monkeypatch):
    monkeypatch.setattr(controller, "DEBOUNCE_SECONDS", 0)
    api.lists[PODS].clear()
    work()
    await eventually_async(lambda: api.watched == {INGRESSES, SERVICES})
    for _ in range(100):  # far more turns of the loop than telling takes
        await asyncio.sleep(0)
    assert told.tables == []
    api.lists[PODS].set()
    await eventually_async(lambda: told.pods() == ["127.77.0.1:3000"])


async def test_a_change_that_changes_no_route_is_not_told(work, api, told):
    work()
    await eventually_async(lambda: told.tables)
    heartbeat = pod("a", "127.77.0.1", "2")
    heartbeat["status"]["conditions"][0]["lastProbeTime"] = "now"
    api.change(PODS, "MODIFIED", heartbeat)
    api.change(PODS, "ADDED", pod("b", "127.77.0.2", "3"))
    await eventually_async(lambda: told.pods() == ["127.77.0.1:3000", "127.77.0.2:3000"])
    assert len(told.tables) == 2


async def test_a_deleted_pod_leaves(work, api, told):
    work()
    await eventually_async(lambda: told.tables)
    api.change(PODS, "DELETED", pod("a", "127.77.0.1", "2"))
    await eventually_async(lambda: told.pods() == [])


async def test_what_went_while_the_api_server_was_away_is_noticed(work, api, told):
    work()
    await eventually_async(lambda: told.tables)
    api.change(PODS, "ADDED", pod("b", "127.77.0.2", "2"))
    await eventually_async(lambda: told.pods() == ["127.77.0.1:3000", "127.77.0.2:3000"])
    api.items[PODS] = [pod("c", "127.77.0.3")]
    api.cut(PODS)
    await eventually_async(lambda: told.pods() == ["127.77.0.3:3000"])


async def test_a_caddy_that_is_down_is_told_when_it_is_back(work, told):
    told.down = True
    place = work()
    await eventually_async(lambda: caddy.table_path(place).exists())
    told.down = False
    await eventually_async(lambda: told.pods() == ["127.77.0.1:3000"])


async def test_the_address_is_written_into_the_status(work, api):
    work()
    await eventually_async(lambda: api.written)
    wanted = [{"hostname": "model.localhost", "ports": [{"port": 8080, "protocol": "TCP"}]}]
    assert api.written[0] == (
        "PATCH",
        "/apis/networking.k8s.io/v1/namespaces/local/ingresses/model/status",
        {"status": {"loadBalancer": {"ingress": wanted}}},
    )


async def test_a_notice_becomes_one_event(work, api, told):
    api.items[SERVICES] = []
    work()
    await eventually_async(lambda: any(path.endswith("/events") for _, path, _ in api.written))
    api.change(PODS, "ADDED", pod("b", "127.77.0.2", "2"))
    api.change(SERVICES, "ADDED", service())
    await eventually_async(lambda: told.tables and told.tables[-1]["hosts"]["model.localhost"][0]["backends"])
    events = [body for _, path, body in api.written if path.endswith("/events")]
    assert [event["message"] for event in events] == ["there is no Service model in the namespace local"]
    assert events[0]["involvedObject"]["kind"] == "Ingress"


ENDPOINTS = "/api/v1/namespaces/local/endpoints"
OF_MODEL = {
    "metadata": {
        "name": "model",
        "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "model", "uid": "u-1"}],
    }
}


def endpoints(api: Api) -> list[tuple[str, str, dict]]:
    return [written for written in api.written if written[1].startswith(ENDPOINTS)]


async def test_a_service_that_selects_pods_has_empty_endpoints_that_go_with_it(work, api):
    others = [
        ("headless", {"clusterIP": "None"}),
        ("elsewhere", {"type": "ExternalName"}),
        ("by-hand", {"selector": {}}),
    ]
    for name, spec in others:
        found = service()
        api.items[SERVICES].append({"metadata": {**found["metadata"], "name": name}, "spec": {**found["spec"], **spec}})
    work()
    await eventually_async(lambda: endpoints(api))
    api.change(PODS, "ADDED", pod("b", "127.77.0.2", "2"))
    await eventually_async(lambda: not api.watches[PODS].qsize())
    assert endpoints(api) == [("POST", ENDPOINTS, OF_MODEL)]


async def test_the_endpoints_of_a_deleted_service_pass_to_the_next_of_its_name(work, api):
    api.taken.add(("POST", ENDPOINTS))
    work()
    await eventually_async(lambda: len(endpoints(api)) == 2)
    assert endpoints(api)[1] == ("PATCH", f"{ENDPOINTS}/model", OF_MODEL)
