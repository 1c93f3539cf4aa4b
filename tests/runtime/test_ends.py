"""Every end of a server, at any moment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import psutil
import pytest

from modelworks import contract
from runtime.example_bundle import rows
from runtime.published import logged
from waiting import PATIENCE, eventually

OWN_PIDS = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
"""The server is process 1, as in a container."""


@pytest.fixture
def silent_store(monkeypatch):
    """An S3 that takes connections and never answers; gives what waits for the first."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(PATIENCE)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*listening.getsockname()))
        yield listening.accept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_fetch_ends_server_and_publisher(serve, example, silent_store, number):
    server = serve(example, **{contract.ENV_BUNDLE_URI: "s3://store/bundles/x"})
    connection, _ = silent_store()
    publisher = server.publisher()
    server.process.send_signal(number)
    assert server.ended() == 0, server.log.read_text()
    assert server.messages() == ["ended before it was ready"]
    assert not psutil.pid_exists(publisher.pid)
    connection.close()


@pytest.mark.skipif(subprocess.run([*OWN_PIDS, "true"], check=False).returncode != 0, reason="no PID namespaces here")
def test_process_1_obeys_a_signal_during_the_fetch(serve, example, silent_store):
    server = serve(example, within=OWN_PIDS, **{contract.ENV_BUNDLE_URI: "s3://store/bundles/x"})
    connection, _ = silent_store()
    [first] = psutil.Process(server.process.pid).children()
    first.send_signal(signal.SIGTERM)
    assert server.ended() == 0
    assert server.messages() == ["ended before it was ready"]
    connection.close()


def test_a_second_sigterm_changes_nothing_and_a_second_ctrl_c_ends_the_wait(serve, example):
    server = serve(example, **{contract.ENV_DRAIN_SECONDS: "600"}).ready()
    for _ in range(2):
        server.process.send_signal(signal.SIGTERM)
    eventually(lambda: "draining" in server.messages())
    assert server.ask("POST", "/v1/predict", rows(1)[0])[0] == 200
    server.process.send_signal(signal.SIGINT)
    assert server.ended() == 0
    assert server.messages().count("draining") == 1
    assert server.messages()[-1] == "ended"


def test_ctrl_c_twice_ends_a_drain(serve, example, published, aws):
    server = serve(example, **published, **{contract.ENV_DRAIN_SECONDS: "600"}).ready()
    server.ask("POST", "/v1/predict", rows(1)[0])
    server.process.send_signal(signal.SIGINT)
    eventually(lambda: "draining" in server.messages())
    server.process.send_signal(signal.SIGINT)
    assert server.ended() == 0
    assert len(logged(aws)) == 1


def test_one_more_ctrl_c_does_not_wait_for_aws(serve, example, published, silent_store):
    published[contract.ENV_BUNDLE_URI] = str(example.archive)
    server = serve(example, **published, AWS_ENDPOINT_URL=os.environ["AWS_ENDPOINT_URL"]).ready()
    server.ask("POST", "/v1/predict", rows(1)[0])
    publisher = server.publisher()
    server.process.send_signal(signal.SIGINT)
    eventually(lambda: "ended" in server.messages())
    server.process.send_signal(signal.SIGINT)
    assert server.ended() == 0
    assert not psutil.pid_exists(publisher.pid)
    assert server.messages()[-1] == "the server ended before everything was published"


def test_an_unexpected_error_has_one_line_that_names_it(serve, example, tmp_path):
    (tmp_path / "file").write_text("")
    server = serve(example, **{contract.ENV_SCRATCH: str(tmp_path / "file")})
    assert server.ended() == 1
    [line] = server.lines()
    assert line["level"] == "critical"
    assert "NotADirectoryError" in line["error"]
    assert "Traceback" not in server.log.read_text()


def test_nobody_who_reads_the_lines_stops_neither_predictions_nor_the_end(serve, example, published, aws):
    read, write = os.pipe()
    server = serve(example, out=write, **published, **{contract.ENV_ACCESS_LOG: "1"})
    os.close(write)
    eventually(lambda: b"ready" in os.read(read, 1 << 16))
    for row in rows(1000):  # some four times what the pipe holds
        assert server.ask("POST", "/v1/predict", row)[0] == 200
    eventually(lambda: len(logged(aws)) == 1000)
    assert server.stop() == 0
    os.close(read)
