"""The service contract of a model, and what happens to a request on its way.

A request is admitted or refused (429) as soon as it is complete, then decoded, checked and put in a queue; see
`admission`. Requests that wait there when the event loop comes round share one call of the model: under load many
requests share a call, and a lone one never waits. A call that would take long goes to a thread, so that probes and
refusals stay prompt.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any, Protocol

import msgspec

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime import schema
from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.online import UnreadableError
from modelworks.runtime.predictor import Cost, Predictions, fastest
from modelworks.runtime.server import metrics
from modelworks.runtime.server.access import TokenFile
from modelworks.runtime.server.admission import Admission, Call
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.feature_reads import FeatureReads, ReadRows
from modelworks.runtime.server.http import MAX_CONNECTIONS, Connection, Listener, Refusal, Request, clock
from modelworks.runtime.server.logs import Scribe, line
from modelworks.runtime.server.prediction_log import PredictionLog
from modelworks.runtime.server.tracing import Tracer, trace_id

OFF_LOOP_SECONDS = 0.005
"""A call expected to take longer goes to a thread."""
_SAMPLE_ROWS = 100
"""Rows that are decoded once, at the start, to measure what a row takes: time, and bytes of a body."""
_TICK_SECONDS = 0.5
_ID_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:")

_JSON = b"application/json"
_PROBLEM = b"application/problem+json"
_RETRY = b"retry-after: 1\r\n"
_MODEL_FAILED = "the model failed to predict this request"
_PROBES = frozenset({b"/livez", b"/readyz"})
_NO_TOKEN = Refusal(401, "a bearer token is needed")

Pages = dict[bytes, tuple[bytes, bytes | Callable[[], bytes]]]
"""By path: content type, and the page or what makes it."""


class Model(Protocol):
    """The predictor: the artifact of a bundle, or its own service."""

    cost: Cost

    def predict(self, rows: list[Row]) -> Predictions:
        """Predictions for decoded rows, in order."""


class Job(msgspec.Struct, eq=False):
    """An admitted request: its rows wait to be predicted."""

    request: Request
    connection: Connection
    id: bytes
    rows: list[Row]
    parts: Predictions | None = None
    """Of the rows so far, if several calls share them."""
    logged: list[Row] | None = None
    """The rows with what the log keeps of their stored features, once these are read."""


class App:
    """A model that answers requests.

    Args:
        config: The server's settings.
        manifest: Of the bundle.
        predictor: The loaded model, or the service that stands for it.
        counters: The counters of this worker.
        scribe: Writes logs and spool files.
        bento: Folder of the unpacked bundle, for the model card.
        scratch: Where all workers' numbers and the companion's state are found.
        log: The prediction log, if there is one.
        tracer: Makes spans, if wanted.
        reads: Reads the stored features of requests, for a model that has some.

    Raises:
        ModelworksError: Access needs tokens, and there is none.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        predictor: Model,
        counters: metrics.Counters,
        scribe: Scribe,
        *,
        bento: Path,
        scratch: Path,
        log: PredictionLog | None = None,
        tracer: Tracer | None = None,
        reads: FeatureReads | None = None,
    ) -> None:
        self.config, self.manifest = config, manifest
        self._tokens = _tokens(config, scribe)
        self.draining = False
        self._predictor, self._counters, self._scribe, self._log, self._tracer = (
            predictor,
            counters,
            scribe,
            log,
            tracer,
        )
        self._scratch, self._reads = scratch, reads
        self._decode = schema.Rows(manifest).decode
        self._objective = config.latency_objective_ms or manifest.latency_objective_ms
        handling, self._row_bytes = self._sample()
        self._queue = self._admission(self._objective / 1000, handling)
        self._scheduled = self._away = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._ids = itertools.count()
        self._id_prefix = os.urandom(6).hex().encode()
        self._tail = b'],"model":%b,"version":%b}' % (
            msgspec.json.encode(manifest.model),
            msgspec.json.encode(config.release),
        )
        self._pages = self._static_pages(bento)

    # -- A request -----------------------------------------------------------------------------------------------
    def check_access(self, request: Request) -> Refusal | None:
        """Why a request is refused before its body is read; see `http.Door`."""
        if self._tokens is None or request.path in _PROBES:
            return None
        return None if self._tokens.allows(request.headers.get(b"authorization", b"")) else _NO_TOKEN

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer a request; see `http.Door`."""
        if request.refusal is not None:
            self._turn_away(request, connection, self._request_id(request), *request.refusal, count=False)
        else:
            self._route(request, connection)

    def _route(self, request: Request, connection: Connection) -> None:
        if request.path == b"/v1/predict":
            self._predict(request, connection)
        else:
            self._page(request, connection)

    def _predict(self, request: Request, connection: Connection) -> None:
        request_id = self._admit(request, connection)
        if request_id is None:
            return
        try:
            rows = self._decode(request.body)
        except msgspec.ValidationError as error:
            field, what = schema.explain(error)
            self._turn_away(request, connection, request_id, 422, what, field=field)
            return
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._turn_away(request, connection, request_id, 400, f"the body is not JSON: {error}")
            return
        except RecursionError:
            self._turn_away(request, connection, request_id, 400, "the body is nested too deeply")
            return
        self._enqueue(Job(request, connection, request_id, rows))

    def _admit(self, request: Request, connection: Connection) -> bytes | None:
        """The request's id; None when it was turned away."""
        request_id = self._request_id(request)
        if request.method != b"POST":
            self._turn_away(request, connection, request_id, 405, "this takes POST", count=False)
            return None
        queue = self._queue
        if queue.rows >= queue.always and not queue.admits(self._rows_of(request), clock()):
            self._reject(request, connection, request_id)
            return None
        return request_id

    def _rows_of(self, request: Request) -> int:
        """About how many rows it has: refusing it must cost less than to decode it."""
        return min(self.manifest.max_rows, max(1, len(request.body) // self._row_bytes))

    def _request_id(self, request: Request) -> bytes:
        """The caller's, if it is well-formed; else a new one."""
        request_id = request.headers.get(b"x-request-id")
        if request_id is None or len(request_id) > 128 or not _ID_CHARACTERS.issuperset(request_id):
            return b"%b-%x" % (self._id_prefix, next(self._ids))
        return request_id

    def _sample(self) -> tuple[float, int]:
        """Seconds to decode one row, and its bytes in a body."""
        count = min(_SAMPLE_ROWS, self.manifest.max_rows)
        examples = (list(self.manifest.examples) * count)[:count]
        body = msgspec.json.encode({"rows": examples})
        return fastest(lambda: self._decode(body)) / count, max(1, len(body) // count)

    def _admission(self, objective: float, handling: float) -> Admission[Job]:
        return Admission(self._predictor.cost, objective, handling=handling)

    def _enqueue(self, job: Job) -> None:
        if self._reads is not None and job.rows and job.logged is None:
            if not self._reads.begin(job.rows, lambda read: self._have_read(job, read)):
                self._reject(job.request, job.connection, job.id)
            return
        self._queue.add(job, max(1, len(job.rows)))
        self._schedule()

    def _have_read(self, job: Job, read: ReadRows | Exception) -> None:
        self._counters.features(failed=isinstance(read, Exception) or read.failed)
        if isinstance(read, Exception):
            self._failed(job, read)
            return
        job.rows, job.logged = read.rows, read.logged
        self._enqueue(job)

    def _schedule(self) -> None:
        if not self._scheduled and not self._away:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._drain)

    def _drain(self) -> None:
        """Begin the next call of the model."""
        self._scheduled = False
        call = self._queue.take(clock())
        if call is None:
            return
        if call.work > OFF_LOOP_SECONDS:
            self._away = True
            future = asyncio.get_running_loop().run_in_executor(self._pool, self._call, call)
            future.add_done_callback(lambda done: self._back(call, *done.result()))
        else:
            self._settle(call, *self._call(call))

    def _back(self, call: Call[Job], results: list[Predictions | Exception], seconds: float | None) -> None:
        self._away = False
        self._settle(call, results, seconds)

    def _call(self, call: Call[Job]) -> tuple[list[Predictions | Exception], float | None]:
        """For each part its predictions, or the error that it alone is to blame for; and how long the model took."""
        predict = self._predictor.predict
        slices = [job.rows if call.whole else job.rows[start:stop] for job, start, stop in call.parts]
        began = clock()
        try:
            predictions = predict(slices[0] if len(slices) == 1 else list(itertools.chain.from_iterable(slices)))
        except Exception as error:  # noqa: BLE001 - a row that the model cannot take must not fail its neighbours
            return [error] if len(slices) == 1 else [tried(predict, rows) for rows in slices], None
        seconds = clock() - began
        if len(slices) == 1:
            return [predictions], seconds
        results: list[Predictions | Exception] = []
        start = 0
        for rows in slices:
            end = start + len(rows)
            results.append(predictions.part(start, end))
            start = end
        return results, seconds

    def _settle(self, call: Call[Job], results: list[Predictions | Exception], seconds: float | None) -> None:
        """Answer the requests that are complete with this call, and go on to what waits."""
        self._queue.finish(call, seconds)
        if call.whole:
            self._answer([job for job, _, _ in call.parts], results)
        else:
            self._answer(*self._complete(call, results))
        if self._queue.rows:
            self._schedule()

    def _complete(
        self, call: Call[Job], results: list[Predictions | Exception]
    ) -> tuple[list[Job], list[Predictions | Exception]]:
        """The requests that are complete with this call, and their answers; the first error is an answer."""
        jobs: list[Job] = []
        answers: list[Predictions | Exception] = []
        for (job, _, stop), result in zip(call.parts, results, strict=True):
            if job in jobs:
                continue  # an earlier part of it has failed
            if isinstance(result, Exception):
                self._queue.drop(job)
                answer: Predictions | Exception = result
            else:
                answer = job.parts = result if job.parts is None else job.parts.followed_by(result)
                if stop < len(job.rows):
                    continue
            jobs.append(job)
            answers.append(answer)
        return jobs, answers

    def _answer(self, jobs: list[Job], results: list[Predictions | Exception]) -> None:
        counters, log, objective, tail = self._counters, self._log, self._objective, self._tail
        now = time.time()
        for job, predictions in zip(jobs, results, strict=True):
            request = job.request
            if isinstance(predictions, Exception):
                self._failed(job, predictions)
                continue
            body = b'{"predictions":[%b%b' % (b",".join(predictions.json), tail)
            seconds = clock() - request.at
            job.connection.respond(request, 200, body, _JSON, self._head(job, 200, seconds))
            latency = seconds * 1000
            slow = latency > objective
            counters.request(latency, error=False, slow=slow)
            counters.predictions(predictions.values, predictions.labels)
            if log is not None:
                log.add(job.id.decode(), now, latency, job.logged or job.rows, predictions)
            if slow or random.random() < self.config.access_log:  # noqa: S311 - sampling is no secret
                self._access(request, job.id, 200, latency, rows=len(job.rows))

    # -- Answers that are not predictions ------------------------------------------------------------------------
    def _failed(self, job: Job, error: Exception) -> None:
        seconds = clock() - job.request.at
        unread = isinstance(error, UnreadableError)
        status, what = (503, "the features cannot be read; try again later") if unread else (500, _MODEL_FAILED)
        head = self._head(job, status, seconds) + (_RETRY if unread else b"")
        body = _problem(status, what, request_id=job.id)
        job.connection.respond(job.request, status, body, _PROBLEM, head)
        self._counters.request(seconds * 1000, error=True, slow=seconds * 1000 > self._objective)
        self._access(job.request, job.id, status, seconds * 1000, error=f"{type(error).__name__}: {error}")

    def _head(self, job: Job, status: int, seconds: float) -> bytes:
        """Headers of an answer; makes its span."""
        request = job.request
        traceparent = request.headers.get(b"traceparent")
        if self._tracer is not None:
            path = request.path.decode("latin-1")
            traceparent = self._tracer.span(request.headers, status, seconds, {"rows": len(job.rows)}, path=path)
        head = b"x-request-id: %b\r\n" % job.id
        return head if traceparent is None else head + b"traceparent: %b\r\n" % traceparent

    def _reject(self, request: Request, connection: Connection, request_id: bytes) -> None:
        """Turn a request away because there is no room; as cheap as can be, for there are many of them."""
        body = b'{"title":"Too Many Requests","status":429,"detail":"the server is full; try again later"}'
        connection.respond(request, 429, body, _PROBLEM, b"x-request-id: %b\r\n%b" % (request_id, _RETRY))
        self._counters.rejected()

    def _turn_away(
        self,
        request: Request,
        connection: Connection,
        request_id: bytes,
        status: int,
        detail: str,
        *,
        field: str = "",
        count: bool = True,
    ) -> None:
        head = b"x-request-id: %b\r\n" % request_id
        if status == 401:
            head += b"www-authenticate: Bearer\r\n"
        elif status == 405:
            head += b"allow: POST\r\n"
        elif status == 429:
            head += _RETRY
        body = _problem(status, detail, field=field, request_id=request_id)
        connection.respond(request, status, body, _PROBLEM, head)
        latency = (clock() - request.at) * 1000
        if count:
            self._counters.request(latency, error=False, slow=False)
        self._access(request, request_id, status, latency, error=detail, field=field)

    def _page(self, request: Request, connection: Connection) -> None:
        path, method = request.path, request.method
        if path == b"/livez":
            connection.respond(request, 200, b"ok\n", b"text/plain")
            return
        if path == b"/readyz":
            ready = not self.draining
            connection.respond(request, 200 if ready else 503, b"ready\n" if ready else b"draining\n", b"text/plain")
            return
        if path not in self._pages:
            known = b", ".join([*self._pages, b"/v1/predict", b"/livez", b"/readyz"]).decode()
            connection.respond(request, 404, _problem(404, f"nothing is here; there are {known}"), _PROBLEM)
        elif method not in {b"GET", b"HEAD"}:
            connection.respond(request, 405, _problem(405, "this takes GET"), _PROBLEM, b"allow: GET, HEAD\r\n")
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
            "latency_objective_ms": self._objective,
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
            b"/v1/schema": (_JSON, msgspec.json.encode(schemas)),
            b"/v1/version": (_JSON, msgspec.json.encode(version)),
            b"/v1/card": (
                b"text/markdown; charset=utf-8",
                card.read_bytes() if card.is_file() else b"This bundle has no model card.\n",
            ),
            b"/openapi.json": (_JSON, msgspec.json.encode(description)),
            b"/metrics": (b"text/plain; version=0.0.4; charset=utf-8", self._metrics),
        }

    def _metrics(self) -> bytes:
        self._counters.share()
        layout = self._counters.layout
        labels = {
            contract.DIMENSION_ENVIRONMENT: self.config.environment,
            contract.DIMENSION_MODEL: self.manifest.model,
            contract.DIMENSION_VERSION: self.config.release,
        }
        names = [str(label) for label in self.manifest.classes]
        text = metrics.prometheus(metrics.read_rows(self._scratch, layout), layout, labels, names)
        try:
            state = msgspec.json.decode((self._scratch / "companion.json").read_bytes(), type=dict[str, float])
        except (OSError, msgspec.DecodeError):
            state = {}
        for name, value in sorted(state.items()):
            text += f"# TYPE modelworks_{name} gauge\nmodelworks_{name} {value:g}\n"
        return text.encode()

    # -- Now and then --------------------------------------------------------------------------------------------
    def tick(self) -> None:
        """Housekeeping, twice a second: read the tokens, show the numbers, hand logs to the scribe."""
        if self._tokens is not None:
            self._tokens.refresh()
        self._counters.saturation(self._saturation())
        if self._log is not None:
            self._log.flush()
            self._counters.row[metrics.DROPPED] = self._log.dropped
        self._counters.share()
        self._scribe.kick()

    def _saturation(self) -> float:
        return self._queue.saturation()

    def _access(self, request: Request, request_id: bytes, status: int, latency_ms: float, **more: Any) -> None:
        trace = trace_id(request.headers.get(b"traceparent"))
        self._scribe.add(
            line(
                "info" if status < 400 else "warning" if status < 500 else "error",
                "request",
                path=request.path.decode("latin-1")[:200],
                status=status,
                latency_ms=round(latency_ms, 3),
                request_id=request_id.decode(),
                **({"trace_id": trace} if trace else {}),
                **{name: value for name, value in more.items() if value != ""},
            )
        )


def listener(app: App, max_connections: int = MAX_CONNECTIONS) -> Listener:
    """The factory of connections for `app`."""
    return Listener(app, app.config.max_body_bytes, max_connections)


def _tokens(config: Config, scribe: Scribe) -> TokenFile | None:
    """The tokens that are let in; None if everyone is, which `allow_anonymous` alone decides."""
    if config.allow_anonymous:
        if config.token_file is not None:
            scribe.say("warning", "everyone is let in: the token file is not used", path=str(config.token_file))
        return None
    if config.token_file is None:
        raise ModelworksError("access needs a token file, or allow_anonymous to let everyone in")
    return TokenFile(config.token_file, scribe.say)


def tick_seconds() -> float:
    """Seconds between two calls of `App.tick`."""
    return _TICK_SECONDS


def tried(predict: Callable[[list[Row]], Predictions], rows: list[Row]) -> Predictions | Exception:
    try:
        return predict(rows)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is the answer to one request, not our end
        return error


def _problem(status: int, detail: str, *, field: str = "", request_id: bytes = b"") -> bytes:
    from http import HTTPStatus

    body: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if field:
        body["field"] = field
    if request_id:
        body["request_id"] = request_id.decode()
    return msgspec.json.encode(body)


def _front_page(manifest: Manifest, config: Config) -> bytes:
    example = escape(msgspec.json.encode({"rows": [manifest.examples[0]]}).decode())
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
