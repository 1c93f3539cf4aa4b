"""`status`, `rollout`, `predict`, `logs` and what `up` refuses: against an API server and an endpoint of the tests."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto import mock_aws
from typer.testing import CliRunner

from cluster.test_rollout import ABORTED, CANARY, FAILED, NEW, OLD, SETS, STABLE, a_rollout, run, weights
from modelworks import alarms, contract
from modelworks.cli import predict, rollouts, status
from modelworks.cli.context import EnvironmentContext
from modelworks.cluster.aborted_releases import ANNOTATION_TURNED_BACK
from modelworks.cluster.client import KubernetesClient
from modelworks.cluster.rollout_patches import RETRY
from modelworks.errors import ModelworksError
from modelworks.lifecycle.version import Version
from modelworks.runtime.signature import sign

STACK = f"""config:
  aws:allowedAccountIds: ["000000000000"]
  modelworks:settings:
    owner: you
    cost_centre: laptop
    registry: {{}}
    endpoints:
      delays: {{allow_anonymous: true}}
  modelworks:secrets:
    registry_password: {{secure: "v1:a:b"}}
  modelworks:releases:
    delays: {{digest: "{NEW}", version: 2}}
"""


@dataclass
class Api:
    """What the API server holds, and what it was asked to change."""

    rollout: dict[str, Any] | None
    runs: list[Any] = field(default_factory=list)
    pods: list[Any] = field(default_factory=list)
    patched: list[tuple[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    log: str = "hello\nworld\n"

    def answer(self, path: str, query: dict[str, list[str]]) -> Any:
        kind = path.rstrip("/").rpartition("/")[2]
        self.asked.append(kind)
        if kind == "version":
            return {"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
        if kind == "log":
            return "\n".join(self.log.splitlines()[-int(query["tailLines"][0]) :])
        items = {
            "rollouts": [self.rollout] if self.rollout else [],
            "replicasets": list(SETS),
            "analysisruns": self.runs,
            "pods": self.pods,
            "events": [],
        }
        return {"items": items[kind]} if kind in items else {}


class Sts:
    def get_caller_identity(self) -> dict[str, str]:
        return {"Arn": "arn:aws:iam::111111111111:user/ada"}


@dataclass
class Registry:
    """A registry that keeps aliases, or is down."""

    version: Version
    others: list[Version] = field(default_factory=list)
    down: bool = False
    pointed: list[tuple[str, int | None]] = field(default_factory=list)
    noted: list[tuple[int, str]] = field(default_factory=list)
    environment: str = "local"
    store: Any = field(default_factory=lambda: SimpleNamespace(session=SimpleNamespace(client=lambda _: Sts())))

    def versions(self, model: str) -> list[Version]:
        if self.down:
            raise ModelworksError("listing m: the registry of local failed: connection refused")
        return [self.version, *self.others]

    def find(self, model: str, which: str) -> Version:
        return next(each for each in self.versions(model) if each.digest == which)

    def point(self, alias: str, version: Version | None, *, model: str) -> None:
        self.pointed.append((alias, version.version if version else None))

    def note(self, version: Version, **facts: Any) -> Version:
        self.noted += [(version.version, name) for name in facts]
        return replace(version, facts={**version.facts, **facts})


@dataclass
class Place:
    """An environment: its stack file, its outputs, its cluster, its registry."""

    api: Api
    client: KubernetesClient
    stack_file: Path
    registry: Registry
    url: str
    environment: str = "local"
    engine: Any = field(default_factory=lambda: SimpleNamespace(on_laptop=False))
    session: Any = field(default_factory=lambda: boto3.Session("a", "b", region_name="us-east-1"))
    trusted_keys: dict[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, Any]:
        return {"endpoints": {"delays": self.url}, "namespace": "n", "bundle_bucket": "bundles"}

    @property
    def models(self) -> dict[str, str]:
        return self.outputs["endpoints"]

    def cluster(self, namespace: str = "") -> KubernetesClient:
        assert namespace in {"", "default"}
        return self.client

    def address(self, url: str) -> str:
        return url

    def output(self, name: str) -> Any:
        return self.outputs[name]


class JsonHandler(BaseHTTPRequestHandler):
    """Answers with JSON, and says nothing of it."""

    def _send(self, answer: Any, status: int = 200) -> None:
        content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


class _Handler(JsonHandler):
    """An API server and an endpoint in one."""

    api: Api

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/openapi.json":
            content = {"application/json": {"example": {"rows": [{"a": 1}]}}}
            self._send({"paths": {"/v1/predict": {"post": {"requestBody": {"content": content}}}}})
        else:
            self._send(self.api.answer(parts.path, parse_qs(parts.query)))

    def do_PATCH(self) -> None:
        self.api.patched.append((self.path.rpartition("/rollouts/")[2], self._body()))
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != "Bearer open":
            self._send({"title": "Unauthorized", "detail": "no bearer token"}, 401)
        elif body.get("rows") != [{"a": 1}]:
            self._send({"field": "rows[0].a", "detail": "missing"}, 422)
        else:
            self._send({"predictions": [{"label": "late", "score": 0.73}], "model": "m", "version": "aaaaaaaaaaaa"})

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))


def served(**status: Any) -> dict[str, Any]:
    made = a_rollout(**status)
    made["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-01T10:00:00Z"}
    return made


def owned(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "ownerReferences": [{"uid": "u"}]}}


def cluster_at(url: str, folder: Path) -> KubernetesClient:
    """The namespace `n` of an API server."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    return KubernetesClient(str(folder / "kubeconfig"), None, "n")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An environment where version 2 serves."""
    api = Api(served(phase="Healthy", stableRS=CANARY, canary=weights(0)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "Pulumi.local.yaml").write_text(STACK)
    registry = Registry(Version("delays", 2, {"bundle": NEW}, ("challenger",)))
    found = Place(api, cluster_at(url, tmp_path), tmp_path / "Pulumi.local.yaml", registry, url)
    monkeypatch.setattr(EnvironmentContext, "of", lambda environment: found)
    with mock_aws():
        yield found
    server.shutdown()
    server.server_close()


@pytest.fixture
def command():
    """The command line, as a user types it."""
    app = typer.Typer()
    status.register(app)
    rollouts.register(app)
    predict.register(app)

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments))

    return invoke


# -- status ----------------------------------------------------------------------------------------------------------
def test_status_of_what_serves_ends_with_zero_and_changes_nothing(place, command):
    done = command("status", "local", "--json")
    told = json.loads(done.stdout)["endpoints"][0]
    assert (done.exit_code, told["state"], told["shares"][0]["percent"]) == (0, "Healthy", 100)
    assert (told["champion_moved"], told["aliases"]) == (False, ["challenger"])
    assert (place.registry.pointed, place.registry.noted) == ([], [])


def test_status_that_waits_records_the_release_and_makes_what_serves_the_champion(place, command):
    done = command("status", "local", "--wait", "--json")
    told = json.loads(done.stdout)["endpoints"][0]
    assert (done.exit_code, told["champion_moved"], told["aliases"]) == (0, True, ["champion"])
    assert place.registry.noted == [(2, "became_champion"), (2, "released")]
    assert place.registry.pointed == [("champion", 2), ("challenger", None)]


def test_a_champion_is_not_pointed_at_again(place, command):
    released = [{"environment": "local", "at": "2026-11-01T10:00:00+00:00", "by": "ada"}]
    place.registry.version = Version("delays", 2, {"bundle": NEW, "released": released}, ("champion",))
    assert command("status", "--wait").exit_code == 0
    assert (place.registry.pointed, place.registry.noted) == ([], [])


def test_a_challenger_that_was_rolled_back_from_challenges_nothing(place, command):
    place.registry.version = Version("delays", 2, {"bundle": NEW}, ("champion",))
    place.registry.others = [Version("delays", 3, {"bundle": OLD}, ("challenger",))]
    assert command("status", "--wait").exit_code == 0
    assert place.registry.pointed == [("challenger", None)]


def test_a_line_that_is_not_deployed_yet_is_not_recorded_as_released(place, command):
    place.stack_file.write_text(STACK.replace(NEW, OLD))
    place.registry.version = Version("delays", 2, {"bundle": OLD})
    done = command("status", "--wait", "--json")
    assert json.loads(done.stdout)["endpoints"][0]["state"] == "OutOfSync"
    assert (place.registry.pointed, place.registry.noted) == ([], [])


def test_a_registry_that_is_down_is_told_and_fails_nothing(place, command):
    place.registry.down = True
    done = command("status")
    assert (done.exit_code, "connection refused" in done.stdout) == (0, True)


@pytest.mark.parametrize("words", [("status", "--wait", "--json"), ("rollout", "watch", "delays")])
def test_a_result_that_the_registry_cannot_record_fails_what_waited_for_it(place, command, words):
    place.registry.down = True
    done = command(*words)
    assert (done.exit_code, "connection refused" in done.stdout) == (1, True)
    assert str(done.exception).startswith(
        "the result of delays is not recorded: listing m: the registry of local failed"
    )


def test_a_result_of_a_version_that_the_registry_does_not_hold_is_not_recorded(place, command):
    place.registry.version = Version("delays", 2, {"bundle": OLD})
    assert "is not recorded: holds no version" in str(command("status", "--wait").exception)
    assert command("status").exit_code == 0


def test_an_override_is_shown(place, command):
    override = {"reason": "the demo", "by": "ada", "environment": "dev", "at": "2026-11-01T10:00:00+00:00"}
    facts = {"bundle": NEW, "overrides": [override]}
    place.registry.version = Version("delays", 2, facts, ("champion",))
    assert "the demo, by ada for dev at 2026-11-01" in command("status").stdout


def test_status_of_a_release_turned_back_ends_with_one_and_moves_no_alias(place, command):
    place.api.rollout = served(phase="Degraded", abort=True, message=ABORTED, canary=weights(0))
    place.api.runs = [owned(FAILED)]
    done = command("status", "--json")
    told = json.loads(done.stdout)["endpoints"][0]
    assert (done.exit_code, told["state"], place.registry.pointed) == (1, "Aborted", [])
    assert (told["measured"][0]["metric"], told["measured"][0]["values"]) == ("errors", [0.08, 0.031, 0.0])
    assert "errors: measured 0.08, 0.031, 0" in command("status").stdout.replace("\n            ", " ")


def test_status_of_a_rollout_under_way_ends_with_three(place, command):
    place.api.rollout = served(phase="Paused", canary=weights(20), currentStepIndex=2)
    assert command("status").exit_code == 3


def test_waiting_ends_at_its_deadline_with_three(place, command):
    place.api.rollout = served(phase="Paused", canary=weights(20), currentStepIndex=2)
    assert command("status", "--wait", "--timeout", "0.1").exit_code == 3


def test_waiting_ends_when_the_rollout_does(place, command, monkeypatch):
    place.api.rollout = served(phase="Paused", canary=weights(20), currentStepIndex=2)
    ended = served(phase="Healthy", stableRS=CANARY, canary=weights(0))
    # It ends between two looks.
    monkeypatch.setattr(status, "_pause", lambda: setattr(place.api, "rollout", ended))
    done = command("rollout", "watch", "delays", "--timeout", "3600")
    assert (done.exit_code, "80 % version 1" in done.stderr, "Healthy" in done.stdout) == (0, True, True)


def of_statistic(metric: dict) -> dict:
    return {**metric, "Statistic": "Average", "Period": 60}


def of_expression(metric: dict) -> dict:
    stat = {"Metric": metric, "Period": 60, "Stat": "Sum"}
    ratio = {"Id": "ratio", "Expression": "IF(bad >= 5, bad, 0)", "ReturnData": True}
    return {"Metrics": [ratio, {"Id": "bad", "MetricStat": stat, "ReturnData": False}]}


@pytest.mark.parametrize("watching", [of_statistic, of_expression])
def test_the_alarms_of_the_endpoint_are_shown_with_their_states(place, command, watching):
    dimensions = {contract.DIMENSION_ENVIRONMENT: "local", contract.DIMENSION_MODEL: "delays"}
    errors = alarms.endpoint_alarms()[0]
    cloudwatch = place.session.client("cloudwatch")
    for name, model in (("mine", "delays"), ("other", "rides")):
        series = [{"Name": key, "Value": value} for key, value in {**dimensions, "model": model}.items()]
        metric = {"Namespace": contract.METRIC_NAMESPACE, "MetricName": errors.metric, "Dimensions": series}
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            EvaluationPeriods=3,
            Threshold=errors.threshold,
            ComparisonOperator=errors.comparison,
            **watching(metric),
        )
    cloudwatch.set_alarm_state(AlarmName="mine", StateValue="ALARM", StateReason="2 datapoints")
    told = json.loads(command("status", "--json").stdout)["endpoints"][0]["alarms"]
    assert [(alarm["name"], alarm["metric"], alarm["state"]) for alarm in told] == [("mine", "error", "ALARM")]
    assert datetime.fromisoformat(told[0]["since"]).astimezone(UTC)


@pytest.mark.parametrize(
    ("state", "age", "shown"),
    [
        ("ALARM", 359, "INSUFFICIENT_DATA"),  # CloudWatch fires it when it is made
        ("ALARM", 361, "ALARM"),
        ("OK", 1, "OK"),
    ],
)
def test_silence_is_no_alarm_before_a_pod_can_have_reported(monkeypatch, state, age, shown):
    made = datetime(2026, 3, 1, tzinfo=UTC)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return made + timedelta(seconds=age)

    monkeypatch.setattr(status, "datetime", Later)
    silent = alarms.cloudwatch_alarm(alarms.heartbeat_alarm(60), {})
    described = {
        "Period": silent["period"],
        "EvaluationPeriods": silent["evaluation_periods"],
        "TreatMissingData": silent["treat_missing_data"],
        "StateValue": state,
        "AlarmConfigurationUpdatedTimestamp": made,
    }
    assert status._state(described) == shown
    assert status._state({**described, "TreatMissingData": "notBreaching"}) == state


# -- rollout ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "status", "patched"),
    [
        (["abort"], {}, [("m/status", {"status": {"abort": True}})]),
        (["retry"], {"abort": True}, [("m/status", {"status": RETRY.status})]),
        (["promote"], {"pauseConditions": [{}]}, [("m/status", {"status": {"pauseConditions": None}})]),
        (["promote", "--full"], {}, [("m/status", {"status": {"promoteFull": True}})]),
        (["promote", "--full"], {"abort": True}, [("m/status", {"status": {"promoteFull": True}})]),
        (["promote", "--full"], {"stableRS": CANARY}, []),
        (["promote"], {"stableRS": CANARY}, []),
    ],
)
def test_a_rollout_is_taken_in_hand_as_argo_does(place, command, words, status, patched):
    place.api.rollout = served(**status)
    assert command("rollout", words[0], "delays", *words[1:]).exit_code == 0
    assert place.api.patched == patched


@pytest.mark.parametrize(
    ("word", "status"), [("abort", {"stableRS": CANARY}), ("retry", {}), ("promote", {"abort": True})]
)
def test_what_makes_no_sense_is_refused(place, command, word, status):
    place.api.rollout = served(**status)
    refused = command("rollout", word, "delays").exception
    assert isinstance(refused, ModelworksError)
    assert (refused.fix != "", place.api.patched) == (True, [])


def test_a_model_without_a_rollout_is_named(place, command):
    place.api.rollout = None
    assert "no rollout of delays" in str(command("rollout", "promote", "delays").exception)


# -- predict and logs ------------------------------------------------------------------------------------------------
def test_predict_sends_the_models_own_example_with_a_token_from_a_file(place, command, tmp_path):
    (tmp_path / "token").write_text("open\n")
    done = command("predict", "delays", "--example", "--token-file", str(tmp_path / "token"))
    assert (done.exit_code, "label late" in done.stdout, "0.73" in done.stdout) == (0, True, True)


def test_predict_takes_rows_from_a_file(place, command, tmp_path):
    (tmp_path / "token").write_text("open")
    (tmp_path / "rows.json").write_text('{"rows": [{"a": 1}]}')
    token, data = f"--token-file={tmp_path / 'token'}", f"--data=@{tmp_path / 'rows.json'}"
    assert json.loads(command("predict", "delays", token, data, "--json").stdout)["version"] == "aaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("token", "data", "told"),
    [
        ("open", '{"rows": [{"b": 1}]}', "delays answers 422: rows[0].a: missing"),
        ("closed", '{"rows": [{"a": 1}]}', "delays answers 401: no bearer token"),
        ("open", "{", "--data is not JSON"),
        ("open", "@/nowhere", "cannot read /nowhere"),
    ],
)
def test_what_an_endpoint_refuses_is_told_with_a_fix(place, command, tmp_path, token, data, told):
    (tmp_path / "token").write_text(token)
    assert told in str(command("predict", "delays", "--token-file", str(tmp_path / "token"), "--data", data).exception)


def test_logs_name_the_release_and_the_pod_of_each_line(place, command):
    notes = {contract.ANNOTATION_DIGEST: NEW}
    place.api.pods = [{"metadata": {"name": "m-66-x7", "annotations": notes}}]
    done = command("logs", "delays", "--lines", "1")
    assert done.stdout == "aaaaaaaaaaaa x7 | world\n"


def test_logs_of_a_model_without_pods_are_an_error(place, command):
    assert "delays has no pods in local" in str(command("logs", "delays").exception)


# -- up --------------------------------------------------------------------------------------------------------------
def test_up_refuses_what_was_aborted_before_and_says_how_to_force_it(place):
    place.api.rollout = served(of=OLD, phase="Healthy", currentPodHash=STABLE)
    place.api.runs = [owned(FAILED)]
    with pytest.raises(ModelworksError, match=r"local aborted delays .* before: errors: measured") as refused:
        rollouts.prepare_update(place, force=False, say=print)
    assert "--force" in refused.value.fix


def test_force_retries_an_aborted_release_after_the_update(place):
    place.api.rollout = served(abort=True, message=ABORTED)
    place.api.runs = [owned(FAILED)]
    said: list[str] = []
    retried = rollouts.prepare_update(place, force=True, say=said.append)
    before = list(place.api.patched)
    rollouts.retry_aborted(place, retried)
    assert (before, place.api.patched) == ([], [("m/status", {"status": RETRY.status})])
    assert "--force rolls it out again" in said[0]


def test_up_notes_an_aborted_release_before_another_takes_its_place(place):
    place.api.rollout = served(of=OLD, abort=True, message=ABORTED)
    rollouts.prepare_update(place, force=False, say=print)
    note = {"metadata": {"annotations": {ANNOTATION_TURNED_BACK: "0" * 12}}}
    assert place.api.patched == [("m", note)]


def test_up_goes_on_where_the_cluster_cannot_be_asked(place, monkeypatch):
    def down() -> KubernetesClient:
        raise ModelworksError("the cluster of this environment cannot be reached: refused")

    monkeypatch.setattr(place, "cluster", down)
    said: list[str] = []
    rollouts.prepare_update(place, force=False, say=said.append)
    assert "cannot be reached" in said[0]


def test_up_is_not_kept_from_a_good_release(place):
    place.api.runs = [owned(run("Successful", []))]
    rollouts.prepare_update(place, force=False, say=print)
    assert place.api.patched == []


def test_up_of_a_program_that_is_not_of_ours_is_not_asked_about(place):
    place.stack_file.unlink()
    said: list[str] = []
    rollouts.prepare_update(place, force=False, say=said.append)
    assert said == []


FIRST_KEY, SECOND_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


@pytest.fixture
def rotation(place):
    """The first key signed the bundle that serves, the second the one that the stack's file releases now."""
    place.api.rollout = served(of=OLD, phase="Healthy", stableRS=STABLE, currentPodHash=STABLE)
    s3 = place.session.client("s3")
    s3.create_bucket(Bucket="bundles")
    for digest, key in ((contract.Digest(OLD), FIRST_KEY), (contract.Digest(NEW), SECOND_KEY)):
        name = contract.signature_key("delays", digest)
        s3.put_object(Bucket="bundles", Key=name, Body=sign("delays", digest, key))

    def trusting(*keys: Ed25519PrivateKey) -> list[str]:
        publics = [each.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for each in keys]
        place.trusted_keys = {f"{at}.pem": pem.decode() for at, pem in enumerate(publics)}
        said: list[str] = []
        rollouts.prepare_update(place, force=False, say=said.append)
        return said

    return trusting


def test_up_refuses_to_take_away_the_key_of_what_serves_whose_pods_would_not_start_again(rotation):
    with pytest.raises(
        ModelworksError, match=r"no pod of delays 000000000000 in local would start after .*not among"
    ) as no:
        rotation(SECOND_KEY)
    assert "Leave its key in trusted_keys until" in no.value.fix


def test_up_refuses_a_release_that_its_pods_would_not_trust(rotation):
    with pytest.raises(ModelworksError, match="no pod of delays aaaaaaaaaaaa in local would start"):
        rotation(FIRST_KEY)


def test_up_refuses_a_bundle_without_a_signature_where_one_is_required(rotation, place):
    place.session.client("s3").delete_object(
        Bucket="bundles", Key=contract.signature_key("delays", contract.Digest(OLD))
    )
    with pytest.raises(ModelworksError, match=r"delays 000000000000 in local would start .*: it has no signature"):
        rotation(FIRST_KEY, SECOND_KEY)


def test_up_takes_away_a_key_once_another_version_has_all_traffic(rotation, place):
    assert rotation(FIRST_KEY, SECOND_KEY) == []
    place.api.rollout = served(phase="Progressing", canary=weights(50))
    with pytest.raises(ModelworksError, match="no pod of delays 000000000000"):
        rotation(SECOND_KEY)
    place.api.rollout = served(phase="Healthy", stableRS=CANARY, canary=weights(0))
    assert rotation(SECOND_KEY) == []


def test_up_goes_on_where_signatures_cannot_be_read_and_says_so(rotation, place, monkeypatch):
    monkeypatch.setattr(Place, "outputs", {**place.outputs, "bundle_bucket": "no-such-bucket"})
    (said,) = rotation(SECOND_KEY)
    assert "whether pods would trust their bundles is unknown" in said


def test_up_lists_a_rollout_once_for_all_that_it_checks(rotation, place):
    rotation(FIRST_KEY, SECOND_KEY)
    assert place.api.asked.count("rollouts") == 1


def test_up_asks_about_no_signature_where_none_is_required(place):
    assert rollouts.prepare_update(place, force=False, say=print) == ()


CONTROLLER = {"name": "argo-rollouts", "image": "argo-rollouts", "args": ["--aws-verify-target-group"]}
REGION, ROLE = ({"name": name, "value": "x"} for name in ("AWS_REGION", "AWS_ROLE_ARN"))


def controllers(*env: dict[str, str]) -> list[Any]:
    return [{"metadata": {"name": "argo"}, "spec": {"containers": [CONTROLLER | {"env": list(env)}]}}]


def test_up_is_refused_where_the_clusters_own_controller_cannot_read_metrics(place):
    place.api.pods = controllers(ROLE)
    with pytest.raises(ModelworksError, match=r"no AWS_REGION, .* CloudWatch: local cannot release a model") as refused:
        rollouts.check_controller(place, print)
    assert "cluster.install_argo_rollouts: true" in refused.value.fix


def test_up_passes_a_controller_that_can_and_tells_what_it_may_do_without(place):
    said: list[str] = []
    place.api.pods = controllers(REGION, ROLE)
    rollouts.check_controller(place, said.append)
    assert said == []
    place.api.pods = controllers(REGION)
    rollouts.check_controller(place, said.append)
    assert "no role of its own" in said[0]


@pytest.mark.parametrize(
    "change",
    [
        ("    registry: {}\n", "    registry: {}\n    cluster: {install_argo_rollouts: true}\n"),
        (f'  modelworks:releases:\n    delays: {{digest: "{NEW}", version: 2}}\n', ""),
        ("owner: you", "ownr: you"),
    ],
)
def test_the_controller_is_not_asked_about_where_it_is_ours_or_nothing_is_released(place, change):
    changed = STACK.replace(*change)
    assert changed != STACK
    place.stack_file.write_text(changed)
    place.api.pods = []
    rollouts.check_controller(place, print)


def test_on_the_laptop_the_controller_is_no_pod(place):
    place.engine = SimpleNamespace(on_laptop=True)
    place.api.pods = []
    rollouts.check_controller(place, print)


def test_a_cluster_that_does_not_list_its_pods_is_told_of_and_keeps_no_update_back(place, monkeypatch):
    def down(_: str) -> KubernetesClient:
        raise ModelworksError("the API server refuses: pods is forbidden")

    monkeypatch.setattr(place, "cluster", down)
    said: list[str] = []
    rollouts.check_controller(place, said.append)
    assert "is unknown: the API server refuses" in said[0]
