"""A spec says what is wrong with it, and where."""

from __future__ import annotations

import io
import os

import pytest

from modelworks.errors import ModelworksError
from modelworks.lifecycle import load_spec


def line_of(project, text):
    return (project.folder / "model.py").read_text().splitlines().index(text) + 1


def test_spec_of_a_new_project_is_loaded_by_its_folder(project):
    assert project.spec.name == "churn"


def test_spec_is_frozen(project):
    with pytest.raises(AttributeError):
        project.spec.seed = 2


def test_parameters_cannot_be_changed(project):
    with pytest.raises(TypeError):
        project.spec.parameters["C"] = 2


def test_two_projects_do_not_share_a_module(project, tmp_path):
    from modelworks.lifecycle.scaffold import scaffold

    other = load_spec(scaffold("other", tmp_path / "models"))
    assert (project.spec.name, other.name) == ("churn", "other")


@pytest.mark.parametrize("name", ["model", "words", "package/words"])
def test_two_edits_of_one_length_in_one_second_are_two(project, monkeypatch, name):
    """Python's own cache of bytecode compares second and size."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    model, file = project.folder / "model.py", project.folder / f"{name}.py"
    if file != model:
        file.parent.mkdir(exist_ok=True)
        file.write_text('OWNER = "your team"\n')
        text = model.read_text().replace('owner="your team"', "owner=OWNER")
        model.write_text(
            text.replace(
                "import pandas as pd\n", f"import pandas as pd\nfrom .{name.replace('/', '.')} import OWNER\n", 1
            )
        )
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert project.spec.owner == "your team"
    file.write_text(file.read_text().replace("your team", "team your"))
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert project.spec.owner == "team your"
    assert not list(project.folder.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ('name="churn"', 'name="Churn_1"', "name must be 1 to 40 lower-case letters"),
        ('name="churn"', 'name="1churn"', "name must be 1 to 40 lower-case letters"),
        ('kind="binary"', 'kind="binray"', "kind must be one of"),
        ('owner="your team"', 'owner=""', "owner must name"),
        ("classes=(False, True)", "classes=(False,)", "binary model needs its classes"),
        ("seed=1", "seed=-1", "seed must be 0 or more"),
        ("train=train", "train=1", "train must be a function, got int"),
        ('target="benign"', 'target="texture"', "feature 'texture' is the target"),
        ('name="symmetry", type="number"', 'name="texture", type="number"', "'texture' is declared twice"),
        ('name="symmetry", type="number"', 'name="symmetry", type="decimal"', "type must be number"),
        ('metric="auc", at_least=0.7', 'metric="acu", at_least=0.7', "'acu' is not a metric of a binary model"),
        ("at_least=0.7", "at_least=0.7, at_most=0.9", "exactly one of at_least and at_most"),
    ],
)
def test_mistake_names_the_users_file_line_and_rule(project, old, new, rule):
    with pytest.raises(ModelworksError) as caught:
        project.edit(old, new)
    assert rule in caught.value.message
    assert caught.value.message.startswith(f"{project.folder / 'model.py'}:")


def test_mistake_in_a_feature_points_at_the_line_of_that_feature(project):
    with pytest.raises(ModelworksError) as caught:
        project.edit('name="symmetry", type="number"', 'name="symmetry", type="decimal"')
    line = line_of(project, '        Feature(name="symmetry", type="decimal", minimum=0, maximum=1, example=0.18),')
    assert caught.value.message.startswith(f"{project.folder / 'model.py'}:{line}:")


def test_feature_known_only_afterwards_is_refused(project):
    with pytest.raises(ModelworksError, match="known only after the prediction"):
        project.edit("data=DataSource(load=load,", "data=DataSource(load=load, outcomes=('texture',),")


def test_spec_that_raises_names_file_line_and_exception(project):
    with pytest.raises(ModelworksError, match=r"model\.py:\d+: ZeroDivisionError while the model is read"):
        project.edit("COLUMNS = {", "1 / 0\nCOLUMNS = {")


@pytest.mark.parametrize(
    ("statement", "error", "fix"),
    [
        ("import sys; sys.exit('usage')", "SystemExit while the model is read: usage", "__main__"),
        ("exit()", "SystemExit while the model is read", "__main__"),
        ("input('which? ')", "EOFError while the model is read", "Nobody answers input"),
    ],
)
def test_code_that_ends_the_process_or_asks_is_named_with_its_line(project, monkeypatch, statement, error, fix):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (project.folder / "model.py").write_text(f"x = 1\n{statement}\n")
    with pytest.raises(ModelworksError, match=rf"model\.py:2: {error}") as refused:
        load_spec(project.folder)
    assert fix in refused.value.fix


def test_syntax_error_names_the_line(project):
    with pytest.raises(ModelworksError, match=r"model\.py:\d+: "):
        project.edit("COLUMNS = {", "COLUMNS == = {")


def test_module_without_spec_says_how_to_end_it(project):
    (project.folder / "model.py").write_text("x = 1\n")
    with pytest.raises(ModelworksError, match="exports no spec") as caught:
        load_spec(project.folder)
    assert "spec = ModelSpec(...)" in caught.value.fix


def test_unknown_model_lists_those_that_are_there(project, monkeypatch):
    monkeypatch.chdir(project.folder.parent.parent)
    with pytest.raises(ModelworksError, match="there is: churn"):
        load_spec("chrun")


def test_specs_need_no_pulumi():
    import subprocess
    import sys

    code = (
        "import sys, modelworks.lifecycle; print([m for m in sys.modules if m.split('.')[0] in ('pulumi', 'sklearn')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("minimum=0, maximum=100, example=19.3", "minimum=100, maximum=0", "minimum 100 is above maximum 0"),
        ("minimum=0, maximum=100, example=19.3", "minimum=float('nan')", "minimum and maximum are finite numbers"),
        ("maximum=100, example=19.3", "maximum=100, example=101", "the example of feature 'texture' is 101"),
        ("maximum=100, example=19.3", "maximum=100, example='19'", "the example of feature 'texture' is '19'"),
        ('type="number", minimum=0, maximum=100, example=19.3', 'type="number", example=1e39', "is 1e+39"),
        ('type="number", minimum=0, maximum=100', 'type="datetime"', "integer, string or boolean, got 'datetime'"),
        ('type="number", minimum=0, maximum=100', 'type="embedding"', "got 'embedding'"),
        ('target="benign"', 'target=("benign", "size")', "target is the name of one column"),
        ('kind="binary"', 'kind="anomaly"', "kind must be one of"),
        ("example=19.3", "example=19.3, known_because=''", "known_because is a sentence, got ''"),
        ("example=19.3", "example=19.3, known_because='trust me'", "known_because is a sentence, got 'trust me'"),
        ("classes=(False, True)", "classes=(0.0, 1.0)", "classes are text, integers or booleans"),
        ('metric="auc",\n', 'metric="recall@10", evaluate=lambda outcome: {},\n', "got 'recall@10'"),
        (
            "pa.DataFrameSchema({name",
            "pa.DataFrameSchema(coerce=True, columns={name",
            "changes what it checks (coerce)",
        ),
        ("pa.Check.gt(0))", "pa.Check.gt(0), coerce=True)", "coerce of 'texture'"),
        ("pa.DataFrameSchema({name", "pa.DataFrameSchema(drop_invalid_rows=True, columns={name", "drop_invalid_rows"),
        ("pa.DataFrameSchema({name", "pa.DataFrameSchema(strict='filter', columns={name", 'strict="filter"'),
        (
            "seed=1,",
            "seed=1, service=Service(code='serve.py'),",
            "'serve.py' of the service is not a file in the folder",
        ),
    ],
)
def test_what_no_run_could_use_is_refused_before_training(project, old, new, rule):
    project.edit("    TrainingData,\n", "    Service,\n    TrainingData,\n")
    with pytest.raises(ModelworksError) as caught:
        project.edit(old, new)
    assert rule in caught.value.message
    assert caught.value.message.startswith(f"{project.folder / 'model.py'}:")


def test_numpy_scalars_are_taken_for_the_values_they_hold(project):
    project.edit("import pandas as pd\n", "import numpy as np\nimport pandas as pd\n")
    project.edit("classes=(False, True)", "classes=np.array([False, True])")
    spec = project.edit("minimum=0, maximum=100, example=19.3", "minimum=np.int64(0), example=np.float32(0.5)")
    held = (*spec.classes, spec.features[0].minimum, spec.features[0].example)
    assert [type(each) for each in held] == [bool, bool, int, float]


@pytest.mark.parametrize("statement", ["from .words import W", "from words import W", "import words"])
def test_service_that_imports_a_file_beside_it_is_refused_with_its_line(project, statement):
    (project.folder / "words.py").write_text("W = 1\n")
    (project.folder / "serve.py").write_text(f"import json\n{statement}\n")
    project.edit("    TrainingData,\n", "    Service,\n    TrainingData,\n")
    with pytest.raises(ModelworksError, match=r"serve\.py:2: the service imports \.?words, a file beside it"):
        project.edit("seed=1,", "seed=1, service=Service(code='serve.py'),")


def test_import_of_a_file_beside_the_model_without_a_dot_names_the_dot(project):
    (project.folder / "words.py").write_text("W = 1\n")
    with pytest.raises(ModelworksError, match="ModuleNotFoundError") as caught:
        project.edit("import pandas as pd\n", "import pandas as pd\nfrom words import W\n")
    assert "from .words import" in caught.value.fix
