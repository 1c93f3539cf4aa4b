from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modelworks.lifecycle import provenance

DECIDES_NO_BYTES = {
    "checks": "findings are made anew at every run",
    "runs": "names a run and finds it",
    "trust": "refuses a model, and changes none",
}
"""Modules that the child process loads for training and that do not count in a run, each with the reason."""


def loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys\nprint(*(n for n in sys.modules if n.startswith('modelworks.lifecycle.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.removeprefix("modelworks.lifecycle.") for name in done.stdout.split()}


def test_all_that_trains_a_model_counts_in_its_run_or_is_known_to_decide_nothing():
    trained_by = loaded_by("modelworks.lifecycle.child")
    assert trained_by - DECIDES_NO_BYTES.keys() <= {*provenance.TRAINING}
    assert {*provenance.TRAINING} - trained_by == {"child_process"}  # the parent's half: it chooses the variables


def test_all_that_builds_a_bundle_counts_in_it():
    built_by = loaded_by("modelworks.lifecycle.build_bundle")
    decided_before = {"data", "metrics"}  # by the run
    assert built_by - decided_before <= {*provenance.BUILDING}
    assert {*provenance.BUILDING} - built_by == {"bento_service"}  # it is copied, not imported


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
