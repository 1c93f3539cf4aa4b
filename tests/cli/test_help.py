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


OF_NO_ENVIRONMENT = {
    *("schema", "check", "new", "check-data", "bundle", "features list", "features show", "features pull"),
    "quickstart",  # on the laptop alone
    *("compare", "promote"),  # of two
    *("laptop up", "laptop down", "laptop status", "laptop logs", "laptop toolchain"),  # of all on the laptop
}
OF_STORES = {f"features {verb}" for verb in ("plan", "apply", "materialize", "backfill", "verify")}
"""Commands without an argument that take their environment as the other `features` do."""


def names(*, about_environment):
    """Commands of one environment: those with an argument that is something else, or the others."""
    found = []
    for name, command in (parameter.values for parameter in EVERY):
        arguments = {each.metavar for each in command.params if each.param_type_name == "argument"} - {"ENV"}
        if name not in OF_NO_ENVIRONMENT and about_environment != bool(arguments or name in OF_STORES):
            found.append(pytest.param(command, id=name))
    return found


def environment_of(command):
    return [parameter.opts for parameter in command.params if parameter.metavar == "ENV"]


@pytest.mark.parametrize("command", names(about_environment=True))
def test_a_command_about_an_environment_takes_it_as_its_argument_and_with_env(command):
    assert environment_of(command) == [["environment"], ["--env", "-e"]]


@pytest.mark.parametrize("command", names(about_environment=False))
def test_a_command_about_something_else_takes_the_environment_with_env(command):
    assert environment_of(command) == [["--env", "-e"]]


@pytest.mark.parametrize("name", sorted(OF_NO_ENVIRONMENT))
def test_a_command_of_no_environment_takes_none(name):
    (command,) = (parameter.values[1] for parameter in EVERY if parameter.id == name)
    assert environment_of(command) == []
