"""A model of another shape goes the whole way with nothing written for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.lifecycle import load_spec
from modelworks.lifecycle.bundle import build_bundle, verify_bundle
from modelworks.lifecycle.run_gates import run_gates
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import train

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    spec, home = load_spec(MODELS / "plane_seats"), Home(tmp_path_factory.mktemp("home"))
    run = train(spec, home)
    bundle = build_bundle(run, home)
    return bundle, run_gates(run, bundle, home, "local")


def test_a_regression_over_text_is_trained_bundled_and_judged(judged):
    _, report = judged
    verdicts = {each.gate: each.verdict for each in report.results}
    assert verdicts.pop("LatencyGate")  # whichever: on a busy machine it says more of the machine than of the model
    assert verdicts.pop("SourceGate", "fail") == "fail"
    assert set(verdicts.values()) == {"pass"}


def test_its_manifest_says_what_it_is(judged):
    bundle, _ = judged
    manifest = verify_bundle(bundle.path, bundle.digest, "plane-seats")
    assert (manifest.kind, manifest.unit, manifest.served) == ("regression", "seats", "onnx")


@pytest.mark.parametrize("model", ["flight_delay", "plane_seats"])
def test_readme_shows_the_card(model):
    text = (MODELS / model / "README.md").read_text()
    assert all(f"## {title}" in text for title in ("Intended use", "Data", "Metrics", "Limits", "Made of"))


@pytest.mark.parametrize("model", ["flight_delay", "plane_seats"])
def test_nothing_of_modelworks_knows_the_models_by_name(model):
    package = MODELS.parent / "components" / "modelworks" / "lifecycle"
    assert [path.name for path in package.rglob("*.py") if f"{model}." in path.read_text()] == []
