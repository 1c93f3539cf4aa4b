"""The command line where not every extra is installed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from cli.test_help import EVERY
from mocks import ROOT
from modelworks import cli
from modelworks.lifecycle.lockfile import read_lock

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Absent())
from modelworks.cli import main
main()
"""
"""The command line in an environment that lacks modules."""


def of_extras_alone() -> str:
    """Modules of this environment that `pip install modelworks` does not bring."""
    core = {name.lower() for name in read_lock(ROOT / "uv.lock").closure(("modelworks",))}
    found = importlib.metadata.packages_distributions().items()
    kept = {module for module, names in found if any(name.lower().replace("_", "-") in core for name in names)}
    return ",".join(module for module, _ in found if module not in kept and module.isidentifier())


@pytest.fixture(scope="module")
def absent() -> str:
    found = of_extras_alone()
    assert {"numpy", "msgspec", "supervisor", "mlflow", "feast"} <= {*found.split(",")}
    return found


def run(absent: str, *words: str, cwd) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", WITHOUT, absent, *words]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_every_command_has_its_help_without_an_extra(absent, tmp_path):
    # One process for all: each is the import of its module, which `--help` of any command makes.
    for words in ([], EVERY[0].values[0].split(), ["laptop", "up"], ["train"], ["features", "list"]):
        done = run(absent, *words, "--help", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_model_project_begins_without_an_extra(absent, tmp_path):
    done = run(absent, "new", "churn", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "models/churn/model.py").is_file()) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [(["train", "churn"], "models"), (["laptop", "up"], "laptop"), (["laptop", "status"], "laptop")],
    ids=["train", "laptop up", "laptop status"],
)
def test_a_command_names_the_extra_that_it_lacks(absent, tmp_path, words, extra):
    (tmp_path / "Pulumi.yaml").write_text("name: churn\nruntime: python\n")
    done = run(absent, *words, cwd=tmp_path)
    told = " ".join(done.stderr.split())
    assert (done.returncode, "this command needs the Python package" in told) == (1, True), told
    assert f"fix: Install `modelworks[{extra}]` (" in told
    assert told.count("modelworks[") == 1


@pytest.mark.parametrize(
    ("module", "extras"),
    [
        ("feast", ["features"]),
        ("sklearn", ["models"]),
        ("skops.io", ["models"]),
        ("msgspec", ["models", "features"]),
        ("supervisor", ["laptop"]),
        ("unheard_of", ["models", "features", "laptop"]),
    ],
)
def test_a_module_is_in_the_extras_that_require_its_package(module, extras):
    told = cli._with_package(module)
    assert [each for each in ("models", "features", "laptop") if f"`modelworks[{each}]` (" in told] == extras
