"""The process beside the server that talks to AWS, so that the server need not.

It fetches the bundle, then takes metrics to CloudWatch and the prediction log to S3 for all workers. boto3, pyarrow and
slow networks stay out of the process that answers requests. It is started by the server with a pipe: when that closes,
however the server ended, it publishes what is left and goes.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime.bento import read_manifest
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.server import metrics, prediction_log
from modelworks.runtime.server.config import Config, read_config
from modelworks.runtime.server.logs import say

_KEPT_PUBLICATIONS = 360
"""Publications that wait for CloudWatch while it is away; then the oldest go. An hour at ten seconds each."""
_OFTEN_SECONDS = 10.0
"""A shorter interval publishes datapoints of less than a minute."""
_LAST_SECONDS = 10.0
"""How long the last words may take when the server has ended."""


class Begin(msgspec.Struct, frozen=True):
    """The server's one message: the bundle is verified and lies here."""

    bento: str


def main() -> None:
    """Fetch, return the path, publish until the server is gone. Arguments: scratch folder, descriptor to answer on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pipe says when: workers count until the end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config, scratch = read_config(), Path(sys.argv[1])
    try:
        archive = fetch(config, scratch)
        answer: dict[str, Any] = {"archive": str(archive)}
    except ModelworksError as error:
        answer = {"error": error.message, "fix": error.fix}
    # On a descriptor of its own: standard output is for logs.
    os.write(int(sys.argv[2]), msgspec.json.encode(answer) + b"\n")
    os.close(int(sys.argv[2]))
    if "error" in answer:
        return
    message = sys.stdin.buffer.readline()
    if not message:
        return
    manifest = read_manifest(Path(msgspec.json.decode(message, type=Begin).bento))
    Companion(config, manifest, scratch).run()


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
        if code in {"NoSuchKey", "404"} and target.exists():
            return target  # only the signature is missing: the server says so
        raise ModelworksError(f"the bundle {uri} cannot be fetched: {error}") from error
    except (BotoCoreError, OSError) as error:
        raise ModelworksError(f"the bundle {uri} cannot be fetched: {error}") from error
    return target


class Companion:
    """Publishes metrics and predictions until the server is gone.

    Args:
        config: The server's settings.
        manifest: Of the bundle.
        scratch: Where workers leave their numbers and files.
    """

    def __init__(self, config: Config, manifest: Manifest, scratch: Path) -> None:
        self._config, self._manifest, self._scratch = config, manifest, scratch
        self._layout = metrics.Layout(manifest.kind, len(manifest.classes))
        self._published = metrics.read_rows(scratch, self._layout)
        self._waiting: deque[list[dict[str, Any]]] = deque(maxlen=_KEPT_PUBLICATIONS)
        self._clients: dict[str, Any] = {}
        self._state = {"cloudwatch_up": 1.0, "prediction_log_up": 1.0, "prediction_log_rows_unreadable": 0.0}
        self._wrote: dict[str, float] = {}

    def run(self) -> None:
        """Work until standard input closes, then once more."""
        os.nice(10)  # a request is always more urgent than telling about it
        now = time.monotonic()
        next_metrics, next_log = now + self._config.metrics_seconds, now + self._first_log_seconds()
        while True:
            wait = max(0.0, min(next_metrics, next_log) - time.monotonic())
            ready, _, _ = select.select([sys.stdin], [], [], wait)
            if ready and not sys.stdin.buffer.readline():
                break
            now = time.monotonic()
            if now >= next_metrics:
                self._publish_metrics()
                next_metrics = now + self._config.metrics_seconds
            if now >= next_log:
                self._ship_predictions()
                next_log = now + self._config.prediction_log_seconds
        # Whoever waits for the server to end waits for this too: what does not go quickly stays in the spool.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, _LAST_SECONDS)
        self._publish_metrics()
        self._ship_predictions()

    def _first_log_seconds(self) -> float:
        # What an earlier life left behind does not wait a minute.
        spool = self._scratch / "spool"
        return 1.0 if spool.is_dir() and any(spool.iterdir()) else self._config.prediction_log_seconds

    def _publish_metrics(self) -> None:
        if not self._config.cloudwatch:
            return
        row = metrics.read_rows(self._scratch, self._layout)
        data = metrics.cloudwatch(
            self._published,
            row,
            self._layout,
            at=datetime.now(UTC),
            dimensions={
                contract.DIMENSION_ENVIRONMENT: self._config.environment,
                contract.DIMENSION_MODEL: self._config.model,
            },
            version=self._config.release,
            high_resolution=self._config.metrics_seconds < _OFTEN_SECONDS,
        )
        self._published = row
        if data:
            self._waiting.append(data)
        error = ""
        try:
            while self._waiting:
                self._client("cloudwatch").put_metric_data(
                    Namespace=contract.METRIC_NAMESPACE, MetricData=self._waiting[0]
                )
                self._waiting.popleft()
        except Exception as caught:  # noqa: BLE001 - whatever is wrong over there, serving goes on
            error = f"{type(caught).__name__}: {caught}"
        self._note("cloudwatch_up", "metrics cannot be published to CloudWatch; they wait", error)

    def _ship_predictions(self) -> None:
        spool = self._scratch / "spool"
        if not self._config.prediction_log or not spool.is_dir():
            return
        bucket, prefix = _bucket_and_key(self._config.prediction_log)
        error = ""
        try:
            for batch in prediction_log.batches(spool, self._config.pod, self._config.release):
                try:
                    body = prediction_log.parquet(batch, self._manifest, self._config.release)
                except Exception as caught:  # noqa: BLE001 - a file of another making must not stop those that follow
                    batch.set_aside()
                    self._state["prediction_log_rows_unreadable"] += 1
                    say("error", "a batch of predictions cannot be read", key=batch.key, error=str(caught))
                    continue
                key = f"{prefix}/{batch.key}" if prefix else batch.key
                self._client("s3").put_object(Bucket=bucket, Key=key, Body=body)
                batch.remove()
        except Exception as caught:  # noqa: BLE001
            error = f"{type(caught).__name__}: {caught}"
        self._note("prediction_log_up", "predictions cannot be written to S3; they wait on disk", error)

    def _note(self, what: str, trouble: str, error: str) -> None:
        """Log once that a step fails, and once that it works again; the gauge always shows the state."""
        up = 0.0 if error else 1.0
        if up != self._state[what]:
            if error:
                say("error", trouble, error=error)
            else:
                say("info", f"{what.removesuffix('_up')} works again")
        self._state[what] = up
        if self._state != self._wrote:
            path = self._scratch / "companion.json"
            unfinished = path.with_suffix(".part")
            unfinished.write_bytes(msgspec.json.encode(self._state))
            unfinished.rename(path)
            self._wrote = dict(self._state)

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = _client(service, attempts=2)
        return self._clients[service]


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
