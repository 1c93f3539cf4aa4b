"""Slow and large messages over gRPC: bounded in time and in sum, and no call of others waits for them."""

from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager
from typing import Any

import grpc

from modelworks.runtime.server import budget, http2, metrics, v2_grpc
from modelworks.runtime.server.http import RECEIVE_SECONDS, clock
from runtime import small
from runtime.http2_wire import CANCEL, DATA, END_STREAM, INFER, RESET, Wire, begun, call, frame, literal, word
from runtime.test_v2 import build
from runtime.test_v2_grpc import ROW, Client, outputs, raw, running
from waiting import PATIENCE, eventually


@contextmanager
def unfinished(found: Any, count: int):
    """Calls that begin and send no message until the end."""
    gate = threading.Event()

    def nothing():
        gate.wait(PATIENCE)
        yield from ()

    ask = found.client.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    before, calls = found.calls._service.calls, []
    for number in range(count):
        calls.append(ask.future(nothing(), PATIENCE))
        eventually(lambda number=number: found.calls._service.calls == before + number + 1)
    try:
        yield calls
    finally:
        gate.set()


def late(found: Any, seconds: float) -> None:
    """Let the server see that so much time has passed."""

    def check() -> None:
        for connection in list(found.calls._http2.connections):
            connection.check(clock() + seconds)

    found.on_loop(check)


def test_a_client_that_sends_no_message_is_refused_and_its_server_answers_on(tmp_path):
    with running(build(tmp_path)) as found:
        with unfinished(found, 1) as [call]:
            late(found, RECEIVE_SECONDS + 1)
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert call.details() == "the message was not complete after 15 seconds"
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]
        assert found.app.engine.counters.row[metrics.ERRORS] == 0


def test_calls_that_come_together_wait_for_each_other_and_none_is_refused(tmp_path):
    with running(build(tmp_path)) as found:
        ask = found.client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [ask.future(raw([ROW]).SerializeToString(), PATIENCE) for _ in range(300)]
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}


def test_calls_that_send_no_message_keep_nobody_else_waiting(tmp_path):
    with running(build(tmp_path)) as found, unfinished(found, 100) as silent:
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]
        assert not any(call.done() for call in silent)
        assert found.calls._http2.share.used == 0


def part(stream: int, size: int) -> bytes:
    """A call, and so many bytes of a message that is larger."""
    first = b"\0" + word(size) + b"x" * (size - 5)
    return begun(stream, INFER) + b"".join(
        frame(DATA, 0, stream, first[start : start + 16384]) for start in range(0, len(first), 16384)
    )


def test_the_call_that_has_sent_for_longest_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "BUDGET_BYTES", 0)
    app = small.build(tmp_path, max_body_bytes=100_000)  # of such messages, two may always be on their way
    with running(app, one_port=True) as found, Wire(found.http_port) as first, Wire(found.http_port) as others:
        first.send(part(1, 90_000))
        eventually(lambda: found.calls._http2.share.used == 90_000)
        others.send(part(1, 90_000))
        eventually(lambda: found.calls._http2.share.used == 180_000)
        others.send(part(3, 90_000))
        told = first.told()
        assert b"too many large requests at once" in told.payload
        eventually(lambda: found.calls._http2.share.used == 180_000)
        assert refusals(found.app) == {429: 1}
        others.send(frame(DATA, END_STREAM, 1, b"x" * 5), frame(DATA, END_STREAM, 3, b"x" * 5))
        assert {others.told().stream, others.told().stream} == {1, 3}
        eventually(lambda: found.calls._http2.share.used == 0)


def refusals(app: Any) -> dict[int, int]:
    return dict(app.engine.refused)


def test_a_message_that_is_too_large_is_counted_as_a_body_that_is(tmp_path):
    with running(build(tmp_path)) as found:
        request = raw([ROW], id="x" * found.app.config.max_body_bytes)
        assert found.client.refusal("ModelInfer", request)[0] == "RESOURCE_EXHAUSTED"
        eventually(lambda: refusals(found.app) == {413: 1})


def test_a_deadline_that_passes_before_the_message_has_come_is_counted(tmp_path):
    with running(build(tmp_path)) as found, Wire(found.grpc_port) as client:
        client.send(begun(1, INFER, literal(b"grpc-timeout", b"1m")))
        assert b"the caller's deadline has passed" in client.told().payload
        assert refusals(found.app) == {408: 1}


def test_a_call_that_its_caller_ends_just_before_its_deadline_is_counted_and_one_given_up_long_before_is_not(tmp_path):
    """A caller's clock begins before the server's: it ends a call before the server sees that the deadline passed."""
    given_up = frame(RESET, 0, 1, word(CANCEL))
    with running(build(tmp_path)) as found:
        with Wire(found.grpc_port) as client:
            client.send(begun(1, INFER, literal(b"grpc-timeout", b"1H")) + given_up + call(3))
            assert client.answer(3)
        assert refusals(found.app) == {}
        with Wire(found.grpc_port) as client:
            client.send(begun(1, INFER, literal(b"grpc-timeout", b"90m")) + given_up + call(3))
            assert client.answer(3)
        assert refusals(found.app) == {408: 1}


def test_a_call_that_sends_nothing_and_ends_is_no_message(tmp_path):
    with running(build(tmp_path)) as found:
        call = found.client.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer").future(
            iter(()), PATIENCE
        )
        assert call.code() is grpc.StatusCode.NOT_FOUND
        assert refusals(found.app) == {}


def test_calls_without_a_token_and_too_many_at_once_are_counted(tmp_path, monkeypatch):
    (tmp_path / "tokens").write_text("secret")
    app = small.build(tmp_path, token_file=tmp_path / "tokens")
    with running(app) as found:
        assert found.client.refusal("ModelInfer")[0] == "UNAUTHENTICATED"
        monkeypatch.setattr(http2, "MAX_CALLS", 1)
        monkeypatch.setattr(v2_grpc, "MAX_CALLS", 1)
        holder = Client(found.grpc_port, authorization="Bearer secret")
        waiting = holder.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        gate = threading.Event()
        call = waiting.future(iter(lambda: gate.wait(PATIENCE) and None, None), PATIENCE, holder.metadata)
        eventually(lambda: found.calls._http2.open == 1)
        code, said = found.client.refusal("ServerLive")
        assert (code, said) == ("RESOURCE_EXHAUSTED", "there are 1 calls at once")
        call.cancel()
        gate.set()
        eventually(lambda: found.calls._http2.open == 0)
        assert found.client.call("ServerLive").live
        assert refusals(found.app)[401] == 1
        assert refusals(found.app)[429] == 1


def test_refusals_of_both_protocols_are_one_metric(tmp_path):
    (tmp_path / "tokens").write_text("secret")
    with running(small.build(tmp_path, token_file=tmp_path / "tokens")) as found:
        assert found.client.refusal("ModelInfer")[0] == "UNAUTHENTICATED"
        connection = http.client.HTTPConnection("127.0.0.1", found.http_port, timeout=PATIENCE)
        connection.request("POST", "/v1/predict", b"{}")
        assert connection.getresponse().status == 401
        connection.close()
        eventually(lambda: 'modelworks_refusals_total{status="401"} 2' in found.app._metrics().decode())
