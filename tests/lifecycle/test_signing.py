"""A file or KMS signs bundles, and nothing reaches an environment that its trusted keys do not verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from moto import mock_aws

from modelworks._files import digest_of
from modelworks.errors import ModelworksError
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.signing import KmsKey, make_key, open_key, read_key
from modelworks.lifecycle.store import Store
from modelworks.runtime.signature import algorithm_of, key_id, load_keys, sign, verify

ROOT = Path(__file__).parents[2]
MODEL, BUNDLE = "churn", b"the bytes of a bundle"
DIGEST = digest_of(BUNDLE)


def pem(key) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def session(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield boto3.Session(region_name="eu-central-1")


@pytest.fixture
def kms_key(session):
    """The facts of a key that KMS can sign with, under an alias too."""
    kms = session.client("kms")
    made = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]
    kms.create_alias(AliasName="alias/release", TargetKeyId=made["KeyId"])
    return made


# -- Keys ------------------------------------------------------------------------------------------------------------
def test_a_key_in_a_file_signs(tmp_path):
    key = open_key(make_key(tmp_path))
    assert verify(MODEL, DIGEST, sign(MODEL, DIGEST, key), tmp_path / "trusted") == key_id(key.public_key())


@pytest.mark.parametrize(
    "address",
    [
        "awskms:///{KeyId}",
        "awskms:///{KeyId}?region=eu-central-1",
        "awskms:///{Arn}",
        "awskms://alias/release?region=eu-central-1",
        "awskms:///alias/release",
    ],
)
def test_a_key_of_kms_signs_by_any_of_its_names(session, kms_key, address):
    key = open_key(address.format(**kms_key), lambda: session)
    made = sign(MODEL, DIGEST, key)
    assert algorithm_of(key.public_key()) == "ecdsa-p256-sha256"
    assert verify(MODEL, DIGEST, made, {"release.pem": pem(key)}) == key_id(key.public_key())
    with pytest.raises(ModelworksError, match="not among the trusted ones"):
        verify(MODEL, DIGEST, made, {"other.pem": pem(Ed25519PrivateKey.generate())})


def test_a_key_of_kms_is_looked_for_in_its_own_region(session, kms_key):
    with pytest.raises(ModelworksError, match=r"cannot be used: .*NotFound") as refused:
        open_key(f"awskms:///{kms_key['KeyId']}?region=us-east-1", lambda: session).public_key()
    assert "kms:Sign" in refused.value.fix


@pytest.mark.parametrize(
    ("spec", "usage"),
    [("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), ("RSA_2048", "SIGN_VERIFY"), ("ECC_NIST_P384", "SIGN_VERIFY")],
)
def test_a_key_of_kms_that_makes_no_signature_of_ours_is_refused_with_the_one_to_make(session, spec, usage):
    made = session.client("kms").create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]
    with pytest.raises(ModelworksError, match=f"the KMS key {made['KeyId']} cannot"):
        sign(MODEL, DIGEST, open_key(f"awskms:///{made['KeyId']}", lambda: session))


@pytest.mark.parametrize("address", ["awskms:", "awskms://", "awskms:///", "awskms:abc", "awskms:///?region=x"])
def test_an_address_that_names_no_key_is_refused(address):
    with pytest.raises(ModelworksError, match="names no key of KMS"):
        open_key(address)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        pem(Ed25519PrivateKey.generate()).encode(),
    ],
    ids=["empty", "nonsense", "P-256", "public"],
)
def test_a_file_that_holds_no_ed25519_private_key_is_refused(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(
        ModelworksError, match=r"the signing key .*key (cannot be read|is not an Ed25519 key)"
    ) as refused:
        read_key(tmp_path / "key")
    assert refused.value.fix


def test_a_key_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelworksError, match="cannot be read"):
        open_key(tmp_path / "none")


def test_a_signature_of_one_kind_is_not_verified_as_another(session, kms_key):
    key = open_key("awskms:///alias/release", lambda: session)
    moved = sign(MODEL, DIGEST, key).replace(b"ecdsa-p256-sha256", b"ed25519")
    # What the file states decides nothing: the key's own rule does.
    assert verify(MODEL, DIGEST, moved, {"a": pem(key)}) == key_id(key.public_key())
    broken = sign(MODEL, DIGEST, key).replace(digest_of(b"x").encode(), b"")
    assert verify(MODEL, DIGEST, broken, {"a": pem(key)})
    other = KmsKey(
        session.client("kms").create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"],
        None,
        session,
    )
    forged = sign(MODEL, DIGEST, other).replace(key_id(other.public_key()).encode(), key_id(key.public_key()).encode())
    with pytest.raises(ModelworksError, match="is wrong"):
        verify(MODEL, DIGEST, forged, {"a": pem(key)})


# -- Trust -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "churn.bento"
    path.write_bytes(BUNDLE)
    return path


def registry_that_trusts(session, folder, *keys) -> Registry:
    session.client("s3").create_bucket(
        Bucket="bundles", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    trusted = {f"{number}.pem": pem(key) for number, key in enumerate(keys)}
    return Registry(f"sqlite:///{folder / 'none.db'}", "p", Store("prod", "bundles", "artifacts", session, trusted))


@pytest.mark.parametrize("trusts", [True, False])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"a signature", "cannot be read"),
        (sign(MODEL, digest_of(b"something else"), Ed25519PrivateKey.generate()), "the signature is for churn"),
        (sign("seats", DIGEST, Ed25519PrivateKey.generate()), "the signature is for seats"),
    ],
    ids=["empty", "bytes", "text", "another bundle", "another model"],
)
def test_a_signature_that_is_none_of_this_bundle_is_never_kept(session, tmp_path, bundle, content, why, trusts):
    registry = registry_that_trusts(session, tmp_path, *([Ed25519PrivateKey.generate()] if trusts else []))
    path = tmp_path / "churn.bento.sig"
    path.write_bytes(content)
    with pytest.raises(ModelworksError, match=f"prod does not take churn .*{why}"):
        registry.register({"model": MODEL, "bundle": DIGEST}, bundle, path)
    assert not registry.store.has_bundle(MODEL, DIGEST)


@pytest.mark.parametrize("signed", [True, False])
def test_an_environment_takes_no_bundle_that_its_pods_would_not_trust(session, tmp_path, bundle, signed):
    registry = registry_that_trusts(session, tmp_path, Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())
    path = tmp_path / "churn.bento.sig"
    path.write_bytes(sign(MODEL, DIGEST, Ed25519PrivateKey.generate()))
    with pytest.raises(
        ModelworksError, match="not among the trusted ones" if signed else "it has no signature"
    ) as told:
        registry.register({"model": MODEL, "bundle": DIGEST}, bundle, path if signed else None)
    assert "--signing-key" in told.value.fix
    assert not registry.store.has_bundle(MODEL, DIGEST)


def test_any_of_the_trusted_keys_will_do(session, kms_key, tmp_path):
    first, second = Ed25519PrivateKey.generate(), open_key("awskms:///alias/release", lambda: session)
    registry = registry_that_trusts(session, tmp_path, first, second)
    for key in (first, second):
        assert registry.store.require_trust(MODEL, DIGEST, sign(MODEL, DIGEST, key)) == key_id(key.public_key())


def test_without_trusted_keys_no_signature_is_required(session, tmp_path):
    registry = registry_that_trusts(session, tmp_path)
    assert registry.store.require_trust(MODEL, DIGEST, None) == ""


# -- Published keys --------------------------------------------------------------------------------------------------
PUBLISHED = (
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
    "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
)
"""The public keys of RFC 8032's test vectors, whose private halves anybody can read."""


def _settings(file: Path) -> dict[str, Any]:
    """The settings of a stack's file, which lacks the secrets that only its owner has."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))["config"]["modelworks:settings"]


def test_no_stack_file_trusts_a_key_whose_private_half_is_published():
    trusted = {
        name: key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        for file in sorted((ROOT / "stacks").glob("*.yaml"))
        for name, key in load_keys(_settings(file).get("trusted_keys", {})).items()
    }
    assert len(trusted) == 1
    assert not set(trusted.values()) & set(PUBLISHED)
