"""A rehearsal of rollouts: one endpoint on a laptop cloud of its own, releases good and bad, clients that never stop.

Nothing of it is made up: the real engine declares a `ModelEndpoint`, pods serve trained bundles from S3, the real Argo
Rollouts controller moves traffic through the gateway and asks CloudWatch how it goes.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import boto3
import grpc
import httpx
import numpy as np
from botocore.config import Config

from modelworks import contract
from modelworks.cluster.client import KubernetesClient
from modelworks.cluster.rollout_patches import promotion
from modelworks.laptop import control_plane, environments, supervisor
from modelworks.laptop.state_dir import StateDir, read_facts
from modelworks.runtime.manifest import Onnx, OnnxInput
from modelworks.runtime.server import v2_messages
from runtime import custom_bundle, example_bundle
from runtime.test_v2_grpc import example_request
from waiting import eventually

MODEL = "flight-delay"
ROWS = example_bundle.rows(400, seed=11)
"""What clients send."""
HOST = f"{MODEL}.local.localhost"
ROLLOUTS = "/apis/argoproj.io/v1alpha1/namespaces/{}/rollouts"
RUNS = "/apis/argoproj.io/v1alpha1/namespaces/{}/analysisruns"

PROGRAM = """
import json
from pathlib import Path

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from modelworks import ModelEndpoint

wanted = json.loads(Path("wanted.json").read_text())
key = aws.kms.Key("key")
topic = aws.sns.Topic("alerts")
bucket = aws.s3.Bucket("store", bucket="store", force_destroy=True)
namespace = k8s.core.v1.Namespace(
    "namespace",
    metadata={
        "name": wanted["namespace"],
        "labels": {
            # As `Environment` declares it: a pod is ready when the load balancer reaches it.
            "elbv2.k8s.aws/pod-readiness-gate-inject": "enabled",
            **{f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")},
        },
    },
)
k8s.networking.v1.NetworkPolicy(
    "default-deny",
    metadata={"namespace": namespace.metadata.name},
    spec={"pod_selector": {}, "policy_types": ["Ingress", "Egress"]},
)
endpoint = ModelEndpoint(
    wanted["model"],
    {
        "environment": "local",
        "account_id": aws.get_caller_identity_output().account_id,
        "namespace": namespace.metadata.name,
        "oidc_issuer": "oidc.laptop.example/id",
        "bundle_bucket": bucket.bucket,
        "prediction_bucket": bucket.bucket,
        "key_arn": key.arn,
        "alerts_topic_arn": topic.arn,
        "image": "laptop/runtime@sha256:" + "0" * 64,
        "host": wanted["host"],
        "release": wanted["release"],
        "allow_anonymous": True,
        **wanted["settings"],
    },
)
pulumi.export("url", endpoint.url)
"""

SETTINGS: dict[str, Any] = {
    "minimum_replicas": 2,
    "maximum_replicas": 2,
    "cpu_millicores": 250,
    "grpc": True,
    "latency_objective_ms": 100,
    "limits": {"period_seconds": 10},
    "canary": {
        "steps": [20, 50],
        "step_seconds": 15,
        "bake_seconds": 10,
        "progress_deadline_seconds": 120,
        "minimum_requests": 50,
    },
}
"""Times a hundredth of what an environment uses; the limits are those of an environment. The latency objective lies
far above what a good release takes beside other tests, and below what the slow one takes alone."""


# -- Releases --------------------------------------------------------------------------------------------------------
def build(folder: Path, trees: int) -> example_bundle.Example:
    """A good one; another number of trees is another release."""
    target = folder / f"trees-{trees}"
    target.mkdir(parents=True)
    return example_bundle.build(target, model=MODEL, trees=trees)


def failing(folder: Path) -> example_bundle.Example:
    """Not a number for one row in twenty of those that clients send: where `x0` is largest."""
    from onnx import helper

    return _graph(
        folder,
        "failing",
        [
            helper.make_node("Sub", ["edge", "first"], ["distance"]),
            helper.make_node("Log", ["distance"], ["logarithm"]),
            helper.make_node("Mul", ["logarithm", "zero"], ["change"]),
        ],
    )


def slow(folder: Path, size: int = 2400, name: str = "slow") -> example_bundle.Example:
    """Right, but it multiplies large matrices on the way: far beyond five times what others take."""
    from onnx import helper

    return _graph(
        folder,
        name,
        [
            helper.make_node("ReduceMax", ["X"], ["most"], keepdims=0),
            helper.make_node("Expand", ["most", "square"], ["matrix"]),
            helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["largest", "zero"], ["change"]),
        ],
        size,
    )


def crashing(folder: Path) -> example_bundle.Example:
    """A graph that nobody can load, though it is the one that the manifest names."""
    return _pack(folder, "crashing", b"this is no graph")


def own(folder: Path) -> example_bundle.Example:
    """A good one with a service of its own."""
    return custom_bundle.build(folder / "own", build(folder, trees=1).manifest)


def own_crashing(folder: Path) -> example_bundle.Example:
    """A service of its own that ends as it begins."""
    return custom_bundle.recoded(own(folder / "good"), folder / "crashing", "raise SystemExit('no luck')")


def _graph(folder: Path, name: str, change: list[Any], size: int = 1) -> example_bundle.Example:
    """A logistic regression to whose scores `change`, which is zero or not a number, is added."""
    from onnx import TensorProto, helper, numpy_helper

    features = example_bundle.FEATURES
    constants = {
        "weights": np.linspace(-1, 1, features, dtype=np.float32).reshape(features, 1),
        "both": np.array([[-1.0, 1.0]], dtype=np.float32),
        "none": np.zeros((1, features), dtype=np.float32),
        "column": np.array([0], dtype=np.int64),
        "edge": np.array(np.quantile([row["x0"] for row in ROWS], 0.95), dtype=np.float32),
        "zero": np.array(0.0, dtype=np.float32),
        "square": np.array([size, size], dtype=np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["X"], ["missing"]),
        helper.make_node("Where", ["missing", "none", "X"], ["known"]),
        helper.make_node("Gather", ["known", "column"], ["first"], axis=1),
        helper.make_node("MatMul", ["known", "weights"], ["score"]),
        helper.make_node("MatMul", ["score", "both"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["good"], axis=1),
        *change,
        helper.make_node("Add", ["good", "change"], ["probabilities"]),
    ]
    rows = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, features])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])
    initial = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, [rows], [answer], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return _pack(folder, name, model.SerializeToString())


def _pack(folder: Path, name: str, graph: bytes) -> example_bundle.Example:
    target = folder / name
    target.mkdir(parents=True)
    example = example_bundle.build(target, model=MODEL, trees=1)
    artifact = Onnx(
        path="model.onnx",
        sha256=hashlib.sha256(graph).hexdigest(),
        inputs=(OnnxInput(name="X", columns=example.columns),),
        output="probabilities",
    )
    return example_bundle.repack(example, graph, artifact)


# -- The endpoint ----------------------------------------------------------------------------------------------------
class Rehearsal:
    """An endpoint on a laptop cloud that is up, and a program that releases to it.

    Args:
        place: The laptop cloud, with the environment `local`.
        folder: Where the program lives.
    """

    def __init__(self, place: StateDir, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.variables = environments.environment_variables(place, "local")
        self.namespace = environments.facts(place, "local")["namespace"]
        self.ports = read_facts(place.root / "laptop.json")["ports"]
        self.gateway: int = self.ports["gateway"]
        self.serving = ""
        """What answers call the release that is good."""
        self._version = 0
        self._lines: dict[str, dict[str, Any]] = {}
        (folder / "Pulumi.yaml").write_text("name: rehearsal\nruntime: python\n")
        (folder / "__main__.py").write_text(PROGRAM)
        self._want(None)
        self.pulumi("stack", "init", "local")
        self._up()

    def release(self, example: example_bundle.Example, data: bytes | None = None, **settings: Any) -> str:
        """Put the bundle into the store, change the release line, `pulumi up`. Returns what its answers call it.

        Args:
            example: The bundle.
            data: What lies in the store instead of the bundle's bytes.
            settings: Of the endpoint, where this release needs others.
        """
        key = contract.bundle_key(MODEL, example.digest)
        self.aws("s3").put_object(Bucket="store", Key=key, Body=data or example.archive.read_bytes())
        self._version += 1
        name = contract.short_digest(example.digest)
        self._lines[name] = {"digest": example.digest, "version": self._version}
        self._want(self._lines[name], settings)
        self._up()
        return name

    def back(self, **settings: Any) -> None:
        """The release line as it was for what serves, with other settings of the endpoint, and `pulumi up`."""
        self._want(self._lines[self.serving], settings)
        self._up()

    def answer_to(self, token: str) -> int:
        """The status of a prediction that was requested with a token."""
        headers = {"Host": HOST, "Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{self.gateway}/v1/predict"
        return httpx.post(url, json={"rows": ROWS[:1]}, headers=headers, timeout=30, trust_env=False).status_code

    def predictions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the JSON API answers."""
        url = f"http://127.0.0.1:{self.gateway}/v1/predict"
        answer = httpx.post(url, json={"rows": rows}, headers={"Host": HOST}, timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()["predictions"]

    def unchanged(self) -> str:
        """A preview that must find nothing to do."""
        return self.pulumi("preview", "--expect-no-changes", "--diff", "--stack", "local")

    def destroy(self) -> None:
        """Take everything down again."""
        self.pulumi("destroy", "--yes", "--skip-preview", "--stack", "local")

    def _want(self, release: dict[str, Any] | None, settings: dict[str, Any] | None = None) -> None:
        wanted = {
            "namespace": self.namespace,
            "model": MODEL,
            "host": HOST,
            "release": release,
            "settings": {**SETTINGS, **(settings or {})},
        }
        (self.folder / "wanted.json").write_text(json.dumps(wanted))

    def _up(self) -> None:
        self.pulumi("up", "--yes", "--skip-preview", "--stack", "local")

    def pulumi(self, *arguments: str) -> str:
        """Run the engine; what it prints is in the failure."""
        return self._run("pulumi", *arguments, "--non-interactive", "--color", "never")

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the namespace of the endpoint."""
        return self._run("kubectl", "--namespace", self.namespace, *arguments)

    def _run(self, *argv: str) -> str:
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def aws(self, service: str) -> Any:
        """A client of the environment's AWS account."""
        variables = self.variables
        return boto3.client(
            service,
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            region_name=variables["AWS_REGION"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}),
        )

    # -- What it has come to -----------------------------------------------------------------------------------------
    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects there, oldest first; an API server that is away is waited for."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with control_plane.client(self.place, self.ports) as api:
                    answer = api.get(path.format(self.namespace))
                    answer.raise_for_status()
                    found = answer.json()["items"]
                    return sorted(found, key=lambda item: item["metadata"]["creationTimestamp"])
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def rollout(self) -> dict[str, Any]:
        """The endpoint's Rollout."""
        (found,) = self.items(ROLLOUTS)
        return found

    @property
    def status(self) -> dict[str, Any]:
        """Its status, once the controller has seen the last change of its spec."""
        found = self.rollout()
        status = found.get("status", {})
        seen = str(status.get("observedGeneration", "")) == str(found["metadata"]["generation"])
        return status if seen else {}

    def phase(self) -> str:
        """`Healthy`, `Progressing`, `Paused`, `Degraded`, or nothing yet."""
        return self.status.get("phase", "")

    def weight(self) -> int:
        """Share of traffic that the canary has now, in per cent."""
        return self.status.get("canary", {}).get("weights", {}).get("canary", {}).get("weight", 0)

    def turned_back(self) -> bool:
        """Whether the last release was given up, and stable has all traffic again."""
        return bool(self.status.get("abort")) and self.phase() == "Degraded" and self.weight() == 0

    def healthy(self) -> bool:
        """Whether the last release has taken over."""
        return self.phase() == "Healthy"

    def takes_over(self) -> bool:
        """Whether the last release has taken over; one that was turned back fails the test with what was measured."""
        assert not self.turned_back(), f"it was turned back: {self.status.get('message')}, {self.failures()}"
        return self.healthy()

    def go_on(self) -> None:
        """Let a rollout that pauses go on at once, as `modelworks rollout promote` does."""
        found = self.rollout()
        if found.get("status", {}).get("pauseConditions"):
            KubernetesClient(self.variables["KUBECONFIG"], None, self.namespace).patch(
                found, promotion(found, full=False)
            )

    def promote(self) -> None:
        """Let a rollout take over at once, as `modelworks rollout promote --full` does."""
        found = self.rollout()
        KubernetesClient(self.variables["KUBECONFIG"], None, self.namespace).patch(found, promotion(found, full=True))

    def failures(self) -> list[str]:
        """What the analyses of the last release found wrong, as `name: phase, message, value`."""
        revision = self.rollout()["metadata"]["annotations"]["rollout.argoproj.io/revision"]
        return [
            f"{result['name']}: {result['phase']} {result.get('message', '')} "
            f"{result['measurements'][-1].get('value', '') if result.get('measurements') else ''}"
            for run in self.items(RUNS)
            if run["metadata"]["annotations"].get("rollout.argoproj.io/revision") == revision
            for result in run.get("status", {}).get("metricResults", [])
            if result["phase"] not in {"Successful", "Running"}
        ]

    def why(self) -> str:
        """What containers of the endpoint said when they ended."""
        states = [
            status.get(which, {}).get("terminated", {})
            for pod in self.pods()
            for status in pod["status"].get("containerStatuses", [])
            for which in ("state", "lastState")
        ]
        return " ".join(state.get("message", "") for state in states)

    def pods(self) -> list[dict[str, Any]]:
        """The endpoint's pods."""
        return self.items("/api/v1/namespaces/{}/pods?labelSelector=app.kubernetes.io/component=endpoint")

    def alarm(self, name: str) -> str:
        """The state of an alarm of the endpoint."""
        (found,) = (
            each
            for each in self.aws("cloudwatch").describe_alarms()["MetricAlarms"]
            if each["AlarmName"].startswith(f"{MODEL}-{name}")
        )
        return found["StateValue"]

    def evict(self, pod: str) -> bool:
        """Have a pod evicted, as `kubectl drain` does; whether its disruption budget lets it go."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        with control_plane.client(self.place, self.ports) as api:
            answer = api.post(f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction", json=eviction)
        assert answer.status_code in {201, 404, 429}, answer.text
        return answer.status_code != 429

    def kill(self, part: str) -> int:
        """Kill a part of the laptop cloud; its supervisor starts it again. Returns the process it was."""
        pid = next(info["pid"] for info in supervisor.processes(self.place) if info["name"] == part)
        os.kill(pid, 9)
        return pid


until = partial(eventually, patience=300, pause=0.25)
"""`eventually` for a rollout, which takes minutes and is asked about over the API server."""


# -- Clients ---------------------------------------------------------------------------------------------------------
class Client:
    """Does `_run` beside the test, from the start of a block to its end."""

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        """Ask until `_stop` is set."""
        raise NotImplementedError


@dataclass
class Load(Client):
    """Clients that ask one after the other, together `rate` times a second, until SIGTERM."""

    port: int
    rate: float
    clients: int = 16
    host: str = HOST
    rows: list[dict[str, Any]] = field(default_factory=lambda: ROWS)
    token: str = ""
    """What the next requests are signed in with; it may change while they are sent."""
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How often each status came, by the version that gave it; 0 is an answer that never came."""
    firsts: dict[str, float] = field(default_factory=dict)
    """When each version answered for the first time (`time.monotonic`)."""
    lasts: dict[str, float] = field(default_factory=dict)
    """When each version answered for the last time."""
    faults: list[str] = field(default_factory=list)
    """The first answers that were not 200."""
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    """How long good answers took, by version."""

    def __enter__(self) -> Self:
        self._bodies = [json.dumps({"rows": [row]}).encode() for row in self.rows]
        return super().__enter__()

    def _run(self) -> None:
        asyncio.run(self._send_all())

    def _request(self, body: bytes) -> bytes:
        signed_in = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {self.host}\r\n{signed_in}Content-Type: application/json\r\n"
        return b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(body), body)

    def goes_on(self) -> None:
        """Wait for as many answers as three to each client: most are to requests that began after now."""
        enough = self.count + 3 * self.clients
        until(lambda: self.count > enough)

    @property
    def count(self) -> int:
        """Requests so far."""
        return sum(self.answers.values())

    def of(self, version: str) -> int:
        """Good answers of that version."""
        return self.answers[200, version]

    @property
    def failed(self) -> int:
        """Requests that did not get a prediction."""
        return sum(count for (status, _), count in self.answers.items() if status != 200)

    async def _send_all(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self.clients)))

    async def _client(self, number: int) -> None:
        pick = random.Random(number)
        every = self.clients / self.rate
        due = time.monotonic() + every * number / self.clients
        streams = None
        while not self._stop.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + every, time.monotonic() - 1)
            began = time.monotonic()
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self.port)
                async with asyncio.timeout(15):
                    status, body = await _ask(*streams, self._request(pick.choice(self._bodies)))
            except (OSError, EOFError, TimeoutError) as error:
                if streams is not None:
                    streams[1].close()
                streams = None
                self._note(0, "", repr(error))
                await asyncio.sleep(0.05)
                continue
            version = json.loads(body)["version"] if status == 200 else ""
            self._note(status, version, body.decode(errors="replace"))
            if status == 200:
                self.milliseconds.setdefault(version, []).append((time.monotonic() - began) * 1000)
        if streams is not None:
            streams[1].close()

    def _note(self, status: int, version: str, said: str) -> None:
        self.answers[status, version] += 1
        if status == 200:
            now = time.monotonic()
            self.firsts.setdefault(version, now)
            self.lasts[version] = now
        elif len(self.faults) < 20:
            self.faults.append(f"{time.strftime('%H:%M:%S')} {status} {said[:200]}")


class Calls(Client):
    """A client that calls over gRPC, one request after the other, until the end."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.default_authority", HOST)])
        self._infer = self._channel.unary_unary(
            f"/{contract.GRPC_SERVICE}/ModelInfer",
            request_serializer=v2_messages.ModelInferRequest.SerializeToString,
            response_deserializer=v2_messages.ModelInferResponse.FromString,
        )
        self.answers: Counter[str] = Counter()
        """How often each version answered."""
        self.faults: list[str] = []
        """Calls that got no prediction."""

    def infer(self, rows: list[dict[str, Any]]) -> Any:
        """The answer to one request."""
        request = example_request(rows)
        request.model_name = MODEL
        return self._infer(request, timeout=30)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._channel.close()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stop.wait(0.02):
                return
            try:
                self.answers[self.infer([ROWS[number % len(ROWS)]]).model_version] += 1
            except grpc.RpcError as error:
                self.faults.append(f"{error.code().name} {error.details()}")


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
