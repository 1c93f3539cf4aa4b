"""The node agent against an API server that answers from a table."""

import asyncio
import base64
import json
from copy import deepcopy
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
from modelworks.laptop.agent.isolation import NONE
from modelworks.laptop.agent.node import Node
from modelworks.laptop.agent.reconcile import Backoff
from modelworks.laptop.agent.sandbox import Process, Sandbox, process_start
from modelworks.laptop.agent.traffic import Traffic
from modelworks.laptop.state_dir import StateDir
from waiting import PATIENCE, eventually_async


class ApiServer:
    """Serves `objects` by path, lists included, and keeps every status that a pod is given."""

    def __init__(self, objects):
        self.objects = objects
        self.statuses = asyncio.Queue()
        self.changes = asyncio.Queue()
        """What the watch of pods reports; None ends it."""
        self.changes_of_secrets = asyncio.Queue()
        self.events = []
        self.requests = []
        self.unfound = 0
        """How many deletions of pods find none before one succeeds."""

    async def answer(self, request):
        path = request.url.path
        self.requests.append((request.method, path))
        if request.method == "PATCH" and "/pods/" in path:
            return httpx.Response(200, json=self._reported(path.split("/")[-2], json.loads(request.content)["status"]))
        if request.method == "POST" and path.endswith("/events"):
            self.events.append(json.loads(request.content))
        watched = {"/api/v1/pods": self.changes, "/api/v1/secrets": self.changes_of_secrets}
        if request.url.params.get("watch") and path in watched:
            return httpx.Response(200, content=self._watched(watched[path]))
        if request.url.params.get("watch"):
            await asyncio.Event().wait()  # nothing ever changes
        if request.method == "DELETE" and "/pods/" in path:
            return self._deleted(path.split("/")[-1])
        if request.method != "GET":
            return httpx.Response(200, json={})
        if path not in self.objects:
            return httpx.Response(404, json={"message": f"{path} not found"})
        return httpx.Response(200, json=self.objects[path])

    def _reported(self, name, status):
        self.statuses.put_nowait(status)
        held = next(each for each in self.objects["/api/v1/pods"]["items"] if each["metadata"]["name"] == name)
        return changed(held, **status)

    def _deleted(self, name):
        if self.unfound:
            self.unfound -= 1
            return httpx.Response(404, json={"message": f'pod "{name}" not found'})
        held = next(each for each in self.objects["/api/v1/pods"]["items"] if each["metadata"]["name"] == name)
        self.changes.put_nowait(("DELETED", held))
        return httpx.Response(200, json=held)

    async def _watched(self, changes):
        while change := await changes.get():
            event, found = change
            yield json.dumps({"type": event, "object": found}).encode() + b"\n"
        changes.put_nowait(None)
        raise httpx.ReadError("the API server went away")

    async def phase(self, phase):
        """The first status of that phase."""
        while (status := await self.statuses.get())["phase"] != phase:
            pass
        return status


def listing(*items):
    return {"items": list(items), "metadata": {"resourceVersion": "1"}}


def changed(pod, **status):
    """The pod with another status, in its next version."""
    pod["metadata"]["resourceVersion"] = str(int(pod["metadata"]["resourceVersion"]) + 1)
    pod["status"] = {**pod.get("status", {}), **status}
    return pod


def ready(status):
    return {one["type"]: one["status"] for one in status["conditions"]}["Ready"] == "True"


def pod(command, **container):
    return {
        "metadata": {"name": "job", "namespace": "default", "uid": "1", "resourceVersion": "1"},
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
            "/api/v1/configmaps": listing(),
            "/api/v1/secrets": listing(),
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
    yield host, server
    for run in host.pods.glob("*/runs/*/*"):  # a container outlives its node
        Process(run, NONE).kill()
        Process(run, NONE).kill_shim()


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


async def test_a_rotated_secret_is_in_its_volume_as_soon_as_the_api_server_tells(host):
    host, server = replace(host[0], refresh_seconds=3600), host[1]
    password = {
        "metadata": {"name": "password", "namespace": "default", "resourceVersion": "1"},
        "data": {"value": base64.b64encode(b"first").decode()},
    }
    reader = pod("sleep 600")
    reader["spec"]["volumes"] = [{"name": "mounted", "secret": {"secretName": "password"}}]
    server.objects |= {"/api/v1/pods": listing(reader), "/api/v1/namespaces/default/secrets/password": password}
    running = asyncio.ensure_future(Node(host, port=0).run())
    await asyncio.wait_for(server.phase("Running"), PATIENCE)
    [link] = host.pods.rglob("mounted/value")
    assert link.read_text() == "first"
    rotated = {**password, "data": {"value": base64.b64encode(b"second").decode()}}
    server.changes_of_secrets.put_nowait(("MODIFIED", rotated))
    await eventually_async(lambda: link.read_text() == "second")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_pod_is_gone_when_the_watch_says_so_and_not_when_its_deletion_finds_none(host):
    """The admission of nodes finds no pod for a moment after a start of the API server."""
    host, server = host
    ending = pod("true")
    ending["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}
    server.objects["/api/v1/pods"] = listing(ending)
    server.unfound = 1
    node = Node(host, port=0)
    running = asyncio.ensure_future(node.run())
    await eventually_async(lambda: [method for method, _ in server.requests].count("DELETE") == 2)
    await eventually_async(lambda: not node.known)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


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
    ("told", "known"),
    [
        ([("LISTED", ["web"]), ("MODIFIED", "web"), ("DELETED", "web")], [1, 1, 0]),
        ([("LISTED", []), ("ADDED", "web"), ("LISTED", [])], [0, 1, 0]),  # it went while the API server was not heard
    ],
)
async def test_a_pod_that_starts_after_a_service_is_gone_has_no_variables_of_it(host, monkeypatch, told, known):
    host, _ = host
    after = []

    web = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80}]},
    }

    async def follow(*_):
        for event, names in told:
            yield event, [web for _ in names] if event == "LISTED" else web
            after.append(len(host.services("default")))

    monkeypatch.setattr(ApiClient, "follow", follow)
    await host.watch_services()
    assert after == known
    assert host.services("default") == []


async def test_a_pod_that_went_while_the_api_server_was_not_heard_is_ended(host):
    host, server = host
    server.changes.put_nowait(("ADDED", pod("sleep 600")))
    node = Node(host, port=0)
    running = asyncio.ensure_future(node.run())
    await eventually_async(lambda: "1" in node.known)
    server.changes.put_nowait(None)
    await eventually_async(lambda: not node.known)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_pod_that_others_took_for_dead_is_reported_as_ready_again(host):
    """As the controller of nodes does with every pod of one whose heartbeats it missed."""
    host, server = host
    job = pod("sleep 600")
    server.objects["/api/v1/pods"] = listing(job)
    node = Node(host, port=0)
    running = asyncio.ensure_future(node.run())
    while not ready(await asyncio.wait_for(server.statuses.get(), 60)):
        pass
    conditions = [{**one, "status": "False"} if one["type"] == "Ready" else one for one in job["status"]["conditions"]]
    server.changes.put_nowait(("MODIFIED", deepcopy(changed(job, conditions=conditions))))
    assert ready(await asyncio.wait_for(server.statuses.get(), 60))
    known = node.known["1"]
    known.update(pod("sleep 600"))  # a watch lags behind what the agent itself wrote: no reason to repeat it
    assert ready(known.pod["status"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


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
