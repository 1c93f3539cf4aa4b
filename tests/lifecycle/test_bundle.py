"""A bundle is a real Bento, the same bytes everywhere, without pickle, signed, and refused when touched."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from modelworks._files import digest_of_file
from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.bundle import build_bundle, open_built, sign, verify_bundle
from modelworks.lifecycle.lockfile import find_lock
from modelworks.lifecycle.signing import make_key
from modelworks.runtime.bento import read_manifest
from modelworks.runtime.bundle import unpack
from waiting import PATIENCE, eventually, held_port


@pytest.fixture
def bento(built, tmp_path) -> Path:
    """The bundle, unpacked."""
    unpack(built.bundle.path, tmp_path / "bento")
    return tmp_path / "bento"


def repacked(bento: Path, folder: Path) -> tuple[Path, str]:
    path = folder / "again.bento"
    path.write_bytes(pack(bento))
    return path, digest_of_file(path)


def test_digest_is_that_of_the_bytes(built):
    assert built.bundle.digest == digest_of_file(built.bundle.path)


def test_bundle_is_served_by_onnx_which_answers_as_scikit_learn_does(built):
    assert built.bundle.served == "onnx"
    assert built.bundle.parity["different_labels"] == 0
    assert built.bundle.parity["max_difference"] <= built.bundle.parity["tolerance"]


def test_archive_has_no_trace_of_time_or_owner(built):
    with tarfile.open(built.bundle.path) as archive:
        facts = {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in archive.getmembers()}
    assert facts == {(0, 0, 0, "", "")}


def test_bundle_holds_no_path_of_the_machine(built, bento):
    found = [
        p.name
        for p in bento.rglob("*")
        if p.is_file() and str(built.project.folder.parents[1]).encode() in p.read_bytes()
    ]
    assert found == []


def test_every_requirement_has_a_version_and_a_hash(bento):
    lines = (bento / "env" / "python" / "requirements.txt").read_text().replace("\\\n", " ").splitlines()
    assert lines
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_the_manifest_names_what_a_server_loads_it_with_and_the_locked_versions(built):
    manifest = verify_bundle(built.bundle.path, built.bundle.digest, built.bundle.model)
    lock = find_lock(built.project.folder)
    assert "bentoml" not in manifest.packages
    assert {"numpy", "onnxruntime", "scikit-learn", "skops"} <= {*manifest.packages}
    assert manifest.packages == {name: lock.packages[name]["version"] for name in manifest.packages}


def test_requirements_have_what_the_service_imports(bento):
    text = (bento / "env" / "python" / "requirements.txt").read_text()
    assert all(f"{name}==" in text for name in ("bentoml", "numpy", "onnxruntime", "scikit-learn", "skops"))


def test_card_says_use_data_metrics_and_limits(bento):
    card = (bento / "README.md").read_text()
    assert all(f"## {title}" in card for title in ("Intended use", "Data", "Metrics", "Limits", "Features", "Made of"))


def test_built_bundle_is_kept(built):
    steps = []
    build_bundle(built.run, built.project.home, lambda *event: steps.append(event[:2]))
    assert steps == [("build the Bento", "kept")]


def test_signed_bundle_is_verified(rebuilt, tmp_path):
    key = make_key(tmp_path / "keys")
    sign(rebuilt.bundle, key)
    manifest = verify_bundle(rebuilt.bundle.path, rebuilt.bundle.digest, "churn", tmp_path / "keys" / "trusted")
    assert manifest.model == "churn"


def test_private_key_is_private_and_made_once(tmp_path):
    key = make_key(tmp_path)
    before = key.read_bytes()
    assert (key.stat().st_mode & 0o077, make_key(tmp_path).read_bytes()) == (0, before)


def test_bundle_signed_by_a_stranger_is_refused(rebuilt, tmp_path):
    sign(rebuilt.bundle, make_key(tmp_path / "strangers"))
    make_key(tmp_path / "ours")
    with pytest.raises(ModelworksError, match="not among the trusted ones"):
        verify_bundle(rebuilt.bundle.path, rebuilt.bundle.digest, "churn", tmp_path / "ours" / "trusted")


def test_tampered_bundle_is_refused(built, tmp_path):
    path = tmp_path / "x.bento"
    data = bytearray(built.bundle.path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelworksError, match="not the one released"):
        verify_bundle(path, built.bundle.digest, "churn")


def test_pickle_smuggled_into_a_bundle_is_refused(bento, tmp_path):
    (bento / "src" / "notes.txt").write_bytes(pickle.dumps({"a": print}))
    path, digest = repacked(bento, tmp_path)
    with pytest.raises(ModelworksError, match=r"holds src/notes\.txt, which is neither text nor"):
        verify_bundle(path, digest, "churn")


def test_archive_that_leaves_its_folder_is_refused(tmp_path):
    path = tmp_path / "x.bento"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("../outside")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(ModelworksError, match=r"cannot be unpacked: '\.\./outside' would be extracted to"):
        verify_bundle(path, digest_of_file(path), "churn")
    with pytest.raises(ModelworksError, match="cannot be unpacked"):
        unpack(path, tmp_path / "bento")
    assert not (tmp_path / "outside").exists()


def test_bundle_changed_in_the_run_is_built_again_to_the_same_digest(rebuilt):
    rebuilt.bundle.path.write_bytes(b"broken")
    with pytest.raises(ModelworksError, match="missing or was changed"):
        open_built(rebuilt.run)
    again = build_bundle(rebuilt.run, rebuilt.project.home)
    assert again.digest == rebuilt.bundle.digest == digest_of_file(again.path)


def test_lock_without_a_package_says_which_to_add(built):
    with pytest.raises(ModelworksError, match="left-pad is not in"):
        find_lock(built.project.folder).requirements(("left-pad",))


def test_bentoml_imports_the_bundle(built, tmp_path):
    code = f"import bentoml; print(bentoml.import_bento({str(built.bundle.path)!r}, input_format='gz').tag.name)"
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("churn"), done.stderr


def test_bentoml_serves_the_bundle_and_answers_as_the_manifest_says(bento, tmp_path):
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    example = read_manifest(bento).examples[0]
    with (tmp_path / "log").open("wb") as log, held_port() as held:
        port = held.getsockname()[1]
        url = f"http://127.0.0.1:{port}/predict"
        command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            answer = eventually(lambda: _answer(url, {"rows": [example]}, server))
            refused = httpx.post(url, json={"rows": [{**example, "texture": "wide"}]}, timeout=PATIENCE)
        finally:
            server.terminate()
            server.wait(PATIENCE)
    assert set(answer.json()[0]) == {"label", "score"}
    assert (refused.status_code, "rows[0].texture" in refused.text) == (400, True)


def _answer(url: str, body: dict, server: subprocess.Popen) -> httpx.Response | None:
    """Its answer, once it is up."""
    assert server.poll() is None
    with suppress(httpx.TransportError):
        response = httpx.post(url, json=body, timeout=PATIENCE)
        return response if response.status_code != 503 else None
    return None


def test_a_multiclass_model_is_bundled_and_judged_too(project):
    from modelworks.lifecycle.run_gates import run_gates
    from modelworks.lifecycle.training import train

    project.edit("load_breast_cancer", "load_wine")
    project.edit('"mean texture": "texture", "mean smoothness": "smoothness", "mean symmetry": "symmetry"',
                 '"alcohol": "texture", "flavanoids": "smoothness", "hue": "symmetry"')  # fmt: skip
    project.edit('benign=found["target"] == 1', 'benign=found["target"].map(["red", "white", "rose"].__getitem__)')
    project.edit("maximum=1,", "maximum=100,")
    (project.folder / "model.py").write_text(
        (project.folder / "model.py").read_text().replace('kind="binary"', 'kind="multiclass"')
        .replace("classes=(False, True)", 'classes=("red", "white", "rose")').replace('"auc"', '"accuracy"')
    )  # fmt: skip
    spec = project.spec
    run = train(spec, project.home)
    bundle = build_bundle(run, project.home)
    report = run_gates(run, bundle, project.home, "local")
    assert (bundle.served, bundle.parity["different_labels"]) == ("onnx", 0)
    judged = [each for each in report.results if each.subject == "accuracy"]
    assert judged
    assert {each.number for each in judged if each.gate == "MetricGate"} == {run.metrics["accuracy"]}
    assert "fail" not in {each.verdict for each in judged}
