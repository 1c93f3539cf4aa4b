"""Faults and rotations in the middle of a canary, on a strict laptop: what clients lose, and what a user sees.

The tests share one environment and one canary, and run in their order.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from e2e.rehearsal import Client, Load, until
from e2e.test_lifecycle import BIN, MODEL, Rehearsal
from modelworks import contract
from modelworks.cluster.rollout_objects import HASH, ended_at, is_background
from modelworks.laptop import cloud
from modelworks.laptop.agent import traffic
from modelworks.laptop.state_dir import read_facts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ENVIRONMENT, ACCOUNT = "dev", "111111111111"
ROW = {"type": "Fixed wing multi engine", "manufacturer": "BOEING", "engine": "Turbo-fan", "engines": 2, "built": 1999}
SETTINGS: dict[str, Any] = {
    "owner": "tests",
    "cost_centre": "1",
    "registry": {},
    "endpoints": {
        MODEL: {
            "minimum_replicas": 2,
            "maximum_replicas": 2,
            "cpu_millicores": 100,
            "latency_objective_ms": 5000,
            "limits": {"period_seconds": 10},
            # Its pause outlasts the stories: they end it, as `rollout promote` does.
            "canary": {
                "steps": [50],
                "step_seconds": 600,
                "bake_seconds": 10,
                "progress_deadline_seconds": 120,
                "minimum_requests": 20,
            },
        }
    },
}


class Stories(Rehearsal):
    """A checkout, and an environment of a strict laptop in which its model serves."""

    def declare(self, environment: str = ENVIRONMENT) -> None:
        """Make the stack with its settings and secrets, serve a first version, and wait until it does."""
        for name in ("first", "second"):
            key = Ed25519PrivateKey.generate()
            self.key(name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            self.key(name).with_suffix(".pem").write_bytes(public)
        config = {"aws:region": "eu-central-1", "aws:allowedAccountIds": [ACCOUNT], "modelworks:settings": SETTINGS}
        self.stack(environment).write_text(yaml.safe_dump({"config": config}))
        self.pulumi(environment, "stack", "init", "--no-select")
        self.trust("first")
        self.set_secret("registry_password", "the-first-password")
        self.set_secret(f"tokens.{MODEL}", "old")
        self.commit()
        self.modelworks("train", MODEL)
        self.modelworks("bundle", MODEL)
        self.up()
        self.register("first")
        self.modelworks("release", MODEL, "--env", environment)
        self.up()
        self.modelworks("status", environment, "--wait")

    def up(self, *, fails: bool = False) -> str:
        return self.modelworks("up", ENVIRONMENT, "--yes", "--skip-preview", fails=fails)

    def key(self, name: str) -> Path:
        """A private key, beside which its public one is."""
        return self.project.parent / f"{name}.key"

    def register(self, key: str) -> None:
        """Register the last bundle, signed by a key."""
        self.modelworks("register", MODEL, "--env", ENVIRONMENT, "--signing-key", str(self.key(key)))

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the settings of the stack's file."""
        file = self.stack(ENVIRONMENT)
        content = yaml.safe_load(file.read_text())
        change(content["config"]["modelworks:settings"])
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def trust(self, *keys: str) -> None:
        """List these keys, and no others, in the stack's file."""
        pems = {f"{key}.pem": self.key(key).with_suffix(".pem").read_text() for key in keys}
        self.edit(lambda settings: settings.update(trusted_keys=pems))

    def set_secret(self, name: str, value: str) -> None:
        """Encrypt a secret into the stack's file."""
        self.pulumi(ENVIRONMENT, "config", "set", "--secret", "--path", f"modelworks:secrets.{name}", value)

    # -- What it has come to -----------------------------------------------------------------------------------------
    def objects(self, kind: str) -> list[dict[str, Any]]:
        """Objects of the environment's namespace."""
        return json.loads(self.kubectl(ENVIRONMENT, "get", kind, "-o", "json"))["items"]

    def status(self) -> dict[str, Any]:
        """The endpoint in `modelworks status --json`, whatever its exit code."""
        argv = [str(BIN / "modelworks"), "status", ENVIRONMENT, "--json"]
        done = subprocess.run(
            argv, cwd=self.project, env=self.variables, capture_output=True, text=True, timeout=300, check=False
        )
        (endpoint,) = json.loads(done.stdout)["endpoints"]
        return endpoint

    def rollout(self) -> dict[str, Any]:
        """Status of the Rollout, once the controller has seen the last change of it."""
        (found,) = self.objects("rollouts")
        status = found.get("status", {})
        seen = str(status.get("observedGeneration")) == str(found["metadata"]["generation"])
        return status if seen else {}

    def halfway(self) -> bool:
        """Whether the canary has half of the traffic, and waits."""
        status = self.rollout()
        assert not status.get("abort"), json.dumps(status)
        weight = status.get("canary", {}).get("weights", {}).get("canary", {}).get("weight", 0)
        return (status.get("phase"), weight) == ("Paused", 50)

    def pods(self, pod_hash: str = "") -> list[dict[str, Any]]:
        """Pods of the endpoint that are not to end, all or those of one revision."""
        serving = [each for each in self.objects("pods") if HASH in each["metadata"]["labels"]]
        return [
            each
            for each in serving
            if "deletionTimestamp" not in each["metadata"] and each["metadata"]["labels"][HASH].startswith(pod_hash)
        ]

    def all_ready(self, count: int) -> bool:
        """Whether there are as many pods, and all are ready."""
        states = [each["status"].get("containerStatuses", []) for each in self.pods()]
        return len(states) == count and all(each and all(one["ready"] for one in each) for each in states)

    def restarts(self) -> int:
        """How often containers of the endpoint were started again."""
        return sum(one["restartCount"] for each in self.pods() for one in each["status"].get("containerStatuses", []))

    def statuses(self, token: str) -> set[int]:
        """What each pod by itself answers to a token."""
        headers, found = {"Authorization": f"Bearer {token}"}, set()
        for pod in self.pods():
            url = f"http://{pod['status']['podIP']}:{contract.DEFAULT_PORT}/v1/predict"
            answer = httpx.post(url, json={"rows": [ROW]}, headers=headers, timeout=30, trust_env=False)
            found.add(answer.status_code)
        return found

    def sign_in(self, password: str) -> int:
        """The status of a call to the registry with a password."""
        url = f"http://127.0.0.1:{self.gateway}/api/2.0/mlflow/registered-models/search"
        headers = {"Host": f"registry.{ENVIRONMENT}.localhost"}
        auth = (contract.REGISTRY_USER, password)
        return httpx.get(url, headers=headers, auth=auth, timeout=30, trust_env=False).status_code

    def alarm(self, name: str) -> str:
        """State of an alarm of the endpoint."""
        pages = boto3.client("cloudwatch", **self.aws(ENVIRONMENT)).get_paginator("describe_alarms").paginate()
        found = [each for page in pages for each in page["MetricAlarms"]]
        (state,) = [each["StateValue"] for each in found if each["AlarmName"].startswith(f"{MODEL}-{name}-")]
        return state

    @contextmanager
    def astray(self, host: str) -> Iterator[None]:
        """Meanwhile a host's load balancer answers for another name."""
        (name,) = [
            each["metadata"]["name"] for each in self.objects("ingresses") if each["spec"]["rules"][0]["host"] == host
        ]

        def called(new: str) -> None:
            patch = json.dumps([{"op": "replace", "path": "/spec/rules/0/host", "value": new}])
            self.kubectl(ENVIRONMENT, "patch", "ingress", name, "--type=json", "-p", patch)

        called(f"astray.{host}")
        try:
            yield
        finally:
            called(host)

    @property
    def gateway(self) -> int:
        return int(read_facts(self.place.root / "laptop.json")["ports"]["gateway"])

    def load(self, token: str) -> Load:
        """Clients of the endpoint."""
        return Load(self.gateway, 40, clients=8, host=f"{MODEL}.{ENVIRONMENT}.localhost", rows=[ROW], token=token)

    def kill(self, pod: dict[str, Any]) -> None:
        """Kill every process of a pod, without notice."""
        mark = ("POD_NAME", pod["metadata"]["name"])
        of_pod = [each for each in psutil.process_iter(["environ"]) if mark in (each.info["environ"] or {}).items()]
        assert of_pod
        for process in of_pod:
            with suppress(psutil.NoSuchProcess):  # some end with the one before them
                process.kill()


class Health(Client):
    """A client that asks the registry's server for its health again and again."""

    def __init__(self, stories: Stories) -> None:
        self._url = f"http://127.0.0.1:{stories.gateway}/health"
        self._headers = {"Host": f"registry.{ENVIRONMENT}.localhost"}
        self.answers: Counter[int] = Counter()
        """How often each status came; 0 is an answer that never came."""

    def _run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=10, trust_env=False) as client:
            while not self._stop.wait(0.1):
                try:
                    self.answers[client.get(self._url).status_code] += 1
                except httpx.TransportError:
                    self.answers[0] += 1


@pytest.fixture(scope="module")
def stories():
    folder = Path(tempfile.mkdtemp(prefix="modelworks-stories-"))
    stories = Stories(folder)
    try:
        stories.modelworks("laptop", "up", ENVIRONMENT, "--strict")
        stories.declare()
        yield stories
    finally:
        cloud.down(stories.place)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_controller_that_may_not_read_metrics_gives_a_release_up_and_status_names_its_permission(stories):
    stories.edit(lambda settings: settings["endpoints"][MODEL].update(latency_objective_ms=4000))
    with stories.load("old") as load:
        stories.up()
        with stories.signed_in_as(ENVIRONMENT, "argo-rollouts"):  # as the controller is, too
            until(lambda: stories.rollout().get("abort"), what=stories.rollout)
        load.goes_on()
    assert load.failed == 0, load.faults
    told = stories.status()
    assert told["state"] == "Aborted"
    assert "not authorized to perform: cloudwatch:GetMetricData" in told["measured"][0]["error"]
    assert "its role needs cloudwatch:GetMetricData" in told["fix"]
    assert f"modelworks rollout retry {MODEL} --env ENV" in told["fix"]


def test_a_release_that_is_retried_before_its_canary_is_gone_is_judged_by_its_alarms_again(stories):
    of_canary = stories.rollout()["currentPodHash"]
    (canary,) = [each for each in stories.objects("replicasets") if each["metadata"]["labels"].get(HASH) == of_canary]
    assert canary["spec"]["replicas"] == 2
    with stories.load("old") as load:
        stories.modelworks("rollout", "retry", MODEL, "--env", ENVIRONMENT)
        until(stories.halfway, what=stories.rollout)
        load.goes_on()
    assert load.failed == 0, load.faults
    judging = [run for run in stories.objects("analysisruns") if is_background(run) and not ended_at(run)]
    assert len(judging) == 1


def test_token_password_and_key_are_rotated_while_a_canary_runs_and_no_prediction_is_lost(stories):
    with stories.load("old") as load:
        until(stories.halfway, what=stories.rollout)
        pods = {each["metadata"]["uid"] for each in stories.pods()}

        stories.set_secret(f"tokens.{MODEL}", "old\nnew")
        stories.set_secret("registry_password", "the-second-password")
        stories.trust("first", "second")
        with Health(stories) as health:
            stories.up()
            until(lambda: stories.sign_in("the-second-password") == 200)
        assert set(health.answers) <= {200, 502, 503}, "the registry restarts, and who asks is told so at once"
        stories.trust("second")
        assert f"no pod of {MODEL}" in " ".join(stories.up(fails=True).split())
        stories.register("second")

        until(lambda: stories.statuses("new") == {200})  # a kubelet reads a Secret again within a minute or so
        assert stories.statuses("old") == {200}
        load.token = "new"
        load.goes_on()
        stories.set_secret(f"tokens.{MODEL}", "new")
        stories.up()

        until(stories.halfway, what=stories.rollout)
        assert {each["metadata"]["uid"] for each in stories.pods()} == pods, "a rotation is no rollout"
        load.goes_on()
    assert load.failed == 0, load.faults


def test_a_stable_pod_that_is_killed_costs_what_was_on_its_way_and_the_canary_takes_over(stories):
    with stories.load("new") as load:
        until(stories.halfway, what=stories.rollout)
        load.goes_on()
        count, restarts = len(stories.pods()), stories.restarts()
        stories.kill(stories.pods(stories.rollout()["stableRS"])[0])
        until(lambda: stories.restarts() > restarts, what=stories.pods)
        until(lambda: stories.all_ready(count), what=stories.pods)  # by the new key: the old one is trusted no more
        lost = load.failed
        until(stories.halfway, what=stories.rollout)
        stories.modelworks("rollout", "promote", MODEL, "--env", ENVIRONMENT)
        stories.modelworks("status", ENVIRONMENT, "--wait")
        until(lambda: stories.all_ready(2), what=stories.pods)
        load.goes_on()
    assert load.failed == lost <= load.clients, load.faults
    assert {status for status, _ in load.answers} <= {200, 0, 502, 503}
    told = stories.status()
    assert (told["state"], told["shares"][0]["percent"]) == ("Healthy", 100)


def test_what_was_rotated_away_lets_nobody_in(stories):
    until(lambda: stories.statuses("old") == {401})
    assert stories.statuses("new") == {200}
    assert stories.sign_in("the-first-password") == 401


def test_a_host_that_nobody_reaches_pages_though_its_pods_are_well(stories):
    until(lambda: stories.alarm("unanswered") == stories.alarm("silent") == "OK")
    with stories.astray(f"{MODEL}.{ENVIRONMENT}.localhost"):
        until(lambda: stories.alarm("unanswered") == "ALARM", what=stories.pods)
        assert stories.alarm("silent") == "OK"
        assert stories.statuses("new") == {200}
        assert "the host has answered nobody" in json.dumps(stories.status()["alarms"])
    until(lambda: stories.alarm("unanswered") == "OK", what=stories.pods)
    refused = traffic.refusals(stories.place)
    assert "uptime" not in (refused.read_text() if refused.exists() else "")
