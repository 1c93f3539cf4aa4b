"""A model's way through two environments that a laptop rehearses side by side: see docs/guides/releases.md."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from modelworks.laptop import cloud, environments
from modelworks.laptop.aws_credentials import credentials_file
from modelworks.laptop.state_dir import StateDir, read_facts
from modelworks.runtime.registry_backup import Dumps
from waiting import PATIENCE, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MODEL = "plane-seats"
REGISTRY = "app.kubernetes.io/component=registry"
STACK = """\
# Rehearsed on a laptop.
config:
  aws:region: eu-central-1
  aws:allowedAccountIds: ["{account}"]  # and no other
  modelworks:settings:
    owner: tests
    cost_centre: "1"
    registry: {{}}
    training: {{retries: 0}}
    endpoints:
      plane-seats:
        allow_anonymous: true
        minimum_replicas: 1
        maximum_replicas: 2
        limits:
          period_seconds: 10
        canary:
          steps: [50]
          step_seconds: 10
          bake_seconds: 10
          progress_deadline_seconds: 60
          minimum_requests: 5
"""
STRANGER = """\
import json, sys

resolved = set()
sys.addaudithook(lambda event, arguments: resolved.add(str(arguments[0])) if event == "socket.getaddrinfo" else None)

import httpx
import mlflow

endpoint = sys.argv[1]
body = httpx.get(endpoint + "/openapi.json").json()["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
content = body["application/json"]
example = content["example"] if "example" in content else next(iter(content["examples"].values()))["value"]
predicted = httpx.post(endpoint + "/v1/predict", json=example).raise_for_status().json()

mlflow.set_experiment("a stranger's")
with mlflow.start_run() as run:
    mlflow.log_metric("auc", 0.75)
    mlflow.log_text("hello", "note.txt")
found = mlflow.get_run(run.info.run_id)
facts = {
    "version": predicted["version"],
    "auc": found.data.metrics["auc"],
    "note": mlflow.artifacts.load_text(found.info.artifact_uri + "/note.txt"),
    "by address": "127.0.0.1" in resolved,
    "by name": sorted(host for host in resolved if "localhost" in host),
}
print(json.dumps(facts))
"""
"""A program that knows nothing of modelworks, and which hosts it resolved (MLflow's telemetry has one of its own)."""


class Rehearsal:
    """A checkout of a user's project, and a laptop cloud that rehearses `dev` and `staging`."""

    def __init__(self, folder: Path) -> None:
        self.project, self.place = folder / "project", StateDir(folder / "home")
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("policy", "models"):
            shutil.copytree(ROOT / name, self.project / name, ignore=ignore)
        (self.project / "stacks").mkdir()
        for name in ("stacks/__main__.py", "Pulumi.yaml", "uv.lock", "pyproject.toml"):
            shutil.copyfile(ROOT / name, self.project / name)
        (self.project / ".gitignore").write_text("__pycache__/\n")
        for environment, account in (("dev", "111111111111"), ("staging", "222222222222")):
            self.stack(environment).write_text(STACK.format(account=account))
        self.git("init", "--quiet")
        self.commit()

    def stack(self, environment: str) -> Path:
        return self.project / "stacks" / f"Pulumi.{environment}.yaml"

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        return self._run(["git", *who, *arguments])

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "as it is")

    def modelworks(self, *arguments: str, fails: bool = False) -> str:
        return self._run([str(BIN / "modelworks"), *arguments], fails=fails)

    def declare(self, environment: str) -> None:
        """Make the stack with its secret, and bring it up."""
        script = f"""
            set -e
            eval "$(modelworks env {environment})"
            pulumi stack init {environment} --no-select
            printf a-password-of-{environment} | pulumi config set --secret --stack {environment} \
                --path modelworks:secrets.registry_password
        """
        self._run(["bash", "-c", script])
        self.modelworks("up", environment, "--yes")

    def answers(self, environment: str) -> str:
        """The bundle that answers there, once the first pod does."""
        port = read_facts(self.place.root / "laptop.json")["ports"]["gateway"]
        url, host = f"http://127.0.0.1:{port}/openapi.json", f"{MODEL}.{environment}.localhost"
        # Not by asking `predict` again and again: each would start a process beside the pod that is starting.
        eventually(lambda: httpx.get(url, headers={"Host": host}, timeout=PATIENCE, trust_env=False).status_code == 200)
        return str(json.loads(self.modelworks("predict", MODEL, "--env", environment, "--json"))["version"])

    def aws(self, environment: str) -> dict[str, str]:
        """How boto3 is led to an environment's account."""
        variables = environments.environment_variables(self.place, environment)
        return {
            "endpoint_url": variables["AWS_ENDPOINT_URL"],
            "region_name": variables["AWS_REGION"],
            "aws_access_key_id": variables["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": variables["AWS_SECRET_ACCESS_KEY"],
        }

    @contextmanager
    def signed_in_as(self, environment: str, user: str) -> Iterator[None]:
        """Meanwhile whoever reads the account's credentials has the key of a user who may do nothing."""
        iam, file = boto3.client("iam", **self.aws(environment)), credentials_file(self.place, environment)
        iam.create_user(UserName=user)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        before = file.read_text()
        names = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        file.write_text("\n".join(["[default]", *(f"{name} = {value}" for name, value in names.items())]))
        try:
            yield
        finally:
            file.write_text(before)

    def unprotect(self, environment: str) -> None:
        """Allow that the data of an environment is deleted, as its owner would: two settings, and an update."""
        file = self.stack(environment)
        lines = file.read_text().replace("    protect: false\n", "")
        lines = lines.replace("registry: {}", "registry: {backup_hours: null}")  # no dump into an emptied bucket
        file.write_text(lines.replace("    owner: tests\n", "    owner: tests\n    protect: false\n", 1))
        self.modelworks("up", environment, "--yes")

    def state(self, environment: str) -> list[tuple[str, str | None]]:
        """The resources of the state, by name and ID."""
        exported = json.loads(self.pulumi(environment, "stack", "export"))
        return [(each["urn"], each.get("id")) for each in exported["deployment"]["resources"]]

    def empty_buckets(self, environment: str) -> None:
        for bucket in boto3.resource("s3", **self.aws(environment)).buckets.all():
            bucket.object_versions.delete()

    def failed_runs(self, environment: str) -> float:
        """How many failed runs were counted in the last hour, up to now."""
        cloudwatch = boto3.client("cloudwatch", **self.aws(environment))

        def published(namespace: str, metric: str, **dimensions: str) -> list[dict[str, Any]]:
            return cloudwatch.get_metric_statistics(
                Namespace=namespace,
                MetricName=metric,
                Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
                StartTime=datetime.now(UTC) - timedelta(hours=1),
                EndTime=datetime.now(UTC) + timedelta(minutes=1),
                Period=60,
                Statistics=["Sum"],
            )["Datapoints"]

        # Metrics are readable some time after they were published: once this one is, so are those before it.
        mark = uuid.uuid4().hex
        cloudwatch.put_metric_data(Namespace="tests", MetricData=[{"MetricName": mark, "Value": 1}])
        eventually(lambda: published("tests", mark))
        found = published("modelworks/training", "run_failed", environment=environment, model=MODEL)
        return sum(point["Sum"] for point in found)

    def jobs(self, environment: str) -> set[str]:
        """Names of the Jobs of training runs that are there."""
        script = (
            f'eval "$(modelworks env {environment})"; kubectl get jobs -n modelworks-{environment}-training -o name'
        )
        return set(self._run(["bash", "-c", script]).split())

    def kubectl(self, environment: str, *arguments: str) -> str:
        """In the namespace of an environment."""
        variables = environments.environment_variables(self.place, environment)
        return self._run(["kubectl", "--namespace", f"modelworks-{environment}", *arguments], **variables)

    def in_registry(self, environment: str, *arguments: str) -> str:
        """What the registry's sidecar does when a person calls its program there."""
        pod = self.kubectl(environment, "get", "pods", "-l", REGISTRY, "-o", "name").strip()
        program = ["python", "-m", "modelworks.runtime.registry_backup"]
        return self.kubectl(environment, "exec", pod, "-c", "backup", "--", *program, *arguments)

    def versions(self, environment: str) -> list[dict]:
        return json.loads(self.modelworks("models", "--env", environment, "--json"))

    def trains(self, *arguments: str) -> tuple[int, str]:
        """Exit code and words of a training in `dev`."""
        argv = [str(BIN / "modelworks"), "train", MODEL, "--env", "dev", *arguments]
        done = subprocess.run(
            argv, cwd=self.project, env=self.variables, capture_output=True, text=True, timeout=300, check=False
        )
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def training(self, statements: str) -> Iterator[None]:
        """A model that does something else when it is trained."""
        text = self.spec.read_text()
        try:
            self.spec.write_text(text.replace("    forest = Random", f"    {statements}\n    forest = Random"))
            yield
        finally:
            self.spec.write_text(text)

    @property
    def models(self) -> Path:
        """The home of runs and data."""
        return self.place.root.with_name("home-models")

    @property
    def spec(self) -> Path:
        return self.project / "models" / "plane_seats" / "model.py"

    @property
    def variables(self) -> dict[str, str]:
        return {**os.environ, "MODELWORKS_HOME": str(self.place.root), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def pulumi(self, environment: str, *arguments: str, fails: bool = False) -> str:
        """Plain Pulumi, as in a shell that evaluated `modelworks env`."""
        variables = environments.environment_variables(self.place, environment)
        argv = ["pulumi", *arguments, "--stack", environment, "--non-interactive"]
        return self._run(argv, fails=fails, **variables)

    def _run(self, argv: list[str], *, fails: bool = False, **variables: str) -> str:
        env = {**self.variables, **variables}
        done = subprocess.run(argv, cwd=self.project, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode != 0) == fails, f"{argv}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout + (done.stderr if fails else "")


@pytest.fixture(scope="module")
def rehearsal():
    folder = Path(tempfile.mkdtemp(prefix="modelworks-lifecycle-"))
    rehearsal = Rehearsal(folder)
    try:
        rehearsal.modelworks("laptop", "up", "dev", "staging", "--strict")
        for environment in ("dev", "staging"):
            rehearsal.declare(environment)
        rehearsal.commit()
        yield rehearsal
    finally:
        cloud.down(rehearsal.place)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def first(rehearsal):
    """The bundle that dev serves and staging got by promotion."""
    rehearsal.modelworks("train", MODEL)
    digest = json.loads(rehearsal.modelworks("bundle", MODEL, "--json"))["digest"]
    rehearsal.modelworks("register", MODEL, "--env", "dev")
    rehearsal.modelworks("release", MODEL, "--env", "dev")
    rehearsal.modelworks("up", "dev", "--yes")
    assert rehearsal.answers("dev") == digest.removeprefix("sha256:")[:12]
    rehearsal.modelworks("status", "dev", "--wait")
    return digest


def test_staging_is_promoted_to_and_never_released_to(rehearsal, first):
    said = rehearsal.modelworks("release", MODEL, "--env", "staging", fails=True)
    assert "modelworks promote plane-seats --from dev --to staging" in said
    assert rehearsal.versions("staging") == []


def test_a_preview_shows_an_override_above_all_else(rehearsal, first):
    stack = rehearsal.stack("dev")
    before = stack.read_text()
    assert "version: 1}" in before
    stack.write_text(before.replace("version: 1}", 'version: 1, override: "the demo is today (ada)"}'))
    try:
        told = json.loads(rehearsal.modelworks("preview", "dev", "--json"))
    finally:
        stack.write_text(before)
    assert told["overrides"] == [f"{MODEL} is released in spite of gates that do not hold: the demo is today (ada)"]
    assert (told["problems"], told["changes"]) == ([], [])


@pytest.mark.parametrize("side", ["dev", "staging"])
def test_a_promotion_that_one_side_forbids_names_side_and_permission_and_leaves_nothing(rehearsal, first, side):
    rehearsal.commit()
    with rehearsal.signed_in_as(side, "promoter"):
        said = rehearsal.modelworks("promote", MODEL, "--from", "dev", "--to", "staging", fails=True)
    assert (side in said, "s3:" in said) == (True, True), said
    assert rehearsal.versions("staging") == []
    assert rehearsal.git("status", "--porcelain") == ""


def test_promotion_copies_bundle_and_lineage_and_changes_one_line(rehearsal, first):
    rehearsal.commit()
    rehearsal.modelworks("promote", MODEL, "--from", "dev", "--to", "staging")
    assert rehearsal.git("diff", "--numstat").split() == ["2", "0", "stacks/Pulumi.staging.yaml"]
    assert "# and no other" in rehearsal.stack("staging").read_text()
    (version,) = rehearsal.versions("staging")
    assert (version["bundle"], version["promoted_from"]) == (first, "dev")
    rehearsal.modelworks("up", "staging", "--yes")
    assert rehearsal.answers("staging") == first.removeprefix("sha256:")[:12]


def test_a_strangers_code_reaches_endpoint_and_registry_with_what_env_prints_and_resolves_no_name(
    rehearsal, first, tmp_path
):
    variables = json.loads(rehearsal.modelworks("env", "dev", "--json"))
    (endpoint,) = json.loads(rehearsal.modelworks("status", "dev", "--json"))["endpoints"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, endpoint["url"]],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    version = first.removeprefix("sha256:")[:12]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"version": version, "auc": 0.75, "note": "hello", "by address": True, "by name": []}


def test_the_environments_addresses_differ_and_laptop_status_lists_them(rehearsal, first):
    hosts = json.loads(rehearsal.modelworks("laptop", "status", "--json"))["hosts"]
    wanted = {f"{name}.{environment}.localhost" for name in ("registry", MODEL) for environment in ("dev", "staging")}
    assert wanted <= set(hosts)
    assert len(set(hosts.values())) == len(hosts)


def test_what_was_promoted_twice_is_promoted_once(rehearsal, first):
    before = rehearsal.stack("staging").read_text()
    assert "nothing to change" in rehearsal.modelworks("promote", MODEL, "--from", "dev", "--to", "staging")
    assert rehearsal.stack("staging").read_text() == before
    assert len(rehearsal.versions("staging")) == 1


def test_verify_finds_the_target_to_be_what_the_code_says(rehearsal, first):
    rehearsal.modelworks("status", "staging", "--wait")
    found = json.loads(rehearsal.modelworks("verify", "staging", "--json"))["findings"]
    assert {each["check"] for each in found} == {
        "release", "bundle", "lineage", "alias", "packages", "tools", "cloud", "pods"
    }  # fmt: skip
    assert {each["verdict"] for each in found} == {"ok"}


def test_environments_of_one_program_differ_as_declared_only(rehearsal, first):
    found = json.loads(rehearsal.modelworks("compare", "dev", "staging", "--json"))
    assert [each["path"] for each in found] == ["aws:allowedAccountIds"]


def test_a_registry_that_is_lost_comes_back_from_its_newest_dump(rehearsal, first):
    place = f"s3://{rehearsal.pulumi('dev', 'stack', 'output', 'artifact_bucket').strip()}/backups"
    dumps = Dumps(boto3.client("s3", **rehearsal.aws("dev")), *place.removeprefix("s3://").split("/"))
    of_itself, _ = eventually(dumps.newest)
    before = rehearsal.versions("dev")
    assert before
    assert "dumped to" in rehearsal.in_registry("dev", "dump", place)
    assert dumps.newest()[0] > of_itself
    rehearsal.in_registry("dev", "set-aside")
    rehearsal.kubectl("dev", "delete", "pods", "-l", REGISTRY)
    rehearsal.kubectl("dev", "wait", "--for=condition=Available", "deployment", "-l", REGISTRY, "--timeout=120s")
    assert f"restored {place}/" in rehearsal.kubectl("dev", "logs", "-l", REGISTRY, "-c", "restore")
    assert rehearsal.versions("dev") == before


def test_a_registry_that_is_lost_with_its_dumps_is_rebuilt_from_lineage(rehearsal, first):
    before = rehearsal.versions("dev")
    bucket = rehearsal.pulumi("dev", "stack", "output", "artifact_bucket").strip()
    boto3.resource("s3", **rehearsal.aws("dev")).Bucket(bucket).object_versions.filter(Prefix="backups/").delete()
    pod = rehearsal.kubectl("dev", "get", "pods", "-l", REGISTRY, "-o", "name").strip()
    rehearsal.kubectl("dev", "exec", pod, "-c", "backup", "--", "sh", "-c", "rm *.db*")
    rehearsal.kubectl("dev", "delete", "pods", "-l", REGISTRY)
    rehearsal.kubectl("dev", "wait", "--for=condition=Available", "deployment", "-l", REGISTRY, "--timeout=120s")
    assert rehearsal.versions("dev") == []
    rehearsal.modelworks("registry", "rebuild", "dev")
    assert rehearsal.versions("dev") == before
    found = json.loads(rehearsal.modelworks("verify", "dev", "--json"))["findings"]
    assert {each["verdict"] for each in found} == {"ok"}, found


def test_rollback_is_the_line_before(rehearsal, first):
    rehearsal.commit()
    text = rehearsal.spec.read_text()
    assert "seed=7" in text
    rehearsal.spec.write_text(text.replace("seed=7", "seed=8"))
    rehearsal.commit()
    rehearsal.modelworks("train", MODEL)
    rehearsal.modelworks("bundle", MODEL)
    rehearsal.modelworks("register", MODEL, "--env", "dev")
    rehearsal.modelworks("release", MODEL, "--env", "dev")
    assert first not in rehearsal.stack("dev").read_text()
    rehearsal.modelworks("up", "dev", "--yes")
    rehearsal.modelworks("rollback", MODEL, "--env", "dev")
    assert first in rehearsal.stack("dev").read_text()


def test_a_run_in_the_environment_is_the_run_of_this_machine_and_becomes_the_same_bundle(rehearsal):
    here = json.loads(rehearsal.modelworks("train", MODEL, "--json"))
    digest = json.loads(rehearsal.modelworks("bundle", MODEL, "--json"))["digest"]
    for name in ("runs", "data"):
        shutil.rmtree(rehearsal.models / name)
    there = json.loads(rehearsal.modelworks("train", MODEL, "--env", "dev", "--json"))
    same = ("run", "folder", "inputs", "metrics")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert (there["origin"]["commit"], there["origin"]["dirty"]) == (here["origin"]["commit"], here["origin"]["dirty"])
    assert there["mlflow_run"]
    assert json.loads(rehearsal.modelworks("bundle", MODEL, "--json"))["digest"] == digest
    rehearsal.modelworks("gates", MODEL, "--env", "dev")
    assert rehearsal.failed_runs("dev") == 0


def test_a_run_that_fails_by_itself_shows_its_log_ends_with_its_exit_code_and_is_counted(rehearsal):
    before = rehearsal.failed_runs("dev")
    with rehearsal.training("print('as far as here'); raise RuntimeError('boom')"):
        code, said = rehearsal.trains()
    assert code == 1, said
    assert "as far as here" in said
    assert "the run of plane-seats in dev failed: models/plane_seats/model.py:" in said
    assert "RuntimeError while the model is trained: boom" in said
    assert rehearsal.failed_runs("dev") == before + 1


def test_a_run_that_is_killed_ends_with_the_signals_exit_code_and_is_counted_too(rehearsal):
    before = rehearsal.failed_runs("dev")
    with rehearsal.training("import os; os.kill(os.getppid(), 9)"):
        code, said = rehearsal.trains()
    assert code == 137, said
    assert "killed by signal 9" in said
    assert rehearsal.failed_runs("dev") == before + 1


def test_ctrl_c_cancels_a_run_and_leaves_nothing_of_it(rehearsal):
    before, jobs = rehearsal.failed_runs("dev"), rehearsal.jobs("dev")
    runs = set((rehearsal.models / "runs" / MODEL).iterdir())
    with rehearsal.training("print('as far as here'); import time; time.sleep(300)"):
        process = subprocess.Popen(
            [str(BIN / "modelworks"), "train", MODEL, "--env", "dev"],
            cwd=rehearsal.project,
            env=rehearsal.variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = iter(process.stderr.readline, "")
        assert any("as far as here" in line for line in lines)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "cancelled: the job train-plane-seats-" in said
    assert rehearsal.jobs("dev") == jobs
    assert set((rehearsal.models / "runs" / MODEL).iterdir()) == runs
    assert rehearsal.failed_runs("dev") == before


def test_destroy_of_a_protected_environment_changes_nothing_and_lists_what_holds_data(rehearsal, first):
    before = rehearsal.state("dev")
    said = rehearsal.modelworks("destroy", "dev", "--yes", fails=True)
    assert "dev protects what holds data, and nothing was deleted" in said
    for kind in (
        "aws:kms/key:Key dev-key",
        "registry-bundles",
        "registry-artifacts",
        "PersistentVolumeClaim",
        "Namespace",
    ):
        assert kind in said
    # Plain Pulumi refuses as early, by its preview; told to skip that, it keeps only what is protected.
    assert "is protected" in rehearsal.pulumi("dev", "destroy", "--yes", fails=True)
    assert rehearsal.state("dev") == before
    assert rehearsal.answers("dev") == first.removeprefix("sha256:")[:12]


def test_destroy_that_a_bucket_refuses_leaves_it_private_and_its_key_usable(rehearsal, first):
    rehearsal.unprotect("dev")
    text = rehearsal.modelworks("destroy", "dev", "--yes", fails=True)
    assert "BucketNotEmpty" in text, text
    s3, kms = (boto3.client(service, **rehearsal.aws("dev")) for service in ("s3", "kms"))
    for bucket in (each["Name"] for each in s3.list_buckets()["Buckets"]):
        (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        key = rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"]
        assert kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
        assert "EncryptedTransportOnly" in s3.get_bucket_policy(Bucket=bucket)["Policy"]


def test_target_serves_and_explains_itself_when_its_source_is_gone(rehearsal, first):
    rehearsal.unprotect("dev")
    rehearsal.empty_buckets("dev")
    rehearsal.modelworks("destroy", "dev", "--yes")
    assert rehearsal.answers("staging") == first.removeprefix("sha256:")[:12]
    (told,) = json.loads(rehearsal.modelworks("lineage", MODEL, "--env", "staging", "--json"))
    assert told["bundle"] == first
    assert told["promoted_from"] == "dev"
    assert {each["environment"] for each in told["released"]} == {"dev", "staging"}
    assert told["commit"]
    assert told["data"].startswith("sha256:")
