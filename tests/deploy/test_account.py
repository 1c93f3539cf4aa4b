"""Which AWS account a stack means: two accounts of an emulator, and what the stacks' config says about them."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from modelworks.deploy import account as accounts
from modelworks.deploy.account import account_of, variables_of_role
from modelworks.deploy.stack import StackEngine
from modelworks.errors import ModelworksError

REGION = "eu-central-1"
OURS, DEV, PROD = "123456789012", "111111111111", "333333333333"
SHELL = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
UNREACHABLE = "http://127.0.0.1:9"


def role(account: str, **more) -> dict:
    return {"roleArn": f"arn:aws:iam::{account}:role/deploy", **more}


def config(**settings) -> dict:
    return {"aws:region": REGION, **{f"aws:{key}": value for key, value in settings.items()}}


@pytest.fixture(autouse=True)
def aws(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with mock_aws():
        yield


@pytest.fixture
def profiles(tmp_path):
    """Two profiles of the user's AWS configuration, each of an account."""
    text = ""
    for name, account in (("dev", DEV), ("prod", PROD)):
        keys = boto3.client("sts", region_name=REGION).assume_role(
            RoleArn=role(account)["roleArn"], RoleSessionName="somebody"
        )
        made = keys["Credentials"]
        text += (
            f"[profile {name}]\nregion = us-west-2\naws_access_key_id = {made['AccessKeyId']}\n"
            f"aws_secret_access_key = {made['SecretAccessKey']}\naws_session_token = {made['SessionToken']}\n"
        )
    (tmp_path / "config").write_text(text)


def test_a_program_is_in_a_role_by_its_variables_and_by_no_profile_of_the_shell():
    shell = {**SHELL, "AWS_PROFILE": "somebody", "PATH": "/bin"}
    found = variables_of_role(role(DEV)["roleArn"], shell, region=REGION)
    assert ("AWS_PROFILE" in found, found["AWS_REGION"], found["PATH"]) == (False, REGION, "/bin")
    assert account_of("dev", config(), found).id == DEV


def test_a_role_that_cannot_be_assumed_is_named():
    unreachable = {**SHELL, "AWS_ENDPOINT_URL": UNREACHABLE}
    with pytest.raises(ModelworksError, match="role arn:aws:iam::111111111111:role/deploy cannot be assumed"):
        variables_of_role(role(DEV)["roleArn"], unreachable, region=REGION)


def test_without_settings_the_credentials_are_those_of_the_engines_variables():
    found = account_of("dev", config(), SHELL)
    assert (found.id, found.region) == (OURS, REGION)


def test_a_profile_of_the_stack_wins_over_keys_in_the_shell(profiles):
    assert account_of("dev", config(profile="dev"), SHELL).id == DEV
    assert account_of("prod", config(profile="prod"), SHELL).id == PROD


def test_the_profile_of_the_shell_is_used_where_the_stack_names_none(profiles):
    assert account_of("dev", config(), {"AWS_PROFILE": "dev"}).id == DEV


def test_the_region_is_the_stacks_and_not_the_shells(profiles):
    found = account_of("dev", config(profile="dev"), {**SHELL, "AWS_REGION": "us-east-1"})
    assert (found.region, found.session.client("cloudwatch").meta.region_name) == (REGION, REGION)


def test_a_stack_without_a_region_takes_the_shells_or_is_refused():
    assert account_of("dev", {}, {**SHELL, "AWS_REGION": "us-east-1"}).region == "us-east-1"
    with pytest.raises(ModelworksError, match="stack dev names no AWS region"):
        account_of("dev", {}, SHELL)


def test_a_role_is_assumed_and_two_stacks_of_one_command_are_in_two_accounts():
    one, other = (account_of(stack, config(assumeRoles=[role(id_)]), SHELL) for stack, id_ in (("a", DEV), ("b", PROD)))
    assert (one.id, other.id) == (DEV, PROD)
    assert [each.session.client("sts").get_caller_identity()["Account"] for each in (one, other)] == [DEV, PROD]


def test_programs_of_others_get_the_account_by_variables(monkeypatch):
    found = account_of("a", config(assumeRoles=[role(DEV)]), SHELL)
    for name, value in found.variables.items():
        monkeypatch.setenv(name, value)
    assert boto3.client("sts").get_caller_identity()["Account"] == DEV


def test_roles_are_assumed_one_after_the_other_from_a_profile(profiles):
    found = account_of("prod", config(profile="dev", assumeRoles=[role(OURS), role(PROD)]), {})
    assert found.id == PROD


def test_the_setting_of_older_providers_is_one_role():
    assert account_of("dev", config(assumeRole=role(DEV)), SHELL).id == DEV


def test_a_role_is_assumed_with_all_that_the_stack_says_of_it(monkeypatch):
    asked = []
    real = boto3.Session.client

    def client(self, service, *arguments, **more):
        made = real(self, service, *arguments, **more)
        made.meta.events.register("provide-client-params.sts.AssumeRole", lambda params, **_: asked.append(params))
        return made

    monkeypatch.setattr(boto3.Session, "client", client)
    more = {
        "sessionName": "ci", "externalId": "ours", "duration": "1h30m", "tags": {"team": "ml"}, "sourceIdentity": "ada",
        "transitiveTagKeys": ["team"], "policyArns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
    }  # fmt: skip
    account_of("dev", config(assumeRoles=[role(DEV, **more)]), SHELL)
    assert asked[0] == {
        "RoleArn": role(DEV)["roleArn"], "RoleSessionName": "ci", "ExternalId": "ours", "DurationSeconds": 5400,
        "Tags": [{"Key": "team", "Value": "ml"}], "SourceIdentity": "ada", "TransitiveTagKeys": ["team"],
        "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}],
    }  # fmt: skip


def test_a_role_is_assumed_again_before_its_credentials_end():
    """A run of many hours is watched with one session."""
    session = account_of("dev", config(assumeRoles=[role(DEV, duration="15m")]), SHELL).session
    # So few minutes are left of fifteen that botocore asks for new ones at every look.
    first, second = (session.get_credentials().get_frozen_credentials().access_key for _ in range(2))
    assert first != second
    assert session.client("sts").get_caller_identity()["Account"] == DEV


@pytest.mark.parametrize("allowed", [[DEV], [DEV, PROD], [int(DEV)]])
def test_credentials_of_another_account_are_refused_in_one_sentence(allowed):
    pinned = " or ".join(map(str, allowed))
    with pytest.raises(ModelworksError) as refused:
        account_of("dev", config(allowedAccountIds=allowed), SHELL)
    assert refused.value.message == (
        f"stack dev is pinned to account {pinned} (aws:allowedAccountIds), and the credentials are of account {OURS}"
    )


def test_an_account_among_the_allowed_ones_passes_and_a_forbidden_one_does_not():
    assert account_of("dev", config(allowedAccountIds=[DEV, OURS]), SHELL).id == OURS
    assert account_of("dev", config(allowedAccountIds=[int(OURS)]), SHELL).id == OURS
    with pytest.raises(ModelworksError, match=f"forbids account {OURS}"):
        account_of("dev", config(forbiddenAccountIds=[OURS]), SHELL)


@pytest.mark.parametrize("roles", [["arn:aws:iam::1:role/x"], [{}], [{"roleArn": "a", "rolArn": "b"}], {"name": "x"}])
def test_a_role_that_is_not_one_is_named_before_anybody_is_asked(roles):
    with pytest.raises(ModelworksError, match=r"a role of aws:assumeRoles must be a mapping with roleArn"):
        account_of("dev", config(assumeRoles=roles, endpoints=[{"sts": UNREACHABLE}]), SHELL)


@pytest.mark.parametrize("duration", ["an hour", "1h 30m", "90", "h", "-1h"])
def test_a_duration_that_go_would_not_read_is_named(duration):
    with pytest.raises(ModelworksError, match="must be such as 45m or 1h30m, got"):
        account_of("dev", config(assumeRoles=[role(DEV, duration=duration)]), SHELL)


@pytest.mark.parametrize("setting", ["assumeRoleWithWebIdentity", "sharedConfigFiles", "sharedCredentialsFiles"])
def test_a_setting_about_credentials_that_nothing_here_reads_is_not_passed_over(setting):
    with pytest.raises(ModelworksError, match=f"aws:{setting}, which modelworks does not read"):
        account_of("dev", config(**{setting: ["x"]}), SHELL)


def test_a_profile_that_is_not_there_is_one_sentence():
    with pytest.raises(ModelworksError, match=r"the AWS account of the stack dev cannot be reached: .*profile"):
        account_of("dev", config(profile="nobody"), SHELL)


def test_no_credentials_at_all_are_one_sentence(monkeypatch):
    for name in SHELL:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for settings in ({}, {"assumeRoles": [role(DEV)]}):
        with pytest.raises(ModelworksError, match="cannot be reached: Unable to locate credentials"):
            account_of("dev", config(**settings), {})


def test_addresses_of_services_are_the_stacks_then_the_variables():
    variables = {**SHELL, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2", "AWS_ENDPOINT_URL": "http://127.0.0.1:3"}
    session = accounts._started(config(endpoints=[{"kms": "http://127.0.0.1:1"}]), variables)
    found = [session.client(service).meta.endpoint_url for service in ("kms", "s3", "sqs")]
    assert found == [f"http://127.0.0.1:{port}" for port in (1, 2, 3)]
    assert session.client("sqs", endpoint_url="http://127.0.0.1:4").meta.endpoint_url == "http://127.0.0.1:4"
    assert session.resource("s3").meta.client.meta.endpoint_url == "http://127.0.0.1:2"


@pytest.mark.parametrize("endpoints", ["http://127.0.0.1:9", ["http://127.0.0.1:9"], 7, [], {}, [None]])
def test_addresses_that_are_no_mapping_are_the_providers_to_refuse(endpoints):
    session = accounts._started(config(endpoints=endpoints), SHELL)
    assert session.client("sqs").meta.endpoint_url == f"https://sqs.{REGION}.amazonaws.com"


# -- What the engine says of a stack ---------------------------------------------------------------------------------
class Answers(StackEngine):
    """An engine that answers as Pulumi does."""

    def ask(self, *arguments: str, **_) -> str:
        if arguments[:2] == ("config", "get"):
            return "the-token\n"
        shown = {
            "aws:region": {"value": REGION, "secret": False},
            "aws:token": {"secret": True},
            "aws:assumeRoles": {"value": json.dumps([role(DEV)]), "secret": False},
            "aws:allowedAccountIds": {"value": f'["{DEV}"]', "objectValue": [DEV], "secret": False},
            "modelworks:settings": {"value": "{}", "objectValue": {}, "secret": False},
        }
        return json.dumps(shown)


def engine(tmp_path: Path, **more) -> StackEngine:
    return Answers("dev", tmp_path, Path("pulumi"), SHELL, tmp_path, **{"on_laptop": False, **more})


def test_the_engine_resolves_and_decrypts_the_config_that_says_which_account(tmp_path):
    assert engine(tmp_path)._config_of("aws") == {
        "aws:region": REGION,
        "aws:token": "the-token",
        "aws:assumeRoles": [role(DEV)],
        "aws:allowedAccountIds": [DEV],
    }
    assert engine(tmp_path).account.id == DEV


def test_on_the_laptop_the_account_is_the_environments_whatever_role_the_stack_names(tmp_path):
    made = Answers("dev", tmp_path, Path("pulumi"), {**SHELL, "AWS_REGION": "eu-west-1"}, tmp_path, on_laptop=True)
    assert (made.account.id, made.account.region) == (OURS, "eu-west-1")
