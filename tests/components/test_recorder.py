"""What the recorder of all component tests refuses, whichever component a test is about."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws
import pytest

from mocks import declare
from modelworks._resources.kubernetes import KubernetesObject


class _Component(pulumi.ComponentResource):
    def __init__(self, name, child):
        super().__init__("test:index:Component", name)
        aws.sns.Topic(child, opts=pulumi.ResourceOptions(parent=self))


class _Served(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("test:index:Served", name)
        KubernetesObject(name, {"apiVersion": "v1", "kind": "Service"}, opts=pulumi.ResourceOptions(parent=self))


class _Careless(pulumi.ComponentResource):
    def __init__(self, name):
        super().__init__("test:index:Careless", name)
        aws.sns.Topic(f"{name}-topic")


class _Nested(pulumi.ComponentResource):
    def __init__(self, name, child):
        super().__init__("test:index:Nested", name)
        topic = aws.sns.Topic(f"{name}-topic", opts=pulumi.ResourceOptions(parent=self))
        aws.sns.TopicPolicy(child, arn=topic.arn, policy="{}", opts=pulumi.ResourceOptions(parent=topic))


def test_a_child_that_is_named_after_its_component_is_recorded():
    assert set(declare(lambda: _Component("store", "store-topic")).all("aws:sns/topic:Topic")) == {"store-topic"}


@pytest.mark.parametrize("child", ["alerts", "storefoo", "store"])
def test_a_child_that_is_not_named_after_its_component_is_refused(child):
    with pytest.raises(AssertionError, match=rf"{child} \(aws:sns/topic:Topic\) is not named after its parent store"):
        declare(lambda: _Component("store", child))


def test_an_object_of_a_cluster_may_be_called_as_its_component():
    assert set(declare(lambda: _Served("store")).all("kubernetes:core/v1:Service")) == {"store"}


def test_a_grandchild_that_is_not_named_after_its_parent_is_refused():
    with pytest.raises(AssertionError, match=r"store-policy .* is not named after its parent store-topic"):
        declare(lambda: _Nested("store", "store-policy"))


def test_what_a_component_declares_at_the_root_of_the_stack_is_refused():
    with pytest.raises(AssertionError, match=r"store-topic .*, which _Careless declares, has no parent"):
        declare(lambda: _Careless("store"))


def test_what_a_program_declares_at_the_root_of_the_stack_is_its_own_affair():
    assert set(declare(lambda: aws.sns.Topic("topic")).all("aws:sns/topic:Topic")) == {"topic"}


def test_two_resources_of_one_urn_are_refused():
    with pytest.raises(AssertionError, match=r"declared twice: urn:.*::topic"):
        declare(lambda: [aws.sns.Topic("topic") for _ in range(2)])
