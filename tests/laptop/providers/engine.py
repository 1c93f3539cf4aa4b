"""Stands where the engine stands: speaks the provider protocol over gRPC, with plain values."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from modelworks.laptop.providers.property_values import UNKNOWN, from_wire, to_wire

__all__ = ["UNKNOWN", "Engine"]


class Engine:
    """One connection to a plugin, configured."""

    def __init__(self, port: int, config: dict[str, Any] | None = None) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = provider_pb2_grpc.ResourceProviderStub(self.channel)
        self.stub.Attach(plugin_pb2.PluginAttach(address="127.0.0.1:1"))
        self.stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address="127.0.0.1:1"))
        if config is not None:
            self.configure(config)

    def close(self) -> None:
        self.stub.Cancel(empty_pb2.Empty())
        self.channel.close()

    def configure(self, config: dict[str, Any]) -> None:
        self.stub.Configure(provider_pb2.ConfigureRequest(args=to_wire(config), acceptSecrets=True))

    def check_config(self, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        answer = self.stub.CheckConfig(
            provider_pb2.CheckRequest(urn=_urn("pulumi:providers:x", "p"), news=to_wire(config))
        )
        return from_wire(answer.inputs), {each.property: each.reason for each in answer.failures}

    def check(
        self, type_: str, inputs: dict[str, Any], old: dict[str, Any] | None = None, name: str = "thing", **more: Any
    ) -> tuple[dict[str, Any], dict[str, str]]:
        request = provider_pb2.CheckRequest(
            urn=_urn(type_, name),
            name=name,
            type=type_,
            olds=to_wire(old or {}),
            news=to_wire(inputs),
            randomSeed=b"seed",
            **more,
        )
        answer = self.stub.Check(request)
        return from_wire(answer.inputs), {each.property: each.reason for each in answer.failures}

    def diff(self, type_: str, id_: str, old: dict[str, Any], state: dict[str, Any], inputs: dict[str, Any]) -> Any:
        return self.stub.Diff(
            provider_pb2.DiffRequest(
                urn=_urn(type_, "thing"),
                id=id_,
                name="thing",
                type=type_,
                olds=to_wire(state),
                old_inputs=to_wire(old),
                news=to_wire(inputs),
            )
        )

    def create(self, type_: str, inputs: dict[str, Any], *, preview: bool = False) -> tuple[str, dict[str, Any]]:
        answer = self.stub.Create(
            provider_pb2.CreateRequest(
                urn=_urn(type_, "thing"), name="thing", type=type_, properties=to_wire(inputs), preview=preview
            )
        )
        return answer.id, from_wire(answer.properties)

    def read(
        self, type_: str, id_: str, inputs: dict[str, Any] | None = None, state: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any], dict[str, Any]]:
        answer = self.stub.Read(
            provider_pb2.ReadRequest(
                urn=_urn(type_, "thing"),
                id=id_,
                name="thing",
                type=type_,
                properties=to_wire(state or {}),
                inputs=to_wire(inputs or {}),
            )
        )
        return answer.id, from_wire(answer.inputs), from_wire(answer.properties)

    def update(
        self,
        type_: str,
        id_: str,
        old: dict[str, Any],
        state: dict[str, Any],
        inputs: dict[str, Any],
        *,
        preview: bool = False,
    ) -> dict[str, Any]:
        answer = self.stub.Update(
            provider_pb2.UpdateRequest(
                urn=_urn(type_, "thing"),
                id=id_,
                name="thing",
                type=type_,
                preview=preview,
                olds=to_wire(state),
                old_inputs=to_wire(old),
                news=to_wire(inputs),
            )
        )
        return from_wire(answer.properties)

    def delete(self, type_: str, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> None:
        self.stub.Delete(
            provider_pb2.DeleteRequest(
                urn=_urn(type_, "thing"),
                id=id_,
                name="thing",
                type=type_,
                properties=to_wire(state),
                old_inputs=to_wire(inputs),
            )
        )

    def invoke(self, token: str, args: dict[str, Any], *, preview: bool = False) -> dict[str, Any]:
        answer = self.stub.Invoke(provider_pb2.InvokeRequest(tok=token, args=to_wire(args), preview=preview))
        assert not answer.failures, answer.failures
        return from_wire(getattr(answer, "return"))


def _urn(type_: str, name: str) -> str:
    return f"urn:pulumi:test::tests::{type_}::{name}"
