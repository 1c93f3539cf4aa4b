"""Probes: what they ask, and what a row of answers means."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from modelworks.laptop.agent.reconcile import Spec

Exec = Callable[[Sequence[str], float], Awaitable[tuple[int, str]]]
"""Runs a command in the container within a number of seconds; its exit code and output."""


@dataclass(frozen=True)
class Tally:
    """The result of one probe so far."""

    healthy: bool | None = None
    """None until a threshold was reached."""
    row: int = 0
    """How many answers in a row were as `last`."""
    last: bool | None = None

    def with_answer(self, good: bool, probe: Mapping[str, Any]) -> Tally:
        """This tally after one more answer."""
        row = self.row + 1 if self.last is good else 1
        threshold = probe.get("successThreshold", 1) if good else probe.get("failureThreshold", 3)
        return replace(self, healthy=good if row >= threshold else self.healthy, row=row, last=good)


def port_of(container: Spec, port: str | int) -> int:
    """A port by number, or by the name that the container declares for it.

    Raises:
        ValueError: There is none of that name.
    """
    if isinstance(port, int) or str(port).isdecimal():
        return int(port)
    for declared in container.get("ports") or []:
        if declared.get("name") == port:
            return int(declared["containerPort"])
    raise ValueError(f"couldn't find port: {port!r}")


async def ask(probe: Mapping[str, Any], container: Spec, ip: str, run: Exec) -> tuple[bool, str]:
    """Probe once: whether the answer is good, and the message if it is not."""
    limit = float(probe.get("timeoutSeconds", 1))
    try:
        if command := probe.get("exec"):
            code, output = await run(command.get("command") or [], limit)
            return code == 0, output.strip() or f"exit code {code}"
        if http := probe.get("httpGet"):
            port = port_of(container, http["port"])
            status = await asyncio.wait_for(http_status(http, http.get("host") or ip, port), limit)
            return 200 <= status < 400, f"HTTP probe failed with statuscode: {status}"
        if tcp := probe.get("tcpSocket"):
            host, port = tcp.get("host") or ip, port_of(container, tcp["port"])
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), limit)
            writer.close()
            return True, ""
    except TimeoutError:
        return False, f"timeout: no answer within {limit:g} s"
    except (OSError, ValueError, EOFError) as error:
        return False, str(error) or type(error).__name__
    return False, "gRPC probes are not supported on the laptop: use httpGet, tcpSocket or exec"


async def http_status(http: Mapping[str, Any], host: str, port: int) -> int:
    """The status code of one GET, on a connection of its own as the kubelet makes it.

    Raises:
        OSError: No connection.
        EOFError: The answer is cut off.
        ValueError: The answer is not HTTP.
    """
    secure = None
    if str(http.get("scheme", "HTTP")).upper() == "HTTPS":
        secure = ssl.create_default_context()
        secure.check_hostname = False  # as the kubelet: a probe asks for life, not for identity
        secure.verify_mode = ssl.CERT_NONE
    path = http.get("path") or "/"
    headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.35", "Accept": "*/*", "Connection": "close"}
    for header in http.get("httpHeaders") or []:
        name = next((known for known in headers if known.lower() == header["name"].lower()), header["name"])
        headers[name] = header["value"]
    reader, writer = await asyncio.open_connection(host, port, ssl=secure)
    try:
        target = path if path.startswith("/") else f"/{path}"
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        line = (await reader.readline()).decode("latin-1")
        words = line.split()
        if len(words) < 2 or not words[0].startswith("HTTP/"):
            raise (
                EOFError("the connection was closed without an answer")
                if not line
                else ValueError(f"not HTTP: {line[:80]!r}")
            )
        status = int(words[1])
        if 300 <= status < 400:
            return await _redirected(http, host, port, reader, status)
        return status
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def _redirected(http: Mapping[str, Any], host: str, port: int, reader: asyncio.StreamReader, status: int) -> int:
    """The status behind a redirect to the same host; one to another host counts as the good answer it is."""
    while (line := (await reader.readline()).strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "location":
            there = urlsplit(value.strip())
            hops = int(http.get("hops", 0))
            if there.hostname not in (None, host) or (there.port or port) != port or hops >= 10:
                return status
            path = there.path + (f"?{there.query}" if there.query else "")
            return await http_status({**http, "path": path, "hops": hops + 1}, host, port)
    return status
