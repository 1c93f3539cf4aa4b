"""Where AWS answers for a stack: at AWS, or at an address that the stack or its engine's variables name."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


def aws_endpoint(service: str, *, named: Any, variables: Mapping[str, str]) -> str | None:
    """The address that Pulumi's provider uses for a service; None for AWS's own.

    Args:
        service: Such as `s3`.
        named: The stack's `aws:endpoints`: mappings of services to addresses.
        variables: The environment of the engine.
    """
    for addresses in named if isinstance(named, list) else [named]:
        if isinstance(addresses, Mapping) and addresses.get(service):  # the provider refuses what is none
            return str(addresses[service])
    if variables.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    own = f"AWS_ENDPOINT_URL_{service.replace('-', '_').upper()}"
    return variables.get(own) or variables.get("AWS_ENDPOINT_URL") or None


def is_emulated(*, named: Any, variables: Mapping[str, str]) -> bool:
    """Whether the AWS that answers who the caller is, is an emulator: a server of this machine.

    Args:
        named: The stack's `aws:endpoints`.
        variables: The environment of the engine.
    """
    url = aws_endpoint("sts", named=named, variables=variables)
    host = (urlsplit(url).hostname or "") if url else ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
