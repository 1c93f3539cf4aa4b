"""The Open Inference Protocol (V2) over REST, with its extension for binary tensors.

Statuses are those of the JSON API, and so are tokens, admission, counts and logs; only the form of a body differs.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from modelworks.runtime.manifest import Manifest
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server.admission import Estimate
from modelworks.runtime.server.engine import Engine, Job
from modelworks.runtime.server.http import Connection, Request, clock
from modelworks.runtime.server.refusals import POST_ONLY, UNDECODABLE, InvalidRequestError, located, undecodable
from modelworks.runtime.server.replies import Replies
from modelworks.runtime.server.tensors import (
    DATATYPES,
    Served,
    Tensor,
    binary_row_bytes,
    element_type,
    from_bytes,
    json_row_bytes,
    to_bytes,
)

PROBES = frozenset({b"/v2/health/live", b"/v2/health/ready"})
_JSON = b"application/json"
_BINARY = b"application/octet-stream"
_HEADER = b"inference-header-content-length"
_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<action>/ready|/infer|)/?")


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Body(msgspec.Struct):
    inputs: Annotated[list[_Input], Meta(min_length=1)]
    outputs: list[_Output] = []
    id: str | None = None
    parameters: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Body).decode
_flat = {name: msgspec.json.Decoder(list[element_type(name)]).decode for name in DATATYPES}  # type: ignore[misc]
_nested = {name: msgspec.json.Decoder(list[tuple[element_type(name)]]).decode for name in DATATYPES}  # type: ignore[misc]


class OpenInference:
    """All that is under `/v2`.

    Args:
        engine: Predicts.
        served: The model in the terms of the protocol.
    """

    def __init__(self, engine: Engine, served: Served) -> None:
        self.engine, self.served = engine, served
        self.replies = Replies(engine, _JSON, _problem)
        manifest, fixed = engine.manifest, _fixed_bytes(engine.manifest)
        in_json, in_binary = json_row_bytes(manifest), binary_row_bytes(manifest)
        self._json_rows = Estimate(lambda size: (size - fixed) // in_json, manifest.max_rows)
        self._binary_rows = Estimate(lambda size: (size - fixed) // in_binary, manifest.max_rows)

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer a request under `/v2`."""
        path = unquote(request.path.decode("latin-1"))
        found = _MODEL.fullmatch(path)
        if found is None:
            self._server(path.rstrip("/"), request, connection)
        elif not self.served.has(found["name"], found["version"] or ""):
            self._refuse(request, connection, 404, self.served.not_here())
        elif found["action"] == "/infer":
            self._infer(request, connection)
        elif found["action"] == "/ready":
            self._state(request, connection, {"name": self.served.name}, "ready", self.engine.ready)
        else:
            self._show(request, connection, metadata(self.served))

    def estimate_of(self, request: Request) -> Estimate | None:
        """How the rows of a request under `/v2` are estimated; None if it has none for the model."""
        found = _MODEL.fullmatch(unquote(request.path.decode("latin-1")))
        if found is None or found["action"] != "/infer" or not self.served.has(found["name"], found["version"] or ""):
            return None
        return self._rows_by(request)

    def _rows_by(self, request: Request) -> Estimate:
        return self._binary_rows if _HEADER in request.headers else self._json_rows

    # -- Pages ---------------------------------------------------------------------------------------------------
    def _server(self, path: str, request: Request, connection: Connection) -> None:
        if path == "/v2":
            self._show(request, connection, server_metadata())
        elif path == "/v2/health/live":
            self._state(request, connection, {}, "live", True)
        elif path == "/v2/health/ready":
            self._state(request, connection, {}, "ready", self.engine.ready)
        else:
            self._refuse(request, connection, 404, "nothing is here; see /v2 and /openapi.json")

    def _state(self, request: Request, connection: Connection, about: dict[str, str], name: str, yes: bool) -> None:
        self._show(request, connection, {**about, name: yes}, 200 if yes else 503)

    def _show(self, request: Request, connection: Connection, page: dict[str, Any], status: int = 200) -> None:
        if request.method in {b"GET", b"HEAD"}:
            connection.respond(request, status, msgspec.json.encode(page), _JSON)
        else:
            connection.respond(request, 405, _problem(405, "this takes GET"), _JSON, b"allow: GET, HEAD\r\n")

    def _refuse(self, request: Request, connection: Connection, status: int, detail: str) -> None:
        connection.respond(request, status, _problem(status, detail), _JSON)

    # -- Predictions ---------------------------------------------------------------------------------------------
    def _infer(self, request: Request, connection: Connection) -> None:
        request_id = self.engine.request_id(request.headers.get(b"x-request-id"))
        if request.method != b"POST":
            self.replies.turn_away(request, connection, request_id, 405, POST_ONLY, count=False)
            return
        estimate = self._rows_by(request)
        if not self.engine.lets_in(request, estimate, len(request.body)):
            self.replies.reject(request, connection, request_id)
            return
        try:
            body, inputs = _read(request)
            job = self._job(request, connection, request_id, body, inputs)
        except InvalidRequestError as error:
            self.replies.turn_away(request, connection, request_id, error.status, error.detail, field=error.field)
        else:
            self.engine.submit(job, estimate)

    def _job(
        self, request: Request, connection: Connection, request_id: bytes, body: _Body, inputs: list[Tensor]
    ) -> _Infer:
        names = self.served.wanted(body.outputs)
        every = body.parameters.get("binary_data_output") is True
        chosen = {output.name: output.parameters.get("binary_data", every) is True for output in body.outputs}
        binary = {name for name in names if chosen.get(name, every)}
        if b"x-request-id" not in request.headers and body.id:
            request_id = self.engine.request_id(body.id.encode("utf-8", "replace"))
        rows = self.served.rows(inputs)
        return _Infer(request, request_id, rows, connection, self, body.id or request_id.decode(), names, binary)

    def answer(self, job: _Infer, predictions: Predictions) -> tuple[bytes, bytes, bytes]:
        """Body, content type and header lines of an answer."""
        outputs, tail = [], []
        for tensor in self.served.tensors(predictions, job.outputs):
            output = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
            if tensor.name in job.binary:
                data = to_bytes(tensor)
                tail.append(data)
                outputs.append({**output, "parameters": {"binary_data_size": len(data)}})
            else:
                outputs.append({**output, "data": tensor.data})
        head = msgspec.json.encode(
            {
                "model_name": self.served.name,
                "model_version": self.served.version,
                "id": job.given_id,
                "outputs": outputs,
            }
        )
        if not tail:
            return head, _JSON, b""
        return b"".join([head, *tail]), _BINARY, b"%b: %d\r\n" % (_HEADER, len(head))


class _Infer(Job):
    """A request for predictions, of version 2."""

    connection: Connection
    api: OpenInference
    given_id: str
    outputs: list[str]
    binary: set[str]

    def answer(self, predictions: Predictions) -> float:
        body, media, more = self.api.answer(self, predictions)
        seconds = clock() - self.request.at
        head = self.api.replies.head(self.request, self.id, 200, seconds, len(self.rows))
        self.connection.respond(self.request, 200, body, media, head + more)
        return seconds

    def fail(self, status: int, detail: str) -> float:
        return self.api.replies.fail(self, self.connection, status, detail)


def server_metadata() -> dict[str, Any]:
    """The name and version of this server, and which extensions it has."""
    version = importlib.metadata.version("modelworks")
    return {"name": "modelworks", "version": version, "extensions": ["binary_tensor_data"]}


def metadata(served: Served) -> dict[str, Any]:
    """The metadata of the model."""
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": served.platform,
        "inputs": [spec._asdict() for spec in served.inputs],
        "outputs": [spec._asdict() for spec in served.outputs],
    }


# -- Requests --------------------------------------------------------------------------------------------------------
def _read(request: Request) -> tuple[_Body, list[Tensor]]:
    """The JSON of a request and its tensors; values in the binary form follow the JSON, in the order of the tensors."""
    head, tail = _split(request)
    try:
        body = _decode(head)
        tensors = []
        for number, given in enumerate(body.inputs):
            size = given.parameters.get("binary_data_size")
            if size is None:
                data = _from_json(number, given)
            else:
                field = f"inputs[{number}].parameters.binary_data_size"
                if type(size) is not int or not 0 <= size <= len(tail):
                    raise InvalidRequestError(field, f"{size} is no size of what follows the JSON", 400)
                data, tail = from_bytes(f"inputs[{number}]", given.datatype, tail[:size]), tail[size:]
            tensors.append(Tensor(given.name, given.datatype, given.shape, data))
    except UNDECODABLE as error:
        raise undecodable(error) from error
    if tail:
        raise InvalidRequestError("", f"{len(tail)} bytes follow the JSON that belong to no tensor", 400)
    return body, tensors


def _split(request: Request) -> tuple[bytes, bytes]:
    """The JSON, and the bytes after it."""
    length = request.headers.get(_HEADER)
    if length is None:
        return request.body, b""
    if not length.isdigit() or len(length) > 10 or int(length) > len(request.body):
        raise InvalidRequestError(_HEADER.decode(), f"it must be a part of the {len(request.body)} bytes sent", 400)
    return request.body[: int(length)], request.body[int(length) :]


def _from_json(number: int, given: _Input) -> list[Any]:
    field, raw = f"inputs[{number}]", bytes(given.data)
    if given.datatype not in _flat:
        raise InvalidRequestError(f"{field}.datatype", f"datatype {given.datatype!r} is not supported")
    if not raw:
        raise InvalidRequestError(f"{field}.data", f"{given.name} has no data")
    try:
        if raw.lstrip()[1:].lstrip()[:1] == b"[":
            return [value for [value] in _nested[given.datatype](raw)]
        values: list[Any] = _flat[given.datatype](raw)
    except msgspec.ValidationError as error:
        raise undecodable(error, f"{field}.data", given.name) from error
    return values


def _fixed_bytes(manifest: Manifest) -> int:
    """Bytes of a request that its rows do not add to."""
    tensors = [{"name": f.name, "datatype": "FP64", "shape": [1000], "data": []} for f in manifest.request_features]
    return len(msgspec.json.encode({"inputs": tensors}))


def _problem(status: int, detail: str, *, field: str = "", request_id: bytes = b"") -> bytes:  # noqa: ARG001
    return msgspec.json.encode({"error": located(field, detail)})
