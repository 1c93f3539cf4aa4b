"""What `modelworks new --from` makes of projects as people write them (`tests/projects`)."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brought import PROJECTS, ROOT
from modelworks.errors import ModelworksError
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
    run_in: str = ""
    """The folder that it is run in, below the project."""
    instead: tuple[str, str] = ("", "")
    """A text of the script that is another on this machine."""


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
    "prices": Theirs(
        "prices_kaggle", "../house-prices.py", "model_xgb.predict(train)", rows="train", run_in="input",
    ),
    "contracts": Theirs(
        "churn_command", "scripts/train_model.py",
        "joblib.load('models/churn.joblib').predict_proba(preprocess(load_data('data/churn.csv'))[0])",
        "train_test_split(range(500), test_size=0.2, random_state=42,"
        " stratify=preprocess(load_data('data/churn.csv'))[1])",
    ),
    "heart": Theirs(
        "heart_notebook", "01 - heart disease.ipynb",
        "rf.predict_proba(X.assign(**dict(zip(cols_to_scale, ss.transform(X[cols_to_scale]).T))))",
        "train_test_split(range(len(X)), test_size=0.2, random_state=0)", run_in="notebooks",
    ),
    "spam": Theirs(
        "spam_text", "spam.py", "model.predict_proba(vectorizer.transform(df['text']))",
        "train_test_split(range(len(df)), test_size=0.2, random_state=42)",
    ),
    "cars": Theirs(
        "cars_class", "trainer.py", "trainer.model.predict(trainer.X)",
        "train_test_split(range(len(trainer.X)), random_state=42)",
    ),
    "quality": Theirs(
        "quality_tracked", "train.py", "lr.predict(data.drop(columns=['quality']))",
        "train_test_split(range(len(data)), random_state=1)",
    ),
    "transactions": Theirs(
        "transactions_folds", "lgb_baseline.py",
        "np.stack([1 - clf.predict(train_df[features]), clf.predict(train_df[features])], 1)", "trn_idx, val_idx",
        instead=("/kaggle/input/santander/", ""),
    ),
    "grades": Theirs(
        "grades_stages", "src/train.py",
        "pickle.load(open('model.pkl', 'rb')).predict_proba(pd.read_csv(input_path)[['p', 'q', 'r']].values)",
        rows="pd.read_csv(input_path)",
    ),
    "adult": Theirs(
        "adult_bundle", "model.py", "model.predict_proba(get_xy(df)[0])",
        "train_test_split(range(len(df)), test_size=0.2, random_state=11)",
    ),
}  # fmt: skip
_ASK = """
import json, os, pickle, re, sys
import numpy as np
import pandas as pd
from pathlib import Path
from sklearn.model_selection import train_test_split
script, answers, parts, old, new = sys.argv[1:]
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
        exec(compile(Path(script).read_text().replace(old or "\\0", new), script, "exec"), names)
    except SystemExit:
        pass
told = np.asarray(eval(answers, names)).tolist()
print("\\n" + json.dumps([told, *(list(map(int, part)) for part in eval(parts, names))]), flush=True)
os._exit(0)  # threads of libraries may abort a process that takes them down
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
    argv = [
        sys.executable,
        "-c",
        _ASK,
        theirs.script,
        theirs.answers,
        theirs.parts.format(rows=theirs.rows),
        *theirs.instead,
    ]
    done = subprocess.run(argv, cwd=folder / theirs.run_in, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


# -- What is read, and what is left open -----------------------------------------------------------------------------
SCRIPT = """\
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
{imports}
df = pd.read_csv("rows.csv")
{work}
X = df.drop(columns=["paid"])
y = df["paid"]
{more}
model = {model}
model.fit(X, y)
"""


def rows(**columns) -> str:
    """200 rows with the columns `age` and `paid`, and those that are given."""
    rng = np.random.default_rng(0)
    age = rng.integers(18, 90, 200)
    table = pd.DataFrame({"age": age, "paid": (age + rng.normal(0, 20, 200) > 50).astype(int), **columns})
    return table.to_csv(index=False)


def made_of(
    folder: Path, work: str = "", more: str = "", model: str = "LogisticRegression()", imports: str = "", **columns
) -> Adopted:
    """A project of one script, whose work begins in line 6."""
    theirs = folder / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows(**columns))
    (theirs / "go.py").write_text(SCRIPT.format(work=work, more=more, model=model, imports=imports))
    return adopt(theirs, "mine", folder / "models")


def points(made: Adopted, line: int) -> str:
    """What is left open of a line of the script."""
    place = f"{made.folder.parents[1] / 'theirs' / 'go.py'}:{line}: "
    return " ".join(each.removeprefix(place) for each in made.open if each.startswith(place))


def test_columns_that_the_code_drops_are_no_features(tmp_path):
    made = made_of(tmp_path, "df = df.drop('name', axis=1)", name=[f"n{n}" for n in range(200)], city="Rome")
    assert load_spec(made.folder).feature_names == ("age", "city")


def test_an_id_that_the_code_gives_to_its_model_is_an_open_point(tmp_path):
    made = made_of(tmp_path, customer_id=np.arange(200))
    assert any("model.py:" in each and "as an id has" in each for each in made.open)


def test_a_moment_among_the_features_is_an_open_point(tmp_path):
    made = made_of(tmp_path, "df['day'] = pd.to_datetime(df['day'])", day="2024-01-01")
    assert any("'day' is left out: a moment is no feature" in each for each in made.open)


def test_a_target_that_is_made_of_a_feature_is_an_open_point(tmp_path):
    made = made_of(tmp_path, "df['paid'] = (df['delay'] > 15).astype(int)", delay=np.arange(200) % 30)
    assert "delay is a feature, and the target is computed of it" in " ".join(made.open)


@pytest.mark.parametrize(
    ("work", "point"),
    [
        ("df = df.dropna()", "rows are left out here (dropna)"),
        ("df['age'] = df['age'].fillna(df['age'].median())", "median of all rows is part of the features"),
        ("df = pd.get_dummies(df, columns=['city'])", "get_dummies of all rows is part of the features"),
        ("df['paid'] = np.log1p(df['paid'])", "the target is computed here (log1p)"),
    ],
)
def test_work_on_rows_that_no_server_does_is_an_open_point(tmp_path, work, point):
    made = made_of(tmp_path, work, imports="import numpy as np", city=["Rome", "Oslo"] * 100)
    assert point in points(made, 6)


@pytest.mark.parametrize(
    ("imports", "model", "point"),
    [
        ("from sklearn.svm import LinearSVC", "LinearSVC()", "LinearSVC has no predict_proba"),
        ("from sklearn.svm import SVC", "SVC()", "SVC answers probabilities with SVC(probability=True)"),
    ],
)
def test_a_model_that_cannot_be_served_is_an_open_point_before_training(tmp_path, imports, model, point):
    assert point in points(made_of(tmp_path, imports=imports, model=model), 10)


def test_a_net_that_a_loop_trains_is_an_open_point(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    loop = (
        "import pandas as pd\nimport torch\ndf = pd.read_csv('rows.csv')\nfor _ in range(9):\n    loss(df).backward()\n"
    )
    (theirs / "go.py").write_text(loop)
    made = adopt(theirs, "mine", tmp_path / "models", target="paid")
    assert "a net is trained here: have `train` do it, and return its graph" in points(made, 5)


def test_a_package_that_is_not_installed_is_an_open_point(tmp_path):
    made = made_of(tmp_path, imports="from no_such_package import Boost", model="Boost()")
    assert "no_such_package is not installed" in points(made, 4)


def test_a_true_or_false_with_missing_values_is_a_nullable_feature(tmp_path):
    made = made_of(tmp_path, member=[True, None, False, True] * 50)
    [_, member] = load_spec(made.folder).features
    assert (member.type, member.nullable) == ("boolean", True)


def test_few_values_of_a_regressors_target_are_no_classes(tmp_path):
    imports = "from sklearn.linear_model import Ridge"
    made = made_of(tmp_path, "df['paid'] = df['age'] // 30", imports=imports, model="Ridge()")
    assert load_spec(made.folder).kind == "regression"


def test_options_of_the_reader_are_kept(tmp_path):
    made = made_of(tmp_path, "df = pd.read_csv('rows.csv', usecols=['age', 'paid'], dtype={'age': 'float64'})", x=1)
    spec = load_spec(made.folder)
    assert [(each.name, each.type) for each in spec.features] == [("age", "number")]


def test_a_stranger_s_script_is_not_run(tmp_path):
    made = made_of(tmp_path, "open('was_run', 'w')", more="raise SystemExit('the script was run')")
    assert load_spec(made.folder).feature_names == ("age",)
    assert not [*tmp_path.rglob("was_run")]


def test_the_same_project_is_adopted_to_the_same_text(tmp_path):
    texts = []
    for name in ("one", "two"):
        made = adopt(PROJECTS / "credit_search", "mine", tmp_path / name)
        texts.append({path.name: path.read_text() for path in made.folder.glob("*.py")})
    assert texts[0] == texts[1]


def test_a_notebook_that_cannot_be_read_is_named_and_left_out(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "old.ipynb").write_text("{}")
    (tmp_path / "theirs" / "rows.csv").write_text(rows())
    (tmp_path / "theirs" / "go.py").write_text(
        SCRIPT.format(work="", more="", model="LogisticRegression()", imports="")
    )
    made = adopt(tmp_path / "theirs", "mine", tmp_path / "models")
    assert any("old.ipynb:1: it cannot be read, and is left out" in each for each in made.open)


def test_a_cell_is_named_by_its_number(tmp_path):
    made = adopt(PROJECTS / "penguins_notebook", "mine", tmp_path)
    assert any("penguins.ipynb:cell 4:1: rows are left out here (dropna)" in each for each in made.open)


@pytest.mark.parametrize(
    "imported", ["import model as parts\n", "from model import build\n", "from .model import build\n"]
)
def test_a_strangers_model_py_is_kept_under_another_name(tmp_path, imported):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    (theirs / "model.py").write_text(
        "from sklearn.tree import *\n\n\ndef build():\n    return DecisionTreeClassifier()\n"
    )
    made = "parts.build()" if "parts" in imported else "build()"
    program = SCRIPT.format(work="", more="", model=made, imports=imported).replace("\n", "\n    ")
    (theirs / "go.py").write_text(f"{imported}\n\ndef main():\n    {program.replace(imported, '')}\n\n\nmain()\n")
    made = adopt(theirs, "mine", tmp_path / "models")
    assert "def build" in (made.folder / "model_code.py").read_text()
    assert ".model_code import build" in (made.folder / "go.py").read_text() or "parts" in imported
    spec = load_spec(made.folder)
    fitted = _fit(spec, load_rows(spec), {"train": np.arange(200), "validation": np.arange(5)})
    assert type(fitted.estimator).__name__ == "DecisionTreeClassifier"


def test_a_loop_over_several_models_is_named_by_its_line(tmp_path):
    loop = "for one in (LogisticRegression(), LogisticRegression(C=2)):\n    one.fit(df[['age']], df['paid'])"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    (theirs / "go.py").write_text(f"import pandas as pd\ndf = pd.read_csv('rows.csv')\n{loop}\n")
    made = adopt(theirs, "mine", tmp_path / "models", target="paid")
    assert f"{theirs / 'go.py'}:3: this loop fits several models: name one outside of it" in made.open


def test_a_file_that_the_command_line_names_is_the_one_that_is_there(tmp_path):
    made = made_of(
        tmp_path, "import sys\ndf = pd.read_csv(sys.argv[1])", model="LogisticRegression(C=float(sys.argv[2]))"
    )
    assert load_spec(made.folder).feature_names == ("age",)
    assert "a run has no command line: write the value" in points(made, 11)


def test_a_file_that_a_configuration_names_is_told_with_its_line(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    (theirs / "config.yaml").write_text("model: {}\ndata:\n  path: rows.csv\n")
    reading = "import yaml\nconfig = yaml.safe_load(open('config.yaml'))"
    text = SCRIPT.format(work="", more="", model="LogisticRegression()", imports=reading)
    (theirs / "go.py").write_text(text.replace('"rows.csv"', "config['data']['path']"))
    with pytest.raises(ModelworksError, match=r"'rows\.csv', which config\.yaml:3 names") as refused:
        adopt(theirs, "mine", tmp_path / "models")
    assert "write the whole path there" in refused.value.fix
    (theirs / "config.yaml").write_text(f"data:\n  path: {theirs / 'rows.csv'}\n")
    made = adopt(theirs, "mine", tmp_path / "models")
    assert len(load_rows(load_spec(made.folder))) == 200


def test_a_limit_is_beyond_the_sample_also_where_its_range_is_narrow(tmp_path):
    made = made_of(tmp_path, built=np.arange(200) % 122 + 1900)
    [_, built] = load_spec(made.folder).features
    assert (built.minimum, built.maximum) == (0, 2200)


def test_several_targets_are_refused(tmp_path):
    with pytest.raises(ModelworksError, match=r"age, paid are predicted at once: have the code fit a model for each"):
        made_of(tmp_path, more="y = df[['age', 'paid']]", model="LogisticRegression()")


def test_a_column_that_is_dropped_is_not_taken_for_the_target(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows(name="Kim"))
    (theirs / "go.py").write_text("def build(df):\n    return df.drop(columns='name')\n")
    with pytest.raises(ModelworksError, match="which column is to be predicted is not clear"):
        adopt(theirs, "mine", tmp_path / "models")


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    text = SCRIPT.format(work="", more="", model="LogisticRegression()", imports="").replace("\n", "\r\n")
    (theirs / "go.py").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_spec(adopt(theirs, "mine", tmp_path / "models").folder).feature_names == ("age",)


@pytest.mark.parametrize("test", ["df['age'] < 80", "(df.age < 80) & (df.age > 20)", "df['age'].between(20, 80)", "5:"])
def test_rows_that_a_test_or_a_slice_leaves_out_are_an_open_point(tmp_path, test):
    assert "rows are left out here" in points(made_of(tmp_path, f"df = df[{test}]"), 6)


@pytest.mark.parametrize(
    ("work", "what"),
    [
        ("df['half'] = df['age'] / 2", "half"),
        ("df['age'] = df['age'].clip(0, 60)", "age"),
        ("df = df.assign(half=df['age'] / 2)", "half"),
        ("for name in ['age']: df[name] = df[name] / 2", "['age']"),
    ],
)
def test_what_load_computes_is_an_open_point(tmp_path, work, what):
    assert f"callers send {what} as this step makes it" in points(made_of(tmp_path, work), 6)


def test_what_a_function_of_load_computes_is_an_open_point_in_the_function(tmp_path):
    made = made_of(tmp_path, "df = halved(df)", imports="def halved(rows): return rows.assign(half=rows['age'] / 2)")
    assert "callers send half as this step makes it" in points(made, 4)


def test_a_column_that_is_computed_and_dropped_is_no_open_point(tmp_path):
    assert "callers send" not in " ".join(made_of(tmp_path, "df['half'] = df['age'] / 2\ndel df['half']").open)


def test_rows_of_a_database_are_rows(tmp_path):
    function = "import sqlite3\ndef rows(): return pd.read_sql_query('select * from t', sqlite3.connect('rows.db'))"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with sqlite3.connect(theirs / "rows.db") as database:
        pd.read_csv(io.StringIO(rows())).to_sql("t", database, index=False)
    text = SCRIPT.format(work="df = rows()", more="", model="LogisticRegression()", imports=function)
    (theirs / "go.py").write_text(text.replace('df = pd.read_csv("rows.csv")\n', ""))
    made = adopt(theirs, "mine", tmp_path / "models")
    assert load_spec(made.folder).feature_names == ("age",)
    assert not [each for each in made.open if "go.py" in each]
    assert "data.x, data.y" in (made.folder / "model.py").read_text()


def test_a_file_that_the_project_writes_itself_is_an_open_point(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "prepare.py").write_text("import pandas as pd\npd.read_csv('raw.csv').to_csv('rows.csv')\n")
    (theirs / "go.py").write_text(SCRIPT.format(work="", more="", model="LogisticRegression()", imports=""))
    with pytest.raises(
        ModelworksError, match=r"in a file that the project writes at .*prepare.py:2: FileNotFoundError"
    ):
        adopt(theirs, "mine", tmp_path / "models")
    (theirs / "rows.csv").write_text(rows())
    made = adopt(theirs, "mine", tmp_path / "models")
    assert f"{theirs / 'prepare.py'}:2: rows.csv is written here: callers send its columns" in " ".join(made.open)


OPTIONS = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--input', required=True)"


def test_a_required_option_of_the_rows_is_the_file_that_is_there(tmp_path):
    made = made_of(tmp_path, "args = parser.parse_args()\ndf = pd.read_csv(args.input)", imports=OPTIONS)
    assert load_spec(made.folder).feature_names == ("age",)
    assert "argv" not in (made.folder / "model.py").read_text()


def test_a_required_option_that_decides_the_rows_is_refused_by_its_line(tmp_path):
    work = "args = parser.parse_args()\ndf = df[df['age'] > float(args.input)]"
    with pytest.raises(ModelworksError, match=r"go.py:9: the command line decides the rows here, and a run has none"):
        made_of(tmp_path, work, imports=OPTIONS)


def test_a_limit_at_which_answers_are_cut_is_an_open_point(tmp_path):
    made = made_of(tmp_path, imports="THRESHOLD = 0.3\ndef says_yes(p): return p > THRESHOLD")
    assert "answers are cut at a limit here: callers do that, of probabilities" in points(made, 5)


def test_what_a_function_of_load_takes_of_all_rows_is_an_open_point(tmp_path):
    function = "def filled(rows): rows['age'] = rows['age'].fillna(rows['age'].median()); return rows"
    assert "median of all rows is part of the features" in points(
        made_of(tmp_path, "df = filled(df)", imports=function), 4
    )


@pytest.mark.parametrize("work", ["X = np.log1p(X)", "X = (X - 50) / 20"])
def test_a_change_of_all_features_is_an_open_point(tmp_path, work):
    made = made_of(tmp_path, more=work, imports="import numpy as np")
    assert "callers send X as this step makes it" in points(made, 9)


@pytest.mark.parametrize("parts", ["(X_train, X_test)", "[X_test, X_train]"])
def test_a_loop_over_the_parts_of_a_split_changes_the_rows_once(tmp_path, parts):
    loop = f"for part in {parts}:\n    part['age'] = part['age'] / 10\n    part['old'] = (part['age'] > 5) * 1.0"
    split = "X_train, X_test, y_train, y_test = train_test_split(X, y)\n"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    text = SCRIPT.format(work="", more=split + loop, model="LogisticRegression()", imports="")
    (theirs / "go.py").write_text(text.replace("fit(X, y)", "fit(X_train, y_train)"))
    spec = load_spec(adopt(theirs, "mine", tmp_path / "models").folder)
    assert spec.feature_names == ("age", "old")
    table = load_rows(spec)
    assert table["age"].max() == pytest.approx(8.9)
    assert set(table["old"]) == {0.0, 1.0}


def test_a_function_around_the_features_of_a_fit_is_found_and_named(tmp_path):
    function = "def halved(t): return t.assign(age=t['age'] / 2)"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    text = SCRIPT.format(work="", more="", model="LogisticRegression()", imports=function)
    (theirs / "go.py").write_text(text.replace("fit(X, y)", "fit(halved(X), y)"))
    made = adopt(theirs, "mine", tmp_path / "models")
    assert load_rows(load_spec(made.folder))["age"].max() < 45
    assert "callers send age as this step makes it" in points(made, 4)


def test_a_target_that_is_scaled_is_an_open_point(tmp_path):
    made = made_of(
        tmp_path, more="y = StandardScaler().fit_transform(df[['paid']])", model="LinearRegression()",
        imports="from sklearn.linear_model import LinearRegression\nfrom sklearn.preprocessing import StandardScaler",
    )  # fmt: skip
    assert "the target is computed here (fit_transform)" in points(made, 10)


@pytest.mark.parametrize("target", ["1 - df['paid']", "~df['paid'].astype(bool)", "(df['paid'] * 10).astype(int)"])
def test_a_target_that_is_turned_is_an_open_point(tmp_path, target):
    made = made_of(tmp_path, more=f"y = {target}")
    inner = target.removeprefix("(").partition(")")[0] if target.startswith("(") else target
    assert f"the target is computed here ({inner}): the model answers that value" in points(made, 9)


@pytest.mark.parametrize("target", ["df['paid'].astype(int)", "(df['age'] > 50).astype(int)", "df[df.columns[-1]]"])
def test_a_target_that_is_picked_or_compared_is_none(tmp_path, target):
    assert "the target is computed" not in points(made_of(tmp_path, more=f"y = {target}"), 9)


def test_weights_of_rows_are_an_open_point(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "rows.csv").write_text(rows())
    text = SCRIPT.format(work="", more="w = df['age'] / 90", model="LogisticRegression()", imports="")
    (theirs / "go.py").write_text(text.replace("fit(X, y)", "fit(X, y, sample_weight=w)"))
    assert "w is not known to `train`" in points(adopt(theirs, "mine", tmp_path / "models"), 11)


def test_a_mask_with_a_name_leaves_rows_out_and_a_list_of_columns_does_not(tmp_path):
    function = "def wanted(t): return [name for name in t if name != 'x']"
    made = made_of(tmp_path, "old = df['age'] > 60; df = df[old]; names = wanted(df); df = df[names]", imports=function)
    assert [each for each in made.open if "rows are left out here" in each] == [
        f"{tmp_path / 'theirs' / 'go.py'}:6: rows are left out here (old): requests like them come too"
    ]


def test_answers_that_the_code_changes_are_an_open_point(tmp_path):
    made = made_of(tmp_path, imports="import numpy as np\ndef whole(model, x): return np.clip(model.predict(x), 0, 9)")
    assert "answers are changed here (clip): callers do that" in points(made, 5)


@pytest.mark.parametrize(
    "cut",
    [
        "proba = model.predict_proba(X)[:, 1]; said = proba >= 0.37",
        "said = (model.predict_proba(X)[:, 1] > best).astype(int)",
        "p = model.decision_function(X).ravel(); said = [0 < each for each in p] if p[0] < 3 else p",
    ],
)
def test_answers_that_are_compared_with_a_limit_of_any_name_are_an_open_point(tmp_path, cut):
    made = made_of(tmp_path, imports=f"def told(model, X, best): {cut}; return said")
    assert "answers are cut at a limit here" in points(made, 4)


@pytest.mark.parametrize("test", ["score > 0.5", "sum(model.predict(X) == y) / len(y) > 0.5", "len(X) > 9"])
def test_a_metric_that_is_compared_is_no_cut_of_answers(tmp_path, test):
    score = "score = max(model.predict_proba(X)[:, 1].tolist())"
    made = made_of(tmp_path, imports=f"def told(model, X, y): {score}; return {test}")
    assert "answers are" not in " ".join(made.open)


def test_a_metric_that_is_rounded_is_no_change_of_answers(tmp_path):
    made = made_of(tmp_path, imports="def told(model, x, y): print(round(sum(model.predict(x) == y), 2))")
    assert "answers are" not in " ".join(made.open)


def test_a_model_that_is_fitted_before_the_one_that_is_taken_is_an_open_point(tmp_path):
    made = made_of(tmp_path, more="first = LogisticRegression(C=9).fit(X, y)")
    assert "another model is fitted here" in points(made, 9)
