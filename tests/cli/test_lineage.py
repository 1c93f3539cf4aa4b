"""What a registry knows of a version, as it is told to a person."""

from __future__ import annotations

from modelworks.cli import lineage
from modelworks.cli.console import moment
from modelworks.lifecycle.version import Version

FACTS = {
    "bundle": f"sha256:{'a' * 64}",
    "served": "onnx",
    "run": "0123456789abcdef",
    "mlflow_run": "f00d",
    "data": "sha256:d",
    "code": "sha256:c",
    "lock": "sha256:l",
    "parameters": {"rate": 0.1, "trees": 150},
    "seed": 13,
    "commit": "e204d602",
    "dirty": False,
    "metrics": {"auc": 0.71834, "recall": None},
    "gates": [
        {"verdict": "pass", "subject": "auc", "number": 0.71834, "limit": 0.68, "message": "at least 0.68"},
        {"verdict": "inconclusive", "subject": "auc [EWR]", "number": None, "limit": 0.6, "message": "only 20 rows"},
    ],
    "overrides": [{"environment": "prod", "reason": "the old one is broken", "by": "ann", "gates": ["auc"]}],
    "registered_by": "ann",
    "registered_at": "2026-11-25T14:17:44+00:00",
    "released": [{"at": "2026-11-25T15:17:50+01:00", "by": "bob", "environment": "dev"}],
}


def test_every_fact_has_a_line_that_a_person_can_read():
    lines = list(lineage.report_lines(Version("delays", 3, FACTS, ("champion",))))
    assert ("answers by", "ONNX") in lines
    assert ("parameters", "rate 0.1, trees 150, seed 13") in lines
    assert ("metrics", "auc 0.7183, recall -") in lines
    assert ("override", "the old one is broken, by ann for prod") in lines
    assert ("registered", "2026-11-25 14:17:44 UTC by ann") in lines
    assert ("released", "2026-11-25 14:17:50 UTC to dev by bob") in lines


def test_a_dirty_tree_is_said_beside_its_commit():
    lines = dict(lineage.report_lines(Version("delays", 3, {**FACTS, "dirty": True})))
    assert lines["commit"] == "e204d602, and the tree differed from it"


def test_a_gate_that_did_not_pass_says_why(capsys):
    lineage._show(Version("delays", 3, FACTS, ("champion",)))
    printed = capsys.readouterr().out
    assert "only 20 rows" in printed
    assert "auc [EWR]" in printed
    assert "at least 0.68" not in printed


def test_a_time_that_nobody_knows_is_said_to_be_unknown():
    assert moment("") == "an unknown time"
