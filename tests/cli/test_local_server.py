"""A bundle that answers before its environment is up."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from modelworks import contract
from modelworks.cli.local_server import Answer, LocalServer
from modelworks.lifecycle.bundle import Bundle
from runtime import example_bundle
from waiting import PATIENCE, eventually


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    built = example_bundle.build(tmp_path_factory.mktemp("bundle"))
    return Bundle(built.manifest.model, built.archive, built.digest, built.archive.stat().st_size, "onnx", {})


class Heard:
    """What a local server reports."""

    def __init__(self, log: Path) -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.server = LocalServer(log, self.answers.append, self.failures.append)


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    return Heard(tmp_path / "logs" / "local-server.log")


def refuses(url: str) -> bool:
    try:
        httpx.get(url, timeout=PATIENCE, trust_env=False)
    except httpx.ConnectError:
        return True
    return False


def test_a_bundle_answers_as_soon_as_it_is_built_and_until_the_environment_takes_over(bundle, heard):
    built: Future = Future()
    with closing(heard.server) as local:
        local.begin(built, needed=lambda: True)
        assert local.answer is None
        built.set_result((None, bundle))
        eventually(lambda: heard.answers)
        answer = heard.answers[0]
        again = httpx.post(f"{answer.url}/v1/predict", json=answer.row, timeout=PATIENCE, trust_env=False)
        assert again.json()["predictions"] == answer.prediction["predictions"]
        local.close()
        assert refuses(answer.url)
    assert heard.failures == []


def test_a_bundle_that_reads_features_is_not_served_before_its_tables_are_known(bundle, heard):
    built: Future = Future()
    built.set_result((None, bundle))
    variables: Future = Future()
    with closing(heard.server) as local:
        local.begin(built, lambda: True, variables)
        local._thread.join(1)
        assert not local._log.exists()
        variables.set_result({contract.ENV_VERSION: "12"})
        eventually(lambda: heard.answers)
        assert '"version":"12"' in local._log.read_text()
    assert heard.failures == []


def test_no_server_loses_its_port_to_a_stranger_while_it_starts(bundle, heard, monkeypatch):
    start, strangers = subprocess.Popen, []

    def later(argv, *, env, **how):
        strangers.append(socket.create_server(("127.0.0.1", int(env[contract.ENV_PORT]))))
        return start(argv, env=env, **how)

    monkeypatch.setattr("modelworks.cli.local_server.subprocess.Popen", later)
    built: Future = Future()
    built.set_result((None, bundle))
    with closing(heard.server) as local:
        local.begin(built, needed=lambda: True)
        eventually(lambda: heard.answers or heard.failures)
    (stranger,) = strangers
    stranger.close()
    assert heard.failures == []


def test_no_process_is_started_where_the_environment_answers_already(bundle, heard):
    built: Future = Future()
    built.set_result((None, bundle))
    with closing(heard.server) as local:
        local.begin(built, needed=lambda: False)
    assert not local._log.exists()
    assert heard.answers == heard.failures == []


def test_a_bundle_that_is_never_built_keeps_nobody_waiting(heard):
    built: Future = Future()
    with closing(heard.server) as local:
        local.begin(built, needed=lambda: True)
    assert heard.answers == heard.failures == []


def test_a_training_that_fails_is_somebody_elses_error(heard):
    built: Future = Future()
    built.set_exception(RuntimeError("no data"))
    with closing(heard.server) as local:
        local.begin(built, needed=lambda: True)
        local._thread.join()
    assert heard.failures == []


def test_a_server_that_ends_is_one_sentence_with_its_log(bundle, heard, tmp_path):
    damaged = tmp_path / "damaged.bento"
    damaged.write_bytes(b"no bundle")
    built: Future = Future()
    built.set_result((None, Bundle(bundle.model, damaged, bundle.digest, 9, "onnx", {})))
    with closing(heard.server) as local:
        local.begin(built, needed=lambda: True)
        local._thread.join()
    (failure,) = heard.failures
    assert failure == f"delays does not answer from a local process: the server exited with 1; log: {local._log}"
    assert "is not the one released" in local._log.read_text()


COMMAND = """
import sys, pickle, threading
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from modelworks.cli.local_server import LocalServer
built = Future()
built.set_result((None, pickle.loads(bytes.fromhex(sys.argv[1]))))
local = LocalServer(Path(sys.argv[2]), lambda answer: print(answer.url, flush=True), print)
local.begin(built, needed=lambda: True)
threading.Event().wait()
"""


def test_the_server_of_a_command_that_was_killed_ends_too(bundle, tmp_path):
    import pickle

    argv = [sys.executable, "-c", COMMAND, pickle.dumps(bundle).hex(), str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as command:
        url = command.stdout.readline().strip()
        assert httpx.get(f"{url}/readyz", timeout=PATIENCE, trust_env=False).status_code == 200
        command.kill()
    eventually(lambda: refuses(url))
