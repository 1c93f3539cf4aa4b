"""A bundle's own service code, run by BentoML in processes beside the server.

Each process is BentoML's own worker program. They share one Unix socket that only this server can reach, so that nobody
comes past admission, tokens and counters. (`bentoml serve` would open a port of its own, and in a container it stays
when its worker has died.) A worker that ends by itself ends the server: whoever runs the pod starts it again.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from modelworks.errors import ModelworksError
from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Manifest, class_name
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.predictor import Cost, measure_cost
from modelworks.runtime.server.logs import say
from modelworks.runtime.stored import example_rows

CONCURRENCY = 8
"""Requests that may be at the service at once, unless it sets another number: `traffic={"concurrency": 50}`."""
TIMEOUT_SECONDS = 60.0
"""How long an answer may take, unless the service sets another number: `traffic={"timeout": 10}`. BentoML's default."""
_GRACE_SECONDS = 2.0
"""BentoML answers 504 by itself when the time is up; this much later we no longer wait for it."""
_WATCH_SECONDS = 0.5
_PROBE_SECONDS = 5.0
"""How long the service may take to report its readiness."""
_SILENT_SECONDS = 60.0
"""A service without a response for this long hangs."""
_STOP_SECONDS = 10.0
_WARM_UP_ROWS = 10
_RECORD = re.compile(r"^\S+ \[(?P<level>[A-Z]+)\] \[[^\]]*\] (?P<message>.*)$")
"""A line as BentoML logs it; lines without this head belong to the one before."""


# -- What a Bento says about its service -----------------------------------------------------------------------------
class _Api(msgspec.Struct, frozen=True):
    name: str
    route: str
    input: dict[str, Any] = {}
    is_task: bool = False


class _Schema(msgspec.Struct, frozen=True):
    routes: list[_Api]


class _Traffic(msgspec.Struct, frozen=True):
    concurrency: Annotated[int, Meta(ge=1, le=1000)] | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None


class _Settings(msgspec.Struct, frozen=True):
    traffic: _Traffic = _Traffic()


class _Part(msgspec.Struct, frozen=True):
    name: str
    config: _Settings = _Settings()


class _Variable(msgspec.Struct, frozen=True):
    name: str
    value: str | None = None
    stage: str = "all"


class _Bento(msgspec.Struct, frozen=True):
    schema: _Schema
    entry_service: str
    services: list[_Part] = []
    envs: list[_Variable] = []


class Facts(NamedTuple):
    """The facts of a Bento's service that the server needs."""

    predict: str
    """Route of `predict(rows)`."""
    others: dict[str, dict[str, Any]]
    """Routes of its other APIs, with the JSON Schema of what each takes."""
    concurrency: int
    timeout: float
    """Seconds."""
    variables: dict[str, str | None]
    """Environment variables it names, with their values; None: it has none for it."""


def read_facts(bento: Path) -> Facts:
    """The service's section of `bento.yaml`.

    Raises:
        ModelworksError: It cannot be read, or the service has no `predict` that takes `rows` and needs nothing else.
    """
    import yaml  # comes with BentoML, which only these bundles need

    try:
        content = yaml.safe_load((bento / "bento.yaml").read_text(encoding="utf-8"))
        told = msgspec.convert(content, _Bento)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ModelworksError(f"the bundle's bento.yaml cannot be read: {error}") from error
    predict = next((each for each in told.schema.routes if each.name == "predict" and _takes_rows(each)), None)
    if predict is None:
        raise ModelworksError(
            f"{told.entry_service} has no `predict(rows)`; it has {_names(told.schema.routes)}",
            fix="Add `@bentoml.api def predict(self, rows: list[dict]) -> list[dict]`; it may have other APIs too.",
        )
    traffic = next((each.config.traffic for each in told.services if each.name == told.entry_service), _Traffic())
    return Facts(
        predict.route,
        {each.route: each.input for each in told.schema.routes if each is not predict},
        traffic.concurrency or CONCURRENCY,
        traffic.timeout or TIMEOUT_SECONDS,
        {each.name: each.value or None for each in told.envs if each.stage != "build"},
    )


def _takes_rows(api: _Api) -> bool:
    return "rows" in api.input.get("properties", {}) and set(api.input.get("required", [])) <= {"rows"}


def _names(apis: list[_Api]) -> str:
    return ", ".join(f"{each.name}({', '.join(each.input.get('properties', {}))})" for each in apis) or "no API"


# -- What it answers -------------------------------------------------------------------------------------------------
class Answer(NamedTuple):
    """An answer of the service."""

    status: int
    content_type: str
    body: bytes


class RefusedError(ModelworksError):
    """The service did not predict.

    Args:
        status: As HTTP has it; 500 and above are failures.
        detail: Its last output.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class _Class(msgspec.Struct, frozen=True):
    label: str | int | bool
    score: Annotated[float, Meta(ge=0, le=1)]


class _ClassOfMany(_Class, frozen=True):
    probabilities: dict[str, float]


class _Value(msgspec.Struct, frozen=True):
    value: float


class Service:
    """A bundle's own service, started, and ready when it has predicted the manifest's first example.

    Args:
        manifest: Of the bundle.
        bento: Folder of the unpacked, verified bundle.
        scratch: Writable folder, for the socket and for what BentoML writes.
        workers: Processes that run it.
        say: Takes what they write: level, message and fields. Where it blocks, they do.

    Raises:
        ModelworksError: BentoML is not installed, or the service does not start or does not predict the example.
    """

    def __init__(
        self,
        manifest: Manifest,
        bento: Path,
        scratch: Path,
        workers: int = 1,
        say: Callable[..., object] = say,
    ) -> None:
        if importlib.util.find_spec("bentoml") is None:
            raise ModelworksError(
                f"{manifest.model} has a custom service, and BentoML is not installed here to run it",
                fix="Build the runtime image with the `service` extra; see docs/guides/serving.md.",
            )
        self.facts = read_facts(bento)
        self.ready = False
        self.ended = ""
        """Why it is over; empty while it is not."""
        self.manifest, self._local = manifest, threading.local()
        self._labels = {(type(label), label): number for number, label in enumerate(manifest.classes)}
        self._names = [class_name(label) for label in manifest.classes]
        shape = {"binary": _Class, "multiclass": _ClassOfMany, "regression": _Value}[manifest.kind]
        self._read: Callable[[msgspec.Raw], Any] = msgspec.json.Decoder(shape).decode
        self._stopped = threading.Event()
        self._on_end: Callable[[], object] = _nothing
        home = scratch / "bentoml"
        home.mkdir(exist_ok=True)
        # A socket's path has at most 107 bytes, a scratch folder any number: it is reached through a descriptor.
        self._folder = os.open(home, os.O_PATH | os.O_DIRECTORY)
        self._workers = self._start(workers, bento, home)
        self._relays = [threading.Thread(target=_relay, args=(each.stdout, say), daemon=True) for each in self._workers]
        for relay in self._relays:
            relay.start()
        try:
            self._wait_until_ready()
            self.cost = self._warm_up()
        except BaseException:
            self.stop()
            raise
        self.ready = True
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def predict(self, rows: list[Row], headers: Mapping[str, str] | None = None) -> Predictions:
        """Predictions for decoded rows, in order. Blocks; any number of threads may call it.

        Args:
            rows: Rows of the model.
            headers: The service finds them in its context.

        Raises:
            RefusedError: The service refused, failed, ended or took too long.
            ModelworksError: The response has no valid predictions of this model for these rows.
        """
        json = {"content-type": "application/json"}
        names = [feature.name for feature in self.manifest.features]
        body = msgspec.json.encode({"rows": [dict(zip(names, row, strict=True)) for row in rows]})
        answer = self.ask(self.facts.predict, body, {**(headers or {}), **json})
        if answer.status != HTTPStatus.OK:
            raise RefusedError(answer.status, detail(answer))
        try:
            predictions = self._predictions(msgspec.json.decode(answer.body, type=list[msgspec.Raw]))
        except msgspec.DecodeError as error:
            raise ModelworksError(
                f"the service answered what is no {self.manifest.kind} prediction: {error}"
            ) from error
        if len(predictions.values) != len(rows):
            raise ModelworksError(f"the service answered {len(predictions.values)} predictions for {len(rows)} rows")
        return predictions

    def ask(self, route: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The response of the service to a POST, of any status.

        Raises:
            RefusedError: It ended, or took too long.
        """
        if not hasattr(self._local, "connection"):  # a thread keeps its connection: the workers never close one
            self._local.connection = _UnixConnection(self._address(), self.facts.timeout + _GRACE_SECONDS)
        connection: _UnixConnection = self._local.connection
        try:
            connection.request("POST", route, body, dict(headers))
            response = connection.getresponse()
            status = response.status if response.status in _STATUSES else response.status // 100 * 100
            return Answer(status, response.headers.get("content-type", "application/octet-stream"), response.read())
        except TimeoutError as error:
            connection.close()
            raise RefusedError(504, f"no answer after {self.facts.timeout:g} seconds") from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise RefusedError(502, f"the service hung up: {type(error).__name__}") from error

    def tell_end(self, call: Callable[[], object]) -> None:
        """Call this, from another thread, when the service ends by itself; at once if it has."""
        self._on_end = call
        if self.ended:
            call()

    def stop(self) -> None:
        """End the processes; what they are answering is still answered."""
        self.ready = False
        self._stopped.set()
        for worker in self._workers:
            if worker.stdin is not None:
                worker.stdin.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        for relay in self._relays:
            relay.join(1)

    # -- Beginning and watching ----------------------------------------------------------------------------------
    def _start(self, workers: int, bento: Path, home: Path) -> list[subprocess.Popen[bytes]]:
        (home / "service.sock").unlink(missing_ok=True)
        (home / "tmp").mkdir(exist_ok=True)
        environment = {**self._variables(), **os.environ, **_settings(home)}
        # It is the workers' alone: when they are gone a connection is refused, and not kept waiting.
        with socket.socket(socket.AF_UNIX) as shared:
            shared.bind(self._address())
            shared.listen(1024)
            command = [
                sys.executable,
                "-m",
                "modelworks.runtime.server.bentoml_worker",
                str(bento),
                str(shared.fileno()),
            ]
            return [
                subprocess.Popen(
                    [*command, str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[shared.fileno()],
                    env=environment,
                    # A signal to all of us must not end them before the server has drained; their pipe says when.
                    start_new_session=True,
                )
                for number in range(1, workers + 1)
            ]

    def _variables(self) -> dict[str, str]:
        wanted = self.facts.variables
        missing = [name for name, value in wanted.items() if value is None and name not in os.environ]
        if missing:
            raise ModelworksError(f"the service needs the environment variables {', '.join(missing)}")
        return {name: value for name, value in wanted.items() if value is not None}

    def _address(self) -> str:
        return f"/proc/self/fd/{self._folder}/service.sock"

    def _wait_until_ready(self) -> None:
        while self._probe() != HTTPStatus.OK:
            if dead := self._dead():
                raise ModelworksError(f"{dead} before it was ready; its output is in the log lines above")
            time.sleep(_WATCH_SECONDS / 10)

    def _warm_up(self) -> Cost:
        row = example_rows(self.manifest)[:1]
        try:
            self.predict(row)  # the first call loads and allocates
            return measure_cost(lambda rows: self.predict(row * rows), _WARM_UP_ROWS, self.manifest.max_rows)
        except ModelworksError as error:
            raise ModelworksError(f"the service does not predict the model's own example: {error.message}") from error

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self._stopped.wait(_WATCH_SECONDS):
            status = self._probe()
            self.ready = status == HTTPStatus.OK
            now = time.monotonic()
            if status is not None:
                heard = now
            self.ended = self._dead() or (
                f"the service has not answered for {now - heard:.0f} seconds" if now - heard > _SILENT_SECONDS else ""
            )
            if self.ended:
                self.ready = False
                self._on_end()
                return

    def _probe(self) -> int | None:
        """The status of the service's readiness check; None without a response."""
        connection = _UnixConnection(self._address(), _PROBE_SECONDS)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _dead(self) -> str:
        for worker in self._workers:
            code = worker.poll()
            if code is not None:
                return f"the service's process exited with code {code}"
        return ""

    def _predictions(self, parts: list[msgspec.Raw]) -> Predictions:
        values, labels, probabilities = [], [], []
        for part in parts:
            read = self._read(part)
            value, label = (read.value, 0) if isinstance(read, _Value) else (read.score, self._label(read.label))
            values.append(value)
            labels.append(label)
            if isinstance(read, _ClassOfMany):
                probabilities.append(self._probabilities(read.probabilities))
        return Predictions(values, labels, probabilities, [bytes(part) for part in parts])

    def _probabilities(self, answered: dict[str, float]) -> list[float]:
        missing = [name for name in self._names if name not in answered]
        if missing:
            raise msgspec.ValidationError(f"there is no probability of {missing[0]!r}")
        return [answered[name] for name in self._names]

    def _label(self, label: str | int | bool) -> int:
        number = self._labels.get((type(label), label))
        if number is None:
            raise msgspec.ValidationError(f"{label!r} is not one of its classes")
        return number


def detail(answer: Answer) -> str:
    """The message of a response that is no success."""
    try:
        told = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        told = answer.body.decode("utf-8", "replace")
    if isinstance(told, list) and len(told) == 1:
        [told] = told  # as BentoML does
    if isinstance(told, dict):
        told = told.get("error") or told.get("detail") or told
    text = told if isinstance(told, str) else msgspec.json.encode(told).decode()
    return text[:1000] or HTTPStatus(answer.status).phrase


_STATUSES = frozenset(status.value for status in HTTPStatus)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("service", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _settings(home: Path) -> dict[str, str]:
    return {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_CONFIG_OPTIONS": "services.logging.access.enabled=false",  # the server logs requests
        "PROMETHEUS_MULTIPROC_DIR": str(home / "tmp"),
        "TMPDIR": str(home / "tmp"),
        "PYTHONUNBUFFERED": "1",
    }


def _relay(lines: IO[bytes], say: Callable[..., object]) -> None:
    """Log what a worker writes, as structured lines."""
    level = "info"
    for text in lines:
        message = text.decode("utf-8", "replace").rstrip()
        if record := _RECORD.match(message):
            level, message = record["level"].lower(), record["message"]
        if message:
            say(level, message, source="service")


def _nothing() -> None:
    """The default at the end: no callback."""
