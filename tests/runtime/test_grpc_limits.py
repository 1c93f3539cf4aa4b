"""Slow and large messages over gRPC: bounded in time and in sum, and no call of others waits for them."""

from __future__ import annotations

import asyncio
import http.client
import threading
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from modelworks.runtime.server import metrics, v2_grpc
from modelworks.runtime.server.budget import BUDGET_BYTES, Budget
from modelworks.runtime.server.grpc_limits import Receiver
from modelworks.runtime.server.refusals import InvalidRequestError
from runtime import small
from runtime.test_v2 import build
from runtime.test_v2_grpc import ROW, Client, outputs, raw, running
from waiting import PATIENCE, eventually

HALF = BUDGET_BYTES // 2
"""Of such messages, two may be on their way."""


def receiver_of(largest: int, **more: float) -> Receiver:
    return Receiver(Budget(largest).share(), largest, **more)


class Context:
    """A call whose message comes when it is set."""

    def time_remaining(self) -> None:
        """It has no deadline."""

    def __init__(self) -> None:
        self.sent: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read(self) -> Any:
        return await self.sent


async def begin(receiver: Receiver) -> tuple[Context, asyncio.Task[bytes]]:
    context = Context()
    task = asyncio.create_task(receiver.message(context))
    await asyncio.sleep(0)  # its turn: it reads
    return context, task


async def test_a_message_that_does_not_come_in_time_is_refused():
    with pytest.raises(InvalidRequestError, match="not complete after 0 seconds") as refused:
        await receiver_of(HALF, seconds=0).message(Context())
    assert refused.value.status == 408


async def test_the_call_that_has_sent_for_longest_makes_room():
    receiver = receiver_of(HALF)
    (_, first), (second, of_second), (third, of_third) = [await begin(receiver) for _ in range(3)]
    with pytest.raises(InvalidRequestError, match="too many large requests at once") as refused:
        await first
    assert refused.value.status == 429
    second.sent.set_result(b"2")
    third.sent.set_result(b"3")
    assert (await of_second, await of_third) == (b"2", b"3")


async def test_however_many_send_nothing_a_message_that_has_come_is_read_soon():
    receiver = receiver_of(HALF, seconds=3600)
    silent = [await begin(receiver) for _ in range(7)]
    context, task = await begin(receiver)
    context.sent.set_result(b"here")
    assert await task == b"here"
    for _, each in silent:
        each.cancel()
    outcomes = await asyncio.gather(*(each for _, each in silent), return_exceptions=True)
    assert {type(each) for each in outcomes} <= {InvalidRequestError, asyncio.CancelledError}


async def test_what_has_come_or_failed_or_gone_takes_no_room():
    receiver = receiver_of(HALF)
    (come, of_come), (failed, of_failed) = [await begin(receiver) for _ in range(2)]
    come.sent.set_result(b"1")
    failed.sent.set_exception(RuntimeError("gone"))
    assert await of_come == b"1"
    with pytest.raises(RuntimeError):
        await of_failed
    _, cancelled = await begin(receiver)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    waiting = [await begin(receiver) for _ in range(2)]
    for context, _ in waiting:
        context.sent.set_result(b"x")
    assert [await task for _, task in waiting] == [b"x", b"x"]


async def test_a_call_without_a_message_has_an_empty_one():
    context, task = await begin(receiver_of(HALF))
    context.sent.set_result(grpc.aio.EOF)
    assert await task == b""


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


def test_a_client_that_sends_no_message_is_refused_and_its_server_answers_on(tmp_path):
    with running(build(tmp_path)) as found:
        found.calls._service._receiver = receiver_of(HALF, seconds=0.1)
        with unfinished(found, 1) as [call]:
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert call.details() == "the message was not complete after 0.1 seconds"
        found.calls._service._receiver = receiver_of(HALF)
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]
        assert found.app.engine.counters.row[metrics.ERRORS] == 0


def test_calls_that_come_together_wait_for_each_other_and_none_is_refused(tmp_path):
    with running(build(tmp_path)) as found:
        found.calls._service._receiver = receiver_of(HALF)
        ask = found.client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [ask.future(raw([ROW]).SerializeToString(), PATIENCE) for _ in range(300)]
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}


def test_calls_that_send_no_message_keep_nobody_else_waiting(tmp_path):
    with running(build(tmp_path)) as found:
        found.calls._service._receiver = receiver_of(HALF)
        with unfinished(found, 2) as [first, second]:
            assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]
            assert first.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not second.done()


def refusals(app: Any) -> dict[int, int]:
    return dict(app.engine.refused)


def test_a_message_that_is_too_large_is_counted_as_a_body_that_is(tmp_path):
    with running(build(tmp_path)) as found:
        request = raw([ROW], id="x" * found.app.config.max_body_bytes)
        assert found.client.refusal("ModelInfer", request)[0] == "RESOURCE_EXHAUSTED"
        eventually(lambda: refusals(found.app) == {413: 1})


def test_a_deadline_that_passes_before_the_message_has_come_is_counted(tmp_path):
    with running(build(tmp_path)) as found:
        gate = threading.Event()
        ask = found.client.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        call = ask.future(iter(lambda: gate.wait(PATIENCE) and None, None), 0.2)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.set()
        eventually(lambda: refusals(found.app) == {408: 1})


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
        monkeypatch.setattr(v2_grpc, "MAX_CALLS", 1)
        holder = Client(found.grpc_port, authorization="Bearer secret")
        waiting = holder.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        gate = threading.Event()
        call = waiting.future(iter(lambda: gate.wait(PATIENCE) and None, None), PATIENCE, holder.metadata)
        eventually(lambda: found.calls._service._open == 1)
        code, said = found.client.refusal("ServerLive")
        assert (code, said) == ("RESOURCE_EXHAUSTED", "there are 1 calls at once")
        call.cancel()
        gate.set()
        eventually(lambda: found.calls._service._open == 0)
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
