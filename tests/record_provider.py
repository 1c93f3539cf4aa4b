"""An account and a cluster that refuse nothing and keep a record: a Pulumi provider for every type there is.

`python record_provider.py FILE` prints its port and serves on. Each create, update and delete is a line of the file:
the verb, the type and the name. A resource is what its inputs state, and what AWS would add where components read it.
"""
# ruff: noqa: N802 (the methods of the plugin protocol are named by it)

from __future__ import annotations

import sys
import uuid
from pathlib import Path

from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import provider_pb2

from standing_provider import StandingProvider, serve

ACCOUNT = "000000000000"
ANSWERS = {
    "aws:index/getAvailabilityZones:getAvailabilityZones": {"names": [f"eu-central-1{zone}" for zone in "abc"]},
    "aws:index/getCallerIdentity:getCallerIdentity": {
        "accountId": ACCOUNT,
        "arn": f"arn:aws:iam::{ACCOUNT}:user/somebody",
    },
    "aws:index/getPartition:getPartition": {"partition": "aws", "dnsSuffix": "amazonaws.com"},
    "aws:index/getRegion:getRegion": {"region": "eu-central-1"},
}


class RecordProvider(StandingProvider):
    def __init__(self, record: Path):
        self.record = record

    def Handshake(self, request, context):
        return provider_pb2.ProviderHandshakeResponse()

    def Configure(self, request, context):
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Invoke(self, request, context):
        return provider_pb2.InvokeResponse(**{"return": wire(ANSWERS[request.tok])})

    def Check(self, request, context):
        if not kind_of(request.urn).startswith("kubernetes:"):
            return provider_pb2.CheckResponse(inputs=request.news)
        # Its names are made up here, and kept.
        news, olds = plain(request.news), plain(request.olds)
        made_up = f"{request.urn.rpartition('::')[2]}-{request.randomSeed.hex()[:8]}"
        name = olds.get("metadata", {}).get("name", made_up)
        return provider_pb2.CheckResponse(inputs=wire({**news, "metadata": {"name": name, **news.get("metadata", {})}}))

    def Diff(self, request, context):
        news, olds = plain(request.news), plain(request.old_inputs)
        changed = sorted(key for key in {*news, *olds} - {"__provider"} if news.get(key) != olds.get(key))
        kinds = provider_pb2.DiffResponse
        return kinds(changes=kinds.DIFF_SOME if changed else kinds.DIFF_NONE, diffs=changed)

    def Create(self, request, context):
        if request.preview:
            return provider_pb2.CreateResponse(properties=request.properties)
        self.note("create", request.urn)
        made = f"{request.urn.rpartition('::')[2]}-{uuid.uuid4().hex[:7]}"
        return provider_pb2.CreateResponse(id=made, properties=self.state(request.urn, made, request.properties))

    def Update(self, request, context):
        if request.preview:
            return provider_pb2.UpdateResponse(properties=request.news)
        self.note("update", request.urn)
        return provider_pb2.UpdateResponse(properties=self.state(request.urn, request.id, request.news))

    def Delete(self, request, context):
        self.note("delete", request.urn)
        return empty_pb2.Empty()

    def Cancel(self, request, context):
        return empty_pb2.Empty()

    def state(self, urn: str, made: str, inputs: struct_pb2.Struct) -> struct_pb2.Struct:
        stated = plain(inputs)
        token = kind_of(urn)
        if token.startswith("kubernetes:"):
            return inputs
        added = {"arn": f"arn:aws:mock:eu-central-1:{ACCOUNT}:{made}", "name": made, "keyId": made, "bucket": made}
        if token == "aws:eks/cluster:Cluster":
            added |= {
                "endpoint": "https://0123.eks.amazonaws.com",
                "certificateAuthority": {"data": "Q0E="},
                "identities": [{"oidcs": [{"issuer": "https://oidc.eks.eu-central-1.amazonaws.com/id/0123"}]}],
            }
        return wire({**added, **stated})

    def note(self, verb: str, urn: str) -> None:
        with self.record.open("a", encoding="utf-8") as record:
            record.write(f"{verb} {kind_of(urn)} {urn.rpartition('::')[2]}\n")


def kind_of(urn: str) -> str:
    """The type of a resource, without those of its parents."""
    return urn.split("::")[2].rpartition("$")[2]


def plain(struct: struct_pb2.Struct) -> dict:
    return json_format.MessageToDict(struct)


def wire(values: dict) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


def main() -> None:
    serve(RecordProvider(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
