"""The committed reference is what the source says today."""

from __future__ import annotations

import runpy

import pytest

import modelworks
from mocks import ROOT
from modelworks import ModelEndpoint

REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    runpy.run_path(str(ROOT / "docs" / "generate.py"))["write"](folder)
    return contents(folder)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.md")}


def test_the_committed_pages_are_what_make_docs_writes(generated):
    committed = contents(REFERENCE)
    assert [path for path in committed | generated if committed.get(path) != generated.get(path)] == []


def test_every_component_has_a_page_with_every_argument(generated):
    pages = "\n".join(text for path, text in generated.items() if path.startswith("components/"))
    arguments = ModelEndpoint.__init__.__annotations__["args"].__annotations__
    assert {f"# {name}" for name in modelworks.__all__} <= set(pages.splitlines())
    assert [name for name in arguments if f"| `{name}` |" not in pages] == []


def test_a_setting_is_listed_with_its_bounds_its_unit_and_its_default(generated):
    rows = [line.split(" | ")[:4] for line in generated["settings.md"].splitlines()]
    assert ["| `step_seconds`", "integer, 10 to 86400", "s", "`300`"] in rows


def test_a_command_of_a_group_is_listed_with_its_options(generated):
    _, _, section = generated["commands.md"].partition("### modelworks laptop up\n")
    assert "| `--aws-only` |" in section.partition("###")[0]
