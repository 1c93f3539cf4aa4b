from __future__ import annotations

from modelworks.cli.console import say


def test_a_line_with_brackets_is_printed_as_it_is(capsys):
    say("/srv/[red]/laptop :rocket:")
    assert capsys.readouterr().err == "/srv/[red]/laptop :rocket:\n"
