"""The Open Inference Protocol (V2) over gRPC, on a port of its own or on that of HTTP/1.1 (see `relay`).

Tensors, tokens, admission, counts and logs are those of REST; only the form of a message differs. A call without a
token is refused by its headers, before its message is read. Errors have the gRPC code for the HTTP status, which is
what the log has. An answer has raw contents if its request has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import DecodeError

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server import v2_messages as messages
from modelworks.runtime.server.access import TokenFile
from modelworks.runtime.server.budget import Share
from modelworks.runtime.server.engine import Engine, Job
from modelworks.runtime.server.grpc_limits import MAX_CALLS, MAX_WATCHERS, CutOffError, Receiver, options
from modelworks.runtime.server.http import Request, clock
from modelworks.runtime.server.logs import Say, place
from modelworks.runtime.server.refusals import (
    FAILED,
    FULL,
    NO_TOKEN,
    RETRY_SECONDS,
    InvalidRequestError,
    located,
    undecodable,
)
from modelworks.runtime.server.tensors import Served, Tensor, element_type, from_bytes, to_bytes
from modelworks.runtime.server.v2_rest import metadata, server_metadata

_MOST_DETAIL = 1000
"""Characters of an error: it is sent as a header, and clients take few kilobytes of those."""
_QUIET_SECONDS, _LONGEST_QUIET_SECONDS = 0.1, 2.0
"""No new call for so long, and no more are on their way; and how long that is waited for."""
_WATCH_SECONDS = 0.5
"""How soon a watch has a change of the health."""
_INFER = f"{contract.GRPC_SERVICE}/ModelInfer"
_CHECK, _WATCH = f"{contract.GRPC_HEALTH}/Check", f"{contract.GRPC_HEALTH}/Watch"
_PROBES = frozenset({f"{contract.GRPC_SERVICE}/ServerLive", f"{contract.GRPC_SERVICE}/ServerReady", _CHECK, _WATCH})
_HEALTHY = frozenset({"", contract.GRPC_SERVICE})
"""Names under which the health of the server is known; it has no other service."""
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_NOTED = frozenset({"x-request-id", "traceparent", "tracestate", contract.HEADER_PROBE})
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where a message has the values of a datatype. FP16 is always raw."""
_NARROW = {name: list[element_type(name)] for name in ("INT8", "INT16", "UINT8", "UINT16")}  # type: ignore[misc]
"""Datatypes whose field takes more than they have."""

_Metadata = tuple[tuple[str, str | bytes], ...]
_Context = Any
_Handler = Callable[[bytes, _Context], Awaitable[bytes | None]]


async def listen(
    service: OpenInferenceService, host: str, port: int, max_message_bytes: int
) -> tuple[grpc.aio.Server, int]:
    """A server that answers on this address, and its port: a free one for 0.

    Raises:
        ModelworksError: The address cannot be listened on.
    """
    server = grpc.aio.server(
        handlers=[service],
        maximum_concurrent_rpcs=2 * MAX_CALLS,  # those above MAX_CALLS are being refused
        options=[
            *options(max_message_bytes),
            ("grpc.so_reuseport", 0),  # else a port that is taken is shared instead of refused
        ],
    )
    try:
        port = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise ModelworksError(f"{host}:{port} cannot be listened on for gRPC") from error
    await server.start()
    return server, port


async def close(server: grpc.aio.Server, service: OpenInferenceService, seconds: float) -> None:
    """Answer what is in flight within so many seconds, and refuse new calls."""
    # gRPC ends calls that wait for their turn as CANCELLED, which clients do not retry: refuse them first.
    service.closing = True
    end = clock() + _LONGEST_QUIET_SECONDS
    seen = -1
    while service.calls != seen and clock() < end:
        seen = service.calls
        await asyncio.sleep(_QUIET_SECONDS)
    await server.stop(seconds)


class OpenInferenceService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """`inference.GRPCInferenceService`, and `grpc.health.v1.Health` for it.

    Args:
        engine: Predicts.
        served: The model in the terms of the protocol.
        tokens: Those that are let in; None if everyone is.
        share: Of the budget, for messages on their way.
        say: Logs.
    """

    def __init__(self, engine: Engine, served: Served, tokens: TokenFile | None, share: Share, say: Say) -> None:
        self.engine, self.served = engine, served
        self.closing = False
        """Set at the end: new calls are refused."""
        self.calls = 0
        """Calls of any method so far."""
        self.waiting = 0
        """Requests for predictions that are not answered yet."""
        self._open = 0
        """Calls of any method that are not ended yet."""
        self._watchers: deque[asyncio.Event] = deque()
        """Set to end the watch."""
        self._tokens, self._say = tokens, say
        methods: dict[str, _Handler] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        named = {f"{contract.GRPC_SERVICE}/{name}": method for name, method in methods.items()}
        # The message of a stream is read when the method reads it, and that of a refused call never is.
        self._handlers = {
            name: grpc.stream_unary_rpc_method_handler(self._guarded(method))
            for name, method in {**named, _CHECK: self._health}.items()
        }
        self._handlers[_WATCH] = grpc.stream_stream_rpc_method_handler(self._guarded(self._watch))
        self._receiver = Receiver(share, engine.config.max_body_bytes)
        self._no_token = grpc.stream_unary_rpc_method_handler(self._refuse_access)
        self._closed = grpc.stream_unary_rpc_method_handler(self._refuse_late)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call, chosen by its headers; None if there is no such method."""
        self.calls += 1
        if self.closing:
            return self._closed
        method = handler_call_details.method.lstrip("/")
        if method not in self._handlers:
            return None
        if method not in _PROBES and not self._allows(handler_call_details.invocation_metadata):
            return self._no_token
        return self._handlers[method]

    def _allows(self, sent: _Metadata) -> bool:
        if self._tokens is None:
            return True
        given = [_bytes(value) for name, value in sent if name == "authorization"]
        return len(given) == 1 and self._tokens.allows(given[0])

    async def _refuse_access(self, _messages: Any, context: _Context) -> bytes:
        return await self._turn_away(context, _request(context), 401, NO_TOKEN, count=False)

    async def _refuse_late(self, _messages: Any, context: _Context) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server ends; retry with another")
        raise AssertionError("abort raises")

    def _guarded(self, method: _Handler) -> _Handler:
        """The method; an error that nobody expected is a line in the log, and no values of the request are in it."""

        async def answer(_messages: Any, context: _Context) -> bytes | None:
            request = _request(context)
            if self._open >= MAX_CALLS:
                return await self._turn_away(context, request, 429, f"there are {MAX_CALLS} calls at once", count=False)
            self._open += 1
            try:
                return await method(await self._receiver.message(context), context)
            except InvalidRequestError as error:
                return await self._turn_away(context, request, error.status, error.detail, count=False)
            except CutOffError as error:
                self._note(request, error.status, error.detail)
                raise
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # gRPC would log its message, which may quote a private value
                self._say("error", "unexpected error", error=place(error))
                await context.abort(grpc.StatusCode.INTERNAL, FAILED)
                raise
            finally:
                self._open -= 1

        return answer

    # -- About the server and the model --------------------------------------------------------------------------
    async def _health(self, message: bytes, context: _Context) -> bytes:
        asked = await _read(messages.HealthCheckRequest, message, context)
        if asked.service not in _HEALTHY:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {asked.service[:_MOST_DETAIL]!r} here")
        return _encoded(messages.HealthCheckResponse(status=_SERVING if self.engine.ready else _NOT_SERVING))

    async def _watch(self, message: bytes, context: _Context) -> None:
        """Answer with the health now and whenever it changes, until the caller or the server ends."""
        asked = await _read(messages.HealthCheckRequest, message, context)
        enough = asyncio.Event()
        if len(self._watchers) >= MAX_WATCHERS:
            self._watchers.popleft().set()
        self._watchers.append(enough)
        sent = None
        try:
            while True:
                health = _SERVING if self.engine.ready else _NOT_SERVING
                if (status := health if asked.service in _HEALTHY else _SERVICE_UNKNOWN) != sent:
                    await context.write(_encoded(messages.HealthCheckResponse(status=status)))
                    sent = status
                if self.closing or enough.is_set():
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), _WATCH_SECONDS)
        finally:
            if enough in self._watchers:
                self._watchers.remove(enough)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the watch ends; begin another")

    async def _server_live(self, _message: bytes, _context: _Context) -> bytes:
        return _encoded(messages.ServerLiveResponse(live=True))

    async def _server_ready(self, _message: bytes, _context: _Context) -> bytes:
        return _encoded(messages.ServerReadyResponse(ready=self.engine.ready))

    async def _server_metadata(self, _message: bytes, _context: _Context) -> bytes:
        return _encoded(messages.ServerMetadataResponse(**server_metadata()))

    async def _model_ready(self, message: bytes, context: _Context) -> bytes:
        await self._named_model(messages.ModelReadyRequest, message, context)
        return _encoded(messages.ModelReadyResponse(ready=self.engine.ready))

    async def _model_metadata(self, message: bytes, context: _Context) -> bytes:
        await self._named_model(messages.ModelMetadataRequest, message, context)
        return _encoded(messages.ModelMetadataResponse(**metadata(self.served)))

    async def _named_model(self, kind: Any, message: bytes, context: _Context) -> None:
        asked = await _read(kind, message, context)
        if not self.served.has(asked.name, asked.version):
            await context.abort(grpc.StatusCode.NOT_FOUND, self.served.not_here())

    # -- Predictions ---------------------------------------------------------------------------------------------
    async def _model_infer(self, message: bytes, context: _Context) -> bytes:
        request = _request(context)
        try:
            asked = messages.ModelInferRequest.FromString(message)
        except DecodeError:
            return await self._turn_away(context, request, 400, "the message is no ModelInferRequest")
        if asked.id and b"x-request-id" not in request.headers:
            request.headers[b"x-request-id"] = asked.id.encode()
        if not self.served.has(asked.model_name, asked.model_version):
            await context.abort(grpc.StatusCode.NOT_FOUND, self.served.not_here())
        if not self.engine.admits(_rows_of(asked)):
            self.engine.note_rejection(request, self.engine.request_id(request.headers.get(b"x-request-id")))
            return await _abort(context, 429, FULL)
        try:
            job = self._job(request, asked)
        except InvalidRequestError as error:
            return await self._turn_away(context, request, error.status, error.detail, field=error.field)
        return await self._answer(job, context)

    def _job(self, request: Request, asked: Any) -> _Infer:
        outputs = self.served.wanted(asked.outputs)
        rows = self.served.rows(_tensors(asked))
        request_id = self.engine.request_id(request.headers.get(b"x-request-id"))
        done = asyncio.get_running_loop().create_future()
        raw = len(asked.raw_input_contents) > 0
        return _Infer(request, request_id, rows, self, asked.id or request_id.decode(), outputs, raw, done)

    async def _answer(self, job: _Infer, context: _Context) -> bytes:
        self.waiting += 1
        try:
            self.engine.submit(job)
            status, content, traceparent = await job.done
        finally:
            self.waiting -= 1
        trailers = _trailers(job.id, traceparent)
        if status != 200:
            return await _abort(context, status, content.decode(), trailers)
        context.set_trailing_metadata(trailers)
        return content

    async def _turn_away(
        self, context: _Context, request: Request, status: int, detail: str, *, field: str = "", count: bool = True
    ) -> bytes:
        """Refuse a call whose caller is wrong; `count` it if it was one for the model."""
        request_id = self._note(request, status, detail, field=field, count=count)
        return await _abort(context, status, located(field, detail), _trailers(request_id, None))

    def _note(self, request: Request, status: int, detail: str, *, field: str = "", count: bool = False) -> bytes:
        """Log a call that is refused; its id."""
        request_id = self.engine.request_id(request.headers.get(b"x-request-id"))
        self.engine.note_refusal(request, request_id, status, detail, field=field, count=count)
        return request_id

    def response(self, job: _Infer, predictions: Predictions) -> bytes:
        """The message of an answer."""
        answer = messages.ModelInferResponse(
            model_name=self.served.name, model_version=self.served.version, id=job.given_id
        )
        for tensor in self.served.tensors(predictions, job.outputs):
            output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            if job.raw:
                answer.raw_output_contents.append(to_bytes(tensor))
            else:
                texts = tensor.datatype == "BYTES"
                values = [text.encode() for text in tensor.data] if texts else tensor.data
                getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
        return _encoded(answer)


class _Infer(Job):
    """A request for predictions over gRPC."""

    service: OpenInferenceService
    given_id: str
    outputs: list[str]
    raw: bool
    done: asyncio.Future[tuple[int, bytes, bytes | None]]
    """HTTP status, then the message or the reason, and the `traceparent`; cancelled when the caller has gone."""

    def answer(self, predictions: Predictions) -> float:
        return self._finish(200, self.service.response(self, predictions))

    def fail(self, status: int, detail: str) -> float:
        return self._finish(status, detail.encode())

    def _finish(self, status: int, content: bytes) -> float:
        seconds = clock() - self.request.at
        traceparent = self.service.engine.span(self.request, status, seconds, len(self.rows))
        if not self.done.done():
            self.done.set_result((status, content, traceparent))
        return seconds


# -- Requests --------------------------------------------------------------------------------------------------------
def _request(context: _Context) -> Request:
    """A call in the form that the engine, the log and traces take."""
    sent = context.invocation_metadata() or ()
    headers = {name.encode(): _bytes(value) for name, value in sent if name in _NOTED}
    return Request(b"POST", f"/{_INFER}".encode(), headers, at=clock())


async def _read(kind: Any, message: bytes, context: _Context) -> Any:
    """The message, or the end of a call that has another one."""
    try:
        return kind.FromString(message)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the message is no {kind.DESCRIPTOR.name}")
        raise


def _rows_of(asked: Any) -> int:
    """How many rows it seems to have: what does not hold is refused when it is decoded."""
    return max(0, asked.inputs[0].shape[0]) if asked.inputs and asked.inputs[0].shape else 0


def _tensors(asked: Any) -> list[Tensor]:
    raw = asked.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise InvalidRequestError("raw_input_contents", f"there are {len(raw)} for {len(asked.inputs)} inputs", 400)
    tensors = []
    for number, given in enumerate(asked.inputs):
        field = f"inputs[{number}]"
        if raw and given.HasField("contents"):
            raise InvalidRequestError(
                f"{field}.contents", "a request has contents or raw_input_contents, not both", 400
            )
        data = from_bytes(field, given.datatype, raw[number]) if raw else _typed(field, given)
        tensors.append(Tensor(given.name, given.datatype, list(given.shape), data))
    return tensors


def _typed(field: str, given: Any) -> list[Any]:
    """The values of a tensor, from the contents of its datatype."""
    if given.datatype not in _CONTENTS:
        detail = "FP16 must be in raw_input_contents" if given.datatype == "FP16" else "it is not supported"
        raise InvalidRequestError(f"{field}.datatype", f"datatype {given.datatype!r}: {detail}")
    expected = _CONTENTS[given.datatype]
    filled = [descriptor.name for descriptor, _ in given.contents.ListFields()]
    if filled and filled != [expected]:
        raise InvalidRequestError(
            f"{field}.contents",
            f"the values of {given.datatype} are in {expected} alone, not in {', '.join(filled)}",
            400,
        )
    values = list(getattr(given.contents, expected))
    try:
        if given.datatype == "BYTES":
            return [text.decode() for text in values]
        return msgspec.convert(values, _NARROW[given.datatype]) if given.datatype in _NARROW else values
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{field}.contents", f"{given.name}: a text is not UTF-8", 400) from error
    except msgspec.ValidationError as error:
        raise undecodable(error, f"{field}.contents.{expected}", given.name) from error


# -- Answers ---------------------------------------------------------------------------------------------------------
async def _abort(context: _Context, status: int, detail: str, trailers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """End a call with an error; never returns."""
    if status in {429, 503}:
        trailers = (*trailers, ("grpc-retry-pushback-ms", str(RETRY_SECONDS * 1000)))
    default = grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL
    await context.abort(_CODES.get(status, default), detail[:_MOST_DETAIL], trailers)
    raise AssertionError("abort raises")


def _trailers(request_id: bytes, traceparent: bytes | None) -> tuple[tuple[str, str], ...]:
    trailers = (("x-request-id", request_id.decode()),)
    return trailers if traceparent is None else (*trailers, ("traceparent", traceparent.decode("latin-1")))


def _encoded(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


def _bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1", "replace") if isinstance(value, str) else value
