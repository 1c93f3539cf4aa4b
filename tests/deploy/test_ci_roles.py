"""The roles of CI, judged as IAM does: one may do all that the provider does, one only reads.

The actions of each type are a table, `provider_actions`, with its sources. No account of AWS judged any of it.
"""

from __future__ import annotations

import json

import botocore.session
import pytest

from deploy.provider_actions import ACTIONS
from mocks import ACCOUNT, ROOT, declare
from modelworks import Cluster, FeatureStore
from modelworks.deploy.ci_roles import deploy_policy, preview_policy, promote_policy, trusted_role
from modelworks.laptop.authorization.evaluation import Policies, Principal, Question, decide
from smallest import FULLEST, SMALLEST

REGION = "eu-central-1"
PLACE = ("aws", ACCOUNT, REGION)
OWN = "modelworks-dev-deploy"
GIVEN = {"state": "acme-state", "key": "alias/modelworks-dev-config"}
DEPLOY = deploy_policy(*PLACE, role=OWN, **GIVEN)
DEPLOY_WITH_CLUSTER = deploy_policy(*PLACE, role=OWN, **GIVEN, cluster=True)
PREVIEW = preview_policy(*PLACE, environment="dev", **GIVEN)

ME = Principal(f"arn:aws:sts::{ACCOUNT}:assumed-role/r/job", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:role/r")
IAM = f"arn:aws:iam::{ACCOUNT}"
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:features-api-key-1234567"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234"
BUCKET = "arn:aws:s3:::registry-bundles-1234567"
CONFIG_KEY = {"kms:ResourceAliases": [GIVEN["key"]]}
BY_SECRETS_MANAGER = {"kms:ViaService": [f"secretsmanager.{REGION}.amazonaws.com"]}
OURS = {"aws:ResourceTag/environment": ["dev"]}
PASSED_TO = {
    "aws:ec2/flowLog:FlowLog": "vpc-flow-logs.amazonaws.com",
    "aws:eks/cluster:Cluster": "eks.amazonaws.com",
}
OF_IAM = {
    "aws:iam/openIdConnectProvider:OpenIdConnectProvider": (
        f"{IAM}:oidc-provider/oidc.eks.{REGION}.amazonaws.com/id/0123"
    ),
    "aws:iam/policy:Policy": f"{IAM}:policy/tecton-1234567",
}
OF_A_CLUSTER = ("aws:ec2/", "aws:eks/", "aws:cloudwatch/logGroup:", "aws:iam/openId")
"""Types that only a stack that makes its cluster declares."""
VENDORS = {
    "tecton": {
        "url": "https://acme.tecton.ai",
        "deployment": "acme",
        "control_plane_account_id": "222222222222",
        "external_id": "from-tecton",
        "api_key": "k",
    },
    "hopsworks": {
        "url": "https://h.example.com",
        "repository": "ml/hopsworks-base",
        "node_role": "hopsworks-nodes",
        "api_key": "k",
    },
}


def allows(policy: dict, action: str, resource: str, **context: list[str]) -> bool:
    return decide(ME, Question(action, resource, context), Policies(identity=[policy])).allowed


def refused(policy: dict, kind: str, actions: list[str]) -> list[str]:
    """The actions that a policy does not allow for resources of a type, as components declare them."""
    context = OURS | BY_SECRETS_MANAGER | {"iam:PassedToService": [PASSED_TO.get(kind, "")]}

    def resource(action: str) -> str:
        if action.endswith("InstanceProfile"):
            return f"{IAM}:instance-profile/eks-1234567"
        of_service = {"iam": OF_IAM.get(kind, f"{IAM}:role/registry-1234567"), "kms": KEY, "s3": BUCKET}
        return {**of_service, "secretsmanager": SECRET}.get(action.partition(":")[0], "*")

    return [each for each in actions if not allows(policy, each, resource(each), **context)]


def types(declared) -> set[str]:
    return {token for token, _ in declared.resources if token.startswith("aws:")}


def recorded() -> set[str]:
    """The types that the four stacks declare."""
    urns = [urn for path in (ROOT / "tests/stacks/declared").glob("*.json") for urn in json.loads(path.read_text())]
    return {kind for urn in urns if (kind := urn.partition("::")[0].rpartition("$")[2]).startswith("aws:")}


def of_vendor(engine: str) -> set[str]:
    args = {**SMALLEST["FeatureStore"], "engine": engine, "vendor": VENDORS[engine]}
    return types(declare(lambda: FeatureStore("features", args)))


def of_cluster() -> set[str]:
    return types(declare(lambda: Cluster("dev", {**SMALLEST["Cluster"], **FULLEST["Cluster"]})))


def test_the_table_has_every_type_that_is_declared_and_no_other():
    assert recorded() | of_vendor("tecton") | of_vendor("hopsworks") | of_cluster() == set(ACTIONS)


def test_the_types_of_a_cluster_are_declared_by_nothing_else():
    without = recorded() | of_vendor("tecton") | of_vendor("hopsworks")
    assert {kind for kind in ACTIONS if kind.startswith(OF_A_CLUSTER)} == of_cluster() - without


@pytest.mark.parametrize("kind", [kind for kind in ACTIONS if not kind.startswith(OF_A_CLUSTER)])
def test_the_deploy_role_may_make_read_change_and_delete_what_a_stack_declares(kind):
    assert refused(DEPLOY, kind, ACTIONS[kind].changes + ACTIONS[kind].reads) == []


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_deploy_role_of_a_stack_that_makes_its_cluster_may_do_so(kind):
    actions = [*ACTIONS[kind].changes, *ACTIONS[kind].reads, "ec2:DescribeAvailabilityZones"]
    assert refused(DEPLOY_WITH_CLUSTER, kind, actions) == []


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_preview_role_may_read_what_a_stack_declares(kind):
    assert refused(PREVIEW, kind, [*ACTIONS[kind].reads, "ec2:DescribeAvailabilityZones"]) == []


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_preview_role_may_change_nothing(kind):
    harmless = ("Get", "List", "Describe", "Decrypt")
    writes = [each for each in ACTIONS[kind].changes if not each.partition(":")[2].startswith(harmless)]
    assert refused(PREVIEW, kind, writes) == writes


def test_the_preview_role_reads_the_state_and_decrypts_the_secrets_of_its_stack_alone():
    state = "arn:aws:s3:::acme-state"
    assert allows(PREVIEW, "s3:GetObject", f"{state}/.pulumi/stacks/modelworks/dev.json")
    assert allows(PREVIEW, "s3:ListBucket", state)
    assert allows(PREVIEW, "kms:Decrypt", KEY, **CONFIG_KEY)
    assert not allows(PREVIEW, "kms:Decrypt", KEY, **{"kms:ResourceAliases": ["alias/modelworks-prod-config"]})
    assert not allows(PREVIEW, "s3:PutObject", f"{state}/.pulumi/stacks/modelworks/dev.json")


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("s3:GetObject", f"{BUCKET}/bundles/m/a.bento", {}),
        ("dynamodb:GetItem", f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/features.flight", {}),
        ("kms:Decrypt", KEY, {}),
        ("secretsmanager:GetSecretValue", SECRET, {"aws:ResourceTag/environment": ["prod"]}),
        ("secretsmanager:GetSecretValue", SECRET, {}),
        ("athena:GetQueryResults", f"arn:aws:athena:{REGION}:{ACCOUNT}:workgroup/features", {}),
        ("ecr:GetDownloadUrlForLayer", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/hopsworks", {}),
        ("sts:AssumeRole", f"{IAM}:role/{OWN}", {}),
    ],
)
def test_the_preview_role_reads_no_data(action, resource, context):
    assert not allows(PREVIEW, action, resource, **context)


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("iam:PutRolePolicy", f"{IAM}:role/{OWN}", {}),
        ("iam:AttachRolePolicy", f"{IAM}:role/{OWN}", {}),
        ("iam:DeleteRole", f"{IAM}:role/{OWN}", {}),
        ("s3:DeleteObjectVersion", "arn:aws:s3:::acme-state/.pulumi/stacks/modelworks/dev.json", {}),
        ("s3:PutBucketPolicy", "arn:aws:s3:::acme-state", {}),
        ("kms:ScheduleKeyDeletion", KEY, CONFIG_KEY),
        ("iam:DeleteOpenIDConnectProvider", f"{IAM}:oidc-provider/token.actions.githubusercontent.com", {}),
        ("iam:PassRole", f"{IAM}:role/registry-1234567", {"iam:PassedToService": ["lambda.amazonaws.com"]}),
    ],
)
def test_the_deploy_role_can_change_neither_itself_nor_lose_state_or_secrets(action, resource, context):
    assert not allows(DEPLOY, action, resource, **context)
    assert not allows(DEPLOY_WITH_CLUSTER, action, resource, **context)


SOURCE_ROLE = "arn:aws:iam::222222222222:role/modelworks-dev-promote"
PROMOTE = promote_policy(*PLACE, **GIVEN, source_role=SOURCE_ROLE)
HERE = {"aws:ResourceAccount": [ACCOUNT]}
BY_S3 = {"kms:ViaService": [f"s3.{REGION}.amazonaws.com"]}
OBJECT = f"{BUCKET}/bundles/m/a.bento"


@pytest.mark.parametrize(
    ("action", "resource", "context", "allowed"),
    [
        # What docs/guides/aws.md lists for a promotion, and the stack that names it.
        ("s3:ListBucket", BUCKET, HERE, True),
        ("s3:GetObject", OBJECT, HERE, True),
        ("s3:PutObject", "arn:aws:s3:::registry-artifacts-1234567/data/a.parquet", HERE, True),
        ("kms:Decrypt", KEY, BY_S3, True),
        ("kms:GenerateDataKey", KEY, BY_S3, True),
        ("kms:Decrypt", KEY, CONFIG_KEY, True),
        ("s3:GetObject", "arn:aws:s3:::acme-state/.pulumi/stacks/modelworks/dev.json", {}, True),
        ("sts:AssumeRole", SOURCE_ROLE, {}, True),
        # And no more.
        ("s3:PutObject", OBJECT, {"aws:ResourceAccount": ["222222222222"]}, False),
        ("s3:DeleteObject", OBJECT, HERE, False),
        ("s3:GetObject", "arn:aws:s3:::predictions-log-1234567/a", HERE, False),
        ("s3:PutObject", "arn:aws:s3:::acme-state/.pulumi/stacks/modelworks/dev.json", {}, False),
        ("kms:Decrypt", KEY, {}, False),
        ("sts:AssumeRole", f"{IAM}:role/{OWN}", {}, False),
        ("iam:PutRolePolicy", f"{IAM}:role/{OWN}", {}, False),
    ],
)
def test_the_promote_role_may_do_what_a_promotion_does(action, resource, context, allowed):
    assert allows(PROMOTE, action, resource, **context) is allowed


@pytest.mark.parametrize(
    ("name", "allowed"), [("modelworks-staging-promote", True), ("modelworks-staging-deploy", False)]
)
def test_a_role_is_assumed_by_the_one_role_that_it_trusts(name, allowed):
    arn = f"arn:aws:iam::222222222222:role/{name}"
    caller = Principal(f"arn:aws:sts::222222222222:assumed-role/{name}/job", "222222222222", arn)
    trust = {
        "Version": "2012-10-17",
        "Statement": [trusted_role("arn:aws:iam::222222222222:role/modelworks-staging-promote")],
    }
    role = f"{IAM}:role/modelworks-dev-promote"
    own = promote_policy("aws", "222222222222", REGION, state="", key="", source_role=role)
    asked = Question("sts:AssumeRole", role, {"aws:PrincipalArn": [arn]})
    assert decide(caller, asked, Policies([own], resource=trust, resource_decides=True)).allowed is allowed


@pytest.mark.parametrize("policy", [DEPLOY, DEPLOY_WITH_CLUSTER, PREVIEW, PROMOTE])
def test_a_policy_fits_into_a_role(policy):
    assert len(json.dumps(policy)) < 10_240


PERMISSIONS_ALONE = {
    # No request is called so.
    *("iam:PassRole", "logs:CreateLogDelivery", "logs:DeleteLogDelivery"),
    *("budgets:ModifyBudget", "budgets:ViewBudget"),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_an_action_of_the_table_is_called_as_the_service_calls_its_request(kind):
    session = botocore.session.get_session()

    def known(action: str) -> bool:
        service, _, operation = action.partition(":")
        # S3's permissions have names of their own.
        return service == "s3" or operation in session.get_service_model(service).operation_names

    actions = {*ACTIONS[kind].changes, *ACTIONS[kind].reads} - PERMISSIONS_ALONE
    assert [each for each in sorted(actions) if not known(each)] == []
