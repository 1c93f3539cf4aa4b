"""What RFC 9110 and RFC 9112 demand of a server, each case with its section, over a real socket."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

import pytest

from runtime import small
from runtime.small import BODY, answer, connected, listening
from waiting import PATIENCE

CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"8\r\n" + BODY + b"\r\n0\r\n\r\n"
UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


class Case(NamedTuple):
    """A request, and what must come of it."""

    section: str
    claim: str
    sent: bytes
    statuses: tuple[int, ...]
    stays: bool
    """Whether the connection then takes another request."""


def get(headers: bytes = b"host: x\r\n", line: bytes = b"GET /livez HTTP/1.1") -> bytes:
    return line + b"\r\n" + headers + b"\r\n"


def post(headers: bytes = b"", length: bytes | None = None, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    length = b"content-length: %d\r\n" % len(body) if length is None else length
    return b"POST /v1/predict HTTP/%b\r\nhost: x\r\n%b%b\r\n%b" % (version, headers, length, body)


def chunked(chunks: bytes, coding: bytes = CHUNKED, version: bytes = b"1.1") -> bytes:
    return post(coding, b"", chunks, version)


CASES = [
    # -- Message format
    Case("9112 2.2", "empty lines before a request are ignored", b"\r\n" + get(), (200,), True),
    Case("9112 2.2", "a bare CR is no end of a line", get(b"host: x\r\na: b\rc\r\n"), (400,), False),
    Case("9112 2.2", "no whitespace before the first header", get(b" host: x\r\n"), (400,), False),
    Case("9112 2.3", "the name of the protocol has its case", get(line=b"GET /livez http/1.1"), (400,), False),
    Case("9112 2.3", "another major version is refused", get(line=b"GET /livez HTTP/2.0"), (505,), False),
    Case("9112 3", "a target has no whitespace", get(line=b"GET /li vez HTTP/1.1"), (400,), False),
    Case("9112 3", "a target is no word", get(line=b"GET livez HTTP/1.1"), (400,), False),
    # -- Targets and Host
    Case("9112 3.2", "a request without Host is refused", get(b""), (400,), False),
    Case("9112 3.2", "a request with two Hosts is refused", get(b"host: x\r\nhost: x\r\n"), (400,), False),
    Case("9112 3.2", "a Host of two words is refused", get(b"host: a b\r\n"), (400,), False),
    Case("9112 3.2", "a Host with a path is refused", get(b"host: x/y\r\n"), (400,), False),
    Case("9112 3.2", "a Host with a user is refused", get(b"host: a@b\r\n"), (400,), False),
    Case("9112 3.2", "a Host may be empty", get(b"host:\r\n"), (200,), True),
    Case("9112 3.2", "a Host may be an address", get(b"host: [::1]:8080\r\n"), (200,), True),
    Case("9112 3.2.2", "a target may be absolute", get(line=b"GET http://x/livez HTTP/1.1"), (200,), True),
    Case("9112 3.2.2", "with port and query", get(line=b"GET HTTPS://x:1/livez?a=b HTTP/1.1"), (200,), True),
    Case("9112 3.2.2", "without a path it is the root", get(line=b"GET http://x HTTP/1.1"), (200,), True),
    Case("9112 3.2.3", "there are no tunnels", get(line=b"CONNECT x:80 HTTP/1.1"), (404,), False),
    Case("9112 3.2.4", "OPTIONS of the server is answered", get(line=b"OPTIONS * HTTP/1.1"), (404,), True),
    # -- Fields
    Case("9112 5.1", "no whitespace before the colon", get(b"host: x\r\na : b\r\n"), (400,), False),
    Case("9112 5.1", "a field has a colon", get(b"host: x\r\nabc\r\n"), (400,), False),
    Case("9112 5.2", "a folded line is refused", get(b"host: x\r\na: b\r\n c\r\n"), (400,), False),
    Case("9110 5.5", "no value has a NUL", get(b"host: x\r\na: b\0c\r\n"), (400,), False),
    Case("9110 5.5", "a value may have any other byte", get(b"host: x\r\na: \xff\r\n"), (200,), True),
    Case("9110 5.6.2", "a name is a token", get(b"host: x\r\na(b): c\r\n"), (400,), False),
    Case(
        "9110 5.3",
        "a second Authorization is refused",
        get(b"host: x\r\n" + b"authorization: a\r\n" * 2),
        (400,),
        False,
    ),
    # -- The length of a body
    Case("9112 6.1", "two lengths are one too many", post(CHUNKED, body=CHUNKS), (400,), False),
    Case("9112 6.1", "unknown codings are not implemented", post(b"transfer-encoding: foo\r\n", b""), (501,), False),
    Case("9112 6.1", "nor is gzip", chunked(CHUNKS, b"transfer-encoding: gzip, chunked\r\n"), (501,), False),
    Case("9112 6.1", "in a line of its own", chunked(CHUNKS, b"transfer-encoding: gzip\r\n" + CHUNKED), (501,), False),
    Case("9112 6.1", "chunked is the last", chunked(CHUNKS, b"transfer-encoding: chunked, gzip\r\n"), (400,), False),
    Case("9112 6.1", "and only there once", chunked(CHUNKS, b"transfer-encoding: chunked, chunked\r\n"), (400,), False),
    Case("9112 6.1", "names of codings have no case", chunked(CHUNKS, CHUNKED.upper()), (200,), True),
    Case("9112 6.1", "no name has hidden bytes", chunked(CHUNKS, b"transfer-encoding: \x0bchunked\r\n"), (400,), False),
    Case("9112 6.1", "HTTP/1.0 has no codings", chunked(CHUNKS, version=b"1.0"), (400,), False),
    Case("9112 6.3", "lengths that differ are refused", post(b"content-length: 3\r\n"), (400,), False),
    Case("9112 6.3", "and so are those in a list", post(length=b"content-length: 8, 9\r\n"), (400,), False),
    Case("9112 6.3", "a length has no sign", post(length=b"content-length: +8\r\n"), (400,), False),
    Case("9112 6.3", "nor a minus", post(length=b"content-length: -8\r\n"), (400,), False),
    Case("9112 6.3", "it is decimal", post(length=b"content-length: 0x8\r\n"), (400,), False),
    Case("9112 6.3", "and not empty", post(length=b"content-length:\r\n"), (400,), False),
    Case("9110 8.6", "it does not overflow", post(length=b"content-length: 18446744073709551624\r\n"), (400,), False),
    Case("9110 8.6", "its digits are ASCII", post(length="content-length: ٨\r\n".encode()), (400,), False),
    Case("9112 6.3", "without a length there is no body", get(line=b"GET /livez HTTP/1.1") + get(), (200, 200), True),
    Case("9110 9.3.1", "the body of a GET is read", get(b"host: x\r\ncontent-length: 3\r\n") + b"abc", (200,), True),
    # -- Chunks
    Case(
        "9112 7.1",
        "chunks are one body",
        chunked(b"3\r\n" + BODY[:3] + b"\r\n5\r\n" + BODY[3:] + b"\r\n0\r\n\r\n"),
        (200,),
        True,
    ),
    Case("9112 7.1", "a size may begin with zeros", chunked(b"000" + CHUNKS), (200,), True),
    Case("9112 7.1.1", "unknown extensions are ignored", chunked(b'8;a=b;c="d"' + CHUNKS[1:]), (200,), True),
    Case("9112 7.1", "a chunk ends with CRLF", chunked(b"8\r\n" + BODY + b"0\r\n\r\n"), (400,), False),
    Case("9112 7.1", "and not with CR", chunked(b"8\r\n" + BODY + b"\r0\r\n\r\n"), (400,), False),
    Case("9112 7.1", "nor a size with LF", chunked(CHUNKS.replace(b"\r\n", b"\n")), (400,), False),
    Case("9112 7.1.1", "nor an extension", chunked(b"8;a\n" + CHUNKS[3:]), (400,), False),
    Case("9112 7.1", "a size has no sign", chunked(b"-" + CHUNKS), (400,), False),
    Case("9112 7.1", "and no prefix", chunked(b"0x" + CHUNKS), (400,), False),
    Case("9112 7.1", "it does not overflow", chunked(b"fffffffffffffffff\r\n" + BODY), (400,), False),
    Case("9112 7.1.2", "trailers are read", chunked(CHUNKS[:-2] + b"a: b\r\n\r\n"), (200,), True),
    Case("9112 7.1.2", "up to a bound", chunked(CHUNKS[:-2] + b"a: b\r\n" * 300 + b"\r\n"), (431,), False),
    Case("9110 5.4", "headers have the same bound", get(b"host: x\r\n" + b"a: b\r\n" * 300), (431,), False),
    Case("9112 7.1.2", "and have the form of headers", chunked(CHUNKS[:-2] + b"a b\r\n\r\n"), (400,), False),
    Case("9110 6.5.1", "no trailer has a length", chunked(CHUNKS[:-2] + b"content-length: 3\r\n\r\n"), (400,), False),
    # -- Connections
    Case("9112 9.3", "a connection persists", get() + get(), (200, 200), True),
    Case("9112 9.3", "one of HTTP/1.0 does not", get(b"", b"GET /livez HTTP/1.0"), (200,), False),
    Case("9112 9.3", "unless it asks", get(b"connection: Keep-Alive\r\n", b"GET /livez HTTP/1.0"), (200,), True),
    Case("9112 9.6", "close is the last", get(b"host: x\r\nconnection: close\r\n") + get(), (200,), False),
    Case("9112 9.6", "in any case and list", get(b"host: x\r\nconnection: a, Close\r\n") + get(), (200,), False),
    Case(
        "9112 9.3.2",
        "a pipeline is answered in order",
        get() + post() + get(line=b"GET /no HTTP/1.1"),
        (200, 200, 404),
        True,
    ),
    # -- Methods and what is asked for
    Case("9110 9.1", "methods have their case", get(line=b"get /livez HTTP/1.1"), (400,), False),
    Case("9110 15.5.6", "a method that is not for it", get(line=b"DELETE /v1/predict HTTP/1.1"), (405,), True),
    Case("9110 15.5.6", "nor for a probe", get(line=b"DELETE /readyz HTTP/1.1"), (405,), True),
    Case(
        "9110 7.8",
        "an upgrade is ignored",
        get(b"host: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
        (200,),
        False,
    ),
    Case("9110 7.8", "also with a body, as Java sends it", post(UPGRADE), (200,), False),
    Case("9110 7.8", "in chunks", chunked(CHUNKS, UPGRADE + CHUNKED), (200,), False),
    Case("9110 7.8", "without Connection it is none", post(b"upgrade: h2c\r\n"), (200,), True),
    Case("9110 15.5.16", "a body in a content coding is refused", post(b"content-encoding: gzip\r\n"), (415,), True),
    Case("9110 8.4.1", "identity is none", post(b"content-encoding: identity\r\n"), (200,), True),
    Case("9110 10.1.1", "HTTP/1.0 expects nothing", post(b"expect: 100-continue\r\n", version=b"1.0"), (200,), False),
]


@pytest.fixture
def app(tmp_path):
    return small.build(tmp_path)


async def everything(sent: bytes, port: int) -> bytes:
    """All answers to these bytes, up to the end of the connection."""
    async with connected(port) as (reader, writer):
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), PATIENCE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section}: {case.claim}")
async def test_a_request_is_answered_as_its_rfc_demands(app, case):
    async with listening(app) as (_, port):
        # Its own status tells whether one more request was read.
        last = get(b"host: x\r\nconnection: close\r\n", b"GET /last HTTP/1.1")
        found = await everything(case.sent + last, port)
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]
    assert statuses == [*case.statuses, *([404] if case.stays else [])]
    assert found.count(b"connection: close") == 1


async def test_a_body_after_an_upgrade_may_come_later_and_in_pieces(app):
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        head, body = post(UPGRADE)[: -len(BODY)], BODY
        for piece in (head[:60], head[60:], body[:3], body[3:]):
            writer.write(piece)
            await asyncio.sleep(0.02)
        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""


async def test_an_upgrade_keeps_the_bounds_of_bodies(tmp_path):
    async with listening(small.build(tmp_path, max_body_bytes=100)) as (_, port):
        assert b" 413 " in await everything(post(UPGRADE, body=b"x" * 200), port)
        assert b" 413 " in await everything(chunked(b"c8\r\n" + b"x" * 200, UPGRADE + CHUNKED), port)


async def test_an_upgrade_without_a_token_is_refused_by_its_head(tmp_path):
    (tmp_path / "tokens").write_text("secret")
    async with listening(small.build(tmp_path, token_file=tmp_path / "tokens")) as (_, port):
        assert b" 401 " in await everything(post(UPGRADE), port)


async def test_an_expectation_is_met_before_the_body(app):
    """RFC 9110, section 10.1.1."""
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        head = post(b"expect: 100-continue\r\n")[: -len(BODY)]
        writer.write(head)
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize(
    ("section", "sent", "header"),
    [
        ("9110 10.2.1", get(line=b"DELETE /v1/predict HTTP/1.1"), b"allow: POST"),
        ("9110 10.2.1", get(line=b"DELETE /readyz HTTP/1.1"), b"allow: GET, HEAD"),
        ("9110 6.6.1", get(), b"date: "),
        ("9110 12.5.3", post(b"content-encoding: br\r\n"), b"accept-encoding: identity"),
        ("9112 9.3", get(b"connection: keep-alive\r\n", b"GET /livez HTTP/1.0"), b"connection: keep-alive"),
    ],
)
async def test_an_answer_has_the_header_that_its_section_demands(app, section, sent, header):
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(sent)
        assert header in (await answer(reader))[1], section


async def test_a_challenge_comes_with_401(tmp_path):
    """RFC 9110, section 11.6.1."""
    (tmp_path / "tokens").write_text("secret")
    async with listening(small.build(tmp_path, token_file=tmp_path / "tokens")) as (_, port):
        assert b"www-authenticate: Bearer" in await everything(post(b"connection: close\r\n"), port)


@pytest.mark.parametrize("path", [b"/livez", b"/v1/schema", b"/v2", b"/no", b"/metrics"])
async def test_head_is_get_without_a_body(app, path):
    """RFC 9110, section 9.3.2."""
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(get(line=b"HEAD %b HTTP/1.1" % path))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        writer.write(get(b"host: x\r\nconnection: close\r\n", b"GET %b HTTP/1.1" % path))
        same = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.split(b"\r\n")[0] == same.split(b"\r\n")[0]
        assert re.search(rb"content-length: \d+", head).group() == re.search(rb"content-length: \d+", same).group()
