"""The changing requests of an emulated AWS account, so that a new moto can replay those of a dead one.

moto keeps everything in memory. Each request that changed something is appended to a file before its answer goes out:
an acknowledged request survives any crash. Such requests are served one at a time, and so the file has their order.
Identifiers, keys and upload ids come from the request's own random seed, and so are the same in a replay. (Why not
moto's recorder: docs/adr.)

Transient data is not kept: metrics, logs, messages in flight. Dates of creation are those of the replay.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import logging
import os
import random
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LARGEST: Final = 512 * 2**20
"""Bytes that a journal may hold. Beyond that the account is not kept any further, and reports it."""

MOST: Final = 15_000
"""Requests that a journal may hold: at about 2 ms each, a replay takes half a minute."""

_PASSING: Final = re.compile(
    r"GET|HEAD|OPTIONS|Get|List|Describe|BatchGet|Query$|Scan$|Encrypt$|Decrypt$|ReEncrypt$|Generate|Sign$|Verify(Mac)?$|"
    r"PutMetricData$|PutLogEvents$|Publish(Batch)?$|(Send|Receive|Delete)Message|ChangeMessageVisibility|PurgeQueue$"
)
"""Operations that change nothing, or nothing that is kept: by their beginnings, or whole."""

_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_log = logging.getLogger(__name__)
_request = threading.local()


@dataclass(frozen=True)
class Replayed:
    """The result of a replay."""

    requests: int
    refused: int
    """How many were answered with an error now, and were not then."""
    seconds: float


class Journal:
    """A WSGI application around moto's, and the file of what changed it.

    Args:
        application: moto.
        path: The file. It holds secrets in the clear, and is readable by its owner only.
        lost: Called with the reason when the account cannot be kept any further; the file is gone then.
        largest: Bytes that the file may hold.
        most: Requests that the file may hold.
    """

    def __init__(
        self,
        application: _Application,
        path: Path,
        lost: Callable[[str], None],
        *,
        largest: int = LARGEST,
        most: int = MOST,
    ) -> None:
        self._application = application
        self._path = path
        self._lost = lost
        self._largest = largest
        self._most = most
        self._count = 0
        self._lock = threading.Lock()
        _use_dice_of_the_request()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._file: io.BufferedWriter | None = os.fdopen(descriptor, "ab")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if _PASSING.match(environ["REQUEST_METHOD"]):
            return self._application(environ, start_response)
        body = request_body(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        if _PASSING.match(operation(environ, body)):
            return self._application(environ, start_response)
        seed = secrets.token_hex(16)
        told = {name: value for name, value in environ.items() if isinstance(value, str | dict)}
        statuses: list[str] = []

        def heard(status: str, *rest: Any) -> Any:
            statuses.append(status)
            return start_response(status, *rest)

        # One after the other: the file has the order in which the account saw them, also of two that overlap.
        with self._lock:
            answer = self._asked(environ, heard, seed)
            if statuses[-1] < "400":
                entry = {"seed": seed, "environ": told, "body": base64.b64encode(body).decode()}
                self._append(json.dumps(entry).encode() + b"\n")
        return answer

    def replay(self) -> Replayed:
        """Replay the file to the application, in its order, before the first request."""
        began, requests, refused, whole = time.monotonic(), 0, 0, 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it was killed while it wrote this, and nobody was answered
                whole += len(line)
                entry = json.loads(line)
                statuses: list[str] = []
                environ = {
                    **entry["environ"],
                    "wsgi.input": io.BytesIO(base64.b64decode(entry["body"])),
                    "wsgi.input_terminated": True,
                    "wsgi.errors": sys.stderr,
                    "wsgi.version": (1, 0),
                    "wsgi.multithread": True,
                    "wsgi.multiprocess": False,
                    "wsgi.run_once": False,
                }
                self._asked(environ, lambda status, *_, heard=statuses: heard.append(status), entry["seed"])
                requests += 1
                if statuses[-1] >= "400":
                    refused += 1
                    _log.warning("%s %s: %s", environ["REQUEST_METHOD"], environ["PATH_INFO"], statuses[-1])
        os.truncate(self._path, whole)
        self._count = requests
        return Replayed(requests, refused, time.monotonic() - began)

    def _asked(self, environ: dict[str, Any], start_response: Callable[..., Any], seed: str) -> list[bytes]:
        with _dice(seed):
            answer = self._application(environ, start_response)
            try:
                return list(answer)
            finally:
                if close := getattr(answer, "close", None):
                    close()

    def _append(self, line: bytes) -> None:
        if self._file is None:
            return
        try:
            if self._file.tell() + len(line) > self._largest:
                self._give_up(f"its requests exceed {self._largest // 2**20} MiB")
                return
            if self._count == self._most:
                self._give_up(f"it had more than {self._most} requests")
                return
            self._count += 1
            self._file.write(line)
            self._file.flush()  # to the kernel: this process may die, and the machine may not
        except OSError as error:
            self._give_up(f"its journal cannot be written: {error.strerror}")

    def _give_up(self, why: str) -> None:
        """Keep nothing rather than a part: an account as it once was is not what anybody left."""
        _log.warning("the account is not kept any further: %s", why)
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is still in its buffer does not fit either
                self._file.close()
        self._file = None
        self._path.unlink(missing_ok=True)
        self._lost(why)


def request_body(environ: dict[str, Any]) -> bytes:
    """The whole body of a WSGI request, which can be read once."""
    length = environ.get("CONTENT_LENGTH")
    if length:
        return bytes(environ["wsgi.input"].read(int(length)))
    return bytes(environ["wsgi.input"].read()) if environ.get("wsgi.input_terminated") else b""


def operation(environ: dict[str, Any], body: bytes) -> str:
    """The action of the request, in AWS's words; for S3, which has none, the method."""
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return str(target).rpartition(".")[2]
    if found := re.search(r"/operation/(\w+)$", environ.get("PATH_INFO", "")):
        return found[1]
    if str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded") and (
        action := re.search(rb"(?:^|&)Action=(\w+)", body)
    ):
        return action[1].decode()
    return str(environ["REQUEST_METHOD"])


@contextlib.contextmanager
def _dice(seed: str) -> Iterator[None]:
    before = getattr(_request, "dice", None)
    _request.dice = random.Random(seed)  # noqa: S311 - to be repeated is what it is for
    try:
        yield
    finally:
        _request.dice = before


@functools.cache  # once a process
def _use_dice_of_the_request() -> None:
    """Have moto throw the dice of the request that it serves, and real ones elsewhere."""
    from moto.core.base_backend import AccountSpecificBackend, BackendDict  # only where moto runs
    from moto.moto_api._internal.moto_random import MotoRandom

    real, outside = os.urandom, random.SystemRandom()

    def dice() -> random.Random:
        return getattr(_request, "dice", None) or outside

    MotoRandom.random = lambda _: dice().random()  # type: ignore[method-assign,assignment]
    MotoRandom.getrandbits = lambda _, bits: dice().getrandbits(bits)  # type: ignore[method-assign]
    # Keys of KMS and ids of uploads come from here.
    os.urandom = lambda size: dice().randbytes(size) if getattr(_request, "dice", None) else real(size)

    # A service is loaded and set up by whichever request comes first: that must not move this request's dice.
    init = BackendDict.__init__

    def loaded(self: Any, backend: Any, service: str, *rest: Any, **more: Any) -> None:
        with _dice(service):
            init(self, backend, service, *rest, **more)

    BackendDict.__init__ = loaded  # type: ignore[method-assign,assignment]
    for kind in (BackendDict, AccountSpecificBackend):
        kind.__getitem__ = _set_up(kind.__getitem__)  # type: ignore[method-assign]


def _set_up(found: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def get(self: Any, key: str) -> Any:
        if key in self.keys():
            return found(self, key)
        with _dice(f"{self.service_name} {key}"):
            return found(self, key)

    return get
