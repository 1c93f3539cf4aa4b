"""`python -m modelworks.runtime.serve`: one released bundle, served.

Configured by the environment variables in `modelworks.contract`. Exit codes: 0 after a graceful end, 1 when the bundle,
the model or the settings are invalid (the log names which), and then nothing was served.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks import contract
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.packages import other_versions
from modelworks.runtime.server import metrics
from modelworks.runtime.server.companion import COUNTERS, SPOOL, Companion, read_state
from modelworks.runtime.server.config import Config, read_config
from modelworks.runtime.server.ends import Ended, Ends
from modelworks.runtime.server.logs import Scribe, line, place, say
from modelworks.runtime.server.spool import waiting_rows

if TYPE_CHECKING:
    from modelworks.runtime.server.app import App
    from modelworks.runtime.server.custom_service import Service
    from modelworks.runtime.server.engine import Engine, Model
    from modelworks.runtime.server.http import Listener
    from modelworks.runtime.server.http2 import Http2
    from modelworks.runtime.server.prediction_log import PredictionLog
    from modelworks.runtime.server.tracing import Tracer
    from modelworks.runtime.server.v2_grpc import OpenInferenceService

_FINISH_SECONDS = 20.0
"""After the drain delay: how long requests in flight may still take."""
_DESCRIPTORS = 16_384
"""Enough for every connection."""


def main() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    began = time.perf_counter()
    ends = Ends()
    threading.excepthook = _log_thread_error
    own: Path | None = None
    try:
        config = read_config()
        if config.scratch is None:
            own = Path(tempfile.mkdtemp(prefix="modelworks-serve-"))
        # One folder a release: what an earlier life of the same pod left is of the same model.
        scratch = (config.scratch or own or Path()) / config.release
        _run(config, scratch, began, ends)
    except Ended:
        say("info", "ended before it was ready")
    except Exception as error:  # noqa: BLE001 - whatever it is, one line names it
        return _failed(error, ends)
    finally:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
    return 0


def _failed(error: Exception, ends: Ends) -> int:
    """Log why the server ends; returns its exit code."""
    if ends.raised:  # within a library that turned it into an error of its own
        say("info", "ended before it was ready")
        return 0
    if isinstance(error, ModelworksError):
        say("critical", error.message, **({"fix": error.fix} if error.fix else {}))
    else:
        say("critical", "the server failed", error=f"{type(error).__name__}: {error}", place=place(error))
    return 1


def _run(config: Config, scratch: Path, began: float, ends: Ends) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    for unfinished in (*scratch.glob("*.part"), *scratch.glob(".*")):
        unfinished.unlink()
    ends.hold()
    companion = Companion(scratch)
    try:
        # While the bundle is on its way. A signal does not raise here, for an import may swallow it.
        _import_engine(grpc=config.grpc_port is not None)
        ends.resume()
        archive = companion.archive()
        fetched = time.perf_counter()
        bento = scratch / "bento"
        shutil.rmtree(bento, ignore_errors=True)
        manifest = open_bundle(archive, Digest(config.digest), config.model, bento, trusted_keys=config.trusted_keys)
        if others := other_versions(manifest):
            say("warning", "the image has other versions of packages than the bundle was judged with", packages=others)
        timing = {"fetch_seconds": round(fetched - began, 3), "fetched_at": fetched}
        companion.begin(bento)
        _Worker(config, manifest, bento, scratch, timing, companion, ends).run()
    finally:
        # Whoever presses Ctrl-C once more does not want to wait for AWS either.
        ends.on_signal = lambda number: companion.kill() if number == signal.SIGINT else None
        companion.close()
    _report_unpublished(config, scratch)


def _report_unpublished(config: Config, scratch: Path) -> None:
    """Log what AWS did not get, now that nobody publishes any more."""
    counted = metrics.counted_requests(scratch / COUNTERS) if config.cloudwatch else 0
    requests = counted - read_state(scratch).requests
    rows = waiting_rows(scratch / SPOOL) if config.prediction_log else 0
    if requests > 0 or rows:
        kept = {"kept": str(scratch)} if config.scratch else {}
        say("error", "the server ended before everything was published", requests=max(0, requests), rows=rows, **kept)


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        name = args.thread.name if args.thread is not None else ""
        say("error", "a thread failed", thread=name, error=place(args.exc_value))


def _import_engine(*, grpc: bool) -> None:
    import numpy  # noqa: F401, ICN001
    import onnxruntime  # noqa: F401
    import uvloop  # noqa: F401

    from modelworks.runtime.server import app  # noqa: F401

    if grpc:
        try:
            from modelworks.runtime.server import v2_grpc  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in {"hpack", "google"}:
                raise
            raise ModelworksError(
                f"{contract.ENV_GRPC_PORT} is set, and hpack and protobuf are not both installed",
                fix='Build the image with EXTRAS="runtime grpc", install modelworks[grpc], or unset the variable.',
            ) from error


class _Worker:
    """One process that answers requests."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        bento: Path,
        scratch: Path,
        timing: dict[str, float],
        companion: Companion,
        ends: Ends,
    ) -> None:
        self._config, self._manifest, self._bento = config, manifest, bento
        self._scratch, self._timing = scratch, timing
        self._companion, self._ends = companion, ends
        self._scribe = Scribe()
        self._log: PredictionLog | None = None
        self._service: Service | None = None
        self._tracer: Tracer | None = None
        self._row_seconds = 0.0

    def run(self) -> None:
        """Load the model, then serve until SIGTERM or Ctrl-C."""
        import uvloop

        self._scribe.start()
        try:
            app = self._build()
            self._ends.hold()
            uvloop.run(self._serve(app))
        finally:  # also when the model does not load: what a service logged before it failed is why
            if self._tracer is not None:
                self._tracer.close()
            if self._service is not None:
                self._service.stop()
            if self._log is not None:
                self._log.close()
                self._log.losses.report(self._scribe.say, last=True)
            self._scribe.close()

    def _build(self) -> App:
        from modelworks.runtime.schema import check_examples
        from modelworks.runtime.server.feature_reads import feature_reads_of
        from modelworks.runtime.server.prediction_log import PredictionLog
        from modelworks.runtime.server.tracing import tracer_if_wanted

        config, manifest = self._config, self._manifest
        check_examples(manifest)
        door, engine_of, model = self._load(self._scribe)
        self._row_seconds = model.cost.of(1)
        counters = metrics.Counters(metrics.Layout(manifest.kind, len(manifest.classes)), self._scratch / COUNTERS)
        if config.prediction_log:
            self._log = PredictionLog(self._scratch / SPOOL, manifest, config.prediction_log_sample)
            self._log.start()
        self._tracer = tracer_if_wanted(config.model, config.release)
        reads = feature_reads_of(manifest, config.features, self._scribe)
        engine = engine_of(
            config, manifest, model, counters, self._scribe, log=self._log, tracer=self._tracer, reads=reads
        )
        return door(engine, self._scribe, bento=self._bento, log=self._log, companion=self._companion)

    async def _serve(self, app: App) -> None:
        from modelworks.runtime.server.app import listener, tick_seconds
        from modelworks.runtime.server.http import connections_of

        config, scribe = self._config, self._scribe
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._log_loop_error)
        ended, hurried = asyncio.Event(), asyncio.Event()

        def end(number: int) -> None:
            if ended.is_set() and number == signal.SIGINT:
                hurried.set()
            ended.set()

        self._ends.deliver(lambda number: loop.call_soon_threadsafe(end, number))
        front = listener(app, connections_of(_raised_descriptors()))
        try:
            server = await loop.create_server(front, config.host, config.port, backlog=2048, start_serving=False)
        except OSError as error:
            raise ModelworksError(f"{config.host}:{config.port} cannot be listened on: {error.strerror}") from error
        calls = await _Calls.listen(app, front, config, scribe)
        await server.start_serving()
        # The model and the modules live for ever: the collector need not look at them again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._announce(server.sockets[0].getsockname()[1])
        beat = asyncio.create_task(_beat(app.tick, front.sweep, tick_seconds(), scribe))
        if self._service is not None:
            self._service.tell_end(lambda: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
        broken = self._service.ended if self._service is not None else ""
        app.engine.draining = True
        # Without its service it answers nothing: there is nothing to wait for.
        await self._drain(front, server, calls, 0 if broken else config.drain_seconds, hurried)
        beat.cancel()
        cut_off = len(front.connections) + calls.waiting
        calls.cut_off()
        app.tick(last=True)
        scribe.add(line("info", "ended", cut_off=cut_off))
        self._ends.hold()  # for the loop has ended
        if broken:
            raise ModelworksError(broken)

    def _announce(self, port: int) -> None:
        config, scribe, served = self._config, self._scribe, self._manifest.served
        if served == "skops":
            scribe.add(line("warning", "served by scikit-learn: the bundle carries no ONNX graph"))
        if config.workers > 1 and self._service is None:
            scribe.add(line("warning", f"{contract.ENV_WORKERS} is for custom services: there is one process"))
        scribe.say(
            "info",
            "ready",
            model=config.model,
            version=config.version,
            release=config.release,
            served=served,
            address=f"{config.host}:{port}",
            **({"grpc_address": f"{config.host}:{config.grpc_port}"} if config.grpc_port else {}),
            ready_seconds=round(time.perf_counter() - self._timing["fetched_at"], 3),
            fetch_seconds=self._timing["fetch_seconds"],
            row_microseconds=round(self._row_seconds * 1e6, 1),
        )

    async def _drain(
        self, front: Listener, server: asyncio.Server, calls: _Calls, seconds: float, hurried: asyncio.Event
    ) -> None:
        """Serve on until load balancers have noticed, then until what is in flight is answered."""
        self._scribe.say("info", "draining", seconds=seconds)
        # New requests keep coming until every load balancer has seen that this pod is not ready.
        front.closing = True
        with suppress(TimeoutError):
            await asyncio.wait_for(hurried.wait(), seconds)
        server.close()
        calls.close()
        deadline = time.monotonic() + _FINISH_SECONDS
        front.close_idle()
        while (front.connections or calls.open) and time.monotonic() < deadline and not hurried.is_set():
            await asyncio.sleep(0.02)
            front.close_idle()

    def _log_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Not the message that comes with an error: it quotes arguments of calls, which have values of requests.
        error = context.get("exception")
        self._scribe.say("error", "unexpected error", error=place(error) if error else context["message"])

    def _load(self, scribe: Scribe) -> tuple[type[App], type[Engine], Model]:
        """The predictor, and the kinds of HTTP handler and engine that it needs."""
        if self._manifest.service == "custom":
            from modelworks.runtime.server.custom_app import CustomApp, ServiceEngine
            from modelworks.runtime.server.custom_service import Service

            self._service = Service(self._manifest, self._bento, self._scratch, self._config.workers, scribe.say)
            return CustomApp, ServiceEngine, self._service
        from modelworks.runtime.predictor import Predictor
        from modelworks.runtime.server.app import App
        from modelworks.runtime.server.engine import Engine

        return App, Engine, Predictor(self._bento, self._manifest)


class _Calls:
    """The calls over gRPC, where it is answered.

    Args:
        http2: Their connections.
        service: Of the protocol.
        port: Its own, if it has one; otherwise it is that of HTTP/1.1.
    """

    def __init__(
        self,
        http2: Http2 | None = None,
        service: OpenInferenceService | None = None,
        port: asyncio.Server | None = None,
    ) -> None:
        self._http2, self._service, self._port = http2, service, port

    @classmethod
    async def listen(cls, app: App, front: Listener, config: Config, scribe: Scribe) -> _Calls:
        """Answer on the port for gRPC, if one is set."""
        if config.grpc_port is None:
            return cls()
        from modelworks.runtime.server.http2 import Http2
        from modelworks.runtime.server.v2_grpc import OpenInferenceService

        service = OpenInferenceService(app.engine, app.served, app.tokens, scribe.say)
        http2 = front.http2 = Http2(front, service, app.budget.share())
        if config.grpc_port == config.port:
            return cls(http2, service)
        try:
            port = await asyncio.get_running_loop().create_server(front, config.host, config.grpc_port, backlog=2048)
        except OSError as error:
            raise ModelworksError(f"{config.host}:{config.grpc_port} cannot be listened on for gRPC") from error
        return cls(http2, service, port)

    @property
    def waiting(self) -> int:
        """Calls that wait for their predictions."""
        return len(self._service.waiting) if self._service is not None else 0

    @property
    def open(self) -> bool:
        """Whether connections are left since `close`."""
        return self._http2 is not None and self._http2.closing and bool(self._http2.connections)

    def close(self) -> None:
        """Take no new calls; those in flight are answered."""
        if self._http2 is not None and self._service is not None:
            if self._port is not None:
                self._port.close()
            self._service.close()
            self._http2.close()

    def cut_off(self) -> None:
        """End what is still in flight."""
        if self._http2 is not None:
            self._http2.cut_off()


def _raised_descriptors() -> int:
    """The soft limit of open descriptors, raised: by default it is 1024, less than there may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else wanted


async def _beat(tick: Callable[[], None], sweep: Callable[[], None], seconds: float, scribe: Scribe) -> None:
    for beats in itertools.count(1):
        await asyncio.sleep(seconds)
        for chore in (tick, sweep) if beats % 2 == 0 else (tick,):
            try:
                chore()
            except Exception as error:  # noqa: BLE001 - a chore that fails once must not end all chores for good
                scribe.say("error", "housekeeping failed; it is tried again", error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    # Not sys.exit: the interpreter would wait for a thread whose call of the model never returns.
    os._exit(main())
