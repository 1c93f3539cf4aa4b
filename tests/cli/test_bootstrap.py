"""`bootstrap` on an empty account, on one that has a part, and once more."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from typer.testing import CliRunner

from mocks import ROOT
from modelworks import cli
from modelworks.cli import app, bootstrap
from modelworks.cli.bootstrap import plan
from modelworks.cli.doctor import Needs
from modelworks.deploy.bootstrap import state_bucket
from modelworks.deploy.ci_roles import deploy_policy, preview_policy, trusted_role
from modelworks.errors import ModelworksError
from modelworks.laptop.authorization.evaluation import Policies, Principal, Question, decide

REGION = "eu-central-1"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
ROLE = "modelworks-dev-deploy"


@dataclass
class FakeEngine:
    project: Path
    on_laptop: bool = False
    backend_url: str = f"s3://acme-state?region={REGION}"
    variables: dict[str, str] = field(default_factory=lambda: dict(KEYS))
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def has_stack(self) -> bool:
        return any(arguments[:2] == ("stack", "init") for arguments in self.asked)

    def ask(self, *arguments: str) -> str:
        self.asked.append(arguments)
        return ""


@dataclass
class FakeTarget:
    stack_file: Path
    engine: FakeEngine
    environment: str = "dev"


@pytest.fixture
def target(tmp_path, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "Pulumi.dev.yaml"
    path.write_text((ROOT / "stacks/Pulumi.dev.yaml").read_text().replace("111111111111", ACCOUNT))
    with mock_aws():
        yield FakeTarget(path, FakeEngine(tmp_path))


def aws(service: str):
    return boto3.client(service, region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing")


def actions(target, github="acme/models") -> dict[str, str]:
    return {step.name: step.action for step in plan(Needs(target), github)}


def apply(target, github="acme/models") -> None:
    for step in plan(Needs(target), github):
        step.apply()


ALL_NEW = dict.fromkeys(
    ["state bucket", "secrets key", "stack", "deploy role", "preview role", "promote role"], "create"
)


def test_the_plan_for_an_empty_account_changes_nothing(target):
    assert actions(target) == actions(target) == ALL_NEW
    assert (
        aws("s3").list_buckets()["Buckets"] == aws("kms").list_keys()["Keys"] == aws("iam").list_roles()["Roles"] == []
    )


def test_what_was_made_is_not_made_again(target):
    apply(target)
    assert actions(target) == dict.fromkeys(ALL_NEW, "none")
    assert len(aws("kms").list_keys()["Keys"]) == 1


def test_the_state_bucket_is_private_versioned_and_closed_to_plain_http(target):
    apply(target)
    s3 = aws("s3")
    assert s3.get_bucket_location(Bucket="acme-state")["LocationConstraint"] == REGION
    assert s3.get_bucket_versioning(Bucket="acme-state")["Status"] == "Enabled"
    assert set(s3.get_public_access_block(Bucket="acme-state")["PublicAccessBlockConfiguration"].values()) == {True}
    [statement] = json.loads(s3.get_bucket_policy(Bucket="acme-state")["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_a_bucket_that_is_there_gets_what_it_lacks_and_keeps_its_policy(target):
    s3 = aws("s3")
    s3.create_bucket(Bucket="acme-state", CreateBucketConfiguration={"LocationConstraint": REGION})
    own = {"Sid": "Own", "Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "s3:GetObject", "Resource": "*"}
    s3.put_bucket_policy(Bucket="acme-state", Policy=json.dumps({"Version": "2012-10-17", "Statement": [own]}))
    step = next(step for step in plan(Needs(target)) if step.name == "state bucket")
    assert (step.action, step.message) == ("update", "s3://acme-state is not private, versioned, TLS only")
    step.apply()
    assert [each["Sid"] for each in json.loads(s3.get_bucket_policy(Bucket="acme-state")["Policy"])["Statement"]] == [
        "Own", "TlsOnly"
    ]  # fmt: skip
    assert actions(target)["state bucket"] == "none"


@pytest.mark.parametrize("url", ["", "https://api.pulumi.com", "file:///state", "azblob://state"])
def test_a_backend_that_is_no_bucket_is_left_to_its_owner(target, url):
    target.engine.backend_url = url
    assert actions(target)["state bucket"] == "skip"


def test_the_key_rotates_and_has_the_alias_that_the_stacks_file_names(target):
    apply(target)
    key = aws("kms").describe_key(KeyId="alias/modelworks-dev-config")["KeyMetadata"]["KeyId"]
    assert aws("kms").get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]


def test_a_key_without_its_alias_is_not_left_behind(target, monkeypatch):
    step = next(step for step in plan(Needs(target)) if step.name == "secrets key")
    aws("kms").create_alias(
        AliasName="alias/modelworks-dev-config", TargetKeyId=aws("kms").create_key()["KeyMetadata"]["KeyId"]
    )
    with pytest.raises(ModelworksError, match="AWS refuses CreateAlias for the secrets key"):
        step.apply()
    states = [
        aws("kms").describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"] for key in aws("kms").list_keys()["Keys"]
    ]
    assert sorted(states) == ["Enabled", "PendingDeletion"]


def test_a_key_that_is_to_be_deleted_is_not_replaced_unasked(target):
    apply(target)
    aws("kms").schedule_key_deletion(KeyId=aws("kms").list_keys()["Keys"][0]["KeyId"])
    with pytest.raises(ModelworksError, match="is PendingDeletion") as refused:
        actions(target)
    assert "cancel-key-deletion" in refused.value.fix


def test_secrets_that_a_passphrase_encrypts_are_refused_with_the_line_to_write(target):
    text = target.stack_file.read_text().replace(
        "awskms://alias/modelworks-dev-config?region=eu-central-1", "passphrase"
    )
    target.stack_file.write_text(text)
    with pytest.raises(ModelworksError, match="not by a key of KMS") as refused:
        actions(target)
    assert "secretsprovider: awskms://alias/" in refused.value.fix


def test_the_stack_is_made_with_the_provider_of_its_file(target):
    apply(target)
    provider = "awskms://alias/modelworks-dev-config?region=eu-central-1"
    assert target.engine.asked == [("stack", "init", "dev", "--no-select", "--secrets-provider", provider)]


def test_a_stack_whose_file_names_no_provider_gets_a_key_of_its_own(target):
    lines = target.stack_file.read_text().splitlines()
    target.stack_file.write_text("\n".join(line for line in lines if not line.startswith("secretsprovider")))
    apply(target)
    assert target.engine.asked[0][-1] == f"awskms://alias/modelworks-dev-config?region={REGION}"


@pytest.mark.parametrize("repository", ["acme/models", "acme@12345/models@678901"])
def test_only_jobs_of_the_repository_in_the_environment_may_deploy(target, repository):
    apply(target, repository)
    [statement] = aws("iam").get_role(RoleName=ROLE)["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": f"repo:{repository}:environment:dev",
        }
    }


def test_jobs_that_preview_are_in_an_environment_of_their_own(target):
    apply(target)
    [statement] = aws("iam").get_role(RoleName="modelworks-dev-preview")["Role"]["AssumeRolePolicyDocument"][
        "Statement"
    ]
    subject = statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject == "repo:acme/models:environment:dev-preview"
    policy = aws("iam").get_role_policy(RoleName="modelworks-dev-preview", PolicyName="preview")["PolicyDocument"]
    place = ("aws", ACCOUNT, REGION)
    assert policy == preview_policy(*place, environment="dev", state="acme-state", key="alias/modelworks-dev-config")


STAGING = "222222222222"


@pytest.fixture
def staging(target):
    """The next environment, in an account of its own, with the backend of the first."""
    keys = aws("sts").assume_role(RoleArn=f"arn:aws:iam::{STAGING}:role/somebody", RoleSessionName="me")["Credentials"]
    tools = target.stack_file.with_name("credentials")
    tools.write_text("[tools]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    path = target.stack_file.with_name("Pulumi.staging.yaml")
    path.write_text((ROOT / "stacks/Pulumi.staging.yaml").read_text())
    variables = {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["SessionToken"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tools))
        url = f"{target.engine.backend_url}&profile=tools"
        yield FakeTarget(path, FakeEngine(target.engine.project, backend_url=url, variables=variables), "staging")


def policy_of_state() -> dict:
    return json.loads(aws("s3").get_bucket_policy(Bucket="acme-state")["Policy"])


def test_a_state_bucket_of_another_account_lets_in_the_roles_of_the_environment(target, staging):
    apply(target)
    step = next(step for step in plan(Needs(staging), "acme/models") if step.name == "state bucket")
    assert (step.action, step.message) == ("update", f"s3://acme-state is not open to the roles of {STAGING}")
    apply(staging)
    assert [each["Sid"] for each in policy_of_state()["Statement"]] == ["TlsOnly", f"RolesOf{STAGING}"]
    assert actions(staging) == dict.fromkeys(ALL_NEW, "none")
    assert actions(target)["state bucket"] == "none"


@pytest.mark.parametrize(
    ("role", "action", "allowed"),
    [
        ("modelworks-staging-deploy", "s3:PutObject", True),
        ("modelworks-staging-deploy", "s3:DeleteObjectVersion", False),
        ("modelworks-staging-preview", "s3:GetObject", True),
        ("modelworks-staging-preview", "s3:PutObject", False),
        ("modelworks-staging-promote", "s3:GetObject", True),
        ("modelworks-staging-promote", "s3:PutObject", False),
        ("somebody", "s3:GetObject", False),
    ],
)
def test_a_role_of_the_other_account_does_with_the_state_what_its_own_policy_and_the_bucket_allow(
    target, staging, role, action, allowed
):
    apply(target)
    apply(staging)
    keys = staging.engine.variables
    iam = boto3.client(
        "iam",
        region_name=REGION,
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=keys["AWS_SESSION_TOKEN"],
    )
    everything = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    kind = role.rpartition("-")[2]
    own = everything if role == "somebody" else iam.get_role_policy(RoleName=role, PolicyName=kind)["PolicyDocument"]
    arn = f"arn:aws:iam::{STAGING}:role/{role}"
    caller = Principal(f"arn:aws:sts::{STAGING}:assumed-role/{role}/job", STAGING, arn)
    context = {"aws:PrincipalArn": [arn], "aws:SecureTransport": ["true"], "aws:ResourceAccount": [ACCOUNT]}
    asked = Question(action, "arn:aws:s3:::acme-state/.pulumi/stacks/modelworks/staging.json", context)
    # Between accounts, both sides must allow it.
    assert decide(caller, asked, Policies([own], resource=policy_of_state(), resource_decides=True)).allowed is allowed


def test_the_role_that_promotes_may_assume_that_of_the_environment_before_and_is_trusted_there(target, staging):
    apply(target)
    trusted = aws("iam").get_role(RoleName="modelworks-dev-promote")["Role"]["AssumeRolePolicyDocument"]
    jobs, role = trusted["Statement"]
    subject = jobs["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject == "repo:acme/models:environment:dev-promote"
    assert role == trusted_role(f"arn:aws:iam::{STAGING}:role/modelworks-staging-promote")
    step = next(step for step in plan(Needs(staging), "acme/models") if step.name == "promote role")
    step.apply()
    assert step.action == "create"
    assert [step.action for step in plan(Needs(staging), "acme/models") if step.name == "promote role"] == ["none"]


def test_a_role_for_another_repository_is_put_right(target):
    apply(target, "acme/other")
    roles = dict.fromkeys(["deploy role", "preview role", "promote role"], "update")
    assert actions(target) == {**dict.fromkeys(ALL_NEW, "none"), **roles}
    apply(target)
    assert actions(target) == dict.fromkeys(ALL_NEW, "none")


def test_an_identity_provider_without_the_audience_of_sts_is_put_right(target):
    apply(target)
    iam = aws("iam")
    [provider] = iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]
    iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=provider["Arn"])
    url = "https://token.actions.githubusercontent.com"
    iam.create_open_id_connect_provider(Url=url, ClientIDList=["other"], ThumbprintList=["0" * 40])
    assert actions(target)["deploy role"] == "update"


@pytest.mark.parametrize(
    ("remote", "repository"),
    [
        ("https://github.com/acme/models.git", "acme/models"),
        ("git@github.com:acme/models.git", "acme/models"),
        ("ssh://git@github.com/acme/models", "acme/models"),
        ("https://gitlab.com/acme/models.git", ""),
        ("https://github.com.example.com/acme/models", ""),
    ],
)
def test_the_repository_is_that_of_gits_origin(target, tmp_path, remote, repository):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", remote], check=True)
    roles = [step for step in plan(Needs(target)) if "role" in step.name]
    found = {(step.action, f"for jobs of {repository} in" in step.message) for step in roles}
    assert found == {("create", True) if repository else ("skip", False)}


@pytest.mark.parametrize("name", ["acme", "acme/", "acme/models/x", "https://github.com/acme/models", "acme/mo dels"])
def test_a_repository_of_another_form_is_refused(target, name):
    with pytest.raises(ModelworksError, match="must be OWNER/NAME"):
        actions(target, name)


def allowed_by(policy: dict) -> set[str]:
    """Each action that it allows on something."""
    return {action for each in policy["Statement"] if each["Effect"] == "Allow" for action in each["Action"]}


def test_only_the_role_of_a_stack_that_makes_its_cluster_may_make_one():
    without = deploy_policy("aws", ACCOUNT, REGION, role=ROLE, state="acme-state", key="alias/x")
    policy = deploy_policy("aws", ACCOUNT, REGION, role=ROLE, state="acme-state", key="alias/x", cluster=True)
    more = allowed_by(policy) - allowed_by(without)
    assert {"eks:*", "ec2:*", "logs:*", "iam:PassRole", "iam:CreateOpenIDConnectProvider"} < more
    (passed,) = [each for each in policy["Statement"] if "iam:PassRole" in each.get("Action", ())]
    services = passed["Condition"]["StringEquals"]["iam:PassedToService"]
    assert services == ["ec2.amazonaws.com", "eks.amazonaws.com", "vpc-flow-logs.amazonaws.com"]
    # The provider of GitHub, by which the role is assumed, is none of a cluster.
    (issuer,) = [each for each in policy["Statement"] if "iam:DeleteOpenIDConnectProvider" in each.get("Action", ())]
    assert issuer["Resource"] == f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.eks.{REGION}.*"
    assert len(json.dumps(policy)) < 10_240, "an inline policy of a role"


def test_a_stack_that_makes_its_cluster_is_known_by_its_file(target):
    def policy():
        apply(target)
        return aws("iam").get_role_policy(RoleName=ROLE, PolicyName="deploy")["PolicyDocument"]

    assert "eks:*" not in allowed_by(policy())
    eks = "cluster:\n      eks: {administrators: []}\n"
    target.stack_file.write_text(target.stack_file.read_text().replace("cluster:\n", eks, 1))
    assert "eks:*" in allowed_by(policy())


def test_the_role_can_change_neither_itself_nor_lose_state_or_secrets():
    policy = deploy_policy("aws", ACCOUNT, REGION, role=ROLE, state="acme-state", key="alias/modelworks-dev-config")
    denied = {each["Sid"]: each for each in policy["Statement"] if each["Effect"] == "Deny"}
    assert denied["OwnRole"]["Resource"] == f"arn:aws:iam::{ACCOUNT}:role/{ROLE}"
    assert "s3:DeleteObjectVersion" in denied["StateStays"]["Action"]
    assert denied["SecretsStay"]["Condition"] == {
        "ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/modelworks-dev-config"}
    }
    assert len(json.dumps(policy)) < 10_240, "an inline policy of a role"


def test_a_bucket_of_another_account_is_refused(target, monkeypatch):
    def forbidden(*_: object) -> None:
        raise ClientError({"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "HeadBucket")

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", forbidden)
    with pytest.raises(ModelworksError, match="S3 answers 403 to these credentials"):
        state_bucket(target.engine.backend_url, KEYS, REGION, account=ACCOUNT)


@pytest.fixture
def run(target, monkeypatch):
    monkeypatch.setattr(bootstrap.EnvironmentContext, "of", lambda _: target)
    cli._register()

    def call(*arguments: str, answer: str = ""):
        return CliRunner().invoke(app, ["bootstrap", "dev", "--github", "acme/models", *arguments], input=answer)

    return call


def test_preview_only_prints_the_plan_for_machines(run, target):
    result = run("--preview-only", "--json")
    assert result.exit_code == 0
    assert {step["name"]: step["action"] for step in json.loads(result.stdout)["steps"]} == ALL_NEW
    assert actions(target) == ALL_NEW


def test_a_no_makes_nothing(run, target):
    assert run(answer="n\n").exit_code == 1
    assert actions(target) == ALL_NEW


def test_a_yes_makes_everything(run, target):
    assert run(answer="y\n").exit_code == 0
    assert actions(target) == dict.fromkeys(ALL_NEW, "none")


def test_json_asks_no_question(run):
    assert "asks no question" in str(run("--json").exception)


def test_an_environment_of_the_laptop_is_refused(run, target):
    target.engine.on_laptop = True
    assert "is an environment of the laptop" in str(run("--yes").exception)
