"""Ask a model over the Open Inference Protocol, by the clients that people have.

    ask.py CLIENT HOST:PORT MODEL TOKEN < rows.json

Prints a JSON object: what the client was answered by each of its ways. It runs in an environment of its own, and knows
nothing of modelworks. The clients cannot be imported together: each registers messages of the same names.
"""

import asyncio
import json
import sys

import httpx
import numpy as np

CLIENT, PLACE, MODEL, TOKEN = sys.argv[1:]
ROWS = json.load(sys.stdin)
HEADERS = {"authorization": f"Bearer {TOKEN}"} if TOKEN else {}
NUMPY = {"FP64": np.float64, "FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}
OUTPUTS = ("score", "label")


def columns(inputs):
    """Of the model's metadata: a tensor of the rows for each input."""
    for each in inputs:
        values = [row[each["name"]] for row in ROWS]
        yield each["name"], each["datatype"], np.array(values, dtype=NUMPY[each["datatype"]]).reshape(-1, 1)


def plain(values):
    """Of any client's array: numbers and text."""
    flat = np.asarray(values).reshape(-1).tolist()
    return [each.decode() if isinstance(each, bytes) else each for each in flat]


def triton():
    return {"JSON": triton_http(binary=False), "binary tensors": triton_http(binary=True), "gRPC": triton_grpc()}


def triton_http(binary):
    import tritonclient.http

    client = tritonclient.http.InferenceServerClient(PLACE)
    assert client.is_server_live(headers=HEADERS)
    assert client.is_server_ready(headers=HEADERS)
    assert client.is_model_ready(MODEL, headers=HEADERS)
    assert client.get_server_metadata(headers=HEADERS)["name"]
    inputs = []
    for name, datatype, values in columns(client.get_model_metadata(MODEL, headers=HEADERS)["inputs"]):
        inputs.append(tritonclient.http.InferInput(name, values.shape, datatype))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    outputs = [tritonclient.http.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    # A copy, for the client adds headers of its own to what it is given.
    answer = client.infer(MODEL, inputs, outputs=outputs, headers=dict(HEADERS), request_id="one")
    assert answer.get_response()["id"] == "one"
    return {name: plain(answer.as_numpy(name)) for name in OUTPUTS}


def triton_grpc():
    import tritonclient.grpc

    client = tritonclient.grpc.InferenceServerClient(PLACE)
    assert client.is_server_live(headers=HEADERS)
    assert client.is_server_ready(headers=HEADERS)
    assert client.is_model_ready(MODEL, headers=HEADERS)
    inputs = []
    for name, datatype, values in columns(client.get_model_metadata(MODEL, headers=HEADERS, as_json=True)["inputs"]):
        inputs.append(tritonclient.grpc.InferInput(name, values.shape, datatype))
        inputs[-1].set_data_from_numpy(values)
    answer = client.infer(MODEL, inputs, headers=HEADERS)
    return {name: plain(answer.as_numpy(name)) for name in OUTPUTS}


def kserve():
    return {"REST": asyncio.run(kserve_rest()), "gRPC": asyncio.run(kserve_grpc())}


def kserve_request():
    from kserve import InferInput, InferRequest

    inputs = httpx.get(f"http://{PLACE}/v2/models/{MODEL}", headers=HEADERS).raise_for_status().json()["inputs"]
    made = []
    for name, datatype, values in columns(inputs):
        made.append(InferInput(name, list(values.shape), datatype))
        made[-1].set_data_from_numpy(values, binary_data=False)
    return InferRequest(model_name=MODEL, infer_inputs=made)


def kserve_outputs(answer):
    return {each.name: plain(each.as_numpy()) for each in answer.outputs if each.name in OUTPUTS}


async def kserve_rest():
    from kserve.inference_client import InferenceRESTClient, RESTConfig

    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    base = f"http://{PLACE}"
    assert await client.is_server_live(base, headers=HEADERS)
    assert await client.is_server_ready(base, headers=HEADERS)
    assert await client.is_model_ready(base, MODEL, headers=HEADERS)
    answer = await client.infer(base, kserve_request(), model_name=MODEL, headers=HEADERS)
    await client.close()
    return kserve_outputs(answer)


async def kserve_grpc():
    from kserve.inference_client import InferenceGRPCClient

    client = InferenceGRPCClient(PLACE)
    metadata = tuple(HEADERS.items())
    assert await client.is_server_live(headers=metadata)
    assert await client.is_server_ready(headers=metadata)
    assert await client.is_model_ready(MODEL, headers=metadata)
    answer = await client.infer(kserve_request(), headers=metadata)
    await client.close()
    return kserve_outputs(answer)


def mlserver():
    return {"REST": mlserver_rest(), "gRPC": mlserver_grpc()}


def mlserver_request(inputs, *, use_bytes=False):
    from mlserver.codecs import NumpyCodec, StringCodec
    from mlserver.types import InferenceRequest

    made = []
    for name, datatype, values in columns(inputs):
        if datatype == "BYTES":
            made.append(StringCodec.encode_input(name, [each[0] for each in values], use_bytes=use_bytes))
        else:
            made.append(NumpyCodec.encode_input(name, values))
    return InferenceRequest(inputs=made)


def mlserver_outputs(answer):
    from mlserver.codecs import NumpyCodec, StringCodec

    found = {}
    for each in answer.outputs:
        codec = StringCodec if each.datatype == "BYTES" else NumpyCodec
        if each.name in OUTPUTS:
            found[each.name] = plain(codec.decode_output(each))
    return found


def mlserver_rest():
    from mlserver.types import InferenceResponse, MetadataModelResponse

    with httpx.Client(base_url=f"http://{PLACE}/v2/models/{MODEL}", headers=HEADERS) as client:
        metadata = MetadataModelResponse.model_validate(client.get("").raise_for_status().json())
        request = mlserver_request([each.model_dump() for each in metadata.inputs])
        answer = client.post("/infer", content=request.model_dump_json(exclude_none=True)).raise_for_status()
    return mlserver_outputs(InferenceResponse.model_validate_json(answer.content))


def mlserver_grpc():
    import grpc
    from mlserver.grpc import converters
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

    inputs = httpx.get(f"http://{PLACE}/v2/models/{MODEL}", headers=HEADERS).raise_for_status().json()["inputs"]
    message = converters.ModelInferRequestConverter.from_types(
        mlserver_request(inputs, use_bytes=True), model_name=MODEL
    )
    with grpc.insecure_channel(PLACE) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(message, metadata=list(HEADERS.items()))
    return mlserver_outputs(converters.ModelInferResponseConverter.to_types(answer))


print(json.dumps({"triton": triton, "kserve": kserve, "mlserver": mlserver}[CLIENT]()))
