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
from modelworks.runtime.server.app import App, Job, Pages, tried
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.custom_service import Answer, RefusedError, Service, detail
from modelworks.runtime.server.http import Connection, Request, clock


class CustomApp(App):
    """A custom service that answers requests. Takes what `App` takes, and a `Service` for the model."""

    def __init__(self, config: Config, manifest: Manifest, service: Service, *rest: Any, **more: Any) -> None:
        self._service = service
        self._there = 0
        """Requests that are at the service."""
        super().__init__(config, manifest, service, *rest, **more)
        self._pool = ThreadPoolExecutor(service.facts.concurrency, thread_name_prefix="ask")

    def _route(self, request: Request, connection: Connection) -> None:
        if request.path.decode("latin-1") in self._service.facts.others and request.path not in self._pages:
            request_id = self._admit(request, connection)
            if request_id is not None:
                self._enqueue(Job(request, connection, request_id, [], self._predictor.cost.of(1)))
        elif request.path == b"/readyz" and not self.draining and not self._service.ready:
            connection.respond(request, 503, b"the service is not ready\n", b"text/plain")
        else:
            super()._route(request, connection)

    def _drain(self) -> None:
        """Hand what waits to the service, up to what it takes at once."""
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._queue and self._there < self._service.facts.concurrency:
            job = self._queue.popleft()
            self._there += 1
            self._queued -= job.cost  # what is at the service does not wait here
            future = loop.run_in_executor(self._pool, self._call, [job])
            future.add_done_callback(partial(self._returned, job))

    def _returned(self, job: Job, done: asyncio.Future[list[Any]]) -> None:
        self._there -= 1
        self._queued += job.cost  # for `_answer`, which takes it away
        self._back([job], done.result())

    def _call(self, jobs: list[Job]) -> list[Any]:
        return [tried(partial(self._ask, job), job.rows) for job in jobs]

    def _ask(self, job: Job, rows: list[Any]) -> Any:
        headers = {name.decode(): value.decode("latin-1") for name, value in job.request.headers.items()}
        headers.pop("authorization", None)
        headers["x-request-id"] = job.id.decode()
        if rows:
            return self._service.predict(rows, headers)
        answer = self._service.ask(job.request.path.decode("latin-1"), job.request.body, headers)
        if answer.status >= 400:
            raise RefusedError(answer.status, detail(answer))
        return answer

    def _answer(self, jobs: list[Job], results: list[Any]) -> None:
        [job], [result] = jobs, results
        if not isinstance(result, Answer):
            super()._answer(jobs, results)
            return
        self._queued -= job.cost
        request, latency = job.request, (clock() - job.request.at) * 1000
        head = self._head(job, result.status, latency / 1000)
        job.connection.respond(request, result.status, result.body, result.content_type.encode("latin-1"), head)
        slow = latency > self._objective
        self._counters.request(latency, error=False, slow=slow)
        if slow or random.random() < self.config.access_log:  # noqa: S311 - sampling is no secret
            self._access(request, job.id, result.status, latency)

    def _failed(self, job: Job, error: Exception) -> None:
        status = error.status if isinstance(error, RefusedError) else 500
        if status == 429:
            self._reject(job.request, job.connection, job.id)
        elif status < 500:
            self._turn_away(job.request, job.connection, job.id, status, str(error))
        else:
            super()._failed(job, error)

    def _saturation(self) -> float:
        return max(super()._saturation(), self._there / self._service.facts.concurrency)

    def _static_pages(self, bento: Path) -> Pages:
        pages = super()._static_pages(bento)
        media, page = pages[b"/openapi.json"]
        description = msgspec.json.decode(page() if callable(page) else page)
        for route, takes in self._service.facts.others.items():
            body = {"content": {"application/json": {"schema": takes}}}
            answers = {"200": {"description": "The response of the service."}}
            description["paths"].setdefault(
                route, {"post": {"summary": "An API of the service", "requestBody": body, "responses": answers}}
            )
        return {**pages, b"/openapi.json": (media, msgspec.json.encode(description))}
