"""Projects of strangers (`tests/projects`), from `modelworks new --from` to a server that answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV

from brought import PROJECTS, STRANGERS, Brought, bring
from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.lifecycle import Fitted, load_spec
from modelworks.lifecycle.adopt import adopt
from modelworks.lifecycle.bundle import verify_bundle
from modelworks.lifecycle.fitted import SKOPS, keep
from modelworks.lifecycle.trust import load_estimator
from runtime.running import Server


@pytest.fixture(scope="module", params=STRANGERS)
def brought(request, tmp_path_factory) -> Brought:
    return bring(request.param, tmp_path_factory.mktemp(request.param))


def test_a_strangers_project_is_served_as_its_own_code_answers(brought, tmp_path):
    server = Server(
        {
            contract.ENV_MODEL: brought.bundle.model,
            contract.ENV_BUNDLE_URI: str(brought.bundle.path),
            contract.ENV_BUNDLE_DIGEST: brought.bundle.digest,
            contract.ENV_ALLOW_ANONYMOUS: "true",
            contract.ENV_SCRATCH: str(tmp_path),
        },
        tmp_path / "log",
    )
    manifest = verify_bundle(brought.bundle.path, brought.bundle.digest, brought.bundle.model)
    try:
        server.ready()
        status, body, _ = server.ask("POST", "/v1/predict", {"rows": list(manifest.examples)})
        assert status == 200
        assert server.ask("GET", "/v1/version")[1]["served"] == brought.served
    finally:
        server.stop()
    answers = [each.get("value", list(each.get("probabilities", {}).values())) for each in body["predictions"]]
    if brought.served == "own":
        np.testing.assert_allclose(answers, said_by(brought.bundle.model, manifest.examples), rtol=1e-6)
    else:
        assert len(answers) == len(manifest.examples)


def said_by(model: str, rows) -> list:
    """What a stranger's own program says, run from its own folder."""
    module = {"quotes": "quote", "digits": "inference"}[model]
    program = (
        f"import json, sys, numpy as np, pandas as pd; from {module} import predict; "
        "print(json.dumps(np.asarray(predict(pd.DataFrame(json.load(sys.stdin)))).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECTS / STRANGERS[model][0], input=json.dumps(list(rows)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


# -- What is read of a project ---------------------------------------------------------------------------------------
def adopted(folder: Path, files: dict[str, str], **more):
    for name, text in files.items():
        (folder / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "theirs" / name).write_text(text)
    return adopt(folder / "theirs", "mine", folder / "models", **more)


ROWS = "age,city,paid\n31,Rome,yes\n,Oslo,no\n47,Rome,yes\n"


def test_imports_become_relative_and_files_are_found_beside_the_code(tmp_path):
    made = adopted(
        tmp_path,
        {
            "rows.csv": ROWS,
            "lib/parts.py": "import shared\nimport shared as s\nfrom lib.more import x\n",
            "lib/more.py": '"""Doc."""\nfrom __future__ import annotations\nx = open("../rows.csv")\n',
            "shared.py": "def build():\n    return Pipeline([])\n",
            "go.py": "import pandas as pd\ny = pd.read_csv('rows.csv')['paid']\n",
        },
    )
    assert (made.folder / "lib" / "parts.py").read_text() == (
        "from .. import shared\nfrom .. import shared as s\nfrom .more import x\n"
    )
    more = (made.folder / "lib" / "more.py").read_text()
    assert 'x = open(str(_PROJECT / "rows.csv"))' in more
    assert "_PROJECT = _Path(__file__).parents[1]" in more
    assert more.startswith('"""Doc."""\nfrom __future__ import annotations\n')


@pytest.fixture
def large(monkeypatch):
    """Files above 1 MB count as too large, and a text has 2."""
    monkeypatch.setattr("modelworks.lifecycle.adopt.code.MAX_BYTES", 1_000_000)
    return "x" * 2_000_000


def test_a_file_that_is_too_large_is_named_with_its_size_the_limit_and_the_fix(tmp_path, large):
    made = adopted(
        tmp_path,
        {
            "rows.csv": ROWS, "words.txt": large, "small.txt": "x",
            "go.py": "import os\nopen('words.txt')\nopen('small.txt')\ny = pd.read_csv('rows.csv')['paid']\n",
        },
    )  # fmt: skip
    [problem] = [each for each in made.open if "left out: it holds" in each]
    place, _, what = problem.partition(": ")
    file, _, line = place.rpartition(":")
    assert Path(file).read_text().splitlines()[int(line) - 1] == 'open(str(_PROJECT / "words.txt"))'
    assert what.startswith("words.txt is left out: it holds 2 MB, and a project up to 1 MB. Have `load` fetch it")
    assert (made.folder / "small.txt").is_file()
    assert not (made.folder / "words.txt").exists()


def test_rows_that_cannot_be_made_without_a_large_file_say_which(tmp_path, large):
    load = "import pandas as pd\ndef rows():\n    open('words.txt')\n    return pd.read_csv('rows.csv')\n"
    with pytest.raises(ModelworksError, match="does not return rows: FileNotFoundError") as refused:
        adopted(tmp_path, {"rows.csv": ROWS, "words.txt": large, "go.py": load}, target="paid")
    assert f"It has no {tmp_path / 'theirs/words.txt'}: it holds 2 MB, and a project up to 1 MB." in refused.value.fix


def test_types_limits_and_classes_are_those_of_the_rows(tmp_path):
    made = adopted(tmp_path, {"rows.csv": ROWS, "go.py": "def build():\n    return Pipeline([])\n"}, target="paid")
    spec = load_spec(made.folder)
    assert (spec.kind, spec.classes) == ("binary", ("no", "yes"))
    age, city = spec.features
    assert (age.type, age.nullable, age.minimum <= 31, age.maximum >= 47) == ("number", True, True, True)
    assert (city.type, city.categories) == ("string", ("Oslo", "Rome"))
    assert any("model.py:" in each and "(negative, positive)" in each for each in made.open)


def test_limits_hold_for_large_whole_numbers(tmp_path):
    rows = "day,y\n20240131,1.5\n20240102,2.5\n20240103,3.5\n"
    made = adopted(tmp_path, {"rows.csv": rows, "go.py": "def build():\n    return Pipeline([])\n"}, target="y")
    [day] = load_spec(made.folder).features
    assert day.minimum <= 20240102
    assert day.maximum >= 20240131


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"rows.csv": ROWS}, "holds no Python file"),
        ({"go.py": "x = 1\n"}, "no file with rows was found"),
        ({"go.py": "x = 1\n", "rows.csv": ROWS}, "which column is to be predicted is not clear"),
        ({"go.py": "x = = 1\n", "rows.csv": ROWS}, "go.py"),
        (
            {"go.py": "import pandas as pd\ndef get():\n    return pd.read_csv('no.csv')\n"},
            "go.get() of the project does not return rows",
        ),
    ],
)
def test_what_cannot_be_read_is_said_and_leaves_nothing(tmp_path, files, message):
    with pytest.raises(ModelworksError) as caught:
        adopted(tmp_path, files)
    assert message in caught.value.message
    assert caught.value.fix
    assert list((tmp_path / "models").glob("*")) == []


# -- What train may return -------------------------------------------------------------------------------------------
def returned(project, fitted: Fitted, service: str = ""):
    """What is made of a result of train."""
    project.edit("    LatencyGate,\n", "    LatencyGate,\n    Service,\n")
    (project.folder / "mine.py").write_text("def load(folder):\n    return lambda x: x[:, :2]\n")
    spec = project.edit("    card=Card(", f"{service}    card=Card(")
    out = project.home.root / "run"
    out.mkdir(parents=True)
    return spec, keep(spec, out, fitted), out


def test_files_without_a_reader_are_refused(project):
    with pytest.raises(ModelworksError, match=r"model\.py:\d+: train returned the files w\.bin, and nothing reads"):
        returned(project, Fitted(estimator=object(), artifacts={"w.bin": b"1"}))


def test_two_models_are_refused(project):
    with pytest.raises(ModelworksError, match="train returned estimator and onnx"):
        returned(project, Fitted(estimator=object(), onnx=b""))


def test_a_loader_needs_to_be_allowed(project):
    with pytest.raises(ModelworksError, match="code of yours that the server must run"):
        returned(project, Fitted(loader=len))


def test_a_loader_of_elsewhere_is_refused(project):
    with pytest.raises(ModelworksError, match="not a function of a file beside"):
        returned(project, Fitted(loader=len), "    service=Service(trusted_code=True),\n")


def test_a_search_is_kept_as_the_estimator_that_it_found(project):
    x = np.random.default_rng(0).normal(size=(60, 3))
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 10.0]}, scoring=make_scorer(roc_auc_score), cv=2)
    search.fit(x, x[:, 0] > 0)
    search.best_estimator_.classes_ = np.array([0, 1])
    spec, answer, out = returned(project, Fitted(estimator=search))
    table = pd.DataFrame(x, columns=list(spec.feature_names))
    np.testing.assert_array_equal(answer(table), search.predict_proba(x))
    assert type(load_estimator(out / SKOPS, spec.service)).__name__ == "LogisticRegression"


@pytest.mark.parametrize("pick", ["[:, 0]", "[:, :1]"])
def test_a_function_of_the_positive_class_alone_gets_both_classes(project, pick):
    project.edit("    LatencyGate,\n", "    LatencyGate,\n    Service,\n")
    (project.folder / "mine.py").write_text(f"def load(folder):\n    return lambda x: x{pick}\n")
    project.edit("\n\ndef load", "\nfrom .mine import load as loader\n\n\ndef load")
    spec = project.edit("    card=Card(", "    service=Service(trusted_code=True),\n    card=Card(")
    out = project.home.root / "run"
    out.mkdir(parents=True)
    answer = keep(spec, out, Fitted(loader=sys.modules[spec.package].loader))
    table = pd.DataFrame({name: [0.25, 0.5] for name in spec.feature_names})
    np.testing.assert_array_equal(answer(table), [[0.75, 0.25], [0.5, 0.5]])


def test_a_graph_with_one_column_gets_both_classes(project):
    spec, answer, _ = returned(project, Fitted(onnx=sigmoid(3)))
    table = pd.DataFrame({name: [0.0, 9.0] for name in spec.feature_names})
    np.testing.assert_allclose(answer(table), [[0.5, 0.5], [0.0, 1.0]], atol=1e-6)


def test_a_graph_of_another_width_is_refused(project):
    with pytest.raises(ModelworksError, match=r"the graph has the inputs x tensor\(float\) \['n', 4\]"):
        returned(project, Fitted(onnx=sigmoid(4)))


def sigmoid(width: int) -> bytes:
    """The sigmoid of a row's sum, as a binary model of another library ends."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["p"]),
    ]
    weights = [numpy_helper.from_array(np.ones((width, 1), dtype="float32"), "w")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])
    p = helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph(nodes, "g", [x], [p], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return bytes(made.SerializeToString())
