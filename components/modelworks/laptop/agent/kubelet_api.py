"""The API of the node for the API server alone: logs, commands, ports and metrics, over TLS on loopback."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from modelworks.laptop.agent import container_logs, metrics_api, streaming
from modelworks.laptop.agent.messages import Refusal, Request, say, say_json
from modelworks.laptop.agent.node import Node
from modelworks.laptop.agent.pod import Pod
from modelworks.laptop.agent.service_proxy import Streams

log = logging.getLogger(__name__)

CLIENT = "kube-apiserver-kubelet-client"
"""The one user that may call; it has checked already what the person behind it may."""


async def serve(node: Node, pki: Path) -> None:
    """Answer until cancelled. Without keys or a port, there is no API; the agent logs that."""
    if not node.port or not (pki / "kubelet.crt").exists():
        log.warning("no port or certificate: logs cannot be read through the API server, only in %s", node.host.logs)
        return
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(pki / "kubelet.crt", pki / "kubelet.key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(node, reader, writer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            log.debug("a request ended: %s", error)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", node.port, ssl=tls)
    async with server:
        await server.serve_forever()


async def _answer(node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = await Request.read(reader)
    try:
        _check(writer)
        await _dispatch(node, request, (reader, writer))
    except Refusal as refusal:
        await say(writer, refusal.status, str(refusal))


def _check(writer: asyncio.StreamWriter) -> None:
    """Raise unless the API server calls."""
    subject = dict(part[0] for part in writer.get_extra_info("peercert")["subject"])
    if subject.get("commonName") != CLIENT:
        raise Refusal("403 Forbidden", f"only {CLIENT} may call this API")


async def _dispatch(node: Node, request: Request, streams: Streams) -> None:
    writer = streams[1]
    match (request.method, *request.path):
        case "GET", "containerLogs", namespace, name, container:
            await container_logs.answer(_pod(node, namespace, name), container, request, writer)
        case "GET" | "POST", "exec", namespace, name, container:
            await streaming.execute(_pod(node, namespace, name), container, request, streams)
        case "GET" | "POST", "attach", namespace, name, container:
            await streaming.attach(_pod(node, namespace, name), container, request, streams)
        case "GET" | "POST", "portForward", namespace, name:
            await streaming.forward(_pod(node, namespace, name), request, streams)
        case "GET", "apis", metrics_api.GROUP, metrics_api.VERSION, *path:
            await metrics_api.answer(node, path, request, writer)
        case "GET", *path if tuple(path) in metrics_api.DOCUMENTS:
            await say_json(writer, "200 OK", metrics_api.DOCUMENTS[tuple(path)])
        case _:
            raise Refusal("404 Not Found", f"the laptop's node agent does not serve {'/'.join(request.path)}")


def _pod(node: Node, namespace: str, name: str) -> Pod:
    pod = node.pod(namespace, name)
    if pod is None:
        raise Refusal("404 Not Found", f"pod {namespace}/{name} is not on this node")
    return pod
