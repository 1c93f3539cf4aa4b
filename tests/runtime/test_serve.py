"""The service contract, asked for through its own door."""

from __future__ import annotations

import json
import os
import select
import signal
import socket

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from modelworks import contract
from modelworks.runtime.signature import sign
from runtime import held_bundle
from runtime.example_bundle import pack, rows
from runtime.running import counted
from waiting import eventually


def test_answers_as_the_trained_model_does(server, example):
    asked = rows(200, seed=3)
    status, body, _ = server.ask("POST", "/v1/predict", {"rows": asked})
    assert status == 200
    scores = [each["score"] for each in body["predictions"]]
    np.testing.assert_allclose(scores, example.model.predict_proba(example.matrix(asked))[:, 1], atol=1e-5)
    assert {each["label"] for each in body["predictions"]} == {"late", "on time"}


def test_one_row_by_itself_and_in_a_list_answer_alike(server):
    [row] = rows(1)
    alone = server.ask("POST", "/v1/predict", row)[1]
    listed = server.ask("POST", "/v1/predict", {"rows": [row]})[1]
    assert alone == listed
    assert alone["model"] == "delays"


def test_served_by_scikit_learn_where_there_is_no_graph_and_says_so(serve, scikit_example):
    server = serve(scikit_example).ready()
    asked = rows(50, seed=3)
    body = server.ask("POST", "/v1/predict", {"rows": asked})[1]
    expected = scikit_example.model.predict_proba(scikit_example.matrix(asked))[:, 1]
    np.testing.assert_allclose([each["score"] for each in body["predictions"]], expected, atol=1e-6)
    version = server.ask("GET", "/v1/version")[1]
    assert version["served"] == "skops"
    assert "scikit-learn" in version["note"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"x0": "far"}, "x0"),
        ({"x0": True}, "x0"),
        ({"x0": None}, "x0"),
        ({"x0": 101}, "x0"),
        ({"x0": [[1]]}, "x0"),
        ({"carrier": "??"}, "carrier"),
        ({"carrier": 3}, "carrier"),
        ({"weather": 1}, "weather"),
    ],
)
def test_a_breach_of_the_schema_is_422_and_names_the_field(server, change, field):
    good, bad = rows(2)
    status, problem, headers = server.ask("POST", "/v1/predict", {"rows": [good, {**bad, **change}]})
    assert status == 422
    assert problem["field"] == f"rows[1].{field}"
    assert headers["content-type"] == "application/problem+json"


def test_a_missing_field_is_named(server):
    [row] = rows(1)
    del row["x3"]
    status, problem, _ = server.ask("POST", "/v1/predict", row)
    assert (status, problem["field"]) == (422, "x3")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"rows": NaN}',
        b'{"x0": Infinity}',
        b'{"x0": 1e999}',
        b"[" * 500_000,
        b'{"x0":' * 90_000,
    ],
)
def test_what_is_no_row_is_answered_with_what_is_wrong(server, body):
    status, problem, _ = server.ask("POST", "/v1/predict", body)
    assert status in {400, 422}
    assert problem["detail"]


def test_a_huge_body_is_refused_before_it_is_read(server):
    with server.connect() as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
        assert b" 413 " in client.recv(4096)


def test_a_huge_chunked_body_is_cut(server):
    with server.connect() as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(16):  # all that is allowed
            client.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        # One byte more, after which nothing is left unread: that would reset the connection, and the answer with it.
        client.sendall(b"1\r\nx")
        assert b" 413 " in client.recv(4096)


def test_endless_headers_are_cut(server):
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: %b\r\n" % (n, b"x" * 90) for n in range(500)))
        assert b" 431 " in client.recv(4096)


def test_a_pipeline_is_answered_in_order(server):
    bodies = [json.dumps(row).encode() for row in rows(200, seed=5)]
    with server.connect() as client:
        for number, body in enumerate(bodies):
            client.sendall(
                b"POST /v1/predict HTTP/1.1\r\nhost: x\r\nx-request-id: n%d\r\ncontent-length: %d\r\n\r\n%b"
                % (number, len(body), body)
            )
        answer = b""
        while answer.count(b"x-request-id") < len(bodies) or not answer.endswith(b"}"):
            answer += client.recv(1 << 16)
    ids = [part.split(b"\r\n")[0] for part in answer.split(b"x-request-id: ")[1:]]
    assert ids == [b"n%d" % number for number in range(200)]


def test_a_slow_client_keeps_nobody_waiting(server):
    with server.connect() as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert server.ask("POST", "/v1/predict", rows(1)[0])[0] == 200


def test_request_id_and_trace_context_come_back(server):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    _, _, headers = server.ask("POST", "/v1/predict", rows(1)[0], {"X-Request-Id": "mine", "traceparent": trace})
    assert headers["x-request-id"] == "mine"
    assert headers["traceparent"] == trace


def test_a_request_id_cannot_forge_headers_or_logs(server):
    _, _, headers = server.ask("POST", "/v1/predict", rows(1)[0], {"X-Request-Id": 'a"b<c>'})
    assert headers["x-request-id"] != 'a"b<c>'


def test_openapi_carries_the_models_schema_and_a_valid_example(server):
    api = server.ask("GET", "/openapi.json")[1]
    row = api["components"]["schemas"]["Row"]
    assert row["properties"]["carrier"]["enum"] == ["AA", "B6", "DL", "UA"]
    post = api["paths"]["/v1/predict"]["post"]
    example = post["requestBody"]["content"]["application/json"]["examples"]["many"]["value"]
    assert server.ask("POST", "/v1/predict", example)[0] == 200


def test_pages_tell_what_is_served(server, example):
    assert server.ask("GET", "/v1/card")[1] == "# A card\n"
    assert server.ask("GET", "/v1/schema")[1]["row"]["required"][0] == "x0"
    assert server.ask("GET", "/v1/version")[1]["digest"] == example.digest
    assert "delays" in server.ask("GET", "/")[1]
    assert server.ask("GET", "/nothing")[0] == 404
    assert server.ask("GET", "/v1/predict")[0] == 405
    assert "modelworks_requests_total" in server.ask("GET", "/metrics")[1]


def test_access_is_closed_without_a_token(serve, example, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-one\nsecret-two\n")
    server = serve(example, **{contract.ENV_TOKEN_FILE: str(tokens), contract.ENV_ALLOW_ANONYMOUS: "false"}).ready()
    row = rows(1)[0]

    def status(token: str | None, path: str = "/v1/predict", method: str = "POST") -> int:
        return server.ask(method, path, row, {"Authorization": f"Bearer {token}"} if token else {})[0]

    assert status(None) == status("wrong") == 401
    assert status("secret-one") == status("secret-two") == 200
    assert status(None, "/metrics", "GET") == status(None, "/v1/schema", "GET") == 401
    assert status(None, "/livez", "GET") == 200
    assert "secret-one" not in server.log.read_text()


def test_neither_token_nor_allow_anonymous_is_refused(serve, example):
    server = serve(example, **{contract.ENV_ALLOW_ANONYMOUS: "false"})
    assert server.ended() == 1
    assert contract.ENV_ALLOW_ANONYMOUS in server.lines()[0]["message"]


def test_a_tampered_bundle_is_never_loaded(serve, example, tmp_path):
    data = bytearray(example.archive.read_bytes())
    data[len(data) // 2] ^= 1
    tampered = tmp_path / "tampered.bento"
    tampered.write_bytes(data)
    server = serve(example, **{contract.ENV_BUNDLE_URI: str(tampered)})
    assert server.ended() == 1
    assert "is not the one released" in server.lines()[-1]["message"]


def test_an_archive_that_leaves_its_folder_is_refused(serve, tmp_path):
    import hashlib

    archive = tmp_path / "evil.bento"
    pack(archive, {"../outside": b"x"})
    evil = type(
        "Evil", (), {"archive": archive, "digest": "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()}
    )
    server = serve(evil)
    assert server.ended() == 1
    assert "cannot be unpacked" in server.lines()[-1]["message"]


def test_signatures_are_required_where_keys_are_trusted(serve, example, tmp_path):
    key, keys = Ed25519PrivateKey.generate(), tmp_path / "keys"
    keys.mkdir()
    (keys / "pipeline.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    bundle = tmp_path / "signed.bento"
    bundle.write_bytes(example.archive.read_bytes())
    asked = {contract.ENV_BUNDLE_URI: str(bundle), contract.ENV_TRUSTED_KEYS: str(keys)}

    unsigned = serve(example, **asked)
    assert unsigned.ended() == 1
    assert "no signature" in unsigned.lines()[-1]["message"]

    beside = tmp_path / "signed.bento.sig"
    beside.write_bytes(sign("delays", example.digest, Ed25519PrivateKey.generate()))
    stranger = serve(example, **asked)
    assert stranger.ended() == 1
    assert "not among the trusted" in stranger.lines()[-1]["message"]

    beside.write_bytes(sign("delays", example.digest, key))
    assert serve(example, **asked).ready().ask("POST", "/v1/predict", rows(1)[0])[0] == 200


def test_a_terminated_server_still_answers_until_everybody_has_seen_that_it_ends(serve, example):
    server = serve(example, **{contract.ENV_DRAIN_SECONDS: "600"}).ready()
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: server.ask("GET", "/readyz")[0] == 503)
    assert server.ask("POST", "/v1/predict", rows(1)[0])[0] == 200
    assert server.process.poll() is None
    server.process.kill()


def test_a_terminated_server_answers_what_it_has_begun_to_read_and_ends_well(serve, example):
    server = serve(example).ready()
    body = json.dumps(rows(1)[0]).encode()
    head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with server.connect() as client:
        client.sendall(head + body[:10])
        for _ in range(2):  # a server that has answered those who came later has read this far
            server.ask("GET", "/livez")
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in [line["message"] for line in server.lines()])
        client.sendall(body[10:])
        assert b" 200 " in client.recv(4096)
    assert server.ended() == 0


def test_a_standard_model_has_one_process_and_more_are_refused_with_a_line(serve, example):
    server = serve(example, **{contract.ENV_WORKERS: "2"}).ready()
    for _ in range(40):
        assert server.ask("POST", "/v1/predict", rows(1)[0])[0] == 200
    assert counted(server, "requests") == 40
    assert any(contract.ENV_WORKERS in message for message in server.messages())


def answered(clients: list[socket.socket]) -> list[socket.socket]:
    return select.select(clients, [], [], 0)[0]


def test_an_overloaded_server_says_so_early(serve, tmp_path):
    """Within a millisecond there is time for no more than the next call, of at most 65,536 rows."""
    gate = tmp_path / "gate"
    server = serve(held_bundle.build(tmp_path, gate), **{contract.ENV_LATENCY_OBJECTIVE_MS: "1"}).ready()
    body = json.dumps({"rows": [{"x": 1.0}] * 1000}).encode()
    request = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    first, others = server.connect(), [server.connect() for _ in range(70)]
    os.mkfifo(gate)
    first.sendall(request)
    with gate.open("wb"):  # as soon as the model reads it
        gate.unlink()
        for client in others:
            client.sendall(request)
        eventually(lambda: len(answered(others)) >= 70 - 66)
        answers = [client.recv(1000) for client in answered(others)]
        assert server.ask("GET", "/livez")[0] == 200
    assert {answer[9:12] for answer in answers} == {b"429"}
    assert all(b"retry-after: 1" in answer for answer in answers)
    assert first.recv(200)[9:12] == b"200"
    for client in (first, *others):
        client.close()
