"""Commands that the documents show exist, with every option and setting that they name.

Nothing is run: what needs an account, a cluster or GitHub is proven in `tests/e2e` as far as a laptop has it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import botocore.session
import pytest
import typer
from botocore import xform_name

from docs.test_workflows import command_of
from mocks import ROOT
from modelworks import cli

cli._register()

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "reference" not in path.parts),
]
BLOCK = re.compile(r"^ *```(?:console|bash|shell|sh)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
OF_THE_AWS_CLI = {
    ("ecr", "get-login-password"): {"--region"},
    ("eks", "get-token"): {"--cluster-name", "--region", "--role-arn"},
    ("eks", "update-kubeconfig"): {"--name", "--region", "--alias", "--role-arn"},
    ("s3", "sync"): set(),
    ("sso", "login"): set(),
}
"""Commands that are no operation of an API, with their options."""
OF_ALL = {"--profile", "--region", "--query", "--output", "--filters", "--no-cli-pager"}
"""Options that each `aws` command takes, or translates."""
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def lines(block: str) -> Iterator[str]:
    """The lines of a block that a person types, with those that they continue on."""
    shown = re.sub(r"\\\n\s*(?:> )?", " ", block).splitlines()
    typed = [line.strip().removeprefix("$ ") for line in shown if line.strip().startswith("$ ")]
    yield from typed or (line.strip() for line in shown)  # blocks without a prompt have no output


def calls(line: str) -> Iterator[list[str]]:
    """The commands of a line, each as its words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
    lexer.commenters, lexer.whitespace_split = "#", True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;()<>"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def named(program: str) -> list:
    """Every call of a program in the documents."""
    found = {}
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in lines(block):
                try:
                    parsed = list(calls(line))
                except ValueError:  # the lines of a document that is written to a file
                    continue
                for call in parsed:
                    words = call[next((at for at, word in enumerate(call) if not re.match(r"[A-Z_]+=", word)), 0) :]
                    if words and words[0].rpartition("/")[2] == program:
                        found.setdefault(" ".join(words), pytest.param(words[1:], id=f"{page.stem}: {' '.join(words)}"))
    return list(found.values())


@pytest.mark.parametrize("words", named("modelworks"))
def test_a_command_of_ours_has_the_options_that_a_document_names(words):
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    if {"--help", "-h", "--version"} & options:
        return
    command = command_of(typer.main.get_command(cli.app), words)
    known = {option for parameter in command.params for option in parameter.opts}
    passed_on = command.context_settings.get("ignore_unknown_options")
    assert passed_on or options <= known, options - known


@pytest.mark.parametrize("words", named("make"))
def test_a_target_of_make_exists(words):
    targets = [word for word in words if "=" not in word and not word.startswith("-")]
    assert set(targets) <= TARGETS


@pytest.mark.parametrize("words", named("aws"))
def test_a_command_of_the_aws_cli_is_an_operation_with_its_options(words):
    service, operation, *rest = words
    options = {word.partition("=")[0] for word in rest if word.startswith("--")}
    if (service, operation) in OF_THE_AWS_CLI:
        assert options <= OF_THE_AWS_CLI[service, operation] | OF_ALL
        return
    model = botocore.session.get_session().get_service_model({"s3api": "s3"}.get(service, service))
    operations = {xform_name(name).replace("_", "-"): name for name in model.operation_names}
    assert operation in operations
    shape = model.operation_model(operations[operation]).input_shape
    members = {f"--{xform_name(name).replace('_', '-')}" for name in (shape.members if shape else ())}
    assert options <= members | OF_ALL, options - members


def test_the_way_to_aws_shows_commands_of_each_kind():
    guide = "aws: "
    for program, least in (("modelworks", 5), ("aws", 5), ("make", 1)):
        assert len([each for each in named(program) if each.id.startswith(guide)]) >= least, program
