"""Training is a function of its inputs, in a process of its own, that can be killed and resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import clock_shift
from modelworks._files import read_json, write_json
from modelworks.cli import lifecycle as commands
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle import child_process, data, load_spec
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.data import SnapshotStore, load_rows, read_rows
from modelworks.lifecycle.runs import Home, has_runs, latest_run, run_id
from modelworks.lifecycle.training import check_data, describe, project_at, train
from waiting import PATIENCE


def fails(project, pattern):
    with pytest.raises(ModelworksError, match=pattern) as caught:
        train(project.spec, project.home)
    return caught.value


def test_run_keeps_checks_metrics_plots_and_origin(built):
    names = {path.name for path in built.run.folder.iterdir()}
    assert {"inputs.json", "checks.json", "checks.html", "metrics.json", "slices.json", "origin.json", "plots"} <= names


def test_same_inputs_give_the_same_digest_elsewhere_on_another_day_with_other_threads_and_hash_seed(
    built, tmp_path, monkeypatch
):
    monkeypatch.setattr(child_process, "FIXED", {**child_process.FIXED, **clock_shift.variables(tmp_path)})
    monkeypatch.setenv("PYTHONHASHSEED", "4242")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    folder = tmp_path / "another" / "place"
    shutil.copytree(built.project.folder.parents[1], folder, ignore=shutil.ignore_patterns("home*", "__pycache__"))
    home = Home(tmp_path / "home")
    again = load_spec(folder / "models" / "churn")
    run = train(again, home)
    assert (run.run, build_bundle(run, home).digest) == (built.run.run, built.bundle.digest)
    days = datetime.fromisoformat(run.checks.at) - datetime.fromisoformat(built.run.checks.at)
    assert days > timedelta(days=2999)  # the process really lived on another day


def test_other_parameters_give_another_run(built, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(built.project.folder.parents[1], folder, ignore=shutil.ignore_patterns("home*", "__pycache__"))
    file = folder / "models" / "churn" / "model.py"
    file.write_text(file.read_text().replace('"C": 1.0', '"C": 0.5'))
    assert train(load_spec(file), Home(tmp_path / "home")).run != built.run.run


def test_finished_run_is_found_again_and_not_trained(rebuilt):
    steps = []
    train(rebuilt.project.spec, rebuilt.project.home, progress=lambda *event: steps.append(event[:2]))
    assert ("train", "kept") in steps


def test_latest_run_is_the_one_trained_last(rebuilt):
    again = rebuilt.project.edit('"C": 1.0', '"C": 0.5')
    second = train(again, rebuilt.project.home)
    assert latest_run("churn", rebuilt.project.home).run == second.run != rebuilt.run.run
    train(rebuilt.project.edit('"C": 0.5', '"C": 1.0'), rebuilt.project.home)  # found again, and so the last
    assert latest_run("churn", rebuilt.project.home).run == rebuilt.run.run


def test_data_is_kept_by_digest_and_can_be_trained_on_again(built, tmp_path):
    home = Home(tmp_path)
    shutil.copytree(built.project.home.data, home.data)
    assert train(built.project.spec, home, data=Digest(built.run.inputs["data"])).run == built.run.run


def test_a_changed_snapshot_is_refused_and_nothing_is_deleted(built, tmp_path):
    digest = Digest(built.run.inputs["data"])
    path = tmp_path / f"{digest.hex}.parquet"
    path.write_bytes(b"PAR1 not what it was")
    with pytest.raises(ModelworksError, match="was changed"):
        SnapshotStore(tmp_path).get(digest)
    assert path.read_bytes() == b"PAR1 not what it was"


def test_a_changed_snapshot_is_mended_by_loading_the_same_rows(built, tmp_path):
    digest = Digest(built.run.inputs["data"])
    (tmp_path / f"{digest.hex}.parquet").write_bytes(b"PAR1 not what it was")
    rows = read_rows(SnapshotStore(built.project.home.data).get(digest))
    assert SnapshotStore(tmp_path).put(rows).digest == digest
    assert SnapshotStore(tmp_path).get(digest).rows == len(rows)


@pytest.mark.parametrize("form", ["{hex}", "sha256:{hex}x", "../data/{hex}", "SHA256:{hex}"])
def test_a_digest_that_is_none_is_refused_and_the_snapshot_stays(rebuilt, monkeypatch, form):
    monkeypatch.setenv("MODELWORKS_HOME", str(rebuilt.root / "home"))
    digest = Digest(rebuilt.run.inputs["data"])
    with pytest.raises(ModelworksError, match="a digest must be sha256: and 64 hex digits"):
        commands.train(str(rebuilt.project.folder), data=form.format(hex=digest.hex))
    assert SnapshotStore(rebuilt.project.home.data).get(digest).rows


@pytest.mark.parametrize("model", ["..", "../../x", "a/b", "", "A", ".hidden"])
def test_a_name_that_climbs_is_no_model_of_a_home(tmp_path, model):
    assert not has_runs(model, Home(tmp_path))
    with pytest.raises(ModelworksError, match="the name of a model is"):
        latest_run(model, Home(tmp_path))


def test_a_planted_run_of_another_model_is_not_the_latest_of_this_one(rebuilt):
    inputs = {**rebuilt.run.inputs, "model": "other"}
    folder = rebuilt.run.folder.parent / run_id(inputs)
    shutil.copytree(rebuilt.run.folder, folder)
    write_json(folder / "inputs.json", inputs)
    write_json(folder / "origin.json", {**read_json(folder / "origin.json"), "last": "9"})
    with pytest.raises(ModelworksError, match="holds a run of other, not of churn"):
        latest_run("churn", rebuilt.project.home)


def test_a_run_under_the_name_of_another_is_refused(rebuilt):
    folder = rebuilt.run.folder.rename(rebuilt.run.folder.with_name("0" * 16))
    with pytest.raises(ModelworksError, match=f"holds the run {rebuilt.run.run}, not {folder.name}"):
        latest_run("churn", rebuilt.project.home)


def test_folder_without_git_is_dirty(built):
    assert (built.run.origin["commit"], built.run.origin["dirty"]) == ("", True)


def test_secrets_of_the_caller_do_not_reach_the_models_code(project, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    project.edit(
        "    model = Pipeline(", "    import os\n    assert 'GITHUB_TOKEN' not in os.environ\n    model = Pipeline("
    )
    train(project.spec, project.home)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    model = Pipeline(", "    raise RuntimeError('boom')\n    model = Pipeline(", r"model\.py:\d+: RuntimeError while the model is trained: boom"),  # noqa: E501 - one case a line
        ("    found = load_breast_cancer", "    raise OSError('no source')\n    found = load_breast_cancer", r"model\.py:\d+: OSError while the model loads its data: no source"),  # noqa: E501 - one case a line
        ('assign(benign=found["target"] == 1)', 'assign(benign=found["target"] == 1).head(0)', "returned no rows"),
        ('assign(benign=found["target"] == 1)', "assign(other=1)", "returned no column 'benign'"),
        ('assign(benign=found["target"] == 1)', 'assign(benign=found["target"] == 1, texture="wide")', "schema: texture"),  # noqa: E501 - one case a line
        ('assign(benign=found["target"] == 1)', "assign(benign=True)", "there is nothing to learn"),
        ("return model.fit(data.x, data.y)", "return 3", "train returned int, which has no predict_proba"),
        ("return model.fit(data.x, data.y)", "fitted = model.fit(data.x, data.y)\n    fitted[-1].coef_[:] = float('nan')\n    return fitted", "NaN or infinity"),  # noqa: E501 - one case a line
        ("return model.fit(data.x, data.y)", "from sklearn.preprocessing import FunctionTransformer\n    return Pipeline([('f', FunctionTransformer(lambda x: x)), *model.steps]).fit(data.x, data.y)", r"model\.py:\d+: the model holds what has no place in a bundle: .*<lambda>"),  # noqa: E501 - one case a line
        ("    model = Pipeline(", "    import os\n    os.kill(os.getpid(), 9)\n    model = Pipeline(", r"was killed \(SIGKILL\)"),  # noqa: E501 - one case a line
    ],
)  # fmt: skip
def test_bad_project_gives_one_clear_error_and_no_run(project, old, new, message):
    project.edit(old, new)
    fails(project, message)
    assert not list(project.home.runs("churn").glob("*/metrics.json"))


@pytest.mark.parametrize("step", ["model.skops", "slices.json", "metrics.json"])
def test_run_that_was_killed_before_a_file_was_written_is_resumed(built, tmp_path, step):
    home = Home(tmp_path)
    shutil.copytree(built.project.home.root, home.root, dirs_exist_ok=True)
    folder = home.runs("churn") / built.run.run
    for name in {step, "metrics.json"}:
        (folder / name).unlink()
    run = train(built.project.spec, home)
    assert (run.run, run.metrics) == (built.run.run, built.run.metrics)


def test_environment_that_is_not_the_locks_is_refused(project):
    lock = project.folder.parents[1] / "uv.lock"
    text = lock.read_text()
    lock.write_text(re.sub(r'(\[\[package\]\]\nname = "scikit-learn"\nversion = ")1', r"\g<1>9", text))
    assert "uv sync" in fails(project, r"scikit-learn .* \(locked: 9").fix


def test_project_without_lock_is_told_to_make_one(project):
    (project.folder.parents[1] / "uv.lock").unlink()
    fails(project, "no uv.lock")


def test_full_disk_is_one_clear_sentence(project, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(ModelworksError, match="No space left on device"):
        write_json(project.home.root / "x.json", {})


def test_home_that_is_a_file_is_one_clear_sentence(project, tmp_path):
    (tmp_path / "occupied").write_text("")
    with pytest.raises(ModelworksError, match="cannot work in"):
        train(project.spec, Home(tmp_path / "occupied"))


def test_interrupted_training_leaves_no_process(project):
    import psutil

    others = psutil.Process().children(recursive=True)
    begun = []

    def interrupt(step, *_rest):
        if step == "load data":
            begun.extend(each for each in psutil.Process().children(recursive=True) if each not in others)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(project.spec, project.home, progress=interrupt)
    assert begun
    assert [each for each in begun if each.is_running()] == []


def test_training_ends_with_a_parent_that_is_killed(project):
    """A process that is killed cannot tidy up: the kernel does."""
    import psutil

    project.edit("    model = Pipeline(", "    import time\n    time.sleep(600)\n    model = Pipeline(")
    script = (
        "import sys; from pathlib import Path\n"
        "from modelworks.lifecycle import load_spec; from modelworks.lifecycle.training import Home, train\n"
        "train(load_spec(sys.argv[1]), Home(Path(sys.argv[2])), progress=lambda *e: print(e, flush=True))"
    )
    argv = [sys.executable, "-c", script, str(project.folder), str(project.home.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert any("('train', 'start'" in line for line in parent.stdout)
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    child.wait(PATIENCE)
    assert not child.is_running()


def test_inputs_name_every_digest(built):
    assert set(read_json(built.run.folder / "inputs.json")) == {
        "model", "data", "code", "engine", "lock", "parameters", "seed",
    }  # fmt: skip


def test_slice_of_a_column_that_the_data_lacks_is_refused_at_the_line_of_its_gate(project):
    project.edit("    TrainingData,\n", "    SliceGate,\n    TrainingData,\n")
    spec = project.edit("gates=(\n", 'gates=(\n        SliceGate(by="sizee", metric="auc", limit=0.5),\n')
    line = (
        (project.folder / "model.py")
        .read_text()
        .splitlines()
        .index('        SliceGate(by="sizee", metric="auc", limit=0.5),')
    )
    with pytest.raises(ModelworksError, match="returned no column 'sizee'") as caught:
        load_rows(spec)
    assert caught.value.message.startswith(f"{project.folder / 'model.py'}:{line + 1}:")


def test_column_that_comes_twice_is_refused_by_name(project):
    spec = project.edit("assign(benign=found", 'rename(columns={"symmetry": "texture"}).assign(benign=found')
    with pytest.raises(ModelworksError, match="returned the column 'texture' more than once"):
        load_rows(spec)


def test_file_that_is_read_by_a_relative_path_is_told_where_to_put_it(project):
    spec = project.edit(
        "    found = load_breast_cancer", '    pd.read_csv("data/x.csv")\n    found = load_breast_cancer'
    )
    with pytest.raises(ModelworksError, match=r"model\.py:\d+: FileNotFoundError") as caught:
        load_rows(spec)
    assert "Path(__file__).parent / 'data/x.csv'" in caught.value.fix


@pytest.mark.parametrize(
    ("end", "how", "advice"),
    [
        ("os._exit(3)", "exited with code 3", "run again as it is, it ends the same way"),
        ("os.kill(os.getpid(), 9)", "was killed (SIGKILL)", "Free memory"),
        ("os.kill(os.getpid(), 15)", "was ended by SIGTERM", "Run it again: finished steps are kept"),
        ("os.kill(os.getpid(), 11)", "crashed with SIGSEGV", "try another version"),
    ],
)
def test_advice_fits_how_the_process_ended(project, end, how, advice):
    spec = project.edit("    found = load_breast_cancer", f"    import os\n    {end}\n    found = load_breast_cancer")
    with pytest.raises(ModelworksError) as caught:
        check_data(spec, project.home)
    assert how in caught.value.message
    assert advice in caught.value.fix


def test_job_longer_than_a_command_line_may_be_reaches_the_child(project):
    from modelworks.lifecycle.child_process import work

    job = {"verb": "check", "folder": str(project.home.checks("churn")), "save_baseline": "", "long": "x" * 200_000}
    assert work(project.folder, "churn", project.home, job)["data"].startswith("sha256:")


def test_only_variables_that_the_spec_names_reach_its_code_besides_chosen_ones(project, monkeypatch, tmp_path):
    seen = tmp_path / "seen"
    project.edit(
        '    """All rows: features and target. The same source must give the same rows."""\n',
        f"    import os, json\n    open({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)))\n",
    )
    project.edit("DataSource(load=load,", 'DataSource(load=load, environment=("WAREHOUSE", "NOT_SET"),')
    monkeypatch.setenv("WAREHOUSE", "a=b\nc")
    monkeypatch.setenv("A_SECRET_OF_THE_SHELL", "hidden")
    check_data(project_at(str(project.folder)), project.home).require()
    variables = json.loads(seen.read_text())
    assert variables["WAREHOUSE"] == "a=b\nc"
    assert "NOT_SET" not in variables
    assert "A_SECRET_OF_THE_SHELL" not in variables


def test_a_variable_that_would_make_another_run_is_refused_with_its_line(project):
    project.edit("DataSource(load=load,", 'DataSource(load=load, environment=("OMP_NUM_THREADS",),')
    with pytest.raises(
        ModelworksError, match=r"model\.py:\d+: data.environment names OMP_NUM_THREADS, which modelworks"
    ):
        check_data(project_at(str(project.folder)), project.home)


def test_no_command_runs_the_code_of_a_model_in_its_own_process(project, tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    text = (project.folder / "model.py").read_text()
    mark = f"import os\nopen({str(seen)!r}, 'a').write(str(os.getpid()) + ' ')\n"
    (project.folder / "model.py").write_text(text.replace("import pandas as pd\n", mark + "import pandas as pd\n", 1))
    monkeypatch.chdir(project.folder.parents[1])
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path / "laptop"))
    commands.check_data(str(project.folder))
    found = describe(project_at(str(project.folder)), project.home)
    assert (found.name, found.inputs["seed"]) == ("churn", 1)
    assert str(os.getpid()) not in seen.read_text().split()


def test_rows_are_kept_group_by_group_and_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "GROUP_ROWS", 10)
    times = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(range(25), unit="h")
    text = pd.Series([None] * 12 + ["x"] * 13, dtype=object)  # nothing in the first group
    frame = pd.DataFrame({"number": np.arange(25) / 3, "at": times, "text": text, "kind": pd.Categorical(text)})
    kept = SnapshotStore(tmp_path).put(frame)
    assert pq.ParquetFile(kept.path).num_row_groups == 3
    pd.testing.assert_frame_equal(read_rows(kept), frame, check_dtype=False, check_categorical=False)
    assert [path.name for path in tmp_path.iterdir()] == [kept.path.name]
