"""`up`, `preview` and `destroy`: which environment, and which options Pulumi gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from modelworks import cli
from modelworks.cli import engine
from modelworks.deploy.stack import Protected
from modelworks.errors import ModelworksError

cli._register()


@pytest.fixture
def pulumi(monkeypatch):
    """What Pulumi is called with: the environment, then the options."""
    calls = []
    engine_with(monkeypatch, calls, protected=[])
    return calls


def engine_with(monkeypatch, calls, protected):
    recorder = SimpleNamespace(
        mend=lambda _: None,
        unlock=lambda _: None,
        settle=lambda _: None,
        protected=lambda: protected,
        stack_file=Path("stacks/Pulumi.dev.yaml"),
    )
    monkeypatch.setattr(
        engine, "_engine", lambda environment: SimpleNamespace(**vars(recorder), environment=environment)
    )
    monkeypatch.setattr(engine, "_run", lambda found, verb, options: calls.append([found.environment, *options]))


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


KEY = Protected("urn:pulumi:dev::ours::modelworks:index:Environment$aws:kms/key:Key::dev-key", "1234abcd")


def test_destroy_deletes_nothing_where_something_is_protected(monkeypatch):
    engine_with(monkeypatch, calls := [], [KEY])
    done = CliRunner().invoke(cli.app, ["destroy", "dev", "--yes"])
    assert calls == []
    assert done.exception.message == (
        "dev protects what holds data, and nothing was deleted: aws:kms/key:Key dev-key (1234abcd)"
    )
    assert "modelworks destroy dev --exclude-protected" in done.exception.fix
    assert "set protect: false in Pulumi.dev.yaml" in done.exception.fix


def test_destroy_of_everything_else_lists_what_stays(monkeypatch):
    engine_with(monkeypatch, calls := [], [KEY])
    done = CliRunner().invoke(cli.app, ["destroy", "dev", "--exclude-protected", "--yes"])
    assert calls == [["dev", "--exclude-protected", "--yes"]]
    assert "aws:kms/key:Key dev-key (1234abcd) stays: it is protected" in done.stdout


def test_destroy_of_stated_targets_is_left_to_pulumi(monkeypatch):
    engine_with(monkeypatch, calls := [], [KEY])
    assert CliRunner().invoke(cli.app, ["destroy", "dev", "--target=urn"]).exit_code == 0
    assert calls == [["dev", "--target=urn"]]
