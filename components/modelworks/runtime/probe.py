"""The program of a canary's probes: `python -m modelworks.runtime.probe`.

It sends a release the examples that its own bundle documents, steadily, until it is ended: evidence for the analysis of
a canary that has few other requests. The metrics of the release show whether the answers are good. It needs no right in
AWS. Exit codes: 1 none was answered for a while, or the release was never reached; 143 terminated.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from modelworks import contract
from modelworks._container import end_on_sigterm
from modelworks.errors import ModelworksError

_TIMEOUT_SECONDS = 10
_PAUSE_SECONDS = 1.0
"""Between two looks at what serves."""
_SILENCE_SECONDS = 60
"""Without an answered example for so long, the probes are no evidence, and end. It is longer than a Secret's volume and
a server take to agree about a token that was replaced."""


def main(arguments: Sequence[str]) -> int:
    """Reach the release, then send examples until the process is ended; returns after a failure."""
    order = _parser().parse_args(arguments)
    try:
        service = reached(order.services, order.release, within=order.within_seconds)
        _say(f"sends {order.per_second:g} examples per second to {service}, which serves {order.release}")
        Probes(service, example(service), order.per_second).run()
    except ModelworksError as error:
        _say(f"error: {error}")
        return 1


def reached(services: Sequence[str], release: str, *, within: float) -> str:
    """The one of the Services that serves the release; they take turns at being the canary's.

    Args:
        services: Their URLs.
        release: As `/v1/version` states it.
        within: Seconds to wait for it.

    Raises:
        ModelworksError: None of them serves it in time.
    """
    deadline = time.monotonic() + within
    while True:
        serves = {}
        for service in services:
            try:
                serves[service] = str(_asked(service, "GET", "/v1/version")["release"])
            except (ModelworksError, KeyError, TypeError) as error:
                serves[service] = str(error)
            if serves[service] == release:
                return service
        if time.monotonic() >= deadline:
            found = "; ".join(f"{service}: {what}" for service, what in serves.items())
            raise ModelworksError(f"no Service serves release {release} after {within:g} s: {found}")
        time.sleep(_PAUSE_SECONDS)


def example(service: str) -> bytes:
    """The request that the release documents as its example.

    Raises:
        ModelworksError: It does not answer, or documents none.
    """
    description = _asked(service, "GET", "/openapi.json")
    try:
        content = description["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
        found = content["example"] if "example" in content else next(iter(content["examples"].values()))["value"]
    except (KeyError, TypeError, StopIteration) as error:
        raise ModelworksError(
            f"{service} documents no example of /v1/predict",
            fix="Probes need one: set canary.probes to false for this endpoint.",
        ) from error
    return json.dumps(found).encode()


class Probes:
    """Examples on their way to a release.

    Args:
        service: URL of the Service.
        body: The example.
        per_second: How many are sent.
    """

    def __init__(self, service: str, body: bytes, per_second: float) -> None:
        self._service, self._body = service, body
        # Each sends about one a second, so that a second's wait for an answer slows nothing down.
        self._senders = ceil(per_second)
        self._interval = self._senders / per_second
        self._answered_at = time.monotonic()
        self._trouble = "none was sent yet"
        self._ended = threading.Event()

    def run(self) -> NoReturn:
        """Send until the process ends.

        Raises:
            ModelworksError: None was answered for a minute.
        """
        for number in range(self._senders):
            delay = self._interval * number / self._senders
            threading.Thread(target=self._send, args=(delay,), name=f"probes-{number}", daemon=True).start()
        while time.monotonic() - self._answered_at < _SILENCE_SECONDS:
            time.sleep(_PAUSE_SECONDS)
        self._ended.set()
        raise ModelworksError(f"no example was answered for {_SILENCE_SECONDS} s: {self._trouble}")

    def _send(self, delay: float) -> None:
        due = time.monotonic() + delay
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            # What is late is not made up for: the release gets no burst.
            due = max(due, time.monotonic()) + self._interval
            try:
                _asked(self._service, "POST", "/v1/predict", self._body)
            except ModelworksError as error:
                self._trouble = str(error)
            else:
                self._answered_at = time.monotonic()


_numbers = itertools.count(1)


def _asked(service: str, method: str, path: str, body: bytes | None = None) -> Any:
    """The answer, of a connection of its own: so the pods behind a Service take turns."""
    headers = {
        "connection": "close",
        contract.HEADER_PROBE: "1",
        "x-request-id": f"probe-{os.getpid()}-{next(_numbers)}",
    }
    if body is not None:
        headers["content-type"] = "application/json"
    address = urlsplit(service)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, headers | _authorization())
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ModelworksError(f"{method} {path} was answered {answer.status}: {_detail(content)}")
        return json.loads(content)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ModelworksError(f"{method} {path} has no answer: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _authorization() -> dict[str, str]:
    """The first token of the file, read again each time: it may be replaced."""
    path = os.environ.get(contract.ENV_TOKEN_FILE)
    tokens = Path(path).read_text("utf-8").split() if path else []
    return {"authorization": f"Bearer {tokens[0]}"} if tokens else {}


def _detail(content: bytes) -> str:
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelworks.runtime.probe", description=__doc__)
    parser.add_argument("services", nargs="+", metavar="URL", help="the Services, one of which serves the release")
    parser.add_argument("--release", required=True, help="the release's digest, shortened")
    parser.add_argument("--per-second", type=float, required=True, help="examples to send per second")
    parser.add_argument("--within-seconds", type=float, required=True, help="how long to wait for the release")
    return parser


if __name__ == "__main__":
    end_on_sigterm()
    sys.exit(main(sys.argv[1:]))
