"""Names and values of a user's data are text, in every table and report: never markup."""

from __future__ import annotations

import pytest

from modelworks.cli import lifecycle
from modelworks.lifecycle.checks import CheckReport, DataFinding
from modelworks.lifecycle.html_report import checks_page, table

HOSTILE = ["[/]", "[bold]", "[/red] x", "<script>alert(1)</script>", "<b>", "[link=http://x]y"]


def report(text: str) -> CheckReport:
    column = {"name": text, "type": text, "unit": text, "missing": 0.0, "range": text, "shift": None, "shares": [1.0]}
    finding = DataFinding("schema", "error", text, text, 1, (text,))
    return CheckReport("churn", f"sha256:{'0' * 64}", 1, "2026-11-01T10:00:00+00:00", (finding,), (column,), ("range",))


@pytest.mark.parametrize("text", HOSTILE)
def test_the_terminal_shows_data_as_it_is(text, capsys):
    lifecycle._print_checks(report(text))
    shown = capsys.readouterr().out
    assert shown.count(text) == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_a_report_shows_data_as_it_is(text):
    page = checks_page(report(text))
    assert "<script>" not in page
    assert "<b>" not in page.replace('<b class="', "")
    assert "<td><b>" not in table(["x"], [[text]])
