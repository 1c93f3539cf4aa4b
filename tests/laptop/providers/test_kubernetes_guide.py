"""The guide's table points at tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_guide_names_is_there():
    guide = (ROOT / "docs/guides/laptop-kubernetes.md").read_text()
    files = [*(ROOT / "tests/e2e").glob("test_kubernetes_*.py"), *Path(__file__).parent.glob("test_kubernetes_*.py")]
    tests = set(re.findall(r"def (test_\w+)", "\n".join(file.read_text() for file in files)))
    named = set(re.findall(r"`(test_\w+)`", guide))
    assert named - tests == set()
    assert len(named) > 40
