"""Releases good and bad on a laptop cloud, under clients that never stop: see docs/guides/rehearsals.md.

The tests share one endpoint and run in their order: each begins with what the one before left serving.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from functools import partial
from pathlib import Path

import pytest

import v2_clients
from e2e import rehearsal
from e2e.rehearsal import Calls, Load, Rehearsal, until
from modelworks.laptop import cloud
from modelworks.laptop.gateway import addresses
from modelworks.laptop.state_dir import StateDir
from runtime.test_v2_grpc import outputs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def failing(bundles):
    return rehearsal.failing(bundles)


@pytest.fixture(scope="module")
def endpoint(bundles):
    """An endpoint that serves a first good release."""
    home = Path(tempfile.mkdtemp(prefix="modelworks-rollouts-"))
    place = StateDir(home / "place")
    try:
        cloud.up(place, ("local",), strict=True)
        program = home / "program"
        program.mkdir()
        endpoint = Rehearsal(place, program)
        endpoint.serving = endpoint.release(rehearsal.build(bundles, trees=10))
        until(endpoint.takes_over, what=endpoint.rollout)
        yield endpoint
    finally:
        cloud.down(place)
        shutil.rmtree(home, ignore_errors=True)


def test_what_was_declared_is_there_and_a_preview_finds_nothing_to_do(endpoint):
    endpoint.unchanged()
    assert [pod["status"]["phase"] for pod in endpoint.pods()] == ["Running", "Running"]


def test_a_call_over_grpc_has_bit_for_bit_the_answers_of_the_json_api(endpoint):
    rows = rehearsal.ROWS[:100]
    expected = endpoint.predictions(rows)
    answered = outputs(Calls(endpoint.gateway).infer(rows))
    assert [each.hex() for each in answered["score"]] == [each["score"].hex() for each in expected]
    assert answered["label"] == [each["label"] for each in expected]


@pytest.mark.parametrize("client", v2_clients.CLIENTS)
def test_the_protocols_own_clients_are_answered_through_the_gateway(endpoint, v2_python, client):
    rows = [row for row in rehearsal.ROWS[:100] if row["x1"] is not None]
    place = addresses.url_of(endpoint.place, rehearsal.HOST).removeprefix("http://")
    answered = v2_clients.ask(v2_python, client, place, rehearsal.MODEL, rows)
    expected = endpoint.predictions(rows)
    outputs = {name: [each[name] for each in expected] for name in ("score", "label")}
    assert answered == dict.fromkeys(v2_clients.CLIENTS[client], outputs)


def test_a_good_release_takes_over_and_no_request_is_lost(endpoint, bundles):
    with Load(endpoint.gateway, rate=400) as load, Calls(endpoint.gateway) as calls:
        version = endpoint.release(rehearsal.build(bundles, trees=11))
        until(endpoint.takes_over, what=endpoint.rollout)
        # The old pods are still to end, and no request may be lost to that either.
        until(lambda: len(endpoint.pods()) == 2 and load.count >= 20_000, what=endpoint.pods)
    assert load.failed == 0, load.faults
    assert load.of(endpoint.serving) > load.of(version) / 10
    assert load.lasts[version] > load.lasts[endpoint.serving]
    # Calls over gRPC are a part of the same canary.
    assert calls.faults == []
    assert {*calls.answers} == {endpoint.serving, version}
    endpoint.serving = version


def test_a_release_that_fails_on_one_request_in_twenty_goes_back(endpoint, failing):
    with Load(endpoint.gateway, rate=200) as load:
        version = endpoint.release(failing)
        until(endpoint.turned_back, what=endpoint.rollout)
        until_only(endpoint, load)
    found = endpoint.failures()
    assert any(failure.startswith("errors: Failed") for failure in found), found
    # Whoever was not sent to the canary got a prediction, and nobody got anything but one or the canary's own error.
    assert {status for status, _ in load.answers} == {200, 500}
    assert all("the model failed to predict this request" in fault for fault in load.faults)
    asked = load.of(version) + load.failed
    assert load.failed < asked / 10
    assert asked < load.count / 3


def test_what_was_turned_back_stays_so_until_the_line_changes(endpoint):
    endpoint.unchanged()
    assert endpoint.turned_back()
    before = {pod["metadata"]["name"] for pod in endpoint.pods()}
    endpoint.back()
    # No steps lead back to what is stable already, and none of its pods is started again.
    until(lambda: endpoint.status and not endpoint.turned_back() and endpoint.weight() == 0, what=endpoint.rollout)
    assert {pod["metadata"]["name"] for pod in endpoint.pods()} <= before


def test_a_release_that_is_much_slower_goes_back(endpoint, bundles):
    with Load(endpoint.gateway, rate=30) as load:
        # On a busy machine it answers so few clients that a first step of seconds ends before two datapoints do.
        few = {**rehearsal.SETTINGS["canary"], "minimum_requests": 10}
        version = endpoint.release(rehearsal.slow(bundles), canary=few)
        until(endpoint.turned_back, what=endpoint.rollout)
        until_only(endpoint, load)
    found = endpoint.failures()
    # Too slow shows as missed objectives or, where requests queue up, as requests turned away.
    assert any(failure.startswith(("slow: Failed", "rejected: Failed")) for failure in found), found
    assert {status for status, _ in load.answers} <= {200, 429}
    assert statistics.median(load.milliseconds[version]) > 5 * statistics.median(load.milliseconds[endpoint.serving])


@pytest.mark.parametrize(
    ("make", "tampered", "why"),
    [
        (rehearsal.crashing, b"", "cannot be loaded by ONNX Runtime"),
        # The same to Argo, and a minute each.
        pytest.param(partial(rehearsal.build, trees=12), b"\0", "is not the one", marks=pytest.mark.soak),
        pytest.param(rehearsal.own_crashing, b"", "before it was ready", marks=pytest.mark.soak),
    ],
)
def test_a_release_that_never_becomes_ready_gets_no_request_and_is_given_up(endpoint, bundles, make, tampered, why):
    example = make(bundles)
    # The release before was given up too, and its pods are gone: Argo must not wait for those for ever.
    until(lambda: len(endpoint.pods()) == 2, what=endpoint.pods)
    with Load(endpoint.gateway, rate=100) as load:
        # No machine is too slow for that: it never is ready.
        soon = {**rehearsal.SETTINGS["canary"], "progress_deadline_seconds": 30}
        version = endpoint.release(example, example.archive.read_bytes() + tampered, canary=soon)
        # Argo says that it gave up; why, the pods say, as long as they are there.
        until(lambda: why in endpoint.why(), what=endpoint.pods)
        until(endpoint.turned_back, what=endpoint.rollout)
    assert (load.failed, load.of(version)) == (0, 0), load.faults
    assert endpoint.failures() == []
    # Its message is for a moment still why it gave up.
    until(lambda: "RolloutAborted" in endpoint.status.get("message", ""), what=endpoint.rollout)


def test_a_release_that_nobody_asks_goes_back(endpoint, bundles):
    endpoint.release(rehearsal.build(bundles, trees=13))
    until(endpoint.turned_back, what=endpoint.rollout)
    found = endpoint.failures()
    assert any(failure.startswith("traffic: Failed") for failure in found), found


def test_a_release_that_nobody_asks_after_its_first_step_goes_back(endpoint, bundles):
    with Load(endpoint.gateway, rate=200):
        endpoint.release(rehearsal.build(bundles, trees=15))
        until(lambda: endpoint.phase() == "Paused" and endpoint.weight() == 20, what=endpoint.rollout)
    until(lambda: endpoint.weight() == 50, what=endpoint.rollout)
    until(endpoint.turned_back, what=endpoint.rollout)
    found = endpoint.failures()
    assert any(failure.startswith("traffic: Failed") for failure in found), found


def test_a_release_that_nobody_asks_takes_over_by_its_own_probes(endpoint, bundles):
    probed = {**rehearsal.SETTINGS["canary"], "probes": True}
    version = endpoint.release(rehearsal.build(bundles, trees=16), canary=probed)
    until(endpoint.takes_over, what=endpoint.rollout)
    endpoint.serving = version
    # Their Job ends with the analysis.
    until(lambda: endpoint.kubectl("get", "jobs", "--output=name") == "", what=endpoint.pods)


def test_a_slow_release_that_nobody_asks_goes_back_by_its_own_probes(endpoint, bundles):
    probed = {**rehearsal.SETTINGS["canary"], "minimum_requests": 10, "probes": True}
    endpoint.release(rehearsal.slow(bundles, name="slow-probed"), canary=probed)
    until(endpoint.turned_back, what=endpoint.rollout)
    found = endpoint.failures()
    assert any(failure.startswith(("slow: Failed", "rejected: Failed")) for failure in found), found
    until(lambda: endpoint.kubectl("get", "jobs", "--output=name") == "", what=endpoint.pods)


def test_parts_of_the_cloud_are_killed_and_a_good_release_takes_over(endpoint, bundles):
    with Load(endpoint.gateway, rate=200) as load:
        version = endpoint.release(rehearsal.build(bundles, trees=14))
        endpoint.kill("agent")
        until(lambda: endpoint.weight() == 20, what=endpoint.rollout)
        endpoint.kill("rollouts-local")
        until(lambda: endpoint.phase() == "Paused", what=endpoint.rollout)
        endpoint.kill("apiserver")
        until(lambda: endpoint.weight() == 50, what=endpoint.rollout)
        endpoint.kill("gateway")
        until(endpoint.takes_over, what=endpoint.rollout)
        assert load.failed == 0, load.faults
        # The one part that requests pass through: what is on its way is lost with it, and nothing after that.
        endpoint.kill("caddy")
        until(lambda: load.faults)
        settled = until(lambda: load.of(version)) + 1000
        until(lambda: load.of(version) > settled)
        lost = load.failed
        until(lambda: load.of(version) > settled + 500)
        assert load.failed == lost
    assert {status for status, _ in load.answers} <= {200, 0, 502, 503}
    endpoint.serving = version


def test_the_controller_the_api_server_and_aws_are_killed_and_a_bad_release_goes_back(endpoint, failing):
    with Load(endpoint.gateway, rate=200) as load:
        endpoint.release(failing)
        until(lambda: endpoint.weight() == 20, what=endpoint.rollout)
        endpoint.kill("rollouts-local")
        endpoint.kill("apiserver")
        # Whether its metrics come back in time or an analysis ends in errors: nothing stays in between.
        endpoint.kill("aws-local")
        until(endpoint.turned_back, what=endpoint.rollout)
        until_only(endpoint, load)
    assert {status for status, _ in load.answers} == {200, 500}


def until_only(endpoint, load):
    """Until the good version answers, and nothing else does, several times to each client."""

    def others():
        return {key: count for key, count in load.answers.copy().items() if key != (200, endpoint.serving)}

    def alone():
        before = others()
        load.goes_on()
        return others() == before

    until(alone, what=lambda: load.answers)


def test_a_release_with_a_service_of_its_own_takes_over_and_no_request_is_lost(endpoint, bundles):
    # BentoML takes longer to start and to answer than a graph does, and its first answers are counted late: a step has
    # all the time for them, and once they are counted its pause is cut short. Ten requests a second are far below its
    # capacity on any machine: what it turns away beyond that is not what is rehearsed here.
    patience = {"step_seconds": 120, "minimum_requests": 20}
    canary = {**rehearsal.SETTINGS["canary"], **patience}
    with Load(endpoint.gateway, rate=10) as load:
        version = endpoint.release(rehearsal.own(bundles), latency_objective_ms=10_000, canary=canary)
        until(lambda: endpoint.go_on() or endpoint.takes_over(), what=endpoint.rollout)
        until(lambda: load.of(version) > 100, what=endpoint.pods)
    assert load.failed == 0, load.faults
    endpoint.serving = version


def test_an_endpoint_without_a_pod_pages_until_one_reports_again(endpoint):
    until(lambda: endpoint.alarm("silent") == "OK", what=endpoint.pods)
    endpoint.kubectl("create", "quota", "no-pods", "--hard=pods=0")
    try:
        endpoint.kubectl("delete", "pods", "--all", "--wait=false")
        until(lambda: endpoint.alarm("silent") == "ALARM", what=endpoint.pods)
    finally:
        endpoint.kubectl("delete", "quota", "no-pods")
    # After a minute of refusals the controller waits for minutes; a change of the ReplicaSet ends that.
    endpoint.kubectl("annotate", "replicasets", "--all", "rehearsal=over")
    until(lambda: endpoint.alarm("silent") == "OK", what=endpoint.pods)


def test_rotated_tokens_reach_the_pods_that_serve_and_those_that_come_without_a_rollout(endpoint):
    endpoint.back(allow_anonymous=False, tokens="first")
    until(lambda: endpoint.phase() in {"Progressing", "Paused"}, what=endpoint.rollout)
    endpoint.promote()
    until(lambda: endpoint.healthy() and endpoint.answer_to("first") == 200, what=endpoint.rollout)
    until(lambda: len(endpoint.pods()) == 2, what=endpoint.pods)
    pods = {pod["metadata"]["uid"] for pod in endpoint.pods()}

    endpoint.back(allow_anonymous=False, tokens="first\nsecond")
    until(lambda: endpoint.answer_to("second") == 200, what=endpoint.pods)
    assert endpoint.answer_to("first") == 200
    endpoint.back(allow_anonymous=False, tokens="second")
    until(lambda: endpoint.answer_to("first") == 401, what=endpoint.pods)
    assert endpoint.answer_to("second") == 200
    assert endpoint.healthy()
    assert {pod["metadata"]["uid"] for pod in endpoint.pods()} == pods

    endpoint.kubectl("delete", "pod", endpoint.pods()[0]["metadata"]["name"], "--wait=false")
    until(lambda: len({pod["metadata"]["uid"] for pod in endpoint.pods()} - pods) == 1, what=endpoint.pods)
    ready = ("get", "pods", "-l", "app.kubernetes.io/component=endpoint", "-o", "jsonpath={..ready}")
    until(lambda: endpoint.kubectl(*ready) == "true true", what=endpoint.pods)
    assert {endpoint.answer_to("second") for _ in range(20)} == {200}
