"""A signature vouches for one model's bundle by one key, and for nothing else."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from modelworks.errors import ModelworksError
from modelworks.runtime.signature import key_id, sign, verify

DIGEST, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32


def trust(folder, *keys):
    folder.mkdir()
    for number, key in enumerate(keys):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{number}.pem").write_bytes(pem)
        if isinstance(key, Ed25519PrivateKey):
            (folder / f"{number}.key").write_text(key_id(key.public_key()))
    return folder


@pytest.fixture
def key():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def trusted(tmp_path, key):
    """A folder of two keys, the second of which signs."""
    folder = trust(tmp_path / "keys", Ed25519PrivateKey.generate(), key)
    (folder / "README.txt").write_text("no key")
    return folder


def test_a_trusted_key_is_found_among_others_and_named(trusted, key):
    assert verify("delays", DIGEST, sign("delays", DIGEST, key), trusted) == key_id(key.public_key())


def test_a_key_keeps_its_name(key):
    assert key_id(key.public_key()) == "56475aa75463474c"


def test_what_is_signed_is_stated_beside_the_signature(key):
    said = json.loads(sign("delays", DIGEST, key))
    assert (said["model"], said["digest"], said["algorithm"]) == ("delays", DIGEST, "ed25519")
    message = f"modelworks bundle v1\ndelays\n{DIGEST}\n".encode()
    key.public_key().verify(base64.b64decode(said["signature"]), message)


@pytest.mark.parametrize(("model", "digest"), [("seats", DIGEST), ("delays", OTHER)])
def test_a_signature_of_another_bundle_is_refused(trusted, key, model, digest):
    with pytest.raises(ModelworksError, match=f"the signature is for {model} {digest}, not for delays {DIGEST}"):
        verify("delays", DIGEST, sign(model, digest, key), trusted)


@pytest.mark.parametrize(("model", "digest"), [("seats", DIGEST), ("delays", OTHER)])
def test_a_signature_that_was_given_another_label_is_refused(trusted, key, model, digest):
    moved = {**json.loads(sign(model, digest, key)), "model": "delays", "digest": DIGEST}
    with pytest.raises(ModelworksError, match=f"the signature of delays {DIGEST} by key .* is wrong"):
        verify("delays", DIGEST, json.dumps(moved).encode(), trusted)


def test_a_stranger_who_says_to_be_a_trusted_key_is_refused(trusted, key):
    forged = {**json.loads(sign("delays", DIGEST, Ed25519PrivateKey.generate())), "key": key_id(key.public_key())}
    with pytest.raises(ModelworksError, match="is wrong"):
        verify("delays", DIGEST, json.dumps(forged).encode(), trusted)


def test_a_key_that_nobody_trusts_is_named_beside_those_that_are(trusted, key):
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(ModelworksError, match="not among the trusted ones") as refused:
        verify("delays", DIGEST, sign("delays", DIGEST, stranger), trusted)
    first, second = sorted(path.read_text() for path in trusted.glob("*.key"))
    assert refused.value.message.endswith(f"trusted ones: {first}, {second}")
    assert f"signed by key {key_id(stranger.public_key())}, " in refused.value.message
    assert refused.value.fix.startswith("Sign it with a trusted key (`--signing-key`)")


def test_where_no_key_is_trusted_that_is_said(tmp_path, key):
    with pytest.raises(ModelworksError, match=r"not among the trusted ones: none\n"):
        verify("delays", DIGEST, sign("delays", DIGEST, key), trust(tmp_path / "keys"))


@pytest.mark.parametrize(
    "change", [{"signature": "no base64!"}, {"signature": 1}, {"algorithm": "none"}, {"more": 1}, {"key": None}]
)
def test_a_file_that_is_no_signature_cannot_be_read(trusted, key, change):
    broken = {**json.loads(sign("delays", DIGEST, key)), **change}
    with pytest.raises(ModelworksError, match=f"the signature of delays {DIGEST} cannot be read: "):
        verify("delays", DIGEST, json.dumps(broken).encode(), trusted)


def test_a_folder_of_keys_that_is_not_there_is_named(tmp_path, key):
    with pytest.raises(ModelworksError, match=f"the folder of trusted keys is not there: {tmp_path}/none"):
        verify("delays", DIGEST, sign("delays", DIGEST, key), tmp_path / "none")


def test_a_file_that_is_no_public_key_is_named(trusted, key):
    (trusted / "0.pem").write_text("no key")
    with pytest.raises(ModelworksError, match=r"0\.pem is not a public key in PEM: "):
        verify("delays", DIGEST, sign("delays", DIGEST, key), trusted)


def test_a_key_of_another_kind_is_named(tmp_path, key):
    folder = trust(tmp_path / "keys", generate_private_key(SECP384R1()))
    with pytest.raises(
        ModelworksError, match=r"0\.pem: a key that signs bundles is an Ed25519 key, or one on the curve P-256"
    ):
        verify("delays", DIGEST, sign("delays", DIGEST, key), folder)
