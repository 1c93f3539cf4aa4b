"""What a program declares, evaluated without an engine: Pulumi's mocks, recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.rpc import _special_sig_key

ACCOUNT = "111111111111"
ROOT = Path(__file__).parents[1]


@dataclass
class Declared(pulumi.runtime.Mocks):
    """Every resource by token and name, with its inputs as the engine would get them."""

    caller_arn: str = f"arn:aws:iam::{ACCOUNT}:user/somebody"
    resources: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[Any, Any]]:
        key = (args.typ, args.name)
        # The engine refuses two resources of one URN; the SDK's mocks would let them pass.
        assert key not in self.resources, f"declared twice: {key}"
        self.resources[key] = _unsealed(dict(args.inputs))
        if args.typ.startswith("kubernetes:"):
            return args.name, {**args.inputs, "metadata": {"name": args.name, **args.inputs.get("metadata", {})}}
        if args.typ == "aws:s3/bucket:Bucket":
            args.inputs.setdefault("bucket", args.name)
        return f"{args.name}-id", {"arn": f"arn:aws:mock:::{args.name}", "keyId": f"{args.name}-id", **args.inputs}

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[Any, Any]:
        answers: Mapping[str, dict[str, Any]] = {
            "aws:index/getCallerIdentity:getCallerIdentity": {
                "accountId": self.caller_arn.split(":")[4],
                "arn": self.caller_arn,
                "userId": "AIDA",
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


def _unsealed(value: Any) -> Any:
    """`value` with the engine's mark of a secret taken off."""
    if isinstance(value, dict):
        return _unsealed(value["value"]) if _special_sig_key in value else {k: _unsealed(v) for k, v in value.items()}
    return [_unsealed(item) for item in value] if isinstance(value, list) else value


def declare(
    program: Callable[[], Any],
    *,
    project: str = "modelworks",
    stack: str = "dev",
    config: Mapping[str, str] | None = None,
    mocks: Declared | None = None,
) -> Declared:
    """Evaluate `program` to its end, so that whatever it raises is raised here, and return what it declared."""
    declared = mocks or Declared()
    try:
        asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:  # asyncio's runners take the thread's loop away when they are done, and Pulumi wants one
        asyncio.set_event_loop(asyncio.new_event_loop())
    # Transformations live on the root resource, which `set_mocks` keeps: one test's tags would be the next one's.
    pulumi.runtime.settings.ROOT.set(None)
    pulumi.runtime.set_mocks(declared, project=project, stack=stack, preview=False)
    pulumi.runtime.settings.SETTINGS.root_directory = str(ROOT)
    pulumi.runtime.set_all_config(dict(config or {}), [])

    @pulumi.runtime.test
    def evaluate() -> None:
        program()

    evaluate()
    return declared
