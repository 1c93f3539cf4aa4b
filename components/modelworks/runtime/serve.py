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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.publisher import Begin
from modelworks.runtime.server.config import Config, read_config
from modelworks.runtime.server.logs import Scribe, line, say

if TYPE_CHECKING:
    from modelworks.runtime.server.app import App, Model
    from modelworks.runtime.server.custom_service import Service

_FINISH_SECONDS = 20.0
"""After the drain delay: how long requests in flight may still take."""
_WORKER_RESTART_SECONDS = 1.0
_DESCRIPTORS = 16_384
"""Enough for every connection."""


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    began = time.perf_counter()
    own: Path | None = None
    try:
        config = read_config()
        if config.scratch is None:
            own = Path(tempfile.mkdtemp(prefix="modelworks-serve-"))
        # One folder a release: what an earlier life of the same pod left is of the same model.
        scratch = (config.scratch or own or Path()) / config.release
        return _run(config, scratch, began)
    except ModelworksError as error:
        say("critical", error.message, **({"fix": error.fix} if error.fix else {}))
        return 1
    finally:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)


def _run(config: Config, scratch: Path, began: float) -> int:
    scratch.mkdir(parents=True, exist_ok=True)
    for stale in scratch.glob("worker-*"):
        stale.unlink()
    companion, answer = _start_companion(scratch)
    try:
        if config.workers == 1:
            _import_engine()  # while the bundle is on its way
        archive = _archive(answer)
        fetched = time.perf_counter()
        bento = scratch / "bento"
        shutil.rmtree(bento, ignore_errors=True)
        manifest = open_bundle(archive, Digest(config.digest), config.model, bento, trusted_keys=config.trusted_keys)
        timing = {"fetch_seconds": round(fetched - began, 3), "fetched_at": fetched}
        tell = companion.stdin
        if tell is not None:
            tell.write(msgspec.json.encode(Begin(bento=str(bento))) + b"\n")
            tell.flush()
        if not _shared(config, manifest):
            return _Worker(config, manifest, bento, scratch, "0", timing).run()
        return _supervise(config, lambda name: _Worker(config, manifest, bento, scratch, name, timing).run())
    finally:
        # Closing the pipe is the signal to publish what is left, and to go.
        if companion.stdin is not None:
            companion.stdin.close()
        try:
            companion.wait(timeout=12)
        except subprocess.TimeoutExpired:
            companion.kill()
            companion.wait()


def _shared(config: Config, manifest: Manifest) -> bool:
    """Whether several servers share the port. For a custom service, several processes run behind one server."""
    return config.workers > 1 and manifest.service == "standard"


def _start_companion(scratch: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    read, write = os.pipe()

    process = subprocess.Popen(
        [sys.executable, "-m", "modelworks.runtime.publisher", str(scratch), str(write)],
        stdin=subprocess.PIPE,
        pass_fds=[write],
    )
    os.close(write)
    return process, os.fdopen(read, "rb")


def _archive(answer: IO[bytes]) -> Path:
    with answer:
        text = answer.readline()
    if not text:
        raise ModelworksError("the process that fetches the bundle ended without a word; see the log above")
    told = msgspec.json.decode(text, type=dict[str, str])
    if "error" in told:
        raise ModelworksError(told["error"], fix=told["fix"])
    return Path(told["archive"])


def _import_engine() -> None:
    import numpy  # noqa: F401, ICN001
    import onnxruntime  # noqa: F401
    import uvloop  # noqa: F401

    from modelworks.runtime.server import app  # noqa: F401


class _Worker:
    """One process that answers requests."""

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        bento: Path,
        scratch: Path,
        name: str,
        timing: dict[str, float],
    ) -> None:
        self._config, self._manifest, self._bento = config, manifest, bento
        self._scratch, self._name, self._timing = scratch, name, timing
        self._service: Service | None = None

    def run(self) -> int:
        """Load the model, then serve until SIGTERM."""
        import uvloop  # after the fork

        uvloop.run(self._serve())
        return 0

    async def _serve(self) -> None:
        from modelworks.runtime.schema import check_examples
        from modelworks.runtime.server.app import listener, tick_seconds
        from modelworks.runtime.server.feature_reads import feature_reads_of
        from modelworks.runtime.server.http import connections_of
        from modelworks.runtime.server.metrics import Counters, Layout
        from modelworks.runtime.server.prediction_log import PredictionLog
        from modelworks.runtime.server.tracing import tracer_if_wanted

        config, manifest = self._config, self._manifest
        scribe = Scribe()
        check_examples(manifest)
        scribe.start()
        try:
            door, model = self._load(scribe)
        except BaseException:
            scribe.close()  # what a service said before it failed is why
            raise
        layout = Layout(manifest.kind, len(manifest.classes))
        counters = Counters(layout, self._scratch / f"worker-{self._name}")
        log = None
        if config.prediction_log:
            log = PredictionLog(
                self._scratch / "spool", manifest, config.prediction_log_sample, scribe, f"w{self._name}"
            )
        tracer = tracer_if_wanted(config.model, config.release)
        reads = feature_reads_of(manifest, config.feature_tables, scribe)
        app = door(
            config,
            manifest,
            model,
            counters,
            scribe,
            bento=self._bento,
            scratch=self._scratch,
            log=log,
            tracer=tracer,
            reads=reads,
        )
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        front = listener(app, connections_of(_raised_descriptors()))
        try:
            server = await loop.create_server(
                front, config.host, config.port, backlog=2048, reuse_port=_shared(config, manifest) or None
            )
        except OSError as error:
            raise ModelworksError(f"{config.host}:{config.port} cannot be listened on: {error.strerror}") from error
        # The model and the modules live for ever: the collector need not look at them again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        if manifest.served == "skops":
            scribe.add(line("warning", "served by scikit-learn: the bundle carries no ONNX graph"))
        scribe.add(
            line(
                "info",
                "ready",
                model=config.model,
                version=config.version,
                release=config.release,
                served=manifest.served,
                address=f"{config.host}:{config.port}",
                worker=self._name,
                ready_seconds=round(time.perf_counter() - self._timing["fetched_at"], 3),
                fetch_seconds=self._timing["fetch_seconds"],
                row_microseconds=round(model.cost.of(1) * 1e6, 1),
            )
        )
        scribe.kick()
        parent = os.getppid()

        def beat_once() -> None:
            app.tick()
            if _shared(config, manifest) and os.getppid() != parent:  # the supervising process was killed
                ended.set()

        beat = asyncio.create_task(_beat(beat_once, front.sweep, tick_seconds(), scribe))
        if self._service is not None:
            self._service.tell_end(lambda: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
        app.draining = True
        broken = self._service.ended if self._service is not None else ""
        # Without its service it answers nothing: there is nothing to wait for.
        drain_seconds = 0 if broken else config.drain_seconds
        scribe.add(line("info", "draining", seconds=drain_seconds))
        # New requests keep coming until every load balancer has seen that this pod is not ready.
        front.closing = True
        await asyncio.sleep(drain_seconds)
        server.close()
        deadline = time.monotonic() + _FINISH_SECONDS
        front.close_idle()
        while front.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            front.close_idle()
        beat.cancel()
        app.tick()
        if tracer is not None:
            tracer.close()
        if self._service is not None:
            await loop.run_in_executor(None, self._service.stop)
        scribe.add(line("info", "ended", cut_off=len(front.connections)))
        scribe.close()
        if broken:
            raise ModelworksError(broken)

    def _load(self, scribe: Scribe) -> tuple[type[App], Model]:
        """The predictor, and its HTTP handler."""
        if self._manifest.service == "custom":
            from modelworks.runtime.server.custom_app import CustomApp
            from modelworks.runtime.server.custom_service import Service

            self._service = Service(self._manifest, self._bento, self._scratch, self._config.workers, scribe.say)
            return CustomApp, self._service
        from modelworks.runtime.predictor import Predictor
        from modelworks.runtime.server.app import App

        return App, Predictor(self._bento, self._manifest)


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


def _supervise(config: Config, work: Callable[[str], int]) -> int:
    """Keep `config.workers` processes serving one port; forked before anything heavy is loaded."""
    pids: dict[int, str] = {}
    ending = False

    def start(name: str) -> None:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            code = 1
            try:
                code = work(name)
            except ModelworksError as error:
                say("critical", error.message, worker=name)
            finally:
                os._exit(code)
        pids[pid] = name

    def end(number: int, _frame: object) -> None:
        nonlocal ending
        ending = True
        for pid in pids:
            os.kill(pid, number)

    for number in range(config.workers):
        start(str(number))
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    worst, failures = 0, 0
    while pids:
        pid, status = os.wait()
        name = pids.pop(pid, None)
        if name is None:
            continue
        code = os.waitstatus_to_exitcode(status)
        if ending:
            worst = worst or code
            continue
        failures += 1
        say("error", "a worker ended", worker=name, exit_code=code)
        if code == 1 or failures > 5 * config.workers:
            # What one worker cannot load none can: let the pod's restart policy, and the rollout, see it.
            end(signal.SIGTERM, None)
            worst = 1
            continue
        time.sleep(_WORKER_RESTART_SECONDS)
        start(name)
    return worst


if __name__ == "__main__":
    sys.exit(main())
