"""The evaluation logic of IAM as AWS documents it: each row names the page that says so."""

from __future__ import annotations

import pytest

from modelworks.laptop.authorization.conditions import PolicyError
from modelworks.laptop.authorization.evaluation import Policies, Principal, Question, decide

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/reader"
SESSION = Principal(f"arn:aws:sts::{ACCOUNT}:assumed-role/reader/pod", ACCOUNT, ROLE)
USER = Principal(f"arn:aws:iam::{ACCOUNT}:user/ann", ACCOUNT)
OBJECT = "arn:aws:s3:::bucket/models/a.bento"
GUIDE = "https://docs.aws.amazon.com/IAM/latest/UserGuide/"
KMS = "https://docs.aws.amazon.com/kms/latest/developerguide/"
BASICS = f"{GUIDE}reference_policies_evaluation-logic_policy-eval-basics-single-account.html"
ORDER = f"{GUIDE}reference_policies_evaluation-logic_policy-eval-denyallow.html"
OPERATORS = f"{GUIDE}reference_policies_elements_condition_operators.html"
MANY = f"{GUIDE}reference_policies_condition-single-vs-multi-valued-context-keys.html"
VARIABLES = f"{GUIDE}reference_policies_variables.html"


def policy(effect="Allow", action="s3:GetObject", resource="arn:aws:s3:::bucket/*", version="2012-10-17", **more):
    statement = {"Effect": effect, "Action": action, "Resource": resource, **more}
    return {"Version": version, "Statement": [statement]}


def of_resource(principal, effect="Allow", **more):
    return policy(effect, Principal=principal, **more)


def test_nothing_is_allowed_by_default():
    assert not decide(SESSION, Question("s3:GetObject", OBJECT), Policies()).allowed


ALL = policy(action="*", resource="*")
OTHER = policy(action="s3:PutObject")
DENY = policy("Deny", action="s3:*", resource="*")
ROOT = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}

ROWS = [
    # who, policies, allowed, which policy is the reason, source
    (SESSION, Policies(identity=[ALL]), True, None, BASICS),
    (SESSION, Policies(identity=[OTHER]), False, "identity-based policy", BASICS),
    (SESSION, Policies(identity=[ALL, DENY]), False, "identity-based policy", ORDER),
    (SESSION, Policies(identity=[ALL], boundary=OTHER), False, "permissions boundary", BASICS),
    (SESSION, Policies(identity=[ALL], boundary=ALL), True, None, BASICS),
    (SESSION, Policies(identity=[OTHER], boundary=ALL), False, "identity-based policy", BASICS),
    (SESSION, Policies(identity=[ALL], session=OTHER), False, "session policy", BASICS),
    (SESSION, Policies(identity=[ALL], session=DENY), False, "session policy", ORDER),
    (SESSION, Policies(identity=[ALL], boundary=DENY), False, "permissions boundary", ORDER),
    (SESSION, Policies(identity=[ALL], resource=of_resource("*", "Deny")), False, "resource-based policy", ORDER),
    (SESSION, Policies(identity=[ALL], resource=of_resource(ROOT, "Deny")), False, "resource-based policy", ORDER),
    (SESSION, Policies(resource=of_resource({"AWS": ROLE})), True, None, BASICS),
    # A role's grant is limited by what limits the role; that of one session or of a user is not.
    (SESSION, Policies(resource=of_resource({"AWS": ROLE}), session=OTHER), False, "session policy", BASICS),
    (SESSION, Policies(resource=of_resource({"AWS": ROLE}), boundary=OTHER), False, "permissions boundary", BASICS),
    (SESSION, Policies(resource=of_resource({"AWS": SESSION.arn}), session=OTHER), True, None, BASICS),
    (USER, Policies(resource=of_resource({"AWS": USER.arn}), boundary=OTHER), True, None, BASICS),
    (USER, Policies(resource=of_resource({"AWS": USER.arn}), boundary=DENY), False, "permissions boundary", ORDER),
    # A grant to the account leaves it to the account's own policies.
    (SESSION, Policies(resource=of_resource(ROOT)), False, "identity-based policy", BASICS),
    (SESSION, Policies(resource=of_resource({"AWS": ACCOUNT}), identity=[ALL]), True, None, BASICS),
    (SESSION, Policies(resource=of_resource({"AWS": "arn:aws:iam::999999999999:root"})), False,
     "identity-based policy", BASICS),
    (SESSION, Policies(resource=of_resource({"Service": "s3.amazonaws.com"})), False, "identity-based policy", BASICS),
    # Keys: nothing is allowed that the key's policy does not allow, at least to the account.
    (SESSION, Policies(identity=[ALL], resource=of_resource({"AWS": USER.arn}), resource_decides=True), False,
     "resource-based policy", f"{KMS}key-policies.html"),
    (SESSION, Policies(identity=[ALL], resource=of_resource(ROOT), resource_decides=True), True, None,
     f"{KMS}key-policy-default.html"),
    (SESSION, Policies(resource=of_resource(ROOT), resource_decides=True), False, "identity-based policy",
     f"{KMS}key-policy-default.html"),
    (SESSION, Policies(resource=of_resource({"AWS": ROLE}), resource_decides=True), True, None,
     f"{KMS}key-policy-overview.html"),
]  # fmt: skip


@pytest.mark.parametrize(("who", "policies", "allowed", "kind", "source"), ROWS)
def test_policies_of_an_account(who, policies, allowed, kind, source):
    decision = decide(who, Question("s3:GetObject", OBJECT), policies)
    assert (decision.allowed, decision.kind) == (allowed, kind), source


NOT = f"{GUIDE}reference_policies_elements_notprincipal.html"
ELEMENTS = f"{GUIDE}reference_policies_elements.html"
STATEMENTS = [
    # what a statement has besides Effect, whether it covers s3:GetObject on the object, source
    ({"Action": "S3:getobject"}, True, f"{GUIDE}reference_policies_elements_action.html"),
    ({"Action": ["s3:Get*"]}, True, f"{GUIDE}reference_policies_elements_action.html"),
    ({"Action": "s3:GetObjec?"}, True, f"{GUIDE}reference_policies_elements_action.html"),
    ({"Action": "s3:GetObjectVersion"}, False, f"{GUIDE}reference_policies_elements_action.html"),
    ({"NotAction": "s3:*"}, False, f"{GUIDE}reference_policies_elements_notaction.html"),
    ({"NotAction": ["iam:*", "s3:Put*"]}, True, f"{GUIDE}reference_policies_elements_notaction.html"),
    ({"Resource": "arn:aws:s3:::bucket"}, False, f"{GUIDE}reference_policies_elements_resource.html"),
    ({"Resource": ["arn:aws:s3:::other/*", "arn:aws:s3:::bucket/models/*"]}, True,
     f"{GUIDE}reference_policies_elements_resource.html"),
    ({"Resource": "arn:aws:s3:::BUCKET/*"}, False, f"{GUIDE}reference_policies_elements_resource.html"),
    ({"NotResource": "arn:aws:s3:::bucket/*"}, False, f"{GUIDE}reference_policies_elements_notresource.html"),
    ({"NotResource": "arn:aws:s3:::other/*"}, True, f"{GUIDE}reference_policies_elements_notresource.html"),
]  # fmt: skip


@pytest.mark.parametrize(("elements", "covers", "source"), STATEMENTS)
def test_elements_of_a_statement(elements, covers, source):
    whole = {"Effect": "Allow", **({"Action": "*"} if "NotAction" not in elements else {}),
             **({"Resource": "*"} if "NotResource" not in elements else {}), **elements}  # fmt: skip
    policies = Policies(identity=[{"Version": "2012-10-17", "Statement": whole}])
    assert decide(SESSION, Question("s3:GetObject", OBJECT), policies).allowed == covers, source


def test_not_principal_denies_all_but_those_it_names():
    def denies(named):
        statement = {"Effect": "Deny", "NotPrincipal": named, "Action": "*", "Resource": "*"}
        policies = Policies(identity=[ALL], resource={"Version": "2012-10-17", "Statement": [statement]})
        return not decide(SESSION, Question("s3:GetObject", OBJECT), policies).allowed

    assert denies({"AWS": USER.arn})
    assert not denies({"AWS": [ROLE, SESSION.arn]})


ARN = "arn:aws:sns:eu-central-1:111122223333:alerts"
CONDITIONS = [
    # condition, context, holds, source
    ({"StringEquals": {"cloudwatch:namespace": "Mine"}}, {"cloudwatch:namespace": ["Mine"]}, True, OPERATORS),
    ({"StringEquals": {"cloudwatch:namespace": "Mine"}}, {"CLOUDWATCH:Namespace": ["Mine"]}, True, OPERATORS),
    ({"StringEquals": {"a:b": "x"}}, {"a:b": ["X"]}, False, OPERATORS),
    ({"StringEquals": {"a:b": ["w", "x"]}}, {"a:b": ["x"]}, True, OPERATORS),
    ({"StringEquals": {"a:b": "x", "a:c": "y"}}, {"a:b": ["x"], "a:c": ["z"]}, False, OPERATORS),
    ({"StringEquals": {"a:b": "x"}, "Bool": {"a:c": "true"}}, {"a:b": ["x"], "a:c": ["true"]}, True, OPERATORS),
    ({"StringEquals": {"a:b": "x"}}, {}, False, OPERATORS),
    ({"StringNotEquals": {"a:b": "x"}}, {}, True, OPERATORS),
    ({"StringNotEquals": {"a:b": ["x", "y"]}}, {"a:b": ["y"]}, False, OPERATORS),
    ({"StringEqualsIfExists": {"a:b": "x"}}, {}, True, OPERATORS),
    ({"StringEqualsIfExists": {"a:b": "x"}}, {"a:b": ["y"]}, False, OPERATORS),
    ({"StringEqualsIgnoreCase": {"a:b": "x"}}, {"a:b": ["X"]}, True, OPERATORS),
    ({"StringLike": {"s3:prefix": ["data/*", "runs/*"]}}, {"s3:prefix": ["runs/a"]}, True, OPERATORS),
    ({"StringLike": {"s3:prefix": "data/*"}}, {"s3:prefix": ["data"]}, False, OPERATORS),
    ({"StringLike": {"s3:prefix": "data/?"}}, {"s3:prefix": ["data/ab"]}, False, OPERATORS),
    ({"StringNotLike": {"s3:prefix": "data/*"}}, {"s3:prefix": ["data/a"]}, False, OPERATORS),
    ({"NumericLessThanEquals": {"s3:max-keys": "10"}}, {"s3:max-keys": ["10"]}, True, OPERATORS),
    ({"NumericGreaterThan": {"s3:max-keys": 10}}, {"s3:max-keys": ["9.5"]}, False, OPERATORS),
    ({"DateGreaterThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}}, {"aws:CurrentTime": ["2026-06-01T00:00:00Z"]},
     True, OPERATORS),
    ({"DateLessThan": {"aws:EpochTime": "2026-01-01T00:00:00Z"}}, {"aws:EpochTime": ["1767225601"]}, False, OPERATORS),
    ({"Bool": {"aws:SecureTransport": False}}, {"aws:SecureTransport": ["true"]}, False, OPERATORS),
    ({"Bool": {"aws:SecureTransport": "false"}}, {"aws:SecureTransport": ["false"]}, True, OPERATORS),
    ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:SourceIp": ["10.1.2.3"]}, True, OPERATORS),
    ({"NotIpAddress": {"aws:SourceIp": ["10.0.0.0/8", "127.0.0.1"]}}, {"aws:SourceIp": ["127.0.0.1"]}, False,
     OPERATORS),
    ({"IpAddress": {"aws:SourceIp": "2001:db8::/32"}}, {"aws:SourceIp": ["10.1.2.3"]}, False, OPERATORS),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:sns:*:111122223333:al*"}}, {"aws:SourceArn": [ARN]}, True, OPERATORS),
    ({"ArnEquals": {"aws:SourceArn": "arn:aws:sns:*:111122223333:alerts"}}, {"aws:SourceArn": [ARN]}, True, OPERATORS),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:*:alerts"}}, {"aws:SourceArn": [ARN]}, False, OPERATORS),
    ({"ArnNotLike": {"aws:SourceArn": "arn:aws:sns:*:*:alerts"}}, {"aws:SourceArn": [ARN]}, False, OPERATORS),
    ({"Null": {"aws:TokenIssueTime": "true"}}, {}, True, OPERATORS),
    ({"Null": {"aws:TokenIssueTime": "false"}}, {"aws:TokenIssueTime": ["x"]}, True, OPERATORS),
    ({"Null": {"aws:TokenIssueTime": "true"}}, {"aws:TokenIssueTime": ["x"]}, False, OPERATORS),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:TagKeys": ["b", "c"]}, True, MANY),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": "a"}}, {"aws:TagKeys": ["b", "c"]}, False, MANY),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": "a"}}, {}, False, MANY),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:TagKeys": ["a", "b"]}, True, MANY),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:TagKeys": ["a", "c"]}, False, MANY),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": "a"}}, {}, True, MANY),
    ({"ForAnyValue:StringNotEquals": {"aws:TagKeys": "a"}}, {"aws:TagKeys": ["a", "c"]}, True, MANY),
    ({"ForAllValues:StringNotEquals": {"aws:TagKeys": "a"}}, {"aws:TagKeys": ["a", "c"]}, False, MANY),
    ({"StringEquals": {"a:b": "${aws:PrincipalTag/team}"}}, {"a:b": ["red"], "aws:PrincipalTag/team": ["red"]}, True,
     VARIABLES),
    ({"StringEquals": {"a:b": "${aws:PrincipalTag/team}"}}, {"a:b": ["red"]}, False, VARIABLES),
    ({"StringEquals": {"a:b": "${aws:PrincipalTag/team, 'all'}"}}, {"a:b": ["all"]}, True, VARIABLES),
    ({"StringLike": {"a:b": "${*}x"}}, {"a:b": ["yx"]}, False, VARIABLES),
    ({"StringLike": {"a:b": "${*}x"}}, {"a:b": ["*x"]}, True, VARIABLES),
    # A star that comes from a value is a star, and no wildcard.
    ({"StringLike": {"a:b": "${a:c}"}}, {"a:b": ["anything"], "a:c": ["*"]}, False, VARIABLES),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "context", "holds", "source"), CONDITIONS)
def test_conditions(condition, context, holds, source):
    policies = Policies(identity=[policy(Condition=condition)])
    assert decide(SESSION, Question("s3:GetObject", OBJECT, context), policies).allowed == holds, source


def test_a_variable_in_a_resource_is_the_callers():
    own = policy(resource="arn:aws:s3:::bucket/${aws:username}/*")
    question = Question("s3:GetObject", "arn:aws:s3:::bucket/ann/a", {"aws:username": ["ann"]})
    assert decide(USER, question, Policies(identity=[own])).allowed
    assert not decide(USER, Question(question.action, question.resource, {"aws:username": ["bob"]}),
                      Policies(identity=[own])).allowed  # fmt: skip
    assert not decide(USER, Question(question.action, question.resource), Policies(identity=[own])).allowed


def test_the_old_version_of_policies_has_no_variables():
    old = policy(resource="arn:aws:s3:::bucket/${aws:username}/*", version="2008-10-17")
    question = Question("s3:GetObject", "arn:aws:s3:::bucket/ann/a", {"aws:username": ["ann"]})
    assert not decide(USER, question, Policies(identity=[old])).allowed


def test_the_holder_of_a_providers_token_is_trusted_by_name_of_the_provider_alone():
    provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/issuer"
    condition = {"StringEquals": {"issuer:sub": "system:serviceaccount:a:b"}}
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Federated": provider},
                            "Action": "sts:AssumeRoleWithWebIdentity", "Condition": condition}]}  # fmt: skip
    holder = Principal("system:serviceaccount:a:b", federated=True)

    def allowed(subject, document):
        asked = Question("sts:AssumeRoleWithWebIdentity", ROLE, {"issuer:sub": [subject]})
        return decide(holder, asked, Policies(resource=document, resource_decides=True)).allowed

    assert allowed("system:serviceaccount:a:b", trust)
    assert not allowed("system:serviceaccount:a:other", trust)
    assert not allowed("system:serviceaccount:a:b", of_resource(ROOT, action="sts:*", resource="*"))


@pytest.mark.parametrize(
    "condition", [{"StringIs": {"a:b": "x"}}, {"ForSome:StringEquals": {"a:b": "x"}}, {"NumericEquals": {"a:b": "x"}}]
)
def test_what_cannot_be_evaluated_is_an_error_and_never_a_permission(condition):
    with pytest.raises(PolicyError):
        decide(SESSION, Question("s3:GetObject", OBJECT, {"a:b": ["1"]}), Policies([policy(Condition=condition)]))
