"""The Open Inference Protocol (V2) over gRPC, in HTTP/2: on a port of its own or on that of HTTP/1.1.

Tensors, tokens, admission, counts and logs are those of REST; only the form of a message differs. A call without a
token is refused by its headers, before its message is taken. Errors have the gRPC code for the HTTP status, which is
what the log has. An answer has raw contents if its request has.

A call is one message each way, but for `Watch` of the health; so there is no task for a call, and no queue of messages.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from modelworks import contract
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server import v2_messages as messages
from modelworks.runtime.server.access import TokenFile
from modelworks.runtime.server.engine import Engine, Job
from modelworks.runtime.server.http import Request, clock
from modelworks.runtime.server.http2 import MAX_CALLS
from modelworks.runtime.server.http2_fields import Fields, field
from modelworks.runtime.server.http2_streams import Stream
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

MAX_WATCHERS = 32
"""Most callers that watch the health; the one that does so for longest makes room for another."""
_MOST_DETAIL = 1000
"""Bytes of an error: it is sent as a header, and clients take few kilobytes of those."""
_MOST_TRACE = 256
"""Bytes of a `traceparent` that an answer repeats; it has 55."""
_WATCH_SECONDS = 0.5
"""How soon a watch has a change of the health."""
_EARLY_SECONDS = 0.1
"""A caller began to count before us: one that gives up so shortly before its deadline does so because of it."""
_LONGEST_DEADLINE = 86_400.0
_INFER = f"{contract.GRPC_SERVICE}/ModelInfer"
_CHECK, _WATCH = f"{contract.GRPC_HEALTH}/Check", f"{contract.GRPC_HEALTH}/Watch"
_PROBES = frozenset({f"{contract.GRPC_SERVICE}/ServerLive", f"{contract.GRPC_SERVICE}/ServerReady", _CHECK, _WATCH})
_HEALTHY = frozenset({"", contract.GRPC_SERVICE})
"""Names under which the health of the server is known; it has no other service."""
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_INVALID_ARGUMENT, _NOT_FOUND, _UNIMPLEMENTED, _INTERNAL, _UNAVAILABLE = 3, 5, 12, 13, 14
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 413: 8, 422: 3, 429: 8, 503: 14}
"""Of gRPC, for the statuses of HTTP (grpc.github.io/grpc/core, md_doc_statuscodes)."""
_NOTED = frozenset({b"x-request-id", b"traceparent", b"tracestate", contract.HEADER_PROBE.encode()})
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CODINGS = {b"gzip": 31, b"deflate": 15}
"""How messages may be compressed, and the window of zlib for each."""
_ACCEPTED = b"identity, deflate, gzip"
_HEAD = b"\x88" + field(b"content-type", b"application/grpc") + field(b"grpc-accept-encoding", _ACCEPTED)
_OK = field(b"grpc-status", b"0")
_TRACE = b"traceparent"
_ESCAPED = re.compile(rb"[^ -$&-~]")
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

_Handler = Callable[[Stream, Request, bytes], bytes | None]
"""The answer to a message, or None if it comes later."""


class _Head(msgspec.Struct, frozen=True):
    """The content of the headers of a call."""

    path: bytes
    noted: dict[bytes, bytes]
    authorization: bytes = b""
    """Empty unless there is exactly one."""
    timeout: float | None = None
    encoding: bytes = b""
    """Of a message that is compressed."""
    status: int = 200
    """Of HTTP, if it is no call of gRPC."""
    trouble: str = ""
    """Why it is refused."""

    @property
    def method(self) -> str:
        """Service and method."""
        return self.path[1:].decode("latin-1")


class _EndError(Exception):
    """A call ends with a code of gRPC and a reason, which are not logged."""


class OpenInferenceService:
    """`inference.GRPCInferenceService`, and `grpc.health.v1.Health` for it: a door of `http2`.

    Args:
        engine: Predicts.
        served: The model in the terms of the protocol.
        tokens: Those that are let in; None if everyone is.
        say: Logs.
    """

    def __init__(self, engine: Engine, served: Served, tokens: TokenFile | None, say: Say) -> None:
        self.engine, self.served = engine, served
        self.closing = False
        """Set at the end: new calls are refused."""
        self.calls = 0
        """Calls of any method so far."""
        self.waiting: set[Stream] = set()
        """Requests for predictions that are not answered yet."""
        self._watchers: deque[_Watcher] = deque()
        self._largest = engine.config.max_body_bytes
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
        self._handlers = {
            f"/{name}".encode(): method for name, method in {**named, _CHECK: self._health, _WATCH: self._watch}.items()
        }

    # -- From the connection: see `http2_streams.Door` -----------------------------------------------------------------
    def meaning(self, fields: Fields) -> _Head:
        """The content of the headers of a call."""
        given = dict(fields)
        noted = {name: value for name, value in fields if name in _NOTED}
        tokens = [value for name, value in fields if name == b"authorization"]
        head = _Head(given.get(b":path", b""), noted, tokens[0] if len(tokens) == 1 else b"")
        kind = given.get(b"content-type", b"")
        if kind != b"application/grpc" and not kind.startswith((b"application/grpc+", b"application/grpc;")):
            return msgspec.structs.replace(head, status=415, trouble="this port takes gRPC over HTTP/2")
        if given.get(b":method") != b"POST":
            return msgspec.structs.replace(head, status=405, trouble="gRPC takes POST")
        timeout = given.get(b"grpc-timeout")
        if timeout is not None:
            if (parts := _TIMEOUT.fullmatch(timeout)) is None:
                return msgspec.structs.replace(head, trouble="grpc-timeout is not well-formed")
            head = msgspec.structs.replace(head, timeout=int(parts[1]) * _UNITS[parts[2]])
        return msgspec.structs.replace(head, encoding=given.get(b"grpc-encoding", b"identity"))

    def begin(self, stream: Stream) -> None:
        """Refuse a call by its headers, or let its message come."""
        self.calls += 1
        head: _Head = stream.meaning
        if head.status != 200:
            _answer_http(stream, head)
        elif self.closing:
            _end(stream, _UNAVAILABLE, "the server ends; retry with another")
        elif head.path not in self._handlers:
            _end(stream, _UNIMPLEMENTED, "Method not found!")
        elif self._tokens is not None and head.method not in _PROBES and not self._tokens.allows(head.authorization):
            self._turn_away(stream, _request(stream), 401, NO_TOKEN, count=False)
        elif head.trouble:
            _end(stream, _INVALID_ARGUMENT, head.trouble)
        elif not stream.connection.makes_room():
            self._turn_away(stream, _request(stream), 429, f"there are {MAX_CALLS} calls at once", count=False)
        elif head.timeout is not None and head.timeout < _LONGEST_DEADLINE and not stream.ended:
            stream.timer = asyncio.get_running_loop().call_later(head.timeout, self._expire, stream)

    def grew(self, stream: Stream) -> None:
        """Refuse a message as soon as it is known to be too large."""
        body = stream.body
        if len(body) >= 5 and max(len(body) - 5, int.from_bytes(body[1:5])) > self._largest:
            self._turn_away(stream, _request(stream), 413, self._too_large(), count=False)

    def complete(self, stream: Stream) -> None:
        """Answer a call; an error that nobody expected is a line in the log, and no values of the request are in it."""
        request = _request(stream)
        try:
            message = self._message(stream)
            answer = self._handlers[request.path](stream, request, message)
        except InvalidRequestError as error:
            self._turn_away(stream, request, error.status, error.detail, field=error.field, count=False)
        except _EndError as error:
            _end(stream, *error.args)
        except Exception as error:  # noqa: BLE001 - one call must not end the others of its connection
            self._say("error", "unexpected error", error=place(error))
            _end(stream, _INTERNAL, FAILED)
        else:
            if answer is not None:
                stream.answer(_HEAD, _framed(answer), _OK)

    def late(self, stream: Stream, seconds: float) -> None:
        """Refuse a message that did not come in time."""
        detail = f"the message was not complete after {seconds:g} seconds"
        self._turn_away(stream, _request(stream), 408, detail, count=False)

    def crowded(self, stream: Stream) -> None:
        """Refuse a message that there is no room for."""
        self._turn_away(stream, _request(stream), 429, "too many large requests at once", count=False)

    def left(self, stream: Stream) -> None:
        """Forget a call that its caller gave up; one whose deadline passed before its message had come is noted."""
        self.waiting.discard(stream)
        self._unwatch(stream)
        timer = stream.timer
        if (
            not stream.complete
            and timer is not None
            and timer.when() - asyncio.get_running_loop().time() < _EARLY_SECONDS
        ):
            self._note(_request(stream), 408, "the caller's deadline has passed")

    def _expire(self, stream: Stream) -> None:
        """The deadline of a call has passed."""
        self.waiting.discard(stream)
        self._unwatch(stream)
        detail = "the caller's deadline has passed"
        if not stream.complete:
            self._note(_request(stream), 408, detail)
        _end(stream, _CODES[408], detail)

    def _message(self, stream: Stream) -> bytes:
        """The message of a call; an empty one if it has none."""
        body, head = stream.body, stream.meaning
        if not body:
            return b""
        size = int.from_bytes(body[1:5])
        if size > self._largest:
            raise InvalidRequestError("", self._too_large(), 413)
        if len(body) != 5 + size:
            if len(body) < 5 + size:
                raise InvalidRequestError("", "the call ends within its message", 400)
            raise _EndError(_UNIMPLEMENTED, "a call has one message")
        message = body[5:] if type(body) is bytes else bytes(memoryview(body)[5:])
        if not body[0]:
            return message
        if body[0] > 1 or head.encoding == b"identity":
            raise InvalidRequestError("", "the message is compressed without a grpc-encoding", 400)
        if head.encoding not in _CODINGS:
            raise _EndError(_UNIMPLEMENTED, f"messages may be {_ACCEPTED.decode()}")
        return self._inflated(message, _CODINGS[head.encoding])

    def _inflated(self, message: bytes, window: int) -> bytes:
        inflater = zlib.decompressobj(window)
        try:
            inflated = inflater.decompress(message, self._largest + 1)
        except zlib.error as error:
            raise InvalidRequestError("", "the message cannot be decompressed", 400) from error
        if len(inflated) > self._largest:
            raise InvalidRequestError("", self._too_large(), 413)
        if not inflater.eof or inflater.unused_data:
            raise InvalidRequestError("", "the message cannot be decompressed", 400)
        return inflated

    def _too_large(self) -> str:
        return f"the message is larger than {self._largest} bytes"

    # -- About the server and the model --------------------------------------------------------------------------
    def _health(self, _stream: Stream, _request: Request, message: bytes) -> bytes:
        asked = _read(messages.HealthCheckRequest, message)
        if asked.service not in _HEALTHY:
            raise _EndError(_NOT_FOUND, f"there is no service {asked.service[:_MOST_DETAIL]!r} here")
        return _encoded(messages.HealthCheckResponse(status=self._status()))

    def _status(self) -> int:
        return _SERVING if self.engine.ready else _NOT_SERVING

    def _watch(self, stream: Stream, _request: Request, message: bytes) -> None:
        """Answer with the health now and whenever it changes, until the caller or the server ends."""
        asked = _read(messages.HealthCheckRequest, message)
        if len(self._watchers) >= MAX_WATCHERS:
            self._watchers.popleft().end()
        stream.stays = True
        watcher = _Watcher(stream, known=asked.service in _HEALTHY)
        if not self._watchers:
            asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._tell)
        self._watchers.append(watcher)
        watcher.tell(self._status())

    def _tell(self) -> None:
        """Send each watcher the health, if it changed."""
        for watcher in list(self._watchers):
            watcher.tell(self._status())
        if self._watchers:
            asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._tell)

    def _unwatch(self, stream: Stream) -> None:
        if stream.stays:
            self._watchers = deque(each for each in self._watchers if each.stream is not stream)

    def close(self) -> None:
        """Refuse new calls, and end watches; what is in flight is answered."""
        self.closing = True
        while self._watchers:
            watcher = self._watchers.popleft()
            watcher.tell(self._status())
            watcher.end()

    def _server_live(self, _stream: Stream, _request: Request, _message: bytes) -> bytes:
        return _encoded(messages.ServerLiveResponse(live=True))

    def _server_ready(self, _stream: Stream, _request: Request, _message: bytes) -> bytes:
        return _encoded(messages.ServerReadyResponse(ready=self.engine.ready))

    def _server_metadata(self, _stream: Stream, _request: Request, _message: bytes) -> bytes:
        return _encoded(messages.ServerMetadataResponse(**server_metadata()))

    def _model_ready(self, _stream: Stream, _request: Request, message: bytes) -> bytes:
        self._check_named(_read(messages.ModelReadyRequest, message))
        return _encoded(messages.ModelReadyResponse(ready=self.engine.ready))

    def _model_metadata(self, _stream: Stream, _request: Request, message: bytes) -> bytes:
        self._check_named(_read(messages.ModelMetadataRequest, message))
        return _encoded(messages.ModelMetadataResponse(**metadata(self.served)))

    def _check_named(self, asked: Any) -> None:
        if not self.served.has(asked.name, asked.version):
            raise _EndError(_NOT_FOUND, self.served.not_here())

    # -- Predictions ---------------------------------------------------------------------------------------------
    def _model_infer(self, stream: Stream, request: Request, message: bytes) -> None:
        try:
            asked = messages.ModelInferRequest.FromString(message)
        except DecodeError:
            self._turn_away(stream, request, 400, "the message is no ModelInferRequest")
            return
        if asked.id and b"x-request-id" not in request.headers:
            request.headers[b"x-request-id"] = asked.id.encode()
        if not self.served.has(asked.model_name, asked.model_version):
            raise _EndError(_NOT_FOUND, self.served.not_here())
        if not self.engine.admits(_rows_of(asked)):
            self.engine.note_rejection(request, self.engine.request_id(request.headers.get(b"x-request-id")))
            _refuse(stream, 429, FULL)
            return
        try:
            job = self._job(stream, request, asked)
        except InvalidRequestError as error:
            self._turn_away(stream, request, error.status, error.detail, field=error.field)
            return
        self.waiting.add(stream)
        self.engine.submit(job)

    def _job(self, stream: Stream, request: Request, asked: Any) -> _Infer:
        outputs = self.served.wanted(asked.outputs)
        rows = self.served.rows(_tensors(asked))
        request_id = self.engine.request_id(request.headers.get(b"x-request-id"))
        raw = len(asked.raw_input_contents) > 0
        return _Infer(request, request_id, rows, self, stream, asked.id or request_id.decode(), outputs, raw)

    def _turn_away(
        self, stream: Stream, request: Request, status: int, detail: str, *, field: str = "", count: bool = True
    ) -> None:
        """Refuse a call whose caller is wrong; `count` it if it was one for the model."""
        request_id = self._note(request, status, detail, field=field, count=count)
        _refuse(stream, status, located(field, detail), _trailers(request_id, None))

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
    stream: Stream
    given_id: str
    outputs: list[str]
    raw: bool

    def answer(self, predictions: Predictions) -> float:
        # Nobody takes the answer to a call that its caller gave up.
        message = b"" if self.stream.ended else _framed(self.service.response(self, predictions))
        seconds, trailers = self._finish(200)
        if not self.stream.ended:
            self.stream.answer(_HEAD, message, _OK + trailers)
        return seconds

    def fail(self, status: int, detail: str) -> float:
        seconds, trailers = self._finish(status)
        _refuse(self.stream, status, detail, trailers)
        return seconds

    def _finish(self, status: int) -> tuple[float, bytes]:
        """The seconds since its request was complete, and its trailers."""
        self.service.waiting.discard(self.stream)
        seconds = clock() - self.request.at
        traceparent = self.service.engine.span(self.request, status, seconds, len(self.rows))
        return seconds, _trailers(self.id, traceparent)


class _Watcher(msgspec.Struct):
    """Who watches the health."""

    stream: Stream
    known: bool
    """Whether it is that of a service that is here."""
    sent: int | None = None

    def tell(self, health: int) -> None:
        """Send the health, if it is another than before."""
        status = health if self.known else _SERVICE_UNKNOWN
        if status != self.sent:
            head = b"" if self.sent is not None else _HEAD
            self.sent = status
            self.stream.send(head, _framed(_encoded(messages.HealthCheckResponse(status=status))))

    def end(self) -> None:
        """End the watch."""
        self.stream.end(_status(_UNAVAILABLE, "the watch ends; begin another"))


# -- Requests --------------------------------------------------------------------------------------------------------
def _request(stream: Stream) -> Request:
    """A call in the form that the engine, the log and traces take."""
    head: _Head = stream.meaning
    return Request(b"POST", head.path, dict(head.noted), at=clock())


def _read(kind: Any, message: bytes) -> Any:
    """The message."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise _EndError(_INVALID_ARGUMENT, f"the message is no {kind.DESCRIPTOR.name}") from error


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
def _framed(message: bytes) -> bytes:
    """A message as it is sent: not compressed."""
    return b"\0%b%b" % (len(message).to_bytes(4), message)


def _answer_http(stream: Stream, head: _Head) -> None:
    """Answer what is no call of gRPC."""
    more = field(b"allow", b"POST") if head.status == 405 else b""
    fields = field(b":status", b"%d" % head.status) + field(b"content-type", b"text/plain") + more
    stream.send(fields, head.trouble.encode() + b"\n")
    stream.end(b"")


def _refuse(stream: Stream, status: int, detail: str, trailers: bytes = b"") -> None:
    """End a call with the code for a status of HTTP."""
    if status in {429, 503}:
        trailers += field(b"grpc-retry-pushback-ms", b"%d" % (RETRY_SECONDS * 1000))
    _end(stream, _CODES.get(status, _INVALID_ARGUMENT if status < 500 else _INTERNAL), detail, trailers)


def _end(stream: Stream, code: int, detail: str, trailers: bytes = b"") -> None:
    """End a call with an error: an answer of trailers alone, but for a watch."""
    if stream.stays and stream.answered:
        stream.end(_status(code, detail) + trailers)
    else:
        stream.refuse(_HEAD + _status(code, detail) + trailers)


def _status(code: int, detail: str) -> bytes:
    said = detail.encode()[:_MOST_DETAIL].decode(errors="ignore").encode()
    escaped = _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], said)
    return field(b"grpc-status", b"%d" % code) + field(b"grpc-message", escaped)


def _trailers(request_id: bytes, traceparent: bytes | None) -> bytes:
    trailers = field(b"x-request-id", request_id)
    if traceparent is None or len(traceparent) > _MOST_TRACE:
        return trailers
    return trailers + field(_TRACE, traceparent)


def _encoded(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded
