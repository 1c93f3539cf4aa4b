"""What a program declares, evaluated without an engine: Pulumi's mocks, recorded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pulumi
from google.protobuf import json_format
from pulumi.runtime.mocks import MockMonitor
from pulumi.runtime.rpc import _special_secret_sig, _special_sig_key
from pulumi.runtime.stack import Stack

ACCOUNT = "111111111111"
ROOT = Path(__file__).parents[1]


def laptop_shell(environment: str) -> dict[str, str]:
    """What a program reads of a shell that points at an environment of the laptop."""
    backend = f"file:///laptop/environments/{environment}/backend"
    return {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "PULUMI_BACKEND_URL": backend}


@dataclass
class Declared(pulumi.runtime.Mocks):
    """Every resource by token and name, with its inputs as the engine would get them."""

    caller_arn: str = f"arn:aws:iam::{ACCOUNT}:user/somebody"
    resources: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    registered: dict[str, Any] = field(default_factory=dict)
    """The request that registered each resource, by URN."""
    completed: dict[str, Any] = field(default_factory=dict)
    """The request with which each component registered its outputs, by URN."""

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[Any, Any]]:
        key = (args.typ, args.name)
        # Below different kinds of parents the engine would take both; a test could not tell them apart.
        assert key not in self.resources, f"declared twice: {key}"
        self.resources[key] = _unsealed(dict(args.inputs))
        if args.typ.startswith("kubernetes:"):
            return args.name, {**args.inputs, "metadata": {"name": args.name, **args.inputs.get("metadata", {})}}
        if args.typ == "aws:s3/bucket:Bucket":
            args.inputs.setdefault("bucket", args.name)
        if args.typ == "aws:dynamodb/table:Table":
            args.inputs["arn"] = f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/{args.inputs['name']}"
        if args.typ == "aws:eks/cluster:Cluster":
            issuer = "https://oidc.eks.eu-central-1.amazonaws.com/id/0123"
            args.inputs |= {
                "endpoint": "https://0123.eks.amazonaws.com",
                "certificateAuthority": {"data": "Q0E="},
                "identities": [{"oidcs": [{"issuer": issuer}]}],
            }
        return f"{args.name}-id", {"arn": f"arn:aws:mock:::{args.name}", "keyId": f"{args.name}-id", **args.inputs}

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[Any, Any]:
        answers: Mapping[str, dict[str, Any]] = {
            "aws:index/getCallerIdentity:getCallerIdentity": {
                "accountId": self.caller_arn.split(":")[4],
                "arn": self.caller_arn,
                "userId": "AIDA",
            },
            "aws:index/getAvailabilityZones:getAvailabilityZones": {
                "names": [f"eu-central-1{zone}" for zone in "dcba"]
            },
            "aws:index/getPartition:getPartition": {"partition": "aws", "dnsSuffix": "amazonaws.com"},
            "aws:index/getRegion:getRegion": {"region": "eu-central-1"},
        }
        return answers[args.token]

    def one(self, token: str) -> dict[str, Any]:
        """Inputs of the only resource of a type."""
        (found,) = self.all(token).values()
        return found

    def all(self, token: str) -> dict[str, dict[str, Any]]:
        """Inputs of every resource of a type, by name."""
        return {name: inputs for (typ, name), inputs in self.resources.items() if typ == token}

    def requests(self) -> dict[str, dict[str, Any]]:
        """What the program asked of the engine for each resource, by URN, in the engine's own terms."""
        outputs = {urn: {"outputs": _asked(request).get("outputs", {})} for urn, request in self.completed.items()}
        return {urn: _asked(request) | outputs.get(urn, {}) for urn, request in self.registered.items()}


def _unsealed(value: Any) -> Any:
    """`value` with the engine's mark of a secret taken off."""
    if isinstance(value, dict):
        return _unsealed(value["value"]) if _special_sig_key in value else {k: _unsealed(v) for k, v in value.items()}
    return [_unsealed(item) for item in value] if isinstance(value, list) else value


_OF_THE_SDK = {
    "acceptResources",
    "acceptSecrets",
    "accepts_byte_string",
    "aliasSpecs",
    "hooks",
    "packageRef",
    "parentStackTraceHandle",
    "pluginChecksums",
    "sourcePosition",
    "stackTrace",
    "supportsPartialValues",
    "supportsResultReporting",
}
"""What the SDK says of itself and of the source with every request: nothing that a program decides."""


class _Recorder(MockMonitor):
    """The SDK's stand-in for the engine, which keeps each request as it came."""

    mocks: Declared

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - the name of the call
        urn = self.make_urn(request.parent, request.type, request.name)
        # The engine refuses two resources of one URN; the SDK's mocks would let them pass.
        assert urn not in self.mocks.registered, f"declared twice: {urn}"
        self.mocks.registered[urn] = request
        return super().RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        self.mocks.completed[request.urn] = request
        return super().RegisterResourceOutputs(request)


def _asked(request: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json_format.MessageToDict(request, preserving_proto_field_name=True)
    return {name: _with_secrets_told(value) for name, value in fields.items() if name not in _OF_THE_SDK}


def _with_secrets_told(value: Any) -> Any:
    """`value` with the engine's mark of a secret in words."""
    if isinstance(value, dict):
        if value.get(_special_sig_key) == _special_secret_sig:
            return {"(secret)": _with_secrets_told(value["value"])}
        return {name: _with_secrets_told(item) for name, item in value.items()}
    return [_with_secrets_told(item) for item in value] if isinstance(value, list) else value


_CALLED_AS_THEIR_COMPONENT = ("kubernetes:", "aws:eks/cluster:Cluster")
"""Children that people look for by the name of the component: objects in a cluster, and a cluster."""


def _keep_to_its_component(declared: pulumi.ResourceTransformationArgs) -> None:
    """Refuse what a component declares outside of itself, and a child that is not named after its parent."""
    parent, name = declared.opts.parent, declared.name
    if parent is None or isinstance(parent, Stack):
        component = _component_that_declares(declared.resource)
        assert component is None, f"{name} ({declared.type_}), which {component} declares, has no parent"
    elif name != (after := parent._name) or (
        isinstance(parent, pulumi.ComponentResource) and not declared.type_.startswith(_CALLED_AS_THEIR_COMPONENT)
    ):
        assert name.startswith(f"{after}-"), f"{name} ({declared.type_}) is not named after its parent {after}"


def _component_that_declares(resource: pulumi.Resource) -> str | None:
    """The component whose code is at work, if it is not `resource` itself. Its code alone knows: an orphan does not."""
    frame: FrameType | None = sys._getframe()
    while frame:
        at_work = frame.f_locals.get("self")
        if isinstance(at_work, pulumi.ComponentResource) and at_work is not resource:
            return type(at_work).__name__
        frame = frame.f_back
    return None


def declare(
    program: Callable[[], Any],
    *,
    project: str = "modelworks",
    stack: str = "dev",
    config: Mapping[str, str] | None = None,
    mocks: Declared | None = None,
    preview: bool = False,
) -> Declared:
    """Evaluate `program` to its end, so that whatever it raises is raised here, and return what it declared."""
    declared = mocks or Declared()
    try:
        asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:  # asyncio's runners take the thread's loop away when they are done, and Pulumi wants one
        asyncio.set_event_loop(asyncio.new_event_loop())
    # Transformations live on the root resource, which `set_mocks` keeps: one test's tags would be the next one's.
    pulumi.runtime.settings.ROOT.set(None)
    pulumi.runtime.set_mocks(declared, project=project, stack=stack, preview=preview, monitor=_Recorder(declared))
    pulumi.runtime.settings.SETTINGS.root_directory = str(ROOT)
    pulumi.runtime.set_all_config(dict(config or {}), [])

    @pulumi.runtime.test
    def evaluate() -> None:
        pulumi.runtime.register_stack_transformation(_keep_to_its_component)
        program()

    evaluate()
    return declared
