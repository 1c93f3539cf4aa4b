"""The prose check: it reads what users read, and nothing else, and each of its rules can be broken."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from mocks import ROOT

SPEC = importlib.util.spec_from_file_location("prose", ROOT / "docs" / "prose.py")
prose = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prose)

STYLE = prose.read_style(prose.RULES)
BROKEN = {
    "machines-do-not-speak": "The server says no.",
    "machines-do-not-ask": "The client asks the registry.",
    "machines-do-not-know": "The laptop knows two providers.",
    "machines-do-not-want": "The API wants a token.",
    "have-what": "Have what is missing.",
    "taken-for": "The next run makes up for it.",
    "did-you-mean": "is it meant?",
    "goes-on": "The rollout goes on.",
    "turned-back": "The release was turned back.",
    "mend": "The engine mends its state.",
    "of-ours": "A provider of ours declares it.",
    "some-for-about": "It takes some 12 minutes.",
    "there-already": "The branch is there already.",
    "lies-and-stands": "The bundle lies in a bucket.",
    "what-clause": "What cannot be read is skipped.",
    "anew": "The file is written anew.",
    "comes-home": "The run comes home.",
    "ended-with": "The engine ended with 2.",
    "road-and-house": "It is on the road to production.",
    "held-to": "A preview is held to the policy.",
    "filler": "Simply run it.",
}


def rules(path, text):
    path.write_text(text)
    return [finding.rule for finding in prose.check(path, STYLE)]


def test_every_rule_has_an_example_here():
    assert {rule.name for rule in STYLE.rules} == {*BROKEN}


@pytest.mark.parametrize(("rule", "text"), BROKEN.items())
def test_a_broken_rule_is_found(tmp_path, rule, text):
    assert rules(tmp_path / "page.md", f"# Title\n\n{text}\n") == [rule]


@pytest.mark.parametrize("text", ["You tell it.", "People who know ask.", "Did you mean `dev`?", "What is new?"])
def test_people_may_speak(tmp_path, text):
    assert rules(tmp_path / "page.md", text) == []


def test_a_long_sentence_is_found_where_it_begins(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"Short.\n\nA short one. It\nhas {'many ' * 40}words.\n")
    (finding,) = prose.check(page, STYLE)
    assert (finding.rule, finding.line, finding.phrase) == ("long-sentence", 3, "It has many many many many …")


def test_code_in_a_document_is_not_read(tmp_path):
    text = "Run `it says`.\n\n```sh\necho says\n```\n\n<!-- it says -->\n\n[a link](https://example.com/says)\n"
    assert rules(tmp_path / "page.md", text) == []


def test_a_finding_in_a_wrapped_paragraph_has_its_own_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("- One line with `code` in it, and\n  the next says it.\n")
    assert [(finding.line, finding.phrase) for finding in prose.check(page, STYLE)] == [(2, "says")]


@pytest.mark.parametrize(
    "source",
    [
        '"""It says so."""\n',
        'def run():\n    """Run.\n\n    Raises:\n        ValueError: It says so.\n    """\n',
        'NAME = 1\n"""It says so."""\n',
        'raise ModelworksError("no such thing", fix="Do what it says first.")\n',
        'raise ModelworksError(f"the registry says {code} to this")\n',
        'OPTION = Option("--wait", help="Wait until it says so.")\n',
    ],
    ids=["module", "section", "attribute", "fix", "message", "help"],
)
def test_text_in_code_is_read(tmp_path, source):
    assert rules(tmp_path / "module.py", source) == ["machines-do-not-speak"]


@pytest.mark.parametrize(
    "source",
    ["# It says so.\n", "says = told(asked)\n", 'KEY = "says"\n', '"""Run.\n\n    says\n"""\n'],
    ids=["comment", "name", "key", "example"],
)
def test_names_comments_and_examples_are_not_read(tmp_path, source):
    assert rules(tmp_path / "module.py", source) == []


def test_the_help_of_make_targets_is_read(tmp_path):
    assert rules(tmp_path / "Makefile", "help: ## Say what there is\n\t@echo says\n") == ["machines-do-not-speak"]


def test_a_finding_fails_the_check_with_its_place_its_rule_and_a_better_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    monkeypatch.setattr(prose, "RULES", tmp_path / "prose.toml")
    (tmp_path / "prose.toml").write_text((ROOT / "docs" / "prose.toml").read_text())
    (tmp_path / "NEW.md").write_text("\nIt says so.\n")
    assert prose.main([]) == 1
    assert capsys.readouterr().out.startswith("NEW.md:2: 'says': machines-do-not-speak: reports, prints,")
