"""Probes of a canary: where they go, what they leave, and when they give up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from modelworks import contract
from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.runtime import probe
from modelworks.runtime.server.prediction_log import PredictionLog
from runtime import small
from runtime.example_bundle import rows
from waiting import PATIENCE, eventually

OTHER = "0" * 12
EXAMPLE = {
    "paths": {"/v1/predict": {"post": {"requestBody": {"content": {"application/json": {"example": {"x": 1}}}}}}}
}


class Service:
    """A release behind a Service: answers that a test states, and the requests that came."""

    def __init__(self) -> None:
        self.release, self.status, self.description = OTHER, 200, EXAMPLE
        self.requests: list[tuple[str, dict[str, str]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                pages = {"/v1/version": {"release": service.release}, "/openapi.json": service.description}
                self._respond(200, pages[self.path])

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                service.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self._respond(service.status, {"detail": "the model failed"} if service.status != 200 else {})

            def _respond(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def services():
    found = [Service(), Service()]
    yield found
    for each in found:
        each.server.shutdown()
        each.server.server_close()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(probe, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(probe, "_SILENCE_SECONDS", 0.2)
    monkeypatch.delenv(contract.ENV_TOKEN_FILE, raising=False)


def test_the_service_of_the_release_is_found_as_soon_as_it_serves(services):
    ping, pong = services
    found: list[str] = []
    waiter = threading.Thread(
        target=lambda: found.append(probe.reached([ping.url, pong.url], "a" * 12, within=PATIENCE)), daemon=True
    )
    waiter.start()
    eventually(lambda: len(pong.requests) > 2)
    assert found == []
    pong.release = "a" * 12
    waiter.join(PATIENCE)
    assert found == [pong.url]


def test_a_release_that_no_service_serves_is_reported_with_what_they_serve(services):
    ping, pong = services
    pong.server.shutdown()
    pong.server.server_close()
    with pytest.raises(
        ModelworksError, match=rf"no Service serves release a{{12}} after 0 s: {ping.url}: {OTHER}; .*GET"
    ):
        probe.reached([ping.url, pong.url], "a" * 12, within=0)


def test_a_release_without_an_example_is_reported_with_the_setting(services):
    services[0].description = {"paths": {}}
    with pytest.raises(ModelworksError, match="documents no example of /v1/predict") as caught:
        probe.example(services[0].url)
    assert "canary.probes" in caught.value.fix


def test_probes_that_nobody_answers_end_with_the_reason(services, capsys, monkeypatch):
    (service, _) = services
    service.status = 500

    def monotonic() -> float:
        """It stands still until the sender was answered, and sent another one."""
        return 1000.0 * ([path for path, _ in service.requests].count("/v1/predict") > 1)

    monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    order = [service.url, f"--release={OTHER}", "--per-second=1", "--within-seconds=0"]
    assert probe.main(order) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "error: no example was answered for 0.2 s: POST /v1/predict was answered 500: the model failed"


def test_probes_go_on_while_examples_are_answered_and_read_a_replaced_token(services, monkeypatch, tmp_path):
    (service, _), token = services, tmp_path / "tokens"
    monkeypatch.setattr(probe, "_SILENCE_SECONDS", 10 * PATIENCE)
    token.write_text("first\nsecond\n")
    monkeypatch.setenv(contract.ENV_TOKEN_FILE, str(token))
    probes = probe.Probes(service.url, b"{}", per_second=50)
    ended: list[pytest.ExceptionInfo] = []

    def run() -> None:
        with pytest.raises(ModelworksError) as caught:
            probes.run()
        ended.append(caught)

    runner = threading.Thread(target=run, daemon=True)
    runner.start()
    eventually(lambda: service.requests)
    write_whole(token, b"third\n")
    eventually(lambda: {sent["authorization"] for _, sent in service.requests} == {"Bearer first", "Bearer third"})
    assert all(sent[contract.HEADER_PROBE] == "1" for _, sent in service.requests)
    assert all(sent["x-request-id"].startswith("probe-") for _, sent in service.requests)
    assert len({sent["x-request-id"] for _, sent in service.requests}) == len(service.requests)
    assert ended == []
    monkeypatch.setattr(probe, "_SILENCE_SECONDS", 0)
    runner.join(PATIENCE)
    assert len(ended) == 1


def test_probes_count_as_requests_of_a_real_server_and_end_on_sigterm(serve, example):
    server = serve(example, **{contract.ENV_METRICS: "none"}).ready()
    release = contract.short_digest(example.digest)
    url = f"http://127.0.0.1:{server.port}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "modelworks.runtime.probe", url, f"--release={release}"),
            *("--per-second=20", f"--within-seconds={PATIENCE}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: _sum(server, "modelworks_requests_total") >= 3)
        process.terminate()
        assert process.wait(PATIENCE) == 143
        assert f"sends 20 examples per second to {url}, which serves {release}" in process.communicate()[0]
    finally:
        process.kill()
        process.wait()
    assert _sum(server, "modelworks_predictions_total") == 0
    assert server.ask("POST", "/v1/predict", rows(1)[0], {contract.HEADER_PROBE: "1"})[0] == 200
    assert _sum(server, "modelworks_predictions_total") == 1


def _sum(server, name: str) -> float:
    """Of all series of a metric."""
    lines = server.ask("GET", "/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


PROBE = b"x-modelworks-probe: 1"


@pytest.mark.parametrize(
    ("headers", "body", "logged"),
    [
        ([PROBE], b'{"x": 1}', 0),
        ([PROBE], b'{"rows": [{"x": 1}, {"x": 1}]}', 0),
        ([], b'{"x": 1}', 1),
        # The header hides nothing but the examples of the bundle.
        ([PROBE], b'{"x": 2}', 1),
        ([PROBE], b'{"rows": [{"x": 1}, {"x": 2}]}', 2),
    ],
)
async def test_probes_alone_are_in_no_prediction_log_and_no_distribution(tmp_path, headers, body, logged):
    app = small.build(tmp_path)
    app.engine._log = PredictionLog(tmp_path / "spool", small.MANIFEST, 1)
    async with small.listening(app) as (_, port):
        assert (await small.ask(port, small.post(*headers, body=body)))[0] == 200
        page = (await small.ask(port, small.get(b"/metrics")))[2].decode()
    assert app.engine._log.waiting_rows() == logged
    assert "modelworks_requests_total" in page
    assert len(app.engine.counters._values) + app.engine.counters.row[4] == logged
    assert app.engine.counters.row[0] == 1
    assert not app.engine._probes
