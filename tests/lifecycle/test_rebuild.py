"""A registry that was lost is rebuilt from the store, equal to what it was; one that is not lost is left alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto import mock_aws
from typer.testing import CliRunner

from lifecycle.conftest import STACK
from modelworks import cli, contract
from modelworks._files import digest_of
from modelworks.cli import verify
from modelworks.cli.context import EnvironmentContext
from modelworks.errors import ModelworksError
from modelworks.lifecycle.history import note_release
from modelworks.lifecycle.rebuild import difference, plan, read_versions, rebuild
from modelworks.lifecycle.registration import follow_release, release, roll_back
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.release import read_releases
from modelworks.lifecycle.store import Store
from modelworks.lifecycle.version import CHALLENGER, CHAMPION, Version
from modelworks.runtime.signature import sign

cli._register()


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> bytes:
    """MLflow's tables, empty."""
    folder = tmp_path_factory.mktemp("tables")
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        registry = Registry(f"sqlite:///{folder / 'mlflow.db'}", "p", Store("dev", "b", "a", boto3.Session()))
        assert registry.models() == []
    return (folder / "mlflow.db").read_bytes()


@dataclass
class Environment:
    """An environment that requires signatures, whose registry can be lost."""

    folder: Path
    tables: bytes
    key: Ed25519PrivateKey
    session: boto3.Session
    lost: int = 0

    def __post_init__(self) -> None:
        self.database.write_bytes(self.tables)
        self.registry = self.open()

    @property
    def database(self) -> Path:
        return self.folder / f"mlflow-{self.lost}.db"

    def open(self) -> Registry:
        public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        store = Store("dev", "bundles", "artifacts", self.session, {"key.pem": public})
        return Registry(f"sqlite:///{self.database}", "a-password", store)

    def register(self, model: str, content: bytes) -> Version:
        bundle = self.folder / "some.bento"
        bundle.write_bytes(content)
        signature = self.folder / "some.bento.sig"
        signature.write_bytes(sign(model, digest_of(content), self.key))
        facts = {"model": model, "bundle": digest_of(content), "gates": [], "metrics": {"auc": 0.7}, "mlflow_run": ""}
        return self.registry.register(facts, bundle, signature)

    def lose(self) -> None:
        """An empty database in the place of the registry's."""
        self.lost += 1
        self.__post_init__()

    @property
    def all(self) -> dict[str, list[Version]]:
        return {model: self.registry.versions(model) for model in self.registry.models()}

    def put(self, key: str, content: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.session.client("s3").put_object(Bucket="bundles", Key=key, Body=body)


@pytest.fixture
def dev(tables, tmp_path, monkeypatch) -> Environment:
    """Three versions of two models: one is champion, one challenger, one was released."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with mock_aws():
        session = boto3.Session(region_name="us-east-1")
        session.client("s3").create_bucket(Bucket="bundles")
        made = Environment(tmp_path, tables, Ed25519PrivateKey.generate(), session)
        first, second, other = (
            made.register(*each) for each in [("churn", b"one"), ("churn", b"two"), ("delays", b"three")]
        )
        registry = made.registry
        note_release(registry, first, "dev")
        registry.point(CHALLENGER, first, model="churn")
        registry.point(CHAMPION, first, model="churn")
        registry.point(CHALLENGER, second, model="churn")
        registry.point(CHAMPION, other, model="delays")
        yield made


def outcome(found) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {each.model: (each.state, each.versions) for each in found}


REBUILT = {"churn": ("rebuilt", (1, 2)), "delays": ("rebuilt", (1,))}
PRESENT = {"churn": ("present", ()), "delays": ("present", ())}


def test_a_lost_registry_is_rebuilt_as_it_was(dev):
    before = dev.all
    dev.lose()
    assert dev.all == {}
    assert outcome(rebuild(dev.registry)) == REBUILT
    assert dev.all == before
    assert [version.aliases for version in before["churn"]] == [(CHALLENGER,), (CHAMPION,)]


def test_rebuilding_twice_is_rebuilding_once(dev):
    dev.lose()
    rebuild(dev.registry)
    before = dev.all
    assert outcome(rebuild(dev.registry)) == PRESENT
    assert dev.all == before


def test_a_registry_that_was_not_lost_is_left_as_it_is(dev):
    before = dev.all
    assert outcome(rebuild(dev.registry)) == PRESENT
    assert dev.all == before


def test_an_alias_that_was_cleared_stays_cleared(dev):
    dev.registry.point(CHALLENGER, None, model="churn")
    dev.lose()
    rebuild(dev.registry)
    assert [version.aliases for version in dev.registry.versions("churn")] == [(), (CHAMPION,)]


def test_versions_keep_their_numbers_where_one_was_never_completed(dev):
    dev.registry._mlflow.create_model_version("churn", "s3://bundles/broken")
    dev.register("churn", b"four")
    before = dev.all
    dev.lose()
    rebuild(dev.registry)
    assert dev.all == before
    assert [version.version for version in dev.registry.versions("churn")] == [4, 2, 1]
    assert dev.register("churn", b"five").version == 5


@pytest.mark.parametrize("broken", ["create_model_version", "set_model_version_tag", "set_registered_model_alias"])
@pytest.mark.parametrize("calls", [0, 1])
def test_an_interrupted_rebuild_continues(dev, monkeypatch, broken, calls):
    before, done = dev.all, []
    dev.lose()
    real = getattr(dev.registry._mlflow, broken)

    def breaks(*arguments, **named):
        if len(done) == calls:
            raise OSError("connection reset")
        done.append(real(*arguments, **named))
        return done[-1]

    with monkeypatch.context() as patched:
        patched.setattr(dev.registry._client, broken, breaks)
        with pytest.raises(ModelworksError, match="connection reset"):
            rebuild(dev.registry)
    rebuild(dev.registry)
    assert dev.all == before


def test_what_happens_after_a_rebuild_is_kept_too(dev):
    dev.lose()
    rebuild(dev.registry)
    dev.registry.point(CHAMPION, dev.registry.find("churn", "2"), model="churn")
    before = dev.all
    dev.lose()
    rebuild(dev.registry)
    assert dev.all == before


def test_a_rollback_after_a_rebuild_leads_to_the_champion_of_before(dev, tmp_path):
    """Version 3 was rolled back to 2, and 4 serves when the registry is lost."""
    registry, stack = dev.registry, tmp_path / "Pulumi.dev.yaml"
    stack.write_text(STACK)

    def serve(number: str) -> None:
        release(registry, stack, registry.find("churn", number))
        follow_release(registry, registry.find("churn", number), changed=False, serves=True)

    serve("2")
    dev.register("churn", b"four")
    serve("3")
    roll_back(registry, stack, "churn")
    serve("2")
    dev.register("churn", b"five")
    serve("4")
    dev.lose()
    rebuild(dev.registry)
    version, changed = roll_back(dev.registry, stack, "churn")
    assert (version.version, changed, read_releases(stack)["churn"].digest) == (2, True, version.digest)
    with pytest.raises(ModelworksError, match=r"its champions were: 4, 2, 3, and each is released now or was rolled"):
        roll_back(dev.registry, stack, "churn")


def test_a_model_that_has_something_else_is_refused_and_the_others_are_rebuilt(dev):
    dev.lose()
    stranger = dev.registry._name({"model": "churn", "bundle": digest_of(b"a stranger")})
    refused, rebuilt = rebuild(dev.registry)
    assert (refused.state, rebuilt.state) == ("refused", "rebuilt")
    assert "version 1 of churn differs from the lineage in the store, and is left as it is" in refused.problem
    assert dev.registry.versions("churn") == [stranger]


def test_a_model_with_a_bundle_that_no_trusted_key_signed_is_refused(dev):
    digest = digest_of(b"a forged bundle")
    facts = {"model": "churn", "bundle": digest, "gates": []}
    dev.put(contract.lineage_key("churn", digest), {"version": 3, "facts": facts})
    dev.put(contract.signature_key("churn", digest), sign("churn", digest, Ed25519PrivateKey.generate()))
    dev.lose()
    refused, _ = rebuild(dev.registry)
    assert (refused.state, "not among the trusted ones" in refused.problem) == ("refused", True)
    assert "churn" not in dev.all


def test_a_lost_registry_registers_nothing_before_it_is_rebuilt(dev):
    before = dev.all
    dev.lose()
    with pytest.raises(ModelworksError, match="the registry was lost") as refused:
        dev.register("churn", b"one")
    assert "modelworks registry rebuild dev" in refused.value.fix
    rebuild(dev.registry)
    assert dev.register("churn", b"one") == before["churn"][1]
    assert dev.all == before


def test_without_lineage_there_is_nothing_to_rebuild_from(dev):
    for model, objects in dev.registry.store.read_lineage().items():
        for name in objects:
            dev.session.client("s3").delete_object(Bucket="bundles", Key=f"lineage/{model}/{name}")
    with pytest.raises(ModelworksError, match="there is nothing to rebuild dev from"):
        rebuild(dev.registry)


DIGEST = digest_of(b"one")
FACTS = {"model": "churn", "bundle": DIGEST}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (f"{DIGEST.hex}.json", b"{", "it is not JSON"),
        (f"{DIGEST.hex}.json", b"\xff", "it is not JSON"),
        (f"{DIGEST.hex}.json", [], "it is no mapping"),
        (f"{DIGEST.hex}.json", {"version": 0, "facts": FACTS}, "it states no version"),
        (f"{DIGEST.hex}.json", {"version": True, "facts": FACTS}, "it states no version"),
        (f"{DIGEST.hex}.json", {"version": "1", "facts": FACTS}, "it states no version"),
        (f"{DIGEST.hex}.json", {"version": 1, "facts": None}, "it states no version"),
        (f"{DIGEST.hex}.json", {"version": 1, "facts": {**FACTS, "model": "delays"}}, "about another bundle"),
        (f"{'0' * 64}.json", {"version": 1, "facts": FACTS}, "about another bundle"),
        ("notes.json", {"version": 1, "facts": {**FACTS, "bundle": "notes"}}, "its facts name no bundle"),
        (f"{DIGEST.hex}.json", {"version": 1, "facts": {"model": "churn"}}, "its facts name no bundle"),
        (f"{DIGEST.hex}.json", {"version": 1, "facts": {**FACTS, "bundle": 7}}, "its facts name no bundle"),
        ("aliases.json", {CHAMPION: DIGEST}, "no object is about sha256:"),
        ("aliases.json", {CHAMPION: None}, "an alias belongs to no digest"),
    ],
)
def test_an_object_that_is_malformed_is_refused_by_its_name(name, content, why):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(ModelworksError, match=why) as refused:
        read_versions("bundles", "churn", {name: data})
    assert f"s3://bundles/lineage/churn/{name}" in refused.value.message


def test_a_number_that_would_take_a_million_versions_is_refused():
    data = json.dumps({"version": 1_000_000, "facts": FACTS}).encode()
    with pytest.raises(ModelworksError, match="one of 1 versions claims to be version 1000000"):
        read_versions("bundles", "churn", {f"{DIGEST.hex}.json": data})


def test_two_bundles_of_one_number_are_refused():
    other = digest_of(b"two")
    objects = {
        f"{each.hex}.json": json.dumps({"version": 1, "facts": {**FACTS, "bundle": each}}).encode()
        for each in (DIGEST, other)
    }
    with pytest.raises(ModelworksError, match="two bundles claim to be version 1"):
        read_versions("bundles", "churn", objects)


def test_only_lost_versions_and_lost_aliases_are_restored():
    first, second = Version("churn", 1, FACTS, (CHAMPION,)), Version("churn", 2, {**FACTS, "bundle": "sha256:2"})
    assert plan([second, first], []) == [first, second]
    assert plan([first, second], [replace(first, aliases=())]) == [first, second]
    assert plan([first, second], [first, second]) == []
    with pytest.raises(ModelworksError, match="version 1 of churn differs"):
        plan([replace(first, aliases=())], [first])


def test_a_version_that_was_deleted_by_hand_does_not_come_back_under_another_number(dev):
    dev.registry._mlflow.delete_model_version("churn", "1")
    before = dev.all
    refused, other = rebuild(dev.registry)
    assert (refused.state, other.state) == ("refused", "present")
    assert "has version 2 of churn and not version 1, which was deleted there" in refused.problem
    assert dev.all == before


def test_lineage_that_the_store_lacks_is_found_and_written_again(dev):
    broken = replace(dev.registry, store=replace(dev.registry.store, bucket="not-there"))
    with pytest.raises(ModelworksError, match=r"keeping lineage/churn/aliases\.json: the store of dev"):
        broken.point(CHAMPION, dev.registry.find("churn", "2"), model="churn")
    stored = dev.registry.store.read_lineage()
    assert difference(dev.registry, "churn", stored["churn"]) == "versions 2, 1"
    assert difference(dev.registry, "delays", stored["delays"]) == ""
    assert difference(dev.registry, "delays", {}) == "versions 1"
    dev.registry.keep_lineage("churn")
    assert difference(dev.registry, "churn", dev.registry.store.read_lineage()["churn"]) == ""


def test_verify_finds_lineage_that_the_store_lacks_and_repairs_it(dev):
    dev.session.client("s3").delete_object(Bucket="bundles", Key=contract.aliases_key("churn"))
    target = SimpleNamespace(registry=dev.registry)
    assert verdicts(target) == {"churn": "wrong", "delays": "ok"}
    assert verdicts(target, repair=True) == {"churn": "repaired", "delays": "ok"}
    assert verdicts(target) == {"churn": "ok", "delays": "ok"}


def verdicts(target, *, repair=False) -> dict[str, str]:
    return {each.subject: each.verdict for each in verify._CHECKS["lineage"](target, repair)}


# -- The command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def command(dev, monkeypatch):
    monkeypatch.setattr(EnvironmentContext, "of", lambda _: SimpleNamespace(registry=dev.registry))
    return lambda *arguments: CliRunner().invoke(cli.app, ["registry", "rebuild", *arguments])


def test_the_command_prints_facts_and_succeeds(dev, command):
    dev.lose()
    done = command("dev", "--json")
    assert done.exit_code == 0
    assert [(each["model"], each["state"], each["versions"]) for each in json.loads(done.stdout)] == [
        ("churn", "rebuilt", [1, 2]),
        ("delays", "rebuilt", [1]),
    ]


def test_the_command_fails_with_the_reason_where_a_model_is_refused(dev, command):
    dev.lose()
    dev.registry._name({"model": "churn", "bundle": digest_of(b"a stranger")})
    done = command("--env", "dev")
    assert (done.exit_code, "is left as it is" in done.stdout) == (1, True)
