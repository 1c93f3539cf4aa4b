"""How a pod fetches its bundle from S3 with a role that may read objects and list none.

To such a role S3 answers 403 for a key that is missing, and never 404: "GetObject" in the API reference of S3.
"""

from __future__ import annotations

import http.server
import re
import threading

import pytest

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime import publisher
from modelworks.runtime.server.config import Config, read_config

DIGEST = "sha256:" + "ab" * 32
KEY = "/store/bundles/m/b.bento"
BUNDLE = b"the bundle"
REFUSAL = b"<Error><Code>%b</Code><Message>%b</Message></Error>"


@pytest.fixture
def store(monkeypatch):
    """A store on loopback, and what it holds: an object, or the refusal that a key gets, by path."""
    held: dict[str, bytes | tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = held[self.path]
            status, body = found if isinstance(found, tuple) else (200, found)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield held
    server.shutdown()
    server.server_close()


def refusal(status: int, code: bytes) -> tuple[int, bytes]:
    return status, REFUSAL % (code, code)


DENIED, MISSING = refusal(403, b"AccessDenied"), refusal(404, b"NoSuchKey")


def config(tmp_path, *, signed: bool = True) -> Config:
    keys = {contract.ENV_TRUSTED_KEYS: str(tmp_path)} if signed else {}
    return read_config(
        {
            contract.ENV_ALLOW_ANONYMOUS: "true",
            contract.ENV_MODEL: "m",
            contract.ENV_BUNDLE_DIGEST: DIGEST,
            contract.ENV_BUNDLE_URI: f"s3:/{KEY}",
            **keys,
        }
    )


@pytest.mark.parametrize(
    ("answer", "logged"),
    [(MISSING, "^$"), (DENIED, "the bundle's signature is missing, or the role may not read it")],
)
def test_a_bundle_without_a_signature_is_fetched_for_the_server_to_refuse(store, tmp_path, capfd, answer, logged):
    store.update({KEY: BUNDLE, f"{KEY}.sig": answer})
    assert publisher.fetch(config(tmp_path), tmp_path).read_bytes() == BUNDLE
    assert not list(tmp_path.glob("*.sig*"))
    assert re.search(logged, capfd.readouterr().out)


def test_a_bundle_is_fetched_with_its_signature(store, tmp_path):
    store.update({KEY: BUNDLE, f"{KEY}.sig": b"signature"})
    path = publisher.fetch(config(tmp_path), tmp_path)
    assert path.with_name(path.name + ".sig").read_bytes() == b"signature"


def test_a_signature_that_no_key_could_verify_is_not_fetched(store, tmp_path):
    store[KEY] = BUNDLE
    assert publisher.fetch(config(tmp_path, signed=False), tmp_path).read_bytes() == BUNDLE


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (DENIED, r"S3 denies a missing key, too, .* may not list: check that store/bundles/m/b.bento is there, then"),
        (MISSING, "^$"),
    ],
)
def test_a_bundle_that_is_missing_or_denied_names_both_causes(store, tmp_path, answer, fix):
    store[KEY] = answer
    with pytest.raises(ModelworksError, match=r"the bundle s3://store/bundles/m/b\.bento cannot be fetched") as raised:
        publisher.fetch(config(tmp_path), tmp_path)
    assert re.search(fix, raised.value.fix)


def test_a_signature_that_the_store_fails_to_give_is_an_error(store, tmp_path):
    store.update({KEY: BUNDLE, f"{KEY}.sig": refusal(400, b"InvalidRequest")})
    with pytest.raises(ModelworksError, match=r"cannot be fetched: .*InvalidRequest"):
        publisher.fetch(config(tmp_path), tmp_path)
