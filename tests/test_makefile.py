"""The commands of the Makefile that CI is made of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
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


@pytest.mark.parametrize(
    ("version", "fits"),
    [((3, 10, 14), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), False)],
)
def test_a_python_that_the_package_does_not_support_is_named_before_anything_is_made(version, fits):
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert supported == ">=3.11,<3.14"
    (check,) = re.findall(r"-c '(import sys; .*)'$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.version_info = {version}; {check}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (told.returncode == 0, "3.11 to 3.13" in told.stderr) == (fits, not fits)


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_a_page_that_begins_with_make_names_the_pythons_that_it_takes(page):
    assert "Python 3.11 to 3.13" in (ROOT / page).read_text()
