"""A run holds what it is made of: after `train`, nothing but its own copy decides its bundle and its verdicts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from lifecycle.conftest import Built, make_project
from modelworks._files import read_json
from modelworks.cli import lifecycle as commands
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.data import SnapshotStore, read_rows
from modelworks.lifecycle.lockfile import find_lock, run_packages
from modelworks.lifecycle.model_project import changed_files, code_digest, copy_project, imports, source_files
from modelworks.lifecycle.provenance import source_of
from modelworks.lifecycle.run_gates import run_gates
from modelworks.lifecycle.runs import SPLIT, Home, latest_run
from modelworks.lifecycle.splits import read_split, split_rows, write_split
from modelworks.lifecycle.training import check_data, train
from waiting import PATIENCE

EDITS = {
    "a gate lowered": ("at_least=0.7", "at_least=0.1"),
    "another seed": ("seed=1,", "seed=2,"),
    "classes swapped": ("classes=(False, True)", "classes=(True, False)"),
}
ANOTHER_PACKAGE = """
[[package]]
name = "another-models-package"
version = "1.0"
source = { registry = "somewhere" }
sdist = { url = "x", hash = "sha256:00", size = 1 }
"""


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.invalid"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is")


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Built:
    """A project in a clean checkout, with a side file, trained and bundled."""
    folder = tmp_path_factory.mktemp("committed")
    project = make_project(folder)
    (project.folder / "parameters.json").write_text('{"C": 1.0}')
    project.edit("import pandas as pd\n", "import json\nfrom pathlib import Path\n\nimport pandas as pd\n")
    project.edit(
        'parameters={"C": 1.0}', 'parameters=json.loads(Path(__file__).with_name("parameters.json").read_text())'
    )
    (folder / ".gitignore").write_text("home*/\n__pycache__/\n")
    git(folder, "init", "--quiet")
    commit(folder)
    run = train(project.spec, project.home)
    return Built(project, run, build_bundle(run, project.home))


@pytest.fixture
def here(committed, tmp_path, monkeypatch) -> Built:
    """A copy of it, which commands run in."""
    copy = committed.copy(tmp_path / "checkout")
    monkeypatch.chdir(copy.root)
    monkeypatch.setenv("MODELWORKS_HOME", str(copy.root / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copy


def verdicts(report) -> list[tuple]:
    """All of a report but what the clock and the machine decide."""
    return [
        tuple(value for name, value in asdict(each).items() if name != "source")
        for each in report.results
        if each.gate != "LatencyGate"
    ]


@pytest.fixture(scope="module")
def judged(committed) -> list[tuple]:
    report = run_gates(committed.run, committed.bundle, committed.project.home, "prod")
    return verdicts(report)


# -- Edited after its run --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edit_after_train_changes_neither_the_bundle_nor_a_verdict_and_is_noted(here, judged, edit, capsys):
    here.project.edit(*edit)
    shutil.rmtree(here.run.folder / "bundle")
    commands.bundle("churn", as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["digest"] == here.bundle.digest
    assert f"this is the run {here.run.run}, made before model.py changed" in " ".join(said.err.split())
    commands.gates("churn", env="local", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["digest"]) == (here.run.run, here.bundle.digest)
    report = run_gates(latest_run("churn", here.project.home), here.bundle, here.project.home, "prod")
    assert verdicts(report) == judged


def test_a_run_of_a_clean_checkout_is_known_by_its_commit(committed):
    assert committed.run.origin["dirty"] is False
    assert len(committed.run.origin["commit"]) == 40


def test_an_edit_is_another_run(here):
    here.project.edit(*EDITS["a gate lowered"])
    assert train(here.project.spec, here.project.home).run != here.run.run


def test_a_checkout_that_cannot_be_read_any_more_does_not_keep_a_run_from_its_bundle(here, capsys):
    (here.project.folder / "model.py").write_text("no python")
    commands.bundle("churn", as_json=True)
    assert json.loads(capsys.readouterr().out)["digest"] == here.bundle.digest


def test_nothing_is_noted_where_nothing_changed(here, capsys):
    (here.project.folder / "README.md").write_text("other words")
    (here.project.folder / "test_model.py").write_text("")
    commands.bundle("churn", as_json=True)
    assert "this is the run" not in capsys.readouterr().err


def test_a_run_whose_copy_was_changed_is_refused(here):
    file = here.run.project() / "model.py"
    file.write_text(file.read_text().replace("at_least=0.7", "at_least=0.1"))
    with pytest.raises(ModelworksError, match=r"is not what the run .* was made from"):
        run_gates(here.run, here.bundle, here.project.home, "local")


def test_a_spec_that_depends_on_more_than_its_files_is_refused_after_its_run(project, monkeypatch):
    monkeypatch.setenv("MODELWORKS_SEED", "1")
    project.edit("import pandas as pd\n", "import os\n\nimport pandas as pd\n")
    project.edit("seed=1,", 'seed=int(os.environ["MODELWORKS_SEED"]),')
    run = train(project.spec, project.home)
    monkeypatch.setenv("MODELWORKS_SEED", "2")
    with pytest.raises(ModelworksError, match=r"the spec has another seed than when the run was made"):
        build_bundle(run, project.home)


# -- What counts -----------------------------------------------------------------------------------------------------
def test_a_side_file_counts_and_is_kept(here, judged, capsys):
    (here.project.folder / "parameters.json").write_text('{"C": 0.5}')
    shutil.rmtree(here.run.folder / "bundle")
    commands.bundle("churn", as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["digest"] == here.bundle.digest
    assert "made before parameters.json changed" in " ".join(said.err.split())
    again = train(here.project.spec, here.project.home)
    assert (again.run != here.run.run, again.inputs["parameters"]) == (True, {"C": 0.5})


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("limits.json", True), ("deeper/words.txt", True), ("other.py", True), ("testing.py", True),
        ("README.md", False), ("test_more.py", False), ("tests/rows.json", False), ("conftest.py", False),
        (".env", False), ("__pycache__/x.pyc", False), (".venv/lib.py", False),
    ],
)  # fmt: skip
def test_every_file_that_is_kept_counts_and_no_other(project, name, counts):
    before, file = code_digest(project.folder), project.folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("something")
    assert (code_digest(project.folder) != before) is counts
    assert (file in source_files(project.folder)) is counts


def test_files_that_differ_are_named(project, tmp_path):
    other = Path(shutil.copytree(project.folder, tmp_path / "other"))
    (other / "more.json").write_text("{}")
    (other / "model.py").write_text("")
    assert changed_files(project.folder, other) == ["model.py", "more.json"]
    assert changed_files(project.folder, project.folder) == []


def test_a_link_is_refused_because_what_it_leads_to_may_change(project):
    (project.folder / "rows.csv").symlink_to("/etc/hostname")
    with pytest.raises(ModelworksError, match=r"rows\.csv is neither a file nor a folder"):
        check_data(project.spec, project.home)


def test_a_file_that_git_ignores_makes_a_tree_dirty(here):
    lock = here.root / "uv.lock"
    assert source_of(here.project.folder, lock)[1] is False
    (here.root / ".gitignore").write_text("home*/\n__pycache__/\nsecret.json\n")
    commit(here.root)
    assert source_of(here.project.folder, lock)[1] is False
    (here.project.folder / "secret.json").write_text("{}")
    assert source_of(here.project.folder, lock)[1] is True


def test_code_that_writes_beside_itself_changes_neither_the_checkout_nor_what_the_run_keeps(project):
    project.edit("import pandas as pd\n", "from pathlib import Path\n\nimport pandas as pd\n")
    project.edit(
        "    model = Pipeline(", '    Path(__file__).with_name("cache.txt").write_text("x")\n    model = Pipeline('
    )
    run = train(project.spec, project.home)
    assert not (project.folder / "cache.txt").exists()
    assert not (run.project() / "cache.txt").exists()
    assert build_bundle(run, project.home).digest


# -- Code from elsewhere ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["import pandas as pd\n", "    model = Pipeline("])
def test_an_import_from_outside_is_refused_with_its_file_and_a_fix(project, tmp_path, where):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "far_features.py").write_text("WIDTH = 1\n")
    space = " " * (len(where) - len(where.lstrip()))
    lines = [f"{space}import sys", f"{space}sys.path.append({str(outside)!r})", f"{space}import far_features", where]
    project.edit(where, "\n".join(lines))
    with pytest.raises(ModelworksError, match=r"model\.py:\d+: far_features is imported from .*/elsewhere/") as refused:
        train(project.spec, project.home)
    assert str(project.folder / "model.py") in refused.value.message
    assert "Move it into the folder of model.py" in refused.value.fix
    assert not list(project.home.runs("churn").glob("*/metrics.json"))


def test_a_module_that_a_package_makes_of_no_file_is_no_import_from_outside(project):
    made = "made = type(pd)('a_package.made')\nmade.__file__ = '_made.py'\nsys.modules['a_package.made'] = made\n"
    project.edit("import pandas as pd\n", f"import sys\n\nimport pandas as pd\n\n{made}")
    assert train(project.spec, project.home).run


# -- Packages --------------------------------------------------------------------------------------------------------
def test_another_models_package_in_the_lock_changes_no_run_and_no_bundle(here, capsys):
    lock = here.root / "uv.lock"
    lock.write_text(lock.read_text() + ANOTHER_PACKAGE)
    commit(here.root)
    steps = []
    again = train(here.project.spec, here.project.home, progress=lambda *event: steps.append(event[:2]))
    assert (again.run, ("train", "kept") in steps) == (here.run.run, True)
    shutil.rmtree(here.run.folder / "bundle")
    assert build_bundle(again, here.project.home).digest == here.bundle.digest


def lock_with(project, old: str, new: str) -> str:
    """The digest of what the project needs of its lock, edited."""
    file = project.folder.parents[1] / "uv.lock"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return find_lock(project.folder).digest(run_packages(project.spec))


def test_a_package_that_the_model_needs_counts_down_to_those_that_it_needs(project):
    before = find_lock(project.folder).digest(run_packages(project.spec))
    joblib = 'name = "joblib"\nversion = "'
    assert lock_with(project, joblib, f"{joblib}9.") != before
    assert lock_with(project, f"{joblib}9.", joblib) == before


def test_a_package_that_is_imported_anywhere_in_the_code_counts(project):
    assert "pyyaml" not in run_packages(project.spec)
    project.edit("    model = Pipeline(", "    import yaml.nodes\n    model = Pipeline(")
    assert "pyyaml" in run_packages(project.spec)
    assert imports(project.folder)["yaml"].startswith(f"{project.folder / 'model.py'}:")


def test_a_package_that_is_not_locked_is_refused(project):
    file = project.folder.parents[1] / "uv.lock"
    file.write_text(file.read_text().replace('name = "pyyaml"\nversion', 'name = "other"\nversion'))
    project.edit("import pandas as pd\n", "import pandas as pd\nimport yaml\n")
    with pytest.raises(ModelworksError, match="pyyaml is not in") as refused:
        find_lock(project.folder).digest(run_packages(project.spec))
    assert "uv add pyyaml" in refused.value.fix


def test_a_package_out_of_a_folder_is_refused_because_its_version_does_not_decide_its_code(project):
    file = project.folder.parents[1] / "uv.lock"
    joblib = r'(name = "joblib"\nversion = ".*"\nsource = ){ registry = .* }'
    text, count = re.subn(joblib, r'\1{ editable = "../joblib" }', file.read_text())
    file.write_text(text)
    assert count == 1
    with pytest.raises(ModelworksError, match=r"installs joblib from the folder '\.\./joblib'"):
        find_lock(project.folder).digest(run_packages(project.spec))


# -- Its split -------------------------------------------------------------------------------------------------------
def test_a_run_keeps_which_rows_it_was_trained_on(built):
    frame = read_rows(SnapshotStore(built.project.home.data).get(Digest(built.run.inputs["data"])))
    kept, made = read_split(built.run.folder / SPLIT, len(frame)), split_rows(built.project.spec, frame)
    assert {name: list(rows) for name, rows in kept.items()} == {name: list(rows) for name, rows in made.items()}


def test_gates_judge_the_hold_out_that_the_run_kept(rebuilt):
    rows = read_json(rebuilt.run.folder / "metrics.json")["rows"]
    parts = read_split(rebuilt.run.folder / SPLIT, sum(rows.values()))
    before = verdicts(run_gates(rebuilt.run, rebuilt.bundle, rebuilt.project.home, "local"))
    swapped = {**parts, "holdout": parts["validation"], "validation": parts["holdout"]}
    write_split(rebuilt.run.folder / SPLIT, swapped, sum(rows.values()))
    assert verdicts(run_gates(rebuilt.run, rebuilt.bundle, rebuilt.project.home, "local")) != before


@pytest.mark.parametrize("content", [np.zeros(3, "uint8"), np.zeros(569, "int64"), b"no array"])
def test_a_split_that_is_not_of_these_rows_is_refused(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / SPLIT).write_bytes(content)
    else:
        np.save(tmp_path / SPLIT, content)
    with pytest.raises(ModelworksError, match=r"split\.npy (is no split of 569 rows|cannot be read)"):
        read_split(tmp_path / SPLIT, 569)


# -- Parameters ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value", ["object()", "len", "lambda: 1", "{1, 2}", "float('nan')", "[object()]", "{'a': {'b': object()}}", "pd"]
)
def test_a_parameter_that_has_no_value_of_its_own_is_refused(project, value):
    with pytest.raises(ModelworksError, match=r"model\.py:\d+: parameter 'C' is .*: a run is called after"):
        project.edit('parameters={"C": 1.0}', f'parameters={{"C": {value}}}')


def test_parameters_of_numbers_text_lists_and_dicts_are_taken(project):
    stated = '{"C": 1.0, "weight": {0: 1, 1: 5.0}, "names": ["a", ("b", None)], "own": pd.Series([1.5]).to_numpy()}'
    spec = project.edit('parameters={"C": 1.0}', f"parameters={stated}")
    assert spec.parameters["weight"] == {0: 1, 1: 5.0}


# -- Elsewhere -------------------------------------------------------------------------------------------------------
def test_a_run_that_was_taken_elsewhere_alone_is_bundled_to_the_same_bytes(built, tmp_path):
    """With its rows, and neither checkout nor lock."""
    home = Home(tmp_path / "home")
    folder = home.runs("churn") / built.run.run
    shutil.copytree(built.run.folder, folder, ignore=shutil.ignore_patterns("bundle*"))
    shutil.copytree(built.project.home.data, home.data)
    assert build_bundle(replace(built.run, folder=folder), home).digest == built.bundle.digest


def test_installed_packages_are_no_part_of_a_project_whatever_their_folder_is_called(project):
    before = code_digest(project.folder)
    for file in ("env/lib/a.py", "env/pyvenv.cfg", "node_modules/b.js", "lib/site-packages/c.py"):
        (project.folder / file).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / file).write_text("x = = 1\n")
    assert code_digest(project.folder) == before


def test_a_file_that_cannot_be_read_is_named(project, monkeypatch, tmp_path):
    closed = project.folder / "closed.csv"
    closed.touch()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != closed)  # root may read everything
    with pytest.raises(ModelworksError, match=r"closed\.csv cannot be read") as refused:
        copy_project(project.folder, tmp_path / "copy")
    assert "Make it readable" in refused.value.fix
