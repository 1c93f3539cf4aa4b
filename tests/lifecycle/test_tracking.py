"""A run told to MLflow is one run there, and a server that is down is one clear error."""

from __future__ import annotations

import socket

import pytest

from modelworks.errors import ModelworksError
from modelworks.lifecycle.tracking import track


def test_run_is_told_once_with_parameters_metrics_digests_and_reports(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first, second = track(built.run, uri), track(built.run, uri, built.bundle)
    told = MlflowClient(uri).get_run(first)
    assert first == second
    assert told.data.params["C"] == "1.0"
    assert told.data.metrics["holdout.auc"] == pytest.approx(built.run.metrics["auc"])
    assert told.data.tags["modelworks.data"] == built.run.inputs["data"]
    assert told.data.tags["modelworks.bundle"] == built.bundle.digest
    assert told.data.tags["modelworks.dirty"] == "true"
    assert "checks.html" in {each.path for each in MlflowClient(uri).list_artifacts(first)}


def test_two_who_tell_of_a_run_at_once_tell_of_one(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = track(built.run, uri)
    # The second looks a moment before the first has made anything, and is told so.
    asks = {name: getattr(MlflowClient, name) for name in ("get_experiment_by_name", "search_runs")}
    missed: set[str] = set()

    def too_early(name):
        def ask(self, *args, **more):
            answer = asks[name](self, *args, **more)
            return answer if name in missed else missed.add(name)

        return ask

    for name in asks:
        monkeypatch.setattr(MlflowClient, name, too_early(name))
    assert track(built.run, uri) == first
    experiment = MlflowClient(uri).get_experiment_by_name("churn")
    assert [run.info.run_id for run in MlflowClient(uri).search_runs([experiment.experiment_id])] == [first]


def test_server_that_is_down_is_an_error_that_says_the_run_is_kept(built, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ModelworksError, match="did not take the run") as caught:
            track(built.run, uri)
    assert "kept" in caught.value.fix
