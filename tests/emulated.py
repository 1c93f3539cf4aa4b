"""Programs whose AWS resources are made: mocks with the laptop's AWS provider and an emulator behind them."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pulumi
from moto.server import ThreadedMotoServer

from mocks import ACCOUNT, Declared
from modelworks.laptop.aws_credentials import AwsCredentials
from modelworks.laptop.providers.aws.account import Account, Emulator, identity
from modelworks.laptop.providers.aws.provider import AwsProvider
from modelworks.laptop.providers.aws.registry import RESOURCES
from modelworks.laptop.providers.property_values import from_wire, revealed, to_wire
from modelworks.laptop.providers.provider import Call, Naming

REGION = "eu-central-1"


@dataclass
class Emulated(Declared):
    """Every AWS resource goes through the provider to the emulator, and has the outputs that an account would give.

    Those of a type that the provider lacks, such as a cluster's, have the outputs that mocks give. So have attachments
    of AWS's own policies: moto has not all of these.
    """

    url: str = ""
    made: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """Outputs of each AWS resource, its id among them."""

    def __post_init__(self) -> None:
        endpoint = Emulator(self.url, AwsCredentials("a", "b"))
        # The emulator has one account, whatever the stack's is.
        self._provider = AwsProvider(Account(endpoint, identity(endpoint, REGION)["Account"], REGION, {}))

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[Any, Any]]:
        answer = super().new_resource(args)
        if not args.typ.startswith("aws:"):
            return answer
        if args.typ not in RESOURCES or ":aws:policy/" in str(args.inputs.get("policyArn")):
            id_, outputs = answer
            self.made[args.typ, args.name] = {**outputs, "id": id_}
            return answer
        call = Call(args.typ, args.name, f"urn:{args.typ}::{args.name}")
        given = from_wire(to_wire(self.resources[args.typ, args.name]))
        inputs = self._provider.check(call, {}, given, Naming(args.name, b"seed"))
        id_, outputs = self._provider.create(call, dict(inputs))
        plain = revealed(dict(outputs))
        self.made[args.typ, args.name] = {**plain, "id": id_}
        return id_, plain


@contextmanager
def emulator() -> Iterator[str]:
    """The address of a new, empty account for the time of the block."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    # moto's accounts are those of the process, whatever server came before.
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    try:
        yield url
    finally:
        server.stop()


__all__ = ["ACCOUNT", "REGION", "Emulated", "emulator"]
