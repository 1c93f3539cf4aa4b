"""Private: how pods are reached, and what they may reach: specs of Services, Ingresses and network policies."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NotRequired, TypedDict

import pulumi

from modelworks import _workload_rules as rules
from modelworks._resources.arguments import require_each
from modelworks._resources.kubernetes import Manifest

SERVICE_PORT = 80
"""Port of all Services."""
AT_ONCE = {"pulumi.com/skipAwait": "true"}
"""Annotation of what is ready only when another resource is, which needs it first: waiting for it would never end."""
_TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09"
"""TLS 1.3, or 1.2 with forward secrecy: what AWS recommends. Its default for what is not made in the console is older
and accepts TLS 1.0."""
_POD_IDENTITY_AGENT = ("169.254.170.23/32", "fd00:ec2::23/128")
"""The agent on each node that hands out credentials where a cluster has EKS Pod Identity, over IPv4 and IPv6."""
_SCHEMES = {"internal": "internal", "public": "internet-facing"}


class IngressArgs(TypedDict):
    """The load balancer before a host."""

    visibility: NotRequired[str]
    """`internal`, for the cluster's own network, or `public`, for the internet, which takes a certificate. Default
    internal."""

    certificate_arn: NotRequired[pulumi.Input[str] | None]
    """TLS certificate of the host, in ACM and the load balancer's region. Default: none, and plain HTTP."""

    inbound_cidrs: NotRequired[list[str]]
    """Networks whose clients may connect, such as `10.0.0.0/8`: that of the cluster too, whose uptime check is one.
    Default: none, and every client that reaches it."""

    group: NotRequired[str | None]
    """Hosts of one group share one load balancer. They need the same visibility and the same `inbound_cidrs`, and the
    group is known in the whole cluster. Default: none, and a load balancer of its own."""

    tags: NotRequired[dict[str, str]]
    """Tags of what AWS has of it, which is declared by no program and gets no tags of the stack's. Default: none."""


class EgressArgs(TypedDict):
    """A way out for pods, where the cluster enforces network policies."""

    cidr: str
    """Network that they may connect to, such as `10.0.0.0/8`."""

    ports: list[int]
    """TCP ports there."""


def service(selector: Mapping[str, str]) -> Manifest:
    """A Service before the pods that `selector` finds."""
    return {
        "selector": dict(selector),
        "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}],
    }


def ingress(
    host: pulumi.Input[str], service_name: pulumi.Input[str], *, port: str = "http", below: tuple[str, ...] = ("/",)
) -> Manifest:
    """A load balancer's rule that sends requests for `host` to a Service: all, or those below some paths."""
    backend = {"service": {"name": service_name, "port": {"name": port}}}
    paths = [{"path": path, "pathType": "Prefix", "backend": backend} for path in below]
    return {"ingressClassName": "alb", "rules": [{"host": host, "http": {"paths": paths}}]}


def require_sound_ingress(args: IngressArgs) -> None:
    """Refuse a load balancer that AWS would refuse, or that would send what is public in plain text.

    Raises:
        ValueError: The visibility is unknown, public without a certificate, or a network, the group or a tag is none.
    """
    visibility = args["visibility"]
    if visibility not in _SCHEMES:
        raise ValueError(f"ingress.visibility must be internal or public, got {visibility!r}")
    if visibility == "public" and not args["certificate_arn"]:
        raise ValueError("ingress.visibility public needs ingress.certificate_arn: without it, anybody can read along")
    require_each("ingress.inbound_cidrs", args["inbound_cidrs"], rules.network)
    if args["group"] is not None:
        require_each("ingress.group", [args["group"]], rules.group_name)
    require_each("ingress.tags", args["tags"].items(), rules.tag)


def load_balancer(args: IngressArgs, *, health: str) -> dict[str, pulumi.Input[str]]:
    """Annotations of an Ingress: an application load balancer that sends requests straight to pods."""
    certificate, networks = args["certificate_arn"], args["inbound_cidrs"]
    found: dict[str, pulumi.Input[str] | None] = {
        "target-type": "ip",
        "scheme": _SCHEMES[args["visibility"]],
        "healthcheck-path": health,
        "listen-ports": json.dumps([{"HTTPS": 443}] if certificate else [{"HTTP": 80}], separators=(",", ":")),
        "certificate-arn": certificate,
        "ssl-policy": _TLS_POLICY if certificate else None,
        "inbound-cidrs": ",".join(networks) or None,
        "group.name": args["group"],
        "tags": ",".join(f"{name}={value}" for name, value in sorted(args["tags"].items())) or None,
    }
    return {f"alb.ingress.kubernetes.io/{name}": value for name, value in found.items() if value is not None}


def shared_load_balancer(
    args: IngressArgs, name: str, *, namespace: pulumi.Input[str], order: int = 0
) -> dict[str, pulumi.Input[str]]:
    """Annotations of an Ingress that shares its load balancer with those of its group, else with those of its name.

    The lowest order comes first.
    """
    group = args["group"] or pulumi.Output.from_input(namespace).apply(lambda namespace: _group(namespace, name))
    return {"alb.ingress.kubernetes.io/group.name": group, "alb.ingress.kubernetes.io/group.order": str(order)}


def _group(namespace: str, name: str) -> str:
    """A name in the whole cluster, of the 63 characters that there may be."""
    whole = f"{namespace}.{name}"
    return whole if len(whole) <= 63 else f"{name[:40]}.{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


def grpc_targets() -> dict[str, pulumi.Input[str]]:
    """Annotations of an Ingress whose pods speak gRPC; a load balancer of AWS takes that over TLS alone."""
    return {
        "alb.ingress.kubernetes.io/backend-protocol-version": "GRPC",
        "alb.ingress.kubernetes.io/success-codes": "0",  # of gRPC: OK
    }


def url(args: IngressArgs, host: pulumi.Input[str]) -> pulumi.Output[str]:
    """Where a host behind such a load balancer answers."""
    return pulumi.Output.concat("https" if args["certificate_arn"] else "http", "://", host)


def require_sound_egress(egress: Sequence[EgressArgs]) -> None:
    """Refuse a way out that the cluster would refuse, or that leads nowhere.

    Raises:
        ValueError: A network is none, or no port is named.
    """
    require_each("egress", egress, rules.egress)
    require_each("egress: cidr", (each["cidr"] for each in egress), rules.network)


def network_policy(
    selector: Mapping[str, str],
    *,
    egress: Sequence[EgressArgs] = (),
    out: Sequence[pulumi.Input[int]] = (443,),
    port: str | None = "http",
) -> Manifest:
    """Network access of the pods that `selector` matches: one port in, or none; out to name servers, AWS and ports.

    Args:
        selector: Labels of the pods; none for all of the namespace.
        egress: Further networks that they may connect to, and ports there.
        out: Ports that they may connect to anywhere.
        port: Name of the port that anybody may connect to; None for none.
    """
    names = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return {
        "podSelector": {"matchLabels": dict(selector)} if selector else {},
        "policyTypes": ["Ingress", "Egress"],
        "egress": [
            {"ports": [*names, *_tcp(out)]},
            {"to": [_block(each) for each in _POD_IDENTITY_AGENT], "ports": _tcp([80])},
            *({"to": [_block(each["cidr"])], "ports": _tcp(each["ports"])} for each in egress),
        ],
        **({"ingress": [{"ports": [{"port": port, "protocol": "TCP"}]}]} if port else {}),
    }


def _tcp(ports: Iterable[pulumi.Input[int]]) -> list[Manifest]:
    return [{"port": item, "protocol": "TCP"} for item in ports]


def _block(cidr: str) -> Manifest:
    return {"ipBlock": {"cidr": cidr}}
