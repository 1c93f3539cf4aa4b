"""The dependency law where import-linter does not look: programs beside the package, and what a running process loads.

Layers and circles within the package are contracts in pyproject.toml, which `make lint` checks.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import modelworks
import mutants

ROOT = Path(__file__).parents[1]
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}
ML = CONTRACTS["without-ml"]["forbidden_modules"]


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == item or name.startswith(f"{item}.") for item in forbidden)
    ]


def test_models_never_import_pulumi():
    paths = files(ROOT / "models")
    assert paths
    assert offenders(paths, "pulumi", "pulumi_aws", "pulumi_kubernetes") == []


def test_only_the_child_process_runs_the_code_of_a_project():
    package = ROOT / "components/modelworks"
    runs = {
        package / "lifecycle/child.py",
        package / "lifecycle/__init__.py",  # offers it to notebooks
        package / "cli/local_features.py",  # a process of its own too
    }
    entries = ["modelworks.lifecycle.load_spec", "modelworks.lifecycle.spec_loader.load_spec",
               "modelworks.features.definitions.read_definitions"]  # fmt: skip
    assert offenders([package / "lifecycle/child.py"], *entries)
    assert offenders([path for path in files(package) if path not in runs], *entries) == []


def test_programs_and_policies_never_import_an_ml_library():
    paths = files(ROOT / "stacks", ROOT / "policy")
    assert paths
    assert offenders(paths, *ML) == []


def test_programs_models_and_policies_never_import_the_laptop():
    assert offenders(files(ROOT / "stacks", ROOT / "models", ROOT / "policy"), "modelworks.laptop") == []


def test_models_stand_on_lifecycle_and_runtime_alone():
    names = {name for path in files(ROOT / "models") for name in imports(path) if name.startswith("modelworks.")}
    assert all(name.startswith(("modelworks.lifecycle", "modelworks.runtime", "modelworks.errors")) for name in names)


def test_the_contract_about_ml_libraries_names_every_component():
    components = {getattr(modelworks, name).__module__ for name in modelworks.__all__}
    assert components <= set(CONTRACTS["without-ml"]["source_modules"])


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import modelworks.lifecycle.pod", ["pulumi", "typer", "rich", "modelworks.laptop", "modelworks.cli"]),
        ("import modelworks.cluster.training_job", ["boto3", "kr8s", "pulumi", *ML]),
        ("import modelworks.lifecycle.release", ["pulumi", *ML]),
        ("import modelworks.lifecycle.promotion", ["pulumi", "typer", "rich", "modelworks.laptop", "modelworks.cli"]),
        ("import modelworks.runtime.manifest", ["pulumi", "pulumi_aws", "pulumi_kubernetes"]),
        ("import modelworks", ["pulumi", "pulumi_aws", "modelworks.environment"]),
        ("from modelworks import Environment; from modelworks.stack import stack_config", ML),
        (
            "import modelworks; [getattr(modelworks, name) for name in modelworks.__all__]",
            ["pulumi_kubernetes", "pydantic", "modelworks.settings", "modelworks.stack_config"],
        ),
        ("import modelworks.defaults", ["pulumi", "pydantic"]),
        ("import modelworks.feature_manifest", ["pulumi", "pydantic", *ML]),
        ("from modelworks.stack_config import parse", ["pulumi", "ruamel.yaml", *ML]),
    ],
)
def test_an_import_loads_nothing_that_its_user_does_not_need(statement, absent):
    check = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_every_module_that_is_mutated_is_there_and_its_tests_are():
    assert [name for name in mutants.TESTS if not (ROOT / "components" / "modelworks" / f"{name}.py").exists()] == []
    named = {path for paths in mutants.TESTS.values() for path in paths}
    assert [path for path in sorted(named) if not (ROOT / "tests" / path).exists()] == []
