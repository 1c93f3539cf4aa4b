"""HTTP answers that are no predictions, and the headers that every answer about rows has."""

from __future__ import annotations

from collections.abc import Callable

from modelworks.runtime.server.engine import Engine, Job
from modelworks.runtime.server.http import Caller, Request, clock
from modelworks.runtime.server.refusals import FULL, RETRY_SECONDS

Problem = Callable[..., bytes]
"""The body of an error: status, detail, field and request_id to bytes."""

_RETRY = b"retry-after: %d\r\n" % RETRY_SECONDS


class Replies:
    """Errors in the form of one API.

    Args:
        engine: Counts and logs them.
        media: Content type of an error.
        problem: Makes its body.
    """

    def __init__(self, engine: Engine, media: bytes, problem: Problem) -> None:
        self._engine, self._media, self._problem = engine, media, problem
        self._full = problem(429, FULL)

    def head(self, request: Request, request_id: bytes, status: int, seconds: float, rows: int) -> bytes:
        """Headers of an answer; makes its span."""
        traceparent = self._engine.span(request, status, seconds, rows)
        head = b"x-request-id: %b\r\n" % request_id
        return head if traceparent is None else head + b"traceparent: %b\r\n" % traceparent

    def fail(self, job: Job, connection: Caller, status: int, detail: str) -> float:
        """Answer a job with an error; the seconds since its request was complete."""
        seconds = clock() - job.request.at
        head = self.head(job.request, job.id, status, seconds, len(job.rows)) + (
            _RETRY if status in {429, 503} else b""
        )
        body = self._problem(status, detail, request_id=job.id)
        connection.respond(job.request, status, body, self._media, head)
        if status == 429:
            connection.back_off()
        return seconds

    def reject(self, request: Request, connection: Caller, request_id: bytes) -> None:
        """Turn a request away because there is no room; as cheap as can be, for there are many of them."""
        head = b"x-request-id: %b\r\n%b" % (request_id, _RETRY)
        connection.respond(request, 429, self._full, self._media, head)
        connection.back_off()
        self._engine.note_rejection(request, request_id)

    def turn_away(
        self,
        request: Request,
        connection: Caller,
        request_id: bytes,
        status: int,
        detail: str,
        *,
        field: str = "",
        count: bool = True,
    ) -> None:
        """Answer a request whose caller is wrong; `count` it if it was one for the model."""
        head = b"x-request-id: %b\r\n" % request_id
        if status == 401:
            head += b"www-authenticate: Bearer\r\n"
        elif status == 405:
            head += b"allow: POST\r\n"
        elif status == 415:
            head += b"accept-encoding: identity\r\n"
        elif status == 429:
            head += _RETRY
        body = self._problem(status, detail, field=field, request_id=request_id)
        connection.respond(request, status, body, self._media, head)
        self._engine.note_refusal(request, request_id, status, detail, field=field, count=count)
