"""What is the same for all AWS types: checks, names, tags, accounts, regions, faults, and the facts behind them."""

from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import provider_pb2

from laptop.providers.conftest import ACCOUNT, REGION
from laptop.providers.engine import UNKNOWN, Engine
from modelworks.laptop.aws_credentials import AwsCredentials
from modelworks.laptop.providers.aws import RECORDED_NOT_EMULATED, schema
from modelworks.laptop.providers.aws.account import Emulator, Fault, account
from modelworks.laptop.providers.aws.installed import schema as installed_schema
from modelworks.laptop.providers.aws.provider import AwsProvider
from modelworks.laptop.providers.aws.registry import RESOURCES
from modelworks.laptop.providers.plugin import Plugin
from modelworks.laptop.providers.property_values import Secret

BUCKET, TABLE, ROLE, TOPIC = (
    "aws:s3/bucket:Bucket", "aws:dynamodb/table:Table", "aws:iam/role:Role", "aws:sns/topic:Topic",
)  # fmt: skip


def test_our_schema_is_that_of_the_installed_sdk():
    """After an upgrade that changes a type: run `modelworks.laptop.providers.aws.installed`, read the diff."""
    ours, theirs = schema.package(), installed_schema(RESOURCES)
    assert ours["resources"] == theirs["resources"]
    assert ours["types"] == theirs["types"]


@pytest.mark.parametrize("token", sorted(RESOURCES))
def test_what_replaces_is_what_the_facts_say(token):
    facts = json.loads((schema.resources.files(schema.__package__) / "replacements.json").read_text())
    known = {*facts[schema.V5_NAMES.get(token, token)], *schema.V7_REPLACES["*"], *schema.V7_REPLACES.get(token, {})}
    type_ = schema.resource_type(token)
    assert type_.replaces == (known - schema.V7_UPDATES.get(token, {}).keys()) & type_.inputs.keys()


@pytest.mark.parametrize("kind", RESOURCES.values(), ids=lambda kind: kind.pulumi_type.rpartition(":")[2])
def test_a_kind_names_only_properties_that_its_type_has(kind):
    type_ = schema.resource_type(kind.pulumi_type)
    assert kind.handles <= type_.inputs.keys()
    assert kind.recorded <= kind.handles
    assert {*kind.computed, *kind.defaults, *kind.sets} <= type_.inputs.keys() | type_.outputs.keys()
    assert type_.required <= kind.handles


@pytest.mark.parametrize(
    ("type_", "inputs", "path", "reason"),
    [
        (BUCKET, {"forceDestory": True}, "forceDestory", "did you mean 'forceDestroy'?"),
        (ROLE, {}, "assumeRolePolicy", "requires 'assumeRolePolicy'"),
        (TABLE, {"attributes": {"name": "id"}}, "attributes", "expected a list, found an object"),
        (TABLE, {"attributes": [{"name": "id"}]}, "attributes[0].type", "TableAttribute requires 'type'"),
        (TABLE, {"ttl": {"enabled": "perhaps"}}, "ttl.enabled", "expected true or false, found a string"),
        (TABLE, {"ttl": {"atributeName": "x"}}, "ttl.atributeName", "did you mean 'attributeName'?"),
        (BUCKET, {"acl": "private"}, "acl", "does not handle 'acl'"),
        (BUCKET, {"bucket": "b" * 64}, "bucket", "has 64 characters, and AWS takes at most 63"),
    ],
)
def test_a_mistake_is_named_with_its_path(engine, type_, inputs, path, reason):
    assert reason in engine.check(type_, inputs)[1][path]


def test_what_the_real_provider_converts_is_converted(engine):
    inputs = engine.check(TABLE, {"readCapacity": "5", "ttl": {"enabled": "true"}, "rangeKey": None})[0]
    assert (inputs["readCapacity"], inputs["ttl"], "rangeKey" in inputs) == (5, {"enabled": True}, False)


def test_a_policy_given_as_an_object_is_sent_as_json(engine):
    inputs = engine.check("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "b", "policy": {"Version": "2012-10-17"}})[0]
    assert json.loads(inputs["policy"]) == {"Version": "2012-10-17"}


def test_a_type_that_is_not_there_lists_what_is(engine):
    with pytest.raises(
        grpc.RpcError,
        match=r"has no type aws:s3/bukkit:Bukkit.*(?s:.)*It has: aws:athena/workgroup:Workgroup",
    ):
        engine.check("aws:s3/bukkit:Bukkit", {})


def test_names_are_automatic_stable_and_lower_case_for_buckets(engine):
    first = engine.check(BUCKET, {}, name="My-Data")[0]
    assert first["bucket"].startswith("my-data-")
    assert len(first["bucket"]) == len("my-data-") + 7
    assert first["__defaults"] == ["bucket"]
    assert engine.check(BUCKET, {"tags": {"a": "b"}}, first, name="My-Data")[0]["bucket"] == first["bucket"]


def test_a_name_prefix_is_completed_when_the_resource_is_made(engine):
    inputs = engine.check(TOPIC, {"namePrefix": "alerts-"})[0]
    assert "name" not in inputs
    id_, state = engine.create(TOPIC, inputs)
    assert state["name"].startswith("alerts-")
    assert not engine.diff(TOPIC, id_, inputs, state, inputs).diffs


def test_a_fifo_topic_is_named_as_one(engine):
    assert engine.check(TOPIC, {"fifoTopic": True})[0]["name"].endswith(".fifo")


def test_a_name_too_long_to_be_automatic_says_how_long_it_may_be(engine):
    assert "at most 55 characters" in engine.check(BUCKET, {}, name="x" * 60)[1]["bucket"]


def test_a_replacement_under_a_given_name_deletes_first(engine):
    given, chosen = ({**more, "assumeRolePolicy": "{}", "path": "/a/"} for more in ({"name": "r"}, {}))
    for inputs, early in ((given, True), (chosen, False)):
        old = engine.check(ROLE, inputs)[0]
        new = engine.check(ROLE, {**inputs, "path": "/b/"}, old)[0]
        assert engine.diff(ROLE, "r", old, {**old, "tagsAll": {"owner": "tests"}}, new).deleteBeforeReplace is early


def test_default_tags_join_and_changing_them_is_an_update(port, aws, engine):
    inputs = engine.check(BUCKET, {"tags": {"a": "1"}})[0]
    id_, state = engine.create(BUCKET, inputs)
    assert (state["tags"], state["tagsAll"]) == ({"a": "1"}, {"a": "1", "owner": "tests"})
    other = Engine(port, {"region": REGION, "defaultTags": '{"tags": {"owner": "others"}}'})
    new = other.check(BUCKET, {"tags": {"a": "1"}}, inputs)[0]
    assert list(other.diff(BUCKET, id_, inputs, state, new).diffs) == ["tagsAll"]
    other.update(BUCKET, id_, inputs, state, new)
    other.close()
    there = {each["Key"]: each["Value"] for each in aws("s3").get_bucket_tagging(Bucket=id_)["TagSet"]}
    assert there == {"a": "1", "owner": "others"}


def test_a_policy_written_differently_is_no_difference(engine):
    def policy(**more):
        statement = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, **more}
        return {"assumeRolePolicy": json.dumps({"Statement": statement}, indent=len(more))}

    old, state = policy(Action="sts:AssumeRole"), {"tagsAll": {"owner": "tests"}}
    new = engine.check(ROLE, {**policy(Action=["sts:AssumeRole"]), "name": "r"})[0]
    assert not engine.diff(ROLE, "r", {**old, "name": "r"}, state, new).diffs


def test_unknowns_stay_unknown_in_preview_and_secrets_secret(engine):
    inputs = engine.check(TOPIC, {"displayName": UNKNOWN, "name": "n", "tags": {"a": Secret("s")}})[0]
    state = engine.create(TOPIC, inputs, preview=True)[1]
    assert (state["displayName"], state["arn"], state["name"]) == (UNKNOWN, UNKNOWN, "n")
    assert state["tags"] == {"a": Secret("s")}


def test_secret_values_are_secret_whatever_the_program_says(engine):
    inputs = engine.check("aws:ssm/parameter:Parameter", {"type": "String", "value": "v"})[0]
    id_, state = engine.create("aws:ssm/parameter:Parameter", inputs)
    assert state["value"] == Secret("v")
    assert engine.read("aws:ssm/parameter:Parameter", id_)[1]["value"] == Secret("v")


def test_a_wrong_account_is_refused_with_both_ids(port):
    with pytest.raises(
        grpc.RpcError, match=f"account is {ACCOUNT}, and aws:allowedAccountIds allows 999999999999 only"
    ):
        Engine(port, {"region": REGION, "allowedAccountIds": '["999999999999"]'})


def test_a_resource_in_a_region_of_its_own(engine, aws):
    inputs = engine.check(BUCKET, {"bucket": "far", "region": "us-west-2"})[0]
    id_, state = engine.create(BUCKET, inputs)
    assert aws("s3").get_bucket_location(Bucket="far")["LocationConstraint"] == "us-west-2"
    assert state["region"] == "us-west-2"
    moved = engine.check(BUCKET, {"bucket": "far"}, inputs)[0]
    assert list(engine.diff(BUCKET, id_, inputs, state, moved).replaces) == ["region"]


def test_a_typo_in_the_configuration_is_refused(engine):
    assert "did you mean 'region'" in engine.check_config({"regoin": "x"})[1]["regoin"]


def test_functions_answer(engine):
    assert engine.invoke("aws:index/getCallerIdentity:getCallerIdentity", {})["accountId"] == ACCOUNT
    assert engine.invoke("aws:index/getRegion:getRegion", {})["region"] == REGION
    assert engine.invoke("aws:index/getPartition:getPartition", {})["dnsSuffix"] == "amazonaws.com"
    statement = {"actions": ["s3:GetObject"], "resources": ["*"], "principals": [
        {"type": "AWS", "identifiers": ["arn:aws:iam::1:root"]}]}  # fmt: skip
    text = engine.invoke("aws:iam/getPolicyDocument:getPolicyDocument", {"statements": [statement]})["json"]
    assert json.loads(text)["Statement"] == [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", "Principal": {"AWS": "arn:aws:iam::1:root"}}
    ]


def test_a_fault_after_creation_leaves_the_resource_in_the_state_and_the_next_update_finishes_it(moto, aws):
    endpoint = Emulator(moto, AwsCredentials("a", "b"), Fault("fail", "2"))
    server, port = Plugin("aws", "7", lambda _: AwsProvider(account(endpoint, {}, REGION))).serve()
    engine = Engine(port, {})
    inputs = engine.check(BUCKET, {"bucket": "half", "tags": {"a": "1"}})[0]
    with pytest.raises(grpc.RpcError, match="injected fault: call 2") as caught:
        engine.create(BUCKET, inputs)
    assert "grpc-status-details-bin" in dict(caught.value.trailing_metadata())
    state = engine.update(BUCKET, "half", inputs, {}, inputs)
    assert state["tagsAll"] == {"a": "1"}
    engine.close()
    server.stop(None)


def test_an_emulator_that_is_gone_is_said_so():
    server, port = Plugin(
        "aws", "7", lambda _: AwsProvider(account(Emulator("http://127.0.0.1:9", AwsCredentials("a", "b")), {}, REGION))
    ).serve()
    with pytest.raises(grpc.RpcError, match="emulator is not there: run `modelworks laptop up`"):
        Engine(port, {})
    server.stop(None)


def test_the_schema_is_served_for_import_to_write_code(engine):
    answer = json.loads(engine.stub.GetSchema(provider_pb2.GetSchemaRequest()).schema)
    assert BUCKET in answer["resources"]
    assert engine.stub.GetPluginInfo(empty_pb2.Empty()).version.startswith("7.")


def test_what_is_not_emulated_is_told():
    assert all(each.startswith("aws:") for each in RECORDED_NOT_EMULATED)
