"""Every type that the laptop's AWS provider has, by its token."""

from __future__ import annotations

from collections.abc import Mapping

from modelworks.laptop.providers.aws import iam, messages, observing, s3, secrets, storing
from modelworks.laptop.providers.aws.resource import Kind

RESOURCES: Mapping[str, type[Kind]] = {
    kind.pulumi_type: kind
    for kind in (
        s3.Bucket,
        s3.BucketLifecycleConfiguration,
        s3.BucketObject,
        s3.BucketObjectv2,
        s3.BucketOwnershipControls,
        s3.BucketPolicy,
        s3.BucketPublicAccessBlock,
        s3.BucketServerSideEncryptionConfiguration,
        s3.BucketVersioning,
        storing.Repository,
        storing.Table,
        secrets.Alias,
        secrets.Key,
        secrets.Parameter,
        secrets.Secret,
        secrets.SecretVersion,
        iam.OpenIdConnectProvider,
        iam.Policy,
        iam.Role,
        iam.RolePolicy,
        iam.RolePolicyAttachment,
        messages.Queue,
        messages.QueuePolicy,
        messages.Topic,
        messages.TopicPolicy,
        messages.TopicSubscription,
        observing.Budget,
        observing.Dashboard,
        observing.LogGroup,
        observing.MetricAlarm,
    )
}
