"""The whole life of each type against moto: one row of the table is one type."""

# The table is data: its lines are as long as its rows.
# ruff: noqa: E501

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from laptop.providers.conftest import ACCOUNT, REGION
from modelworks.deploy import pending_operations
from modelworks.deploy.account import account_of
from modelworks.deploy.lookup import search_of
from modelworks.laptop.providers.aws.registry import RESOURCES
from modelworks.laptop.providers.property_values import Secret, revealed

TRUST = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"},
         "Action": "sts:AssumeRole"}]}  # fmt: skip


def policy(action: str = "s3:GetObject", **more: Any) -> str:
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*", **more}]}
    )


@dataclass
class Life:
    """What happens to a resource; values may use `{name}` of what `given` creates."""

    type: str
    inputs: dict[str, Any]
    update: dict[str, Any]
    """Inputs that change in place."""
    replace: dict[str, Any]
    """Inputs that force a new resource."""
    drift: Any
    """`(client of a service, id) -> None`: a change behind the provider's back."""
    drifted: str
    """The input in which the drift shows."""
    given: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """What must be there before: a name for its id, type, inputs."""
    import_keeps: set[str] = field(default_factory=set)
    """Inputs that AWS does not tell, so that an import cannot know them."""


BUCKET = ("bucket", "aws:s3/bucket:Bucket", {"bucket": "given"})
OTHER = ("other", "aws:s3/bucket:Bucket", {"bucket": "other"})
ROLE = ("role", "aws:iam/role:Role", {"name": "given", "assumeRolePolicy": json.dumps(TRUST)})
MANAGED = f"arn:aws:iam::{ACCOUNT}:policy/given"
POLICY = ("policy", "aws:iam/policy:Policy", {"name": "given", "policy": policy()})
TOPIC = ("topic", "aws:sns/topic:Topic", {"name": "given"})
OTHER_TOPIC = ("other", "aws:sns/topic:Topic", {"name": "other"})
QUEUE = ("queue", "aws:sqs/queue:Queue", {"name": "given"})
OTHER_QUEUE = ("other", "aws:sqs/queue:Queue", {"name": "other"})
KEY = ("key", "aws:kms/key:Key", {})
OTHER_KEY = ("otherkey", "aws:kms/key:Key", {})
SECRET = ("secret", "aws:secretsmanager/secret:Secret", {"name": "given", "recoveryWindowInDays": 0})
OTHER_SECRET = ("other", "aws:secretsmanager/secret:Secret", {"name": "other", "recoveryWindowInDays": 0})
EXPIRE = {"id": "old", "status": "Enabled", "filter": {"prefix": "tmp/"}, "expiration": {"days": 7}}
AES, KMS = ({"applyServerSideEncryptionByDefault": {"sseAlgorithm": each}} for each in ("AES256", "aws:kms"))
ALARM = {"comparisonOperator": "GreaterThanThreshold", "evaluationPeriods": 2, "metricName": "error",
         "namespace": "modelworks", "period": 60, "statistic": "Average", "threshold": 0.05,
         "dimensions": {"endpoint": "e"}, "alarmActions": [f"arn:aws:sns:{REGION}:{ACCOUNT}:given"]}  # fmt: skip
METRIC = {"metricName": "error", "namespace": "modelworks", "period": 60, "dimensions": {"endpoint": "e"}}
RATIO = {"comparisonOperator": "GreaterThanThreshold", "evaluationPeriods": 2, "threshold": 0.05, "metricQueries": [
         {"id": "ratio", "expression": "IF(bad >= 5, bad / requests, 0)", "label": "errors", "returnData": True},
         {"id": "bad", "metric": {**METRIC, "stat": "Sum"}},
         {"id": "requests", "metric": {**METRIC, "stat": "SampleCount"}}]}  # fmt: skip
ALERT = {"comparisonOperator": "GREATER_THAN", "notificationType": "ACTUAL", "threshold": 80,
         "thresholdType": "PERCENTAGE", "subscriberEmailAddresses": ["a@example.com"]}  # fmt: skip
TABLE = {"attributes": [{"name": "id", "type": "S"}, {"name": "at", "type": "N"}], "hashKey": "id",
         "billingMode": "PAY_PER_REQUEST", "ttl": {"attributeName": "expires", "enabled": True},
         "globalSecondaryIndexes": [{"name": "by-at", "hashKey": "at", "projectionType": "ALL"}],
         "pointInTimeRecovery": {"enabled": True}, "tags": {"a": "1"}}  # fmt: skip
STORED = {"location": "s3://bucket/weather/", "columns": [{"name": "origin", "type": "string", "comment": "IATA"}],
          "inputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
          "outputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
          "serDeInfo": {"serializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
                        "parameters": {"serialization.format": "1"}}}  # fmt: skip
SCANS = {"bytesScannedCutoffPerQuery": 10_000_000, "enforceWorkgroupConfiguration": True,
         "resultConfiguration": {"outputLocation": "s3://bucket/queries/", "encryptionConfiguration": {
             "encryptionOption": "SSE_KMS", "kmsKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/k"}}}  # fmt: skip

LIVES = [
    Life("aws:s3/bucket:Bucket", {"tags": {"a": "1"}, "forceDestroy": True}, {"tags": {"a": "2", "b": "3"}},
         {"bucket": "renamed"},
         lambda aws, id_: aws("s3").put_bucket_tagging(Bucket=id_, Tagging={"TagSet": [{"Key": "x", "Value": "y"}]}),
         "tags", import_keeps={"forceDestroy"}),
    Life("aws:s3/bucketVersioning:BucketVersioning",
         {"bucket": "{bucket}", "versioningConfiguration": {"status": "Enabled"}},
         {"versioningConfiguration": {"status": "Suspended"}}, {"bucket": "{other}"},
         lambda aws, id_: aws("s3").put_bucket_versioning(Bucket=id_, VersioningConfiguration={"Status": "Enabled"}),
         "versioningConfiguration", [BUCKET, OTHER]),
    Life("aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
         {"bucket": "{bucket}", "rules": [AES]}, {"rules": [{**KMS, "bucketKeyEnabled": True}]}, {"bucket": "{other}"},
         lambda aws, id_: aws("s3").put_bucket_encryption(Bucket=id_, ServerSideEncryptionConfiguration={"Rules": [
             {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}), "rules", [BUCKET, OTHER]),
    Life("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", {"bucket": "{bucket}", "blockPublicAcls": True},
         {"blockPublicPolicy": True}, {"bucket": "{other}"},
         lambda aws, id_: aws("s3").put_public_access_block(Bucket=id_, PublicAccessBlockConfiguration={"BlockPublicAcls": False}),
         "blockPublicAcls", [BUCKET, OTHER]),
    Life("aws:s3/bucketOwnershipControls:BucketOwnershipControls",
         {"bucket": "{bucket}", "rule": {"objectOwnership": "BucketOwnerEnforced"}},
         {"rule": {"objectOwnership": "ObjectWriter"}}, {"bucket": "{other}"},
         lambda aws, id_: aws("s3").put_bucket_ownership_controls(Bucket=id_, OwnershipControls={"Rules": [
             {"ObjectOwnership": "BucketOwnerPreferred"}]}), "rule", [BUCKET, OTHER]),
    Life("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
         {"bucket": "{bucket}", "rules": [EXPIRE]},
         {"rules": [{**EXPIRE, "expiration": {"days": 8}}, {"id": "versions", "status": "Enabled",
                     "noncurrentVersionExpiration": {"noncurrentDays": 90},
                     "abortIncompleteMultipartUpload": {"daysAfterInitiation": 7}}]}, {"bucket": "{other}"},
         lambda aws, id_: aws("s3").put_bucket_lifecycle_configuration(Bucket=id_, LifecycleConfiguration={"Rules": [
             {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}),
         "rules", [BUCKET, OTHER]),
    Life("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "{bucket}", "policy": policy(Principal="*")},
         {"policy": policy("s3:PutObject", Principal="*")}, {"bucket": "{other}"},
         lambda aws, id_: aws("s3").put_bucket_policy(Bucket=id_, Policy=policy("s3:*", Principal="*")),
         "policy", [BUCKET, OTHER]),
    Life("aws:s3/bucketObjectv2:BucketObjectv2", {"bucket": "{bucket}", "key": "a/b.txt", "content": "one",
         "tags": {"a": "1"}}, {"content": "two"}, {"key": "c"},
         lambda aws, id_: aws("s3").put_object(Bucket="given", Key="a/b.txt", Body=b"three", ContentType="text/plain"),
         "content", [BUCKET], {"content"}),
    Life("aws:s3/bucketObject:BucketObject", {"bucket": "{bucket}", "key": "a", "content": "one"}, {"content": "two"},
         {"key": "c"}, lambda aws, id_: aws("s3").put_object(Bucket="given", Key="a", Body=b"three"),
         "content", [BUCKET], {"content"}),
    Life("aws:dynamodb/table:Table", TABLE, {"ttl": {"enabled": False, "attributeName": "expires"},
         "globalSecondaryIndexes": [], "deletionProtectionEnabled": False}, {"hashKey": "at"},
         lambda aws, id_: aws("dynamodb").update_continuous_backups(
             TableName=id_, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False}),
         "pointInTimeRecovery"),
    Life("aws:glue/catalogDatabase:CatalogDatabase", {"description": "d", "tags": {"a": "1"}},
         {"description": "e", "locationUri": "s3://bucket/data/", "tags": {"a": "2"}}, {"name": "renamed"},
         lambda aws, id_: aws("glue").update_database(Name=id_.split(":")[1], DatabaseInput={
             "Name": id_.split(":")[1], "Description": "x"}), "description"),
    Life("aws:glue/catalogTable:CatalogTable", {"databaseName": "given", "name": "weather", "tableType": "EXTERNAL_TABLE",
         "parameters": {"classification": "parquet"}, "storageDescriptor": STORED},
         {"storageDescriptor": {**STORED, "columns": [{"name": "hour", "type": "timestamp"}]},
          "parameters": {"classification": "parquet", "EXTERNAL": "TRUE"}}, {"name": "renamed"},
         lambda aws, id_: aws("glue").update_table(DatabaseName="given", TableInput={"Name": "weather",
             "TableType": "EXTERNAL_TABLE", "Parameters": {"classification": "csv"}}), "storageDescriptor",
         [("database", "aws:glue/catalogDatabase:CatalogDatabase", {"name": "given"})]),
    Life("aws:athena/workgroup:Workgroup", {"configuration": SCANS, "tags": {"a": "1"}},
         {"configuration": {**SCANS, "bytesScannedCutoffPerQuery": 20_000_000}, "description": "d"}, {"name": "renamed"},
         lambda aws, id_: (aws("athena").delete_work_group(WorkGroup=id_),
                           aws("athena").create_work_group(Name=id_, Configuration={})), "configuration"),
    Life("aws:ecr/repository:Repository", {"imageTagMutability": "IMMUTABLE", "tags": {"a": "1"},
         "encryptionConfigurations": [{"encryptionType": "KMS", "kmsKey": "arn:aws:kms:eu-central-1:123456789012:key/k"}]},
         {"imageTagMutability": "MUTABLE"}, {"name": "renamed"},
         lambda aws, id_: aws("ecr").put_image_tag_mutability(repositoryName=id_, imageTagMutability="IMMUTABLE"),
         "imageTagMutability"),
    Life("aws:kms/key:Key", {"description": "d", "enableKeyRotation": True, "tags": {"a": "1"},
         "deletionWindowInDays": 7}, {"description": "e", "tags": {"a": "2"}}, {"keyUsage": "SIGN_VERIFY"},
         lambda aws, id_: aws("kms").disable_key_rotation(KeyId=id_), "enableKeyRotation",
         import_keeps={"deletionWindowInDays"}),
    Life("aws:kms/grant:Grant", {"keyId": "{key}", "granteePrincipal": f"arn:aws:iam::{ACCOUNT}:root",
         "operations": ["Encrypt", "Decrypt"]}, {}, {"operations": ["Decrypt"]}, None, "", [KEY]),
    Life("aws:kms/alias:Alias", {"targetKeyId": "{key}"}, {"targetKeyId": "{otherkey}"}, {"name": "alias/renamed"},
         lambda aws, id_: aws("kms").update_alias(AliasName=id_, TargetKeyId=aws("kms").create_key()["KeyMetadata"]["KeyId"]),
         "targetKeyId", [KEY, OTHER_KEY]),
    Life("aws:iam/role:Role", {"assumeRolePolicy": TRUST, "description": "d", "tags": {"a": "1"},
         "managedPolicyArns": [MANAGED]},
         {"description": "e", "maxSessionDuration": 7200, "managedPolicyArns": []}, {"path": "/other/"},
         lambda aws, id_: aws("iam").update_role(RoleName=id_, Description="x", MaxSessionDuration=7200), "description",
         [POLICY], import_keeps={"managedPolicyArns"}),
    Life("aws:iam/policy:Policy", {"policy": policy(), "tags": {"a": "1"}}, {"policy": policy("s3:PutObject")},
         {"description": "new"}, lambda aws, id_: aws("iam").create_policy_version(
             PolicyArn=id_, PolicyDocument=policy("s3:*"), SetAsDefault=True), "policy"),
    Life("aws:iam/rolePolicy:RolePolicy", {"role": "{role}", "policy": policy()}, {"policy": policy("s3:PutObject")},
         {"name": "renamed"}, lambda aws, id_: aws("iam").put_role_policy(
             RoleName="given", PolicyName=id_.split(":")[1], PolicyDocument=policy("s3:*")), "policy", [ROLE]),
    Life("aws:iam/rolePolicyAttachment:RolePolicyAttachment",
         {"role": "{role}", "policyArn": MANAGED}, {},
         {"policyArn": MANAGED + "2"}, None, "", [ROLE, POLICY]),
    Life("aws:iam/openIdConnectProvider:OpenIdConnectProvider",
         {"url": "https://example.com", "clientIdLists": ["a"], "thumbprintLists": ["a" * 40], "tags": {"a": "1"}},
         {"thumbprintLists": ["b" * 40]}, {"url": "https://other.example.com"},
         lambda aws, id_: aws("iam").update_open_id_connect_provider_thumbprint(
             OpenIDConnectProviderArn=id_, ThumbprintList=["c" * 40]), "thumbprintLists"),
    Life("aws:sns/topic:Topic", {"displayName": "d", "tags": {"a": "1"}}, {"displayName": "e"}, {"fifoTopic": True},
         lambda aws, id_: aws("sns").set_topic_attributes(
             TopicArn=id_, AttributeName="DisplayName", AttributeValue="x"), "displayName"),
    Life("aws:sns/topicPolicy:TopicPolicy", {"arn": "{topic}", "policy": policy("sns:Publish", Principal="*")},
         {"policy": policy("sns:Subscribe", Principal="*")}, {"arn": "{other}"},
         lambda aws, id_: aws("sns").set_topic_attributes(TopicArn=id_, AttributeName="Policy", AttributeValue=policy("*")),
         "policy", [TOPIC, OTHER_TOPIC]),
    Life("aws:sns/topicSubscription:TopicSubscription",
         {"topic": "{topic}", "protocol": "sqs", "endpoint": f"arn:aws:sqs:{REGION}:{ACCOUNT}:given"},
         {"rawMessageDelivery": True}, {"topic": "{other}"},
         lambda aws, id_: aws("sns").set_subscription_attributes(
             SubscriptionArn=id_, AttributeName="RawMessageDelivery", AttributeValue="false"),
         "rawMessageDelivery", [TOPIC, OTHER_TOPIC, QUEUE]),
    Life("aws:sqs/queue:Queue", {"visibilityTimeoutSeconds": 60, "tags": {"a": "1"}}, {"visibilityTimeoutSeconds": 90},
         {"fifoQueue": True}, lambda aws, id_: aws("sqs").set_queue_attributes(
             QueueUrl=id_, Attributes={"VisibilityTimeout": "5"}), "visibilityTimeoutSeconds"),
    Life("aws:sqs/queuePolicy:QueuePolicy", {"queueUrl": "{queue}", "policy": policy("sqs:*", Principal="*")},
         {"policy": policy("sqs:SendMessage", Principal="*")}, {"queueUrl": "{other}"},
         lambda aws, id_: aws("sqs").set_queue_attributes(
             QueueUrl=id_, Attributes={"Policy": policy("sqs:ReceiveMessage", Principal="*")}),
         "policy", [QUEUE, OTHER_QUEUE]),
    Life("aws:cloudwatch/metricAlarm:MetricAlarm", {**ALARM, "tags": {"a": "1"}}, {"threshold": 0.1},
         {"name": "renamed"}, lambda aws, id_: aws("cloudwatch").put_metric_alarm(
             AlarmName=id_, ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=2, MetricName="error",
             Namespace="modelworks", Period=60, Statistic="Average", Threshold=9), "threshold"),
    Life("aws:cloudwatch/metricAlarm:MetricAlarm", {**RATIO, "tags": {"a": "1"}}, {"threshold": 0.1},
         {"name": "renamed"}, lambda aws, id_: aws("cloudwatch").put_metric_alarm(
             AlarmName=id_, ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=2, Threshold=0.1, Metrics=[
                 {"Id": "ratio", "Expression": "bad", "ReturnData": True},
                 {"Id": "bad", "ReturnData": False, "MetricStat": {"Period": 60, "Stat": "Sum", "Metric": {
                     "MetricName": "error", "Namespace": "modelworks"}}}]), "metricQueries"),
    Life("aws:cloudwatch/dashboard:Dashboard", {"dashboardName": "d", "dashboardBody": '{"widgets": []}'},
         {"dashboardBody": '{"widgets": [{"type": "text"}]}'}, {"dashboardName": "e"},
         lambda aws, id_: aws("cloudwatch").put_dashboard(DashboardName=id_, DashboardBody='{"start": "x"}'),
         "dashboardBody"),
    Life("aws:cloudwatch/logGroup:LogGroup", {"retentionInDays": 7, "tags": {"a": "1"}}, {"retentionInDays": 14},
         {"name": "renamed"}, lambda aws, id_: aws("logs").delete_retention_policy(logGroupName=id_), "retentionInDays"),
    Life("aws:secretsmanager/secret:Secret", {"description": "d", "tags": {"a": "1"}, "recoveryWindowInDays": 0},
         {"description": "e"}, {"name": "renamed"},
         lambda aws, id_: aws("secretsmanager").update_secret(SecretId=id_, Description="x"), "description",
         import_keeps={"recoveryWindowInDays"}),
    Life("aws:secretsmanager/secretVersion:SecretVersion", {"secretId": "{secret}", "secretString": Secret("s3cret")},
         {}, {"secretString": Secret("other")}, None, "", [SECRET, OTHER_SECRET]),
    Life("aws:ssm/parameter:Parameter", {"type": "SecureString", "value": Secret("v"), "tags": {"a": "1"}},
         {"value": Secret("w")}, {"name": "renamed"}, lambda aws, id_: aws("ssm").put_parameter(
             Name=id_, Value="x", Type="SecureString", Overwrite=True), "value"),
    Life("aws:budgets/budget:Budget", {"budgetType": "COST", "limitAmount": "100", "limitUnit": "USD",
         "timeUnit": "MONTHLY", "notifications": [ALERT]}, {"limitAmount": "200"}, {"name": "renamed"},
         None, "", import_keeps={"notifications", "tagsAll"}),
]  # fmt: skip


def made(engine, type_, inputs):
    checked, failures = engine.check(type_, inputs)
    assert not failures
    id_, state = engine.create(type_, checked)
    return checked, id_, state


def filled(inputs, ids):
    """`inputs` with the ids of what is there before."""
    return {
        key: value.format(**ids) if isinstance(value, str) and value[:1] == "{" and value[1:-1] in ids else value
        for key, value in inputs.items()
    }


def changed(engine, type_, id_, old, state, inputs):
    """Check and diff, as every preview does: new inputs, and the properties that differ."""
    checked, failures = engine.check(type_, inputs, revealed(old))
    assert not failures
    diff = engine.diff(type_, id_, old, state, checked)
    return checked, set(diff.diffs), set(diff.replaces)


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.type.rpartition(":")[2])
def test_life_of(life, engine, aws):
    ids = {name: made(engine, type_, inputs)[1] for name, type_, inputs in life.given}
    kind, wanted = life.type, filled(life.inputs, ids)
    preview_id, preview = engine.create(kind, engine.check(kind, wanted)[0], preview=True)
    assert (preview_id, preview.keys() >= wanted.keys()) == ("", True)

    inputs, id_, state = made(engine, kind, wanted)
    assert changed(engine, kind, id_, inputs, state, wanted)[1] == set(), "a second preview has nothing to do"

    assert engine.read(kind, id_, inputs, state) == (id_, inputs, state), "a refresh finds what was made"

    if life.update:
        wanted |= filled(life.update, ids)
        new, differs, replaces = changed(engine, kind, id_, inputs, state, wanted)
        assert differs >= {key for key in life.update if life.update[key] not in ([], False)}
        assert not replaces
        state, inputs = engine.update(kind, id_, inputs, state, new), new
        assert changed(engine, kind, id_, inputs, state, wanted)[1] == set()
        assert engine.read(kind, id_, inputs, state) == (id_, inputs, state), "a refresh finds what was updated"

    assert changed(engine, kind, id_, inputs, state, wanted | filled(life.replace, ids))[2] == set(life.replace)

    imported_id, imported, imported_state = engine.read(kind, id_)
    assert imported_id == id_
    differs = changed(engine, kind, id_, imported, imported_state, wanted)[1]
    assert differs <= life.import_keeps, "after an import the same program has nothing to do"

    if life.drift:
        life.drift(aws, id_)
        _, drifted, drifted_state = engine.read(kind, id_, inputs, state)
        assert life.drifted in changed(engine, kind, id_, drifted, drifted_state, wanted)[1]
        repaired = engine.update(kind, id_, drifted, drifted_state, inputs)
        assert changed(engine, kind, id_, inputs, repaired, wanted)[1] == set()
        assert engine.read(kind, id_, inputs, repaired)[1] == inputs, "the drift is undone"

    engine.delete(kind, id_, inputs, state)
    if life.type not in NEVER_GONE:
        assert engine.read(kind, id_, inputs, state)[0] == "", "a refresh finds that it is gone"
    engine.delete(kind, id_, inputs, state)  # what is gone already is deleted


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.type.rpartition(":")[2])
def test_what_a_killed_engine_made_is_found_under_its_id(life, engine, aws, moto):
    ids = {name: made(engine, type_, inputs)[1] for name, type_, inputs in life.given}
    inputs, id_, _ = made(engine, life.type, filled(life.inputs, ids))
    operation = {"type": "creating", "resource": {"urn": "urn", "type": life.type, "inputs": revealed(inputs)}}
    exported = {"deployment": {"resources": [], "pending_operations": [operation]}}
    variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": moto}
    search = search_of(account_of("dev", {"aws:region": REGION}, variables).session)
    assert pending_operations.resolve(exported, pending_operations.Where(ACCOUNT, REGION, moto), search).asked == {
        "urn": id_
    }


NEVER_GONE = {
    "aws:s3/bucketVersioning:BucketVersioning",  # a bucket that had versions can only suspend them
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
    "aws:sns/topicPolicy:TopicPolicy",  # a topic always has a policy
    "aws:secretsmanager/secretVersion:SecretVersion",  # AWS keeps the current version
}


def test_an_alarm_on_a_statistic_becomes_one_on_an_expression_in_place(engine):
    kind = "aws:cloudwatch/metricAlarm:MetricAlarm"
    inputs, id_, state = made(engine, kind, ALARM)
    new, differs, replaces = changed(engine, kind, id_, inputs, state, RATIO)
    assert ({"metricQueries", "metricName"} <= differs, replaces) == (True, set())
    updated = engine.update(kind, id_, inputs, state, new)
    assert changed(engine, kind, id_, new, updated, RATIO)[1] == set()
    assert engine.read(kind, id_, new, updated) == (id_, new, updated)


def test_one_metric_of_an_alarm_is_compared_and_the_others_are_read(engine, aws):
    made(engine, "aws:cloudwatch/metricAlarm:MetricAlarm", RATIO)
    [alarm] = aws("cloudwatch").describe_alarms()["MetricAlarms"]
    assert {query["Id"]: query["ReturnData"] for query in alarm["Metrics"]} == {
        "ratio": True, "bad": False, "requests": False
    }  # fmt: skip


def test_every_type_has_its_life_tested():
    assert {life.type for life in LIVES} == set(RESOURCES)
