"""What `modelworks new --from` makes of projects as people write them (`tests/projects`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from brought import PROJECTS, ROOT
from modelworks.lifecycle import load_spec
from modelworks.lifecycle.adopt import Adopted, adopt
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.child import _fit
from modelworks.lifecycle.data import load_rows
from modelworks.lifecycle.fitted import keep
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import train


@dataclass(frozen=True)
class Theirs:
    """A project of somebody, and how its own code is asked."""

    folder: str
    script: str
    answers: str
    """Python: what its trained model says of all its rows, in the names of the script."""
    parts: str = "range(len({rows})), []"
    """Python: positions of the rows that it trains on, and of those that it stops by."""
    rows: str = "X"


THEIRS = {
    "titanic": Theirs(
        "titanic_script", "train.py", "clf.predict_proba(scaler.transform(X))",
        "train_test_split(range(len(X)), test_size=0.25, random_state=1)",
    ),
    "loans": Theirs(
        "loans_package", "src/loans/train.py",
        "pickle.load(open('model.pkl', 'rb')).predict_proba(load_loans().drop(columns='default'))",
        "train_test_split(range(len(load_loans())), test_size=0.2, random_state=7)",
    ),
    "penguins": Theirs(
        "penguins_notebook", "penguins.ipynb", "model.predict_proba(X)",
        "train_test_split(range(len(X)), test_size=0.3, random_state=3, stratify=y)",
    ),
    "rides": Theirs(
        "rides_native", "train_rides.py", "bst.predict(xgb.DMatrix(rides))",
        "train_test_split(range(len(rides)), test_size=0.2, random_state=5)",
    ),
    "crops": Theirs(
        "crops_native", "main.py",
        "lgb.Booster(model_file='crops.txt').predict(pd.read_csv('crops.csv').drop(columns=['crop', 'plot_id']))",
        "train_test_split(range(600), test_size=0.25, random_state=0)",
    ),
    "credit": Theirs(
        "credit_search", "credit.py", "search.predict_proba(data.drop(columns=['risk']))",
        "train_test_split(range(len(data)), test_size=0.3, random_state=0, stratify=data['risk'])",
    ),
    "houses": Theirs(
        "houses_merged", "prices.py", "joblib.load('prices.joblib').predict(load_data()[FEATURES])", rows="load_data()"
    ),
    "readings": Theirs(
        "readings_class", "run.py",
        "pickle.load(open('nearest.pkl', 'rb'))"
        ".predict_proba(pd.read_csv('readings.csv').query('broken == 0')[['volt', 'ampere']])",
        rows="pd.read_csv('readings.csv').query('broken == 0')",
    ),
    "demand": Theirs(
        "demand_time", "demand.py", "model.predict(sales[features])", "train.index, test.index",
    ),
}  # fmt: skip
_ASK = """
import json, pickle, re, sys
import numpy as np
import pandas as pd
from pathlib import Path
from sklearn.model_selection import train_test_split
script, answers, parts = sys.argv[1:]
sys.argv[:] = [script]
names = globals()  # pickle finds a script's own classes in __main__
names["__file__"] = script
sys.path[:0] = [str(Path(script).parent), "src"]
if script.endswith(".ipynb"):
    for cell in json.loads(Path(script).read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and not text.startswith("%%bash"):
            exec(re.sub("(?m)^[%!].*$", "", text), names)
else:
    try:
        exec(compile(Path(script).read_text(), script, "exec"), names)
    except SystemExit:
        pass
told = np.asarray(eval(answers, names)).tolist()
print("\\n" + json.dumps([told, *(list(map(int, part)) for part in eval(parts, names))]))
"""


@dataclass(frozen=True)
class Project:
    theirs: Theirs
    made: Adopted
    home: Home


@pytest.fixture(scope="module", params=THEIRS)
def project(request, tmp_path_factory) -> Project:
    root = tmp_path_factory.mktemp(request.param)
    theirs = THEIRS[request.param]
    shutil.copyfile(ROOT / "uv.lock", root / "uv.lock")
    shutil.copytree(PROJECTS / theirs.folder, root / "theirs")
    return Project(theirs, adopt(root / "theirs", request.param, root / "models"), Home(root / "home"))


def test_an_adopted_model_answers_as_the_projects_own_code_does(project):
    told, trained, validation = asked(project.made.folder.parents[1] / "theirs", project.theirs)
    spec = load_spec(project.made.folder)
    rows = load_rows(spec)
    assert len(rows) == len(told)
    fitted = _fit(spec, rows, {"train": np.array(trained), "validation": np.array(validation or trained[:5])})
    out = project.home.root / "kept"
    out.mkdir(parents=True)
    np.testing.assert_allclose(np.asarray(keep(spec, out, fitted)(rows)).reshape(np.shape(told)), told, rtol=1e-6)


def test_an_adopted_model_is_trained_and_bundled_with_nothing_edited(project):
    run = train(load_spec(project.made.folder), project.home)
    assert build_bundle(run, project.home).served in {"onnx", "skops", "own"}


def asked(folder: Path, theirs: Theirs) -> tuple[list, list, list]:
    """What a project's own code says, in a process of its own: answers, and positions of the rows that it knew."""
    argv = [sys.executable, "-c", _ASK, theirs.script, theirs.answers, theirs.parts.format(rows=theirs.rows)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))
