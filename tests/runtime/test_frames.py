"""What a client of HTTP/2 may send, before the server of gRPC unpacks it; over real sockets, and frame by frame."""

from __future__ import annotations

import contextlib
import socket
import struct
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks import contract
from modelworks.runtime.server import relay
from modelworks.runtime.server.frames import FrameError, Frames
from modelworks.runtime.server.relay import PREFACE
from runtime.running import SAME_PORT
from runtime.test_v2 import build
from runtime.test_v2_grpc import ROW, Client, outputs, raw, running
from waiting import PATIENCE, eventually

DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
CONNECTIONS = 50
"""How often a stranger floods."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def text(value: bytes) -> bytes:
    """A string of HPACK, shorter than 127 bytes."""
    return bytes([len(value)]) + value


def headers(more: bytes = b"", method: bytes = b"ModelInfer") -> bytes:
    """The headers of a call, none of them in the table."""
    path = b"/inference.GRPCInferenceService/" + method
    fields = {b":path": path, b":authority": b"x", b"content-type": b"application/grpc", b"te": b"trailers"}
    return b"\x83\x86" + b"".join(b"\0" + text(name) + text(value) for name, value in fields.items()) + more


CALL = frame(HEADERS, END_HEADERS, 1, headers())


def taken(data: bytes, cuts: list[int]) -> tuple[bytes, Frames]:
    """What is passed on of a client's bytes that come in such pieces."""
    frames, passed = Frames(checked=True), b""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in pairwise(places):
        passed += frames.take(data[start:end])
    return passed, frames


@given(
    st.lists(
        st.one_of(
            st.builds(lambda n, body: frame(DATA, 0, n, body), st.integers(1, 9), st.binary(max_size=40)),
            st.builds(lambda n: frame(HEADERS, END_HEADERS, n, headers()), st.integers(1, 9)),
            st.builds(lambda n: frame(RESET, 0, n, b"\0\0\0\x08"), st.integers(1, 9)),
            st.just(frame(PING, 0, 0, b"x" * 8)),
        ),
        max_size=8,
    ),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_frames_are_passed_on_as_they_are_however_they_are_cut(sent, cuts):
    data = b"".join(sent)
    passed, frames = taken(data, cuts)
    whole, at_once = taken(data, [])
    assert passed == whole == data
    assert (frames.begun, frames.ended) == (at_once.begun, at_once.ended)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_are_an_unexpected_error(data, cuts):
    with contextlib.suppress(FrameError):
        taken(data, cuts)


@given(st.binary(max_size=200), st.sampled_from([0, 8, 32, 40]))
def test_no_headers_are_an_unexpected_error(block, flags):
    with contextlib.suppress(FrameError):
        Frames(checked=True).take(frame(HEADERS, flags, 1, block))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(HEADERS, END_HEADERS, 1, headers(b"\xbe" * 200)), id="references to the table"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, headers(b"\0\1a\1b" * 200)), id="short headers"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, headers(b"\x20" * 200)), id="sizes of the table"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, b"\x00\x01a"), id="no value"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, b"\xff" + b"\xff" * 9), id="a number without an end"),
        pytest.param(frame(HEADERS, 0, 1, headers()) + frame(CONTINUATION, 0, 1), id="a second frame of headers"),
        pytest.param(b"\x00\x40\x01\x01\x04\x00\x00\x00\x01", id="a frame that is too large"),
    ],
)
def test_headers_that_no_call_has_end_the_connection_before_grpc_has_them(tmp_path, sent):
    with pytest.raises(FrameError):
        Frames(checked=True).take(sent)
    with (
        running(build(tmp_path), one_port=True) as found,
        socket.create_connection(("127.0.0.1", found.http_port), PATIENCE) as client,
    ):
        client.sendall(PREFACE + frame(SETTINGS, 0, 0) + sent)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                pass
        assert found.calls._service.calls == 0
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]


def test_calls_of_all_connections_are_counted_and_forgotten(tmp_path):
    with running(build(tmp_path), one_port=True) as found:
        clients = [Client(found.grpc_port, authority=f"host-{number}") for number in range(3)]
        for client in clients:
            assert outputs(client.call("ModelInfer", raw([ROW])))["label"]
        eventually(lambda: found.front.calls.count == 0)
        with socket.create_connection(("127.0.0.1", found.http_port), PATIENCE) as stranger:
            silent = b"".join(frame(HEADERS, END_HEADERS, number, headers()) for number in range(1, 21, 2))
            stranger.sendall(PREFACE + frame(SETTINGS, 0, 0) + silent)
            eventually(lambda: found.front.calls.count == 10)
            stranger.sendall(frame(RESET, 0, 1, b"\0\0\0\x08"))
            eventually(lambda: found.front.calls.count == 9)
        eventually(lambda: found.front.calls.count == 0)


def test_too_many_calls_of_all_connections_end_the_one_with_most(tmp_path, monkeypatch):
    monkeypatch.setattr(relay, "MAX_STREAMS", 30)
    with running(build(tmp_path), one_port=True) as found:
        greedy, modest = [socket.create_connection(("127.0.0.1", found.http_port), PATIENCE) for _ in range(2)]
        with greedy, modest:
            modest.sendall(PREFACE + frame(SETTINGS, 0, 0) + CALL)
            eventually(lambda: found.front.calls.count == 1)
            for number in range(1, 81, 2):
                with contextlib.suppress(OSError):
                    greedy.sendall(
                        (PREFACE + frame(SETTINGS, 0, 0) if number == 1 else b"") + frame(HEADERS, 4, number, headers())
                    )
            eventually(lambda: found.front.calls.count == 1)
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]


def test_a_connection_has_so_many_calls_at_once_and_a_client_that_keeps_to_it_loses_none(tmp_path):
    with running(build(tmp_path), one_port=True) as found:
        ask = found.client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [ask.future(raw([ROW]).SerializeToString(), PATIENCE) for _ in range(600)]
        assert {call.code().name for call in calls} == {"OK"}
        eventually(lambda: found.front.calls.count == 0)


def test_a_connection_that_leaves_its_calls_again_and_again_is_closed(tmp_path):
    with running(build(tmp_path), one_port=True) as found:
        with socket.create_connection(("127.0.0.1", found.http_port), PATIENCE) as stranger:
            stranger.sendall(PREFACE + frame(SETTINGS, 0, 0) + floods()["resets"])
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(4096):
                    pass
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]
        assert found.calls._service.calls <= 257


def floods() -> dict[str, bytes]:
    """Packets of what is cheap to send: CVE-2023-44487, CVE-2024-27316, and their kin."""
    cancel = b"\0\0\0\x08"
    big = b"\x40\x03x-a" + b"\x7f\xd9\x1c" + b"y" * 3800  # one header that fills most of the table
    return {
        "resets": b"".join(frame(HEADERS, 4, n, headers()) + frame(RESET, 0, n, cancel) for n in range(1, 2001, 2)),
        "continuations": frame(HEADERS, 0, 1, headers()) + frame(CONTINUATION, 0, 1) * 5000,
        "a table as a bomb": frame(HEADERS, 4, 1, headers(big))
        + b"".join(frame(HEADERS, 4, n, headers(b"\xbe" * 4000)) for n in range(3, 400, 2)),
        "pings": frame(PING, 0, 0, b"x" * 8) * 5000,
        "settings": frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff") * 5000,
        "calls without end": b"".join(frame(HEADERS, 4, n, headers()) for n in range(1, 1001, 2)),
    }


@pytest.mark.parametrize("name", floods())
def test_a_stranger_who_floods_takes_neither_memory_nor_the_probes(serve, example, tmp_path, name):
    tokens: Path = tmp_path / "tokens"
    tokens.write_text("secret")
    access = {contract.ENV_ALLOW_ANONYMOUS: "false", contract.ENV_TOKEN_FILE: str(tokens)}
    server = serve(example, **{contract.ENV_GRPC_PORT: SAME_PORT, **access}).ready()
    packet, memory = floods()[name], psutil.Process(server.process.pid).memory_info
    before = memory().rss
    for _ in range(CONNECTIONS):
        with contextlib.suppress(OSError), server.connect() as stranger:
            stranger.sendall(PREFACE + frame(SETTINGS, 0, 0) + packet)
    assert server.ask("GET", "/readyz")[0] == 200
    assert memory().rss - before < 150 << 20
    assert server.stop() == 0
