"""Predictions for an Arrow IPC stream, batch by batch, while the rest of it is still coming.

Each batch is a request to the engine: admitted, predicted, counted and logged by itself. The next one is read when it
is answered. An error before the first answer is answered as any error; after that, the only sign left is
an answer without an end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from modelworks.runtime.encoding import Row
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.server import media
from modelworks.runtime.server.arrow_ipc import END, ArrowStreams
from modelworks.runtime.server.engine import Engine, Job
from modelworks.runtime.server.http import Request, clock
from modelworks.runtime.server.refusals import UNDECODABLE, InvalidRequestError, undecodable

if TYPE_CHECKING:
    from modelworks.runtime.server.exchange import Broken, Exchange
    from modelworks.runtime.server.replies import Replies

ADMISSION_SECONDS = 15.0
"""How long a batch waits while the server is full. The first one is refused at once, as any request is."""
_AGAIN_SECONDS = 0.05


class StreamedPredict:
    """A request of which each batch is answered by itself.

    Args:
        engine: Predicts.
        streams: Decode and encode.
        replies: Make errors and headers.
        request: The head.
        request_id: Of all of it; that of a batch has its number too.
        exchange: Has the body, and takes the answer.
    """

    def __init__(
        self,
        engine: Engine,
        streams: ArrowStreams,
        replies: Replies,
        request: Request,
        request_id: bytes,
        exchange: Exchange,
    ) -> None:
        self._engine, self._streams, self._replies = engine, streams, replies
        self._request, self._id, self._exchange = request, request_id, exchange
        self._reading = streams.reading(exchange.data)
        self._batches = 0
        self._begun = self._busy = self._over = False
        """Whether the head of the answer is sent; whether a batch waits for its answer; whether all is over."""

    # -- From the exchange ---------------------------------------------------------------------------------------
    def more(self) -> None:
        """Go on with the next batch, if it is there."""
        if self._busy or self._over:
            return
        exchange = self._exchange
        if exchange.waits:
            exchange.hold()
            return
        try:
            rows = self._reading.next(complete=exchange.complete)
        except InvalidRequestError as error:
            self._turn_away(error)
            return
        except UNDECODABLE as error:
            self._turn_away(undecodable(error))
            return
        if rows is not None:
            exchange.hold()
            self._busy, self._request.at = True, clock()
            self._submit(rows, clock() + ADMISSION_SECONDS)
        elif not exchange.complete:
            exchange.want()
        elif not self._begun:
            self._turn_away(InvalidRequestError("", "a request has at least one batch; the stream has none"))
        else:
            self._over = True
            exchange.write(END)
            exchange.finish()

    def broken(self, refusal: Broken | None) -> None:
        """End, for there will be no more of the body."""
        if refusal is not None:
            status, reason = refusal
            self._turn_away(InvalidRequestError("", reason, status), count=False)
        self._over = True

    # -- A batch -------------------------------------------------------------------------------------------------
    def _submit(self, rows: list[Row], until: float) -> None:
        if self._over:
            return
        engine, now = self._engine, clock()
        request = msgspec.structs.replace(self._request, at=now)
        if not rows:
            self._write(request, Predictions([], []), 0.0)
        elif engine.admits(len(rows)):
            number, self._batches = self._batches, self._batches + 1
            engine.submit(_Batch(request, b"%b.%d" % (self._id, number), rows, self))
        elif self._begun and now < until:
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._submit, rows, until)
        elif self._begun:
            self._cut()
            engine.note_rejection(request, self._id)
        else:
            self._over = True
            self._replies.reject(request, self._exchange, self._id)

    def answer(self, job: _Batch, predictions: Predictions) -> float:
        """Write the answer of a batch; the seconds since it was admitted."""
        seconds = clock() - job.request.at
        if not self._over:
            self._write(job.request, predictions, seconds)
        return seconds

    def fail(self, job: _Batch, status: int, detail: str) -> float:
        """End because a batch has no answer; the seconds since it was admitted."""
        seconds = clock() - job.request.at
        if self._over:
            return seconds
        if not self._begun:
            self._over = True
            return self._replies.fail(job, self._exchange, status, detail)
        self._engine.span(job.request, status, seconds, len(job.rows))
        self._cut()
        return seconds

    # -- The answer ----------------------------------------------------------------------------------------------
    def _write(self, request: Request, predictions: Predictions, seconds: float) -> None:
        data, rows = self._streams.encode_batch(predictions), len(predictions.values)
        if self._begun:
            self._engine.span(request, 200, seconds, rows)
        else:
            self._begun = True
            self._exchange.begin(200, media.ARROW, self._replies.head(request, self._id, 200, seconds, rows))
            data = self._streams.begin() + data
        self._exchange.write(data)
        self._busy = False
        # Not from here: a packet of many batches would become a deep stack, and keep everybody else waiting.
        asyncio.get_running_loop().call_soon(self.more)

    def _turn_away(self, why: InvalidRequestError, *, count: bool = True) -> None:
        """End because of what the caller sent."""
        if self._over:
            return
        request = self._request
        if not self._busy:
            request.at = clock()  # the latency of an answer is not that of the upload
        if self._begun:
            self._cut()
            self._engine.note_refusal(request, self._id, why.status, why.detail, field=why.field, count=count)
        else:
            self._over = True
            self._replies.turn_away(
                request, self._exchange, self._id, why.status, why.detail, field=why.field, count=count
            )

    def _cut(self) -> None:
        self._over = True
        self._exchange.cut()


class _Batch(Job):
    """One batch of a stream."""

    stream: StreamedPredict

    def answer(self, predictions: Predictions) -> float:
        return self.stream.answer(self, predictions)

    def fail(self, status: int, detail: str) -> float:
        return self.stream.fail(self, status, detail)
