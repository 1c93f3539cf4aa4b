"""Every type that the laptop's AWS provider has, by its token."""

from __future__ import annotations

from collections.abc import Mapping

from modelworks.laptop.providers.aws import (
    athena,
    budgets,
    cloudwatch,
    dynamodb,
    ecr,
    glue,
    iam,
    kms,
    logs,
    s3,
    secretsmanager,
    sns,
    sqs,
    ssm,
)
from modelworks.laptop.providers.aws.resource import Resource

RESOURCES: Mapping[str, type[Resource]] = {
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
        ecr.Repository,
        glue.CatalogDatabase,
        glue.CatalogTable,
        athena.Workgroup,
        dynamodb.Table,
        kms.Alias,
        kms.Grant,
        kms.Key,
        ssm.Parameter,
        secretsmanager.Secret,
        secretsmanager.SecretVersion,
        iam.OpenIdConnectProvider,
        iam.Policy,
        iam.Role,
        iam.RolePolicy,
        iam.RolePolicyAttachment,
        sqs.Queue,
        sqs.QueuePolicy,
        sns.Topic,
        sns.TopicPolicy,
        sns.TopicSubscription,
        budgets.Budget,
        cloudwatch.Dashboard,
        logs.LogGroup,
        cloudwatch.MetricAlarm,
    )
}
