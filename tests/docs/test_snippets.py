"""Programs that the documents show are those of `examples/`, line by line."""

from __future__ import annotations

import re

import pytest

from mocks import ROOT

PROGRAMS = [path.read_text() for path in sorted((ROOT / "examples").rglob("*.py"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    if "pulumi" in block or "modelworks" in block
]


@pytest.mark.parametrize("block", SNIPPETS)
def test_a_program_in_a_document_is_an_excerpt_of_an_example(block):
    # `# …` stands for lines that are left out.
    excerpts = re.split(r"^ *# …\n", block, flags=re.MULTILINE)
    assert any(all(excerpt in program for excerpt in excerpts) for program in PROGRAMS)
