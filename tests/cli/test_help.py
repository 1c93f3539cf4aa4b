"""What `--help` teaches."""

from __future__ import annotations

import pytest
import typer.main

from modelworks import cli

cli._register()


def commands(command, path=()):
    if not (inner := getattr(command, "commands", None)):
        return [pytest.param(" ".join(path), command.help, id=" ".join(path))]
    return [each for name in inner for each in commands(inner[name], (*path, name))]


@pytest.mark.parametrize(("name", "told"), commands(typer.main.get_command(cli.app)))
def test_help_of_every_command_has_an_example(name, told):
    assert f"modelworks {name}" in told
