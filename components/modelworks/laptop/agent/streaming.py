"""`kubectl exec`, `attach`, `cp` and `port-forward`: what the API server passes on of them.

It takes WebSockets from kubectl, and speaks SPDY with the node. The names of streams and headers are those of
`k8s.io/apimachinery/pkg/util/remotecommand` and `k8s.io/kubelet/pkg/cri/streaming`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from modelworks.laptop.agent.container_logs import Wanted
from modelworks.laptop.agent.inside import run
from modelworks.laptop.agent.messages import Refusal, Request
from modelworks.laptop.agent.pod import Pod
from modelworks.laptop.agent.service_proxy import Streams
from modelworks.laptop.agent.spdy import PROTOCOL, Connection, Stream

_COMMANDS = "v4.channel.k8s.io"
_PORTS = "portforward.k8s.io"
_OPEN_SECONDS = 30.0
_CLOSE_SECONDS = 10.0
_CHUNK = 32768
_Work = Callable[[Connection], Coroutine[Any, Any, None]]


async def execute(pod: Pod, container: str, request: Request, streams: Streams) -> None:
    """Run a command where a container runs.

    Raises:
        Refusal: The container does not run, or the request is none for this protocol.
    """
    if not (words := request.query.get("command")):
        raise Refusal("400 Bad Request", "a command is required")
    try:
        command = pod.containers[container].inside(words)
    except (KeyError, ProcessLookupError) as error:
        raise Refusal("404 Not Found", f'container "{container}" does not run') from error

    async def work(connection: Connection) -> None:
        opened = await _opened(connection, request)
        sizes = opened["resize"].read if request.is_true("tty") else None
        try:
            status = _status(await run(command, opened, sizes))
        except OSError as error:
            status = {"metadata": {}, "status": "Failure", "reason": "InternalError", "message": str(error)}
        await _finish(opened, status)

    await _serve(request, streams, _COMMANDS, work)


async def attach(pod: Pod, container: str, request: Request, streams: Streams) -> None:
    """Send what a container writes from now on; it has no standard input here.

    Raises:
        Refusal: The container does not run, or the request is none for this protocol.
    """
    current = pod.view.of(container).run
    if current is None or not current.running:
        raise Refusal("404 Not Found", f'container "{container}" does not run')
    path = pod.host.log_file(pod.pod, container, current.number)

    async def work(connection: Connection) -> None:
        opened = await _opened(connection, request)
        for name in {"stdin", "resize"} & set(opened):
            await opened[name].discard()
        async for chunk in Wanted(tail=0, follow=True).lines(path, lambda: pod.runs(container, current.number)):
            if "stdout" in opened:
                await opened["stdout"].write(chunk)
        await _finish(opened, _status(0))

    await _serve(request, streams, _COMMANDS, work)


async def forward(pod: Pod, request: Request, streams: Streams) -> None:
    """Connect with ports of a pod.

    Raises:
        Refusal: The request is none for this protocol.
    """

    async def work(connection: Connection) -> None:
        pairs: dict[str, dict[str, Stream]] = {}
        async with asyncio.TaskGroup() as tasks:
            async for stream in connection:
                number, kind = stream.headers.get("requestid", ""), stream.headers.get("streamtype", "")
                if not number or kind not in ("data", "error"):
                    await connection.refuse(stream)
                    continue
                pair = pairs.setdefault(number, {})
                pair[kind] = stream
                if len(pair) == 2:
                    tasks.create_task(_forward(pod.view.ip, **pairs.pop(number)))

    await _serve(request, streams, _PORTS, work)


async def _serve(request: Request, streams: Streams, protocol: str, work: _Work) -> None:
    """Upgrade the connection, and do the work until it is done or the other side is gone."""
    offered = request.headers.get("x-stream-protocol-version", "")
    if request.headers.get("upgrade", "").lower() != PROTOCOL.lower() or protocol not in offered:
        raise Refusal("400 Bad Request", f"an upgrade to {PROTOCOL} with {protocol} is needed, not {offered or 'none'}")
    head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n"
    streams[1].write(f"{head}X-Stream-Protocol-Version: {protocol}\r\n\r\n".encode())
    connection = Connection(*streams)
    reading, working = asyncio.create_task(connection.run()), asyncio.create_task(work(connection))
    try:
        await asyncio.wait({reading, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            # What arrived and was never read would make the kernel reset the connection, and the answer be lost.
            await asyncio.wait({reading}, timeout=_CLOSE_SECONDS)
    finally:
        for task in (reading, working):
            task.cancel()
        await asyncio.gather(reading, working, return_exceptions=True)


async def _opened(connection: Connection, request: Request) -> dict[str, Stream]:
    """The streams that the request announces, once all of them are open.

    Raises:
        TimeoutError: They are not in time.
    """
    terminal = request.is_true("tty")
    announced = {
        "error": True,
        "stdin": request.is_true("input"),
        "stdout": request.is_true("output"),
        "stderr": request.is_true("error") and not terminal,
        "resize": terminal,
    }
    expected = {name for name, there in announced.items() if there}
    opened: dict[str, Stream] = {}
    async with asyncio.timeout(_OPEN_SECONDS):
        async for stream in connection:
            opened[stream.headers.get("streamtype", "")] = stream
            if expected <= set(opened):
                break
    return opened


async def _finish(opened: Mapping[str, Stream], status: Mapping[str, Any]) -> None:
    for name in {"stdin", "resize"} & set(opened):
        await opened[name].discard()
    await opened["error"].write(json.dumps(status).encode())
    for stream in opened.values():
        await stream.end()


def _status(code: int) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def _forward(ip: str, data: Stream, error: Stream) -> None:
    """One connection: its bytes, and why it failed if it did."""
    port = data.headers.get("port", "")
    with contextlib.suppress(OSError):  # of this connection, which all others share: its reader sees it too
        try:
            reader, writer = await asyncio.open_connection(ip, int(port))
            with contextlib.closing(writer):
                await _both_ways(data, reader, writer)
        except (OSError, ValueError, OverflowError) as failure:
            await error.write(f"cannot forward to port {port} of {ip}: {failure}".encode())
        await data.discard()
        for stream in (error, data):
            await stream.end()


async def _both_ways(data: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def there() -> None:
        while received := await data.read():
            writer.write(received)
            await writer.drain()
        writer.write_eof()

    async def back() -> None:
        while received := await reader.read(_CHUNK):
            await data.write(received)
        await data.end()

    await _all([there(), back()])


async def _all(work: list[Coroutine[Any, Any, None]]) -> None:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
