"""The process beside the server that talks to AWS, so that the server need not.

It fetches the bundle, then takes metrics to CloudWatch and the prediction log to S3. boto3, pyarrow and slow networks
stay out of the process that answers requests. The server starts it with a pipe: when that closes, however the server
ended, it publishes what is left and ends. If it dies, the server starts it again, and it continues from the files on
disk.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from modelworks import contract
from modelworks._files import locked, write_whole
from modelworks.errors import ModelworksError
from modelworks.runtime.bento import read_manifest
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.server import metrics, spool
from modelworks.runtime.server.backlog import Backlog, Snapshot
from modelworks.runtime.server.companion import COUNTERS, SPOOL, Begin, read_state, state_path
from modelworks.runtime.server.config import Config, read_config
from modelworks.runtime.server.logs import Losses, place, say
from modelworks.runtime.server.parquet import parquet

_OFTEN_SECONDS = 10.0
"""A shorter interval publishes datapoints of less than a minute."""
_ROUND_SECONDS = 5.0
"""How long metrics may keep predictions waiting, and predictions metrics, where there is much to deliver."""
_LOOK_SECONDS = 1.0
"""How often to look whether there is enough for a Parquet file."""
_LAST_SECONDS = 10.0
"""How long publishing may take after the server has ended."""
_DENIED = frozenset({"AccessDenied", "403"})
"""Refusals of S3 that a missing key gets, too, from a role without `s3:ListBucket`, such as a pod's.

Source: "Permissions" of https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
"""
_NOT_THE_REQUEST = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "LimitExceeded",
        "LimitExceededException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "ServiceUnavailable",
        "SignatureDoesNotMatch",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "UnrecognizedClientException",
    }
)
"""Codes that CloudWatch answers with status 400 and that have another cause than the data: they may pass."""


def main() -> None:
    """Fetch, return the path, publish until the server is gone.

    Arguments: the scratch folder, and a descriptor to return the path on. Without one the bundle was fetched before.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pipe says when: the server counts until its end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config, scratch = read_config(), Path(sys.argv[1])
    if len(sys.argv) > 2 and not _answer(int(sys.argv[2]), config, scratch):
        return
    message = sys.stdin.buffer.readline()
    if message:
        bento = Path(msgspec.json.decode(message, type=Begin).bento)
        Publisher(config, read_manifest(bento), scratch).run()


def _answer(descriptor: int, config: Config, scratch: Path) -> bool:
    """Fetch the bundle and answer where it is, or what is wrong."""
    answer: dict[str, Any]
    try:
        answer = {"archive": str(fetch(config, scratch))}
    except ModelworksError as error:
        answer = {"error": error.message, "fix": error.fix}
    except Exception as error:  # noqa: BLE001 - the server ends with this, in one line
        answer = {"error": f"the bundle {config.bundle_uri} cannot be fetched: {error} ({place(error)})", "fix": ""}
    try:
        # On a descriptor of its own: standard output is for logs.
        os.write(descriptor, msgspec.json.encode(answer) + b"\n")
        os.close(descriptor)
    except BrokenPipeError:
        return False  # the server has ended meanwhile
    return "error" not in answer


def fetch(config: Config, scratch: Path) -> Path:
    """Fetch the bundle, and its signature if one is required, to this machine.

    Raises:
        ModelworksError: It is not there, or the store does not answer.
    """
    uri = config.bundle_uri
    if not uri.startswith("s3://"):
        path = Path(uri.removeprefix("file://"))
        if not path.is_file():
            raise ModelworksError(f"there is no bundle at {path}")
        return path
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = _bucket_and_key(uri)
    target = scratch / f"{config.digest.removeprefix('sha256:')}.bento"
    s3 = _client("s3", attempts=5)
    try:
        _download(s3, bucket, key, target)
        if config.trusted_keys is not None:
            _download(s3, bucket, f"{key}.sig", target.with_name(target.name + ".sig"))
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"NoSuchKey", "404", *_DENIED} and target.exists():
            if code in _DENIED:
                say("warning", "the bundle's signature is missing, or the role may not read it", key=f"{key}.sig")
            return target  # only the signature is missing: the server says so
        raise ModelworksError(
            f"the bundle {uri} cannot be fetched: {error}",
            fix=f"S3 denies a missing key, too, to a role that may not list: check that {bucket}/{key} is there, then "
            "that the role may read it and decrypt with the bucket's key."
            if code in _DENIED
            else "",
        ) from error
    except (BotoCoreError, OSError) as error:
        raise ModelworksError(f"the bundle {uri} cannot be fetched: {error}") from error
    return target


class Publisher:
    """Publishes metrics and predictions until the server is gone.

    Args:
        config: The server's settings.
        manifest: Of the bundle.
        scratch: Where the server leaves its numbers and files.
    """

    def __init__(self, config: Config, manifest: Manifest, scratch: Path) -> None:
        self._config, self._manifest, self._scratch = config, manifest, scratch
        self._spool = scratch / SPOOL
        self._layout = metrics.Layout(manifest.kind, len(manifest.classes))
        self._backlog = Backlog(scratch / "metrics.queue", self._layout)
        self._parts: deque[list[dict[str, Any]]] = deque()
        """Of the oldest interval that waits: what CloudWatch does not have yet."""
        self._state = read_state(scratch)
        self._wrote = b""
        self._datapoints = Losses("datapoints were lost", self._state.datapoints_lost)
        self._rows = Losses("rows of the prediction log were lost", self._state.rows_lost)
        self._clients: dict[str, Any] = {}
        self._ending = threading.Event()
        now = time.monotonic()
        self._metrics_at = now + config.metrics_seconds if config.cloudwatch else math.inf
        self._look_at = now if config.prediction_log else math.inf
        self._log_at = now + (_LOOK_SECONDS if self._left_behind() else config.prediction_log_seconds)

    def run(self) -> None:
        """Work until standard input closes, then once more."""
        os.nice(10)  # a request is always more urgent than a report of it
        threading.Thread(target=self._watch_server, daemon=True).start()
        # The publisher of a server that was killed has some seconds left: two would publish everything twice.
        with locked(self._scratch):
            while not self._ending.wait(self._pause()):
                self._round()
            self._round(last=True)

    def _watch_server(self) -> None:
        sys.stdin.buffer.read()
        # Whoever waits for the server to end waits for this too: the kernel ends what does not go quickly.
        signal.setitimer(signal.ITIMER_REAL, _LAST_SECONDS)
        self._ending.set()

    def _pause(self) -> float | None:
        due = min(self._metrics_at, self._look_at)
        return None if due == math.inf else max(0.0, due - time.monotonic())

    def _left_behind(self) -> bool:
        return self._spool.is_dir() and any(self._spool.iterdir())

    def _round(self, *, last: bool = False) -> None:
        """Do the steps that are due. A step that fails is retried next time, and ends nothing."""
        now = time.monotonic()
        if last:
            self._log_at = now
        if self._config.cloudwatch and (last or now >= self._metrics_at):
            self._metrics_at = now + self._config.metrics_seconds
            self._attempt(
                "cloudwatch_up", "metrics cannot be published to CloudWatch; they wait", self._publish_metrics
            )
        if self._config.prediction_log and (last or now >= self._look_at):
            self._look_at = now + min(_LOOK_SECONDS, self._config.prediction_log_seconds)
            self._attempt("prediction_log_up", "predictions cannot be written to S3; they wait on disk", self._ship)
        self._attempt("", "the publisher's state cannot be written", self._report)

    def _attempt(self, what: str, trouble: str, step: Callable[[], None]) -> None:
        """Log once that a step fails, and once that it works again; the state always has it."""
        error = ""
        try:
            step()
        except Exception as caught:  # noqa: BLE001 - whatever is wrong over there, serving goes on
            error = f"{type(caught).__name__}: {caught}"
        if not what:
            return
        up = not error
        if up != getattr(self._state, what):
            if error:
                say("error", trouble, error=error)
            else:
                say("info", f"{what.removesuffix('_up')} works again")
        setattr(self._state, what, up)

    def _report(self) -> None:
        for losses in (self._datapoints, self._rows):
            losses.report(say)
        self._state.requests = self._backlog.published.numbers()[metrics.REQUESTS]
        self._state.datapoints_lost, self._state.rows_lost = self._datapoints.counts, self._rows.counts
        state = msgspec.json.encode(self._state)
        if state != self._wrote:
            write_whole(state_path(self._scratch), state)
            self._wrote = state

    # -- Metrics -------------------------------------------------------------------------------------------------
    def _publish_metrics(self) -> None:
        row = metrics.read_row(self._scratch / COUNTERS, self._layout)
        if row.tobytes() != self._backlog.newest.row:
            self._backlog.add(time.time(), row)
        deadline = time.monotonic() + _ROUND_SECONDS
        try:
            while len(self._backlog):
                if not self._parts:
                    self._parts.append(self._data(*self._backlog.oldest()))
                self._send_parts()
                self._backlog.advance()
                if time.monotonic() > deadline:
                    self._metrics_at = time.monotonic()  # there is more, and nothing is wrong
                    break
        finally:
            self._backlog.save()

    def _data(self, before: Snapshot, after: Snapshot) -> list[dict[str, Any]]:
        return metrics.cloudwatch(
            before.numbers(),
            after.numbers(),
            self._layout,
            at=datetime.fromtimestamp(after.at, UTC),
            dimensions={
                contract.DIMENSION_ENVIRONMENT: self._config.environment,
                contract.DIMENSION_MODEL: self._config.model,
            },
            version=self._config.release,
            high_resolution=self._config.metrics_seconds < _OFTEN_SECONDS,
        )

    def _send_parts(self) -> None:
        """Send what is left of an interval. A datapoint that CloudWatch refuses is found by halves, and dropped."""
        from botocore.exceptions import ClientError, ParamValidationError

        while self._parts:
            part = self._parts[0]
            try:
                if part:
                    self._client("cloudwatch").put_metric_data(Namespace=contract.METRIC_NAMESPACE, MetricData=part)
            except (ClientError, ParamValidationError) as error:
                if isinstance(error, ClientError) and not _blames_the_data(error):
                    raise
                self._parts.popleft()
                half = len(part) // 2
                if half:
                    self._parts.extendleft((part[half:], part[:half]))
                    continue
                if not self._datapoints.counts.get("refused"):
                    say("error", "CloudWatch refuses a datapoint", metric=part[0]["MetricName"], error=str(error))
                self._datapoints.add("refused", 1)
            else:
                self._parts.popleft()

    # -- Predictions ---------------------------------------------------------------------------------------------
    def _ship(self) -> None:
        if not self._spool.is_dir():
            return
        if unfinished := spool.sweep(self._spool):
            self._rows.add("unfinished", unfinished)
        now = time.monotonic()
        if now < self._log_at and (
            not self._state.prediction_log_up or spool.finished_bytes(self._spool) < spool.BATCH_BYTES
        ):
            return
        self._log_at = now + self._config.prediction_log_seconds
        self._upload(deadline=now + _ROUND_SECONDS)

    def _upload(self, deadline: float) -> None:
        """Take batches to S3, oldest first.

        Raises:
            Exception: S3 is away, or refuses everything: what is left waits.
        """
        from botocore.exceptions import ClientError

        bucket, prefix = _bucket_and_key(self._config.prediction_log)
        refused: list[tuple[spool.Batch, Exception]] = []
        accepted = 0
        for batch in spool.batches(self._spool, self._config.pod, self._config.release):
            body = self._parquet(batch)
            if body is None:
                continue
            try:
                key = f"{prefix}/{batch.key}" if prefix else batch.key
                self._client("s3").put_object(Bucket=bucket, Key=key, Body=body)
            except ClientError as error:
                if not _is_refusal(error):
                    raise
                refused.append((batch, error))
                # The batch may be to blame. It is, if S3 takes the next one.
                if len(refused) > 1:
                    break
            else:
                accepted += 1
                batch.remove()
            if time.monotonic() > deadline:
                self._log_at = time.monotonic()
                break
        for batch, refusal in refused:
            if not accepted:
                raise refusal
            self._lose(batch.folder, "refused", refusal)

    def _parquet(self, batch: spool.Batch) -> bytes | None:
        try:
            body = parquet(batch, self._manifest, self._config.release, self._unreadable)
        except (ValueError, TypeError, LookupError) as error:  # rows of another making must not stop those that follow
            self._unreadable(batch.folder, error)
            return None
        if body is None:
            batch.remove()
        return body

    def _unreadable(self, path: Path, error: Exception) -> None:
        self._lose(path, "unreadable", error)

    def _lose(self, path: Path, reason: str, error: Exception) -> None:
        rows = spool.rows_in(path)
        kept = spool.set_aside(path, self._scratch / "aside")
        say("error", f"predictions are set aside: {reason}", rows=rows, path=str(kept), error=place(error))
        self._rows.add(reason, rows)

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = _client(service, attempts=2)
        return self._clients[service]


def _blames_the_data(error: Any) -> bool:
    """Whether CloudWatch refused what it was sent, and would again: not its caller, nor how often it was called."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in {400, 413} and error.response.get("Error", {}).get("Code") not in _NOT_THE_REQUEST


def _is_refusal(error: Any) -> bool:
    """Whether S3 does not take this, and did not only fail."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return bool(400 <= status < 500 and status != 429)


def _client(service: str, *, attempts: int) -> Any:
    import botocore.session  # no request waits for this process; it may take its time
    from botocore.config import Config as Options

    options = Options(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": attempts})
    # The laptop's AWS is one address for all buckets; on AWS itself the default style is kept.
    if os.environ.get("AWS_ENDPOINT_URL"):
        options = options.merge(Options(s3={"addressing_style": "path"}))
    return botocore.session.get_session().create_client(service, config=options)


def _download(s3: Any, bucket: str, key: str, target: Path) -> None:
    body = s3.get_object(Bucket=bucket, Key=key)["Body"]
    unfinished = target.with_name(target.name + ".part")
    with unfinished.open("wb") as file:
        for chunk in body.iter_chunks(1 << 20):
            file.write(chunk)
    unfinished.rename(target)


def _bucket_and_key(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise ModelworksError(f"expected s3://bucket/key, got {uri!r}")
    return parts.netloc, parts.path.strip("/")


if __name__ == "__main__":
    main()
