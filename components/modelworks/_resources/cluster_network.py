"""Private: the network of a cluster: private subnets for pods, public ones for load balancers and NAT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pulumi
import pulumi_aws as aws

from modelworks._cluster_rules import ZONES, subnets_of

_UNSUITABLE: Final = ("use1-az3", "usw1-az2", "cac1-az3")
"""Zones in which EKS makes no control plane ("VPC and subnet considerations", EKS user guide)."""
_ANYWHERE: Final = "0.0.0.0/0"


class ClusterNetwork:
    """A VPC whose subnets clusters and load balancers find by their tags.

    Args:
        name: Name of its resources.
        parent: The component they belong to.
        cidr: Its range, in IPv4.
        zones: Names of 2 or 3 availability zones; empty for the first three of the region.
        nat_per_zone: Whether each zone has a NAT gateway of its own.
        protect: Refuse to delete it; None for what the parent has.
    """

    vpc: aws.ec2.Vpc
    private: list[aws.ec2.Subnet]
    """One in each zone, for pods and internal load balancers."""
    public: list[aws.ec2.Subnet]
    """One in each zone, for NAT and public load balancers."""
    nat: list[aws.ec2.Eip]
    """Addresses from which private subnets reach the internet, each with its NAT gateway."""
    ways_out: list[pulumi.Resource]
    """Routes of private subnets to the internet and to AWS. Nodes come after these, and go before."""

    def __init__(
        self,
        name: str,
        *,
        parent: pulumi.Resource,
        cidr: str,
        zones: Sequence[str],
        nat_per_zone: bool,
        protect: bool | None,
    ) -> None:
        self._name, self._parent = name, parent
        private, public = subnets_of(cidr, len(zones) or ZONES[1])
        self.vpc = aws.ec2.Vpc(
            name,
            cidr_block=cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={"Name": name},
            opts=pulumi.ResourceOptions(parent=parent, protect=protect),
        )
        self._close_default_group()
        self.private = self._subnets("private", private, zones, "internal-elb")
        self.public = self._subnets("public", public, zones, "elb")
        internet = self._internet()
        self.nat = [self._address(index) for index in range(len(self.public) if nat_per_zone else 1)]
        gateways = [self._nat(index, address, internet) for index, address in enumerate(self.nat)]
        tables = [self._table(f"private-{index}", [each]) for index, each in enumerate(self.private)]
        routes = [self._route(table, nat_gateway_id=gateways[i % len(gateways)].id) for i, table in enumerate(tables)]
        self.ways_out = [*routes, *self._gateway_endpoints(tables)]

    def _close_default_group(self) -> None:
        aws.ec2.DefaultSecurityGroup(f"{self._name}-default", vpc_id=self.vpc.id, opts=self._inside())

    def _subnets(self, kind: str, ranges: Sequence[str], zones: Sequence[str], role: str) -> list[aws.ec2.Subnet]:
        names: Any = zones or self._first_zones()
        return [
            aws.ec2.Subnet(
                f"{self._name}-{kind}-{index}",
                vpc_id=self.vpc.id,
                cidr_block=each,
                availability_zone=names[index],
                map_public_ip_on_launch=False,
                tags=self._called(f"{kind}-{index}") | {f"kubernetes.io/role/{role}": "1"},
                # A zone that AWS adds to the region must not move the subnets that are there.
                opts=self._inside(ignore_changes=[] if zones else ["availabilityZone"]),
            )
            for index, each in enumerate(ranges)
        ]

    def _internet(self) -> aws.ec2.Route:
        gateway = aws.ec2.InternetGateway(
            f"{self._name}-internet", vpc_id=self.vpc.id, tags=self._called("internet"), opts=self._inside()
        )
        return self._route(self._table("public", self.public), gateway_id=gateway.id)

    def _address(self, index: int) -> aws.ec2.Eip:
        # Not inside of the VPC, which may be protected: one NAT or three is a choice that may be changed.
        return aws.ec2.Eip(
            f"{self._name}-nat-{index}",
            domain="vpc",
            tags=self._called(f"nat-{index}"),
            opts=pulumi.ResourceOptions(parent=self._parent),
        )

    def _nat(self, index: int, address: aws.ec2.Eip, internet: aws.ec2.Route) -> aws.ec2.NatGateway:
        return aws.ec2.NatGateway(
            f"{self._name}-nat-{index}",
            allocation_id=address.id,
            subnet_id=self.public[index].id,
            tags=self._called(f"nat-{index}"),
            opts=pulumi.ResourceOptions(parent=address, depends_on=[internet]),
        )

    def _table(self, suffix: str, subnets: Sequence[aws.ec2.Subnet]) -> aws.ec2.RouteTable:
        name = f"{self._name}-{suffix}-routes"
        table = aws.ec2.RouteTable(name, vpc_id=self.vpc.id, tags=self._called(suffix), opts=self._inside())
        for index, each in enumerate(subnets):
            aws.ec2.RouteTableAssociation(
                f"{name}-{index}",
                subnet_id=each.id,
                route_table_id=table.id,
                opts=pulumi.ResourceOptions(parent=table),
            )
        return table

    def _route(self, table: aws.ec2.RouteTable, **target: pulumi.Output[str]) -> aws.ec2.Route:
        # Not in the table itself: that would own all of its routes, and take those of the gateway endpoints away.
        return aws.ec2.Route(
            f"{table.pulumi_resource_name}-out",
            route_table_id=table.id,
            destination_cidr_block=_ANYWHERE,
            opts=pulumi.ResourceOptions(parent=table),
            **target,
        )

    def _gateway_endpoints(self, tables: Sequence[aws.ec2.RouteTable]) -> list[pulumi.Resource]:
        # They cost nothing, and what passes them is not billed by the NAT gateway.
        region = aws.get_region_output(opts=pulumi.InvokeOutputOptions(parent=self._parent)).region
        return [
            aws.ec2.VpcEndpoint(
                f"{self._name}-{service}",
                vpc_id=self.vpc.id,
                vpc_endpoint_type="Gateway",
                service_name=pulumi.Output.concat("com.amazonaws.", region, ".", service),
                route_table_ids=[table.id for table in tables],
                tags=self._called(service),
                opts=self._inside(),
            )
            for service in ("s3", "dynamodb")
        ]

    def _first_zones(self) -> pulumi.Output[list[str]]:
        found = aws.get_availability_zones_output(
            state="available",
            exclude_zone_ids=list(_UNSUITABLE),
            # Local zones and the like are opted into, and are no place for a control plane.
            filters=[{"name": "opt-in-status", "values": ["opt-in-not-required"]}],
            opts=pulumi.InvokeOutputOptions(parent=self._parent),
        )
        return found.names.apply(_three)

    def _inside(self, **options: Any) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self.vpc, **options)

    def _called(self, suffix: str) -> dict[str, str]:
        """The tag that consoles show as the name."""
        return {"Name": f"{self._name}-{suffix}"}


def _three(names: Sequence[str]) -> list[str]:
    if len(names) < ZONES[1]:
        raise ValueError(
            f"the region has the availability zones {', '.join(names)}, and a cluster spans {ZONES[1]}: state two in "
            "availability_zones"
        )
    return sorted(names)[: ZONES[1]]
