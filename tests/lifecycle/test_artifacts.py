"""What goes to a run in an environment and what comes back, through moto's S3 and CloudWatch."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from modelworks import contract
from modelworks._files import digest_of
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError
from modelworks.lifecycle import pod
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.artifacts import Artifacts, JobNote, Made
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.data import StoreError
from modelworks.lifecycle.model_project import changed_files, code_digest, copy_project
from modelworks.lifecycle.provenance import engine_digest
from modelworks.lifecycle.runs import Home, run_id, with_origin
from waiting import PATIENCE

BUCKET = "artifacts"
OTHER = f"sha256:{'0' * 64}"


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


@pytest.fixture
def sent(built, tmp_path) -> Path:
    """The project as it is sent."""
    return copied(built.project.folder, tmp_path / "sent")


def copied(project: Path, into: Path) -> Path:
    copy_project(project, into)
    return into


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
    packed = pack(copied(copy, tmp_path / "one"))
    assert packed == pack(copied(built.project.folder, tmp_path / "two"))
    assert code_digest(copy) == code_digest(built.project.folder)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        files = {member.name for member in archive if member.isfile()}
    assert files == {"uv.lock", "models/churn/model.py"}


def test_a_project_that_holds_its_data_is_not_sent(project, tmp_path, monkeypatch):
    monkeypatch.setattr("modelworks.lifecycle.model_project.MAX_BYTES", 1000)
    with pytest.raises(ModelworksError, match="holds 0 MB") as caught:
        copied(project.folder, tmp_path / "sent")
    assert "data.load" in caught.value.fix


def test_a_run_of_a_pod_comes_home_as_the_run_and_the_bundle_of_a_local_one(built, sent, artifacts, tmp_path, capfd):
    assert pod.main(arguments(artifacts.send_source(sent))) == 0
    made = artifacts.read_note("j").made
    home = Home(tmp_path)
    artifacts.take_over("j", made, "churn", home.runs("churn") / made.run)
    run = with_origin(home.runs("churn") / made.run, "c0ffee", dirty=False)
    assert (run.run, run.metrics) == (built.run.run, built.run.metrics)
    assert (run.origin["commit"], run.origin["dirty"]) == ("c0ffee", False)
    artifacts.snapshots(home.data).get(Digest(run.inputs["data"]))
    assert changed_files(run.project(), built.project.folder) == []
    assert build_bundle(run, home).digest == built.bundle.digest
    assert set(counted().values()) == {0.0}
    said = capfd.readouterr().out
    assert [step for step in ("load data", "train", "evaluate") if step in said] == ["load data", "train", "evaluate"]


def test_a_run_that_was_finished_before_is_found_and_not_trained_again(built, sent, artifacts, tmp_path, capfd):
    source = artifacts.send_source(sent)
    artifacts.take_over("earlier", handed_over(artifacts, built.run, "earlier"), "churn", tmp_path / built.run.run)
    assert pod.main(arguments(source)) == 0
    assert "train                          kept" in capfd.readouterr().out
    assert artifacts.read_note("j").made.run == built.run.run


def test_a_spec_that_raises_fails_for_good_shows_its_output_and_is_counted(project, artifacts, tmp_path, capfd):
    project.edit(
        "    model = Pipeline(", "    print('as far as here')\n    raise RuntimeError('boom')\n    model = Pipeline("
    )
    assert pod.main(arguments(artifacts.send_source(copied(project.folder, tmp_path / "sent")))) == 1
    error = artifacts.read_note("j").error
    assert re.fullmatch(r"models/churn/model\.py:\d+: RuntimeError while the model is trained: boom", error)
    assert counted() == {frozenset({"environment"}): 1.0, frozenset({"environment", "model"}): 1.0}
    said = capfd.readouterr().out
    assert "as far as here" in said
    assert "error: " in said


def test_a_tampered_project_is_not_run(sent, artifacts, capfd):
    digest = artifacts.send_source(sent)
    evil = pack(sent)[:-8] + b"tampered"
    boto3.client("s3").put_object(Bucket=BUCKET, Key=contract.source_key(digest), Body=evil)
    assert pod.main(arguments(digest)) == 1
    said = capfd.readouterr().out
    assert "the source archive is not what was sent" in said
    assert "load spec" not in said


def test_an_image_with_another_modelworks_is_refused(sent, artifacts, capfd):
    assert pod.main(arguments(artifacts.send_source(sent), engine=OTHER)) == 1
    assert "cluster.training_image" in capfd.readouterr().out


def test_a_bucket_that_is_down_is_no_failure_of_the_run_and_worth_another_try(artifacts):
    assert pod.main(arguments(OTHER, bucket="absent")) == StoreError.exit_code
    assert artifacts.read_note("j") == JobNote()


def test_data_that_lies_here_is_sent_to_be_trained_on_again(built, sent, artifacts):
    digest = Digest(built.run.inputs["data"])
    artifacts.snapshots(built.project.home.data).share(digest)
    assert pod.main(arguments(artifacts.send_source(sent), data=digest)) == 0
    assert artifacts.read_note("j").made.run == built.run.run


# -- What a run hands over -------------------------------------------------------------------------------------------
def handed_over(artifacts, run, job: str = "j", **changed: bytes) -> Made:
    """What a Job notes that hands a run over, with some of its files changed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(run.folder, Path(scratch) / run.run))
        for name, content in changed.items():
            (folder / name.replace("_", ".")).write_bytes(content)
        return Made(run=run.run, archive=artifacts.hand_over(job, folder))


def planted(artifacts, data: bytes) -> Made:
    """What a Job notes that hands over these bytes."""
    artifacts._put(contract.job_run_key("j"), data)
    return Made(run=RunId("0" * 16), archive=digest_of(data))


def refused(artifacts, made: Made, folder: Path, pattern: str) -> None:
    """Nothing of it is put in place, nor kept for others."""
    with pytest.raises(ModelworksError, match=pattern):
        artifacts.take_over("j", made, "churn", folder / "home" / made.run)
    assert list(folder.glob("home/*")) == []
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=contract.RUNS_PREFIX)


def archived(**entries: bytes | str) -> bytes:
    """An archive of files, and of links where a target is given."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
    return stream.getvalue()


def test_a_run_that_is_here_already_is_left_as_it_is(built, artifacts, tmp_path):
    folder = tmp_path / built.run.run
    shutil.copytree(built.run.folder, folder)
    artifacts.take_over("j", handed_over(artifacts, built.run), "churn", folder)
    assert (folder / "bundle.json").is_file()


def test_a_run_that_was_taken_over_is_kept_for_others(built, artifacts, tmp_path):
    artifacts.take_over("j", handed_over(artifacts, built.run), "churn", tmp_path / "one" / built.run.run)
    assert artifacts.find_run("churn", built.run.run, tmp_path / "two" / built.run.run)
    assert not artifacts.find_run("other", built.run.run, tmp_path / "three" / built.run.run)


def test_a_tampered_run_is_refused_and_leaves_nothing(built, artifacts, tmp_path):
    made = handed_over(artifacts, built.run)
    boto3.client("s3").put_object(Bucket=BUCKET, Key=contract.job_run_key("j"), Body=b"evil")
    refused(artifacts, made, tmp_path, "was changed")


def test_another_run_under_the_name_of_one_is_refused(built, artifacts, tmp_path):
    inputs = {**built.run.inputs, "seed": 4711}
    made = handed_over(artifacts, built.run, inputs_json=json.dumps(inputs).encode())
    refused(artifacts, made, tmp_path, "is not that run")


def test_a_planted_run_of_another_model_is_refused(built, artifacts, tmp_path):
    inputs = {**built.run.inputs, "model": "other"}
    folder = tmp_path / "other" / run_id(inputs)
    shutil.copytree(built.run.folder, folder)
    (folder / "inputs.json").write_text(json.dumps(inputs))
    made = Made(run=run_id(inputs), archive=artifacts.hand_over("j", folder))
    refused(artifacts, made, tmp_path, r"as the run [0-9a-f]{16} of churn is not that run")


def test_a_run_with_another_project_than_its_digest_is_refused(built, artifacts, tmp_path):
    folder = Path(shutil.copytree(built.run.folder, tmp_path / built.run.run))
    (folder / "project" / "models" / "churn" / "more.py").write_text("")
    made = Made(run=built.run.run, archive=artifacts.hand_over("j", folder))
    refused(artifacts, made, tmp_path, "is not what the run .* was made from")


@pytest.mark.parametrize("name", ["origin.json", "gates-prod.json", "bundle.json"])
def test_a_run_that_brings_its_own_verdicts_or_origin_is_refused(built, artifacts, tmp_path, name):
    files = {path.relative_to(built.run.folder).as_posix(): path for path in built.run.folder.rglob("*")}
    kept = {each: path.read_bytes() for each, path in files.items() if path.is_file()}
    data = archived(**{**kept, name: b"{}"})
    artifacts._put(contract.job_run_key("j"), data)
    refused(artifacts, Made(run=built.run.run, archive=digest_of(data)), tmp_path, "which no training makes")


@pytest.mark.parametrize(
    ("entries", "pattern"),
    [
        ({"metrics.json": "/etc/hostname"}, "neither a file nor a folder"),
        ({"project": "/etc", "project/x": b"x"}, "neither a file nor a folder"),
        ({"../outside": b"x"}, "cannot be unpacked"),
        ({"/outside": b"x"}, "cannot be unpacked|no training makes"),
    ],
    ids=["link", "linked folder", "climbs", "absolute"],
)
def test_an_archive_of_links_or_climbing_names_is_refused(artifacts, tmp_path, entries, pattern):
    refused(artifacts, planted(artifacts, archived(**entries)), tmp_path, pattern)
    assert not (tmp_path / "home" / "outside").exists()


def test_an_unfinished_run_here_is_replaced(built, artifacts, tmp_path):
    made = handed_over(artifacts, built.run)
    folder = tmp_path / built.run.run
    folder.mkdir()
    (folder / "inputs.json").write_text("{}")
    artifacts.take_over("j", made, "churn", folder)
    assert digest_of((folder / "model.skops").read_bytes()) == digest_of(
        (built.run.folder / "model.skops").read_bytes()
    )


# -- What a Job notes of itself --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "note",
    [
        {"made": {"run": "../../../models/churn", "archive": OTHER}},
        {"made": {"run": "0123456789abcdef/..", "archive": OTHER}},
        {"made": {"run": "0123456789ABCDEF", "archive": OTHER}},
        {"made": {"run": "0123456789abcdef", "archive": OTHER.removeprefix("sha256:")}},
        {"made": {"run": "0123456789abcdef"}},
        {"made": ["0123456789abcdef", OTHER]},
        {"error": 7},
        {"counted": "yes"},
        {"run": "0123456789abcdef"},
        [],
        "text",
    ],
)
def test_a_note_that_is_none_is_refused_before_anything_of_it_is_used(artifacts, note):
    artifacts._put(contract.job_key("j"), json.dumps(note).encode())
    with pytest.raises(ModelworksError, match=r"jobs/j/note\.json is not what a Job notes of itself"):
        artifacts.read_note("j")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"null"])
def test_bytes_that_are_no_note_are_refused(artifacts, data):
    artifacts._put(contract.job_key("j"), data)
    with pytest.raises(ModelworksError, match="is not what a Job notes of itself"):
        artifacts.read_note("j")


def test_a_note_is_read_as_it_was_left(artifacts):
    note = JobNote(made=Made(run=RunId("0123456789abcdef"), archive=Digest(OTHER)), counted=True)
    artifacts.note("j", note)
    assert artifacts.read_note("j") == note
    assert isinstance(artifacts.read_note("j").made.run, RunId)
