"""The door in front of a bundle's own service: the same contract as for every model.

`/v1/predict` is answered by the service's `predict(rows)`: rows are checked before by the manifest's schema,
predictions after. The service's other APIs are passed on at their own routes, as they are. Requests beyond what the
service takes at once wait here, and when that would take too long are turned away, as anywhere.
"""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from modelworks.runtime.manifest import Manifest
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.predictor import Cost, check_alone
from modelworks.runtime.server.admission import Admission, Call, Estimate
from modelworks.runtime.server.app import App, Pages
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.custom_service import Answer, RefusedError, Service, detail
from modelworks.runtime.server.engine import Engine, Job, tried
from modelworks.runtime.server.http import Connection, Request, clock
from modelworks.runtime.server.refusals import FULL
from modelworks.runtime.server.replies import Replies


class ServiceEngine(Engine):
    """A service, called as often at once as it allows. Takes what `Engine` takes, and a `Service` for the model."""

    def __init__(self, config: Config, manifest: Manifest, service: Service, *rest: Any, **more: Any) -> None:
        self.service = service
        super().__init__(config, manifest, service, *rest, **more)
        self._pool = ThreadPoolExecutor(service.facts.concurrency, thread_name_prefix="ask")

    @property
    def ready(self) -> bool:
        """Whether new requests should come here."""
        return super().ready and self.service.ready

    @property
    def idle(self) -> bool:
        """Whether no request waits or is at the service."""
        return super().idle and not self.queue.running

    def _drain(self) -> None:
        """Hand what waits to the service, up to what it takes at once."""
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while (call := self.queue.take(clock())) is not None:
            [(job, _, _)] = call.parts
            future = loop.run_in_executor(self._pool, self._timed, job)
            future.add_done_callback(partial(self._returned, job, call))

    def _timed(self, job: Job) -> tuple[Any, float]:
        began = clock()
        return tried(partial(self._ask, job), job.rows), clock() - began

    def _returned(self, job: Job, call: Call[Job], done: asyncio.Future[tuple[Any, float]]) -> None:
        result, seconds = done.result()
        self.queue.finish(call, None if isinstance(result, Exception) else seconds)
        if isinstance(result, Answer) and isinstance(job, _Other):
            self._pass_on(job, result)
        else:
            self._answer([job], [result])
            if isinstance(result, Predictions) and len(job.rows) > 1 and self._is_checked():
                # After the answer, for the service may take long over it.
                self._pool.submit(self._compare, job, result)
        if self.queue.rows:
            self._schedule()

    def _compare(self, job: Job, predictions: Predictions) -> None:
        """Report an answer that depends on the other rows of its request.

        Nothing follows from another answer of a service that answers one row by itself now so, now so; and one that is
        full or fails shows that in the requests themselves.
        """
        ask, last = partial(self._ask, job), job.rows[-1:]
        try:
            alone = ask(last)
            check_alone(ask, last, alone)
        except Exception:  # noqa: BLE001 - see above
            return
        self._check_alone(lambda _: alone, job.rows, predictions)

    def _ask(self, job: Job, rows: list[Any]) -> Any:
        headers = {name.decode(): value.decode("latin-1") for name, value in job.request.headers.items()}
        for name in ("accept", "authorization"):  # what it answers goes to this server
            headers.pop(name, None)
        headers["x-request-id"] = job.id.decode()
        if not isinstance(job, _Other):
            return self.service.predict(rows, headers)
        answer = self.service.ask(job.request.path.decode("latin-1"), job.request.body, headers)
        if answer.status >= 400:
            raise RefusedError(answer.status, detail(answer))
        return answer

    def _pass_on(self, job: _Other, answer: Answer) -> None:
        latency = job.pass_on(answer) * 1000
        slow = latency > self.objective
        self.counters.request(latency, error=False, slow=slow)
        if slow or random.random() < self.config.access_log:  # noqa: S311 - sampling is no secret
            self._access(job.request, job.id, answer.status, latency)

    def fail(self, job: Job, error: Exception) -> None:
        """Answer a job with the status of the service, if it gave one."""
        self._probes.discard(job)
        status = error.status if isinstance(error, RefusedError) else 500
        if status == 429:
            job.fail(429, FULL)
            self.note_rejection(job.request, job.id)
        elif status < 500:
            job.fail(status, str(error))
            self.note_refusal(job.request, job.id, status, str(error))
        else:
            super().fail(job, error)

    def _admission(self, cost: Cost, objective: float, handling: float) -> Admission[Job]:
        slots = self.service.facts.concurrency
        return Admission(cost, objective, handling=handling, slots=slots, alone=True)

    def _saturation(self) -> float:
        return max(super()._saturation(), self.queue.running / self.service.facts.concurrency)


class CustomApp(App):
    """A custom service that answers requests. Takes what `App` takes, with the engine of a service."""

    def __init__(self, engine: ServiceEngine, *rest: Any, **more: Any) -> None:
        self._others = engine.service.facts.others
        super().__init__(engine, *rest, **more)
        self._other_rows = Estimate(lambda size: size // engine.row_bytes, self.manifest.max_rows)

    def _is_other(self, request: Request) -> bool:
        return request.path.decode("latin-1") in self._others and request.path not in self._pages

    def _estimate_of(self, request: Request) -> Estimate | None:
        return self._other_rows if self._is_other(request) else super()._estimate_of(request)

    def _route(self, request: Request, connection: Connection) -> None:
        if self._is_other(request):
            request_id = self._admit(request, connection, self._other_rows)
            if request_id is not None:
                self.engine.submit(_Other(request, request_id, [], connection, self._replies), self._other_rows)
        else:
            super()._route(request, connection)

    def _static_pages(self, bento: Path) -> Pages:
        pages = super()._static_pages(bento)
        media, page = pages[b"/openapi.json"]
        description = msgspec.json.decode(page() if callable(page) else page)
        for route, takes in self._others.items():
            body = {"content": {"application/json": {"schema": takes}}}
            answers = {"200": {"description": "The response of the service."}}
            description["paths"].setdefault(
                route, {"post": {"summary": "An API of the service", "requestBody": body, "responses": answers}}
            )
        return {**pages, b"/openapi.json": (media, msgspec.json.encode(description))}


class _Other(Job):
    """A request for another API of the service."""

    connection: Connection
    replies: Replies

    def pass_on(self, answer: Answer) -> float:
        """Send the answer of the service; the seconds since the request was complete."""
        seconds = clock() - self.request.at
        head = self.replies.head(self.request, self.id, answer.status, seconds, 0)
        media = answer.content_type.encode("latin-1")
        self.connection.respond(self.request, answer.status, answer.body, media, head)
        return seconds

    def fail(self, status: int, detail: str) -> float:
        return self.replies.fail(self, self.connection, status, detail)
