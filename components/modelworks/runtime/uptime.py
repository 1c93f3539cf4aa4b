"""The uptime check of a host: `python -m modelworks.runtime.uptime`.

It requests a page of the host again and again, by the name, load balancer and certificate that clients meet, and
publishes whether it was answered. Pods alone are no proof: they report to be well while nobody reaches them. Exit
code: 143 terminated.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

from modelworks import contract
from modelworks._container import end_on_sigterm

_TIMEOUT_SECONDS = 5


def main(arguments: Sequence[str]) -> NoReturn:
    """Request and publish until the process is ended."""
    order = _parser().parse_args(arguments)
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=_TIMEOUT_SECONDS, read_timeout=_TIMEOUT_SECONDS, retries={"total_max_attempts": 2})
    cloudwatch = boto3.client("cloudwatch", config=config)
    said = None
    while True:
        trouble = why_unanswered(order.url, gateway=os.environ.get(contract.ENV_GATEWAY, ""))
        if trouble != said:
            _say(trouble or f"{order.url} is answered")
            said = trouble
        try:
            publish(cloudwatch, order.namespace, dict(order.dimension), answered=not trouble)
        except (BotoCoreError, ClientError) as error:
            # The alarm fires: what is not published breaches.
            _say(f"CloudWatch does not take the metric: {error}")
        time.sleep(order.every_seconds)


def why_unanswered(url: str, *, gateway: str = "") -> str:
    """Why a client gets no answer of a page; empty if it was answered 200.

    Args:
        url: The page.
        gateway: The value of `MODELWORKS_GATEWAY`; empty where DNS finds the host.
    """
    address = urlsplit(url)
    connection = _connection(address.scheme, address.hostname or "", address.port, json.loads(gateway or "{}"))
    try:
        connection.request("GET", address.path, headers={"host": address.netloc, "connection": "close"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"{url} is not answered: {error or type(error).__name__}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{url} is answered {answer.status}"


def publish(cloudwatch: Any, namespace: str, dimensions: Mapping[str, str], *, answered: bool) -> None:
    """Publish whether the host was answered."""
    series = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    datum = {"MetricName": contract.METRIC_ANSWERED, "Dimensions": series, "Value": float(answered)}
    cloudwatch.put_metric_data(Namespace=namespace, MetricData=[datum])


class _ByGateway(http.client.HTTPSConnection):
    """A connection with a host over TLS whose address is another's: the certificate is that of the host."""

    def __init__(self, host: str, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, timeout=_TIMEOUT_SECONDS, context=context)
        self._address, self._tls = address, context

    def connect(self) -> None:
        plain = socket.create_connection(_pair(self._address), timeout=_TIMEOUT_SECONDS)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def _connection(scheme: str, host: str, port: int | None, gateway: Mapping[str, str]) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context(cafile=gateway.get("authority"))
        if "https" in gateway:
            return _ByGateway(host, gateway["https"], context)
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)
    there, number = _pair(gateway["http"]) if "http" in gateway else (host, port)
    return http.client.HTTPConnection(there, number, timeout=_TIMEOUT_SECONDS)


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _series(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelworks.runtime.uptime", description=__doc__)
    parser.add_argument("url", metavar="URL", help="the page, which needs no token")
    parser.add_argument("--every-seconds", type=float, required=True, help="between two requests")
    parser.add_argument("--namespace", required=True, help="of CloudWatch")
    parser.add_argument("--dimension", action="append", type=_series, required=True, help="of the metric: NAME=VALUE")
    return parser


if __name__ == "__main__":
    end_on_sigterm()
    main(sys.argv[1:])
