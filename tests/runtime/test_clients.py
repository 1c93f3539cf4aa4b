"""Clients as people have them, from the machine that the tests run on; those that it lacks are skipped by name."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from modelworks import contract
from runtime.example_bundle import rows
from runtime.running import SAME_PORT, Server, settings
from waiting import PATIENCE

CLIENTS = Path(__file__).parent / "clients"
SCRIPTS = {
    "java": ["java", str(CLIENTS / "Predict.java")],
    "go": ["go", "run", str(CLIENTS / "predict.go")],
    "node": ["node", str(CLIENTS / "predict.mjs")],
}


@pytest.fixture(scope="module")
def server(example, tmp_path_factory):
    """It answers both protocols on one port, as in an endpoint."""
    environ = settings(example, **{contract.ENV_GRPC_PORT: SAME_PORT})
    running = Server(environ, tmp_path_factory.mktemp("server") / "log").ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def body() -> str:
    return json.dumps(rows(1)[0])


@pytest.fixture(scope="module")
def expected(server, body):
    return server.ask("POST", "/v1/predict", json.loads(body))[1]


def run(*argv: str) -> str:
    """What a program of the machine prints."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"there is no {argv[0]} here")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def url(server: Server, path: str = "/v1/predict") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


@pytest.mark.parametrize("language", SCRIPTS)
def test_the_client_of_a_language_gets_its_answers(server, body, expected, language):
    said = run(*SCRIPTS[language], url(server), body).splitlines()
    assert [line.partition(" ")[0] for line in said] == ["200"] * 3
    assert [json.loads(line.partition(" ")[2]) for line in said] == [expected] * 3


@pytest.mark.parametrize(
    "options", [[], ["--http1.0"], ["--http2"], ["-H", "expect: 100-continue"], ["-H", "transfer-encoding: chunked"]]
)
def test_curl_gets_its_answer(server, body, expected, options):
    assert json.loads(run("curl", "-sS", "--fail", *options, "-d", body, url(server))) == expected


def test_curl_with_a_body_in_gzip_is_told_how_to_send_it(server, body):
    said = run("curl", "-sS", "-w", "\n%{http_code}", "-H", "content-encoding: gzip", "-d", body, url(server))
    assert said.splitlines()[-1] == "415"


def test_http_client_and_httpx_get_theirs_over_one_connection(server, body, expected):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for _ in range(2):
        connection.request("POST", "/v1/predict", body)
        assert json.loads(connection.getresponse().read()) == expected
    connection.close()
    with httpx.Client(timeout=PATIENCE) as client:
        assert [client.post(url(server), content=body).json() for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("options", [[], ["-k"]])
def test_ab_loses_nothing(server, body, tmp_path, options):
    (tmp_path / "body").write_text(body)
    said = run(
        "ab",
        "-q",
        "-n",
        "500",
        "-c",
        "8",
        *options,
        "-p",
        str(tmp_path / "body"),
        "-T",
        "application/json",
        url(server),
    )
    assert re.search(r"Complete requests: +500\n", said)
    assert re.search(r"Failed requests: +0\n", said)
    assert "Non-2xx" not in said
    assert not options or re.search(r"Keep-Alive requests: +500\n", said)


def test_wrk_loses_nothing(server, body, tmp_path):
    script = tmp_path / "post.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n")
    said = run("wrk", "-t", "1", "-c", "8", "-d", "1", "-s", str(script), url(server))
    assert int(re.search(r"(\d+) requests in", said).group(1)) > 0
    assert "Non-2xx" not in said
    assert "Socket errors" not in said


def test_h2load_gets_its_health_over_http_2(server, tmp_path):
    """A client of HTTP/2 that is not gRPC's own: empty messages of `ServerLive`, many at once."""
    (tmp_path / "message").write_bytes(b"\0\0\0\0\0")
    said = run(
        "h2load", "-n", "300", "-c", "3", "-m", "20", "-d", str(tmp_path / "message"), "-H", "te: trailers",
        "-H", "content-type: application/grpc", url(server, "/inference.GRPCInferenceService/ServerLive"),
    )  # fmt: skip
    assert "300 succeeded, 0 failed, 0 errored" in said
