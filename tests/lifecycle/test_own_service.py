"""A model whose bundle answers by code of its own: bundled, and judged by what that code answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lifecycle.conftest import Built, make_project
from modelworks.errors import ModelworksError
from modelworks.lifecycle.bundle import build_bundle, verify_bundle
from modelworks.lifecycle.bundle_scores import score_bundle
from modelworks.lifecycle.gates import GateReport, GateResult
from modelworks.lifecycle.run_gates import run_gates
from modelworks.lifecycle.training import train
from modelworks.runtime.predictions import Predictions

CODE = """
import json
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import skops.io

HERE = Path(__file__).parent
MANIFEST = json.loads((HERE / "modelworks.json").read_text())


@bentoml.service
class Endpoint:
    def __init__(self):
        self.model = skops.io.load(HERE / "model.skops", trusted=MANIFEST["skops"].get("trusted", []))

    @bentoml.api
    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        table = np.array([[row[name] for name in MANIFEST["skops"]["columns"]] for row in rows])
        scores = (1 - self.model.predict_proba(table)[:, 1]).tolist()
        return [{"label": score >= 0.5, "score": score, "because": "it says so"} for score in scores]
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Built:
    """A project with a service of its own, trained and bundled."""
    project = make_project(tmp_path_factory.mktemp("own"))
    (project.folder / "service.py").write_text(CODE)
    project.edit("    LatencyGate,\n", "    LatencyGate,\n    Service,\n")
    project.edit("    card=Card(", '    service=Service(code="service.py"),\n    card=Card(')
    run = train(project.spec, project.home)
    return Built(project, run, build_bundle(run, project.home))


@pytest.fixture(scope="module")
def report(own) -> GateReport:
    return run_gates(own.run, own.bundle, own.project.home, "local")


def result(report: GateReport, gate: str) -> GateResult:
    return next(each for each in report.results if each.gate == gate)


def test_what_the_service_answers_is_judged_and_not_the_model_in_the_bundle(report, rebuilt):
    standard = run_gates(rebuilt.run, rebuilt.bundle, rebuilt.project.home, "local")
    expected = 1 - result(standard, "MetricGate").number
    assert result(report, "MetricGate").number == pytest.approx(expected, abs=1e-6)
    assert result(report, "MetricGate").verdict == "fail"


def test_the_service_is_timed(report):
    latency = result(report, "LatencyGate")
    assert latency.verdict == "pass"
    assert latency.number > 0.1  # no call through BentoML is as fast as one of a model in memory
    assert "by its own service" in latency.message


def test_labels_that_contradict_their_scores_are_refused(own):
    class Contrary:
        manifest = verify_bundle(own.bundle.path, own.bundle.digest, "churn")

        def predict(self, rows):
            return Predictions([0.9] * len(rows), [0] * len(rows))

    spec = own.project.spec
    with pytest.raises(ModelworksError, match="5 of 5 labels of churn are not those of the scores"):
        score_bundle(spec, Contrary(), spec.data.load().head(5))


def test_a_row_that_the_endpoint_would_refuse_is_named(own):
    spec = own.project.spec
    model = SimpleNamespace(manifest=verify_bundle(own.bundle.path, own.bundle.digest, "churn"))
    rows = spec.data.load().head(5).assign(smoothness=2.0)
    with pytest.raises(ModelworksError, match=r"would be refused: rows\[0\]\.smoothness"):
        score_bundle(spec, model, rows)


def test_a_service_without_predict_of_rows_is_not_bundled(own, tmp_path):
    other = own.copy(tmp_path / "other")
    (other.project.folder / "service.py").write_text(CODE.replace("def predict", "def answer"))
    run = train(other.project.spec, other.project.home)
    with pytest.raises(ModelworksError, match=r"has no `predict\(rows\)`; it has answer\(rows\)"):
        build_bundle(run, other.project.home)
