"""The dependency law of the house, read off the imports and off a running process."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "components" / "modelworks"
ML = {
    "bentoml",
    "fairlearn",
    "mlflow",
    "numpy",
    "onnxruntime",
    "pandas",
    "pandera",
    "pyarrow",
    "sklearn",
    "skl2onnx",
    "skops",
}


def files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


COMPONENTS = sorted(
    [*(path for path in PACKAGE.glob("*.py") if path.stem != "__init__"), *files(PACKAGE / "_resources")]
)
"""Components, the pure modules beside them, and how components declare."""


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in the file."""
    root = PACKAGE.parent if path.is_relative_to(PACKAGE) else ROOT
    return imported(path.read_text(encoding="utf-8"), ".".join(path.parent.relative_to(root).parts))


def imported(source: str, package: str) -> set[str]:
    """Full names of what the source of a module of `package` imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == item or name.startswith(f"{item}.") for item in forbidden)
    ]


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("import pulumi_aws.s3 as s3", "pulumi_aws.s3"),
        ("from modelworks import laptop", "modelworks.laptop"),
        ("from modelworks.laptop import core", "modelworks.laptop"),
        ("from . import bucket", "modelworks._resources.bucket"),
        ("from .. import laptop", "modelworks.laptop"),
        ("from ..laptop.place import Place", "modelworks.laptop.place"),
        ("def late():\n    from ..lifecycle import training", "modelworks.lifecycle.training"),
        ("if TYPE_CHECKING:\n    from ..runtime.app import App", "modelworks.runtime.app.App"),
    ],
)
def test_the_law_sees_every_way_to_import(statement, name):
    assert name in imported(statement, "modelworks._resources")


def test_the_law_is_about_files_that_are_there():
    names = {str(path.relative_to(PACKAGE)) for path in COMPONENTS}
    assert {"model_endpoint.py", "_manifests.py", "contract.py", "_resources/bucket.py", "_resources/iam.py"} <= names
    for folder in (PACKAGE / "lifecycle", PACKAGE / "runtime", ROOT / "models", ROOT / "stacks", ROOT / "policy"):
        assert files(folder)


def test_models_and_what_happens_to_them_never_import_pulumi():
    paths = files(PACKAGE / "lifecycle", PACKAGE / "runtime", PACKAGE / "features", ROOT / "models")
    assert offenders(paths, "pulumi", "pulumi_aws", "pulumi_kubernetes") == []


def test_components_never_import_what_happens_to_models_nor_stacks():
    assert (
        offenders(COMPONENTS, "modelworks.lifecycle", "modelworks.runtime", "modelworks.cli", "models", "stacks") == []
    )


def test_programs_and_components_never_import_an_ml_library():
    assert offenders([*COMPONENTS, *files(ROOT / "stacks", ROOT / "policy")], *ML) == []


def test_nobody_imports_the_laptop_but_the_command_line():
    rest = [path for path in files(PACKAGE) if not {"laptop", "cli"} & set(path.relative_to(PACKAGE).parts)]
    assert offenders([*rest, *files(ROOT / "stacks", ROOT / "models", ROOT / "policy")], "modelworks.laptop") == []


def test_models_stand_on_lifecycle_and_runtime_alone():
    names = {name for path in files(ROOT / "models") for name in imports(path) if name.startswith("modelworks.")}
    assert names
    assert all(name.startswith(("modelworks.lifecycle", "modelworks.runtime", "modelworks.errors")) for name in names)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import modelworks.lifecycle.pod", ["pulumi", "typer", "rich", "modelworks.laptop", "modelworks.cli"]),
        ("import modelworks.lifecycle.job", ["boto3", "kr8s", "pulumi", *sorted(ML)]),
        ("import modelworks.runtime.manifest", ["pulumi", "pulumi_aws", "pulumi_kubernetes"]),
        ("import modelworks", ["pulumi", "pulumi_aws", "modelworks.environment"]),
        ("from modelworks import Environment; from modelworks.stack import stack_config", sorted(ML)),
        ("from modelworks import Environment, ModelEndpoint, ModelRegistry, TrainingCompute", ["pulumi_kubernetes"]),
        ("from modelworks.settings import parse", ["pulumi", "ruamel.yaml", *sorted(ML)]),
    ],
)
def test_an_import_loads_nothing_that_its_user_does_not_need(statement, absent):
    check = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
