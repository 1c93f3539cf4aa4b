"""Private and pure: the rules for a cluster that we make, in settings and in arguments alike.

Each function raises ValueError with the rule and the value. AWS would refuse the same, later and in the middle of an
update.
"""

import ipaddress
import re
from collections.abc import Sequence

ZONES = (2, 3)
"""Fewest and most availability zones of a network. EKS needs two, and of three the loss of one leaves two."""
_PREFIX = (16, 22)
"""Of the VPC, in bits: AWS's largest, and the smallest whose public subnets have room for load balancers."""
_WIDEST_PREFIX = 8
"""Of a range that reaches the API server, in bits: a whole private network of class A."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,45}")
"""IAM takes 64 characters for a role: `-node-role`, and eight that the engine makes up, come behind the name."""
_VERSION = re.compile(r"1\.\d\d")
_PRINCIPAL = re.compile(r"arn:[\w-]+:iam::\d{12}:(role|user)/.+")
_SESSION = re.compile(r"arn:[\w-]+:sts::(?P<account>\d{12}):assumed-role/(?P<role>[^/]+)/.+")
_RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545),
    *(731, 1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
"""Those that CloudWatch Logs has (PutRetentionPolicy)."""


def name(text: str) -> str:
    """The name of a cluster."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"a cluster is called as its component: 1 to 46 letters, digits, '-' and '_', got {text!r}")
    return text


def version(text: str) -> str:
    """A version of Kubernetes, as EKS names it."""
    if not _VERSION.fullmatch(text):
        raise ValueError(f"version must be one of Kubernetes, such as 1.35, got {text!r}")
    return text


def administrators(principals: list[str]) -> list[str]:
    """The roles and users that may do everything in a cluster: one at least, and each once."""
    if not principals:
        raise ValueError("administrators must name an IAM role or user, or nobody could use the cluster")
    return _principals("administrators", principals)


def viewers(principals: list[str]) -> list[str]:
    """The roles and users that may read everything in a cluster, each once."""
    return _principals("viewers", principals)


def _principals(name: str, principals: list[str]) -> list[str]:
    for each in principals:
        if not _PRINCIPAL.fullmatch(each):
            raise ValueError(
                f"{name} must be ARNs of IAM roles and users, such as arn:aws:iam::111111111111:role/deploy, "
                f"got {each!r}"
            )
        if principals.count(each) > 1:
            raise ValueError(f"{name} names {each} twice")
    return principals


def apart(administrators: Sequence[str], viewers: Sequence[str]) -> None:
    """A cluster has one access entry for each of them."""
    for each in viewers:
        if each in administrators:
            raise ValueError(f"viewers names {each}, which is one of the administrators, and may do more than read")


def one_of(principals: Sequence[str], caller: str) -> None:
    """A caller who may use the cluster that they make.

    Args:
        principals: ARNs of roles and users.
        caller: ARN of the credentials, as STS has it: a session of a role is not named after the role's own path.
    """
    if session := _SESSION.fullmatch(caller):
        found = any(_is_role(each, session["account"], session["role"]) for each in principals)
    else:
        found = caller in principals
    if not found:
        raise ValueError(
            f"administrators must have whoever deploys, or the first update ends at a cluster that refuses it: "
            f"{caller} is none of {', '.join(principals)}"
        )


def _is_role(principal: str, account: str, role: str) -> bool:
    *_, found, resource = principal.split(":", 5)
    return (found, resource.partition("/")[0], resource.rpartition("/")[2]) == (account, "role", role)


def api_server_range(text: str) -> str:
    """A range that reaches the API server from the internet, and not all of it."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"public_access_cidrs must be ranges of IPv4, got {text!r}: {error}") from error
    if network.prefixlen < _WIDEST_PREFIX:
        raise ValueError(
            f"public_access_cidrs must have prefixes of {_WIDEST_PREFIX} bits or more, got {text}: where the whole "
            "internet reaches it, one stolen credential is enough"
        )
    return text


def zones(names: list[str]) -> list[str]:
    """Availability zones of a cluster; none for the region's first."""
    if names and (len(set(names)) != len(names) or not ZONES[0] <= len(names) <= ZONES[1]):
        raise ValueError(f"availability_zones must be {ZONES[0]} or {ZONES[1]} different ones, got {', '.join(names)}")
    return names


def retention_days(days: int) -> int:
    """How long CloudWatch Logs can keep a log, in days."""
    if days not in _RETENTION_DAYS:
        raise ValueError(f"log_retention_days must be one of {', '.join(map(str, _RETENTION_DAYS))}, got {days}")
    return days


def vpc_range(cidr: str) -> str:
    """The range of a VPC."""
    subnets_of(cidr, ZONES[1])
    return cidr


def subnets_of(cidr: str, zones: int) -> tuple[list[str], list[str]]:
    """The ranges of private and of public subnets: a private one has a quarter of the VPC, a public one a sixteenth.

    Pods have addresses of the VPC; load balancers and NAT need few.

    Args:
        cidr: The VPC's range.
        zones: How many of each.

    Raises:
        ValueError: The range is none of IPv4, has bits beyond its prefix, or is of another size.
    """
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise ValueError(f"vpc_cidr must be a range such as 10.0.0.0/16, got {cidr!r}: {error}") from error
    if not _PREFIX[0] <= network.prefixlen <= _PREFIX[1]:
        raise ValueError(f"vpc_cidr must have a prefix of {_PREFIX[0]} to {_PREFIX[1]} bits, got {cidr}")
    *private, rest = network.subnets(prefixlen_diff=2)
    return [str(each) for each in private[:zones]], [str(each) for each in rest.subnets(prefixlen_diff=2)][:zones]
