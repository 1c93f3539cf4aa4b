"""Data on its way to AWS, and data lost on it, for `/metrics`.

The server alone can report it: of a publisher that is dead nothing is up, whatever it reported last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelworks.runtime.server.companion import Companion
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.logs import Scribe
from modelworks.runtime.server.metrics import REQUESTS, Sample
from modelworks.runtime.server.prediction_log import PredictionLog

_LOST_ROWS = dict.fromkeys(("memory", "disk", "spool_full", "unfinished", "unreadable", "refused"), 0)
_LOST_DATAPOINTS = dict.fromkeys(("refused",), 0)


def delivery(
    config: Config, row: Sequence[float], scribe: Scribe, log: PredictionLog | None, companion: Companion | None
) -> Iterator[Sample]:
    """The samples.

    Args:
        config: The server's settings.
        row: Its counters.
        scribe: Its log lines.
        log: Its prediction log, if there is one.
        companion: Its publisher, if there is one.
    """
    yield _counter("log_lines_dropped_total", "Log lines that nobody read in time.", {"": scribe.dropped})
    if companion is None:
        return
    up, state = companion.up, companion.state()
    yield _gauge("publisher_up", "Whether the process that publishes is alive.", up)
    yield _counter("publisher_restarts_total", "Times that it died and was started again.", {"": companion.restarts})
    if config.cloudwatch:
        yield _gauge("cloudwatch_up", "Whether CloudWatch takes metrics.", up and state.cloudwatch_up)
        waiting = max(0.0, row[REQUESTS] - state.requests)
        yield _gauge("requests_unpublished", "Requests whose metrics CloudWatch does not have yet.", waiting)
        lost = {**_LOST_DATAPOINTS, **state.datapoints_lost}
        yield _counter("datapoints_dropped_total", "Datapoints that CloudWatch will never have.", lost)
    if log is not None:
        yield _gauge("prediction_log_up", "Whether S3 takes predictions.", up and state.prediction_log_up)
        yield _gauge("prediction_log_waiting_rows", "Rows that are not in S3 yet.", log.waiting_rows())
        lost = {**_LOST_ROWS, **state.rows_lost}
        for reason, count in dict(log.losses.counts).items():
            lost[reason] += count
        yield _counter("prediction_log_dropped_total", "Rows that the prediction log will never have.", lost)


def _gauge(name: str, text: str, value: float) -> Sample:
    return Sample(f"modelworks_{name}", "gauge", text, {"": value})


def _counter(name: str, text: str, values: dict[str, int]) -> Sample:
    return Sample(f"modelworks_{name}", "counter", text, values)
