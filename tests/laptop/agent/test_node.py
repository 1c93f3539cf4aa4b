"""The node agent against an API server that answers from a table."""

import asyncio
import json
from dataclasses import replace
from ipaddress import IPv4Network

import httpx
import pytest

from images_of_projects import lock_only_here
from modelworks.errors import ModelworksError
from modelworks.laptop import environments
from modelworks.laptop.agent import container, images, package_lists, traffic
from modelworks.laptop.agent.api import ApiClient
from modelworks.laptop.agent.events import Events
from modelworks.laptop.agent.host import NAME, Addresses, Host
from modelworks.laptop.agent.images import Images
from modelworks.laptop.agent.node import Node
from modelworks.laptop.agent.reconcile import Backoff
from modelworks.laptop.agent.sandbox import NONE, Sandbox, process_start
from modelworks.laptop.agent.traffic import Traffic
from modelworks.laptop.state_dir import StateDir
from waiting import eventually_async


class ApiServer:
    """Serves `objects` by path, lists included, and keeps every status that a pod is given."""

    def __init__(self, objects):
        self.objects = objects
        self.statuses = asyncio.Queue()
        self.events = []
        self.requests = []

    async def answer(self, request):
        path = request.url.path
        self.requests.append((request.method, path))
        if request.method == "PATCH" and "/pods/" in path:
            self.statuses.put_nowait(json.loads(request.content)["status"])
        if request.method == "POST" and path.endswith("/events"):
            self.events.append(json.loads(request.content))
        if request.url.params.get("watch"):
            await asyncio.Event().wait()  # nothing ever changes
        if request.method != "GET":
            return httpx.Response(200, json={})
        if path not in self.objects:
            return httpx.Response(404, json={"message": f"{path} not found"})
        return httpx.Response(200, json=self.objects[path])

    async def phase(self, phase):
        """The first status of that phase."""
        while (status := await self.statuses.get())["phase"] != phase:
            pass
        return status


def listing(*items):
    return {"items": list(items), "metadata": {"resourceVersion": "1"}}


def pod(command, **container):
    return {
        "metadata": {"name": "job", "namespace": "default", "uid": "1"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "command": ["sh", "-c", command], **container}],
        },
    }


@pytest.fixture
def host(tmp_path):
    """A node's host whose API server is the table `server.objects`."""
    server = ApiServer(
        {
            "/api/v1/pods": listing(),
            "/api/v1/services": listing(),
            "/api/v1/persistentvolumes": listing(),
            "/api/v1/persistentvolumeclaims": listing(),
            "/api/v1/namespaces/default": {"metadata": {}},
        }
    )
    cluster = ApiClient(httpx.AsyncClient(base_url="http://api", transport=httpx.MockTransport(server.answer)))
    host = Host(
        place=StateDir(tmp_path),
        cluster=cluster,
        address=("127.0.0.1", "443"),
        addresses=Addresses(IPv4Network("127.77.0.0/17")),
        service_network=IPv4Network("127.77.128.0/17"),
        sandbox=Sandbox(NONE, tmp_path),
        memory=None,
        backoff=Backoff(),
        refresh_seconds=60,
        events=Events(cluster, NAME),
        images=Images(StateDir(tmp_path)),
    )
    return host, server


@pytest.fixture
def run(host):
    """Runs the node until its pods reach a phase, and gives the status that said so."""
    host, server = host

    async def until(phase):
        task = asyncio.ensure_future(Node(host, port=0).run())
        try:
            return await asyncio.wait_for(server.phase(phase), 60)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return until


async def test_a_pod_runs_with_the_config_and_services_of_its_namespace(host, run):
    host, server = host
    job = pod('echo "$GREETING $WEB_SERVICE_HOST"', envFrom=[{"configMapRef": {"name": "config"}}])
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80, "protocol": "TCP"}]},
    }
    server.objects |= {
        "/api/v1/pods": listing(job),
        "/api/v1/services": listing(service),
        "/api/v1/namespaces/default/configmaps/config": {"data": {"GREETING": "hello"}},
    }
    await run("Succeeded")
    assert host.log_file(job, "main", 0).read_text() == "hello 10.0.0.9\n"


async def test_a_failed_pod_is_reported_with_the_end_of_its_log(host, run):
    _, server = host
    job = pod("echo no such table; exit 3", terminationMessagePolicy="FallbackToLogsOnError")
    server.objects["/api/v1/pods"] = listing(job)
    status = await run("Failed")
    ended = status["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, "no such table")


async def test_a_pod_that_is_deleted_while_its_image_is_pulled_does_not_wait_for_it(host, tmp_path, monkeypatch):
    host, server = host
    lock_only_here(tmp_path / "images" / "own", "1.0")
    (tmp_path / "Pulumi.yaml").write_text("name: own\nruntime: python\n")
    monkeypatch.chdir(tmp_path)
    environments.create(host.place, "local")
    for folder in (host.place.run, host.place.logs):
        host.place.folder(folder)
    slow, noted = tmp_path / "slow", tmp_path / "pid"
    slow.write_text(f"#!/bin/sh\necho $$ >{noted}.part; mv {noted}.part {noted}; exec sleep 600\n")
    slow.chmod(0o755)
    images.keep_settings(host.place, str(slow), {})
    server.objects["/api/v1/namespaces/default"] = {"metadata": {"labels": {"modelworks.dev/environment": "local"}}}
    server.objects["/api/v1/pods"] = listing(pod("true", image="registry.example/own:1"))
    node = Node(host, port=0)
    running = asyncio.ensure_future(node.run())
    await eventually_async(noted.exists)
    node.known["1"].removed()
    await eventually_async(lambda: not node.known)
    await eventually_async(lambda: process_start(int(noted.read_text())) is None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "told",
    [
        [("ADDED", "web"), ("SYNCED", ""), ("DELETED", "web")],
        [("ADDED", "web"), ("SYNCED", ""), ("SYNCED", "")],  # it went while the API server was not heard
    ],
)
async def test_a_pod_that_starts_after_a_service_is_gone_has_no_variables_of_it(host, monkeypatch, told):
    host, _ = host
    before = []

    async def watch(*_):
        for kind, name in told:
            before.append(list(host.services("default")))
            spec = {"clusterIP": "10.0.0.9", "ports": [{"port": 80}]}
            yield kind, {"metadata": {"name": name, "namespace": "default"}, "spec": spec}

    monkeypatch.setattr(ApiClient, "watch", watch)
    await host.watch_services()
    assert [len(services) for services in before] == [0, 1, 1]
    assert host.services("default") == []


async def test_an_object_is_read_again_only_when_it_is_older_than_its_reader_accepts(host):
    host, server = host
    server.objects["/api/v1/namespaces/default/secrets/key"] = {"data": {"a": "b"}}
    await host.objects("default", "secrets", ["key", "missing"], 0)
    again = await host.objects("default", "secrets", ["key", "missing"], 3600)
    assert again == {"key": {"data": {"a": "b"}}}
    assert len(server.requests) == 2


async def test_an_error_that_nobody_foresaw_is_an_event_and_the_next_start_waits(host, run, monkeypatch):
    host, server = host
    starts = []

    async def start(*_: object, **__: object) -> None:
        starts.append(1)
        raise ModelworksError("no space left on device") if len(starts) == 1 else KeyError("surprise")

    monkeypatch.setattr(Sandbox, "start", start)
    monkeypatch.setattr(container, "RETRY_SECONDS", 0.05)
    server.objects["/api/v1/pods"] = listing(pod("true"))
    node = asyncio.ensure_future(Node(host, port=0).run())
    reasons = [await waiting(server), await waiting(server, message="'surprise'")]
    node.cancel()
    await asyncio.gather(node, return_exceptions=True)
    assert reasons == ["CreateContainerError: no space left on device", "CreateContainerError: 'surprise'"]


@pytest.fixture
def strict(host):
    """The same host, strict, in a cluster that lets pods reach name servers alone."""
    host, server = host
    host.place.folder(host.place.logs)
    deny = {
        "metadata": {"namespace": "default", "name": "deny"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
        },
    }
    server.objects["/api/v1/namespaces"] = listing({"metadata": {"name": "default"}})
    server.objects["/apis/networking.k8s.io/v1/networkpolicies"] = listing(deny)
    return replace(host, strict=True, traffic=Traffic(host.place, host.cluster)), server


async def test_a_connection_that_policies_refuse_is_an_event_of_its_pod_on_a_strict_node(strict, monkeypatch):
    host, server = strict
    monkeypatch.setattr(traffic, "FOLLOWS_SECONDS", 0)
    database = [{"name": "URI", "value": "postgresql://user@db.example.com/models"}]
    server.objects["/api/v1/pods"] = listing(pod("true", env=database))
    node = asyncio.ensure_future(Node(host, port=0).run())
    await eventually_async(lambda: any(each["reason"] == "ConnectionRefusedByPolicy" for each in server.events))
    node.cancel()
    await asyncio.gather(node, return_exceptions=True)
    (event,) = (each for each in server.events if each["reason"] == "ConnectionRefusedByPolicy")
    assert "pod default/job to db.example.com at TCP port 5432" in event["message"]
    assert event["involvedObject"]["name"] == "job"
    assert traffic.refusals(host.place).read_text().count("\n") == 1


async def test_an_image_of_modelworks_is_refused_where_the_environment_lacks_its_packages(strict, monkeypatch):
    host, server = strict
    needs = {"modelworks": ['surely-missing; extra == "runtime"']}
    monkeypatch.setattr(package_lists.importlib.metadata, "requires", needs.get)
    ours = pod("", image="laptop/runtime:1")
    ours["spec"]["containers"][0]["command"] = ["python", "-m", "modelworks.runtime.serve"]
    server.objects["/api/v1/pods"] = listing(ours)
    node = asyncio.ensure_future(Node(host, port=0).run())
    reason = await waiting(server, "ImagePullBackOff")
    node.cancel()
    await asyncio.gather(node, return_exceptions=True)
    assert "this environment differs: surely-missing is missing" in reason
    assert "uv pip install" in reason


async def waiting(server, reason="CreateContainerError", message=""):
    """Reason and message of the first container that waits for that."""
    while True:
        status = await asyncio.wait_for(server.statuses.get(), 60)
        state = (status.get("containerStatuses") or [{"state": {}}])[0]["state"].get("waiting") or {}
        if state.get("reason") == reason and message in state["message"]:
            return f"{state['reason']}: {state['message']}"
