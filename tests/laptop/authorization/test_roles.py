"""The roles of our components on a strict account: what the code calls is allowed, and each permission is needed."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError

from laptop.authorization.strict_account import ACCOUNT, BUCKET, SESSION, allow, document, refused
from modelworks import contract, model_registry, prediction_store, training_compute
from modelworks._resources import argo_rollouts
from modelworks._resources.serving_pod import serving_permissions

MODEL, REGION = "flight-delay", "eu-central-1"
TABLE = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/online"
BUNDLE, PREDICTION = f"bundles/{MODEL}/a.bento", f"predictions/{MODEL}/1.jsonl"
DATUM = [{"MetricName": "m", "Value": 1}]


@pytest.fixture(scope="module")
def stored(account):
    """Objects and a table that are there."""
    for key in (BUNDLE, PREDICTION, "sources/a.tar.gz", "data/a.parquet", "runs/m/1/note.json"):
        account.client("s3").put_object(Bucket="store", Key=key, Body=b"x")
    account.client("dynamodb").create_table(
        TableName="online", BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )  # fmt: skip
    return account


def serves(client):
    client("s3").get_object(Bucket="store", Key=BUNDLE)
    client("s3").put_object(Bucket="store", Key=PREDICTION, Body=b"")
    client("cloudwatch").put_metric_data(Namespace=contract.METRIC_NAMESPACE, MetricData=DATUM)
    client("dynamodb").batch_get_item(RequestItems={"online": {"Keys": [{"id": {"S": "1"}}]}})


def trains(client):
    s3 = client("s3")
    s3.get_object(Bucket="store", Key="sources/a.tar.gz")
    s3.list_objects_v2(Bucket="store", Prefix="runs/m/")
    s3.put_object(Bucket="store", Key="jobs/1/run.tar.gz", Body=b"")
    with pytest.raises(client("s3").exceptions.NoSuchKey):
        s3.get_object(Bucket="store", Key="data/none.parquet")
    client("cloudwatch").put_metric_data(Namespace=contract.TRAINING_METRIC_NAMESPACE, MetricData=DATUM)


def registers(client):
    s3 = client("s3")
    s3.put_object(Bucket="store", Key="artifacts/1/a", Body=b"")
    s3.get_object(Bucket="store", Key="artifacts/1/a")
    s3.list_objects_v2(Bucket="store", Prefix="artifacts/")
    s3.delete_object(Bucket="store", Key="artifacts/1/a")
    s3.put_object(Bucket="store", Key=f"{contract.BACKUPS_PREFIX}/1.tar.gz", Body=b"")
    s3.get_object(Bucket="store", Key=f"{contract.BACKUPS_PREFIX}/1.tar.gz")
    client("cloudwatch").put_metric_data(Namespace=contract.REGISTRY_METRIC_NAMESPACE, MetricData=DATUM)


def reads_predictions(client):
    client("s3").list_objects_v2(Bucket="store", Prefix=f"predictions/{MODEL}/")
    client("s3").get_object(Bucket="store", Key=PREDICTION)


def judges(client):
    stat = {"Metric": {"Namespace": "modelworks", "MetricName": "m"}, "Period": 60, "Stat": "Average"}
    client("cloudwatch").get_metric_data(
        MetricDataQueries=[{"Id": "a", "MetricStat": stat}], StartTime="2026-01-01", EndTime="2026-01-02"
    )


def statements(text):
    return json.loads(text)["Statement"]


ROLES = {
    # what the code does with it, and its statements, given the key
    "serving": (
        serves,
        lambda key: serving_permissions(MODEL, BUCKET, key, log_arns=[BUCKET], table_arns=[TABLE], secret_arns=[]),
    ),
    "training": (trains, lambda key: training_compute._permissions(BUCKET, key)),
    "registry": (registers, lambda key: model_registry._permissions(BUCKET, key, backups=True)),
    "predictions": (reads_predictions, lambda key: statements(prediction_store._reads(BUCKET, key))),
    "rollouts": (judges, lambda _: statements(argo_rollouts._permissions(REGION))),
}
ACTIONS = [
    (role, action)
    for role, (_, given) in ROLES.items()
    for each in given("arn:aws:kms:::key/any")
    for action in each["Action"]
    if not action.startswith("elasticloadbalancing:")  # the emulator has no load balancers
]


def client_of(account, *given):
    account.pod("sts", *given)
    keys = account.assume(account.token())
    return lambda service: account.client_with(
        service, keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]
    )


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_its_code_does(stored, role):
    uses, given = ROLES[role]
    uses(client_of(stored, *given(stored.key)))


@pytest.mark.parametrize(("role", "action"), ACTIONS)
def test_a_role_without_one_of_its_permissions_fails(stored, role, action):
    uses, given = ROLES[role]
    less = [{**each, "Action": [one for one in each["Action"] if one != action]} for each in given(stored.key)]
    with pytest.raises((ClientError, pytest.fail.Exception), match=f"{action} on resource"):
        uses(client_of(stored, *(each for each in less if each["Action"])))


def test_a_role_reads_no_other_models_bundles(stored):
    _, given = ROLES["serving"]
    s3 = client_of(stored, *given(stored.key))("s3")
    assert refused(s3.get_object, Bucket="store", Key="bundles/other/a.bento")[2] == 403


def test_whoever_judges_in_another_region_may_not_look(stored):
    other = statements(argo_rollouts._permissions("us-east-1"))
    code, message, _ = refused(client_of(stored, *other)("cloudwatch").get_metric_data, MetricDataQueries=[],
                               StartTime="2026-01-01", EndTime="2026-01-02")  # fmt: skip
    assert (code, message.split(" because")[0]) == (
        "AccessDenied", f"User: {SESSION} is not authorized to perform: cloudwatch:GetMetricData on resource: *"
    )  # fmt: skip


def test_the_same_rights_by_an_attached_policy_are_the_same(stored):
    iam = stored.client("iam")
    arn = iam.create_policy(PolicyName="attached", PolicyDocument=document(allow("s3:ListAllMyBuckets")))
    stored.pod("s3", allow("s3:GetObject"))
    iam.attach_role_policy(RoleName="serving", PolicyArn=arn["Policy"]["Arn"])
    try:
        client_of(stored, allow("s3:GetObject"))("s3").list_buckets()
    finally:
        iam.detach_role_policy(RoleName="serving", PolicyArn=arn["Policy"]["Arn"])
