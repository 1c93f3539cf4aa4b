"""Promotion from one environment to the next: real registries, stores, bundles and git, no cloud."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from laptop.authorization.strict_account import Strict, allow, document
from lifecycle.conftest import STACK as CHURN_STACK
from lifecycle.conftest import Project, make_project
from modelworks import contract
from modelworks._files import digest_of_file
from modelworks.cli import release as releasing
from modelworks.cli.context import EnvironmentContext
from modelworks.cli.promote import promote
from modelworks.deploy.stack import StackEngine
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest, Service, View
from modelworks.laptop.state_dir import StateDir
from modelworks.lifecycle import registration
from modelworks.lifecycle.bundle import build_bundle
from modelworks.lifecycle.comparison import champion_of
from modelworks.lifecycle.history import note_champion
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.release import read_releases
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.signing import make_key, read_key
from modelworks.lifecycle.store import Store
from modelworks.lifecycle.training import train
from modelworks.lifecycle.version import CHAMPION, Version
from modelworks.runtime.signature import key_id
from waiting import PATIENCE

pytestmark = pytest.mark.timeout(900)  # two models are trained before the first test

STACK = CHURN_STACK.replace('["111111111111"]', '["111111111111"]  # and no other')


@dataclass
class Place:
    """An environment without infrastructure: its stack file and its registry."""

    environment: str
    stack_file: Path
    registry: Registry


@dataclass
class World:
    """A user's checkout with a project `churn` of two versions, and the environments of its project."""

    project: Project
    places: dict[str, Place]

    @property
    def root(self) -> Path:
        return self.project.folder.parents[1]

    @property
    def dev(self) -> Registry:
        return self.places["dev"].registry

    @property
    def staging(self) -> Registry:
        return self.places["staging"].registry

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "as it is")

    def make(self) -> None:
        """Train, bundle and register what the project is now, in dev."""
        spec, home = self.project.spec, self.project.home
        run = train(spec, home)
        build_bundle(run, home)
        registration.register(run, home, self.dev, self.places["dev"].stack_file)

    def serve(self, number: int) -> Version:
        """Let dev serve a version."""
        version = self.dev.find("churn", str(number))
        registration.release(self.dev, self.places["dev"].stack_file, version)
        self.dev.point(CHAMPION, version, model="churn")
        return self.dev.find("churn", str(number))

    def promote(self, **more) -> Version:
        """What staging has of it afterwards."""
        promote("churn", source="dev", to="staging", **more)
        return self.staging.find("churn", read_releases(self.places["dev"].stack_file)["churn"].digest)

    def lose_data(self) -> None:
        self.dev.store.session.resource("s3").Bucket(self.dev.store.artifacts).objects.delete()


@contextmanager
def quiet_environment(folder: Path):
    """No AWS, no git configuration and no home but the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        for name in ("AWS_ENDPOINT_URL", "EMAIL", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
            patch.delenv(name, raising=False)
        for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
            patch.setenv(name, "/dev/null")
        patch.setenv("MODELWORKS_HOME", str(folder / "home"))
        patch.chdir(folder)
        yield patch


def places_in(folder: Path, session) -> dict[str, Place]:
    found = {}
    for name in ("dev", "staging"):
        buckets = [f"{folder.parent.name}-{name}-{kind}".replace("_", "-") for kind in ("bundles", "artifacts")]
        for bucket in buckets:
            session.client("s3").create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
            )
        registry = Registry(f"sqlite:///{folder / name}.db", "a-password", Store(name, *buckets, session))
        found[name] = Place(name, folder / "stacks" / f"Pulumi.{name}.yaml", registry)
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The world that each test gets a copy of: two good versions in dev, the first of which serves."""
    folder = tmp_path_factory.mktemp("promote") / "checkout"
    folder.mkdir()
    project = make_project(folder)
    # Which limit is as good as any other here, but staging takes no verdict that is not clear.
    project.edit("at_least=0.7", "at_least=0.6")
    project.edit("margin=0.02", "margin=-0.5")
    (folder / "Pulumi.yaml").write_text("name: modelworks\nruntime: python\n")
    (folder / ".gitignore").write_text("home*/\n*.db\nmlruns/\n__pycache__/\n")
    (folder / "stacks").mkdir()
    for name in ("dev", "staging"):
        (folder / "stacks" / f"Pulumi.{name}.yaml").write_text(STACK)
    with mock_aws(), quiet_environment(folder):
        world = World(project, places_in(folder, boto3.Session(region_name="eu-central-1")))
        world.git("init", "--quiet", "--initial-branch", "main")
        world.git("config", "user.name", "Ada")
        world.git("config", "user.email", "ada@example.invalid")
        world.commit()
        world.make()
        project.edit("margin=-0.5", "margin=0.02")
        project.edit('"C": 1.0', '"C": 0.9')
        world.commit()
        world.make()
        world.serve(1)
        world.commit()
        assert world.staging.models() == []  # its tables are made once, and copied
        yield world


@pytest.fixture
def world(first, tmp_path):
    folder = tmp_path / "checkout"
    shutil.copytree(first.root, folder, symlinks=True)
    with quiet_environment(folder) as patch:
        places = places_in(folder, first.dev.store.session)
        for kind in ("bucket", "artifacts"):
            source, target = (getattr(each.store, kind) for each in (first.dev, places["dev"].registry))
            bucket = first.dev.store.session.resource("s3").Bucket(target)
            for item in first.dev.store.session.resource("s3").Bucket(source).objects.all():
                bucket.copy({"Bucket": source, "Key": item.key}, item.key)
        patch.setattr(EnvironmentContext, "of", lambda environment: places[environment])
        yield World(Project(folder / "models" / "churn", Home(folder / "home-models")), places)


def champion_verdict(version):
    (found,) = [each for each in version.facts["gates"] if each["gate"] == "ChampionGate"]
    return found


# -- Judged against the target's champion ----------------------------------------------------------------------------
def test_where_nothing_serves_there_is_no_champion_to_lose_to(world):
    told = world.promote()
    assert (champion_verdict(told)["verdict"], told.facts["champion"]) == ("pass", "")
    assert read_releases(world.places["staging"].stack_file)["churn"].digest == told.digest


def test_a_version_is_judged_against_the_champion_of_the_target_and_its_lineage_says_so(world):
    champion = world.promote().digest
    world.serve(2)
    told = world.promote()
    assert (champion_verdict(told)["verdict"], told.facts["champion"]) == ("pass", champion)
    assert abs(champion_verdict(told)["number"]) < 0.02
    assert "not worse than the champion" in champion_verdict(told)["message"]


def test_one_that_loses_to_the_champion_of_the_target_is_refused_and_leaves_nothing_there(world):
    """By what its own run keeps, which the checkout has moved on from: it was to gain 0.5."""
    world.serve(2)
    world.promote()
    before = world.places["staging"].stack_file.read_text()
    version = world.serve(1)
    with pytest.raises(ModelworksError, match=r"staging refuses churn 1:\n  fail: auc: not worse .* limit 0\.5\)"):
        world.promote()
    assert world.places["staging"].stack_file.read_text() == before
    assert version.digest not in [each.digest for each in world.staging.versions("churn")]
    assert not world.staging.store.has_bundle("churn", version.digest)


def test_a_project_that_was_tampered_with_cannot_judge_and_the_verdict_says_so(world):
    world.promote()
    version = world.serve(2)
    world.dev.store.session.client("s3").put_object(
        Bucket=world.dev.store.artifacts, Key=contract.project_key(version.facts["project"]), Body=b"something else"
    )
    with pytest.raises(ModelworksError, match=r"inconclusive: auc: cannot be compared .*: the project .* is not kept"):
        world.promote()


def test_a_version_is_promoted_from_where_its_checkout_is_not(world):
    world.promote()
    world.serve(2)
    shutil.rmtree(world.project.folder)
    assert champion_verdict(world.promote())["verdict"] == "pass"


def test_a_project_goes_along_so_that_the_next_environment_can_judge_by_it(world):
    version = world.promote()
    assert world.staging.store.archive_of(version) == world.dev.store.archive_of(version)


def test_without_its_data_a_comparison_is_inconclusive_with_the_reason_and_refused(world, capsys):
    world.promote()
    version = world.serve(2)
    world.lose_data()
    shutil.rmtree(world.project.home.data)
    with pytest.raises(ModelworksError, match="inconclusive: auc: cannot be compared with the champion: no data with"):
        world.promote()
    assert "does not keep the rows of churn 2" in " ".join(capsys.readouterr().err.split())
    told = world.promote(override="the source is gone for good")
    assert champion_verdict(told)["verdict"] == "inconclusive"
    assert told.facts["overrides"][0]["reason"] == "the source is gone for good"
    line = read_releases(world.places["staging"].stack_file)["churn"]
    assert line.digest == version.digest
    assert line.override.startswith("the source is gone for good (")


def test_data_goes_along_so_that_the_target_can_train_on_it_again(world):
    digest = world.promote().data
    world.lose_data()
    assert digest_of_file(world.staging.store.fetch_data(digest, world.root / "again")) == digest


def test_what_serves_there_already_keeps_the_verdict_it_got_before(world):
    world.promote()
    world.serve(2)
    assert world.promote() == world.promote()


def test_what_does_not_serve_in_the_source_is_not_promoted(world):
    world.dev.point(CHAMPION, world.dev.find("churn", "2"), model="churn")
    with pytest.raises(ModelworksError, match="its champion is another") as refused:
        world.promote()
    assert "modelworks status dev --wait" in refused.value.fix
    assert world.staging.versions("churn") == []


# -- Faults ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (Store, "keep_data"),
        (Store, "_put"),
        (Registry, "_name"),
        (Registry, "note"),
        (Store, "fetch"),
        (Registry, "point"),
    ],
)
def test_a_promotion_that_breaks_at_any_step_is_run_again_and_ends_as_if_it_never_had(world, monkeypatch, kind, step):
    """The step itself is done, and then everything ends, as for a process that is killed."""
    calls = []
    real = getattr(kind, step)

    def break_after(self, *args, **more):
        made = real(self, *args, **more)
        if self.environment == "staging":
            calls.append(step)
            raise KeyboardInterrupt
        return made

    with monkeypatch.context() as patch:
        patch.setattr(kind, step, break_after)
        with pytest.raises(KeyboardInterrupt):
            world.promote()
    assert calls == [step]
    line = read_releases(world.places["staging"].stack_file).get("churn")
    # What the line names is there, whole; and without a line nothing is promoted, whatever was copied.
    assert line is None or world.staging.find("churn", line.digest).facts["promoted_from"] == "dev"
    told = world.promote()
    assert [each["environment"] for each in told.facts["released"]] == ["dev", "staging"]
    assert (told.version, told.aliases, told.facts["promoted_from"]) == (1, ("challenger",), "dev")
    assert read_releases(world.places["staging"].stack_file)["churn"].digest == told.digest
    assert world.staging.store.fetch("churn", told.digest, world.root / "again")[1] is not None
    assert world.staging.store.has_data(told.facts["data"])


@pytest.mark.parametrize("lost", ["uri", "bucket", "artifacts"])
def test_a_target_that_is_down_gets_nothing_and_no_line(world, monkeypatch, lost):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    staging = world.staging
    elsewhere = (
        {"uri": "http://127.0.0.1:9"}
        if lost == "uri"
        else {"store": replace(staging.store, **{lost: "no-such-bucket"})}
    )
    world.places["staging"].registry = replace(staging, **elsewhere)
    with pytest.raises(ModelworksError, match=r"(registry|store) of staging") as error:
        world.promote()
    assert "no step is repeated" in error.value.fix
    assert read_releases(world.places["staging"].stack_file) == {}


def test_a_bundle_that_was_tampered_with_in_the_source_is_not_promoted(world):
    version = world.dev.find("churn", "1")
    world.dev.store.session.client("s3").put_object(
        Bucket=world.dev.store.bucket, Key=contract.bundle_key("churn", version.digest), Body=b"something else"
    )
    with pytest.raises(ModelworksError, match="it was tampered with"):
        world.promote()
    assert world.staging.versions("churn") == []


# -- Two accounts ----------------------------------------------------------------------------------------------------
STAGING_ACCOUNT = "222222222222"
STAGING_ROLE = {"aws:assumeRoles": [{"roleArn": f"arn:aws:iam::{STAGING_ACCOUNT}:role/deploy"}]}


def target_of(place: Place, **config) -> EnvironmentContext:
    """An environment by its stack, as the command line has it; the engine's answers alone are made up."""
    outputs = {
        "registry_url": place.registry.uri,
        "bundle_bucket": place.registry.store.bucket,
        "artifact_bucket": place.registry.store.artifacts,
    }

    class Stack(StackEngine):
        stack_file = place.stack_file

        def ask(self, *words: str, **_) -> str:
            if words[:2] == ("stack", "output"):
                return json.dumps(outputs)
            if words[:2] == ("config", "get"):
                return f"{place.registry.password}\n"
            return json.dumps({key: {"objectValue": value, "secret": False} for key, value in config.items()})

    folder = place.stack_file.parents[1]
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    variables = {**keys, "AWS_REGION": "eu-central-1"}
    return EnvironmentContext(
        place.environment, Stack(place.environment, folder, Path("pulumi"), variables, folder, False)
    )


@pytest.fixture
def accounts(world, monkeypatch):
    """Dev and staging in accounts that give each other nothing; what staging's stack says is the test's."""
    monkeypatch.setenv("MOTO_S3_ALLOW_CROSSACCOUNT_ACCESS", "false")
    staging = world.places["staging"]
    own = target_of(staging, **STAGING_ROLE).session
    for bucket in (staging.registry.store.bucket, staging.registry.store.artifacts):
        world.dev.store.session.client("s3").delete_bucket(Bucket=bucket)
        own.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    staging.registry = replace(staging.registry, store=replace(staging.registry.store, session=own))

    def staging_with(**config) -> World:
        targets = {"dev": target_of(world.places["dev"]), "staging": target_of(staging, **config)}
        monkeypatch.setattr(EnvironmentContext, "of", lambda environment: targets[environment])
        return world

    return staging_with


def test_between_two_accounts_each_side_is_reached_with_the_session_of_its_own_stack(accounts):
    world = accounts(**STAGING_ROLE, **{"aws:allowedAccountIds": [STAGING_ACCOUNT]})
    told = world.promote()
    assert read_releases(world.places["staging"].stack_file)["churn"].digest == told.digest
    assert world.staging.store.fetch("churn", told.digest, world.root / "again")[0].is_file()
    assert world.staging.store.has_data(told.data)


def test_credentials_of_the_source_are_refused_for_a_target_of_another_account(accounts):
    world = accounts(**{"aws:allowedAccountIds": [STAGING_ACCOUNT]})
    with pytest.raises(ModelworksError, match=f"stack staging is pinned to account {STAGING_ACCOUNT} .* of account "):
        world.promote()
    assert read_releases(world.places["staging"].stack_file) == {}
    assert world.staging.versions("churn") == []


def test_a_target_that_forbids_what_the_source_may_gets_no_line(accounts):
    """Without a pin, what is left is the refusal of the target's own bucket."""
    world = accounts()
    with pytest.raises(ModelworksError, match=r"store of staging .* refused: AccessDenied, the caller lacks s3:"):
        world.promote()
    assert read_releases(world.places["staging"].stack_file) == {}


# -- One side forbidden ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """An account that enforces IAM, as that of a strict laptop does."""
    account = Strict(StateDir(tmp_path_factory.mktemp("strict") / "place"))
    yield account
    account.kill()


def needed(side: str, bucket: str, artifacts: str, key: str) -> dict[str, list[str]]:
    """The permissions of docs/guides/aws.md, "Promotion between accounts"."""
    objects = [f"arn:aws:s3:::{each}/*" for each in (bucket, artifacts)]
    lineage = [f"arn:aws:s3:::{bucket}/{contract.LINEAGE_PREFIX}/*"]
    return {
        "s3:ListBucket": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{artifacts}"],
        "s3:GetObject": objects,
        "s3:PutObject": {"dev": lineage, "staging": objects}[side],
        "kms:Decrypt": [key],
        "kms:GenerateDataKey": [key],
    }


@pytest.fixture
def sides(world, strict, monkeypatch):
    """Each side's stores are encrypted by a key of its own, and reached by a user who may do what the guide lists."""
    users = {}
    for side, place in world.places.items():
        registry, store, key = place.registry, place.registry.store, strict.new_key()
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}}
        for bucket in (store.bucket, store.artifacts):
            strict.client("s3").create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
            )
            strict.client("s3").put_bucket_encryption(
                Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]}
            )
            for item in store.session.resource("s3").Bucket(bucket).objects.all():
                strict.client("s3").put_object(Bucket=bucket, Key=item.key, Body=item.get()["Body"].read())
        name = f"{side}-{key.rpartition('/')[2]}"
        strict.client("iam").create_user(UserName=name)
        made = strict.client("iam").create_access_key(UserName=name)["AccessKey"]
        session = boto3.Session(made["AccessKeyId"], made["SecretAccessKey"], region_name="eu-central-1")
        place.registry = replace(registry, store=replace(store, session=session))
        users[side] = name, needed(side, store.bucket, store.artifacts, key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{strict.port}")

    def forbid(side: str = "", permission: str = "", resource: str = "") -> World:
        for each, (name, permissions) in users.items():
            refusal = {"Effect": "Deny", "Action": permission, "Resource": resource or "*"}
            denied = [refusal] if each == side else []
            policy = document(*(allow(action, what) for action, what in permissions.items()), *denied)
            strict.client("iam").put_user_policy(UserName=name, PolicyName="promotes", PolicyDocument=policy)
        return world

    return forbid


def test_the_permissions_of_the_guide_are_enough_on_both_sides(sides):
    told = sides().promote()
    assert [each["environment"] for each in told.facts["released"]] == ["dev", "staging"]


@pytest.mark.parametrize("side", ["dev", "staging"])
@pytest.mark.parametrize(
    "permission", ["s3:ListBucket", "s3:GetObject", "s3:PutObject", "kms:Decrypt", "kms:GenerateDataKey"]
)
def test_a_side_that_forbids_something_is_named_with_the_permission_and_nothing_is_half_promoted(
    sides, side, permission
):
    world = sides(side, permission)
    before = world.places["staging"].stack_file.read_bytes()
    said = rf"the store of {side} .* refused: AccessDenied, arn:aws:iam::\d+:user/{side}-\S+ lacks {permission} on arn:"
    with pytest.raises(ModelworksError, match=said) as refused:
        world.promote(override="it is urgent")
    assert f"use other credentials for {side}" in refused.value.fix
    assert world.places["staging"].stack_file.read_bytes() == before
    assert world.staging.versions("churn") == []
    assert [each["environment"] for each in world.dev.find("churn", "1").facts["released"]] == ["dev"]
    assert sides().promote().facts["promoted_from"] == "dev"  # and nothing that was copied is in the way


def test_a_project_that_may_not_be_read_is_not_taken_for_lost(sides):
    world = sides()
    version = world.dev.find("churn", "1")
    sides("dev", "s3:GetObject", f"arn:aws:s3:::{world.dev.store.artifacts}/{contract.project_key(version.project)}")
    with pytest.raises(ModelworksError, match=r"the store of dev .* lacks s3:GetObject"):
        world.promote(override="it is urgent")


def test_a_champion_that_may_not_be_read_is_no_verdict_that_an_override_passes(sides):
    sides().promote()
    world = sides("staging", "s3:GetObject")
    world.serve(2)
    with pytest.raises(ModelworksError, match=r"the store of staging .* lacks s3:GetObject"):
        world.promote(override="it is urgent")
    assert [each.version for each in world.staging.versions("churn")] == [1]


# -- Order -----------------------------------------------------------------------------------------------------------
def test_the_order_is_the_project_s_own(world):
    (world.root / "pyproject.toml").write_text('[tool.modelworks]\norder = ["staging", "dev"]\n')
    with pytest.raises(ModelworksError, match="it comes up through staging → dev"):
        world.promote()
    with pytest.raises(ModelworksError, match="dev accepts no direct release"):
        releasing.release("churn", env="dev")


# -- For review ------------------------------------------------------------------------------------------------------
def branch_of(version: Version) -> str:
    return f"release/staging-churn-{version.digest[7:19]}"


def test_for_review_the_line_is_a_commit_on_a_branch_of_its_own_and_the_checkout_stays(world, capsys):
    head = world.git("rev-parse", "HEAD")
    version = world.promote(pr=True)
    branch = branch_of(version)
    assert f"git push --set-upstream origin {branch}" in " ".join(capsys.readouterr().out.split())
    assert (world.git("branch", "--show-current"), world.git("rev-parse", "HEAD")) == ("main", head)
    assert world.git("status", "--porcelain") == ""
    assert world.git("rev-parse", f"{branch}^") == head
    assert world.git("diff", "--numstat", "main", branch) == "2\t0\tstacks/Pulumi.staging.yaml"
    assert f'churn: {{digest: "{version.digest}", version: 1}}' in world.git("diff", "main", branch)
    said = world.git("log", "-1", "--format=%an%n%B", branch)
    assert said.splitlines()[:2] == ["Ada", "Release churn 1 to staging"]
    assert f"Bundle: {version.digest}" in said
    assert f"Code: {version.facts['commit']}" in said
    assert world.git("worktree", "list", "--porcelain").count("worktree ") == 1


def test_for_review_nothing_is_noted_until_the_request_is_merged(world):
    version = world.promote(pr=True)
    assert [each["environment"] for each in version.facts["released"]] == ["dev"]
    assert version.aliases == ()
    assert [each["environment"] for each in world.dev.find("churn", "1").facts["released"]] == ["dev"]
    branch = branch_of(version)
    world.git("merge", "--quiet", "--ff-only", branch)
    world.git("branch", "--quiet", "-D", branch)
    merged = world.promote(pr=True)
    assert [each["environment"] for each in merged.facts["released"]] == ["dev", "staging"]
    assert merged.aliases == ("challenger",)
    assert [each["environment"] for each in world.dev.find("churn", "1").facts["released"]] == ["dev", "staging"]
    assert world.git("branch", "--format=%(refname:short)") == "main"


def test_for_review_nothing_that_is_being_edited_gets_into_the_commit_or_lost(world):
    stack = world.places["staging"].stack_file
    stack.write_text(stack.read_text() + "  other:thing: being edited\n")
    (world.root / "notes.txt").write_text("mine")
    world.git("add", "notes.txt")
    branch = branch_of(world.promote(pr=True))
    assert "being edited" not in world.git("show", f"{branch}:stacks/Pulumi.staging.yaml")
    assert world.git("diff", "--name-only", "main", branch) == "stacks/Pulumi.staging.yaml"
    assert "being edited" in stack.read_text()
    assert world.git("diff", "--cached", "--name-only") == "notes.txt"


def test_a_branch_that_is_there_already_waits_for_its_review(world):
    branch = branch_of(world.promote(pr=True))
    tip = world.git("rev-parse", branch)
    with pytest.raises(ModelworksError, match=f"the branch {branch} already exists") as refused:
        world.promote(pr=True)
    assert f"git branch -D {branch}" in refused.value.fix
    assert world.git("rev-parse", branch) == tip
    world.git("branch", "-D", branch)
    world.promote(pr=True)
    assert world.git("rev-parse", f"{branch}^") == world.git("rev-parse", "main")


def test_a_commit_needs_somebody_and_is_refused_before_anything_is_copied(world):
    world.git("config", "user.useConfigOnly", "true")
    world.git("config", "--unset", "user.email")
    with pytest.raises(ModelworksError, match="git has no user name and email"):
        world.promote(pr=True)
    assert world.staging.versions("churn") == []


def test_without_a_commit_of_the_stack_file_there_is_nothing_to_review(world):
    world.git("rm", "--quiet", "--cached", "stacks/Pulumi.staging.yaml")
    world.git("commit", "--quiet", "--message", "gone")
    with pytest.raises(ModelworksError, match="is not committed to a git repository"):
        world.promote(pr=True)
    assert world.staging.versions("churn") == []


def test_a_commit_that_a_hook_refuses_leaves_no_branch_and_no_release_in_the_lineage(world):
    hook = world.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not on a Friday >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(ModelworksError, match="`git commit` failed: not on a Friday"):
        world.promote(pr=True)
    assert world.git("branch", "--format=%(refname:short)") == "main"
    assert world.git("worktree", "list", "--porcelain").count("worktree ") == 1
    assert [each["environment"] for each in world.staging.find("churn").facts["released"]] == ["dev"]


# -- The champion of now ---------------------------------------------------------------------------------------------
def test_a_release_is_compared_with_the_champion_of_now_and_not_with_that_of_its_registration(world):
    """It was registered when nothing served; it was to gain 0.5 on whatever does."""
    assert world.dev.find("churn", "1").facts["champion"] == ""
    champion = world.serve(2)
    before = world.places["dev"].stack_file.read_bytes()
    with pytest.raises(ModelworksError, match=r"dev refuses churn 1:\n  fail: auc: not worse .* limit 0\.5\)"):
        releasing.release("churn", env="dev", version="1")
    assert world.places["dev"].stack_file.read_bytes() == before
    releasing.release("churn", env="dev", version="1", override="it is what we have")
    released = world.dev.find("churn", "1")
    assert (released.facts["champion"], champion_verdict(released)["verdict"]) == (champion.digest, "fail")
    assert released.facts["overrides"][0]["reason"] == "it is what we have"


def test_a_champion_whose_release_was_left_is_still_what_others_are_compared_with(world):
    """The line names a version that never took the traffic."""
    world.serve(1)
    registration.release(world.dev, world.places["dev"].stack_file, world.dev.find("churn", "2"))
    assert champion_of(world.dev, world.places["dev"].stack_file, "churn") == world.dev.find("churn", "1").digest


# -- Overrides -------------------------------------------------------------------------------------------------------
def with_verdicts(registry: Registry, version: Version, verdict: str) -> None:
    registry.note(version, gates=[{**each, "verdict": verdict} for each in version.facts["gates"]])


def test_an_override_at_release_is_kept_with_the_version_and_in_the_line(world):
    with_verdicts(world.dev, world.dev.find("churn", "2"), "fail")
    with pytest.raises(ModelworksError, match="dev refuses churn 2"):
        releasing.release("churn", env="dev")
    releasing.release("churn", env="dev", override="the demo is today")
    (kept,) = world.dev.find("churn", "2").facts["overrides"]
    assert (kept["environment"], kept["reason"], len(kept["gates"])) == (
        "dev",
        "the demo is today",
        3,
    )  # compared again, it does not lose
    assert "the demo is today (" in read_releases(world.places["dev"].stack_file)["churn"].override
    releasing.release("churn", env="dev")
    assert world.dev.find("churn", "2").facts["overrides"] == [kept]


def test_an_override_of_the_source_goes_along_and_the_target_adds_its_own(world):
    version = world.dev.find("churn", "1")
    earlier = {
        "environment": "dev",
        "reason": "it was late",
        "by": "ada",
        "at": "2026-11-25T10:00:00+00:00",
        "gates": [],
    }
    with_verdicts(world.dev, world.dev.note(version, overrides=[earlier]), "inconclusive")
    with pytest.raises(ModelworksError, match="staging refuses"):
        world.promote()
    told = world.promote(override="and so it stays")
    assert [each["reason"] for each in told.facts["overrides"]] == ["it was late", "and so it stays"]
    line = read_releases(world.places["staging"].stack_file)["churn"]
    assert line.override.startswith("it was late (ada); and so it stays (")


# -- Signatures ------------------------------------------------------------------------------------------------------
def trusting(world: World, name: str, *pems: str) -> None:
    place = world.places[name]
    trusted = {f"{at}.pem": text for at, text in enumerate(pems)}
    place.registry = replace(place.registry, store=replace(place.registry.store, trusted_keys=trusted))


def a_key(folder: Path) -> tuple[Path, str]:
    """The file of a private key, and its public half."""
    path = make_key(folder)
    return path, next((folder / "trusted").iterdir()).read_text()


def test_a_promotion_that_the_target_would_not_trust_is_refused_and_leaves_nothing_there(world, tmp_path):
    trusting(world, "staging", a_key(tmp_path / "ours")[1])
    before = world.places["staging"].stack_file.read_bytes()
    with pytest.raises(ModelworksError, match=r"staging does not take churn .*not among the trusted ones") as refused:
        world.promote(override="it is urgent")
    assert "--signing-key" in refused.value.fix
    assert world.places["staging"].stack_file.read_bytes() == before
    assert world.staging.versions("churn") == []


def test_a_promotion_signs_for_its_target_with_the_key_that_it_is_given(world, tmp_path):
    path, public = a_key(tmp_path / "ours")
    trusting(world, "staging", public)
    version = world.promote(signing_key=str(path))
    key = read_key(path).public_key()
    assert world.staging.store.require_trusted_release("churn", version.digest) == key_id(key)
    assert world.dev.store.require_trusted_release("churn", version.digest) != key_id(key)


def test_a_target_that_trusts_the_source_s_key_takes_its_signature_along(world):
    trusting(world, "staging", next((world.project.home.root / "signing" / "trusted").iterdir()).read_text())
    assert world.promote().facts["promoted_from"] == "dev"


def test_a_release_that_pods_would_not_trust_is_refused_before_its_line_is_written(world, tmp_path):
    trusting(world, "dev", a_key(tmp_path / "new")[1])
    before = world.places["dev"].stack_file.read_bytes()
    with pytest.raises(ModelworksError, match=r"dev does not take churn .*not among the trusted ones"):
        registration.release(world.dev, world.places["dev"].stack_file, world.dev.find("churn", "2"))
    assert world.places["dev"].stack_file.read_bytes() == before


def test_a_rollback_that_pods_would_not_trust_is_refused_and_nothing_is_noted(world, tmp_path):
    """The key of the version was rotated away since."""
    file, second = world.places["dev"].stack_file, a_key(tmp_path / "new")
    note_champion(world.dev, world.dev.find("churn", "1"))
    old = next((world.project.home.root / "signing" / "trusted").iterdir()).read_text()
    trusting(world, "dev", old, second[1])
    releasing.register_model("churn", env="dev", signing_key=str(second[0]))
    registration.release(world.dev, file, world.dev.find("churn", "2"))
    registration.follow_release(world.dev, world.dev.find("churn", "2"), changed=False, serves=True)
    before = file.read_bytes()
    trusting(world, "dev", second[1])
    with pytest.raises(ModelworksError, match=r"dev does not take churn .*not among the trusted ones") as refused:
        registration.roll_back(world.dev, file, "churn")
    assert "add its key to the environment's trusted ones" in refused.value.fix
    assert file.read_bytes() == before
    assert "rolled_back" not in world.dev.find("churn", "2").facts
    trusting(world, "dev", old, second[1])
    assert registration.roll_back(world.dev, file, "churn")[0].version == 1


def test_register_refuses_a_key_that_the_environment_does_not_trust_and_takes_one_that_it_does(world, tmp_path):
    path, public = a_key(tmp_path / "ours")
    trusting(world, "dev", public)
    with pytest.raises(ModelworksError, match="dev does not take churn"):
        releasing.register_model("churn", env="dev")
    releasing.register_model("churn", env="dev", signing_key=str(path))
    version = world.dev.find("churn", "2")
    assert world.dev.store.require_trusted_release("churn", version.digest) == key_id(read_key(path).public_key())


# -- Stored features -------------------------------------------------------------------------------------------------
DELAYS = View(
    "churn", ("tail",), {"tail": "String"}, {"mean": "Float64"}, None, "delays", "at", None, {}, online=True, digest="1"
)
SERVICES = {"flight": Service("churn", {"delays": ("mean",)})}
NAMED = {"churn: {allow_anonymous: true}": "churn: {allow_anonymous: true, feature_services: [flight]}"}


def reading(world: World, number: int, **views: str) -> Version:
    """A version that reads the service `flight`, and was trained with these views, each by its digest."""
    return world.dev.note(world.dev.find("churn", str(number)), features={"service": "flight", "views": views})


def define(world: World, views: dict[str, View], services: dict[str, Service]) -> None:
    (world.root / "models" / "features.json").write_text(FeatureManifest(views, {}, services).to_json())


def name_service(world: World, environment: str) -> None:
    file = world.places[environment].stack_file
    ((old, new),) = NAMED.items()
    file.write_text(file.read_text().replace(old, new).replace("registry: {}", "registry: {}\n    features: {}"))


def test_a_release_that_reads_a_service_which_its_endpoint_does_not_name_is_refused_with_the_setting(world):
    define(world, {"delays": DELAYS}, SERVICES)
    reading(world, 2, delays="1")
    file = world.places["dev"].stack_file
    before = file.read_bytes()
    with pytest.raises(ModelworksError, match="churn 2 reads the feature service 'flight', which its endpoint") as no:
        releasing.release("churn", env="dev")
    assert "endpoints.churn.feature_services to [flight] and modelworks:settings.features to {}" in no.value.fix
    assert (file.read_bytes(), "released" in world.dev.find("churn", "2").facts) == (before, False)
    name_service(world, "dev")
    releasing.release("churn", env="dev")
    assert read_releases(file)["churn"].version == 2


@pytest.mark.parametrize(
    ("views", "services", "message"),
    [
        ({"delays": replace(DELAYS, digest="2")}, SERVICES, "'delays' is defined otherwise"),
        ({"delays": DELAYS}, {"flight": Service("churn", {})}, "'delays' is not in the service any more"),
        ({}, SERVICES, "'delays' is defined otherwise"),
        ({"delays": DELAYS}, {"flights": SERVICES["flight"]}, "has none of that name; did you mean 'flights'"),
    ],
)
def test_a_release_that_was_trained_with_other_definitions_is_refused(world, views, services, message):
    define(world, views, services)
    name_service(world, "dev")
    reading(world, 2, delays="1")
    before = world.places["dev"].stack_file.read_bytes()
    with pytest.raises(ModelworksError, match=message):
        releasing.release("churn", env="dev")
    assert world.places["dev"].stack_file.read_bytes() == before


def test_a_promotion_that_reads_a_service_which_the_target_does_not_name_leaves_nothing_there(world):
    define(world, {"delays": DELAYS}, SERVICES)
    name_service(world, "dev")
    reading(world, 1, delays="1")
    with pytest.raises(ModelworksError, match=r"which its endpoint in Pulumi\.staging\.yaml does not name"):
        world.promote()
    assert world.staging.versions("churn") == []
    name_service(world, "staging")
    assert world.promote().facts["features"] == {"service": "flight", "views": {"delays": "1"}}


def test_for_review_a_service_that_is_named_in_no_commit_is_named_nowhere(world):
    define(world, {"delays": DELAYS}, SERVICES)
    reading(world, 1, delays="1")
    name_service(world, "staging")
    with pytest.raises(ModelworksError, match="does not name"):
        promote("churn", source="dev", to="staging", pr=True)
    assert world.git("branch", "--list", "release/*") == ""


def test_a_rollback_needs_the_tables_of_the_version_and_no_definition_of_then(world):
    name_service(world, "dev")
    file = world.places["dev"].stack_file
    note_champion(world.dev, reading(world, 1, delays="1"))
    registration.release(world.dev, file, world.dev.find("churn", "2"))
    registration.follow_release(world.dev, world.dev.find("churn", "2"), changed=False, serves=True)
    named = file.read_text()
    file.write_text(named.replace("[flight]", "[]"))
    with pytest.raises(ModelworksError, match="does not name"):
        registration.roll_back(world.dev, file, "churn")
    assert file.read_text() == named.replace("[flight]", "[]")
    assert "rolled_back" not in world.dev.find("churn", "2").facts
    file.write_text(named)
    assert registration.roll_back(world.dev, file, "churn")[0].version == 1
    assert read_releases(file)["churn"].version == 1


# -- From Python -----------------------------------------------------------------------------------------------------
def test_the_example_releases_promotes_and_rolls_back_without_the_command_line(world, monkeypatch, tmp_path):
    step = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "releases" / "releases.py"))
    functions = step["release_latest"].__globals__
    functions["HOME"] = world.project.home
    told = {}
    for name, place in world.places.items():
        registry = place.registry
        outputs = {
            "registry_url": registry.uri,
            "bundle_bucket": registry.store.bucket,
            "artifact_bucket": registry.store.artifacts,
        }
        told |= {f"stack output --json --stack {name}": json.dumps(outputs)}
        told |= {f"config get --path modelworks:secrets.registry_password --stack {name}": f"{registry.password}\n"}
    make_pulumi(tmp_path, told, monkeypatch)

    note_champion(world.dev, world.dev.find("churn", "1"))  # as `status` does, once a version has taken all traffic

    step["release_latest"]("churn", "dev")
    newest = world.dev.find("churn", "2")
    assert read_releases(world.places["dev"].stack_file)["churn"].digest == newest.digest
    world.dev.point(CHAMPION, newest, model="churn")
    note_champion(world.dev, newest)
    step["promote_what_serves"]("churn", "dev", "staging")
    assert read_releases(world.places["staging"].stack_file)["churn"].digest == newest.digest
    step["go_back"]("churn", "dev")
    assert read_releases(world.places["dev"].stack_file)["churn"].digest == world.dev.find("churn", "1").digest


def make_pulumi(folder: Path, told: Mapping[str, str], monkeypatch) -> None:
    """A `pulumi` that answers these commands, and a profile of AWS for each environment."""
    answers = folder / "answers.json"
    answers.write_text(json.dumps(told))
    program = folder / "bin" / "pulumi"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"print(json.load(open({str(answers)!r}))[' '.join(sys.argv[1:])], end='')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    profiles = folder / "aws"
    keys = "region = eu-central-1\naws_access_key_id = test\naws_secret_access_key = test\n"
    profiles.write_text("".join(f"[profile {name}]\n{keys}" for name in ("dev", "staging")))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profiles))
