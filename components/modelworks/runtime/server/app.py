"""The HTTP API of a model: rows in, predictions out, as JSON or as Arrow IPC streams, and pages that describe both.

A request is refused (429) by its head if the queue is full, else by its size when it is complete; then it is decoded,
checked and handed to the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime import schema
from modelworks.runtime.manifest import Manifest, class_name
from modelworks.runtime.predictions import Predictions, json_encoder
from modelworks.runtime.server import media, metrics, v2_rest
from modelworks.runtime.server.access import TokenFile
from modelworks.runtime.server.admission import Estimate
from modelworks.runtime.server.budget import Budget
from modelworks.runtime.server.companion import Companion
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.delivery import delivery
from modelworks.runtime.server.engine import Engine, Job
from modelworks.runtime.server.exchange import Exchange
from modelworks.runtime.server.http import MAX_CONNECTIONS, Caller, Connection, Listener, Refusal, Request, clock
from modelworks.runtime.server.logs import Scribe
from modelworks.runtime.server.prediction_log import PredictionLog
from modelworks.runtime.server.refusals import FULL, NO_TOKEN, POST_ONLY, UNDECODABLE, InvalidRequestError, undecodable
from modelworks.runtime.server.replies import Replies
from modelworks.runtime.server.tensors import Served, binary_row_bytes
from modelworks.runtime.server.v2_rest import OpenInference

if TYPE_CHECKING:
    from modelworks.runtime.server.arrow_ipc import ArrowStreams

_TICK_SECONDS = 0.5
_COLUMN_BYTES = 200
"""About what a column takes in an Arrow IPC stream besides its values."""

_PROBLEM = b"application/problem+json"
_PROBES = frozenset({b"/livez", b"/readyz"}) | v2_rest.PROBES
_PREDICT = b"/v1/predict"
_NO_TOKEN = Refusal(401, NO_TOKEN)
_FULL = Refusal(429, FULL)

Pages = dict[bytes, tuple[bytes, bytes | Callable[[], bytes]]]
"""By path: content type, and the page or what makes it."""
_MOST_AWAITING = 32
"""Requests that wait for pyarrow to be imported, at most."""


class App:
    """A model that answers requests over HTTP: rows, and pages about them.

    Args:
        engine: Predicts.
        scribe: Writes logs.
        bento: Folder of the unpacked bundle, for the model card.
        log: The prediction log, if there is one.
        companion: The publisher, if there is one.

    Raises:
        ModelworksError: Access needs tokens, and there is none.
    """

    def __init__(
        self,
        engine: Engine,
        scribe: Scribe,
        *,
        bento: Path,
        log: PredictionLog | None = None,
        companion: Companion | None = None,
    ) -> None:
        self.engine, self.config, self.manifest = engine, engine.config, engine.manifest
        self.tokens = _tokens(self.config, scribe)
        self.budget = Budget(self.config.max_body_bytes)
        self._replies = Replies(engine, _PROBLEM, _problem)
        self.served = Served(self.config, self.manifest)
        self._v2 = OpenInference(engine, self.served)
        self._scribe, self._log, self._companion = scribe, log, companion
        self._answer = _Answer(self.config, self.manifest, self._replies)
        self._arrow: ArrowStreams | None = None
        """Once a request needed it."""
        self._awaiting_arrow: list[tuple[Request, Connection | Exchange, bytes]] = []
        fixed, arrow_bytes = _COLUMN_BYTES * len(self.manifest.request_features), binary_row_bytes(self.manifest)
        most = self.manifest.max_rows
        self._json_rows = Estimate(lambda size: size // engine.row_bytes, most)
        self._arrow_rows = Estimate(lambda size: (size - fixed) // arrow_bytes, most)
        self._pages = self._static_pages(bento)

    # -- A request -----------------------------------------------------------------------------------------------
    def check_head(self, request: Request, size: int) -> Refusal | None:
        """Why a request is refused before its body is read; see `http.Door`."""
        if (
            self.tokens is not None
            and request.path not in _PROBES
            and not self.tokens.allows(request.headers.get(b"authorization", b""))
        ):
            return _NO_TOKEN
        queue = self.engine.queue
        return None if queue.rows < queue.always or size < 0 else self._check_room(request, size)

    def _check_room(self, request: Request, size: int) -> Refusal | None:
        estimate = self._estimate_of(request) if request.method == b"POST" else None
        return None if estimate is None or self.engine.lets_in(request, estimate, size) else _FULL

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer a request; see `http.Door`."""
        if request.refusal is _FULL:
            request_id = self.engine.request_id(request.headers.get(b"x-request-id"))
            self._replies_to(request).reject(request, connection, request_id)
        elif request.refusal is not None:
            self._refuse(request, connection, *request.refusal, count=False)
        else:
            self._route(request, connection)

    def streams(self, request: Request) -> bool:
        """Whether it is an Arrow IPC stream of any length that is answered with one; see `http.Door`."""
        return (
            request.path == _PREDICT
            and request.method == b"POST"
            and media.is_arrow(request.headers)
            and media.wants_arrow(request.headers)
        )

    def stream(self, request: Request, exchange: Exchange) -> None:
        """Answer each batch while the next one comes; see `http.Door`."""
        self._predict_arrow(request, exchange, self.engine.request_id(request.headers.get(b"x-request-id")))

    def _estimate_of(self, request: Request) -> Estimate | None:
        """How the rows of a POST are estimated; None if it has none for the model."""
        if request.path == _PREDICT:
            return self._arrow_rows if media.is_arrow(request.headers) else self._json_rows
        return self._v2.estimate_of(request) if _is_v2(request) else None

    def _route(self, request: Request, connection: Connection) -> None:
        if request.path == _PREDICT:
            self._predict(request, connection)
        elif _is_v2(request):
            self._v2.handle(request, connection)
        else:
            self._page(request, connection)

    def _predict(self, request: Request, connection: Connection) -> None:
        arrow = media.is_arrow(request.headers)
        estimate = self._arrow_rows if arrow else self._json_rows
        request_id = self._admit(request, connection, estimate)
        if request_id is None:
            return
        if arrow or media.wants_arrow(request.headers):
            self._predict_arrow(request, connection, request_id)
            return
        try:
            rows = self.engine.decode(request.body)
        except UNDECODABLE as error:
            self._turn_away(request, connection, request_id, undecodable(error))
        else:
            self.engine.submit(_Predict(request, request_id, rows, connection, self._answer), estimate)

    def _predict_arrow(self, request: Request, connection: Connection | Exchange, request_id: bytes) -> None:
        if self._arrow is None:
            self._await_arrow(request, connection, request_id)
        elif isinstance(connection, Exchange):
            from modelworks.runtime.server.arrow_stream import StreamedPredict

            connection.take(StreamedPredict(self.engine, self._arrow, self._replies, request, request_id, connection))
        else:
            self._predict_batches(self._arrow, request, connection, request_id)

    def _predict_batches(
        self, arrow: ArrowStreams, request: Request, connection: Connection, request_id: bytes
    ) -> None:
        arrows = media.is_arrow(request.headers)
        try:
            if arrows:
                rows, sizes = arrow.decode(request.body)
            else:
                rows = self.engine.decode(request.body)
                sizes = [len(rows)]
        except UNDECODABLE as error:
            self._turn_away(request, connection, request_id, undecodable(error))
            return
        except InvalidRequestError as error:
            self._turn_away(request, connection, request_id, error)
            return
        wanted = media.wants_arrow(request.headers)
        answer = _ArrowAnswer(arrow, sizes, self._replies) if wanted else self._answer
        estimate = self._arrow_rows if arrows else self._json_rows
        self.engine.submit(_Predict(request, request_id, rows, connection, answer), estimate)

    def _await_arrow(self, request: Request, connection: Connection | Exchange, request_id: bytes) -> None:
        """Let a request wait until pyarrow is imported, which takes long: others are answered meanwhile."""
        if len(self._awaiting_arrow) == _MOST_AWAITING:
            self._replies.reject(request, connection, request_id)
            return
        self._awaiting_arrow.append((request, connection, request_id))
        if len(self._awaiting_arrow) == 1:
            loading = asyncio.get_running_loop().run_in_executor(None, self._load_arrow)
            loading.add_done_callback(self._loaded_arrow)

    def _load_arrow(self) -> ArrowStreams:
        from modelworks.runtime.server.arrow_ipc import ArrowStreams

        return ArrowStreams(self.config, self.manifest)

    def _loaded_arrow(self, done: asyncio.Future[ArrowStreams]) -> None:
        waiting, self._awaiting_arrow = self._awaiting_arrow, []
        error = done.exception()
        if error is None:
            self._arrow = done.result()
        for request, connection, request_id in waiting:
            if isinstance(error, Exception):
                self.engine.fail(_Predict(request, request_id, [], connection, self._answer), error)
            else:
                self._predict_arrow(request, connection, request_id)

    def _turn_away(self, request: Request, connection: Connection, request_id: bytes, why: InvalidRequestError) -> None:
        self._replies.turn_away(request, connection, request_id, why.status, why.detail, field=why.field)

    def _admit(self, request: Request, connection: Connection, estimate: Estimate) -> bytes | None:
        """The request's id, if about as many rows as it has are let in; None when it was turned away."""
        request_id = self.engine.request_id(request.headers.get(b"x-request-id"))
        if request.method != b"POST":
            self._replies.turn_away(request, connection, request_id, 405, POST_ONLY, count=False)
            return None
        if not self.engine.lets_in(request, estimate, len(request.body)):
            self._replies.reject(request, connection, request_id)
            return None
        return request_id

    def _refuse(self, request: Request, connection: Connection, status: int, detail: str, *, count: bool) -> None:
        request_id = self.engine.request_id(request.headers.get(b"x-request-id"))
        self._replies_to(request).turn_away(request, connection, request_id, status, detail, count=count)

    def _replies_to(self, request: Request) -> Replies:
        return self._v2.replies if request.path.startswith(b"/v2") else self._replies

    def _page(self, request: Request, connection: Connection) -> None:
        path = request.path
        if path not in self._pages and path not in {b"/livez", b"/readyz"}:
            known = b", ".join([*self._pages, b"/v1/predict", b"/livez", b"/readyz"]).decode()
            connection.respond(request, 404, _problem(404, f"nothing is here; there are {known}"), _PROBLEM)
        elif request.method not in {b"GET", b"HEAD"}:
            connection.respond(request, 405, _problem(405, "this takes GET"), _PROBLEM, b"allow: GET, HEAD\r\n")
        elif path == b"/livez":
            connection.respond(request, 200, b"ok\n", b"text/plain")
        elif path == b"/readyz":
            ready = self.engine.ready
            state = b"ready\n" if ready else b"draining\n" if self.engine.draining else b"the service is not ready\n"
            connection.respond(request, 200 if ready else 503, state, b"text/plain")
        else:
            content_type, page = self._pages[path]
            connection.respond(request, 200, page() if callable(page) else page, content_type)

    # -- Pages ---------------------------------------------------------------------------------------------------
    def _static_pages(self, bento: Path) -> Pages:
        manifest, config = self.manifest, self.config
        description = schema.openapi(manifest, config.version or config.release, needs_token=not config.allow_anonymous)
        card = bento / "src" / manifest.card
        version = {
            "model": manifest.model,
            "version": config.version,
            "release": config.release,
            "digest": config.digest,
            "kind": manifest.kind,
            "served": manifest.served,
            "environment": config.environment,
            "latency_objective_ms": self.engine.objective,
            "parity": manifest.parity,
        }
        if manifest.served == "skops":
            version["note"] = "served by scikit-learn: the bundle carries no ONNX graph, so expect higher latency"
        schemas = {
            "model": manifest.model,
            "task": manifest.task,
            "row": schema.row_schema(manifest),
            "prediction": schema.prediction_schema(manifest),
        }
        return {
            b"/": (b"text/html; charset=utf-8", _front_page(manifest, config)),
            b"/v1/schema": (media.JSON, msgspec.json.encode(schemas)),
            b"/v1/version": (media.JSON, msgspec.json.encode(version)),
            b"/v1/card": (
                b"text/markdown; charset=utf-8",
                card.read_bytes() if card.is_file() else b"This bundle has no model card.\n",
            ),
            b"/openapi.json": (media.JSON, msgspec.json.encode(description)),
            b"/metrics": (b"text/plain; version=0.0.4; charset=utf-8", self._metrics),
        }

    def _metrics(self) -> bytes:
        self.engine.counters.share()
        labels = {
            contract.DIMENSION_ENVIRONMENT: self.config.environment,
            contract.DIMENSION_MODEL: self.manifest.model,
            contract.DIMENSION_VERSION: self.config.release,
        }
        names = [class_name(label) for label in self.manifest.classes]
        counters = self.engine.counters
        text = metrics.prometheus(counters.row, counters.layout, labels, names)
        refused = {str(status): count for status, count in sorted(self.engine.refused.items())}
        samples = [
            metrics.Sample("modelworks_refusals_total", "counter", "Requests refused, by status.", refused, "status"),
            metrics.Sample(
                "modelworks_dependent_answers_total",
                "counter",
                "Answers that were found to depend on other rows, of one call in 1000.",
                {"": self.engine.dependent},
            ),
            *delivery(self.config, counters.row, self._scribe, self._log, self._companion),
        ]
        return (text + metrics.prometheus_samples(samples)).encode()

    # -- Now and then --------------------------------------------------------------------------------------------
    def tick(self, *, last: bool = False) -> None:
        """Housekeeping, twice a second and at the end: read the tokens, show the numbers, hand logs to the scribe."""
        if self.tokens is not None:
            self.tokens.refresh()
        self.engine.tick(last=last)


class _Answer:
    """Predictions as a response of version 1.

    Args:
        config: Names the release.
        manifest: Of the bundle.
        replies: Make the headers.
    """

    def __init__(self, config: Config, manifest: Manifest, replies: Replies) -> None:
        self._encode, self.replies = json_encoder(manifest), replies
        self._tail = b'],"model":%b,"version":%b}' % (
            msgspec.json.encode(manifest.model),
            msgspec.json.encode(config.release),
        )

    media = media.JSON

    def body(self, predictions: Predictions) -> bytes:
        """The body of a response."""
        return b'{"predictions":[%b%b' % (b",".join(self._encode(predictions)), self._tail)


class _ArrowAnswer:
    """Predictions as an Arrow IPC stream.

    Args:
        streams: Encode.
        sizes: Of the batches of the answer.
        replies: Make the headers.
    """

    media = media.ARROW

    def __init__(self, streams: ArrowStreams, sizes: list[int], replies: Replies) -> None:
        self._streams, self._sizes, self.replies = streams, sizes, replies

    def body(self, predictions: Predictions) -> bytes:
        """The body of a response."""
        return self._streams.encode(predictions, self._sizes)


class _Predict(Job):
    """A request for predictions, of version 1."""

    connection: Caller
    form: _Answer | _ArrowAnswer

    def answer(self, predictions: Predictions) -> float:
        request, form = self.request, self.form
        body = form.body(predictions)
        seconds = clock() - request.at
        head = form.replies.head(request, self.id, 200, seconds, len(self.rows))
        self.connection.respond(request, 200, body, form.media, head)
        return seconds

    def fail(self, status: int, detail: str) -> float:
        return self.form.replies.fail(self, self.connection, status, detail)


def listener(app: App, max_connections: int = MAX_CONNECTIONS) -> Listener:
    """The factory of connections for `app`."""
    return Listener(app, app.config.max_body_bytes, app.budget.share(), max_connections)


def _tokens(config: Config, scribe: Scribe) -> TokenFile | None:
    """The tokens that are let in; None if everyone is, which `allow_anonymous` alone decides."""
    if config.allow_anonymous:
        if config.token_file is not None:
            scribe.say("warning", "everyone is let in: the token file is not used", path=str(config.token_file))
        return None
    if config.token_file is None:
        raise ModelworksError("access needs a token file, or allow_anonymous to let everyone in")
    return TokenFile(config.token_file, scribe.say)


def _is_v2(request: Request) -> bool:
    return request.path.startswith(b"/v2/") or request.path == b"/v2"


def tick_seconds() -> float:
    """Seconds between two calls of `App.tick`."""
    return _TICK_SECONDS


def _problem(status: int, detail: str, *, field: str = "", request_id: bytes = b"") -> bytes:
    from http import HTTPStatus

    body: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if field:
        body["field"] = field
    if request_id:
        body["request_id"] = request_id.decode()
    return msgspec.json.encode(body)


def _front_page(manifest: Manifest, config: Config) -> bytes:
    example = escape(msgspec.json.encode({"rows": schema.shown_examples(manifest)[:1]}).decode())
    links = "".join(
        f'<li><a href="{path}">{path}</a> {what}</li>'
        for path, what in (
            ("/v1/schema", "rows and predictions"),
            ("/v1/version", "what is served"),
            ("/v1/card", "the model card"),
            ("/openapi.json", "OpenAPI"),
            ("/metrics", "Prometheus"),
        )
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(manifest.model)}</title>'
        "<style>body{font:16px/1.5 system-ui;max-width:46rem;margin:3rem auto;padding:0 1rem}"
        "pre{background:#f3f3f3;padding:1rem;overflow:auto}</style>"
        f"<h1>{escape(manifest.model)} {escape(config.version)}</h1><p>{escape(manifest.task)}</p>"
        f"<p>Release <code>{escape(config.release)}</code>, served by {manifest.served}.</p>"
        f"<pre>POST /v1/predict\n\n{example}</pre><ul>{links}</ul></html>"
    ).encode()
