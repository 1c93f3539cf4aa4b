"""The story of `make up`: its order, and when a local process answers in it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from modelworks.cli import feature_values, quickstart, status
from modelworks.cli.local_server import Answer
from modelworks.errors import ModelworksError
from modelworks.lifecycle import bundle, training
from modelworks.lifecycle.training import Described

ROW = {"distance": 1400}
PLAIN = Described(Path("delays"), "delays", (), {})
READS_FEATURES = replace(PLAIN, reads_features=True)
MAKES_HISTORY = replace(READS_FEATURES, makes_history=True)


class Local:
    """A local server that answers as soon as it may."""

    def __init__(self, happened: list[str]) -> None:
        self.happened, self.answer = happened, None

    def begin(self, built, needed, variables) -> None:
        if needed():
            self.happened.append("local answer" if variables.done() else "local waits")
            self.answer = Answer("http://127.0.0.1:4711", ROW, {}, 0.0)

    def close(self) -> None:
        if self.answer is not None:
            self.happened.append("local end")


class Features:
    """Tables of a local process."""

    def __init__(self, happened: list[str]) -> None:
        self.happened = happened

    def begin(self, model, history, variables) -> None:
        self.happened.append(f"tables of {model} from {history}")
        variables.set_result({"AWS_ENDPOINT_URL": "http://127.0.0.1:4712"})

    def close(self) -> None:
        pass


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch):
    """Tells the story with steps that only note that they happened."""

    def tell(*, up: bool, answers: bool, described: Described = PLAIN) -> list[str]:
        happened: list[str] = []
        run = SimpleNamespace(run="r1")
        built = SimpleNamespace(digest="sha256:" + "a" * 64, size=1000, served="onnx")
        bundling = quickstart._Bundling()
        bundling.described.set_result(described)
        bundling.history.set_result(Path("history") if described.makes_history else None)
        bundling.bundle.set_result((run, built))
        bundling.events.put(None)
        engine = SimpleNamespace(prepare=lambda report: None)
        target = SimpleNamespace(engine=engine, models={"delays": "http://delays"})

        @contextmanager
        def step(name, command):
            happened.append(name)
            yield lambda line: None

        def laptop(step):
            with step("laptop cloud", ""):
                return target

        for name, stand_in in {
            "_begin_bundle": lambda model, history: bundling,
            "_laptop_is_up": lambda: up,
            "_answers": lambda model: happened.append("asked") or answers,
            "_laptop": laptop,
            "_fresh": lambda: target,
            "_stands": lambda target, model: True,
            "_register": lambda target, model: SimpleNamespace(version="1", facts={}),
            "_release": lambda target, version: "",
            "_up": lambda target: ("", False),
            "_feature_variables": lambda target: {"AWS_ENDPOINT_URL": "the environment's"},
            "_first_answer": lambda target, model: (ROW, {}),
        }.items():
            monkeypatch.setattr(quickstart, name, stand_in)
        monkeypatch.setattr(status, "tell", lambda *_, **__: None)
        monkeypatch.setattr(feature_values, "fill", lambda target, model, history: "")
        quickstart._story("delays", step, Local(happened), Features(happened), Path("history"))
        return happened

    return tell


STEPS = ["laptop cloud", "environment", "train", "register", "release", "roll out", "predict"]


def test_on_a_first_run_the_local_process_answers_until_the_environment_does(story):
    assert story(up=False, answers=False) == ["local answer", *STEPS, "local end", "status"]


def test_where_the_environment_answers_already_there_is_no_local_process(story):
    assert story(up=True, answers=True) == ["asked", *STEPS, "status"]


def test_a_laptop_cloud_that_is_up_without_an_answer_gets_a_local_process(story):
    assert story(up=True, answers=False) == ["asked", "local answer", *STEPS, "local end", "status"]


def test_features_that_the_project_makes_itself_are_read_before_there_is_an_environment(story):
    first = story(up=False, answers=False, described=MAKES_HISTORY)
    assert first[:3] == ["tables of delays from history", "local answer", "laptop cloud"]
    assert "features" in first


def test_where_the_laptop_cloud_is_up_the_environment_has_the_tables(story):
    assert story(up=True, answers=False, described=MAKES_HISTORY)[:3] == ["asked", "local waits", "laptop cloud"]


def test_a_history_from_elsewhere_is_read_by_the_environment_alone(story):
    first = story(up=False, answers=False, described=READS_FEATURES)
    assert first[:2] == ["local waits", "laptop cloud"]
    assert "features" not in first


def test_the_history_is_made_once_and_read_as_soon_as_it_is_whole(monkeypatch, tmp_path):
    began: list[Path | None] = []

    def train(project, home, *, history, progress):
        began.append(history)
        progress("write history", "start", 0.0)
        assert not bundling.history.done()
        progress("write history", "done", 7.0)
        assert bundling.history.result() == tmp_path
        return "run"

    for name, stand_in in {
        "project_at": lambda model: None,
        "describe": lambda project, home: MAKES_HISTORY,
        "train": train,
    }.items():
        monkeypatch.setattr(training, name, stand_in)
    monkeypatch.setattr(bundle, "build_bundle", lambda run, home, progress: "bundle")
    bundling = quickstart._Bundling()
    bundling.work("delays", tmp_path)
    assert began == [tmp_path]
    assert bundling.finish() == ("run", "bundle")


def test_a_training_that_fails_before_the_history_is_whole_is_raised_by_whoever_waits_for_it(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "project_at", lambda model: None)
    monkeypatch.setattr(training, "describe", lambda project, home: MAKES_HISTORY)
    bundling = quickstart._Bundling()
    monkeypatch.setattr(training, "train", Mock(side_effect=ModelworksError("no rows")))
    bundling.work("delays", tmp_path)
    with pytest.raises(ModelworksError, match="no rows"):
        bundling.history.result()
    with pytest.raises(ModelworksError, match="no rows"):
        bundling.finish()


def test_the_printed_curl_is_one_that_a_shell_takes_as_it_stands():
    import shlex

    row = {"name": "O'Hare", "distance": 1400}
    argv = shlex.split(quickstart._curl("http://127.0.0.1:4711", row))
    assert argv[:3] == ["curl", "-s", "http://127.0.0.1:4711/v1/predict"]
    assert json.loads(argv[-1]) == row
