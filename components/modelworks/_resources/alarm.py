"""Private: a CloudWatch alarm that pages people."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_aws as aws


def paging_alarm(
    name: str, *, parent: pulumi.Resource, topic: pulumi.Input[str], **definition: Any
) -> aws.cloudwatch.MetricAlarm:
    """An alarm that sends to `topic` when it fires, and when it is over.

    Args:
        name: Name of the alarm as a resource.
        parent: The component it belongs to.
        topic: ARN of the alerts topic.
        definition: The watched resource, as `aws.cloudwatch.MetricAlarm` takes it.
    """
    return aws.cloudwatch.MetricAlarm(
        name,
        alarm_actions=[topic],
        ok_actions=[topic],
        opts=pulumi.ResourceOptions(parent=parent),
        **definition,
    )
