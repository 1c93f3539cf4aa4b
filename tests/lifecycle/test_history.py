"""Champions have a history in the registry, and a rollback goes by it: five versions, of which two were no good."""

from __future__ import annotations

import boto3
import pytest
from moto import mock_aws

from lifecycle.conftest import STACK
from modelworks._files import digest_of
from modelworks.errors import ModelworksError
from modelworks.lifecycle import history, registration
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.release import read_releases
from modelworks.lifecycle.store import Store
from modelworks.lifecycle.version import CHALLENGER, CHAMPION, Version

MODEL = "churn"


class Environment:
    """An environment whose traffic goes where a test sends it."""

    def __init__(self, registry: Registry, folder) -> None:
        self.registry, self.folder = registry, folder
        self.stack = folder / "Pulumi.prod.yaml"
        self.stack.write_text(STACK)

    def register(self, number: int) -> Version:
        content = f"bundle {number}".encode()
        path = self.folder / "a.bento"
        path.write_bytes(content)
        facts = {"model": MODEL, "bundle": digest_of(content), "data": "sha256:d", "gates": [], "champion": ""}
        return self.registry.register(facts, path, None)

    def release(self, number: int, *, served: bool = True) -> None:
        """Release a version; it takes all traffic, or its canary is aborted."""
        registration.release(self.registry, self.stack, self.version(number))
        if served:
            self.serve()

    def serve(self) -> None:
        """The release of now takes all traffic, and `status --wait` sees it."""
        registration.follow_release(self.registry, self.version(self.line), changed=False, serves=True)

    def roll_back(self, to: str = "") -> int:
        return registration.roll_back(self.registry, self.stack, MODEL, to)[0].version

    @property
    def line(self) -> int | None:
        return read_releases(self.stack)[MODEL].version

    def version(self, number: int | None) -> Version:
        return self.registry.find(MODEL, str(number))

    @property
    def champions(self) -> list[int]:
        return [each.version for each in history.champions(self.registry.versions(MODEL), "prod")]

    @property
    def aliases(self) -> dict[str, int]:
        return {alias: each.version for each in self.registry.versions(MODEL) for alias in each.aliases}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """MLflow's tables, made once."""
    folder = tmp_path_factory.mktemp("tables")
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        registry = Registry(f"sqlite:///{folder / 'mlflow.db'}", "a-password", Store("prod", "b", "a", boto3.Session()))
        assert registry.models() == []
    return folder / "mlflow.db"


@pytest.fixture
def prod(tables, tmp_path, monkeypatch):
    """Five registered versions."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(tables.read_bytes())
    with mock_aws():
        session = boto3.Session(region_name="eu-central-1")
        session.client("s3").create_bucket(
            Bucket="bundles", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", "a-password", Store("prod", "bundles", "a", session))
        environment = Environment(registry, tmp_path)
        for number in range(1, 6):
            environment.register(number)
        yield environment


def test_the_story_of_five_versions_of_which_two_are_bad(prod):
    prod.release(1)
    prod.release(2)
    prod.release(3, served=False)  # its canary is aborted: it was never champion
    assert prod.roll_back() == 2
    assert prod.aliases == {CHAMPION: 2}
    prod.release(4)  # all the traffic, and bad
    assert prod.roll_back() == 2
    assert prod.aliases == {CHAMPION: 4, CHALLENGER: 2}
    prod.serve()
    prod.release(5)  # and this one too
    assert prod.roll_back() == 2
    prod.serve()
    assert prod.aliases == {CHAMPION: 2}
    assert prod.roll_back() == 1
    prod.serve()
    assert prod.champions == [1, 2, 5, 4]
    with pytest.raises(ModelworksError, match="no version of churn to return to: its champions were: 1, 2, 5, 4"):
        prod.roll_back()
    assert prod.line == 1


def test_after_two_bad_ones_in_a_row_two_rollbacks_lead_behind_both(prod):
    for number in (1, 2, 3):
        prod.release(number)
    assert prod.roll_back() == 2
    prod.serve()
    assert prod.roll_back() == 1


def test_a_second_rollback_before_the_first_one_serves_leads_further(prod):
    for number in (1, 2, 3):
        prod.release(number)
    assert [prod.roll_back(), prod.roll_back()] == [2, 1]


def test_to_names_any_earlier_champion_also_one_that_was_rolled_back(prod):
    for number in (1, 2, 3):
        prod.release(number)
    assert prod.roll_back("1") == 1
    assert prod.roll_back(prod.version(3).digest) == 3
    prod.serve()
    assert prod.roll_back() == 2  # 1 was left for 3


@pytest.mark.parametrize("which", ["4", "3"])
def test_to_never_names_a_version_that_was_not_champion(prod, which):
    prod.release(1)
    prod.release(2)
    prod.release(3, served=False)
    before = prod.stack.read_bytes()
    with pytest.raises(ModelworksError, match=f"churn {which} was never the champion of prod; .* were: 2, 1"):
        prod.roll_back(which)
    assert prod.stack.read_bytes() == before
    assert not prod.version(3).facts.get("rolled_back")


def test_a_rolled_back_version_that_is_champion_again_is_one_to_return_to(prod):
    prod.release(1)
    prod.release(2)
    prod.roll_back()
    prod.release(2)  # the fault was elsewhere, and it never lost the traffic
    prod.release(3)
    assert prod.roll_back() == 2


def test_without_a_champion_there_is_no_way_back(prod):
    prod.release(1, served=False)
    with pytest.raises(ModelworksError, match="its champions were: none"):
        prod.roll_back()
    assert prod.line == 1


def test_a_champion_of_another_environment_is_none_here(prod):
    prod.release(1)
    there = {"environment": "dev", "at": "2030-01-01T00:00:00+00:00"}
    prod.registry.note(prod.version(2), became_champion=[there], released=[there])
    prod.release(3, served=False)
    assert prod.roll_back() == 1


def test_a_version_whose_line_nobody_registered_is_left_all_the_same(prod):
    prod.release(1)
    prod.stack.write_text(prod.stack.read_text().replace(prod.version(1).digest, f"sha256:{'e' * 64}"))
    assert prod.roll_back() == 1


@pytest.mark.parametrize("step", ["note_rollback", "write_release", "note_release", "move_aliases"])
def test_a_rollback_that_breaks_at_any_step_and_runs_again_goes_one_version_back(prod, monkeypatch, step):
    for number in (1, 2, 3):
        prod.release(number)
    real = getattr(registration, step)

    def break_after(*args, **more):
        real(*args, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registration, step, break_after)
        with pytest.raises(KeyboardInterrupt):
            prod.roll_back()
    if step == "note_release":  # all was done but to print it
        assert (prod.line, prod.aliases) == (2, {CHAMPION: 3, CHALLENGER: 2})
        return
    assert prod.roll_back() == 2
    assert (prod.line, prod.aliases) == (2, {CHAMPION: 3, CHALLENGER: 2})
    assert history.is_last_release(prod.version(2), prod.registry.versions(MODEL), "prod")


def test_a_line_that_was_merged_enters_the_lineage_once_it_is_deployed(prod):
    prod.release(1)
    registration.write_release(prod.stack, prod.version(2))  # as a merged request does
    assert not prod.version(2).facts.get("released")
    prod.serve()
    assert [each["environment"] for each in prod.version(2).facts["released"]] == ["prod"]
    assert prod.champions == [2, 1]
    prod.serve()
    assert len(prod.version(2).facts["released"]) == len(prod.version(2).facts["became_champion"]) == 1
