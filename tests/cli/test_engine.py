"""`up`, `preview` and `destroy`: which environment, and which options Pulumi gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from modelworks import cli
from modelworks.cli import engine
from modelworks.errors import ModelworksError

cli._register()


@pytest.fixture
def pulumi(monkeypatch):
    """What Pulumi is called with: the environment, then the options."""
    calls = []
    recorder = SimpleNamespace(mend=lambda _: None, unlock=lambda _: None, settle=lambda _: None)

    def engine_of(environment):
        return SimpleNamespace(**vars(recorder), environment=environment)

    monkeypatch.setattr(engine, "_engine", engine_of)
    monkeypatch.setattr(engine, "_run", lambda found, verb, options: calls.append([found.environment, *options]))
    return calls


@pytest.mark.parametrize(
    "words",
    [
        ["dev", "--target", "urn"],
        ["--env", "dev", "--target", "urn"],
        ["-e", "dev", "--target", "urn"],
        ["dev", "--env", "dev", "--target", "urn"],
    ],
)
def test_the_environment_is_ours_and_other_options_are_pulumis(pulumi, words):
    assert CliRunner().invoke(cli.app, ["destroy", *words]).exit_code == 0
    assert pulumi == [["dev", "--target", "urn"]]


def test_without_an_environment_it_is_the_local_one(pulumi):
    CliRunner().invoke(cli.app, ["destroy", "--yes"])
    assert pulumi == [["local", "--yes"]]


def test_an_option_of_pulumi_before_the_environment_is_refused(pulumi):
    done = CliRunner().invoke(cli.app, ["destroy", "--target", "dev"])
    assert isinstance(done.exception, ModelworksError)
    assert done.exception.fix == "Run `modelworks destroy ENV --target …`."
    assert pulumi == []
