"""gRPC and HTTP/1.1 on one port: a connection that begins with the preface of HTTP/2 is handed on."""

from __future__ import annotations

import socket

import pytest

from modelworks.runtime.server.http import PREFACE
from runtime import small
from runtime.http2_wire import GOAWAY, PING, frame
from runtime.small import ask, connected, get, listening
from runtime.test_v2 import build
from runtime.test_v2_grpc import ROW, Client, outputs, raw, running
from waiting import PATIENCE, eventually

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""The frame that both ends of HTTP/2 begin with; this one changes nothing."""
IS_SETTINGS = 4


def nobody(*_: object) -> None:
    """Takes no connection over."""
    raise AssertionError("a connection was handed on")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with running(build(tmp_path_factory.mktemp("app")), one_port=True) as found:
        yield found


def _first_frame(port: int, *packets: bytes) -> int:
    """The type of the first frame of the answer to these packets."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            client.sendall(packet)
        head = b""
        while len(head) < 9:
            head += client.recv(9 - len(head))
        return head[3]


def test_both_protocols_answer_on_it_alike(model):
    rows = [dict(zip(("price", "day", "seats", "paid", "kind"), ROW, strict=True))]
    expected = model.post("/v1/predict", {"rows": rows})[0]["predictions"]
    answered = outputs(model.client.call("ModelInfer", raw([ROW])))
    assert answered["score"] == [each["score"] for each in expected]


def test_a_message_larger_than_all_buffers_arrives_whole_and_so_does_its_answer(tmp_path):
    rows = [(float(number), number, number, True, "a") for number in range(100)]
    request = raw(rows, id="x" * 900_000)
    with running(build(tmp_path), one_port=True) as found:
        answered = found.client.call("ModelInfer", request)
        again = outputs(found.client.call("ModelInfer", raw(rows)))
    assert answered.id == request.id
    assert outputs(answered) == again


@pytest.mark.parametrize("cut", [1, 3, 14, 18, 23])
def test_the_preface_may_come_in_pieces(model, cut):
    assert _first_frame(model.http_port, PREFACE[:cut], PREFACE[cut:] + SETTINGS) == IS_SETTINGS


def test_the_preface_may_come_byte_by_byte(model):
    pieces = [PREFACE[number : number + 1] for number in range(len(PREFACE))]
    assert _first_frame(model.http_port, *pieces, SETTINGS) == IS_SETTINGS


@pytest.mark.parametrize("sent", [PREFACE[:18] + b"XX\r\n\r\n", b"PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n", b"x" + PREFACE])
async def test_what_is_no_preface_is_a_bad_request(tmp_path, sent):
    async with listening(small.build(tmp_path)) as (front, port):
        front.http2 = nobody
        assert (await ask(port, sent))[0] == 400


async def test_without_grpc_the_preface_is_a_bad_request(tmp_path):
    async with listening(small.build(tmp_path)) as (_, port):
        assert (await ask(port, PREFACE + SETTINGS))[0] == 400


async def test_a_preface_in_the_packet_of_a_request_is_a_bad_request_after_its_answer(tmp_path):
    async with listening(small.build(tmp_path)) as (front, port), connected(port) as (reader, writer):
        front.http2 = nobody
        writer.write(get(b"/livez") + PREFACE)
        assert b"400 Bad Request" in await reader.read()


def test_a_server_that_ends_says_goodbye_to_a_connection_that_has_just_begun(tmp_path):
    with running(small.build(tmp_path), one_port=True) as found:
        found.on_loop(found.calls.close)
        with socket.create_connection(("127.0.0.1", found.http_port), PATIENCE) as client:
            client.sendall(PREFACE + SETTINGS + frame(PING, 1, 0, b"goodbye?"))
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        goodbye = frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff" + b"\0" * 4)
        assert goodbye in answer
        assert answer.endswith(frame(GOAWAY, 0, 0, b"\0" * 8))
        eventually(lambda: not found.front.connections)


def test_it_counts_as_a_connection_and_the_longest_quiet_one_makes_room(tmp_path):
    with running(small.build(tmp_path), one_port=True, max_connections=2) as found:
        clients = [Client(found.grpc_port) for _ in range(4)]
        assert [client.call("ServerLive").live for client in clients] == [True] * 4
        assert len(found.front.connections) <= 2
