"""Rehearsed: clients that never stop, while pods are replaced, taken away and killed, and parts of the cloud too.

What may fail is what the gateway says of retries: a request is not lost to pods that are asked to end, be it a POST;
one on its way to a process that is killed is tried again if it is a GET. Rollouts with analysis are rehearsed in
`test_rollouts.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import uuid
from collections import Counter
from typing import Self

import httpx
import psutil
import pytest

from modelworks.laptop import control_plane, supervisor
from modelworks.laptop.state_dir import StateDir, read_facts
from waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(sys.argv[2])))
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
    do_POST = do_GET
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server((sys.argv[1], 8000), Handler).serve_forever()
"""


class Load:
    """Four clients that ask over kept connections, and count what they get."""

    def __init__(self, place: StateDir, host: str, method: str) -> None:
        self.url = f"http://127.0.0.1:{read_facts(place.root / 'laptop.json')['ports']['gateway']}/"
        self.host, self.method = host, method
        self.answers: Counter[str] = Counter()
        self.since_failure = 0
        """Good answers since the last one that was none."""
        self._stop = threading.Event()
        self._clients = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        eventually(lambda: self.count > 100)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join()

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=10, headers={"Host": self.host}) as client:
            while not self._stop.wait(0.01):
                try:
                    answer = client.request(self.method, self.url)
                    found = answer.text if answer.status_code == 200 else f"! {answer.status_code} {answer.text}"
                except httpx.TransportError as error:
                    found = f"! {error!r}"
                self.answers[found] += 1
                self.since_failure = 0 if found.startswith("!") else self.since_failure + 1

    @property
    def count(self) -> int:
        return self.answers.total()

    @property
    def failed(self) -> dict[str, int]:
        return {found: times for found, times in self.answers.items() if found.startswith("!")}

    def goes_on(self, requests: int = 300) -> None:
        """Wait until that many more were asked."""
        before = self.count
        eventually(lambda: self.count > before + requests)


@pytest.fixture(scope="module")
def api(laptop):
    with control_plane.client(laptop, read_facts(laptop.root / "laptop.json")["ports"]) as client:
        yield client


class Served:
    """A Deployment behind an Ingress."""

    def __init__(self, api: httpx.Client) -> None:
        self.api = api
        self.namespace = f"rehearsed-{uuid.uuid4().hex[:8]}"
        self.host = f"{self.namespace}.localhost"
        self.deployment = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/web"

    def declare(self, version: str = "first", replicas: int = 3) -> None:
        container = {
            "name": "web",
            "image": "none",
            "command": ["python", "-c", SERVER, "$(POD_IP)", version],
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
            "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
        }
        labels = {"app": "web"}
        self._apply(
            "apps/v1",
            "Deployment",
            "deployments",
            {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "strategy": {"rollingUpdate": {"maxUnavailable": 0}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
                },
            },
        )

    def expose(self) -> None:
        self._apply(
            "v1", "Service", "services", {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]}
        )
        backend = {"service": {"name": "web", "port": {"number": 80}}}
        path = {"path": "/", "pathType": "Prefix", "backend": backend}
        rule = {"host": self.host, "http": {"paths": [path]}}
        self._apply("networking.k8s.io/v1", "Ingress", "ingresses", {"rules": [rule]})

    def _apply(self, version: str, kind: str, plural: str, spec: dict) -> None:
        root = "/api" if version == "v1" else "/apis"
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec}
        control_plane.apply(self.api, f"{root}/{version}/namespaces/{self.namespace}/{plural}/web", body)

    def pods(self) -> list[dict]:
        return self.api.get(f"/api/v1/namespaces/{self.namespace}/pods").json()["items"]

    def settled(self, replicas: int) -> bool:
        found = self.api.get(self.deployment).json()
        status = found["status"]
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("updatedReplicas") == status.get("readyReplicas") == status.get("replicas") == replicas
            and len(self.pods()) == replicas
        )

    def process(self) -> psutil.Process:
        """That of one of its pods."""
        address = self.pods()[0]["status"]["podIP"]
        return next(
            process
            for process in psutil.process_iter(["cmdline"])
            if {"-c", address} <= set(process.info["cmdline"] or []) and "modelworks" not in process.info["cmdline"][0]
        )


@pytest.fixture(scope="module")
def served(api):
    one = Served(api)
    api.post("/api/v1/namespaces", json={"metadata": {"name": one.namespace}}).raise_for_status()
    one.declare()
    one.expose()
    eventually(lambda: one.settled(3))
    yield one
    api.delete(f"/api/v1/namespaces/{one.namespace}")


def test_a_rolling_update_loses_no_request(laptop, served):
    with Load(laptop, served.host, "POST") as load:
        served.declare("second")
        eventually(lambda: served.settled(3))
        load.goes_on()
    assert load.failed == {}
    assert load.answers["first"]
    assert load.answers["second"]


def test_scaling_down_to_one_loses_no_request(laptop, served):
    served.declare("second", replicas=3)
    eventually(lambda: served.settled(3))
    with Load(laptop, served.host, "POST") as load:
        served.declare("second", replicas=1)
        eventually(lambda: served.settled(1))
        load.goes_on()
    served.declare("second", replicas=3)
    eventually(lambda: served.settled(3))
    assert load.failed == {}


def test_a_killed_pod_process_loses_no_get_and_comes_back(laptop, served):
    with Load(laptop, served.host, "GET") as load:
        os.kill(served.process().pid, signal.SIGKILL)
        eventually(lambda: any(pod["status"]["containerStatuses"][0]["restartCount"] for pod in served.pods()))
        eventually(lambda: served.settled(3))
        load.goes_on()
    assert load.failed == {}


@pytest.mark.parametrize("part", ["agent", "apiserver", "gateway", "etcd"])
def test_a_killed_part_that_no_request_passes_through_loses_none(laptop, served, part):
    with Load(laptop, served.host, "POST") as load:
        pid = kill(laptop, part)
        eventually(lambda: running(laptop).get(part) not in {None, pid})
        load.goes_on()
    assert load.failed == {}


def test_a_killed_caddy_answers_again(laptop, served):
    with Load(laptop, served.host, "GET") as load:
        kill(laptop, "caddy")
        eventually(lambda: load.failed)
        eventually(lambda: load.since_failure > 500, lambda: load.failed)


def running(place: StateDir) -> dict[str, int]:
    return {info["name"]: info["pid"] for info in supervisor.processes(place) if info["statename"] == "RUNNING"}


def kill(place: StateDir, part: str) -> int:
    pid = running(place)[part]
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.fixture
def users(laptop, api, tmp_path):
    """The kubectl of two environments, as `up` makes their users."""
    ports = read_facts(laptop.root / "laptop.json")["ports"]
    found = {}
    for name in ("ours", "theirs"):
        control_plane.set_up_environment(api, name)
        path = tmp_path / f"{name}.kubeconfig"
        user = control_plane.environment_user(name)
        control_plane.identity(laptop, ports, path, user, ("modelworks:environments",))
        found[name] = Kubectl(laptop, path)
    return found["ours"], found["theirs"]


@pytest.fixture
def namespace(users):
    """A namespace that the first of them made."""
    ours, _ = users
    name = f"ours-{uuid.uuid4().hex[:8]}"
    assert ours("create", "namespace", name) == ""
    yield name
    assert ours("delete", "namespace", name, "--wait=false") == ""


def test_environments_do_not_change_each_others_things(api, users, namespace):
    ours, theirs = users
    assert ours("label", "namespace", namespace, "team=a") == ""
    assert ours("create", "configmap", "a", "-n", namespace) == ""
    refusal = "belongs to the environment ours, and not to theirs"
    assert refusal in theirs("create", "configmap", "b", "-n", namespace)
    assert refusal in theirs("delete", "configmap", "a", "-n", namespace)
    assert refusal in theirs("create", "token", "default", "-n", namespace)
    assert ours("run", "p", "--image=modelworks.invalid/none", "-n", namespace) == ""
    assert refusal in theirs("exec", "p", "-n", namespace, "--", "true")
    assert refusal in theirs("label", "namespace", namespace, "team=b", "--overwrite")
    assert refusal in theirs("delete", "namespace", namespace)
    mark = "modelworks.dev/environment"
    assert "stays" in ours("label", "namespace", namespace, f"{mark}=theirs", "--overwrite")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"team": "c"}}}
    assert ours("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(body)) == ""
    assert api.get(f"/api/v1/namespaces/{namespace}").json()["metadata"]["labels"][mark] == "ours"
    own = "belongs to the laptop cloud itself"
    assert own in ours("create", "configmap", "a", "-n", "default")
    assert own in ours("label", "namespace", "default", "team=a")
    assert own in ours("delete", "customresourcedefinition", "rollouts.argoproj.io")


def test_an_environment_administers_nothing_of_the_laptop(users):
    ours, _ = users
    alone = "for the laptop cloud alone to change"
    bind = ("create", "clusterrolebinding", "b", "--user=ours")
    assert "not currently held" in ours(*bind, "--clusterrole=cluster-admin")
    assert alone in ours(*bind, "--clusterrole=modelworks:environment")
    assert alone in ours("create", "priorityclass", "high", "--value=1")
    policy = "modelworks-environments-validating"
    for kind in ("validatingadmissionpolicy", "validatingadmissionpolicybinding"):
        assert ours("get", kind, policy) == ""
        assert "belongs to the laptop cloud itself" in ours("delete", kind, policy)
        assert "belongs to the laptop cloud itself" in ours("label", kind, policy, "a=b")
    assert "belongs to the laptop cloud itself" in ours("delete", "node", control_plane.NODE)
    assert ours("get", "--raw", f"/api/v1/nodes/{control_plane.NODE}/proxy/pods") != ""
    assert "cannot impersonate" in ours("get", "pods", "--as=modelworks:admin")


def test_a_namespace_is_its_environments_as_soon_as_it_is_there(users):
    """No right follows it a moment later: a program that goes on at once is not refused."""
    ours, _ = users
    name = f"once-{uuid.uuid4().hex[:8]}"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    inside = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": name}}
    both = {"apiVersion": "v1", "kind": "List", "items": [namespace, inside]}
    try:
        assert ours("create", "-f", "-", stdin=json.dumps(both)) == ""
    finally:
        ours("delete", "namespace", name, "--wait=false")


def test_an_environment_may_use_the_kinds_that_it_defines(laptop):
    ours = Kubectl(laptop, laptop.environment("local") / "kubeconfig")
    group, namespace = f"g{uuid.uuid4().hex[:8]}.example.com", f"kinds-{uuid.uuid4().hex[:8]}"
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object"}},
    }
    spec = {
        "group": group,
        "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        "versions": [version],
    }
    kind = {"metadata": {"name": f"things.{group}"}, "spec": spec}
    kind |= {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "one"}}
    try:
        assert ours("apply", "-f", "-", stdin=json.dumps(kind)) == ""
        assert ours("create", "namespace", namespace) == ""
        # The API server serves a new kind a moment after it has been defined.
        eventually(lambda: ours("apply", "-n", namespace, "-f", "-", stdin=json.dumps(thing)) == "")
        assert ours("delete", "-n", namespace, f"things.{group}", "one") == ""
    finally:
        ours("delete", "customresourcedefinition", f"things.{group}", "--wait=false")
        ours("delete", "namespace", namespace, "--wait=false")


class Kubectl:
    """As one user; gives what it complains of."""

    def __init__(self, place: StateDir, kubeconfig: object) -> None:
        self.program = read_facts(place.root / "laptop.json")["tools"]["kubectl"]
        self.kubeconfig = str(kubeconfig)

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [self.program, "--kubeconfig", self.kubeconfig, *arguments],
            input=stdin, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or done.stderr
        return done.stderr
