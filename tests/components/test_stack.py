from __future__ import annotations

import json
import os

import pulumi
import pulumi_aws as aws
import pytest

from mocks import ACCOUNT, Declared, declare
from modelworks.errors import ModelworksError
from modelworks.stack import check_place, lock_image, require_account, required_tags, tag_everything

TAGS = {"environment": "dev", "owner": "me"}
LAPTOP = "file:///home/me/project/.modelworks/environments/dev/backend"


def test_every_taggable_resource_gets_the_tags_and_others_are_left_alone():
    def program():
        tag_everything(TAGS)
        topic = aws.sns.Topic("topic")
        aws.sns.TopicPolicy("policy", arn=topic.arn, policy="{}")

    declared = declare(program)
    assert declared.one("aws:sns/topic:Topic")["tags"] == TAGS
    assert "tags" not in declared.one("aws:sns/topicPolicy:TopicPolicy")


# An output belongs to the event loop it was made in: it is made in the program.
@pytest.mark.parametrize("own", [dict, pulumi.Output.from_input])
def test_a_tag_of_its_own_wins(own):
    def program():
        tag_everything(TAGS)
        aws.sns.Topic("topic", tags=own({"owner": "you"}))

    assert declare(program).one("aws:sns/topic:Topic")["tags"] == {"environment": "dev", "owner": "you"}


def test_children_of_components_are_tagged_too():
    def program():
        tag_everything(TAGS)
        parent = pulumi.ComponentResource("test:index:P", "dev")
        aws.sns.Topic("dev-topic", opts=pulumi.ResourceOptions(parent=parent))

    assert declare(program).one("aws:sns/topic:Topic")["tags"] == TAGS


def test_required_tags_are_the_five_every_resource_carries():
    tags = {}
    declare(lambda: tags.update(required_tags(environment="dev", owner="me", cost_centre="1")))
    assert tags == {
        "environment": "dev",
        "owner": "me",
        "cost-centre": "1",
        "project": "modelworks",
        "managed-by": "pulumi",
    }


def test_credentials_of_another_account_are_refused():
    with pytest.raises(ModelworksError, match=r"pinned to account 999999999999.*of account 111111111111"):
        declare(lambda: require_account(["999999999999"]))


def test_the_account_is_the_pinned_one():
    accounts = []
    declare(lambda: accounts.append(require_account([ACCOUNT])))
    assert accounts == [ACCOUNT]


@pytest.fixture
def shell(monkeypatch):
    """Sets what a shell says about AWS and the backend, and nothing else of it is there."""
    for name in [name for name in os.environ if name.startswith(("PULUMI_", "AWS_"))]:
        monkeypatch.delenv(name)

    def says(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return says


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:5000", "http://localhost:4566", "http://[::1]:1", "http://aws.localhost"]
)
def test_an_emulator_behind_a_cloud_backend_is_refused(shell, url):
    shell(AWS_ENDPOINT_URL=url)
    with pytest.raises(ModelworksError, match="the laptop's emulator"):
        declare(lambda: require_account([ACCOUNT]))


def test_an_emulator_that_the_stack_names_counts_as_one_that_the_shell_names(shell):
    endpoints = json.dumps([{"s3": "https://s3.example.com"}, {"sts": "http://127.0.0.1:5000"}])
    with pytest.raises(ModelworksError, match="the laptop's emulator"):
        declare(lambda: require_account([ACCOUNT]), config={"aws:endpoints": endpoints})


def test_a_real_user_called_moto_is_no_emulator(shell):
    real = Declared(caller_arn=f"arn:aws:iam::{ACCOUNT}:user/moto")
    accounts = []
    declare(lambda: accounts.append(require_account([ACCOUNT])), mocks=real)
    assert accounts == [ACCOUNT]
    shell(PULUMI_BACKEND_URL=LAPTOP)
    with pytest.raises(ModelworksError, match="the AWS credentials are real ones"):
        declare(lambda: require_account([ACCOUNT]), mocks=Declared(caller_arn=real.caller_arn))


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_ENDPOINT_URL": "https://vpce-1.sts.eu-central-1.vpce.amazonaws.com"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_STS": "https://sts.eu-central-1.amazonaws.com"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000"},
        {"AWS_ENDPOINT_URL": ""},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1.example.com"},
    ],
)
def test_an_address_elsewhere_or_of_another_service_is_no_emulator(shell, variables):
    shell(**variables)
    accounts = []
    declare(lambda: accounts.append(require_account([ACCOUNT])))
    assert accounts == [ACCOUNT]


def test_the_stand_in_for_an_image_is_the_laptops_alone(shell):
    with pytest.raises(ModelworksError, match="names no runtime image") as refused:
        declare(lambda: lock_image("runtime"))
    assert "cluster.runtime_image" in refused.value.fix
    shell(AWS_ENDPOINT_URL="http://127.0.0.1:1")
    images = []
    declare(lambda: images.append(lock_image("runtime")))
    assert images[0].startswith("modelworks.invalid/runtime@sha256:")


def test_real_credentials_behind_the_laptops_backend_are_refused():
    with pytest.raises(ModelworksError, match="the AWS credentials are real ones"):
        check_place(stack="dev", backend=LAPTOP, emulated=False)


def test_a_stack_in_another_environments_shell_is_refused():
    with pytest.raises(ModelworksError, match="environment 'dev', and the stack is 'prod'"):
        check_place(stack="prod", backend=LAPTOP, emulated=True)


@pytest.mark.parametrize(
    ("backend", "emulated"),
    [
        (LAPTOP, True),
        (LAPTOP + "?metadata=skip", True),
        ("s3://states", False),
        ("", False),
        ("file:///srv/states", False),
    ],
)
def test_what_belongs_together_passes(backend, emulated):
    check_place(stack="dev", backend=backend, emulated=emulated)
