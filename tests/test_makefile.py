"""The commands of the Makefile that CI is made of."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


def files(shard: str) -> list[str]:
    """The files that a shard of the e2e tests runs."""
    told = subprocess.run(
        ["make", "--dry-run", "e2e", f"SHARD={shard}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return re.findall(r"tests/e2e/test_\w+\.py", told.stdout)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_every_file_of_the_e2e_tests_is_in_exactly_one_shard(shards):
    found = Counter(file for shard in range(1, shards + 1) for file in files(f"{shard}/{shards}"))
    assert found == Counter(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/e2e/test_*.py"))
