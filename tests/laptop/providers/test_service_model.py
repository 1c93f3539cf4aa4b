"""Requests that the emulator takes and an account refuses, by botocore's models of the services."""

from __future__ import annotations

import boto3
import grpc
import pytest

from laptop.providers.test_aws_types import TRUST
from modelworks.laptop.providers.aws.service_model import _compiled, violations

SERVICES = [
    "athena",
    "budgets",
    "cloudwatch",
    "dynamodb",
    "ecr",
    "glue",
    "iam",
    "kms",
    "logs",
    "s3",
    "secretsmanager",
    "sns",
    "sqs",
    "ssm",
]


def model(service):
    return boto3.client(service, region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b").meta


def problems(service, operation, **arguments):
    return list(violations(arguments, model(service).service_model.operation_model(operation).input_shape))


@pytest.mark.parametrize(
    ("service", "operation", "arguments", "rule"),
    [
        ("iam", "CreateRole", {"RoleName": "with a blank"}, r"RoleName: 'with a blank' does not match [\w+=,.@-]+"),
        ("iam", "CreateRole", {"RoleName": "r" * 65}, "RoleName: 'rrr"),
        ("iam", "CreateRole", {"Description": "a\u2028b"}, "Description: "),
        ("iam", "CreateRole", {"MaxSessionDuration": 60}, "60 is too small; the least is 3600"),
        ("iam", "CreateRole", {"Tags": [{"Key": "k" * 129, "Value": ""}]}, "Tags[0].Key: 'kkk"),
        ("iam", "CreateRole", {"Tags": [{"Key": "half 100%", "Value": ""}]}, "Tags[0].Key: 'half 100%' does not match"),
        (
            "s3",
            "PutBucketVersioning",
            {"VersioningConfiguration": {"Status": "On"}},
            "'On' is none of Enabled, Suspended",
        ),
        ("cloudwatch", "PutMetricAlarm", {"EvaluationPeriods": 0}, "0 is too small; the least is 1"),
        ("glue", "CreateDatabase", {"DatabaseInput": {"Name": ""}}, "DatabaseInput.Name: '' is 0 long; the least is 1"),
        ("secretsmanager", "CreateSecret", {"Name": ""}, "Name: '' is 0 long"),
    ],
)
def test_what_an_account_refuses_is_a_violation_that_names_the_member(service, operation, arguments, rule):
    found = problems(service, operation, **arguments)
    assert len(found) == 1
    assert rule in found[0]


def test_what_an_account_takes_is_none():
    tags = [{"Key": "Größe/cost:centre", "Value": "ä €5"}]
    assert not problems("iam", "CreateRole", RoleName="a.b-c@d", Path="/x/", MaxSessionDuration=3600, Tags=[])
    assert not problems("secretsmanager", "CreateSecret", Name="a/b", Tags=[{"Key": "k", "Value": "v"}])
    assert not problems("iam", "TagRole", RoleName="r", Tags=[{"Key": "Größe/cost:centre", "Value": "ä=5"}])
    assert problems("iam", "TagRole", RoleName="r", Tags=tags) == [
        r"Tags[0].Value: 'ä €5' does not match [\p{L}\p{Z}\p{N}_.:/=+\-@]*"
    ]


def test_the_value_of_a_sensitive_member_is_not_shown():
    (found,) = problems("secretsmanager", "CreateSecret", Name="a", SecretString="s3cret" * 20_000)
    assert "a sensitive value is 120000 long" in found
    assert "s3cret" not in found


@pytest.mark.parametrize("service", SERVICES)
def test_every_pattern_of_a_service_is_understood(service):
    shapes = model(service).service_model
    patterns = {shapes.shape_for(name).metadata.get("pattern") for name in shapes.shape_names} - {None}
    assert not [pattern for pattern in patterns if _compiled(pattern) is None]


def test_the_provider_refuses_it_and_the_error_names_the_rule(engine, aws):
    with pytest.raises(grpc.RpcError, match=r"CreateRole would be refused by AWS: Description: .* does not match"):
        engine.create("aws:iam/role:Role", {"name": "r", "description": "a\u2028b", "assumeRolePolicy": str(TRUST)})
    assert not aws("iam").list_roles()["Roles"]
