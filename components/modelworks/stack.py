"""The stack that a program is evaluated for: its settings, the account it may touch, and the tags all of it carries."""

import hashlib
import inspect
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pulumi
import pulumi_aws as aws
from pulumi.runtime.config import CONFIG, is_config_secret

from modelworks import defaults
from modelworks._endpoints import is_emulated
from modelworks._git import git
from modelworks._spelling import did_you_mean
from modelworks.contract import MODEL_NAME
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH, FeatureManifest, read_manifest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from modelworks.settings import Settings, StackConfig


def stack_config() -> "StackConfig":
    """The checked settings of the current stack.

    Raises:
        ModelworksError: The stack's config breaks a rule; every mistake is named with its path in the file. Or it
            leaves something as a laptop has it, and AWS is not the laptop's.
    """
    from modelworks.stack_config import parse, refuse_laptop  # Pydantic is for programs that have settings of ours

    config = {key: _value(value) for key, value in CONFIG.get().items()}
    secret_keys = [key for key in config if is_config_secret(key)]
    stack = pulumi.get_stack()
    if not MODEL_NAME.fullmatch(stack):
        raise ModelworksError(
            f"the stack is called {stack!r}, and names namespaces and hosts: it must be 1 to 40 lower-case letters, "
            "digits and dashes, beginning with a letter",
            fix="Rename it with `pulumi stack rename`, and its file with it.",
        )
    source = f"stacks/Pulumi.{stack}.yaml"
    parsed = parse(config, source=source, secret_keys=secret_keys)
    if not _emulated():
        refuse_laptop(parsed, source=source)
    return parsed


def arguments(part: "BaseModel | None", *, without: Collection[str] = ()) -> Any:
    """A part of the settings as arguments of its component, which have the same names; None for none.

    Args:
        part: Of the settings.
        without: Settings that are no arguments: the program makes arguments of them.
    """
    return None if part is None else part.model_dump(exclude=set(without))


def _value(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def require_account(allowed: Sequence[str]) -> str:
    """The AWS account that this program is about to change, if it is one that the stack is pinned to.

    It also refuses to let a laptop be mistaken for a cloud: a backend of the laptop cloud goes with the emulator, and
    any other backend with a real account. The stack's name decides neither.

    Args:
        allowed: The stack's `aws:allowedAccountIds`.

    Returns:
        Its id, 12 digits.

    Raises:
        ModelworksError: The account is another one, or backend and account do not belong together.
    """
    caller = aws.get_caller_identity()
    check_place(
        stack=pulumi.get_stack(),
        backend=os.environ.get("PULUMI_BACKEND_URL", ""),
        emulated=_emulated(),
    )
    if caller.account_id not in allowed:
        raise ModelworksError(
            f"stack {pulumi.get_stack()} is pinned to account {' or '.join(allowed)} (aws:allowedAccountIds), "
            f"and the credentials are of account {caller.account_id}",
            fix="Use credentials of the pinned account.",
        )
    return caller.account_id


def _emulated() -> bool:
    """Whether AWS is an emulator, by the addresses that the provider uses: no name in an account decides it."""
    return is_emulated(named=_value(CONFIG.get().get("aws:endpoints")), variables=os.environ)


def check_place(*, stack: str, backend: str, emulated: bool) -> None:
    """Refuse a backend and an AWS that do not belong together.

    Args:
        stack: Name of the stack.
        backend: URL of Pulumi's backend, empty where the user's login decides.
        emulated: Whether the AWS that answers is the emulator.

    Raises:
        ModelworksError: One is the laptop's and the other is not, or the laptop's backend is another environment's.
    """
    parts = backend.partition("?")[0].rstrip("/").split("/")
    environment = (
        parts[-2] if parts[0] == "file:" and parts[-3:-2] == ["environments"] and parts[-1] == "backend" else ""
    )
    if environment and not emulated:
        raise ModelworksError(
            f"the backend is the laptop's ({backend}), and the AWS credentials are real ones",
            fix=f'Run `eval "$(modelworks env {environment})"`, or unset PULUMI_BACKEND_URL to mean the cloud.',
        )
    if emulated and not environment:
        raise ModelworksError(
            "the AWS that answers is the laptop's emulator, and the backend is not the laptop's "
            f"({backend or 'your default one'})",
            fix=f'Run `eval "$(modelworks env {stack})"`, or unset AWS_ENDPOINT_URL to mean the cloud.',
        )
    if environment and environment != stack:
        raise ModelworksError(
            f"this shell points at the laptop's environment {environment!r}, and the stack is {stack!r}",
            fix=f'Run `eval "$(modelworks env {stack})"`.',
        )


def tag_everything(tags: Mapping[str, str]) -> None:
    """Give every AWS resource that takes tags these ones, whoever declares it, from here on.

    A tag that a resource states itself wins. One line at the top of a program:

        tag_everything(required_tags(environment="dev", owner="ml-platform", cost_centre="4711"))
    """
    # A transformation runs in the program; a transform would cost a call through the engine for every resource.
    pulumi.runtime.register_stack_transformation(lambda resource: _with_tags(resource, dict(tags)))


def required_tags(*, environment: str, owner: str, cost_centre: str, project: str | None = None) -> dict[str, str]:
    """The tags that every resource carries.

    Args:
        environment: Name of the environment: the stack's name.
        owner: The team that answers for it.
        cost_centre: Who pays.
        project: Default: the Pulumi project's name.
    """
    return {
        "environment": environment,
        "owner": owner,
        "cost-centre": cost_centre,
        "project": project or pulumi.get_project(),
        "managed-by": "pulumi",
    }


def _with_tags(
    resource: pulumi.ResourceTransformationArgs, tags: Mapping[str, str]
) -> pulumi.ResourceTransformationResult | None:
    if not resource.type_.startswith("aws:") or not takes_tags(type(resource.resource)):
        return None
    own: Any = resource.props.get("tags")
    if own is None or isinstance(own, Mapping):
        merged: Any = {**tags, **(own or {})}
    else:
        merged = pulumi.Output.from_input(own).apply(lambda found: {**tags, **(found or {})})
    return pulumi.ResourceTransformationResult(props={**resource.props, "tags": merged}, opts=resource.opts)


def takes_tags(resource: type) -> bool:
    """Whether an AWS resource class has `tags` that are a mapping, as the SDK declares its arguments.

    Some types (an Auto Scaling group) have tags of another shape: a list of key, value and propagation.
    """
    constructor = getattr(resource, "_internal_init", resource)
    parameter = inspect.signature(constructor).parameters.get("tags")
    return parameter is not None and "Mapping" in str(parameter.annotation)


def commit() -> str:
    """The commit of the program's source, with `-dirty` behind it if files were changed since; empty outside of git.

    An output of the stack, not a tag: as a tag it would update every resource at every commit.
    """
    try:
        described = git(Path.cwd(), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except ModelworksError:
        return ""
    return described.decode().strip()


def encrypts_volumes(settings: "Settings") -> bool:
    """Whether the environment has volumes, of a class that its key encrypts: a laptop brings its own class."""
    return not _emulated() and settings.registry is not None and settings.registry.database == "embedded"


class SignIn(TypedDict):
    """How a kubeconfig signs in."""

    profile: str | None
    """Of the AWS CLI."""
    role_arn: str | None
    """Role that is assumed."""


def signs_in_to_clusters() -> SignIn:
    """How this stack's credentials sign in to a cluster, as `Cluster` takes it: by the profile or role of the provider.

    The engine reads `aws:profile` and `aws:assumeRoles` itself; the program that a kubeconfig names does not.

    Raises:
        ModelworksError: There are several roles, and `aws eks get-token` assumes one, or one has an external id.
    """
    found = CONFIG.get()
    roles = _value(found.get("aws:assumeRoles")) or []
    if len(roles) > 1 or any("externalId" in role for role in roles):
        what = f"{len(roles)} roles" if len(roles) > 1 else "a role with an externalId"
        raise ModelworksError(
            f"aws:assumeRoles has {what}, and a kubeconfig signs in to the cluster with one role and no more "
            "(`aws eks get-token --role-arn`)",
            fix="Name a profile of your AWS configuration instead (aws:profile): its role_arn, source_profile and "
            "external_id hold the same.",
        )
    return {"profile": found.get("aws:profile"), "role_arn": roles[0]["roleArn"] if roles else None}


def laptop_storage_class() -> str | None:
    """The StorageClass of volumes on a laptop, whose cluster has no default one if it is strict; None elsewhere."""
    return defaults.LAPTOP_STORAGE_CLASS if _emulated() else None


def secret(value: str | None) -> pulumi.Output[str] | None:
    """`value` as the engine keeps secrets: encrypted in the state, masked in every output."""
    return None if value is None else pulumi.Output.secret(value)


def feature_views(project: Path | None = None) -> list[Any]:
    """The feature views of the committed manifest, as `FeatureStore` takes them; none where there is no manifest.

    Args:
        project: Folder of the project. Default: that of the program's `Pulumi.yaml`.

    Raises:
        ModelworksError: The manifest is damaged.
    """
    manifest = read_manifest(project or Path(pulumi.runtime.get_root_directory()))
    return [
        {"name": name, "columns": view.columns, "path": view.path, "online": view.online}
        for name, view in manifest.views.items()
        if name not in manifest.of_vendors.views
    ]


def views_of(*services: str, project: Path | None = None) -> list[str]:
    """Names of the views in these feature services, by the committed manifest: what `FeatureStore.tables_of` takes.

    Args:
        services: Names of feature services.
        project: Folder of the project. Default: that of the program's `Pulumi.yaml`.

    Raises:
        ModelworksError: The manifest has no such service, one of its views is not online, or the manifest is damaged.
    """
    if not services:
        return []
    manifest = read_manifest(project or Path(pulumi.runtime.get_root_directory()))
    known = manifest.services
    for service in services:
        if service not in known:
            raise ModelworksError(
                f"an endpoint reads the feature service {service!r}, and {PATH} has none of that name"
                f"{did_you_mean(service, known)}",
                fix="Name one that it has, or define it in models/*/features.py and run `modelworks features apply`.",
            )
        if kept := [view for view in manifest.views_read(service) if not _is_online(manifest, view)]:
            raise ModelworksError(
                f"an endpoint reads the feature service {service!r}, whose view {kept[0]!r} is not online",
                fix="State online=True for it in models/*/features.py and run `modelworks features apply`, or leave it "
                "out of the service.",
            )
    return sorted({view for service in services for view in manifest.views_read(service)})


def _is_online(manifest: FeatureManifest, view: str) -> bool:
    return view in manifest.views and manifest.views[view].online


def lock_image(name: str) -> str:
    """A stand-in for an image, for clusters that pull none (the laptop's node runs commands as processes).

    Its digest is that of the project's lock, so that changed packages roll out as a changed image would.

    Raises:
        ModelworksError: AWS is not the laptop's, or the project has no `uv.lock`.
    """
    if not _emulated():
        raise ModelworksError(
            f"the program names no {name} image, and the laptop's stand-in cannot be pulled from anywhere",
            fix=f"Name an image by its digest: cluster.{name}_image in the stack's settings.",
        )
    lock = Path(pulumi.runtime.get_root_directory()) / "uv.lock"
    try:
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise ModelworksError(
            f"there is no {lock} to name the {name} image after",
            fix=f"Name an image in the stack's settings: cluster.{name}_image.",
        ) from error
    return f"{defaults.LAPTOP_IMAGES}/{name}@sha256:{digest}"
