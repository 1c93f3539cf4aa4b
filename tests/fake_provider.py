"""A cloud of one folder and the Pulumi provider for it.

`python fake_provider.py FOLDER [PORT]` prints its port and serves on.

It has one type, `tiny:index:Thing`, with inputs `name` (physical, auto-named; another replaces), `value` and `secret`.
A thing is a file `<name>.json`. Faults are files too, so that a test can place them between two operations:
`slow` (seconds each create takes after the thing was made, while the file is there), `fail` (how many calls succeed
before one fails) and `die` (how many succeed before the provider's process ends).
"""
# ruff: noqa: N802 (the methods of the plugin protocol are named by it)

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from pathlib import Path

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import provider_pb2

from standing_provider import StandingProvider, serve

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
SECRET = "4dabf18193072939515e22adb298388d"


class FakeProvider(StandingProvider):
    def __init__(self, folder: Path):
        self.folder = folder

    def Handshake(self, request, context):
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, accept_resources=True)

    def Configure(self, request, context):
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True, acceptResources=True)

    def Check(self, request, context):
        news, olds = plain(request.news), plain(request.olds)
        if "value" not in news:
            failure = provider_pb2.CheckFailure(property="value", reason="a thing needs a value")
            return provider_pb2.CheckResponse(failures=[failure])
        urn_name = request.urn.rsplit("::", 1)[-1]
        news.setdefault("name", olds.get("name") or f"{urn_name}-{request.randomSeed.hex()[:7]}")
        return provider_pb2.CheckResponse(inputs=wire(news))

    def Diff(self, request, context):
        news, olds = plain(request.news), plain(request.old_inputs)
        changed = sorted(key for key in {*news, *olds} if news.get(key) != olds.get(key))
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=changed,
            replaces=[key for key in changed if key == "name"],
        )

    def Create(self, request, context):
        inputs = plain(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(properties=wire(inputs))
        self.fault(context)
        file = self.file(inputs["name"])
        if file.exists():
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"there is a thing {inputs['name']} already")
        inputs["made"] = uuid.uuid4().hex
        self.write(inputs, file)
        slow = self.folder / "slow"
        if slow.exists():
            until = time.monotonic() + float(slow.read_text())
            while slow.exists() and time.monotonic() < until:
                time.sleep(0.05)
        return provider_pb2.CreateResponse(id=inputs["name"], properties=wire(inputs))

    def Read(self, request, context):
        self.fault(context)
        file = self.file(request.id)
        if not file.exists():
            return provider_pb2.ReadResponse()
        state = json.loads(file.read_text())
        inputs = {key: value for key, value in state.items() if key != "made"}
        return provider_pb2.ReadResponse(id=request.id, properties=wire(state), inputs=wire(inputs))

    def Update(self, request, context):
        inputs = plain(request.news)
        if not request.preview:
            self.fault(context)
            inputs["made"] = json.loads(self.file(request.id).read_text())["made"]
            self.write(inputs, self.file(request.id))
        return provider_pb2.UpdateResponse(properties=wire(inputs))

    def Delete(self, request, context):
        self.fault(context)
        self.file(request.id).unlink(missing_ok=True)
        return empty_pb2.Empty()

    def Cancel(self, request, context):
        return empty_pb2.Empty()

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def write(self, thing: dict, file: Path) -> None:
        whole = file.with_suffix(".new")
        whole.write_text(json.dumps(thing))
        whole.replace(file)

    def fault(self, context) -> None:
        for kind in ("fail", "die"):
            fault = self.folder / kind
            if not fault.exists():
                continue
            if left := int(fault.read_text()):
                fault.write_text(str(left - 1))
                continue
            fault.unlink()
            if kind == "die":
                os._exit(137)
            context.abort(grpc.StatusCode.UNKNOWN, "the cloud had a hiccup")


def plain(struct: struct_pb2.Struct) -> dict:
    values = json_format.MessageToDict(struct)
    return {
        key: value["value"] if isinstance(value, dict) and SECRET in value else value
        for key, value in values.items()
        if not key.startswith("__")
    }


def wire(values: dict) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    if isinstance(values.get("secret"), str):
        values = {**values, "secret": {SECRET: "1b47061264138c4ac30d75fd1eb44270", "value": values["secret"]}}
    struct.update(values)
    return struct


def things(folder: Path) -> dict[str, dict]:
    """What stands in the cloud, by physical name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def main() -> None:
    serve(FakeProvider(Path(sys.argv[1])), *sys.argv[2:])


if __name__ == "__main__":
    main()
