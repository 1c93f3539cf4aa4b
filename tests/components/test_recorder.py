"""What the recorder of all component tests refuses, whichever component a test is about."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws
import pytest

from mocks import declare


class _Component(pulumi.ComponentResource):
    def __init__(self, name, child):
        super().__init__("test:index:Component", name)
        aws.sns.Topic(child, opts=pulumi.ResourceOptions(parent=self))


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


def test_a_child_that_is_not_named_after_its_component_is_refused():
    with pytest.raises(AssertionError, match=r"alerts \(aws:sns/topic:Topic\) is not named after its parent store"):
        declare(lambda: _Component("store", "alerts"))


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
