"""The actions of IAM that Pulumi's provider of AWS needs for each type of resource that components declare.

Sources: for each type, the mapping of Pike (github.com/JamesWoolfenden/pike, src/mapping/aws/resource, commit
085701b), which lists what Terraform's provider calls, whose resources Pulumi's provider serves, completed by the
permissions of the handlers of the same type in the schemas of CloudFormation (src/schema of the same repository), for
the properties that components state. Left out is `ec2:DescribeAccountAttributes`, which the provider called for
EC2-Classic alone.

No calls of the provider were recorded in an account. `create` is also what tags need, `read` what a refresh needs.
"""

from __future__ import annotations

from typing import NamedTuple


class Actions(NamedTuple):
    """Of one type, by what the provider does with a resource."""

    create: str
    read: str
    update: str = ""
    delete: str = ""

    @property
    def reads(self) -> list[str]:
        return self.read.split()

    @property
    def changes(self) -> list[str]:
        return [*self.create.split(), *self.update.split(), *self.delete.split()]


_EC2_TAGS = "ec2:CreateTags ec2:DeleteTags"

ACTIONS = {
    "aws:athena/workgroup:Workgroup": Actions(
        "athena:CreateWorkGroup athena:TagResource",
        "athena:GetWorkGroup athena:ListTagsForResource",
        "athena:UpdateWorkGroup athena:UntagResource",
        "athena:DeleteWorkGroup",
    ),
    "aws:budgets/budget:Budget": Actions(
        "budgets:ModifyBudget budgets:TagResource",
        "budgets:ViewBudget budgets:ListTagsForResource",
        "budgets:ModifyBudget budgets:UntagResource",
        "budgets:ModifyBudget",
    ),
    "aws:cloudwatch/logGroup:LogGroup": Actions(
        "logs:CreateLogGroup logs:PutRetentionPolicy logs:AssociateKmsKey logs:TagResource",
        "logs:DescribeLogGroups logs:ListTagsForResource",
        "logs:PutRetentionPolicy logs:DeleteRetentionPolicy logs:DisassociateKmsKey logs:UntagResource",
        "logs:DeleteLogGroup",
    ),
    "aws:cloudwatch/metricAlarm:MetricAlarm": Actions(
        "cloudwatch:PutMetricAlarm cloudwatch:TagResource",
        "cloudwatch:DescribeAlarms cloudwatch:ListTagsForResource",
        "cloudwatch:PutMetricAlarm cloudwatch:UntagResource",
        "cloudwatch:DeleteAlarms",
    ),
    "aws:dynamodb/table:Table": Actions(
        "dynamodb:CreateTable dynamodb:TagResource dynamodb:UpdateContinuousBackups dynamodb:UpdateTimeToLive "
        "kms:CreateGrant kms:Decrypt kms:DescribeKey",
        "dynamodb:DescribeTable dynamodb:DescribeContinuousBackups dynamodb:DescribeTimeToLive "
        "dynamodb:ListTagsOfResource",
        "dynamodb:UpdateTable dynamodb:UpdateTimeToLive dynamodb:UpdateContinuousBackups dynamodb:UntagResource",
        "dynamodb:DeleteTable",
    ),
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": Actions(
        f"{_EC2_TAGS} ec2:RevokeSecurityGroupIngress ec2:RevokeSecurityGroupEgress",
        "ec2:DescribeSecurityGroups ec2:DescribeSecurityGroupRules",
        "ec2:AuthorizeSecurityGroupIngress ec2:AuthorizeSecurityGroupEgress",
    ),
    "aws:ec2/eip:Eip": Actions(
        f"ec2:AllocateAddress {_EC2_TAGS}",
        "ec2:DescribeAddresses ec2:DescribeAddressesAttribute",
        "ec2:AssociateAddress",
        "ec2:DisassociateAddress ec2:ReleaseAddress",
    ),
    "aws:ec2/flowLog:FlowLog": Actions(
        f"ec2:CreateFlowLogs iam:PassRole logs:CreateLogDelivery {_EC2_TAGS}",
        "ec2:DescribeFlowLogs",
        delete="ec2:DeleteFlowLogs logs:DeleteLogDelivery",
    ),
    "aws:ec2/internetGateway:InternetGateway": Actions(
        f"ec2:CreateInternetGateway ec2:AttachInternetGateway {_EC2_TAGS}",
        "ec2:DescribeInternetGateways",
        delete="ec2:DetachInternetGateway ec2:DeleteInternetGateway",
    ),
    "aws:ec2/natGateway:NatGateway": Actions(
        f"ec2:CreateNatGateway {_EC2_TAGS}", "ec2:DescribeNatGateways", delete="ec2:DeleteNatGateway"
    ),
    "aws:ec2/route:Route": Actions(
        "ec2:CreateRoute",
        "ec2:DescribeRouteTables ec2:DescribeNetworkInterfaces",
        "ec2:ReplaceRoute",
        "ec2:DeleteRoute",
    ),
    "aws:ec2/routeTable:RouteTable": Actions(
        f"ec2:CreateRouteTable {_EC2_TAGS}", "ec2:DescribeRouteTables", delete="ec2:DeleteRouteTable"
    ),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": Actions(
        "ec2:AssociateRouteTable",
        "ec2:DescribeRouteTables ec2:DescribeSubnets",
        "ec2:ReplaceRouteTableAssociation",
        "ec2:DisassociateRouteTable",
    ),
    "aws:ec2/subnet:Subnet": Actions(
        f"ec2:CreateSubnet {_EC2_TAGS}",
        "ec2:DescribeSubnets ec2:DescribeNetworkInterfaces",
        "ec2:ModifySubnetAttribute",
        "ec2:DeleteSubnet",
    ),
    "aws:ec2/vpc:Vpc": Actions(
        f"ec2:CreateVpc {_EC2_TAGS}",
        "ec2:DescribeVpcs ec2:DescribeVpcAttribute ec2:DescribeNetworkAcls ec2:DescribeRouteTables "
        "ec2:DescribeSecurityGroups",
        "ec2:ModifyVpcAttribute",
        "ec2:DeleteVpc",
    ),
    "aws:ec2/vpcEndpoint:VpcEndpoint": Actions(
        f"ec2:CreateVpcEndpoint {_EC2_TAGS}",
        "ec2:DescribeVpcEndpoints ec2:DescribePrefixLists",
        "ec2:ModifyVpcEndpoint",
        "ec2:DeleteVpcEndpoints",
    ),
    "aws:ecr/repository:Repository": Actions(
        "ecr:CreateRepository ecr:TagResource kms:DescribeKey kms:CreateGrant",
        "ecr:DescribeRepositories ecr:ListTagsForResource",
        "ecr:PutImageScanningConfiguration ecr:PutImageTagMutability ecr:UntagResource",
        "ecr:DeleteRepository kms:RetireGrant",
    ),
    "aws:eks/accessEntry:AccessEntry": Actions(
        "eks:CreateAccessEntry eks:TagResource",
        "eks:DescribeAccessEntry",
        "eks:UpdateAccessEntry eks:UntagResource",
        "eks:DeleteAccessEntry",
    ),
    "aws:eks/accessPolicyAssociation:AccessPolicyAssociation": Actions(
        "eks:AssociateAccessPolicy", "eks:ListAssociatedAccessPolicies", delete="eks:DisassociateAccessPolicy"
    ),
    "aws:eks/addon:Addon": Actions(
        "eks:CreateAddon eks:TagResource",
        "eks:DescribeAddon eks:DescribeAddonVersions",
        "eks:UpdateAddon eks:UntagResource eks:DescribeUpdate",
        "eks:DeleteAddon",
    ),
    "aws:eks/cluster:Cluster": Actions(
        "eks:CreateCluster eks:TagResource iam:PassRole iam:GetRole iam:CreateServiceLinkedRole kms:DescribeKey "
        "kms:CreateGrant ec2:DescribeSubnets ec2:DescribeVpcs iam:CreateInstanceProfile iam:TagInstanceProfile "
        "iam:AddRoleToInstanceProfile iam:GetInstanceProfile",
        "eks:DescribeCluster",
        "eks:UpdateClusterConfig eks:UpdateClusterVersion eks:DescribeUpdate eks:UntagResource iam:PassRole",
        "eks:DeleteCluster iam:RemoveRoleFromInstanceProfile iam:DeleteInstanceProfile",
    ),
    "aws:glue/catalogDatabase:CatalogDatabase": Actions(
        "glue:CreateDatabase glue:TagResource",
        "glue:GetDatabase glue:GetTags",
        "glue:UpdateDatabase glue:UntagResource",
        "glue:DeleteDatabase",
    ),
    "aws:glue/catalogTable:CatalogTable": Actions(
        "glue:CreateTable", "glue:GetTable glue:GetPartitionIndexes", "glue:UpdateTable", "glue:DeleteTable"
    ),
    "aws:iam/openIdConnectProvider:OpenIdConnectProvider": Actions(
        "iam:CreateOpenIDConnectProvider iam:TagOpenIDConnectProvider",
        "iam:GetOpenIDConnectProvider",
        "iam:UpdateOpenIDConnectProviderThumbprint iam:AddClientIDToOpenIDConnectProvider "
        "iam:RemoveClientIDFromOpenIDConnectProvider iam:UntagOpenIDConnectProvider",
        "iam:DeleteOpenIDConnectProvider",
    ),
    "aws:iam/policy:Policy": Actions(
        "iam:CreatePolicy iam:TagPolicy",
        "iam:GetPolicy iam:GetPolicyVersion",
        "iam:CreatePolicyVersion iam:ListPolicyVersions iam:DeletePolicyVersion iam:UntagPolicy",
        "iam:ListPolicyVersions iam:DeletePolicyVersion iam:DeletePolicy",
    ),
    "aws:iam/role:Role": Actions(
        "iam:CreateRole iam:TagRole",
        "iam:GetRole iam:ListRolePolicies iam:GetRolePolicy iam:ListAttachedRolePolicies",
        "iam:UpdateAssumeRolePolicy iam:UpdateRole iam:UpdateRoleDescription iam:UntagRole",
        "iam:ListInstanceProfilesForRole iam:DeleteRole",
    ),
    "aws:iam/rolePolicy:RolePolicy": Actions("iam:PutRolePolicy", "iam:GetRolePolicy", delete="iam:DeleteRolePolicy"),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": Actions(
        "iam:AttachRolePolicy", "iam:ListAttachedRolePolicies", delete="iam:DetachRolePolicy"
    ),
    "aws:kms/alias:Alias": Actions("kms:CreateAlias", "kms:ListAliases", "kms:UpdateAlias", "kms:DeleteAlias"),
    "aws:kms/grant:Grant": Actions("kms:CreateGrant", "kms:ListGrants", delete="kms:RevokeGrant"),
    "aws:kms/key:Key": Actions(
        "kms:CreateKey kms:TagResource kms:EnableKeyRotation",
        "kms:DescribeKey kms:GetKeyPolicy kms:GetKeyRotationStatus kms:ListResourceTags",
        "kms:UpdateKeyDescription kms:PutKeyPolicy kms:DisableKeyRotation kms:EnableKey kms:DisableKey "
        "kms:UntagResource",
        "kms:ScheduleKeyDeletion",
    ),
    "aws:s3/bucket:Bucket": Actions(
        "s3:CreateBucket s3:PutBucketTagging",
        "s3:ListBucket s3:GetBucketAcl s3:GetBucketCORS s3:GetBucketLocation s3:GetBucketLogging "
        "s3:GetBucketObjectLockConfiguration s3:GetBucketPolicy s3:GetBucketRequestPayment s3:GetBucketTagging "
        "s3:GetBucketVersioning s3:GetBucketWebsite s3:GetAccelerateConfiguration s3:GetEncryptionConfiguration "
        "s3:GetLifecycleConfiguration s3:GetReplicationConfiguration s3:ListTagsForResource",
        "s3:PutBucketTagging s3:TagResource s3:UntagResource",
        "s3:DeleteBucket",
    ),
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": Actions(
        "s3:PutLifecycleConfiguration", "s3:GetLifecycleConfiguration"
    ),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": Actions(
        "s3:PutBucketOwnershipControls", "s3:GetBucketOwnershipControls"
    ),
    "aws:s3/bucketPolicy:BucketPolicy": Actions(
        "s3:PutBucketPolicy", "s3:GetBucketPolicy", delete="s3:DeleteBucketPolicy"
    ),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": Actions(
        "s3:PutBucketPublicAccessBlock", "s3:GetBucketPublicAccessBlock"
    ),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": Actions(
        "s3:PutEncryptionConfiguration", "s3:GetEncryptionConfiguration"
    ),
    "aws:s3/bucketVersioning:BucketVersioning": Actions("s3:PutBucketVersioning", "s3:GetBucketVersioning"),
    "aws:secretsmanager/secret:Secret": Actions(
        "secretsmanager:CreateSecret secretsmanager:TagResource kms:GenerateDataKey kms:Decrypt",
        "secretsmanager:DescribeSecret secretsmanager:GetResourcePolicy",
        "secretsmanager:UpdateSecret secretsmanager:UntagResource",
        "secretsmanager:DeleteSecret",
    ),
    "aws:secretsmanager/secretVersion:SecretVersion": Actions(
        "secretsmanager:PutSecretValue kms:GenerateDataKey",
        "secretsmanager:GetSecretValue kms:Decrypt",
        "secretsmanager:UpdateSecretVersionStage",
    ),
    "aws:sns/topic:Topic": Actions(
        "sns:CreateTopic sns:SetTopicAttributes sns:TagResource",
        "sns:GetTopicAttributes sns:ListTagsForResource",
        "sns:SetTopicAttributes sns:UntagResource",
        "sns:DeleteTopic",
    ),
    "aws:sns/topicPolicy:TopicPolicy": Actions("sns:SetTopicAttributes", "sns:GetTopicAttributes"),
    "aws:sns/topicSubscription:TopicSubscription": Actions(
        "sns:Subscribe",
        "sns:GetSubscriptionAttributes sns:ListSubscriptionsByTopic",
        "sns:SetSubscriptionAttributes",
        "sns:Unsubscribe",
    ),
}
