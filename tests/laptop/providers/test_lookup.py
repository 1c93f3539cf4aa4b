from __future__ import annotations

from types import SimpleNamespace

import boto3
import pytest

from modelworks.deploy import pending_operations
from modelworks.deploy.account import account_of
from modelworks.deploy.lookup import search_of

KEY = "aws:kms/key:Key"
TAGS = {"environment": "local", "owner": "me"}
WHERE = pending_operations.Where("123456789012", "eu-central-1")


@pytest.fixture
def search(moto):
    variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": moto}
    return search_of(account_of("dev", {"aws:region": "eu-central-1"}, variables).session)


def made(aws, description: str = "Encrypts", tags: dict[str, str] = TAGS) -> str:
    listed = [{"TagKey": key, "TagValue": value} for key, value in tags.items()]
    return aws("kms").create_key(Description=description, Tags=listed)["KeyMetadata"]["KeyId"]


def key(description: str = "Encrypts") -> dict:
    return {"type": KEY, "urn": "urn:key", "inputs": {"description": description, "tagsAll": TAGS, "tags": TAGS}}


def test_a_key_is_found_by_its_description_and_all_of_its_tags(aws, search):
    made(aws, tags={"environment": "prod"})
    made(aws, description="Other")
    wanted = made(aws)
    assert search(key(), []) == wanted


def test_a_key_that_the_state_knows_is_not_meant(aws, search):
    assert search(key(), [made(aws)]) == ""


def test_a_key_that_was_not_made_is_not_found(aws, search):
    made(aws, description="Other")
    assert search(key(), []) == ""


def test_a_key_without_tags_is_not_guessed(aws, search):
    made(aws, tags={})
    assert search({**key(), "inputs": {"description": "Encrypts"}}, []) is None


def test_a_key_that_is_on_its_way_out_is_not_meant(aws, search):
    aws("kms").schedule_key_deletion(KeyId=made(aws), PendingWindowInDays=7)
    assert search(key(), []) == ""


def test_a_subscription_is_found_by_topic_protocol_and_endpoint(aws, search):
    topic = aws("sns").create_topic(Name="t")["TopicArn"]
    subscription = aws("sns").subscribe(
        TopicArn=topic, Protocol="email", Endpoint="a@example.com", ReturnSubscriptionArn=True
    )
    resource = {
        "type": "aws:sns/topicSubscription:TopicSubscription",
        "inputs": {"topic": topic, "protocol": "email", "endpoint": "a@example.com"},
    }
    assert search(resource, []) == subscription["SubscriptionArn"]
    assert search({**resource, "inputs": {**resource["inputs"], "endpoint": "b@example.com"}}, []) == ""


def version(secret: str, **inputs) -> dict:
    return {"type": "aws:secretsmanager/secretVersion:SecretVersion", "inputs": {"secretId": secret, **inputs}}


def test_a_secrets_version_is_found_by_the_stages_it_holds(aws, search):
    secret = aws("secretsmanager").create_secret(Name="s")["ARN"]
    assert search(version(secret), []) == ""
    first = f"{secret}|" + aws("secretsmanager").put_secret_value(SecretId=secret, SecretString="1")["VersionId"]
    assert search(version(secret), []) == first
    assert search(version(secret, versionStages=["other"]), []) == ""
    second = f"{secret}|" + aws("secretsmanager").put_secret_value(SecretId=secret, SecretString="2")["VersionId"]
    assert search(version(secret), [first]) == second


def test_a_secrets_version_that_the_state_knows_is_not_meant(aws, search):
    secret = aws("secretsmanager").create_secret(Name="s", SecretString="1")
    assert search(version(secret["ARN"]), [f"{secret['ARN']}|{secret['VersionId']}"]) == ""


def test_a_secret_that_was_not_made_is_not_found(aws, search):
    aws("secretsmanager").create_secret(Name="another")
    assert search({"type": "aws:secretsmanager/secret:Secret", "inputs": {"name": "s"}}, []) == ""


def test_what_was_looked_for_and_is_not_there_is_told_from_what_nobody_knows(search):
    nowhere = version("nowhere", urn="v")
    operations = [{"type": "creating", "resource": {**each, "urn": name}} for name, each in
                  (("absent", key()), ("unknown", nowhere))]  # fmt: skip
    exported = {"deployment": {"resources": [], "pending_operations": operations}}
    resolution = pending_operations.resolve(exported, WHERE, search)
    assert (resolution.absent, resolution.forgotten) == (("absent",), ("unknown",))


def test_aws_that_does_not_answer_finds_nothing():
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-central-1")
    nowhere = SimpleNamespace(client=lambda service: session.client(service, endpoint_url="http://127.0.0.1:9"))
    assert search_of(nowhere)(key(), []) is None


def test_a_killed_engines_key_is_taken_over_and_not_made_twice(aws, search):
    wanted = made(aws)
    exported = {"deployment": {"resources": [], "pending_operations": [{"type": "creating", "resource": key()}]}}
    resolution = pending_operations.resolve(exported, WHERE, search)
    assert (resolution.asked, resolution.forgotten) == ({"urn:key": wanted}, ())
