"""The gateway of a whole laptop cloud: how it follows the cluster, and what it writes back."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import time
import uuid

import httpx
import pytest

from modelworks.laptop import control_plane, supervisor
from modelworks.laptop.gateway import addresses
from modelworks.laptop.state_dir import StateDir, read_facts
from waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def api(laptop: StateDir):
    with control_plane.client(laptop, read_facts(laptop.root / "laptop.json")["ports"]) as client:
        yield client


@pytest.fixture
def namespace(api: httpx.Client):
    name = f"gateway-{uuid.uuid4().hex[:8]}"
    _create(api, "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    api.delete(f"/api/v1/namespaces/{name}").raise_for_status()


@pytest.fixture
def answering(laptop: StateDir):
    """Starts a server on a loopback address outside the pods' own range, that answers with its name."""
    network = read_facts(laptop.root / "laptop.json")["pod_network"].removesuffix(".0.0/16")
    servers = []

    def start(name: str) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer((f"{network}.250.{len(servers) + 1}", 8000), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_address[0]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _create(api: httpx.Client, path: str, body: dict) -> dict:
    answer = api.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


def _service(api: httpx.Client, namespace: str, name: str, **spec: object) -> None:
    _create(
        api,
        f"/api/v1/namespaces/{namespace}/services",
        {
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8000}], **spec},
        },
    )


def _ingress(api: httpx.Client, namespace: str, name: str, host: str) -> None:
    backend = {"service": {"name": name, "port": {"number": 80}}}
    _create(
        api,
        f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses",
        {
            "metadata": {"name": name},
            "spec": {
                "ingressClassName": "alb",
                "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
            },
        },
    )


def _pod(api: httpx.Client, namespace: str, app: str, name: str) -> str:
    """A pod that no scheduler and no agent looks after: its status is the test's to write."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    container = {
        "name": "main",
        "image": "none",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    body = {
        "metadata": {"name": name, "labels": {"app": app}, "finalizers": ["example.com/held"]},
        "spec": {"schedulerName": "nobody", "automountServiceAccountToken": False, "containers": [container]},
    }

    def made() -> httpx.Response | None:
        answer = api.post(pods, json=body)
        # The service account of a new namespace comes a moment after it.
        return None if answer.status_code == 403 else answer

    answer = eventually(made)
    assert answer.is_success, answer.text
    return f"{pods}/{name}"


def _ready(api: httpx.Client, pod: str, ip: str, *, ready: bool = True) -> None:
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }
    answer = api.patch(
        f"{pod}/status",
        content=json.dumps({"status": status}),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert answer.is_success, answer.text


def _release(api: httpx.Client, pod: str) -> None:
    merge = {"Content-Type": "application/merge-patch+json"}
    api.patch(pod, content='{"metadata": {"finalizers": null}}', headers=merge)


def _ask(laptop: StateDir, host: str) -> httpx.Response:
    port = read_facts(laptop.root / "laptop.json")["ports"]["gateway"]
    return httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": host}, trust_env=False)


def test_a_pod_joins_when_it_is_ready_and_leaves_when_it_is_ending(laptop, api, namespace, answering):
    host = f"{namespace}.localhost"
    first, second = answering("first"), answering("second")
    _service(api, namespace, "model")
    _ingress(api, namespace, "model", host)
    one, two = _pod(api, namespace, "model", "one"), _pod(api, namespace, "model", "two")
    try:
        eventually(lambda: _ask(laptop, host).status_code == 503)
        _ready(api, one, first)
        eventually(lambda: _ask(laptop, host).text == "first")
        _ready(api, two, second)
        eventually(lambda: _ask(laptop, host).text == "second")
        _ready(api, two, second, ready=False)
        eventually(lambda: {_ask(laptop, host).text for _ in range(6)} == {"first"})
        _ready(api, two, second)
        eventually(lambda: {_ask(laptop, host).text for _ in range(6)} == {"first", "second"})
        api.delete(one).raise_for_status()  # its finalizer holds it, as its process would
        eventually(lambda: {_ask(laptop, host).text for _ in range(6)} == {"second"})
    finally:
        _release(api, one)
        _release(api, two)


def test_addresses_are_written_back(laptop, api, namespace):
    port = read_facts(laptop.root / "laptop.json")["ports"]["gateway"]
    _service(api, namespace, "direct", type="LoadBalancer")
    _ingress(api, namespace, "direct", f"{namespace}.example.com")

    def address(path: str) -> object:
        return api.get(path).json()["status"]["loadBalancer"].get("ingress")

    ingress = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/direct"
    service = f"/api/v1/namespaces/{namespace}/services/direct"
    expected = {"hostname": f"{namespace}.example.com.localhost", "ports": [{"port": port, "protocol": "TCP"}]}
    eventually(lambda: address(ingress) == [expected])
    eventually(lambda: (address(service) or [{}])[0].get("hostname") == f"direct.{namespace}.localhost")


def test_a_host_of_another_namespace_is_refused_with_an_event(laptop, api, namespace):
    other = f"{namespace}-late"
    host = f"{namespace}.localhost"
    _create(api, "/api/v1/namespaces", {"metadata": {"name": other}})
    try:
        _service(api, namespace, "model")
        _ingress(api, namespace, "model", host)
        time.sleep(1.1)  # creation times have whole seconds
        _ingress(api, other, "intruder", host)
        events = f"/api/v1/namespaces/{other}/events"
        eventually(lambda: "HostTaken" in {event["reason"] for event in api.get(events).json()["items"]})
        ingress = api.get(f"/apis/networking.k8s.io/v1/namespaces/{other}/ingresses/intruder").json()
        assert not ingress["status"]["loadBalancer"].get("ingress")
    finally:
        api.delete(f"/api/v1/namespaces/{other}")


@pytest.mark.parametrize("victim", ["gateway", "caddy", "apiserver"])
def test_a_killed_part_loses_no_route_and_changes_are_followed_again(laptop, api, namespace, answering, victim):
    host = f"{namespace}.localhost"
    first, second = answering("first"), answering("second")
    _service(api, namespace, "model")
    _ingress(api, namespace, "model", host)
    pod = _pod(api, namespace, "model", "one")
    try:
        _ready(api, pod, first)
        eventually(lambda: _ask(laptop, host).text == "first")
        _kill(laptop, victim)
        eventually(lambda: _answers(laptop, host) == "first")
        eventually(lambda: _tells(api, pod, second))
        eventually(lambda: _answers(laptop, host) == "second")
    finally:
        _release(api, pod)


def test_a_host_has_an_address_that_outlives_both_halves_of_the_gateway_and_the_host_itself(
    laptop, api, namespace, answering
):
    host, ingress = f"{namespace}.example.com", f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/model"
    _service(api, namespace, "model")
    _ingress(api, namespace, "model", host)
    pod = _pod(api, namespace, "model", "one")
    try:
        _ready(api, pod, answering("first"))
        address = addresses.url_of(laptop, host)
        assert address.startswith("http://127.0.0.1:")
        eventually(lambda: _get(address) == (200, "first"))
        for half in ("gateway", "caddy"):
            _kill(laptop, half)
        eventually(lambda: _get(address) == (200, "first"))
        api.delete(ingress).raise_for_status()
        eventually(lambda: _get(address)[0] == 404)
        _ingress(api, namespace, "model", host)
        eventually(lambda: _get(address) == (200, "first"))
        assert addresses.url_of(laptop, host) == address
    finally:
        _release(api, pod)


def _get(url: str) -> tuple[int, str]:
    try:
        answer = httpx.get(url, trust_env=False)
    except httpx.TransportError:
        return 0, ""
    return answer.status_code, answer.text


def _kill(laptop: StateDir, name: str) -> None:
    [info] = [info for info in supervisor.processes(laptop) if info["name"] == name]
    os.kill(info["pid"], signal.SIGKILL)


def _answers(laptop: StateDir, host: str) -> str:
    try:
        return _ask(laptop, host).text
    except httpx.TransportError:
        return ""


def _tells(api: httpx.Client, pod: str, ip: str) -> bool:
    try:
        _ready(api, pod, ip)
    except (httpx.TransportError, AssertionError):
        return False
    return True
