from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import modelworks
from modelworks.lifecycle import provenance

PACKAGE = Path(modelworks.__file__).parent
DECIDES_NO_BYTES = {
    "_git.py": "reads the commit, which the lineage has",
    "_files.py": "writes bytes as they are",
    "_spelling.py": "says what a wrong name may mean",
    "_user.py": "names who trained, which the lineage has",
    "contract.py": "names where things lie",
    "errors.py": "says what is wrong",
    "feature_manifest.py": "reads definitions, whose digest is an input",
    "lifecycle/checks.py": "findings are made anew at every run",
    "lifecycle/drift.py": "findings are made anew at every run",
    "lifecycle/identity.py": "names who trained, which the lineage has",
    "lifecycle/leakage.py": "refuses data, and changes none",
    "lifecycle/lockfile.py": "finds the packages that count, and installs none",
    "lifecycle/model_project.py": "copies the files that count",
    "lifecycle/placed.py": "says where a mistake is",
    "lifecycle/project_errors.py": "says what is wrong",
    "lifecycle/provenance.py": "lists what counts",
    "lifecycle/runs.py": "names a run and finds it",
    "lifecycle/trust.py": "refuses a model, and changes none",
    "runtime/trust.py": "lists what is refused, and changes none",
    "runtime/bento.py": "reads a bundle, which training makes none of",
    "runtime/predictions.py": "writes answers of a server",
    "runtime/project_code.py": "imports code of a bundle, which training makes none of",
    "runtime/manifest.py": "names what a feature states, which the spec decides",
    "runtime/schema.py": "decodes what gates and servers are asked, and nothing of training",
}
"""Modules that the child process loads for training and that do not count in a run, each with the reason."""
DECIDED_BEFORE = {
    "_git.py": "reads the commit, which the lineage has",
    "_files.py": "writes bytes as they are",
    "_spelling.py": "says what a wrong name may mean",
    "contract.py": "names where things lie",
    "feature_manifest.py": "by the run, whose inputs have the digest",
    "lifecycle/data.py": "by the run",
    "lifecycle/metrics.py": "by the run",
    "lifecycle/model_project.py": "by the run",
    "lifecycle/placed.py": "says where a mistake is",
    "lifecycle/project_errors.py": "says what is wrong",
    "lifecycle/provenance.py": "lists what counts",
    "runtime/contents.py": "refuses files, and changes none",
    "runtime/server/custom_service.py": "reads what BentoML wrote, and refuses it",
    "runtime/server/logs.py": "writes lines",
}
"""Modules that building a bundle loads and that do not count in it, each with the reason."""


def loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys\nprint(*(m.__file__ for n, m in sys.modules.items() if n.startswith('modelworks.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    files = {Path(file).relative_to(PACKAGE).as_posix() for file in done.stdout.split()}
    return {file for file in files if not file.endswith("__init__.py")}


def test_all_that_trains_a_model_counts_in_its_run_or_is_known_to_decide_nothing():
    trained_by = loaded_by("modelworks.lifecycle.child")
    assert trained_by - DECIDES_NO_BYTES.keys() == {*provenance.TRAINING}


def test_all_that_builds_a_bundle_counts_in_it():
    built_by = loaded_by("modelworks.lifecycle.build_bundle")
    assert built_by - DECIDED_BEFORE.keys() <= {*provenance.BUILDING}
    # The service is copied with its reader of features.
    assert {*provenance.BUILDING} - built_by == {
        "feature_items.py",
        "lifecycle/bento_service.py",
        "runtime/feature_tables.py",
        "runtime/feature_vectors.py",
        "runtime/online.py",
        "runtime/online_engine.py",
    }


def test_release_rules_and_reports_retrain_nothing(monkeypatch):
    before = provenance.engine_digest(), provenance.builder_digest()
    read = Path.read_bytes
    others = {"promotion.py", "registry.py", "html_report.py", "gates.py", "release.py"}
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"," * (path.name in others))
    assert (provenance.engine_digest(), provenance.builder_digest()) == before


def test_a_change_of_how_rows_are_split_is_another_run(monkeypatch):
    before = provenance.engine_digest()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"\n" * (path.name == "data.py"))
    assert provenance.engine_digest() != before
