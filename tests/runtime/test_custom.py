"""A bundle with a service of its own: BentoML runs it, and nothing else changes for a caller or an operator."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import yaml

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime.bundle import unpack
from modelworks.runtime.server import custom_service
from runtime.arrow_fuzz import stream
from runtime.custom_bundle import (
    BUSY,
    CONCURRENCY,
    DIES,
    LIES,
    RAISES,
    REFUSES,
    SERVICE,
    SHORT,
    held,
    hurried,
    recoded,
    row,
)
from runtime.running import Server, counted, settings
from waiting import PATIENCE, eventually


@pytest.fixture(scope="module")
def own(custom_example, tmp_path_factory) -> Iterator[Server]:
    """One server for tests that do not change it."""
    running = Server(settings(custom_example), tmp_path_factory.mktemp("custom") / "log").ready()
    yield running
    running.stop()


@pytest.fixture
def bento(custom_example, tmp_path) -> Path:
    """The bundle, unpacked."""
    unpack(custom_example.archive, tmp_path / "bento")
    return tmp_path / "bento"


def post(path: str, body: dict[str, Any]) -> bytes:
    """A request on a connection of its own."""
    data = json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        path.encode(),
        len(data),
        data,
    )


def processes(server: Server) -> list[psutil.Process]:
    """Those that run the service's code."""
    children = psutil.Process(server.process.pid).children()
    return [each for each in children if "modelworks.runtime.server.bentoml_worker" in each.cmdline()]


# -- Asking ----------------------------------------------------------------------------------------------------------
def test_the_service_predicts_and_may_say_more(own):
    status, body, _ = own.ask("POST", "/v1/predict", {"rows": [row(), row(carrier="AA")]})
    assert status == 200
    assert [each["label"] for each in body["predictions"]] == ["late", "late"]
    assert [each["because"][0] for each in body["predictions"]] == ["UA", "AA"]
    assert body["model"] == "delays"


def test_batches_reach_the_service_as_rows(own):
    rows = [row(), row(carrier="AA")]
    told = own.ask("POST", "/v1/predict", {"rows": rows})[1]
    columns = {name: [each[name] for each in rows] for name in rows[0]}
    assert own.ask("POST", "/v1/predict", {"columns": columns})[1] == told
    body = stream(pa.RecordBatch.from_pylist(rows))
    assert own.ask("POST", "/v1/predict", body, {"content-type": "application/vnd.apache.arrow.stream"})[1] == told


def test_rows_that_break_the_schema_never_reach_the_service(own):
    status, problem, _ = own.ask("POST", "/v1/predict", {"rows": [row(RAISES, carrier="??")]})
    assert (status, problem["field"]) == (422, "rows[0].carrier")


@pytest.mark.parametrize(
    ("behaviour", "status", "errors", "rejected"),
    [(RAISES, 500, 1, 0), (LIES, 500, 1, 0), (SHORT, 500, 1, 0), (REFUSES, 400, 0, 0), (BUSY, 429, 0, 1)],
)
def test_what_the_service_does_wrong_is_answered_and_counted(own, behaviour, status, errors, rejected):
    before = counted(own, "request_errors"), counted(own, "requests_rejected")
    found, problem, headers = own.ask("POST", "/v1/predict", row(behaviour))
    after = counted(own, "request_errors"), counted(own, "requests_rejected")
    assert (found, problem["status"], headers["content-type"]) == (status, status, "application/problem+json")
    assert (after[0] - before[0], after[1] - before[1]) == (errors, rejected)


def test_what_the_service_refuses_is_told_in_its_words(own):
    assert own.ask("POST", "/v1/predict", row(REFUSES))[1]["detail"] == "the service knows better"


def test_other_apis_are_passed_on_with_id_and_trace_but_without_the_token(own):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {"X-Request-Id": "mine", "traceparent": trace, "Authorization": "Bearer secret"}
    status, body, headers = own.ask("POST", "/v1/explain", {"row": {}, "top": 2}, sent)
    assert status == 200
    assert body == {"top": 2, "greeting": "hello", "x-request-id": "mine", "traceparent": trace, "authorization": None}
    assert (headers["x-request-id"], headers["traceparent"]) == ("mine", trace)
    assert own.ask("POST", "/shout", {"text": "hey"})[1] == "HEY"


def test_a_failure_of_another_api_is_an_error_of_the_endpoint(own):
    before = counted(own, "request_errors")
    assert own.ask("POST", "/v1/explain", {"row": {}, "top": -1})[0] == 500
    assert own.ask("POST", "/v1/explain", {"top": 1})[0] == 400
    assert counted(own, "request_errors") == before + 1


def test_predict_has_one_door(own):
    assert own.ask("POST", "/predict", {"rows": [row()]})[0] == 404


def test_pages_answer_as_for_any_model(own, custom_example):
    version = own.ask("GET", "/v1/version")[1]
    assert (version["served"], version["digest"]) == ("custom", custom_example.digest)
    assert own.ask("GET", "/v1/card")[1] == "# A card\n"
    assert own.ask("GET", "/v1/schema")[1]["row"]["required"][0] == "x0"
    paths = own.ask("GET", "/openapi.json")[1]["paths"]
    takes = paths["/v1/explain"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(takes["properties"]) == {"row", "top"}


def test_what_the_service_writes_is_a_structured_log_line(own):
    own.ask("POST", "/v1/predict", row(RAISES))
    lines = eventually(lambda: (found := [each for each in own.lines() if "ValueError" in each["message"]]) and found)
    assert (lines[0]["level"], lines[0]["source"]) == ("error", "service")
    assert all(text.startswith("{") for text in own.log.read_text().splitlines())
    assert "a line of its own" in [each["message"] for each in own.lines()]


def test_access_is_closed_for_every_api(serve, custom_example, tmp_path):
    (tmp_path / "tokens").write_text("secret\n")
    closed = {contract.ENV_TOKEN_FILE: str(tmp_path / "tokens"), contract.ENV_ALLOW_ANONYMOUS: "false"}
    server = serve(custom_example, **closed).ready()
    assert server.ask("POST", "/v1/predict", row())[0] == server.ask("POST", "/shout", {"text": ""})[0] == 401
    assert server.ask("POST", "/shout", {"text": "a"}, {"Authorization": "Bearer secret"})[0] == 200


# -- Load ------------------------------------------------------------------------------------------------------------
def hold(server: Server, folder: Path) -> socket.socket:
    """A request that is at the service until `folder` is opened. A busy machine may refuse it, and it is sent again."""
    before = len(held(folder))
    while True:
        client = server.connect()
        client.sendall(post("/hold", {"folder": str(folder)}))
        eventually(lambda client=client: len(held(folder)) > before or select.select([client], [], [], 0)[0])
        if len(held(folder)) > before:
            return client
        client.close()


def test_what_is_too_much_is_turned_away_early(serve, custom_example, tmp_path):
    """Four are at the service and as many wait for it: the others are refused while those are still held."""
    server = serve(custom_example, **{contract.ENV_LATENCY_OBJECTIVE_MS: "1"}).ready()
    there = [hold(server, tmp_path) for _ in range(CONCURRENCY)]
    others = {server.connect() for _ in range(10)}
    for client in others:
        client.sendall(post("/v1/predict", row()))
    refused: list[socket.socket] = []
    while len(refused) < len(others) - CONCURRENCY:
        refused += select.select(others - {*refused}, [], [], PATIENCE)[0]
    assert {client.recv(200)[9:12] for client in refused} == {b"429"}
    (tmp_path / "open").touch()
    assert [client.recv(200)[9:12] for client in there] == [b"200"] * CONCURRENCY
    assert {client.recv(200)[9:12] for client in others - {*refused}} == {b"200"}
    for client in (*there, *others):
        client.close()


def test_an_answer_that_takes_longer_than_the_service_allows_is_an_error(serve, custom_example, tmp_path):
    """The service would hold this request for ever."""
    server = serve(hurried(custom_example, tmp_path / "hurried", seconds=1)).ready()
    status, problem, _ = server.ask("POST", "/hold", {"folder": str(tmp_path)})
    assert (status, problem["status"]) == (500, 500)
    assert counted(server, "request_errors") == 1


def test_there_are_as_many_processes_as_workers(serve, custom_example):
    server = serve(custom_example, **{contract.ENV_WORKERS: "2"}).ready()
    assert len(processes(server)) == 2
    assert server.ask("POST", "/v1/predict", row())[0] == 200


# -- Beginning and end -----------------------------------------------------------------------------------------------
def test_a_process_that_dies_takes_the_server_with_it(serve, custom_example):
    server = serve(custom_example).ready()
    assert server.ask("POST", "/v1/predict", row(DIES))[0] == 500
    assert server.ended() == 1
    assert "exited with code 3" in server.lines()[-1]["message"]


def test_a_service_that_hangs_is_not_ready(serve, custom_example):
    server = serve(custom_example).ready()
    [process] = processes(server)
    process.suspend()
    try:
        eventually(lambda: server.ask("GET", "/readyz")[0] == 503)
        assert server.ask("GET", "/livez")[0] == 200
    finally:
        process.resume()
    eventually(lambda: server.ask("GET", "/readyz")[0] == 200)


def test_a_service_that_ends_as_it_begins_never_becomes_ready(serve, custom_example, tmp_path):
    crashing = recoded(custom_example, tmp_path / "crashing", "raise SystemExit('no luck')")
    server = serve(crashing)
    assert server.ended() == 1
    assert "before it was ready" in server.lines()[-1]["message"]
    assert any("no luck" in each["message"] for each in server.lines())


def test_a_service_that_cannot_predict_the_example_never_becomes_ready(serve, custom_example, tmp_path):
    broken = recoded(custom_example, tmp_path / "broken", SERVICE.replace('"label": "late"', '"label": "maybe"'))
    server = serve(broken)
    assert server.ended() == 1
    assert "does not predict the model's own example" in server.lines()[-1]["message"]
    assert "maybe" in server.lines()[-1]["message"]


def test_code_of_a_tampered_bundle_never_runs(serve, custom_example, tmp_path):
    marker = tmp_path / "ran"
    tampered = recoded(custom_example, tmp_path / "tampered", f"open({str(marker)!r}, 'w')\n{SERVICE}")
    server = serve(custom_example, **{contract.ENV_BUNDLE_URI: str(tampered.archive)})
    assert server.ended() == 1
    assert "is not the one released" in server.lines()[-1]["message"]
    assert not marker.exists()


def test_a_terminated_server_answers_what_the_service_has(serve, custom_example, tmp_path):
    server = serve(custom_example).ready()
    [process] = processes(server)
    with server.connect() as client:
        client.sendall(post("/hold", {"folder": str(tmp_path)}))
        eventually(lambda: held(tmp_path))
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in [line["message"] for line in server.lines()])
        (tmp_path / "open").touch()
        assert b" 200 " in client.recv(4096)
    assert server.ended() == 0
    assert not process.is_running()


def test_a_killed_server_leaves_no_process_behind(serve, custom_example):
    server = serve(custom_example).ready()
    [process] = processes(server)
    os.kill(server.process.pid, signal.SIGKILL)
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


# -- What it takes ---------------------------------------------------------------------------------------------------
def changed(bento: Path, change) -> Path:
    facts = yaml.safe_load((bento / "bento.yaml").read_text())
    change(facts)
    (bento / "bento.yaml").write_text(yaml.safe_dump(facts))
    return bento


def test_a_service_says_how_much_it_takes_at_once_and_how_long(bento):
    facts = custom_service.read_facts(bento)
    assert (facts.concurrency, facts.timeout) == (CONCURRENCY, 600)
    silent = custom_service.read_facts(changed(bento, lambda facts: facts["services"][0].pop("config")))
    assert (silent.concurrency, silent.timeout) == (8, 60)


def test_a_service_without_predict_of_rows_is_refused_with_what_it_has(bento):
    def rename(facts):
        facts["schema"]["routes"] = [each for each in facts["schema"]["routes"] if each["name"] != "predict"]

    with pytest.raises(
        ModelworksError, match=r"has no `predict\(rows\)`; it has explain\(row, top\), hold\(folder\), shout\(text\)"
    ):
        custom_service.read_facts(changed(bento, rename))


def test_a_variable_that_the_service_needs_is_asked_for(bento, custom_example, tmp_path):
    changed(bento, lambda facts: facts["envs"].append({"name": "STORE_URL", "value": ""}))
    with pytest.raises(ModelworksError, match="needs the environment variables STORE_URL"):
        custom_service.Service(custom_example.manifest, bento, tmp_path)


def test_a_runtime_without_bentoml_says_what_to_install(bento, custom_example, tmp_path, monkeypatch):
    monkeypatch.setattr(custom_service.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelworksError, match="BentoML is not installed here"):
        custom_service.Service(custom_example.manifest, bento, tmp_path)
