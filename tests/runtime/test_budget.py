"""The budget that protocols share: bounded in sum, and two of the largest requests for each of them at any time."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from modelworks.runtime.server import budget
from modelworks.runtime.server.budget import BUDGET_BYTES, Budget
from runtime.test_v2 import build
from runtime.test_v2_grpc import ROW, outputs, raw, running
from waiting import PATIENCE, eventually

MIB = 1 << 20


def test_what_one_protocol_takes_the_other_has_not():
    first, second = (made := Budget(MIB)).share(), made.share()
    first.take(40 * MIB)
    assert second.room(24 * MIB)
    assert not second.room(24 * MIB + 1)
    second.take(24 * MIB)
    assert first.room()
    assert not first.room(1)
    second.take(-10 * MIB)
    assert first.room(10 * MIB)


@given(st.integers(1, 1 << 30), st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 30)), max_size=30))
def test_whoever_takes_only_what_there_is_room_for_stays_within_it_and_each_has_room_for_two(largest, steps):
    shares = (made := Budget(largest)).share(), made.share()
    for which, more in steps:
        if shares[which].room(more):
            shares[which].take(more)
        assert made.used <= made.bytes
    for share in shares:
        assert share.used >= 2 * largest or share.room(2 * largest - share.used)


def test_a_budget_is_as_stated_unless_two_of_the_largest_take_more():
    small, large = Budget(MIB), Budget(BUDGET_BYTES)
    for each in (small, large):
        each.share()
        each.share()
    assert small.bytes == BUDGET_BYTES
    assert large.bytes == 4 * BUDGET_BYTES


def test_whoever_waits_is_told_when_another_protocol_takes_less():
    first, second = (made := Budget(MIB)).share(), made.share()
    told = []
    second.freed = lambda: told.append(made.used)
    first.take(MIB)
    first.take(-MIB // 2)
    first.take(0)
    assert told == [MIB // 2]


def test_neither_protocol_takes_what_the_other_may_always_have(tmp_path, monkeypatch):
    app = build(tmp_path)
    largest = app.config.max_body_bytes
    monkeypatch.setattr(budget, "BUDGET_BYTES", 8 * largest)
    head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % largest
    with running(app) as found:
        over_http, over_grpc = found.front.share, found.calls._http2.share
        over_http.take(6 * largest)
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]
        with socket.create_connection(("127.0.0.1", found.http_port), PATIENCE) as client:
            client.sendall(head + b"x")
            assert b" 429 " in client.recv(4096)
        over_http.take(-6 * largest)
        over_grpc.take(6 * largest)
        with socket.create_connection(("127.0.0.1", found.http_port), PATIENCE) as client:
            client.sendall(head + b"x" * (largest - 1))
            eventually(lambda: over_http.used == largest - 1)
            client.sendall(b"x")
            assert b" 400 " in client.recv(4096)  # complete, and no JSON
        eventually(lambda: over_http.used == 0)
