"""What RFC 9113 and RFC 7541 demand of a server, and what a client may do to it: frame by frame, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import hpack
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks import contract
from modelworks.runtime.predictor import Cost
from modelworks.runtime.server import http2
from modelworks.runtime.server import v2_messages as messages
from modelworks.runtime.server.engine import Engine
from modelworks.runtime.server.http import IDLE_SECONDS, PREFACE, RECEIVE_SECONDS, WRITE_SECONDS, clock
from modelworks.runtime.server.http2_calls import MAX_STREAMS
from modelworks.runtime.server.http2_fields import MAX_FIELDS, field
from modelworks.runtime.server.http2_streams import CONNECTION_WINDOW, STREAM_WINDOW
from runtime import small
from runtime.http2_wire import (
    ACK,
    CALM,
    CANCEL,
    CLOSED,
    COMPRESSION,
    CONTINUATION,
    DATA,
    EMPTY,
    END_HEADERS,
    END_STREAM,
    FLOW,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    INFER,
    LIVE,
    NO_ERROR,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL,
    PUSH,
    REFUSED,
    RESET,
    SETTINGS,
    SETTINGS_TIMEOUT,
    SIZE,
    WATCH,
    WINDOW,
    Frame,
    Wire,
    begun,
    call,
    frame,
    headers,
    literal,
    message,
    parsed,
    setting,
    word,
)
from runtime.running import SAME_PORT
from runtime.test_v2 import Model, build
from runtime.test_v2_grpc import ROW, Client, outputs, raw, running
from waiting import PATIENCE, eventually

PINGED = frame(PING, 0, 0, b"12345678")
CANCELLED = word(CANCEL)
CONNECTIONS = 50
"""How often a stranger floods."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with running(build(tmp_path_factory.mktemp("app")), one_port=True) as found:
        yield found


def watching(stream: int) -> bytes:
    """A call whose request has ended, and whose answer has not."""
    return call(stream, WATCH)


def fields(*pairs: tuple[bytes, bytes], stream: int = 1) -> bytes:
    """A call with these headers alone."""
    return frame(HEADERS, END_HEADERS, stream, b"".join(literal(*pair) for pair in pairs)) + message(stream)


def trailed(*pairs: tuple[bytes, bytes], flags: int = END_HEADERS | END_STREAM) -> bytes:
    """A call with these trailers."""
    return begun(1) + frame(DATA, 0, 1, EMPTY) + frame(HEADERS, flags, 1, b"".join(literal(*pair) for pair in pairs))


METHOD, SCHEME, PATH = (b":method", b"POST"), (b":scheme", b"http"), (b":path", LIVE)
KIND = (b"content-type", b"application/grpc")


# -- Conformance -----------------------------------------------------------------------------------------------------
ENDS_THE_CONNECTION = {
    "4.1 a frame larger than the server takes": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", SIZE),
    "4.3 headers that cannot be unpacked": (frame(HEADERS, END_HEADERS, 1, b"\xc0"), COMPRESSION),
    "4.3 trailers that cannot be unpacked": (begun(1) + frame(HEADERS, 5, 1, b"\xc0"), COMPRESSION),
    "4.3 a ping within headers": (frame(HEADERS, 0, 1, headers()) + PINGED, PROTOCOL),
    "4.3 headers of another stream within headers": (frame(HEADERS, 0, 1, headers()) + begun(3), PROTOCOL),
    "4.3 a continuation of another stream": (
        frame(HEADERS, 0, 1, headers()) + frame(CONTINUATION, END_HEADERS, 3),
        PROTOCOL,
    ),
    "5.1 data before a stream begins": (message(1), PROTOCOL),
    "5.1 a reset before a stream begins": (frame(RESET, 0, 1, CANCELLED), PROTOCOL),
    "5.1 a window before a stream begins": (frame(WINDOW, 0, 1, word(1)), PROTOCOL),
    "5.1 data after a stream is over": (call(1) + message(1), CLOSED),
    "5.1 headers after a stream is over": (call(1) + call(1), CLOSED),
    "5.1 a window of a stream that is the server's to begin": (call(3) + frame(WINDOW, 0, 2, word(1)), PROTOCOL),
    "5.1 a reset of a stream that is the server's to begin": (call(3) + frame(RESET, 0, 2, CANCELLED), PROTOCOL),
    "5.1 data of a stream that is the server's to begin": (call(3) + message(2), PROTOCOL),
    "5.1.1 a stream with an even number below others": (call(3) + begun(2), PROTOCOL),
    "5.1.1 a stream with an even number": (call(2), PROTOCOL),
    "5.1.1 a stream with a lower number": (call(5) + call(3), PROTOCOL),
    "5.5 an unknown frame within headers": (frame(HEADERS, 0, 1, headers()) + frame(99, 0, 1), PROTOCOL),
    "6.1 data of no stream": (frame(DATA, 0, 0, b"x"), PROTOCOL),
    "6.1 more padding than data": (begun(1) + frame(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL),
    "6.1 padding without its length": (begun(1) + frame(DATA, PADDED, 1), SIZE),
    "6.2 headers of no stream": (frame(HEADERS, END_HEADERS, 0, headers()), PROTOCOL),
    "6.2 more padding than headers": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + headers()), PROTOCOL),
    "6.2 headers shorter than their priority": (frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"\0\0"), SIZE),
    "6.3 a priority of no stream": (frame(PRIORITY, 0, 0, b"\0\0\0\0\1"), PROTOCOL),
    "6.3 a priority of another size before a stream begins": (frame(PRIORITY, 0, 1, b"\0"), SIZE),
    "6.4 a reset of no stream": (frame(RESET, 0, 0, CANCELLED), PROTOCOL),
    "6.4 a reset of another size": (begun(1) + frame(RESET, 0, 1, b"\0"), SIZE),
    "6.5 an acknowledgement with settings": (frame(SETTINGS, ACK, 0, setting(4, 1)), SIZE),
    "6.5 settings of a stream": (frame(SETTINGS, 0, 1), PROTOCOL),
    "6.5 settings of another size": (frame(SETTINGS, 0, 0, b"\0\1\0"), SIZE),
    "6.5.2 push that is neither on nor off": (frame(SETTINGS, 0, 0, setting(2, 2)), PROTOCOL),
    "6.5.2 a window beyond the largest": (frame(SETTINGS, 0, 0, setting(4, 1 << 31)), FLOW),
    "6.5.2 frames smaller than all take": (frame(SETTINGS, 0, 0, setting(5, 16383)), PROTOCOL),
    "6.5.2 frames larger than any": (frame(SETTINGS, 0, 0, setting(5, 1 << 24)), PROTOCOL),
    "6.6 a push of a client": (begun(1) + frame(PUSH, END_HEADERS, 1, word(2) + headers()), PROTOCOL),
    "6.7 a ping of a stream": (frame(PING, 0, 1, b"12345678"), PROTOCOL),
    "6.7 a ping of another size": (frame(PING, 0, 0, b"123"), SIZE),
    "6.8 a goodbye of a stream": (frame(GOAWAY, 0, 1, b"\0" * 8), PROTOCOL),
    "6.8 a goodbye of another size": (frame(GOAWAY, 0, 0, b"\0" * 7), SIZE),
    "6.9 no more window of the connection": (frame(WINDOW, 0, 0, word(0)), PROTOCOL),
    "6.9 a window of another size": (frame(WINDOW, 0, 0, b"\0"), SIZE),
    "6.9.1 a window of the connection beyond the largest": (frame(WINDOW, 0, 0, word((1 << 31) - 1)), FLOW),
    "6.9.2 settings that make a window too large": (
        watching(1) + frame(WINDOW, 0, 1, word(1000)) + frame(SETTINGS, 0, 0, setting(4, (1 << 31) - 1)),
        FLOW,
    ),
    "6.10 a continuation of nothing": (frame(CONTINUATION, END_HEADERS, 1, headers()), PROTOCOL),
    "6.10 a continuation after headers": (begun(1) + frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL),
    "6.10 data within headers": (frame(HEADERS, 0, 1, headers()) + message(1), PROTOCOL),
    "7541 2.3.3 an index beyond the tables": (frame(HEADERS, END_HEADERS, 1, b"\xff\x00"), COMPRESSION),
    "7541 4.2 a table larger than the server's": (frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\x1f"), COMPRESSION),
    "7541 4.2 the size of a table after headers": (frame(HEADERS, END_HEADERS, 1, headers(b"\x20")), COMPRESSION),
    "7541 5.1 a number without an end": (frame(HEADERS, END_HEADERS, 1, b"\xff" * 12), COMPRESSION),
    "7541 5.2 a text longer than the block": (frame(HEADERS, END_HEADERS, 1, b"\0\x7f\xff\x01abc"), COMPRESSION),
    "7541 5.2 Huffman's code with too much padding": (
        frame(HEADERS, END_HEADERS, 1, headers(b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff")),
        COMPRESSION,
    ),
    "7541 5.2 Huffman's code of the end": (
        frame(HEADERS, END_HEADERS, 1, headers(b"\0\x84\xff\xff\xff\xff\x01x")),
        COMPRESSION,
    ),
    "7541 6.1 the index 0": (frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION),
}
"""What a client sends after its settings, and the code that its connection ends with."""


@pytest.mark.parametrize("name", ENDS_THE_CONNECTION)
def test_an_error_of_the_connection_ends_it_with_its_code(model, name):
    sent, code = ENDS_THE_CONNECTION[name]
    with Wire(model.http_port) as client:
        client.send(sent)
        told = client.until(lambda each: each.kind == GOAWAY)
        assert (told.stream, told.code) == (0, code)
        assert not list(client.frames())


ENDS_THE_STREAM = {
    "5.1 data after the end of a request": (watching(1) + message(1), CLOSED),
    "5.1 headers after the end of a request": (watching(1) + begun(1, WATCH), CLOSED),
    "6.3 a priority of another size": (begun(1) + frame(PRIORITY, 0, 1, b"\0"), SIZE),
    "6.9 no more window of a stream": (begun(1) + frame(WINDOW, 0, 1, word(0)), PROTOCOL),
    "6.9.1 a window of a stream beyond the largest": (begun(1) + frame(WINDOW, 0, 1, word((1 << 31) - 1)), FLOW),
    "8.1 trailers that do not end": (trailed((b"x", b"y"), flags=END_HEADERS), PROTOCOL),
    "8.1 pseudo-headers in trailers": (trailed((b":path", b"/")), PROTOCOL),
    "8.1.1 more data than announced": (fields(METHOD, SCHEME, PATH, KIND, (b"content-length", b"4")), PROTOCOL),
    "8.1.1 less data than announced": (fields(METHOD, SCHEME, PATH, KIND, (b"content-length", b"6")), PROTOCOL),
    "8.1.1 two lengths": (
        fields(METHOD, SCHEME, PATH, KIND, (b"content-length", b"5"), (b"content-length", b"6")),
        PROTOCOL,
    ),
    "8.1.1 a length that is no number": (fields(METHOD, SCHEME, PATH, KIND, (b"content-length", b"+5")), PROTOCOL),
    "8.2.1 a name in upper case": (fields(METHOD, SCHEME, PATH, KIND, (b"X-A", b"b")), PROTOCOL),
    "8.2.1 a name with a space": (fields(METHOD, SCHEME, PATH, KIND, (b"x a", b"b")), PROTOCOL),
    "8.2.1 a name without a letter": (fields(METHOD, SCHEME, PATH, KIND, (b"", b"b")), PROTOCOL),
    "8.2.1 a line end in a value": (fields(METHOD, SCHEME, PATH, KIND, (b"x", b"a\r\nb: c")), PROTOCOL),
    "8.2.1 a zero in a value": (fields(METHOD, SCHEME, PATH, KIND, (b"x", b"a\0")), PROTOCOL),
    "8.2.1 a space around a value": (fields(METHOD, SCHEME, PATH, KIND, (b"x", b" a")), PROTOCOL),
    "8.2.2 a header of the connection": (fields(METHOD, SCHEME, PATH, KIND, (b"connection", b"close")), PROTOCOL),
    "8.2.2 a coding of HTTP/1.1": (fields(METHOD, SCHEME, PATH, KIND, (b"transfer-encoding", b"chunked")), PROTOCOL),
    "8.2.2 te with more than trailers": (fields(METHOD, SCHEME, PATH, KIND, (b"te", b"gzip")), PROTOCOL),
    "8.3 an unknown pseudo-header": (fields(METHOD, SCHEME, PATH, (b":x", b"y"), KIND), PROTOCOL),
    "8.3 a pseudo-header of answers": (fields(METHOD, SCHEME, PATH, (b":status", b"200"), KIND), PROTOCOL),
    "8.3 a pseudo-header after others": (fields(METHOD, SCHEME, KIND, PATH), PROTOCOL),
    "8.3.1 no method": (fields(SCHEME, PATH, KIND), PROTOCOL),
    "8.3.1 no scheme": (fields(METHOD, PATH, KIND), PROTOCOL),
    "8.3.1 no path": (fields(METHOD, SCHEME, KIND), PROTOCOL),
    "8.3.1 an empty path": (fields(METHOD, SCHEME, (b":path", b""), KIND), PROTOCOL),
    "8.3.1 two methods": (fields(METHOD, METHOD, SCHEME, PATH, KIND), PROTOCOL),
}
"""What a client sends after its settings, and the code that stream 1 ends with; the connection goes on."""


@pytest.mark.parametrize("name", ENDS_THE_STREAM)
def test_an_error_of_a_stream_ends_it_and_no_other(model, name):
    sent, code = ENDS_THE_STREAM[name]
    with Wire(model.http_port) as client:
        client.send(sent)
        told = client.until(lambda each: each.kind == RESET)
        assert (told.stream, told.code) == (1, code)
        client.send(call(99))
        assert client.answer(99)[0].endswith(b"\x08\x01")


IS_ANSWERED = {
    "4.1 a reserved bit": call(1).replace(b"\0\0\0\1", b"\x80\0\0\1"),
    "4.1 flags that a frame does not have": frame(HEADERS, END_HEADERS | 0x52, 1, headers(path=LIVE)) + message(1),
    "4.3 headers in pieces": frame(HEADERS, 0, 1, headers(path=LIVE)[:9])
    + frame(CONTINUATION, 0, 1, headers(path=LIVE)[9:20])
    + frame(CONTINUATION, END_HEADERS, 1, headers(path=LIVE)[20:])
    + message(1),
    "5.1 a priority before a stream begins": frame(PRIORITY, 0, 1, b"\0\0\0\0\1") + call(1),
    "5.1 a window after a stream is over": call(3) + frame(WINDOW, 0, 3, word(5)) + call(5).replace(b"\5", b"\5"),
    "5.1 a reset after a stream is over": call(3) + frame(RESET, 0, 3, CANCELLED) + call(5),
    "5.3 a stream that depends on itself": frame(PRIORITY, 0, 1, word(1) + b"\0") + call(1),
    "5.5 an unknown frame": frame(99, 0xFF, 0, b"x" * 50) + call(1),
    "6.1 padded data": begun(1) + frame(DATA, PADDED | END_STREAM, 1, b"\x03" + EMPTY + b"\0\0\0"),
    "6.1 data in pieces": begun(1) + b"".join(frame(DATA, 0, 1, b"\0") for _ in range(5)) + frame(DATA, END_STREAM, 1),
    "6.2 padded headers with a priority": frame(
        HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, b"\2\0\0\0\0\x10" + headers(path=LIVE) + b"\0\0"
    )
    + message(1),
    "6.2 headers that end the request": frame(HEADERS, END_HEADERS | END_STREAM, 1, headers(path=LIVE)),
    "6.5.2 an unknown setting": frame(SETTINGS, 0, 0, setting(99, 7)) + call(1),
    "6.8 a call that comes before a goodbye": call(1) + frame(GOAWAY, 0, 0, b"\0" * 8),
    "8.1 trailers": trailed((b"x", b"y")),
    "8.1.1 data as announced": fields(METHOD, SCHEME, PATH, KIND, (b"content-length", b"5")),
    "8.2.2 te with trailers": fields(METHOD, SCHEME, PATH, KIND, (b"te", b"trailers")),
    "8.2.3 cookies in pieces": fields(METHOD, SCHEME, PATH, KIND, (b"cookie", b"a=1"), (b"cookie", b"b=2")),
    "7541 6.2.1 a header that is kept": frame(HEADERS, END_HEADERS, 1, headers(b"\x40\x01x\x01y", LIVE)) + message(1),
    "7541 6.2.3 a header that nobody may keep": frame(HEADERS, END_HEADERS, 1, headers(b"\x10\x01x\x01y", LIVE))
    + message(1),
    "7541 6.3 a table of no size": frame(HEADERS, END_HEADERS, 1, b"\x20" + headers(path=LIVE)) + message(1),
}
"""What a client sends after its settings; its last stream, or the only one, is answered."""


@pytest.mark.parametrize("name", IS_ANSWERED)
def test_what_is_allowed_is_answered(model, name):
    sent = IS_ANSWERED[name]
    stream = max(each.stream & 0x7FFFFFFF for each in parsed(sent))
    with Wire(model.http_port) as client:
        client.send(sent)
        assert client.answer(stream)[0].endswith(b"\x08\x01")


@pytest.mark.parametrize("first", [PINGED, call(1), frame(SETTINGS, ACK, 0)], ids=["a ping", "a call", "an ACK"])
def test_settings_come_first(model, first):
    """RFC 9113, section 3.4."""
    with socket.create_connection(("127.0.0.1", model.http_port), PATIENCE) as client:
        client.sendall(PREFACE + first)
        told = list(parsed(b"".join(iter(lambda: client.recv(4096), b""))))
    assert (told[0].kind, told[-1].kind, told[-1].code) == (SETTINGS, GOAWAY, PROTOCOL)


def test_settings_are_acknowledged_and_pings_returned_and_those_that_return_are_not(model):
    """RFC 9113, sections 6.5.3 and 6.7."""
    with Wire(model.http_port) as client:
        assert client.until(lambda each: each.kind == SETTINGS).flags == ACK
        client.send(frame(PING, ACK, 0, b"87654321"), PINGED)
        told = client.told()
        assert (told.kind, told.flags, told.payload) == (PING, ACK, b"12345678")


def test_what_is_malformed_is_so_again(model):
    """Its headers were unpacked before, and are looked up."""
    with Wire(model.http_port) as client:
        for stream in (1, 3, 5):
            client.send(fields(METHOD, SCHEME, KIND, stream=stream))
            told = client.told()
            assert (told.kind, told.stream, told.code) == (RESET, stream, PROTOCOL)


# -- Headers of answers (section 4.3.1) ------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [[0], [100], [0, 4096]], ids=["none", "less", "none, and all again"])
def test_a_client_that_grants_less_of_a_table_is_told_that_none_is_used(model, sizes):
    """RFC 7541, section 4.2: a change is told before the next headers, and the smallest size if there were several."""
    reader = hpack.Decoder()
    reader.max_allowed_table_size = min(sizes)
    with Wire(model.http_port, b"".join(setting(1, size) for size in sizes)) as client:
        for stream in (1, 3):
            client.send(call(stream))
            first, last = [each for each in _frames_of(client, stream) if each.kind == HEADERS]
            assert dict(reader.decode(first.payload))[":status"] == "200"
            assert dict(reader.decode(last.payload))["grpc-status"] == "0"
            assert first.payload.startswith(b"\x20") == (stream == 1)


def test_the_first_headers_after_that_may_be_those_of_a_refusal(model):
    reader = hpack.Decoder()
    reader.max_allowed_table_size = 0
    with Wire(model.http_port, setting(1, 0)) as client:
        client.send(call(1, b"/none"), call(3))
        assert dict(reader.decode(client.told().payload))["grpc-status"] == "12"
        assert dict(reader.decode(next(_frames_of(client, 3)).payload))[":status"] == "200"


def _frames_of(client: Wire, stream: int) -> Iterator[Frame]:
    """Those of an answer."""
    for each in client.frames():
        if each.stream == stream:
            yield each
            if each.flags & END_STREAM and each.kind in {HEADERS, DATA}:
                return


@pytest.mark.parametrize("block", [b"\x3f\xe1\x1f", b"\x20\x3f\xe1\x1f"], ids=["more", "none, and then more"])
def test_headers_that_are_known_are_refused_behind_a_table_that_is_not_granted(model, block):
    """They are looked up by their bytes: those of the size are some of them."""
    with Wire(model.http_port) as client:
        client.send(call(1), frame(HEADERS, END_HEADERS, 3, b"\x20" + headers(path=LIVE)) + message(3))
        assert client.answer(3)[0]
        client.send(frame(HEADERS, END_HEADERS, 5, block + headers(path=LIVE)))
        assert client.until(lambda each: each.kind == GOAWAY).code == COMPRESSION


def test_a_client_that_has_not_acknowledged_keeps_its_table_and_its_bytes_are_no_others_headers(model):
    """RFC 9113, section 4.3.1: the limit counts from the acknowledgement on."""
    kept = b"\x83\x86\x44" + bytes([len(LIVE)]) + LIVE + b"\x5f\x10application/grpc"
    with Wire(model.http_port, acknowledges=False) as early, Wire(model.http_port) as other:
        early.send(frame(HEADERS, END_HEADERS, 1, kept) + message(1))
        assert early.answer(1)[0].endswith(b"\x08\x01")
        early.send(frame(HEADERS, END_HEADERS, 3, b"\x83\x86\xbf\xbe") + message(3))
        assert early.answer(3)[0].endswith(b"\x08\x01")
        other.send(frame(HEADERS, END_HEADERS, 1, b"\x83\x86\xbf\xbe"))
        assert other.until(lambda each: each.kind == GOAWAY).code == COMPRESSION
        early.send(frame(SETTINGS, ACK, 0), frame(HEADERS, END_HEADERS, 5, b"\x83\x86\xbf\xbe"))
        assert early.until(lambda each: each.kind == GOAWAY).code == COMPRESSION


# -- Flow control (section 5.2) --------------------------------------------------------------------------------------
def infer(rows: int, stream: int = 1) -> bytes:
    """A call for so many rows, in frames of any size that is allowed."""
    content = raw([ROW] * rows).SerializeToString()
    framed = b"\0" + word(len(content)) + content
    parts = [framed[start : start + 16384] for start in range(0, len(framed), 16384)]
    return begun(stream, INFER) + b"".join(
        frame(DATA, END_STREAM * (number == len(parts) - 1), stream, part) for number, part in enumerate(parts)
    )


def test_an_answer_waits_for_the_window_of_its_stream_however_small(model):
    with Wire(model.http_port, setting(4, 1)) as client:
        client.send(infer(1))
        first = client.until(lambda each: each.kind == DATA)
        assert len(first.payload) == 1
        client.send(frame(WINDOW, 0, 1, word(3)))
        assert len(client.until(lambda each: each.kind == DATA).payload) == 3
        client.send(frame(SETTINGS, 0, 0, setting(4, 7)))
        assert len(client.until(lambda each: each.kind == DATA).payload) == 6
        client.send(frame(WINDOW, 0, 1, word(1 << 20)))
        message_, _ = client.answer(1)
        assert message_


def test_a_window_may_become_negative(model):
    """RFC 9113, section 6.9.2."""
    with Wire(model.http_port, setting(4, 20)) as client:
        client.send(infer(1))
        assert len(client.until(lambda each: each.kind == DATA).payload) == 20
        client.send(frame(SETTINGS, 0, 0, setting(4, 0)), frame(WINDOW, 0, 1, word(20)), PINGED)
        assert client.until(lambda each: each.kind in {DATA, PING}).kind == PING
        client.send(frame(WINDOW, 0, 1, word(2)))
        assert len(client.until(lambda each: each.kind == DATA).payload) == 2


def test_answers_share_the_window_of_the_connection_and_all_arrive(model):
    streams = range(1, 21, 2)
    with Wire(model.http_port, setting(4, (1 << 31) - 1)) as client:
        client.send(*(infer(100, stream) for stream in streams))
        got: dict[int, bytes] = dict.fromkeys(streams, b"")
        ended = set()
        for each in client.frames():
            assert each.kind not in {RESET, GOAWAY}
            if each.kind == DATA:
                got[each.stream] += each.payload
                client.send(frame(WINDOW, 0, 0, word(len(each.payload))))
            if each.kind == HEADERS and each.flags & END_STREAM:
                ended.add(each.stream)
            if len(ended) == len(streams):
                break
    assert len({len(content) for content in got.values()}) == 1
    assert all(int.from_bytes(content[1:5]) == len(content) - 5 for content in got.values())


@pytest.mark.parametrize(("stream", "window"), [(1, STREAM_WINDOW), (0, CONNECTION_WINDOW)])
def test_a_window_grows_by_what_was_taken_once_that_is_more_than_half(model, stream, window):
    """RFC 9113, section 6.9."""
    half = window // 2 // 16384
    first = frame(DATA, 0, 1, (b"\0" + word(1_000_000)).ljust(16384, b"x"))
    more = frame(DATA, 0, 1, b"x" * 16384)

    def grown(*sent: bytes) -> list[int]:
        client.send(*sent, PINGED)
        told = list(client.until_each(lambda each: each.kind == PING))
        client.send(PINGED)  # what was sent in one packet calls for a window after all of it is answered
        told += client.until_each(lambda each: each.kind == PING)
        return [int.from_bytes(each.payload) for each in told if (each.kind, each.stream) == (WINDOW, stream)]

    with Wire(model.http_port) as client:
        client.send(PINGED)
        client.until(lambda each: each.kind == PING)
        assert grown(begun(1, INFER), first, *[more] * (half - 1)) == []
        assert grown(more) == [(half + 1) * 16384]


def data(stream: int, size: int) -> bytes:
    """A part of a message that is larger."""
    first = (b"\0" + word(1_000_000)).ljust(size, b"x")
    return b"".join(frame(DATA, 0, stream, first[start : start + 16384]) for start in range(0, size, 16384))


async def test_more_data_than_the_window_of_a_stream_ends_it_alone(any_app):
    """RFC 9113, section 6.9.1."""
    _, transport = greeted(any_app[0])
    transport.protocol.data_received(begun(1, INFER) + data(1, STREAM_WINDOW) + frame(DATA, 0, 1, b"x") + call(3))
    told = list(parsed(bytes(transport.sent)))
    assert [(each.stream, each.code) for each in told if each.kind == RESET] == [(1, FLOW)]
    assert told[-1].stream == 0 or told[-1].flags & END_STREAM
    assert [each.stream for each in told if each.kind == HEADERS] == [3, 3]


@pytest.mark.parametrize("path", [INFER, b"/none"], ids=["taken", "refused"])
async def test_more_data_than_the_window_of_the_connection_ends_it_also_if_its_calls_are_over(any_app, path):
    """RFC 9113, sections 6.9 and 6.9.1: frames of streams that are closed count."""
    shared, transport = greeted(any_app[0])
    streams = range(1, 2 * CONNECTION_WINDOW // STREAM_WINDOW, 2)
    full = b"".join(begun(number, path) + data(number, STREAM_WINDOW) for number in streams)
    transport.protocol.data_received(full + begun(99, path) + frame(DATA, 0, 99, b"x"))
    assert next(each for each in parsed(bytes(transport.sent)) if each.kind == GOAWAY).code == FLOW
    assert (shared.open, shared.share.used) == (0, 0)


async def test_a_client_that_keeps_to_its_windows_sends_on_and_on(any_app):
    _, transport = greeted(any_app[0])
    transport.protocol.data_received(begun(1, b"/none"))
    for _ in range(5 * CONNECTION_WINDOW // STREAM_WINDOW):
        transport.protocol.data_received(data(1, STREAM_WINDOW))
    told = list(parsed(bytes(transport.sent)))
    assert [each for each in told if each.kind == GOAWAY] == []
    grown = [int.from_bytes(each.payload) for each in told if (each.kind, each.stream) == (WINDOW, 0)]
    assert sum(grown[1:]) >= 4 * CONNECTION_WINDOW


async def test_data_of_many_calls_that_were_refused_is_dropped(any_app):
    _, transport = greeted(any_app[0])
    streams = range(1, 401, 2)
    for number in streams:
        transport.protocol.data_received(begun(number, b"/none"))
    for number in streams:
        transport.protocol.data_received(frame(DATA, END_STREAM, number, b"x"))
    transport.protocol.data_received(call(401))
    assert [each.stream for each in parsed(bytes(transport.sent))][-1] == 401


def test_what_comes_for_a_call_that_was_refused_is_dropped_and_counts_for_the_window(model):
    with Wire(model.http_port) as client:
        client.send(begun(1, b"/none"), *[frame(DATA, 0, 1, b"x" * 16384)] * (CONNECTION_WINDOW // 16384), call(3))
        grown = client.until(lambda each: each.kind == WINDOW and each.stream == 0)
        assert int.from_bytes(grown.payload)
        assert client.answer(3)[0].endswith(b"\x08\x01")


# -- Bounds ----------------------------------------------------------------------------------------------------------
def test_more_calls_than_a_connection_may_have_are_refused_and_may_be_tried_again(model):
    """RFC 9113, section 5.1.2."""
    with Wire(model.http_port) as client:
        client.send(*(begun(number) for number in range(1, 2 * MAX_STREAMS + 3, 2)))
        told = client.until(lambda each: each.kind == RESET)
        assert (told.stream, told.code) == (2 * MAX_STREAMS + 1, REFUSED)
        client.send(message(1))
        assert client.answer(1)[0].endswith(b"\x08\x01")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(HEADERS, END_HEADERS, 1, headers(b"\xbe" * 200)), COMPRESSION, id="references to the table"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, headers(b"\x82" * 200)), CALM, id="references"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, headers(b"\0\1a\1b" * 200)), CALM, id="short headers"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, headers(b"\x20" * 200)), COMPRESSION, id="sizes of the table"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, b"\x00\x01a"), COMPRESSION, id="no value"),
        pytest.param(frame(HEADERS, END_HEADERS, 1, b"\xff" + b"\xff" * 9), COMPRESSION, id="a number without an end"),
        pytest.param(frame(HEADERS, 0, 1, headers()) + frame(CONTINUATION, 0, 1), CALM, id="a second frame of headers"),
        pytest.param(
            frame(HEADERS, 0, 1, headers()) + frame(CONTINUATION, 0, 1, b"\0\1a\1b") * 9, CALM, id="too many pieces"
        ),
        pytest.param(
            frame(HEADERS, 0, 1, headers()) + frame(CONTINUATION, 0, 1, b"\0\1a\x7f\x80\x7f" + b"b" * 16256) * 2,
            CALM,
            id="too many bytes",
        ),
        pytest.param(b"\x00\x40\x01\x01\x04\x00\x00\x00\x01", SIZE, id="a frame that is too large"),
        pytest.param(
            frame(HEADERS, END_HEADERS, 1, headers(b"\x40\x03x-a\x7f\xd9\x1c" + b"y" * 3800))
            + frame(HEADERS, END_HEADERS, 3, headers(b"\xbe" * 90)),
            CALM,
            id="a table as a bomb",
        ),
    ],
)
def test_headers_that_no_call_has_end_the_connection_before_grpc_has_them(tmp_path, sent, code):
    with running(build(tmp_path), one_port=True) as found:
        with Wire(found.http_port, acknowledges=False) as client:
            client.send(sent)
            assert client.until(lambda each: each.kind == GOAWAY).code == code
            assert not list(client.frames())
        assert found.calls._service.calls <= sent.count(b"x-a")
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]


def test_a_call_may_have_so_many_headers(model):
    own = len(hpack.Decoder().decode(headers()))
    with Wire(model.http_port) as client:
        client.send(begun(1, LIVE, literal(b"a", b"b") * (MAX_FIELDS - own)), message(1))
        assert client.answer(1)[0].endswith(b"\x08\x01")


FLOODS = {
    "pings": PINGED * 5000,
    "settings": frame(SETTINGS, 0, 0, setting(4, 0xFFFF)) * 5000,
    "settings in one frame": frame(SETTINGS, 0, 0, setting(4, 0xFFFF) * 2000),
    "windows of many calls": b"".join(begun(n) for n in range(1, 201, 2))
    + frame(SETTINGS, 0, 0, setting(4, 0xFFFF) * 200),
    "acknowledgements": frame(SETTINGS, ACK, 0) * 5000,
    "priorities": frame(PRIORITY, 0, 1, b"\0\0\0\0\1") * 5000,
    "windows": frame(WINDOW, 0, 0, word(1)) * 5000,
    "unknown frames": frame(99, 0, 0) * 5000,
    "empty data": begun(1) + frame(DATA, 0, 1) * 5000,
    "data of one byte": begun(1) + frame(DATA, 0, 1, b"\0") * 5000,
    "padding": begun(1) + frame(DATA, PADDED, 1, b"\x09" + b"\0" * 9) * 5000,
    "data of a refused call": begun(1, b"/none") + frame(DATA, 0, 1, b"") * 5000,
}
"""What is no part of a call, again and again (section 10.5)."""


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection(model, name):
    with Wire(model.http_port) as client:
        client.send(FLOODS[name])
        assert client.until(lambda each: each.kind == GOAWAY).code == CALM


def test_a_client_that_takes_an_answer_byte_by_byte_is_closed(model):
    """CVE-2019-9511 and CVE-2019-9517."""
    with Wire(model.http_port, setting(4, 0)) as client:
        client.send(infer(100))
        client.until(lambda each: each.kind == HEADERS)
        client.send(frame(WINDOW, 0, 1, word(1)) * 5000)
        assert client.until(lambda each: each.kind == GOAWAY).code == CALM


def test_calls_of_all_connections_are_counted_and_forgotten(tmp_path):
    with running(build(tmp_path), one_port=True) as found:
        clients = [Client(found.grpc_port, authority=f"host-{number}") for number in range(3)]
        for client in clients:
            assert outputs(client.call("ModelInfer", raw([ROW])))["label"]
        eventually(lambda: found.calls._http2.open == 0)
        with Wire(found.http_port) as stranger:
            stranger.send(*(begun(number) for number in range(1, 21, 2)))
            eventually(lambda: found.calls._http2.open == 10)
            stranger.send(frame(RESET, 0, 1, CANCELLED))
            eventually(lambda: found.calls._http2.open == 9)
        eventually(lambda: found.calls._http2.open == 0)


def test_too_many_calls_of_all_connections_end_the_one_with_most(tmp_path, monkeypatch):
    monkeypatch.setattr(http2, "MAX_CALLS", 30)
    with running(build(tmp_path), one_port=True) as found:
        with Wire(found.http_port) as modest, Wire(found.http_port) as greedy:
            modest.send(begun(1))
            eventually(lambda: found.calls._http2.open == 1)
            greedy.send(*(begun(number) for number in range(1, 61, 2)))
            assert greedy.until(lambda each: each.kind == GOAWAY).code == CALM
            eventually(lambda: found.calls._http2.open == 1)
            modest.send(message(1))
            assert modest.answer(1)[0].endswith(b"\x08\x01")
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]


async def test_calls_that_end_for_others_have_no_deadline_any_more(any_app, monkeypatch):
    monkeypatch.setattr(http2, "MAX_CALLS", 20)
    shared, transport = greeted(any_app[0])
    streams = []
    monkeypatch.setattr(shared.door, "complete", None)
    begin = shared.door.begin
    monkeypatch.setattr(shared.door, "begin", lambda stream: (streams.append(stream), begin(stream)))
    for number in range(1, 43, 2):
        transport.protocol.data_received(begun(number, LIVE, literal(b"grpc-timeout", b"1H")))
    assert next(each for each in parsed(bytes(transport.sent)) if each.kind == GOAWAY).code == CALM
    assert len(streams) == 21
    assert all(stream.ended and (stream.timer is None or stream.timer.cancelled()) for stream in streams)


def test_a_connection_has_so_many_calls_at_once_and_a_client_that_keeps_to_it_loses_none(tmp_path):
    with running(build(tmp_path), one_port=True) as found:
        ask = found.client.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [ask.future(raw([ROW]).SerializeToString(), PATIENCE) for _ in range(600)]
        assert {each.code().name for each in calls} == {"OK"}
        eventually(lambda: found.calls._http2.open == 0)


def test_a_connection_that_leaves_its_calls_again_and_again_is_closed(tmp_path):
    """CVE-2023-44487."""
    with running(build(tmp_path), one_port=True) as found:
        with Wire(found.http_port) as stranger:
            stranger.send(*(begun(n) + frame(RESET, 0, n, CANCELLED) for n in range(1, 2001, 2)))
            assert stranger.until(lambda each: each.kind == GOAWAY).code == CALM
        assert outputs(found.client.call("ModelInfer", raw([ROW])))["label"]
        assert found.calls._service.calls <= 258


BROKEN = {
    "data after its end": lambda n: call(n, WATCH) + message(n),
    "a window that does not grow": lambda n: begun(n, INFER) + frame(WINDOW, 0, n, word(0)),
    "headers that are not well-formed": lambda n: fields(METHOD, SCHEME, KIND, stream=n),
    "a reset of a call that was refused": lambda n: begun(n, b"/none") + frame(RESET, 0, n, CANCELLED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_connection_that_has_its_calls_broken_off_again_and_again_is_closed(model, name):
    """CVE-2025-8671: the server ends the calls because of what the client sends."""
    with Wire(model.http_port) as stranger:
        stranger.send(*(BROKEN[name](number) for number in range(1, 2001, 2)))
        told = [each for each in stranger.frames() if each.kind in {RESET, GOAWAY}]
        assert (told[-1].kind, told[-1].code) == (GOAWAY, CALM)
        assert len(told) <= 258


def test_a_client_that_is_refused_often_is_told_so_each_time(model):
    ask = model.client.channel.unary_unary("/none/None")
    calls = [ask.future(b"", PATIENCE) for _ in range(1000)]
    assert {each.code().name for each in calls} == {"UNIMPLEMENTED"}


def floods() -> dict[str, bytes]:
    """Packets of what is cheap to send: CVE-2023-44487, CVE-2024-27316, and their kin."""
    big = b"\x40\x03x-a" + b"\x7f\xd9\x1c" + b"y" * 3800  # one header that fills most of the table
    return {
        "resets": b"".join(begun(n, INFER) + frame(RESET, 0, n, CANCELLED) for n in range(1, 2001, 2)),
        "continuations": frame(HEADERS, 0, 1, headers()) + frame(CONTINUATION, 0, 1) * 5000,
        "a table as a bomb": begun(1, INFER, big) + b"".join(begun(n, INFER, b"\xbe" * 4000) for n in range(3, 400, 2)),
        "pings": PINGED * 5000,
        "settings": frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff") * 5000,
        "calls without end": b"".join(begun(n, INFER) for n in range(1, 1001, 2)),
        "other headers each time": b"".join(
            call(n, LIVE).replace(b"/inference", b"/%09d" % n) for n in range(1, 2001, 2)
        ),
        "numbers without end": frame(HEADERS, END_HEADERS, 1, b"\xff" * 16384),
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
    assert [line for line in server.lines() if line["level"] == "error"] == []


# -- Time ------------------------------------------------------------------------------------------------------------
def after(found: Any, seconds: float) -> None:
    """Let the server see that so much time has passed."""

    def check() -> None:
        for connection in list(found.calls._http2.connections):
            connection.check(clock() + seconds)

    found.on_loop(check)


def test_settings_that_are_not_acknowledged_in_time_end_the_connection(model):
    """RFC 9113, section 6.5.3."""
    with Wire(model.http_port, acknowledges=False) as client:
        client.until(lambda each: each.kind == SETTINGS and each.flags & ACK)
        after(model, RECEIVE_SECONDS + 1)
        assert client.until(lambda each: each.kind == GOAWAY).code == SETTINGS_TIMEOUT


def test_headers_that_are_not_complete_in_time_end_the_connection(model):
    with Wire(model.http_port) as client:
        client.send(PINGED, frame(HEADERS, 0, 1, headers()))
        client.told()
        after(model, RECEIVE_SECONDS + 1)
        assert client.until(lambda each: each.kind == GOAWAY).code == CALM


def test_a_connection_without_calls_is_closed_after_a_while_and_one_with_a_call_is_asked(model):
    with Wire(model.http_port) as idle, Wire(model.http_port) as watcher:
        watcher.send(watching(1))
        watcher.until(lambda each: each.kind == DATA)
        idle.send(PINGED)
        idle.told()
        after(model, IDLE_SECONDS + 1)
        assert idle.until(lambda each: each.kind == GOAWAY).code == NO_ERROR
        assert not list(idle.frames())
        asked = watcher.until(lambda each: each.kind == PING)
        watcher.send(frame(PING, ACK, 0, asked.payload), PINGED)
        watcher.until(lambda each: each.kind == PING and each.flags & ACK)
        after(model, IDLE_SECONDS + 1)
        watcher.until(lambda each: each.kind == PING)
        after(model, IDLE_SECONDS + WRITE_SECONDS + 1)
        assert not list(watcher.frames())


def test_an_answer_that_its_client_does_not_take_in_time_is_dropped(model):
    with Wire(model.http_port, setting(4, 1)) as client:
        client.send(infer(1))
        client.until(lambda each: each.kind == DATA)
        after(model, WRITE_SECONDS + 1)
        told = client.told()
        assert (told.kind, told.code) == (RESET, CANCEL)
        eventually(lambda: model.calls._http2.open == 0)
        assert model.calls._http2.share.used == 0


# -- Calls that end early --------------------------------------------------------------------------------------------
class Slow(Model):
    """It answers when it is let."""

    cost = Cost(call=1.0, row=0.0)  # so that its calls go to a thread

    def __init__(self) -> None:
        import threading

        super().__init__()
        self.gate = threading.Event()

    def predict(self, rows):
        self.gate.wait(PATIENCE)
        return super().predict(rows)


def test_a_call_that_is_reset_has_no_answer_and_takes_no_room(tmp_path):
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found, Wire(found.http_port) as client:
        client.send(infer(1))
        eventually(lambda: found.calls.waiting == 1)
        client.send(frame(RESET, 0, 1, CANCELLED))
        eventually(lambda: found.calls.waiting == found.calls._http2.open == 0)
        slow.gate.set()
        client.send(infer(1, 3))
        told = client.told()
        assert (told.kind, told.stream) == (HEADERS, 3)


def test_a_call_that_waits_for_its_answer_keeps_no_message(tmp_path):
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found, Wire(found.http_port) as client:
        client.send(infer(1))
        eventually(lambda: found.calls.waiting == 1)
        [connection] = found.calls._http2.connections
        assert [stream.body for stream in connection.streams.values()] == [b""]
        slow.gate.set()
        assert client.answer(1)[0]


def test_a_client_that_is_gone_leaves_nothing(tmp_path):
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found:
        with Wire(found.http_port) as client:
            client.send(infer(1), begun(3, INFER), frame(DATA, 0, 3, b"\0\0\0\xff\xff" + b"x" * 1000))
            eventually(lambda: found.calls.waiting == 1 and found.calls._http2.share.used == 1005)
            client.abort()
        eventually(lambda: found.calls.waiting == found.calls._http2.open == found.calls._http2.share.used == 0)
        slow.gate.set()
        assert not found.front.connections


def test_a_client_that_has_said_all_still_gets_its_answer(tmp_path):
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found, Wire(found.http_port) as client:
        client.send(infer(1), begun(3))
        eventually(lambda: found.calls.waiting == 1)
        client.half_close()
        eventually(lambda: found.calls._http2.open == 1)
        slow.gate.set()
        assert client.answer(1)[0]
        assert not [each for each in client.frames() if each.kind != GOAWAY]


def test_calls_in_flight_are_answered_after_a_goodbye_and_later_ones_are_unavailable(tmp_path):
    """RFC 9113, section 6.8."""
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found, Wire(found.http_port) as client:
        client.send(infer(1))
        eventually(lambda: found.calls.waiting == 1)
        found.on_loop(found.calls.close)
        first = client.told()
        assert (first.kind, first.payload[:4], first.code) == (GOAWAY, b"\x7f\xff\xff\xff", NO_ERROR)
        client.send(call(3), frame(PING, ACK, 0, client.told().payload))
        late = client.told()
        assert (late.stream, b"grpc-status\x0214" in late.payload) == (3, True)
        slow.gate.set()
        assert client.answer(1)[0]
        last = client.told()
        assert (last.kind, last.payload) == (GOAWAY, word(3) + word(NO_ERROR))
        assert not list(client.frames())


# -- Anything at all -------------------------------------------------------------------------------------------------
class Memory(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.ended = bytearray(), False

    def write(self, data):
        self.sent += data

    def can_write_eof(self):
        return True

    def write_eof(self):
        """What comes is still read."""

    def close(self):
        self.ended = True

    abort = close

    def is_closing(self):
        return self.ended

    def get_write_buffer_size(self):
        return 0

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        """It does not matter."""

    resume_reading = pause_reading


def greeted(factory: Any) -> tuple[Any, Memory]:
    """A connection that has sent its settings, and what it writes to."""
    shared, transport = factory(), Memory()
    shared(transport, PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
    return shared, transport


def answers(transport: Memory) -> int:
    return sum(each.kind == HEADERS and each.flags & END_STREAM for each in parsed(bytes(transport.sent)))


async def test_many_calls_in_one_packet_leave_others_their_turn_and_are_all_answered(any_app):
    shared, transport = greeted(any_app[0])
    transport.protocol.data_received(b"".join(call(number) for number in range(1, 201, 2)))
    seen = [answers(transport)]
    for _ in range(100 // 16 + 1):
        await asyncio.sleep(0)
        seen.append(answers(transport))
    assert seen == [16, 32, 48, 64, 80, 96, 100, 100]
    assert shared.share.used == 0


async def test_headers_that_take_long_to_unpack_end_a_turn_sooner(any_app):
    _, transport = greeted(any_app[0])
    size = 7000
    calls = [begun(n, LIVE, field(b"x", b"%d" % n * size)[: size + 10]) + message(n) for n in range(1, 9, 2)]
    transport.protocol.data_received(b"".join(calls))
    seen = [answers(transport)]
    for _ in range(2):
        await asyncio.sleep(0)
        seen.append(answers(transport))
    assert seen == [3, 4, 4]


async def test_a_call_may_come_byte_by_byte(any_app):
    shared, transport = greeted(any_app[0])
    for byte in call(1) + call(3):
        transport.protocol.data_received(bytes([byte]))
    assert (answers(transport), shared.share.used) == (2, 0)


async def test_a_part_of_a_frame_and_of_headers_counts_in_the_budget(any_app):
    shared, transport = greeted(any_app[0])
    transport.protocol.data_received(call(1)[:-1])
    assert shared.share.used == len(message(1)) - 1
    transport.protocol.data_received(call(1)[-1:])
    assert (answers(transport), shared.share.used) == (1, 0)
    transport.protocol.data_received(frame(HEADERS, 0, 3, headers(path=LIVE)))
    assert shared.share.used == len(headers(path=LIVE))
    transport.protocol.data_received(frame(CONTINUATION, END_HEADERS, 3) + message(3))
    assert (answers(transport), shared.share.used) == (2, 0)


async def test_a_part_of_a_frame_ends_its_connection_if_there_is_no_room(any_app):
    shared, transport = greeted(any_app[0])
    largest = 1 << 40
    shared.share.take(largest)
    transport.protocol.data_received(call(1))
    assert answers(transport) == 1
    transport.protocol.data_received(call(3)[:-1])
    assert next(each for each in parsed(bytes(transport.sent)) if each.kind == GOAWAY).code == CALM
    shared.share.take(-largest)
    assert shared.share.used == 0


async def test_calls_of_a_client_that_is_gone_are_not_begun(any_app):
    shared, transport = greeted(any_app[0])
    transport.protocol.data_received(b"".join(call(number) for number in range(1, 201, 2)))
    assert shared.share.used == sum(len(call(number)) for number in range(33, 201, 2))
    transport.ended = True
    transport.protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert (answers(transport), shared.open, shared.share.used) == (16, 0, 0)


async def test_a_client_that_has_said_many_things_still_gets_its_answers(any_app):
    _, transport = greeted(any_app[0])
    transport.protocol.data_received(b"".join(call(number) for number in range(1, 201, 2)))
    assert transport.protocol.eof_received()
    for _ in range(100 // 16 + 1):
        await asyncio.sleep(0)
    assert (answers(transport), transport.ended) == (100, True)


async def test_calls_that_wait_for_their_turn_count_in_the_budget(any_app):
    shared, transport = greeted(any_app[0])
    largest = 1 << 40
    shared.share.take(largest)
    transport.protocol.data_received(b"".join(call(number) for number in range(1, 201, 2)))
    assert next(each for each in parsed(bytes(transport.sent)) if each.kind == GOAWAY).code == CALM
    shared.share.take(-largest)
    assert shared.share.used == 0


STREAMS = st.integers(0, 9)
FLAGS, WORDS = st.integers(0, 255), st.integers(0, (1 << 32) - 1)
PIECES = st.one_of(
    st.builds(frame, st.integers(0, 11), FLAGS, STREAMS, st.binary(max_size=40)),
    st.builds(lambda n, flags, more: frame(HEADERS, flags, n, headers(more, LIVE)), STREAMS, FLAGS, st.binary()),
    st.builds(
        lambda n, flags, sent: frame(DATA, flags, n, b"\0" + word(len(sent)) + sent), STREAMS, FLAGS, st.binary()
    ),
    st.builds(lambda n, more: frame(WINDOW, 0, n, word(more)), STREAMS, WORDS),
    st.builds(lambda name, value: frame(SETTINGS, 0, 0, setting(name, value)), st.integers(0, 8), WORDS),
    st.builds(call, STREAMS, st.sampled_from([LIVE, INFER, WATCH, b"/none", b"*"])),
    st.builds(lambda content: call(1, INFER, content), st.binary(max_size=60)),
    st.binary(max_size=60),
)


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 400), max_size=6))
def test_whatever_is_sent_is_answered_or_ends_the_connection_and_is_no_unexpected_error(any_app, pieces, cuts):
    factory, logged = any_app
    data = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0) + b"".join(pieces)

    async def feed() -> Memory:
        transport = Memory()
        shared = factory()
        places = sorted({min(cut, len(data)) for cut in cuts} | {1, len(data)})
        shared(transport, data[: places[0]])
        for start, end in pairwise(places):
            transport.protocol.data_received(data[start:end])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for connection in list(shared.connections):
            connection.check(clock())
            connection.connection_lost(None)
        assert (shared.open, shared.share.used, shared.connections) == (0, 0, set())
        return transport

    sent = list(parsed(bytes(asyncio.run(feed()).sent)))
    assert sent[0].kind == SETTINGS
    assert all(isinstance(each, Frame) for each in sent)
    assert logged == []


async def test_an_error_that_nobody_expected_is_logged_and_ends_its_call_alone(any_app, monkeypatch):
    factory, logged = any_app
    monkeypatch.setattr(Engine, "ready", property(lambda _: 1 // 0))
    _, transport = greeted(factory)
    transport.protocol.data_received(call(1, WATCH.replace(b"Watch", b"Check")) + call(3))
    told = [each for each in parsed(bytes(transport.sent)) if each.kind == HEADERS and each.flags & END_STREAM]
    assert [(each.stream, b"grpc-status\x0213" in each.payload) for each in told] == [(1, True), (3, False)]
    assert [logged.pop()["message"], logged] == ["unexpected error", []]


@pytest.fixture(scope="module")
def any_app(tmp_path_factory):
    from modelworks.runtime.server.app import listener
    from modelworks.runtime.server.http2 import Http2
    from modelworks.runtime.server.v2_grpc import OpenInferenceService

    app = small.build(tmp_path_factory.mktemp("app"))
    logged: list[dict[str, Any]] = []

    def say(level: str, message: str, **fields: Any) -> None:
        logged.append({"level": level, "message": message, **fields})

    def factory() -> Http2:
        service = OpenInferenceService(app.engine, app.served, None, say)
        front = listener(app)
        return Http2(front, service, front.share)

    return factory, logged


# -- Clients of grpcio -----------------------------------------------------------------------------------------------
def test_messages_of_several_megabytes_go_both_ways(tmp_path):
    size = 6 << 20
    with running(small.build(tmp_path, max_body_bytes=size + 10_000), one_port=True) as found:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{found.http_port}", options) as channel:
            asked = messages.ModelInferRequest(model_name="tiny", id="x" * size)
            asked.inputs.add(name="x", datatype="FP64", shape=[1]).contents.fp64_contents.append(1)
            ask = channel.unary_unary(INFER.decode())
            answers = [ask.future(asked.SerializeToString(), PATIENCE) for _ in range(3)]
            assert all(len(each.result()) > size for each in answers)
        eventually(lambda: found.calls._http2.share.used == 0)


@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression])
def test_messages_may_be_compressed(model, how):
    with grpc.insecure_channel(f"127.0.0.1:{model.http_port}", compression=how) as channel:
        asked = raw([ROW] * 100).SerializeToString()
        assert channel.unary_unary(INFER.decode())(asked, PATIENCE)


async def test_the_aio_client_gets_its_answers_too(model):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{model.http_port}") as channel:
        ask = channel.unary_unary(INFER.decode())
        asked = raw([ROW]).SerializeToString()
        assert all(await asyncio.gather(*(ask(asked, timeout=PATIENCE) for _ in range(300))))


def test_a_deadline_that_passes_while_the_model_works_is_told_and_the_answer_dropped(tmp_path):
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found:
        with grpc.insecure_channel(f"127.0.0.1:{found.http_port}") as channel:
            with pytest.raises(grpc.RpcError) as late:
                channel.unary_unary(INFER.decode())(raw([ROW]).SerializeToString(), 0.2)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: found.calls.waiting == found.calls._http2.open == 0)
        slow.gate.set()
        assert found.client.call("ServerLive").live


def test_the_server_itself_ends_a_call_at_its_deadline(tmp_path):
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found, Wire(found.http_port) as client:
        more = literal(b"grpc-timeout", b"50m")
        content = raw([ROW]).SerializeToString()
        client.send(begun(1, INFER, more), message(1, content))
        told = client.told()
        assert (told.kind, told.flags & END_STREAM, b"grpc-status\x014" in told.payload) == (HEADERS, END_STREAM, True)
        slow.gate.set()


@pytest.mark.parametrize("timeout", [b"0H", b"0M", b"0S", b"1m", b"1u", b"99n"])
def test_a_deadline_may_be_in_any_unit(model, timeout):
    with Wire(model.http_port) as client:
        client.send(begun(1, INFER, literal(b"grpc-timeout", timeout)))
        assert literal(b"grpc-status", b"4") in client.told().payload


def test_a_call_that_its_caller_cancels_takes_no_room(tmp_path):
    slow = Slow()
    with running(build(tmp_path, model=slow), one_port=True) as found:
        with grpc.insecure_channel(f"127.0.0.1:{found.http_port}") as channel:
            call_ = channel.unary_unary(INFER.decode()).future(raw([ROW]).SerializeToString(), PATIENCE)
            eventually(lambda: found.calls.waiting == 1)
            call_.cancel()
            eventually(lambda: found.calls.waiting == found.calls._http2.open == 0)
        slow.gate.set()


def test_a_client_may_ask_whether_the_server_is_there(model):
    options = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{model.http_port}", options) as channel:
        ask = channel.unary_unary(LIVE.decode())
        assert ask(b"", PATIENCE)
        assert ask(b"", PATIENCE)


# -- gRPC over HTTP/2 (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) ---------------------------------------
def refused(model: Any, sent: bytes) -> bytes:
    """The only frame of an answer without a message."""
    with Wire(model.http_port) as client:
        client.send(sent)
        told = client.told()
        assert (told.kind, told.flags) == (HEADERS, END_HEADERS | END_STREAM)
        assert told.payload.startswith(b"\x88")
        return told.payload


def compressed(coding: bytes, content: bytes, flag: int = 1) -> bytes:
    framed = bytes([flag]) + word(len(content)) + content
    return begun(1, INFER, literal(b"grpc-encoding", coding)) + frame(DATA, END_STREAM, 1, framed)


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (begun(1, b"/none/None"), 12, b"Method not found!"),
        (begun(1, LIVE, literal(b"grpc-timeout", b"123456789S")), 3, b"grpc-timeout is not well-formed"),
        (begun(1, INFER) + frame(DATA, 0, 1, b"\0\x7f\xff\xff\xff"), 8, b"the message is larger than 1048576 bytes"),
        (begun(1, INFER) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\5ab"), 3, b"the call ends within its message"),
        (begun(1, INFER) + frame(DATA, END_STREAM, 1, b"\0\0"), 3, b"the call ends within its message"),
        (begun(1, INFER) + frame(DATA, END_STREAM, 1, EMPTY * 2), 12, b"a call has one message"),
        (compressed(b"identity", b"abc"), 3, b"the message is compressed without a grpc-encoding"),
        (compressed(b"gzip", b"abc", 2), 3, b"the message is compressed without a grpc-encoding"),
        (compressed(b"snappy", b"abc"), 12, b"messages may be identity, deflate, gzip"),
        (compressed(b"gzip", b"abc"), 3, b"the message cannot be decompressed"),
    ],
)
def test_what_is_no_call_is_refused_in_trailers_alone(model, sent, status, said):
    answer = refused(model, sent)
    number = b"%d" % status
    assert literal(b"grpc-status", number) in answer
    assert literal(b"grpc-message", said) in answer
    assert literal(b"grpc-accept-encoding", b"identity, deflate, gzip") in answer


def test_a_message_that_inflates_beyond_the_limit_is_refused_and_little_of_it_inflated(model):
    import gzip

    bomb = gzip.compress(bytes(100 << 20), 9)
    assert literal(b"grpc-status", b"8") in refused(model, _in_frames(bomb))


def _in_frames(content: bytes) -> bytes:
    framed = b"\1" + word(len(content)) + content
    parts = [framed[start : start + 16384] for start in range(0, len(framed), 16384)]
    return begun(1, INFER, literal(b"grpc-encoding", b"gzip")) + b"".join(
        frame(DATA, END_STREAM * (number == len(parts) - 1), 1, part) for number, part in enumerate(parts)
    )


def test_a_gzip_message_with_something_behind_it_is_refused(model):
    import gzip

    assert b"cannot be decompressed" in refused(model, compressed(b"gzip", gzip.compress(b"") + b"x"))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({b"content-type": b"application/json"}, b"415"),
        ({b"content-type": b""}, b"415"),
        ({b":method": b"GET"}, b"405"),
    ],
)
def test_what_is_not_grpc_is_answered_as_http(model, changes, status):
    given = {**dict([METHOD, SCHEME, PATH, KIND]), **changes}
    with Wire(model.http_port) as client:
        client.send(fields(*given.items()))
        assert literal(b":status", status) in client.told().payload
        client.until(lambda each: each.kind == DATA and each.flags & END_STREAM)
        client.send(call(3))
        assert client.answer(3)[0].endswith(b"\x08\x01")


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_the_content_type_may_say_more(model, kind):
    with Wire(model.http_port) as client:
        client.send(fields(METHOD, SCHEME, PATH, (b"content-type", kind)))
        assert client.answer(1)[0].endswith(b"\x08\x01")


def test_binary_metadata_is_taken(model):
    ask = model.client.channel.unary_unary(LIVE.decode())
    assert ask(b"", PATIENCE, [("x-trace-bin", bytes(range(256)))])
