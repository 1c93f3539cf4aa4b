"""A Kubernetes cluster for those who have none: EKS Auto Mode in its own network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import _cluster_rules as rules
from modelworks._resources.arguments import checked
from modelworks._resources.cluster_network import ClusterNetwork
from modelworks._resources.cluster_permissions import (
    cluster_permissions,
    flow_log_permissions,
    flow_log_trust,
    key_policy,
    trust,
)
from modelworks._resources.iam import least_privilege_role, policy_document

if TYPE_CHECKING:
    from pulumi_kubernetes import Provider

_CLUSTER_POLICIES: Final = (
    "AmazonEKSBlockStoragePolicy",
    "AmazonEKSClusterPolicy",
    "AmazonEKSComputePolicy",
    "AmazonEKSLoadBalancingPolicy",
    "AmazonEKSNetworkingPolicy",
)
_NODE_POLICIES: Final = ("AmazonEC2ContainerRegistryPullOnly", "AmazonEKSWorkerNodeMinimalPolicy")
"""Of AWS, as "Identity and access" of EKS Auto Mode in the EKS user guide names them."""
_ADMINISTRATOR: Final = "AmazonEKSClusterAdminPolicy"
_VIEWER: Final = "AmazonEKSAdminViewPolicy"
"""Reads every object, Secrets too: https://docs.aws.amazon.com/eks/latest/userguide/access-policy-permissions.html"""
_LOGS: Final = ["api", "audit", "authenticator", "controllerManager", "scheduler"]


class ClusterArgs(TypedDict):
    """Arguments of a `Cluster`."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    administrators: list[str]
    """ARNs of the IAM roles and users that may do everything in the cluster. The caller of an update is one of them."""

    viewers: NotRequired[list[str]]
    """ARNs of the IAM roles and users that may read everything in the cluster, Secrets included, such as the role of
    previews in CI. Default: none."""

    public_access_cidrs: NotRequired[list[str]]
    """Ranges of IPv4 that reach the API server from the internet. Without any, only the VPC does, and so must the
    caller of an update. Default: none."""

    profile: NotRequired[str | None]
    """Profile of the AWS CLI by which the kubeconfig signs in. Default: none, and the credentials of the shell."""

    role_arn: NotRequired[pulumi.Input[str] | None]
    """Role that the kubeconfig assumes to sign in. Default: none."""

    version: NotRequired[str]
    """Version of Kubernetes. EKS goes up by one minor version at a time, and never down. Default 1.35."""

    vpc_cidr: NotRequired[str]
    """Range of the VPC, with a prefix of 16 to 22 bits. It must not overlap with networks that are to be connected.
    Default 10.0.0.0/16."""

    availability_zones: NotRequired[list[str]]
    """Names of two or three zones. Another one replaces its subnets. Default: none, and the region's first three."""

    nat_per_zone: NotRequired[bool]
    """Whether each zone has a NAT gateway of its own, which survives the loss of another zone. Default false: one for
    all, at a third of the cost."""

    flow_logs: NotRequired[bool]
    """Record who connects to whom in the VPC. Default true."""

    log_retention_days: NotRequired[int]
    """How long logs of the control plane and of the network are kept, in days that CloudWatch Logs has. Default 365."""

    protect: NotRequired[bool]
    """Refuse to delete the cluster, its key and its VPC, here and by EKS itself, until this is false. Default true."""


@dataclass(frozen=True)
class ClusterRole:
    """A role, and what it may do: whatever uses the role comes after these."""

    role: aws.iam.Role
    policies: list[pulumi.Resource]


@dataclass(frozen=True)
class Principal:
    """A role or user that may sign in to the cluster."""

    entry: aws.eks.AccessEntry
    access: aws.eks.AccessPolicyAssociation


class Cluster(pulumi.ComponentResource):
    """A cluster of EKS Auto Mode: nodes, load balancers, volumes and the agent of Pod Identity are EKS's own work.

    It has a VPC over three zones with private and public subnets, an OIDC provider by which pods assume roles, the
    add-on `metrics-server`, and keeps Secrets encrypted by a key of its own. The cluster is called as the component.

    The caller of an update must be among `administrators`; a preview takes whoever may read, such as one of `viewers`.
    Pass `provider` to what is to be in the cluster.

    Raises:
        ValueError: An argument is unknown, missing, of the wrong type or out of its range, or the caller of an update
            is no administrator.
    """

    cluster_name: pulumi.Output[str]
    """Name of the cluster, when it can be signed in to."""

    kubeconfig: pulumi.Output[str]
    """A kubeconfig without secrets: it signs in with `aws eks get-token`."""

    account_id: pulumi.Output[str]
    """The AWS account, as components take it."""

    oidc_issuer: pulumi.Output[str]
    """The cluster's OIDC issuer without `https://`, when the account trusts it."""

    vpc_id: pulumi.Output[str]
    """Id of the VPC."""

    private_subnet_ids: pulumi.Output[list[str]]
    """Ids of the private subnets, one in each zone."""

    public_subnet_ids: pulumi.Output[list[str]]
    """Ids of the public subnets, one in each zone."""

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, ClusterArgs, args)
        _refuse_out_of_range(name, args)
        super().__init__("modelworks:index:Cluster", name, {}, opts)
        if not pulumi.runtime.is_dry_run():
            caller = aws.get_caller_identity(opts=pulumi.InvokeOptions(parent=self))
            rules.one_of(args["administrators"], caller.arn)
        here = pulumi.InvokeOutputOptions(parent=self)
        self._region = aws.get_region_output(opts=here).region
        self._partition = aws.get_partition_output(opts=here).partition
        self._protect_all = args["protect"] or None  # None: whatever the program states for the component itself
        self._account = pulumi.Output.from_input(args["account_id"])
        self.key = self._key(name)
        self.network = self._network(name, args)
        self.vpc, self.nat = self.network.vpc, self.network.nat
        self.flow_log = self._flow_log(name, args["log_retention_days"]) if args["flow_logs"] else []
        self.log_group = self._log_group(f"{name}-logs", f"/aws/eks/{name}/cluster", args["log_retention_days"])
        self.role = self._role(name)
        self.node_role = self._node_role(name)
        self.cluster = self._cluster(name, args)
        self.administrators = self._admitted(f"{name}-administrator", args["administrators"], _ADMINISTRATOR)
        self.viewers = self._admitted(f"{name}-viewer", args["viewers"], _VIEWER)
        self.oidc_provider = self._oidc_provider(name)
        self.metrics_server = self._metrics_server(name)
        # An access entry takes effect some time after it is there; by the time the add-on runs, it has.
        self.cluster_name = _after(
            self.cluster.name, [*(each.access for each in self.administrators), self.metrics_server]
        )
        self.kubeconfig = self._kubeconfig(args)
        self.provider = self._kubernetes(name)
        self.account_id = self._account
        url = self.cluster.identities.apply(_issuer_url)
        self.oidc_issuer = _after(url.apply(lambda found: found.removeprefix("https://")), [self.oidc_provider])
        self.vpc_id = self.vpc.id
        self.private_subnet_ids = pulumi.Output.all(*(each.id for each in self.network.private))
        self.public_subnet_ids = pulumi.Output.all(*(each.id for each in self.network.public))
        self.register_outputs(
            {
                "cluster_name": self.cluster_name,
                "kubeconfig": self.kubeconfig,
                "account_id": self.account_id,
                "oidc_issuer": self.oidc_issuer,
                "vpc_id": self.vpc_id,
                "private_subnet_ids": self.private_subnet_ids,
                "public_subnet_ids": self.public_subnet_ids,
            }
        )

    def _key(self, name: str) -> aws.kms.Key:
        place = pulumi.Output.all(self._account, self._partition, self._region)
        key = aws.kms.Key(
            f"{name}-key",
            description=f"Encrypts Secrets and logs of the cluster {name}",
            enable_key_rotation=True,
            policy=place.apply(lambda found: key_policy(*found)),
            opts=self._inside(protect=self._protect_all),
        )
        aws.kms.Alias(f"{name}-key-alias", target_key_id=key.key_id, opts=pulumi.ResourceOptions(parent=key))
        return key

    def _network(self, name: str, args: ClusterArgs) -> ClusterNetwork:
        return ClusterNetwork(
            f"{name}-network",
            parent=self,
            cidr=args["vpc_cidr"],
            zones=args["availability_zones"],
            nat_per_zone=args["nat_per_zone"],
            protect=self._protect_all,
        )

    def _flow_log(self, name: str, days: int) -> list[pulumi.Resource]:
        group = self._log_group(f"{name}-flow-logs", None, days)
        role, allowed = least_privilege_role(
            f"{name}-flow-log",
            parent=self,
            trust=self._account.apply(flow_log_trust),
            policy=group.arn.apply(flow_log_permissions),
            description="Writes the flow log",
        )
        log = aws.ec2.FlowLog(
            f"{name}-flow-log",
            vpc_id=self.vpc.id,
            traffic_type="ALL",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            opts=self._inside(depends_on=[allowed]),
        )
        return [group, role, log]

    def _log_group(self, name: str, called: str | None, days: int) -> aws.cloudwatch.LogGroup:
        # That of the control plane is declared before EKS makes one itself, which would keep everything for ever.
        return aws.cloudwatch.LogGroup(
            name, name=called, retention_in_days=days, kms_key_id=self.key.arn, opts=self._inside()
        )

    def _role(self, name: str) -> ClusterRole:
        role, allowed = least_privilege_role(
            f"{name}-role",
            parent=self,
            trust=policy_document([trust("eks.amazonaws.com", "sts:AssumeRole", "sts:TagSession")]),
            policy=pulumi.Output.all(self.key.arn, self._partition).apply(
                lambda found: policy_document(cluster_permissions(*found))
            ),
            description="Nodes, load balancers, volumes and networks of EKS Auto Mode",
        )
        return ClusterRole(role, [allowed, *_attached(role, self._partition, _CLUSTER_POLICIES)])

    def _node_role(self, name: str) -> ClusterRole:
        role = aws.iam.Role(
            f"{name}-node-role",
            assume_role_policy=policy_document([trust("ec2.amazonaws.com", "sts:AssumeRole")]),
            description="Nodes of EKS Auto Mode",
            opts=self._inside(),
        )
        return ClusterRole(role, _attached(role, self._partition, _NODE_POLICIES))

    def _cluster(self, name: str, args: ClusterArgs) -> aws.eks.Cluster:
        return aws.eks.Cluster(
            name,
            name=name,  # of the log group, which is there before
            version=args["version"],
            role_arn=self.role.role.arn,
            access_config=aws.eks.ClusterAccessConfigArgs(
                authentication_mode="API", bootstrap_cluster_creator_admin_permissions=False
            ),
            bootstrap_self_managed_addons=False,
            compute_config=aws.eks.ClusterComputeConfigArgs(
                enabled=True, node_pools=["general-purpose", "system"], node_role_arn=self.node_role.role.arn
            ),
            kubernetes_network_config=aws.eks.ClusterKubernetesNetworkConfigArgs(
                elastic_load_balancing=aws.eks.ClusterKubernetesNetworkConfigElasticLoadBalancingArgs(enabled=True)
            ),
            storage_config=aws.eks.ClusterStorageConfigArgs(
                block_storage=aws.eks.ClusterStorageConfigBlockStorageArgs(enabled=True)
            ),
            vpc_config=aws.eks.ClusterVpcConfigArgs(
                subnet_ids=[each.id for each in self.network.private],
                endpoint_private_access=True,
                endpoint_public_access=bool(args["public_access_cidrs"]),
                public_access_cidrs=args["public_access_cidrs"] or None,
            ),
            encryption_config=aws.eks.ClusterEncryptionConfigArgs(
                provider=aws.eks.ClusterEncryptionConfigProviderArgs(key_arn=self.key.arn), resources=["secrets"]
            ),
            enabled_cluster_log_types=_LOGS,
            deletion_protection=args["protect"],
            opts=self._inside(
                protect=self._protect_all,
                # EKS deletes nodes and network interfaces with these roles, by these routes: they go last.
                depends_on=[
                    *self.role.policies,
                    *self.node_role.policies,
                    *self.network.ways_out,
                    self.log_group,
                ],
            ),
        )

    def _admitted(self, name: str, principals: Sequence[str], policy: str) -> list[Principal]:
        policy_arn = pulumi.Output.concat("arn:", self._partition, ":eks::aws:cluster-access-policy/", policy)

        def admitted(principal: str) -> Principal:
            who = f"{name}-{principal.partition('::')[2].partition(':')[2]}"
            entry = aws.eks.AccessEntry(
                who, cluster_name=self.cluster.name, principal_arn=principal, opts=self._inside()
            )
            access = aws.eks.AccessPolicyAssociation(
                who,
                cluster_name=self.cluster.name,
                principal_arn=entry.principal_arn,
                policy_arn=policy_arn,
                access_scope=aws.eks.AccessPolicyAssociationAccessScopeArgs(type="cluster"),
                opts=pulumi.ResourceOptions(parent=entry),
            )
            return Principal(entry, access)

        return [admitted(each) for each in principals]

    def _oidc_provider(self, name: str) -> aws.iam.OpenIdConnectProvider:
        return aws.iam.OpenIdConnectProvider(
            f"{name}-oidc",
            url=self.cluster.identities.apply(_issuer_url),
            client_id_lists=["sts.amazonaws.com"],
            opts=self._inside(protect=self._protect_all),  # without it every pod loses its role
        )

    def _metrics_server(self, name: str) -> aws.eks.Addon:
        return aws.eks.Addon(
            f"{name}-metrics-server",
            cluster_name=self.cluster.name,
            addon_name="metrics-server",
            opts=self._inside(),
        )

    def _kubeconfig(self, args: ClusterArgs) -> pulumi.Output[str]:
        facts = pulumi.Output.all(
            name=self.cluster_name,
            server=self.cluster.endpoint,
            authority=self.cluster.certificate_authority.data,
            region=self._region,
            role=args["role_arn"],
        )
        return facts.apply(lambda found: _kubeconfig_of(profile=args["profile"], **found))

    def _kubernetes(self, name: str) -> "Provider":
        from pulumi_kubernetes import Provider  # few programs ask for it

        return Provider(
            f"{name}-kubernetes",
            kubeconfig=self.kubeconfig,
            # Another way to sign in is an update then, and never the replacement of everything that is in the cluster.
            cluster_identifier=self.cluster.arn,
            opts=self._inside(),
        )

    def _inside(self, **options: Any) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, **options)


def _refuse_out_of_range(name: str, args: ClusterArgs) -> None:
    rules.name(name)
    rules.version(args["version"])
    rules.administrators(args["administrators"])
    rules.viewers(args["viewers"])
    rules.apart(args["administrators"], args["viewers"])
    for each in args["public_access_cidrs"]:
        rules.api_server_range(each)
    rules.zones(args["availability_zones"])
    rules.vpc_range(args["vpc_cidr"])
    rules.retention_days(args["log_retention_days"])


def _after(value: pulumi.Output[str], resources: Sequence[pulumi.Resource]) -> pulumi.Output[str]:
    """`value`, when these are there: what uses it comes after them, and is deleted before."""
    return pulumi.Output.all(value, *(each.id for each in resources)).apply(lambda found: found[0])  # type: ignore[attr-defined]


def _issuer_url(identities: Sequence[Any]) -> str:
    return str(identities[0]["oidcs"][0]["issuer"])


def _kubeconfig_of(name: str, server: str, authority: str, region: str, role: str | None, profile: str | None) -> str:
    """As `aws eks update-kubeconfig` writes it."""
    args = ["--region", region, "eks", "get-token", "--cluster-name", name, "--output", "json"]
    sign_in: dict[str, Any] = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "aws",
        "args": [*args, *(["--role-arn", role] if role else [])],
        "interactiveMode": "Never",
    }
    if profile:
        sign_in["env"] = [{"name": "AWS_PROFILE", "value": profile}]
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"exec": sign_in}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(found, sort_keys=True)


def _attached(role: aws.iam.Role, partition: pulumi.Output[str], policies: Sequence[str]) -> list[pulumi.Resource]:
    return [
        aws.iam.RolePolicyAttachment(
            f"{role.pulumi_resource_name}-{each}",
            role=role.name,
            policy_arn=pulumi.Output.concat("arn:", partition, ":iam::aws:policy/", each),
            opts=pulumi.ResourceOptions(parent=role),
        )
        for each in policies
    ]
