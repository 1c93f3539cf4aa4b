"""Who is let in, over real sockets: decided once, never by what a file happens to lack."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime.schema import openapi
from modelworks.runtime.serve import _beat
from modelworks.runtime.server.config import read_config
from modelworks.runtime.server.logs import Scribe
from runtime import small
from runtime.small import answer, ask, connected, get, listening, post
from waiting import PATIENCE

TOKEN = b"authorization: Bearer secret"


@pytest.fixture
def tokens(tmp_path) -> Path:
    """A file with one token."""
    file = tmp_path / "tokens"
    file.write_text("secret\n")
    return file


@pytest.fixture
def closed(tmp_path, tokens):
    """An app that lets one token in."""
    return small.build(tmp_path, token_file=tokens)


# -- The decision ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", ["", "\n", "  \n\t\n", "\r\n"])
def test_a_file_without_a_token_is_refused_at_the_start(tmp_path, tokens, content):
    tokens.write_text(content)
    with pytest.raises(ModelworksError, match="has no token"):
        small.build(tmp_path, token_file=tokens)


def test_a_file_that_is_not_there_is_refused_at_the_start(tmp_path):
    with pytest.raises(ModelworksError, match="cannot be read: No such file"):
        small.build(tmp_path, token_file=tmp_path / "nothing")


def test_neither_tokens_nor_anonymous_is_refused(tmp_path):
    with pytest.raises(ModelworksError, match="access needs a token file"):
        small.build(tmp_path, allow_anonymous=False)


@pytest.mark.parametrize("content", ["", "\n", "  \n\t\n"])
async def test_a_file_that_is_emptied_locks_and_says_so(closed, tokens, content):
    async with listening(closed) as (_, port):
        assert (await ask(port, post(TOKEN)))[0] == 200
        tokens.write_text(content)
        closed.tick()
        assert (await ask(port, post(TOKEN)))[0] == 401
        assert (await ask(port, post()))[0] == 401
        assert (await ask(port, post(b"authorization: Bearer ")))[0] == 401
        assert (await ask(port, get(b"/metrics")))[0] == 401
        assert (await ask(port, get(b"/livez")))[0] == 200
    assert "the token file has no token; every request is refused" in small.logged(closed)


async def test_a_file_that_was_emptied_opens_for_the_tokens_that_come_back(closed, tokens):
    async with listening(closed) as (_, port):
        tokens.write_text("")
        closed.tick()
        tokens.write_text("other\n")
        closed.tick()
        assert (await ask(port, post(TOKEN)))[0] == 401
        assert (await ask(port, post(b"authorization: Bearer other")))[0] == 200


async def test_a_file_that_disappears_leaves_its_tokens_and_is_logged_once(closed, tokens):
    async with listening(closed) as (_, port):
        tokens.unlink()
        closed.tick()
        closed.tick()
        assert (await ask(port, post(TOKEN)))[0] == 200
        assert (await ask(port, post()))[0] == 401
        tokens.write_text("other\n")
        closed.tick()
        assert (await ask(port, post(TOKEN)))[0] == 401
    assert small.logged(closed).count("the token file cannot be read; the last tokens stay valid") == 1
    assert "the token file can be read again" in small.logged(closed)


async def test_everyone_is_let_in_by_decision_alone(tmp_path, tokens):
    tokens.write_text("")
    app = small.build(tmp_path, allow_anonymous=True, token_file=tokens)
    async with listening(app) as (_, port):
        assert (await ask(port, post()))[0] == 200
    assert "everyone is let in: the token file is not used" in small.logged(app)


@pytest.mark.parametrize(("value", "allowed"), [("true", True), ("false", False)])
def test_the_variable_alone_decides(tokens, value, allowed):
    environ = {
        contract.ENV_TOKEN_FILE: str(tokens),
        contract.ENV_ALLOW_ANONYMOUS: value,
        contract.ENV_BUNDLE_DIGEST: "sha256:" + "0" * 64,
        contract.ENV_BUNDLE_URI: "here",
        contract.ENV_MODEL: "tiny",
    }
    assert read_config(environ).allow_anonymous is allowed


async def test_a_chore_that_fails_ends_no_other(monkeypatch):
    scribe, ran = Scribe(), asyncio.Event()
    beats: list[str] = []

    def tick() -> None:
        beats.append("tick")
        if len(beats) > 2:
            ran.set()
        raise RuntimeError("no luck")

    task = asyncio.create_task(_beat(tick, lambda: None, 0.0, scribe))
    await asyncio.wait_for(ran.wait(), PATIENCE)
    assert not task.done()
    task.cancel()
    assert b"housekeeping failed" in scribe._lines[0]
    assert b"RuntimeError: no luck" in scribe._lines[0]


# -- Judged by the head ----------------------------------------------------------------------------------------------
async def test_a_stranger_is_refused_before_the_body_is_read(closed):
    async with listening(closed) as (_, port), connected(port) as (reader, writer):
        writer.write(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        status, head, _ = await answer(reader)
        assert status == 401
        assert b"www-authenticate: Bearer" in head
        writer.write(b"x" * 1000 + post(TOKEN))
        assert (await answer(reader))[0] == 200


async def test_a_strangers_body_takes_no_memory(closed):
    async with listening(closed) as (front, port), connected(port) as (reader, writer):
        writer.write(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n" + b"x" * 400_000)
        assert (await answer(reader))[0] == 401
        await asyncio.wait_for(ask(port, get(b"/livez")), PATIENCE)
        [connection] = [each for each in front.connections if each._dropping]
        assert connection._body == b""


async def test_a_stranger_is_not_asked_to_continue(closed):
    async with listening(closed) as (_, port), connected(port) as (reader, writer):
        writer.write(post(b"expect: 100-continue", body=b"")[:-4] + b"\r\n\r\n")
        status, head, _ = await answer(reader)
        assert status == 401
        assert b"connection: close" in head
        assert await reader.read() == b""


async def test_a_stranger_with_too_much_is_a_stranger_first(closed):
    async with listening(closed) as (_, port):
        request = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n"
        status, head, _ = await ask(port, request)
        assert status == 401
        assert b"connection: close" in head
        assert (await ask(port, request[:-2] + TOKEN + b"\r\n\r\n"))[0] == 413


async def test_a_strangers_endless_body_ends_the_connection_with_one_answer(tmp_path, tokens):
    app = small.build(tmp_path, token_file=tokens, max_body_bytes=2048)
    async with listening(app) as (_, port), connected(port) as (reader, writer):
        writer.write(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        assert (await answer(reader))[0] == 401
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""


async def test_a_refusal_waits_for_the_answers_before_it(closed):
    async with listening(closed) as (_, port), connected(port) as (reader, writer):
        writer.write(post(TOKEN) + post() + post(TOKEN))
        assert [(await answer(reader))[0] for _ in range(3)] == [200, 401, 200]


async def test_two_authorizations_are_refused(closed):
    async with listening(closed) as (_, port):
        for headers in ((TOKEN, b"authorization: Bearer x"), (b"authorization: Bearer x", TOKEN), (TOKEN, TOKEN)):
            status, _, body = await ask(port, post(*headers))
            assert status == 400
            assert json.loads(body)["detail"] == "authorization is there more than once"


CHUNKED = b'POST /v1/predict HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n8\r\n{"x": 1}\r\n0\r\n'


async def test_a_trailer_is_no_header(closed):
    async with listening(closed) as (_, port):
        status, head, _ = await ask(port, CHUNKED % b"" + TOKEN + b"\r\n\r\n")
        assert status == 401
        named = TOKEN + b"\r\nx-request-id: mine\r\n"
        status, head, _ = await ask(port, CHUNKED % named + b"x-request-id: other\r\nauthorization: Bearer x\r\n\r\n")
        assert status == 200
        assert b"x-request-id: mine" in head


async def test_a_trailer_is_no_header_of_the_next_request(closed):
    async with listening(closed) as (_, port), connected(port) as (reader, writer):
        writer.write(CHUNKED % (TOKEN + b"\r\n") + TOKEN + b"\r\n\r\n" + post())
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 401]


@pytest.mark.parametrize("endless", [b"x: %b\r\n" % (b"y" * 1000), b"1;%b\r\nz\r\n" % (b"y" * 1000)])
async def test_trailers_and_chunk_extensions_have_a_bound(closed, endless):
    start = CHUNKED % (TOKEN + b"\r\n")
    start = start if endless.startswith(b"x") else start.removesuffix(b"0\r\n")
    async with listening(closed) as (_, port), connected(port) as (reader, writer):
        writer.write(start)
        for _ in range(40):
            writer.write(endless)
            await writer.drain()
            await asyncio.sleep(0)
        assert (await answer(reader))[0] == 431


# -- What is said of it ----------------------------------------------------------------------------------------------
def uses_of_tokens(api: dict[str, Any]) -> tuple[bool, bool, bool]:
    answers = api["paths"]["/v1/predict"]["post"]["responses"]
    return "security" in api, "securitySchemes" in api["components"], "401" in answers


def test_the_description_asks_for_a_token_only_where_one_is_needed():
    assert uses_of_tokens(openapi(small.MANIFEST, "1", needs_token=True)) == (True, True, True)
    assert uses_of_tokens(openapi(small.MANIFEST, "1", needs_token=False)) == (False, False, False)


async def test_an_open_server_describes_itself_as_open(tmp_path, closed):
    async with listening(small.build(tmp_path)) as (_, port):
        assert uses_of_tokens(json.loads((await ask(port, get(b"/openapi.json")))[2])) == (False, False, False)
    async with listening(closed) as (_, port):
        assert uses_of_tokens(json.loads((await ask(port, get(b"/openapi.json", TOKEN)))[2])) == (True, True, True)
