from __future__ import annotations

import ipaddress
import json

import botocore.session
import pulumi
import pytest
from botocore.validate import ParamValidator

from mocks import ACCOUNT, Declared, declare
from modelworks import Cluster

ME = f"arn:aws:iam::{ACCOUNT}:user/somebody"
EKS = "aws:eks/cluster:Cluster"
SUBNET = "aws:ec2/subnet:Subnet"
NAT = "aws:ec2/natGateway:NatGateway"
ROUTE = "aws:ec2/route:Route"
ROLE = "aws:iam/role:Role"
ATTACHMENT = "aws:iam/rolePolicyAttachment:RolePolicyAttachment"


def cluster(caller=ME, mocks=Declared, preview=False, **args):
    args = {"account_id": ACCOUNT, "administrators": [ME], **args}
    return declare(lambda: Cluster("dev", args), mocks=mocks(caller_arn=caller), preview=preview)


def outputs(**args):
    seen = {}

    def program():
        made = Cluster("dev", {"account_id": ACCOUNT, "administrators": [ME], **args})
        for name in (
            "cluster_name",
            "kubeconfig",
            "account_id",
            "oidc_issuer",
            "vpc_id",
            "private_subnet_ids",
            "public_subnet_ids",
        ):
            getattr(made, name).apply(lambda value, name=name: seen.update({name: value}))

    declare(program)
    return seen


# -- Security --------------------------------------------------------------------------------------------------------
def test_all_logs_of_the_control_plane_are_kept_for_a_year_and_encrypted():
    found = cluster()
    assert set(found.one(EKS)["enabledClusterLogTypes"]) == {
        "api",
        "audit",
        "authenticator",
        "controllerManager",
        "scheduler",
    }  # CKV_AWS_37
    group = found.all("aws:cloudwatch/logGroup:LogGroup")["dev-logs"]
    assert (group["name"], group["retentionInDays"]) == ("/aws/eks/dev/cluster", 365)
    assert group["kmsKeyId"] == "arn:aws:mock:::dev-key"


def test_the_api_server_is_reached_from_the_vpc_alone_unless_ranges_are_stated():
    access = cluster().one(EKS)["vpcConfig"]  # CKV_AWS_38, CKV_AWS_39
    assert (access["endpointPrivateAccess"], access["endpointPublicAccess"]) == (True, False)
    access = cluster(public_access_cidrs=["203.0.113.0/24"]).one(EKS)["vpcConfig"]
    assert (access["endpointPrivateAccess"], access["endpointPublicAccess"]) == (True, True)
    assert access["publicAccessCidrs"] == ["203.0.113.0/24"]


def test_secrets_are_encrypted_with_a_key_that_rotates():
    found = cluster()  # CKV_AWS_58
    assert found.one(EKS)["encryptionConfig"] == {
        "provider": {"keyArn": "arn:aws:mock:::dev-key"},
        "resources": ["secrets"],
    }
    assert found.one("aws:kms/key:Key")["enableKeyRotation"] is True


def test_the_key_serves_logs_of_the_own_account_alone():
    (logs,) = [
        each
        for each in json.loads(cluster().one("aws:kms/key:Key")["policy"])["Statement"]
        if each["Sid"] == "LogsAreEncrypted"
    ]
    assert logs["Principal"] == {"Service": "logs.eu-central-1.amazonaws.com"}
    assert logs["Condition"] == {
        "ArnLike": {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:eu-central-1:{ACCOUNT}:log-group:*"}
    }


def test_there_are_no_node_groups_that_one_could_sign_in_to():
    assert [token for token, _ in cluster().resources if "nodeGroup" in token] == []  # CKV_AWS_100


def test_the_version_is_one_that_eks_supports():
    assert cluster().one(EKS)["version"] == "1.35"  # CKV_AWS_339


def test_access_is_by_entries_alone_and_nobody_has_any_by_chance():
    assert cluster().one(EKS)["accessConfig"] == {
        "authenticationMode": "API",
        "bootstrapClusterCreatorAdminPermissions": False,
    }


def test_each_administrator_may_do_everything_in_the_cluster():
    deploy = f"arn:aws:iam::{ACCOUNT}:role/ci/deploy"
    found = cluster(administrators=[ME, deploy])
    access = found.all("aws:eks/accessPolicyAssociation:AccessPolicyAssociation")
    assert {name: each["principalArn"] for name, each in access.items()} == {
        "dev-administrator-user/somebody": ME,
        "dev-administrator-role/ci/deploy": deploy,
    }
    assert {each["policyArn"] for each in access.values()} == {
        "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
    }
    assert {json.dumps(each["accessScope"]) for each in access.values()} == {'{"type": "cluster"}'}


def test_each_viewer_may_read_everything_in_the_cluster():
    preview = f"arn:aws:iam::{ACCOUNT}:role/preview"
    found = cluster(viewers=[preview]).all("aws:eks/accessPolicyAssociation:AccessPolicyAssociation")
    access = found["dev-viewer-role/preview"]
    assert (access["principalArn"], access["accessScope"]) == (preview, {"type": "cluster"})
    assert access["policyArn"] == "arn:aws:eks::aws:cluster-access-policy/AmazonEKSAdminViewPolicy"
    assert set(found) == {"dev-administrator-user/somebody", "dev-viewer-role/preview"}


def test_the_default_security_group_lets_nothing_pass():
    closed = cluster().one("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup")
    assert {"ingress", "egress"}.isdisjoint(closed)


def test_the_flow_log_is_encrypted_kept_and_written_by_a_role_of_its_own():
    found = cluster()
    log = found.one("aws:ec2/flowLog:FlowLog")
    assert (log["trafficType"], log["logDestination"]) == ("ALL", "arn:aws:mock:::dev-flow-logs")
    group = found.all("aws:cloudwatch/logGroup:LogGroup")["dev-flow-logs"]
    assert (group["retentionInDays"], group["kmsKeyId"]) == (365, "arn:aws:mock:::dev-key")
    (trust,) = json.loads(found.all(ROLE)["dev-flow-log"]["assumeRolePolicy"])["Statement"]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    assert cluster(flow_logs=False).all("aws:ec2/flowLog:FlowLog") == {}


def test_the_flow_log_writes_to_its_own_group_and_lists_all():
    policy = json.loads(cluster().all("aws:iam/rolePolicy:RolePolicy")["dev-flow-log-policy"]["policy"])
    allowed = {action: rule["Resource"] for rule in policy["Statement"] for action in rule["Action"]}
    assert allowed["logs:DescribeLogGroups"] == ["*"]  # IAM compares it with all groups, whatever is asked for
    assert allowed["logs:PutLogEvents"] == ["arn:aws:mock:::dev-flow-logs", "arn:aws:mock:::dev-flow-logs:*"]


# -- The network -----------------------------------------------------------------------------------------------------
def test_private_and_public_subnets_are_in_the_first_three_zones_and_overlap_nowhere():
    found = cluster().all(SUBNET)
    assert {name: each["availabilityZone"] for name, each in found.items()} == {
        f"dev-network-{kind}-{index}": f"eu-central-1{zone}"
        for kind in ("private", "public")
        for index, zone in enumerate("abc")
    }
    ranges = [ipaddress.ip_network(each["cidrBlock"]) for each in found.values()]
    assert all(each.subnet_of(ipaddress.ip_network("10.0.0.0/16")) for each in ranges)
    assert not any(a.overlaps(b) for a in ranges for b in ranges if a is not b)


def test_load_balancers_find_their_subnets_by_tags():
    tags = {name: {*each["tags"]} - {"Name"} for name, each in cluster().all(SUBNET).items()}
    assert tags == {
        f"dev-network-{kind}-{index}": {f"kubernetes.io/role/{role}"}
        for kind, role in (("private", "internal-elb"), ("public", "elb"))
        for index in range(3)
    }


def test_nodes_are_in_private_subnets_and_no_subnet_gives_public_addresses():
    found = cluster()
    assert found.one(EKS)["vpcConfig"]["subnetIds"] == [f"dev-network-private-{index}-id" for index in range(3)]
    assert {each["mapPublicIpOnLaunch"] for each in found.all(SUBNET).values()} == {False}


def test_one_nat_gateway_serves_all_zones_or_each_its_own():
    def ways_out(**args):
        routes = cluster(**args).all(ROUTE)
        return [each["natGatewayId"] for name, each in sorted(routes.items()) if "private" in name]

    assert ways_out() == ["dev-network-nat-0-id"] * 3
    assert ways_out(nat_per_zone=True) == [f"dev-network-nat-{index}-id" for index in range(3)]


def test_a_nat_gateway_fewer_is_no_deletion_that_protection_refuses():
    found = cluster(nat_per_zone=True).requests()
    assert not any(each.get("protect") for urn, each in found.items() if NAT in urn or "aws:ec2/eip:Eip" in urn)


def test_s3_and_dynamodb_are_reached_without_nat():
    found = cluster().all("aws:ec2/vpcEndpoint:VpcEndpoint")
    assert {each["serviceName"] for each in found.values()} == {
        "com.amazonaws.eu-central-1.s3",
        "com.amazonaws.eu-central-1.dynamodb",
    }
    assert {each["vpcEndpointType"] for each in found.values()} == {"Gateway"}
    assert all(len(each["routeTableIds"]) == 3 for each in found.values())


def test_a_zone_that_aws_adds_moves_no_subnet_and_stated_zones_are_heeded():
    def ignored(**args):
        found = cluster(**args).requests()
        return {tuple(each.get("ignoreChanges", ())) for urn, each in found.items() if SUBNET in urn}

    assert ignored() == {("availabilityZone",)}
    assert ignored(availability_zones=["eu-central-1a", "eu-central-1c"]) == {()}


class TwoZones(Declared):
    def call(self, args):
        zones = "aws:index/getAvailabilityZones:getAvailabilityZones"
        return {"names": ["us-west-1a", "us-west-1c"]} if args.token == zones else super().call(args)


def test_a_region_of_two_zones_is_named_with_the_mend():
    with pytest.raises(ValueError, match=r"us-west-1a, us-west-1c, .* state two in availability_zones"):
        cluster(mocks=TwoZones)
    stated = cluster(mocks=TwoZones, availability_zones=["us-west-1a", "us-west-1c"])
    assert len(stated.all(SUBNET)) == 4


# -- EKS Auto Mode ---------------------------------------------------------------------------------------------------
def test_nodes_load_balancers_and_volumes_are_the_work_of_eks():
    found = cluster().one(EKS)
    assert found["computeConfig"] == {
        "enabled": True,
        "nodePools": ["general-purpose", "system"],
        "nodeRoleArn": "arn:aws:mock:::dev-node-role",
    }
    assert found["storageConfig"] == {"blockStorage": {"enabled": True}}
    assert found["kubernetesNetworkConfig"] == {"elasticLoadBalancing": {"enabled": True}}
    assert found["bootstrapSelfManagedAddons"] is False


def test_the_roles_have_the_policies_that_the_user_guide_names():
    found = cluster().all(ATTACHMENT)
    assert {name: each["policyArn"].removeprefix("arn:aws:iam::aws:policy/") for name, each in found.items()} == {
        f"dev-{role}-{policy}": policy
        for role, policies in {
            "node-role": ["AmazonEC2ContainerRegistryPullOnly", "AmazonEKSWorkerNodeMinimalPolicy"],
            "role": [
                *("AmazonEKSBlockStoragePolicy", "AmazonEKSClusterPolicy", "AmazonEKSComputePolicy"),
                *("AmazonEKSLoadBalancingPolicy", "AmazonEKSNetworkingPolicy"),
            ],
        }.items()
        for policy in policies
    }


def test_eks_sessions_carry_the_tags_that_its_policies_ask_for():
    (trust,) = json.loads(cluster().all(ROLE)["dev-role"]["assumeRolePolicy"])["Statement"]
    assert set(trust["Action"]) == {"sts:AssumeRole", "sts:TagSession"}


def test_load_balancers_may_carry_tags_of_the_stack_in_this_cluster_alone():
    policy = json.loads(cluster().all("aws:iam/rolePolicy:RolePolicy")["dev-role-policy"]["policy"])
    (balancing,) = [each for each in policy["Statement"] if "elasticloadbalancing:CreateLoadBalancer" in each["Action"]]
    assert balancing["Condition"] == {
        "StringEquals": {"aws:RequestTag/eks:eks-cluster-name": "${aws:PrincipalTag/eks:eks-cluster-name}"}
    }


def test_pods_have_metrics_and_assume_roles():
    found = cluster()
    assert found.one("aws:eks/addon:Addon")["addonName"] == "metrics-server"
    provider = found.one("aws:iam/openIdConnectProvider:OpenIdConnectProvider")
    assert provider["clientIdLists"] == ["sts.amazonaws.com"]
    assert provider["url"] == "https://oidc.eks.eu-central-1.amazonaws.com/id/0123"


def test_the_service_model_of_eks_takes_what_is_declared():
    declared = cluster(public_access_cidrs=["203.0.113.0/24"]).one(EKS)
    asked = {key: value for key, value in declared.items() if key not in {"vpcConfig", "enabledClusterLogTypes"}} | {
        "resourcesVpcConfig": declared["vpcConfig"],
        "encryptionConfig": [declared["encryptionConfig"]],
        "logging": {"clusterLogging": [{"types": declared["enabledClusterLogTypes"], "enabled": True}]},
    }
    operation = botocore.session.get_session().get_service_model("eks").operation_model("CreateCluster")
    assert ParamValidator().validate(asked, operation.input_shape).generate_report() == ""
    kinds = operation.input_shape.members["logging"].members["clusterLogging"].member.members["types"].member
    assert set(kinds.enum) == set(declared["enabledClusterLogTypes"])
    access = operation.input_shape.members["accessConfig"].members["authenticationMode"]
    assert declared["accessConfig"]["authenticationMode"] in access.enum


# -- What comes after what -------------------------------------------------------------------------------------------
def dependencies(urn_part, **args):
    requests = cluster(**args).requests()
    (found,) = [each for urn, each in requests.items() if urn_part in urn]
    return {urn.rpartition("::")[2] for urn in found["dependencies"]}


def test_what_eks_needs_to_delete_nodes_and_interfaces_goes_after_the_cluster():
    needed = dependencies(f"{EKS}::dev")
    assert {f"dev-network-private-{index}-routes-out" for index in range(3)} < needed
    assert {"dev-role-policy", "dev-role-AmazonEKSNetworkingPolicy", "dev-logs", "dev-network-private-0"} < needed


def test_the_provider_comes_after_those_who_may_sign_in_and_goes_before():
    needed = dependencies("pulumi:providers:kubernetes::dev-kubernetes")
    assert {"dev", "dev-metrics-server", "dev-administrator-user/somebody"} <= needed


def test_another_way_to_sign_in_replaces_nothing_in_the_cluster():
    assert cluster().one("pulumi:providers:kubernetes")["clusterIdentifier"] == "arn:aws:mock:::dev"


def test_the_cluster_its_key_and_its_vpc_are_protected_here_and_by_eks_until_told_otherwise():
    def guarded(**args):
        found = cluster(**args).requests()
        return {urn.rpartition("::")[2] for urn, each in found.items() if each.get("protect")}

    assert {"dev", "dev-key", "dev-oidc", "dev-network", "dev-network-private-0"} < guarded()
    assert cluster().one(EKS)["deletionProtection"] is True
    assert guarded(protect=False) == set()
    assert cluster(protect=False).one(EKS)["deletionProtection"] is False


# -- Outputs ---------------------------------------------------------------------------------------------------------
def test_the_kubeconfig_holds_no_secret_and_signs_in_by_the_aws_cli():
    found = json.loads(outputs()["kubeconfig"])
    assert found["clusters"] == [
        {
            "name": "dev",
            "cluster": {"server": "https://0123.eks.amazonaws.com", "certificate-authority-data": "Q0E="},
        }
    ]
    (user,) = found["users"]
    assert set(user["user"]) == {"exec"}
    assert [user["user"]["exec"]["command"], *user["user"]["exec"]["args"]] == [
        "aws",
        "--region",
        "eu-central-1",
        "eks",
        "get-token",
        "--cluster-name",
        "dev",
        "--output",
        "json",
    ]


def test_the_kubeconfig_signs_in_by_the_profile_and_the_role_of_the_stack():
    role = f"arn:aws:iam::{ACCOUNT}:role/deploy"
    (user,) = json.loads(outputs(profile="dev", role_arn=role)["kubeconfig"])["users"]
    assert user["user"]["exec"]["args"][-2:] == ["--role-arn", role]
    assert user["user"]["exec"]["env"] == [{"name": "AWS_PROFILE", "value": "dev"}]


def test_outputs_are_what_other_components_take():
    found = outputs()
    assert found["oidc_issuer"] == "oidc.eks.eu-central-1.amazonaws.com/id/0123"
    assert (found["cluster_name"], found["account_id"], found["vpc_id"]) == ("dev", ACCOUNT, "dev-network-id")
    assert found["private_subnet_ids"] == [f"dev-network-private-{index}-id" for index in range(3)]
    assert found["public_subnet_ids"] == [f"dev-network-public-{index}-id" for index in range(3)]


# -- Mistakes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"administrators": []}, "administrators must name an IAM role or user"),
        ({"administrators": ["deploy"]}, "must be ARNs of IAM roles and users"),
        ({"administrators": [ME, ME]}, "user/somebody twice"),
        ({"viewers": ["preview"]}, "viewers must be ARNs of IAM roles and users"),
        ({"viewers": [ME]}, "user/somebody, which is one of the administrators"),
        ({"public_access_cidrs": ["0.0.0.0/0"]}, "prefixes of 8 bits or more, got 0.0.0.0/0"),
        ({"public_access_cidrs": ["0.0.0.0/1", "128.0.0.0/1"]}, "prefixes of 8 bits or more"),
        ({"public_access_cidrs": ["203.0.113.7/24"]}, "has host bits set"),
        ({"vpc_cidr": "10.0.0.0/8"}, "prefix of 16 to 22 bits, got 10.0.0.0/8"),
        ({"vpc_cidr": "10.0.0.0/23"}, "prefix of 16 to 22 bits"),
        ({"vpc_cidr": "fd00::/8"}, "vpc_cidr must be a range such as 10.0.0.0/16"),
        ({"availability_zones": ["eu-central-1a"]}, "2 or 3 different ones"),
        ({"availability_zones": ["eu-central-1a", "eu-central-1a"]}, "2 or 3 different ones"),
        ({"version": "35"}, "such as 1.35, got '35'"),
        ({"log_retention_days": 100}, "log_retention_days must be one of 1, 3, 5"),
    ],
)
def test_bad_input_is_refused_before_anything_is_declared(args, message):
    with pytest.raises(ValueError, match=message):
        cluster(**args)


@pytest.mark.parametrize(
    ("caller", "administrator"),
    [
        (ME, ME),
        (f"arn:aws:sts::{ACCOUNT}:assumed-role/deploy/me", f"arn:aws:iam::{ACCOUNT}:role/deploy"),
        (
            f"arn:aws:sts::{ACCOUNT}:assumed-role/AWSReservedSSO_Admin_0123/me@example.com",
            f"arn:aws:iam::{ACCOUNT}:role/aws-reserved/sso.amazonaws.com/eu-central-1/AWSReservedSSO_Admin_0123",
        ),
    ],
)
def test_an_administrator_makes_a_cluster(caller, administrator):
    assert cluster(caller=caller, administrators=[administrator]).one(EKS)


@pytest.mark.parametrize(
    "caller",
    [
        f"arn:aws:sts::{ACCOUNT}:assumed-role/other/deploy",
        "arn:aws:sts::999999999999:assumed-role/deploy/me",
        f"arn:aws:iam::{ACCOUNT}:root",
    ],
)
def test_a_caller_who_could_not_use_the_cluster_makes_none(caller):
    with pytest.raises(ValueError, match="administrators must have whoever deploys"):
        cluster(
            caller=caller, administrators=[f"arn:aws:iam::{ACCOUNT}:role/deploy", f"arn:aws:iam::{ACCOUNT}:user/root"]
        )


def test_a_preview_is_for_those_who_may_only_read_too():
    reader = f"arn:aws:sts::{ACCOUNT}:assumed-role/preview/job"
    assert cluster(caller=reader, preview=True).one(EKS)


@pytest.mark.parametrize("name", ["my cluster", "-dev", "c" * 47])
def test_a_name_that_eks_or_iam_refuses_is_refused_before(name):
    with pytest.raises(ValueError, match="a cluster is called as its component"):
        declare(lambda: Cluster(name, {"account_id": ACCOUNT, "administrators": [ME]}))


def test_what_the_program_protects_itself_stays_protected():
    def program():
        options = pulumi.ResourceOptions(protect=True)
        Cluster("dev", {"account_id": ACCOUNT, "administrators": [ME], "protect": False}, options)

    found = declare(program).requests()
    assert all(each["protect"] for urn, each in found.items() if "aws:" in urn)
