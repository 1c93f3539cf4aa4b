"""A registry names whole versions only: registered twice is once, and what fails leaves nothing half done."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto import mock_aws

from modelworks import contract
from modelworks._files import digest_of
from modelworks.errors import ModelworksError
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.store import Store
from modelworks.lifecycle.version import CHALLENGER, CHAMPION, Version
from modelworks.runtime.signature import key_id, sign, verify

MODEL = "churn"
BUNDLE = b"the bytes of a bundle"
DIGEST = digest_of(BUNDLE)


@pytest.fixture
def session(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        session = boto3.Session(region_name="eu-central-1")
        session.client("s3").create_bucket(
            Bucket="bundles", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        yield session


@pytest.fixture
def registry(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", "a-password", Store("dev", "bundles", "artifacts", session))


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "churn.bento"
    path.write_bytes(BUNDLE)
    return path


@pytest.fixture
def key():
    return Ed25519PrivateKey.generate()


@pytest.fixture
def signature(tmp_path, key):
    path = tmp_path / "churn.bento.sig"
    path.write_bytes(sign(MODEL, DIGEST, key))
    return path


def facts(**more):
    return {"model": MODEL, "bundle": DIGEST, "data": "sha256:d", "gates": [], "commit": "c0ffee", **more}


def registered(registry, folder, content: bytes):
    """A version of another bundle."""
    path = folder / "other.bento"
    path.write_bytes(content)
    return registry.register(facts(bundle=digest_of(content)), path, None)


def test_a_version_carries_its_lineage_and_its_signed_bundle_comes_back(registry, bundle, signature, key, tmp_path):
    made = registry.register(facts(), bundle, signature)
    found = registry.find(MODEL)
    assert (made.version, found.version, found.digest) == (1, 1, DIGEST)
    assert {**facts(), "registered_at": found.facts["registered_at"]} == found.facts
    fetched, signed = registry.store.fetch(MODEL, DIGEST, tmp_path / "into")
    assert fetched.read_bytes() == BUNDLE
    (tmp_path / "key.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert verify(MODEL, digest_of(fetched.read_bytes()), signed.read_bytes(), tmp_path) == key_id(key.public_key())


def test_verdicts_on_hundreds_of_slices_are_kept(registry, bundle, signature):
    told = "at least 0.64, or the route is of no use to anybody who plans by it; measured on its rows of the hold-out"
    gates = [{"gate": "SliceGate", "subject": f"auc where route is {each}", "message": told} for each in range(700)]
    assert len(json.dumps(gates)) > 100_000  # MLflow's limit
    registry.register(facts(gates=gates), bundle, signature)
    assert registry.note(registry.find(MODEL), more=gates).facts["more"] == gates
    found = registry.find(MODEL).facts
    assert (found["gates"], found["more"]) == (gates, gates)


def test_a_signature_of_something_else_is_not_kept(registry, bundle, signature, key):
    signature.write_bytes(sign(MODEL, digest_of(b"something else"), key))
    with pytest.raises(ModelworksError, match="signature"):
        registry.register(facts(), bundle, signature)


def test_registered_twice_is_registered_once(registry, bundle, signature):
    assert registry.register(facts(), bundle, signature) == registry.register(facts(), bundle, signature)
    assert [each.version for each in registry.versions(MODEL)] == [1]


def test_registering_lists_the_versions_once_and_once_more_when_it_has_named_one(
    registry, bundle, signature, monkeypatch
):
    listed, versions = [], Registry.versions
    monkeypatch.setattr(Registry, "versions", lambda self, model: listed.append(model) or versions(self, model))
    registry.register(facts(), bundle, signature)
    assert len(listed) == 2
    registry.register(facts(), bundle, signature)
    assert len(listed) == 3


def test_of_two_who_registered_at_once_the_first_names_the_bundle(registry, bundle, signature):
    registry.register(facts(), bundle, signature)
    second = registry._name(facts())  # the other one saw no version yet when it looked
    assert second.version == 1
    assert [each.version for each in registry.versions(MODEL)] == [1]


def test_a_version_that_is_not_complete_is_no_version(registry, bundle, signature):
    registry.register(facts(), bundle, signature)
    registry._mlflow.create_model_version(MODEL, "s3://bundles/other", tags={"modelworks.bundle": json.dumps("x")})
    assert [each.version for each in registry.versions(MODEL)] == [1]


def test_a_try_that_broke_after_the_bundle_was_kept_is_taken_up(registry, bundle, signature, monkeypatch):
    def down(*_, **__):
        raise OSError("connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(registry._client, "create_model_version", down)
        with pytest.raises(ModelworksError, match=r"registering churn .* connection refused"):
            registry.register(facts(), bundle, signature)
    assert registry.versions(MODEL) == []
    assert registry.register(facts(), bundle, signature).version == 1


def test_without_its_store_nothing_is_registered(registry, bundle, signature):
    lost = replace(registry, store=replace(registry.store, bucket="not-there"))
    with pytest.raises(ModelworksError, match=r"the store of dev \(s3://not-there"):
        lost.register(facts(), bundle, signature)
    assert registry.versions(MODEL) == []


def test_without_its_server_the_error_names_where_it_should_answer(registry, session, bundle, signature, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    down = replace(registry, uri="http://127.0.0.1:9")
    with pytest.raises(ModelworksError, match=r"the registry of dev at http://127\.0\.0\.1:9 failed"):
        down.register(facts(), bundle, signature)


def test_a_bundle_that_was_changed_on_the_way_is_not_kept(registry, bundle, signature):
    bundle.write_bytes(b"something else")
    with pytest.raises(ModelworksError, match="was changed"):
        registry.register(facts(), bundle, signature)
    assert not registry.store.has_bundle(MODEL, DIGEST)


def test_a_bundle_that_was_tampered_with_in_the_store_is_not_handed_out(registry, bundle, signature, tmp_path):
    registry.register(facts(), bundle, signature)
    registry.store._s3.put_object(Bucket="bundles", Key=contract.bundle_key(MODEL, DIGEST), Body=b"a pickle")
    with pytest.raises(ModelworksError, match="tampered"):
        registry.store.fetch(MODEL, DIGEST, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_what_the_store_lost_is_put_back_by_registering_again(registry, bundle, signature):
    registry.register(facts(), bundle, signature)
    registry.store._s3.delete_object(Bucket="bundles", Key=contract.bundle_key(MODEL, DIGEST))
    assert not registry.store.has_bundle(MODEL, DIGEST)
    assert registry.register(facts(), bundle, signature).version == 1
    assert registry.store.has_bundle(MODEL, DIGEST)


def test_a_version_is_found_by_number_alias_digest_and_its_start(registry, tmp_path):
    one, two, three = (registered(registry, tmp_path, content) for content in (b"one", b"two", b"three"))
    registry.point(CHALLENGER, two, model=MODEL)
    assert registry.find(MODEL) == three
    assert [registry.find(MODEL, number).digest for number in "123"] == [one.digest, two.digest, three.digest]
    assert [registry.find(MODEL, each.digest).version for each in (one, two, three)] == [1, 2, 3]
    assert [registry.find(MODEL, each.digest[7:13]).version for each in (one, two, three)] == [1, 2, 3]
    assert registry.find(MODEL, CHALLENGER).version == 2
    with pytest.raises(ModelworksError, match=r"dev has no version champion of churn; it has 3 .*, 2 .*, 1 "):
        registry.find(MODEL, CHAMPION)


def test_a_number_is_never_taken_for_the_start_of_a_digest(registry, tmp_path):
    begins_with_1 = next(text for text in (b"%d" % n for n in count()) if digest_of(text).startswith("sha256:1"))
    first = registered(registry, tmp_path, b"the first")
    second = registered(registry, tmp_path, begins_with_1)
    assert registry.find(MODEL, "1").digest == first.digest
    with pytest.raises(ModelworksError, match="no version"):
        registry.find(MODEL, second.digest[7:12])


def test_the_start_of_two_digests_names_neither(registry, monkeypatch):
    alike = [Version(MODEL, number, {"bundle": f"sha256:{'ab' * 31}0{number}"}) for number in (2, 1)]
    monkeypatch.setattr(Registry, "versions", lambda self, model: alike)
    with pytest.raises(ModelworksError, match="'abababab' begins the digests of versions 2 and 1 of churn in dev"):
        registry.find(MODEL, "abababab")
    assert registry.find(MODEL, "ab" * 31 + "01").version == 1


def test_an_alias_is_cleared_and_a_note_is_kept(registry, bundle, signature):
    version = registry.register(facts(), bundle, signature)
    registry.point(CHAMPION, version, model=MODEL)
    noted = registry.note(version, released=[{"environment": "dev"}])
    assert noted.facts["released"] == registry.find(MODEL).facts["released"] == [{"environment": "dev"}]
    assert registry.find(MODEL).aliases == (CHAMPION,)
    registry.point(CHAMPION, None, model=MODEL)
    assert registry.find(MODEL).aliases == ()


def test_models_are_all_that_are_registered_however_many(registry):
    names = sorted(f"model-{number}" for number in range(105))
    for name in names:
        registry._mlflow.create_registered_model(name)
    assert registry.models() == names
