"""The protobuf messages of the Open Inference Protocol (V2) and of gRPC's health protocol, built at import.

Names and numbers of fields are those of the published `open_inference_grpc.proto`, so that clients made from it fit.
The messages are in a pool of their own: a library that brings the same protocol does not collide with them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "inference"
_MESSAGES = {
    # Of grpc.health.v1. On the wire there are no names of messages, and an enum is a number.
    "HealthCheckRequest": "service: string",
    "HealthCheckResponse": "status: int32",
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live: bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready: bool",
    "ModelReadyRequest": "name: string, version: string",
    "ModelReadyResponse": "ready: bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name: string, version: string, extensions: *string",
    "ModelMetadataRequest": "name: string, version: string",
    "ModelMetadataResponse": "name: string, versions: *string, platform: string, inputs: *TensorMetadata, "
    "outputs: *TensorMetadata",
    "ModelMetadataResponse.TensorMetadata": "name: string, datatype: string, shape: *int64",
    "InferParameter": "bool_param: bool, int64_param: int64, string_param: string, double_param: double, "
    "uint64_param: uint64",
    "InferTensorContents": "bool_contents: *bool, int_contents: *int32, int64_contents: *int64, "
    "uint_contents: *uint32, uint64_contents: *uint64, fp32_contents: *float, fp64_contents: *double, "
    "bytes_contents: *bytes",
    "ModelInferRequest": "model_name: string, model_version: string, id: string, parameters: map, "
    "inputs: *InferInputTensor, outputs: *InferRequestedOutputTensor, raw_input_contents: *bytes",
    "ModelInferRequest.InferInputTensor": "name: string, datatype: string, shape: *int64, parameters: map, "
    "contents: InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "name: string, parameters: map",
    "ModelInferResponse": "model_name: string, model_version: string, id: string, parameters: map, "
    "outputs: *InferOutputTensor, raw_output_contents: *bytes",
    "ModelInferResponse.InferOutputTensor": "name: string, datatype: string, shape: *int64, parameters: map, "
    "contents: InferTensorContents",
}
"""Fields in the order of their numbers, which count from 1 in every message. `*` is repeated; `map` has parameters."""
_ONEOF = {"InferParameter": "parameter_choice"}
"""Messages with one of their fields."""
_Field = descriptor_pb2.FieldDescriptorProto


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="modelworks/open_inference.proto", package=_PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for path, fields in _MESSAGES.items():
        outer, _, name = path.rpartition(".")
        message = made[path] = (made[outer].nested_type if outer else file.message_type).add(name=name)
        if path in _ONEOF:
            message.oneof_decl.add(name=_ONEOF[path])
        for number, field in enumerate(filter(None, fields.split(", ")), 1):
            _add_field(message, path, number, *field.split(": "))
    return file


def _add_field(message: Any, path: str, number: int, name: str, kind: str) -> None:
    label = _Field.LABEL_REPEATED if kind.startswith("*") or kind == "map" else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    kind = kind.removeprefix("*")
    if path in _ONEOF:
        field.oneof_index = 0
    if kind == "map":
        _add_map_entry(message, path)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{path}.ParametersEntry"
    elif kind[0].isupper():
        nested = f"{path}.{kind}"
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{nested if nested in _MESSAGES else kind}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind.upper()}")


def _add_map_entry(message: Any, path: str) -> None:
    """A map is a list of pairs on the wire, each a message of this name."""
    entry = message.nested_type.add(name="ParametersEntry")
    entry.options.map_entry = True
    _add_field(entry, f"{path}.ParametersEntry", 1, "key", "string")
    _add_field(entry, f"{path}.ParametersEntry", 2, "value", "InferParameter")


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


HealthCheckRequest = _message("HealthCheckRequest")
HealthCheckResponse = _message("HealthCheckResponse")
ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
