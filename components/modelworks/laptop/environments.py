"""The environments of a laptop cloud: each has a Pulumi backend, an AWS account and a namespace of its own."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

from modelworks._files import write_whole
from modelworks._user import user_home, user_name
from modelworks.errors import ModelworksError
from modelworks.laptop import control_plane, pod_network, toolchain
from modelworks.laptop.aws_credentials import create_credentials, read_credentials
from modelworks.laptop.state_dir import StateDir, read_facts
from modelworks.project import project_root

if TYPE_CHECKING:
    from collections.abc import Iterable

ACCOUNT = "000000000000"
"""The AWS account of an environment whose stack pins none."""

REGION = "eu-central-1"
"""The region of an environment whose stack names none."""

NO_PROXY = ("NO_PROXY", "no_proxy")
"""Variables that list the hosts without a proxy; programs differ in which of the two they read."""

_SHELL_TOOLS = ("pulumi", "kubectl", toolchain.GENERATOR)

NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")


def create(place: StateDir, environment: str) -> dict[str, Any]:
    """The facts of an environment, made on first use: ports, account, region, namespace, backend, passphrase.

    Only its project follows the folder that commands run in: the folders of its images are there.

    Raises:
        ModelworksError: The name cannot be that of a namespace, or the folder cannot be written.
    """
    if not NAME.fullmatch(environment):
        raise ModelworksError(
            f"{environment!r} is not a name for an environment: it must match {NAME.pattern}",
            fix="Use lower-case letters, digits and dashes, at most 32.",
        )
    folder = place.folder(place.environment(environment))
    path = folder / "environment.json"
    if facts := read_facts(path):
        project = _project() or facts.get("project")
        if facts.get("project") != project:
            facts["project"] = project
            write_whole(path, json.dumps(facts, indent=2) + "\n")
        return facts
    config = stack_config(environment)
    [port] = free_ports(1, _ports_of(place), taken=used_ports(place))
    facts = {
        "aws_port": port,
        "account": next(iter(config.get("aws:allowedAccountIds") or []), ACCOUNT),
        "region": config.get("aws:region") or REGION,
        "namespace": _namespace(config) or f"modelworks-{environment}",
        "project": _project(),
    }
    place.folder(folder / "backend")
    write_whole(folder / "passphrase", secrets.token_urlsafe(32))
    create_credentials(place, environment)
    write_whole(path, json.dumps(facts, indent=2) + "\n")
    return facts


def facts(place: StateDir, environment: str) -> dict[str, Any]:
    """The facts of an environment that exists.

    Raises:
        ModelworksError: It does not.
    """
    if found := read_facts(place.environment(environment) / "environment.json"):
        return found
    have = ", ".join(place.environments()) or "none"
    raise ModelworksError(
        f"there is no environment {environment!r} on this laptop (there is: {have})",
        fix=f"Run `modelworks laptop up {environment}`.",
    )


def _project() -> str | None:
    try:
        return str(project_root())
    except ModelworksError:
        return None


def stack_config(environment: str) -> dict[str, Any]:
    """The plain config of the stack file of that name in the project; empty when there is none."""
    try:
        root = project_root()
        folder = (yaml.safe_load((root / "Pulumi.yaml").read_text("utf-8")) or {}).get("stackConfigDir", ".")
        found = yaml.safe_load((root / folder / f"Pulumi.{environment}.yaml").read_text("utf-8")) or {}
        config = found.get("config") or {}
    except (ModelworksError, OSError, yaml.YAMLError, AttributeError):
        return {}  # no project or no such stack yet; a stack file that is wrong is reported by who reads its settings
    return config if isinstance(config, dict) else {}


def _namespace(config: dict[str, Any]) -> str | None:
    """The namespace that a stack's settings name; their errors are reported by the check of the settings."""
    settings = config.get("modelworks:settings")
    cluster = settings.get("cluster") if isinstance(settings, dict) else None
    namespace = cluster.get("namespace") if isinstance(cluster, dict) else None
    return namespace if isinstance(namespace, str) else None


def environment_variables(place: StateDir, environment: str, tools: Path | None = None) -> dict[str, str]:
    """Variables that make plain `pulumi`, `kubectl`, `aws` and boto3 use that environment, and reach it past any proxy.

    Args:
        place: The laptop cloud.
        environment: An environment of it.
        tools: A folder to put first on PATH; default: those of the tools that `up` found outside it.

    Raises:
        ModelworksError: There is no such environment.
    """
    found = facts(place, environment)
    folder = place.environment(environment)
    credentials = read_credentials(place, environment)
    known = read_facts(place.root / "laptop.json").get("tools", {})
    # A tool that the shell finds by itself needs no help, and its folder must not come before the user's others.
    foreign = [Path(known[name]).parent for name in _SHELL_TOOLS if name in known and known[name] != shutil.which(name)]
    first = [
        str(folder) for folder in dict.fromkeys([*([tools] if tools else []), *foreign, Path(sys.executable).parent])
    ]
    path = [part for part in os.environ.get("PATH", "").split(os.pathsep) if part and part not in first]
    return {
        **past_proxies(),
        "AWS_ACCESS_KEY_ID": credentials.key,
        "AWS_DEFAULT_REGION": found["region"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{found['aws_port']}",
        "AWS_REGION": found["region"],
        "AWS_SECRET_ACCESS_KEY": credentials.secret,
        "KUBECONFIG": str(folder / "kubeconfig"),
        "MODELWORKS_LAPTOP_ENVIRONMENT": environment,
        "PATH": os.pathsep.join([*first, *path]),
        # Without attributes beside each file: an engine killed while it writes them leaves a state that it cannot read.
        "PULUMI_BACKEND_URL": f"{backend(place, environment)}?metadata=skip",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(folder / "passphrase"),
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        # A program with an older SDK of its own finds the plugins too.
        "PULUMI_ENABLE_LEGACY_PLUGIN_SEARCH": "true",
        "PULUMI_HOME": str(place.root / "pulumi"),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # The engine fails where neither a variable nor the system has a name and a home for the user.
        **({} if os.environ.get("USER") else {"USER": user_name()}),
        **({} if user_home() else {"HOME": str(place.root)}),
    }


def backend(place: StateDir, environment: str) -> str:
    """The URL of the folder in which Pulumi keeps the environment's state."""
    # Not quoted, `%` would make it a URL that the engine cannot read, and `#` would end the path.
    return f"file://{quote(str(place.environment(environment) / 'backend'))}"


def past_proxies() -> dict[str, str]:
    """The variables by which a client reaches this machine without a proxy."""
    hosts = [host for name in NO_PROXY for host in os.environ.get(name, "").split(",") if host]
    # `*` means every host only where it stands alone.
    wanted = "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    return dict.fromkeys(NO_PROXY, wanted)


def identities(place: StateDir, environment: str, ports: dict[str, int]) -> None:
    """Write the kubeconfigs of an environment's user and of its rollouts controller."""
    namespace = facts(place, environment)["namespace"]
    user = control_plane.environment_user(environment)
    path = place.environment(environment) / "kubeconfig"
    control_plane.identity(place, ports, path, user, ("modelworks:environments",), namespace=namespace)
    control_plane.identity(
        place,
        ports,
        place.cluster / f"rollouts-{environment}.kubeconfig",
        control_plane.rollouts_user(environment),
        namespace=namespace,
    )


def used_ports(place: StateDir) -> set[int]:
    """Every port that this place has given to somebody."""
    known = read_facts(place.root / "laptop.json")
    ports = {*known.get("ports", {}).values(), *known.get("host_ports", ())}
    for name in place.environments():
        ports.add(facts(place, name)["aws_port"])
    return ports


def _ports_of(place: StateDir) -> range:
    network = read_facts(place.root / "laptop.json").get("pod_network")
    return pod_network.ports(network) if network else pod_network.PORTS


def free_ports(count: int, among: range, *, taken: Iterable[int] = ()) -> list[int]:
    """The first ports `among` these where nobody listens on loopback.

    Raises:
        ModelworksError: There are not as many.
    """
    used = set(taken)
    found = list(islice((port for port in among if port not in used and holder_free(port)), count))
    if len(found) < count:
        raise ModelworksError(f"there are no {count} free ports between {among.start} and {among.stop} on 127.0.0.1")
    return found


def free_range(count: int, among: range, *, taken: Iterable[int] = ()) -> list[int]:
    """The first ports `among` these, one after the other, where nobody listens on loopback.

    Raises:
        ModelworksError: There is no such row of free ports.
    """
    used = set(taken)
    for first in among[: 1 - count or None]:
        row = list(range(first, first + count))
        if used.isdisjoint(row) and all(map(holder_free, row)):
            return row
    raise ModelworksError(
        f"there are no {count} free ports in a row between {among.start} and {among.stop} on 127.0.0.1"
    )


def holder_free(port: int) -> bool:
    """Whether nobody listens on that loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
