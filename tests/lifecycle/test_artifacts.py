"""What goes to a run in an environment and what comes back, through moto's S3 and CloudWatch."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import urllib.request

import boto3
import pytest
from moto.server import ThreadedMotoServer

from modelworks import contract
from modelworks._files import digest_of, read_json
from modelworks.errors import ModelworksError
from modelworks.lifecycle import load_spec, pod
from modelworks.lifecycle.artifacts import Artifacts, pack_source
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.data import StoreError
from modelworks.lifecycle.provenance import code_digest, engine_digest
from modelworks.lifecycle.runs import Home, with_origin
from waiting import PATIENCE

BUCKET = "artifacts"


@pytest.fixture
def artifacts(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(contract.ENV_ENVIRONMENT, "dev")
    # A server, because what a model's own code does happens in another process.
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield Artifacts(BUCKET, boto3.Session())
    urllib.request.urlopen(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset", data=b"", timeout=PATIENCE).close()
    server.stop()


def arguments(source: str, **more: str) -> list[str]:
    given = {"job": "j", "model": "churn", "bucket": BUCKET, "source": source, "engine": engine_digest(), **more}
    return [f"--{name}={value}" for name, value in given.items()]


def counted() -> dict[frozenset[str], float]:
    """What was published of failed runs, by the dimensions it was published with."""
    from moto.cloudwatch.models import cloudwatch_backends

    (backend,) = [found for regions in cloudwatch_backends.values() for found in regions.values() if found.metric_data]
    return {frozenset(item.name for item in datum.dimensions): datum.value for datum in backend.metric_data}


def test_a_project_is_the_same_bytes_wherever_it_lies_and_whatever_hides_in_it(built, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(built.project.folder.parents[1], folder, ignore=shutil.ignore_patterns("home"))
    copy = folder / "models" / "churn"
    (copy / ".env").write_text("TOKEN=secret")
    (copy / ".venv").mkdir()
    (copy / ".venv" / "odd.py").write_text("")
    packed = pack_source(load_spec(copy))
    assert packed == pack_source(built.project.spec)
    assert code_digest(copy) == code_digest(built.project.folder)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = {member.name for member in archive if member.isfile()}
    assert files == {"uv.lock", "models/churn/model.py", "models/churn/README.md", "models/churn/test_model.py"}


def test_a_project_that_holds_its_data_is_not_sent(project, monkeypatch):
    monkeypatch.setattr("modelworks.lifecycle.artifacts.MAX_SOURCE_BYTES", 1000)
    with pytest.raises(ModelworksError, match="holds 0 MB") as caught:
        pack_source(project.spec)
    assert "data.load" in caught.value.fix


def test_a_run_of_a_pod_comes_home_as_the_run_and_the_bundle_of_a_local_one(built, artifacts, tmp_path, capfd):
    spec = built.project.spec
    assert pod.main(arguments(artifacts.send_source(spec))) == 0
    told = artifacts.job_result("j")
    home = Home(tmp_path)
    artifacts.fetch_run("churn", told["run"], told["archive"], home.runs("churn") / told["run"])
    run = with_origin(home.runs("churn") / told["run"], "c0ffee", dirty=False)
    assert (run.run, run.metrics) == (built.run.run, built.run.metrics)
    assert (run.origin["commit"], run.origin["dirty"]) == ("c0ffee", False)
    artifacts.snapshots(home.data).get(run.inputs["data"])
    assert build_bundle(spec, run, home).digest == built.bundle.digest
    assert set(counted().values()) == {0.0}
    said = capfd.readouterr().out
    assert [step for step in ("load data", "train", "evaluate") if step in said] == ["load data", "train", "evaluate"]


def test_a_run_that_was_finished_before_is_found_and_not_trained_again(built, artifacts, capfd):
    source = artifacts.send_source(built.project.spec)
    artifacts.keep_run(built.run.folder, "churn")
    assert pod.main(arguments(source)) == 0
    assert "train                          kept" in capfd.readouterr().out
    assert artifacts.job_result("j")["run"] == built.run.run


def test_a_spec_that_raises_fails_for_good_shows_its_output_and_is_counted(project, artifacts, capfd):
    spec = project.edit(
        "    model = Pipeline(", "    print('as far as here')\n    raise RuntimeError('boom')\n    model = Pipeline("
    )
    assert pod.main(arguments(artifacts.send_source(spec))) == 1
    assert "RuntimeError while the model is trained: boom" in artifacts.job_result("j")["error"]
    assert counted() == {frozenset({"environment"}): 1.0, frozenset({"environment", "model"}): 1.0}
    said = capfd.readouterr().out
    assert "as far as here" in said
    assert "error: " in said


def test_a_tampered_project_is_not_run(built, artifacts, capfd):
    digest = artifacts.send_source(built.project.spec)
    evil = pack_source(built.project.spec)[:-8] + b"tampered"
    boto3.client("s3").put_object(Bucket=BUCKET, Key=contract.source_key(digest), Body=evil)
    assert pod.main(arguments(digest)) == 1
    said = capfd.readouterr().out
    assert "the source archive is not what was sent" in said
    assert "load spec" not in said


def test_an_image_with_another_modelworks_is_refused(built, artifacts, capfd):
    assert pod.main(arguments(artifacts.send_source(built.project.spec), engine="sha256:other")) == 1
    assert "cluster.training_image" in capfd.readouterr().out


def test_a_bucket_that_is_down_is_no_failure_of_the_run_and_worth_another_try(artifacts):
    assert pod.main(arguments("sha256:00", bucket="absent")) == StoreError.exit_code
    assert artifacts.job_result("j") == {}


def test_data_that_lies_here_is_sent_to_be_trained_on_again(built, artifacts):
    digest = built.run.inputs["data"]
    artifacts.snapshots(built.project.home.data).share(digest)
    assert pod.main(arguments(artifacts.send_source(built.project.spec), data=digest)) == 0
    assert artifacts.job_result("j")["run"] == built.run.run


def test_a_run_that_is_here_already_is_left_as_it_is(built, artifacts, tmp_path):
    folder = tmp_path / built.run.run
    shutil.copytree(built.run.folder, folder)
    artifacts.fetch_run("churn", built.run.run, "sha256:absent", folder)
    assert (folder / "bundle.json").is_file()


def test_a_tampered_run_is_refused_and_leaves_nothing(built, artifacts, tmp_path):
    digest = artifacts.keep_run(built.run.folder, "churn")
    boto3.client("s3").put_object(Bucket=BUCKET, Key=contract.run_key("churn", built.run.run, digest), Body=b"evil")
    with pytest.raises(ModelworksError, match="was changed"):
        artifacts.fetch_run("churn", built.run.run, digest, tmp_path / built.run.run)
    assert list(tmp_path.iterdir()) == []


def test_another_run_under_the_name_of_one_is_refused(built, artifacts, tmp_path):
    other = tmp_path / "other" / built.run.run
    shutil.copytree(built.run.folder, other)
    (other / "inputs.json").write_text(json.dumps({**read_json(other / "inputs.json"), "seed": 4711}))
    digest = artifacts.keep_run(other, "churn")
    with pytest.raises(ModelworksError, match="is not that run"):
        artifacts.fetch_run("churn", built.run.run, digest, tmp_path / "home" / built.run.run)
    assert list((tmp_path / "home").iterdir()) == []


def test_an_unfinished_run_here_is_replaced(built, artifacts, tmp_path):
    digest = artifacts.keep_run(built.run.folder, "churn")
    folder = tmp_path / built.run.run
    folder.mkdir()
    (folder / "inputs.json").write_text("{}")
    artifacts.fetch_run("churn", built.run.run, digest, folder)
    assert digest_of((folder / "model.skops").read_bytes()) == digest_of(
        (built.run.folder / "model.skops").read_bytes()
    )
