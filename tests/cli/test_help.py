"""What `--help` teaches."""

from __future__ import annotations

import pytest
import typer.main

from modelworks import cli
from modelworks.cli.exit_codes import EXIT_CODES, epilog

cli._register()


def commands(command, path=()):
    if not (inner := getattr(command, "commands", None)):
        return [pytest.param(" ".join(path), command, id=" ".join(path))]
    return [each for name in inner for each in commands(inner[name], (*path, name))]


EVERY = commands(typer.main.get_command(cli.app))


@pytest.mark.parametrize(("name", "command"), EVERY)
def test_help_of_every_command_has_an_example(name, command):
    assert f"modelworks {name}" in command.help


@pytest.mark.parametrize(("name", "command"), EVERY)
def test_help_of_every_command_lists_its_exit_codes(name, command):
    assert command.epilog == epilog(name)


def test_exit_codes_are_of_commands_that_exist():
    assert {*EXIT_CODES} <= {parameter.id for parameter in EVERY}


@pytest.mark.parametrize("name", ["up", "preview", "destroy", "verify", "status", "models", "env"])
def test_a_command_about_an_environment_takes_it_as_its_argument_and_with_env(name):
    (command,) = (parameter.values[1] for parameter in EVERY if parameter.id == name)
    assert [parameter.opts for parameter in command.params if parameter.metavar == "ENV"] == [
        ["environment"],
        ["--env", "-e"],
    ]


@pytest.mark.parametrize("name", ["train", "gates", "register", "release", "rollback", "lineage", "predict", "logs"])
def test_a_command_about_a_model_takes_the_environment_with_env(name):
    (command,) = (parameter.values[1] for parameter in EVERY if parameter.id == name)
    assert [parameter.opts for parameter in command.params if parameter.metavar == "ENV"] == [["--env", "-e"]]
