"""The `aws` provider: what is the same for all types. A type's own calls are a `Resource`."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

import grpc
from botocore.exceptions import ClientError

from modelworks.laptop.providers.aws.account import Account, error_code, translated
from modelworks.laptop.providers.aws.checking import Failure, checked, nearest
from modelworks.laptop.providers.aws.functions import FUNCTIONS
from modelworks.laptop.providers.aws.registry import RESOURCES
from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.property_values import UNKNOWN, Path, Secret
from modelworks.laptop.providers.provider import (
    Call,
    Change,
    Diff,
    Found,
    Incomplete,
    InvalidInputs,
    Naming,
    Provider,
    ProviderError,
)

_AUTONAMED = "__defaults"
"""Inputs that this provider chose, as the real one records them: they mark an automatic name."""


# The protocol's arguments come to every method; not each needs all.
# ruff: noqa: ARG002


class AwsProvider(Provider):
    """Types of `aws:*` in one account under one configuration."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def check(self, call: Call, old: dict[str, Any], inputs: dict[str, Any], naming: Naming) -> Mapping[str, Any]:
        kind = self._kind(call, inputs)
        result, failures = checked(kind.type, inputs)
        failures += [
            ((name,), f"the laptop's provider does not handle {name!r} of {call.type} (it is right on AWS)")
            for name in result
            if name not in kind.handles and name in kind.type.inputs
        ]
        if kind.name:
            failures += _name(kind.name, call, result, old, naming)
        if failures:
            raise InvalidInputs(failures)
        if kind.type.taggable:
            result["tagsAll"] = self._all_tags(result.get("tags"))
        return result

    def diff(self, call: Call, id_: str, old: dict[str, Any], state: dict[str, Any], inputs: dict[str, Any]) -> Diff:
        kind = self._kind(call, inputs)
        changes: dict[Path, Change] = {}
        for key in self._differing(kind, old, state, inputs):
            before = state.get(key) if key == "tagsAll" else old.get(key)
            changes.update(_changes((key,), before, inputs.get(key), replaces=key in kind.type.replaces))
        where = state.get("region")
        if kind.regional and where and "region" not in old and "region" not in inputs and where != kind.region:
            changes["region",] = Change("update", replaces=True)
        replaces = any(change.replaces for change in changes.values())
        named = kind.name is not None and kind.name.property not in inputs.get(_AUTONAMED, ())
        same_name = named and kind.name is not None and (kind.name.property,) not in changes
        # A replacement under the same name can be made only once the name is free.
        early = replaces and same_name and kind.name is not None and kind.name.property in inputs
        stable = [key for key in kind.type.outputs if key not in kind.type.inputs and key not in kind.changing]
        return Diff(changes, delete_before_replace=early, stable=[] if replaces else stable)

    def create(self, call: Call, inputs: dict[str, Any]) -> tuple[str, Mapping[str, Any]]:
        kind = self._kind(call, inputs)
        if call.preview:
            return "", self._foreseen(kind, inputs)
        wanted = _with_unique_name(kind, inputs)
        with translated(f"creating {call.name}"):
            id_ = kind.create(wanted)
        try:
            with translated(f"creating {call.name}"):
                kind.settle(id_, wanted, kind.after_create(wanted))
                actual = kind.read(id_, wanted)
        except ProviderError as error:
            raise Incomplete(id_, {**_shown(inputs), "region": kind.region}, [str(error)]) from error
        return id_, self._state(kind, inputs, actual or {})

    def read(self, call: Call, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> Found | None:
        if not state.get("region") and not inputs.get("region") and id_.startswith("arn:"):
            state = {**state, "region": id_.split(":")[3]}  # an import by ARN says where it is
        kind = self._kind(call, {"region": state.get("region"), **inputs})
        with translated(f"reading {call.name or id_}"):
            actual = _unless_gone(lambda: kind.read(id_, {**state, **inputs}))
        if actual is None:
            return None
        return Found(id_, self._true_inputs(kind, inputs, actual), self._state(kind, inputs, actual))

    def update(
        self, call: Call, id_: str, old: dict[str, Any], state: dict[str, Any], inputs: dict[str, Any]
    ) -> Mapping[str, Any]:
        kind = self._kind(call, {"region": state.get("region"), **inputs})
        changed = self._differing(kind, old, state, inputs)
        if call.preview:
            kept = {key: value for key, value in state.items() if key not in changed}
            unknown = dict.fromkeys(kind.changing & kind.type.outputs.keys(), UNKNOWN)
            return {**kept, **unknown, **_shown(inputs)}
        # Nothing differs when a create or update before this one stopped half-way: then all of it is done again.
        todo = changed or [key for key in inputs if key in kind.handles]
        try:
            with translated(f"updating {call.name}"):
                if kind.type.taggable and ("tagsAll" in changed or not changed):
                    self._retag(kind, id_, inputs, state)
                kind.settle(id_, inputs, frozenset(todo))
                actual = kind.read(id_, {**state, **inputs})
        except ProviderError as error:
            raise Incomplete(id_, state, [str(error)]) from error
        if actual is None:
            raise ProviderError(
                f"{call.name} ({id_}) is gone", fix="Run `pulumi refresh`.", code=grpc.StatusCode.NOT_FOUND
            )
        return self._state(kind, inputs, actual)

    def delete(self, call: Call, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> None:
        kind = self._kind(call, {"region": state.get("region"), **inputs})
        with translated(f"deleting {call.name}"):
            _unless_gone(lambda: kind.delete(id_, {**inputs, **state}))

    def invoke(self, call: Call, args: dict[str, Any]) -> Mapping[str, Any]:
        function = FUNCTIONS.get(call.type)
        if function is None:
            raise ProviderError(
                f"the laptop's AWS provider has no function {call.type}{nearest(call.type, FUNCTIONS)}",
                fix=f"It has: {', '.join(sorted(FUNCTIONS))}.",
                code=grpc.StatusCode.UNIMPLEMENTED,
            )
        with translated(call.type):
            return function(self._account, args)

    # ---- shared by the methods above

    def _kind(self, call: Call, inputs: Mapping[str, Any]) -> Resource:
        made = RESOURCES.get(call.type)
        if made is None:
            raise ProviderError(
                f"the laptop's AWS provider has no type {call.type}{nearest(call.type, RESOURCES)}",
                fix=f"It has: {', '.join(sorted(RESOURCES))}. CONTRIBUTING.md explains how to add one.",
                code=grpc.StatusCode.UNIMPLEMENTED,
            )
        region = inputs.get("region")
        return made(self._account, region if isinstance(region, str) else self._account.region)

    def _all_tags(self, tags: Any) -> Any:
        defaults = self._account.default_tags
        if tags is UNKNOWN:
            return UNKNOWN
        return {**defaults, **(tags or {})}

    def _differing(
        self, kind: Resource, old: dict[str, Any], state: dict[str, Any], inputs: dict[str, Any]
    ) -> frozenset[str]:
        """Inputs that mean something else than before."""
        found = set()
        for key in {*old, *inputs}:
            if key.startswith("__") or (key == "region" and not kind.regional):
                continue
            before, after = old.get(key), inputs.get(key)
            if key == "tagsAll":
                # What the program and the provider's defaults want together, against what is there.
                before = {name: tag for name, tag in (state.get(key) or {}).items() if not self._account.ignores(name)}
            if key == "region":
                before, after = before or state.get(key), after or self._account.region
            if after is None and key in kind.computed:
                continue
            if not kind.same(key, before, after):
                found.add(key)
        return frozenset(found)

    def _foreseen(self, kind: Resource, inputs: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a previewed create: the program's inputs, and the defaults."""
        outputs = kind.type.outputs
        open_ = {key for key in outputs if key not in kind.type.inputs} | (kind.computed & outputs.keys())
        known = {key: value for key, value in kind.defaults.items() if key in outputs}
        region = {"region": kind.region} if "region" in outputs else {}
        return {**known, **dict.fromkeys(open_, UNKNOWN), **region, **_shown(inputs)}

    def _state(self, kind: Resource, inputs: Mapping[str, Any], actual: Mapping[str, Any]) -> dict[str, Any]:
        """The existing state, in the program's own words where they mean the same."""
        state = {key: value for key, value in actual.items() if value is not None}
        state |= {
            key: value
            for key, value in _shown(inputs).items()
            if key not in actual or kind.same(key, value, actual[key])
        }
        if kind.type.taggable:
            there = actual.get("tagsAll") or {}
            state["tagsAll"] = {name: tag for name, tag in there.items() if not self._account.ignores(name)}
            state["tags"] = self._own_tags(state["tagsAll"], inputs.get("tags") or {})
        if "region" in kind.type.outputs:
            state["region"] = kind.region
        for key in kind.type.secrets & state.keys():
            state[key] = Secret(state[key])
        return state

    def _own_tags(self, there: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
        """Of the tags that are there, those that the provider's default tags do not explain."""
        defaults = self._account.default_tags
        return {name: tag for name, tag in there.items() if name in tags or defaults.get(name) != tag}

    def _true_inputs(self, kind: Resource, inputs: dict[str, Any], actual: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a program that would declare the existing state. Equal values keep the program's words."""
        result = {}
        for key, spec in kind.type.inputs.items():
            said, there = inputs.get(key), actual.get(key)
            if key == "tags" and kind.type.taggable:
                continue
            if key == "region":
                there = kind.region if said or kind.region != self._account.region else None
            elif key not in actual or key not in kind.handles or key in kind.recorded:
                there = said
            elif said is None and (kind.same(key, None, there) or (inputs and key in kind.computed)):
                continue
            value = said if said is not None and kind.same(key, said, there) else there
            if value is not None:
                result[key] = Secret(value) if spec.get("secret") else value
        if kind.type.taggable:
            there = {
                name: tag for name, tag in (actual.get("tagsAll") or {}).items() if not self._account.ignores(name)
            }
            own = self._own_tags(there, inputs.get("tags") or {})
            if own or "tags" in inputs:
                result["tags"] = own
            if "tagsAll" in inputs:
                result["tagsAll"] = there
        if _AUTONAMED in inputs:
            result[_AUTONAMED] = inputs[_AUTONAMED]
        return result

    def _retag(self, kind: Resource, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> None:
        there, wanted = state.get("tagsAll") or {}, inputs.get("tagsAll") or {}
        add = {name: tag for name, tag in wanted.items() if there.get(name) != tag}
        remove = [name for name in there if name not in wanted and not self._account.ignores(name)]
        if add or remove:
            kind.tag(id_, add, remove)


def _shown(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as they appear in a state."""
    return {key: value for key, value in inputs.items() if not key.startswith("__")}


def _changes(path: Path, before: Any, after: Any, *, replaces: bool) -> dict[Path, Change]:
    """The differences between two values, as deep as objects go."""
    if isinstance(before, dict) and isinstance(after, dict):
        inner: dict[Path, Change] = {}
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                inner.update(_changes((*path, key), before.get(key), after.get(key), replaces=replaces))
        return inner or {path: Change("update", replaces)}
    return {path: Change("add" if before is None else "delete" if after is None else "update", replaces)}


def _name(rule: Name, call: Call, inputs: dict[str, Any], old: dict[str, Any], naming: Naming) -> list[Failure]:
    """Fill in the name where the program gives neither a name nor a prefix."""
    if rule.property in inputs:
        name = inputs[rule.property]
        if isinstance(name, str) and len(name) > rule.limit:
            return [((rule.property,), f"has {len(name)} characters, and AWS takes at most {rule.limit}")]
        return []
    if inputs.get(rule.prefix_property) is not None:
        return []
    if rule.property in old.get(_AUTONAMED, ()) and rule.property in old:
        name = old[rule.property]
    elif naming.disabled:
        return [((rule.property,), "is required, because pulumi:autonaming is disabled")]
    else:
        stem, after = naming.name.lower() if rule.lower else naming.name, rule.after(inputs)
        proposed = naming.proposed or f"{stem}-{_digits(naming.seed, call.urn)}"
        name = rule.before + (proposed.lower() if rule.lower else proposed) + after
        if len(name) > rule.limit:
            room = rule.limit - len(rule.before) - len(after) - 8
            reason = (
                f"the automatic name {name!r} has {len(name)} characters, and AWS takes at most {rule.limit}: "
                f"give a name, or call the resource something of at most {room} characters"
            )
            return [((rule.property,), reason)]
    inputs[rule.property] = name
    inputs[_AUTONAMED] = [rule.property]
    return []


def _digits(seed: bytes, urn: str) -> str:
    return hashlib.sha256((seed or os.urandom(32)) + urn.encode()).hexdigest()[:7]


def _with_unique_name(kind: Resource, inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs` with the name of a prefix, made when the resource is, as Terraform's providers do."""
    rule = kind.name
    if rule is None or rule.property in inputs or rule.prefix_property not in inputs:
        return inputs
    unique = time.strftime("%Y%m%d%H%M%S", time.gmtime()) + f"{time.time_ns() % 10**4:04d}" + os.urandom(4).hex()
    return {**inputs, rule.property: inputs[rule.prefix_property] + unique}


_GONE = names(
    """404 NoSuchBucket NoSuchKey NoSuchEntity NotFound NotFoundException ResourceNotFound ResourceNotFoundException
    NoSuchBucketPolicy NoSuchLifecycleConfiguration NoSuchPublicAccessBlockConfiguration OwnershipControlsNotFoundError
    ServerSideEncryptionConfigurationNotFoundError QueueDoesNotExist AWS.SimpleQueueService.NonExistentQueue
    ParameterNotFound RepositoryNotFoundException NoSuchResource"""
)


def _unless_gone(call: Any) -> Any:
    """The result of `call`, or `None` where AWS reports that the resource does not exist."""
    try:
        return call()
    except ClientError as error:
        if error_code(error) in _GONE:
            return None
        raise


def configuration_checked(values: dict[str, Any]) -> dict[str, Any]:
    """A provider's configuration, refused where this provider would have to ignore something that matters."""
    failures = [
        ((key,), f"the AWS provider has no setting {key!r}{nearest(key, _CONFIGURATION)}")
        for key in values
        if key not in _CONFIGURATION and not key.startswith("__")
    ]
    if failures:
        raise InvalidInputs(failures)
    return values


_CONFIGURATION = names(
    """accessKey allowedAccountIds assumeRoleWithWebIdentity assumeRoles customCaBundle defaultTags endpoints
    ec2MetadataServiceEndpoint ec2MetadataServiceEndpointMode forbiddenAccountIds httpProxy httpsProxy ignoreTags
    insecure maxRetries noProxy profile region retryMode s3UsEast1RegionalEndpoint s3UsePathStyle secretKey
    sharedConfigFiles
    sharedCredentialsFiles skipCredentialsValidation skipMetadataApiCheck skipRegionValidation skipRequestingAccountId
    stsRegion tagPolicyCompliance token tokenBucketRateLimiterCapacity useDualstackEndpoint useFipsEndpoint userAgents
    version pluginDownloadURL"""
)
