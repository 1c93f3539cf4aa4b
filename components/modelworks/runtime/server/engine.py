"""The way of rows to the model and of predictions back, whatever the protocol.

The adapter of a protocol checks whether a request is let in, decodes it, and submits a `Job`. Jobs that wait when the
event loop comes round share one call of the model: under load many requests share a call, and a lone one never waits. A
call that would take long goes to a thread, so that probes and refusals stay prompt. When its rows are predicted, the
job answers in the form of its protocol; the engine counts it, adds it to the prediction log and logs it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from modelworks import contract
from modelworks.runtime import schema
from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.online import UnreadableError
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.predictor import Cost, check_alone, fastest
from modelworks.runtime.server import metrics
from modelworks.runtime.server.admission import Admission, Call, Estimate
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.feature_reads import FeatureReads, ReadRows
from modelworks.runtime.server.http import Request, clock
from modelworks.runtime.server.logs import Limiter, Scribe, line, place
from modelworks.runtime.server.prediction_log import PredictionLog
from modelworks.runtime.server.refusals import FAILED, FULL, UNREAD
from modelworks.runtime.server.tracing import Tracer, trace_id

OFF_LOOP_SECONDS = 0.005
"""A call expected to take longer goes to a thread."""
_PROBE = contract.HEADER_PROBE.encode()
_CHECKED_CALLS = 1000
"""Of so many calls of more than one row, one has a row that is predicted alone too."""
_SAMPLE_ROWS = 100
"""Rows that are decoded once, at the start, to measure what a row takes."""
_ID_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:")


class Model(Protocol):
    """The predictor: the artifact of a bundle, or its own service."""

    cost: Cost

    def predict(self, rows: list[Row]) -> Predictions:
        """Predictions for decoded rows, in order."""


class Job(msgspec.Struct, eq=False):
    """An admitted request whose rows wait to be predicted; each protocol has a kind of its own."""

    request: Request
    """Its path and headers, and when it was complete."""
    id: bytes
    rows: list[Row]

    def answer(self, predictions: Predictions) -> float:
        """Send the answer; the seconds since the request was complete."""
        raise NotImplementedError

    def fail(self, status: int, detail: str) -> float:
        """Send an error, with the status that HTTP has for it; the seconds since the request was complete."""
        raise NotImplementedError


class Engine:
    """A model, the queue before it, and the accounts of its requests.

    Args:
        config: The server's settings.
        manifest: Of the bundle.
        predictor: The loaded model, or the service that stands for it.
        counters: The counters of this worker.
        scribe: Writes logs.
        log: The prediction log, if there is one.
        tracer: Makes spans, if wanted.
        reads: Reads the stored features of requests, for a model that has some.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        predictor: Model,
        counters: metrics.Counters,
        scribe: Scribe,
        *,
        log: PredictionLog | None = None,
        tracer: Tracer | None = None,
        reads: FeatureReads | None = None,
    ) -> None:
        self.config, self.manifest, self.counters = config, manifest, counters
        self.draining = False
        self.decode = schema.Rows(manifest).decode
        self.objective = config.latency_objective_ms or manifest.latency_objective_ms
        handling, self.row_bytes = self._sample()
        """Seconds to decode a row, and its bytes in a body of JSON."""
        self.queue = self._admission(predictor.cost, self.objective / 1000, handling)
        self._predictor, self._scribe, self._log, self._tracer = predictor, scribe, log, tracer
        self._reads = reads
        self._logged: dict[Job, list[Row]] = {}
        """Of requests whose stored features were read: their rows as the log keeps them."""
        shown = schema.shown_examples(manifest)
        self._examples = frozenset(row for each in shown for row in self.decode(msgspec.json.encode(each)))
        self._probes: set[Job] = set()
        """Requests that a canary's probes sent."""
        self._begun: dict[Job, Predictions] = {}
        """Of requests whose rows several calls share: the answers for those so far."""
        self._scheduled = self._away = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.refused: dict[int, int] = {}
        """Requests that were refused, over any protocol, by the status that HTTP has for it."""
        self._shared_calls = 0
        """Of the model, with more than one row."""
        self.dependent = 0
        """Checked calls in which an answer depended on other rows."""
        self._limiter = Limiter()
        self._ids = itertools.count()
        self._id_prefix = os.urandom(6).hex().encode()

    @property
    def ready(self) -> bool:
        """Whether new requests should come here."""
        return not self.draining

    @property
    def idle(self) -> bool:
        """Whether no request waits or is being predicted."""
        return not (
            self.queue.rows or self._away or self._scheduled or (self._reads is not None and self._reads.waiting)
        )

    # -- A request -----------------------------------------------------------------------------------------------
    def request_id(self, given: bytes | None) -> bytes:
        """The caller's, if it is well-formed; else a new one."""
        if not given or len(given) > 128 or not _ID_CHARACTERS.issuperset(given):
            return b"%b-%x" % (self._id_prefix, next(self._ids))
        return given

    def admits(self, rows: int) -> bool:
        """Whether a request of about so many rows would be answered in time. The caller counts a refusal."""
        queue = self.queue
        # While the queue is short, neither the clock nor the number of rows matters.
        return queue.rows < queue.always or queue.admits(min(self.manifest.max_rows, max(1, rows)), clock())

    def lets_in(self, request: Request, estimate: Estimate, size: int) -> bool:
        """Whether a request of so many bytes is read, or decoded once it is complete. The caller counts a refusal."""
        queue = self.queue
        if queue.rows < queue.always or request.is_sample or queue.admits(estimate.rows(size), clock()):
            return True
        request.is_sample = estimate.is_due(size)
        return request.is_sample

    def submit(self, job: Job, estimate: Estimate | None = None) -> None:
        """Predict its rows soon. It is answered exactly once.

        Args:
            job: The request.
            estimate: By which it was let in; None if its rows were counted before.
        """
        queue = self.queue
        if (
            queue.rows >= queue.always
            and estimate is not None
            and not queue.admits_counted(estimate, len(job.request.body), max(1, len(job.rows)), clock())
        ):
            self._reject(job)
            return
        # The header alone would keep whatever a caller sends out of the prediction log.
        if _PROBE in job.request.headers and job.rows and self._examples.issuperset(job.rows):
            self._probes.add(job)
        if self._reads is None or not job.rows:
            self._enqueue(job)
        elif not self._reads.begin(job.rows, lambda read: self._have_read(job, read)):
            self._probes.discard(job)
            self._reject(job)

    def _reject(self, job: Job) -> None:
        job.fail(429, FULL)
        self.note_rejection(job.request, job.id)

    def _have_read(self, job: Job, read: ReadRows | Exception) -> None:
        self.counters.features(failed=isinstance(read, Exception) or read.failed)
        if isinstance(read, Exception):
            self.fail(job, read)
            return
        job.rows, self._logged[job] = read.rows, read.logged
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        self.queue.add(job, max(1, len(job.rows)))
        self._schedule()

    def note_refusal(
        self, request: Request, request_id: bytes, status: int, detail: str, *, field: str = "", count: bool = True
    ) -> None:
        """Log a request that was answered with its caller's mistake; `count` it unless it was none for the model."""
        latency = (clock() - request.at) * 1000
        if count:
            self.counters.request(latency, error=False, slow=False)
        self._refusal(request, request_id, status, latency, error=detail, field=field)

    def note_rejection(self, request: Request, request_id: bytes) -> None:
        """Count and log a request that was turned away because there is no room."""
        self.counters.rejected()
        self._refusal(request, request_id, 429, (clock() - request.at) * 1000, error=FULL)

    def span(self, request: Request, status: int, seconds: float, rows: int) -> bytes | None:
        """The `traceparent` of the answer; makes its span."""
        traceparent = request.headers.get(b"traceparent")
        if self._tracer is None:
            return traceparent
        path = request.path.decode("latin-1")
        return self._tracer.span(request.headers, status, seconds, {"rows": rows}, path=path)

    # -- Calls of the model --------------------------------------------------------------------------------------
    def _schedule(self) -> None:
        if not self._scheduled and not self._away:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._drain)

    def _drain(self) -> None:
        """Begin the next call of the model."""
        self._scheduled = False
        call = self.queue.take(clock())
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
        rows = slices[0] if len(slices) == 1 else list(itertools.chain.from_iterable(slices))
        began = clock()
        try:
            predictions = predict(rows)
        except Exception as error:  # noqa: BLE001 - a row that the model cannot take must not fail its neighbours
            return [error] if len(slices) == 1 else [tried(predict, rows) for rows in slices], None
        seconds = clock() - began
        if len(rows) > 1 and self._is_checked():
            self._check_alone(predict, rows, predictions)
        if len(slices) == 1:
            return [predictions], seconds
        results: list[Predictions | Exception] = []
        start = 0
        for rows in slices:
            end = start + len(rows)
            results.append(predictions.part(start, end))
            start = end
        return results, seconds

    def _is_checked(self) -> bool:
        """Whether it is the turn of a call with more than one row to be checked."""
        self._shared_calls += 1
        return self._shared_calls % _CHECKED_CALLS == 0

    def _check_alone(
        self, predict: Callable[[list[Row]], Predictions], rows: list[Row], predictions: Predictions
    ) -> None:
        try:
            check_alone(predict, rows, predictions)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answers are there
            self.dependent += 1
            self._scribe.say("error", "an answer depends on the other rows of its call", error=self._named(error))

    def _settle(self, call: Call[Job], results: list[Predictions | Exception], seconds: float | None) -> None:
        """Answer the requests that are complete with this call, and go on to what waits."""
        self.queue.finish(call, seconds)
        if call.whole:
            self._answer([job for job, _, _ in call.parts], results)
        else:
            self._answer(*self._complete(call, results))
        if self.queue.rows:
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
            earlier = self._begun.pop(job, None)
            answer = result
            if isinstance(answer, Exception):
                self.queue.drop(job)
            else:
                if earlier is not None:
                    answer = earlier.followed_by(answer)
                if stop < len(job.rows):
                    self._begun[job] = answer
                    continue
            jobs.append(job)
            answers.append(answer)
        return jobs, answers

    def _answer(self, jobs: list[Job], results: list[Predictions | Exception]) -> None:
        counters, log, objective = self.counters, self._log, self.objective
        now = time.time()
        for job, predictions in zip(jobs, results, strict=True):
            logged = self._logged.pop(job, job.rows)
            if isinstance(predictions, Exception):
                self.fail(job, predictions)
                continue
            latency = job.answer(predictions) * 1000
            slow = latency > objective
            counters.request(latency, error=False, slow=slow)
            if job in self._probes:
                self._probes.discard(job)
            else:
                counters.predictions(predictions.values, predictions.labels)
                if log is not None:
                    log.add(job.id.decode(), now, latency, logged, predictions)
            if slow or random.random() < self.config.access_log:  # noqa: S311 - sampling is no secret
                self._access(job.request, job.id, 200, latency, rows=len(job.rows))

    def fail(self, job: Job, error: Exception) -> None:
        """Answer a job, count it and log it as one that failed for this reason."""
        self._probes.discard(job)
        status, detail = (503, UNREAD) if isinstance(error, UnreadableError) else (500, FAILED)
        latency = job.fail(status, detail) * 1000
        self.counters.request(latency, error=True, slow=latency > self.objective)
        log = self._access if status == 500 else self._refusal
        log(job.request, job.id, status, latency, error=self._named(error))

    def _named(self, error: Exception) -> str:
        """The error for the log: without its message where that may quote a private value."""
        private = any(feature.private for feature in (*self.manifest.features, *self.manifest.request_features))
        return place(error) if private else f"{type(error).__name__}: {error}"

    # -- Now and then --------------------------------------------------------------------------------------------
    def tick(self, *, last: bool = False) -> None:
        """Housekeeping, twice a second and at the end: show the numbers, hand logs to the scribe."""
        self.counters.saturation(self._saturation())
        for status, count in self._limiter.due(clock(), last=last):
            self._scribe.add(line("warning", "more requests were refused", status=status, count=count))
        if self._log is not None:
            self._log.flush()
            self._log.losses.report(self._scribe.say)
        self.counters.share()
        self._scribe.kick()

    def _saturation(self) -> float:
        return self.queue.saturation()

    # -- Details -------------------------------------------------------------------------------------------------
    def _sample(self) -> tuple[float, int]:
        """Seconds to decode one row, and its bytes in a body."""
        count = min(_SAMPLE_ROWS, self.manifest.max_rows)
        examples = (list(self.manifest.examples) * count)[:count]
        body = msgspec.json.encode({"rows": examples})
        return fastest(lambda: self.decode(body)) / count, max(1, len(body) // count)

    def _admission(self, cost: Cost, objective: float, handling: float) -> Admission[Job]:
        return Admission(cost, objective, handling=handling)

    def _refusal(self, request: Request, request_id: bytes, status: int, latency_ms: float, **more: Any) -> None:
        """Count it, and log it unless there is a flood of them: then one line a second has their number."""
        self.refused[status] = self.refused.get(status, 0) + 1
        if self._limiter.admits(status, clock()):
            self._access(request, request_id, status, latency_ms, **more)

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


def tried(predict: Callable[[list[Row]], Predictions], rows: list[Row]) -> Predictions | Exception:
    """The predictions, or the error of the model."""
    try:
        return predict(rows)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is the answer to one request, not our end
        return error
