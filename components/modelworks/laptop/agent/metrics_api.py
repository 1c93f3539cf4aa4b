"""The resource metrics API, `metrics.k8s.io/v1beta1`: what `kubectl top` and the HorizontalPodAutoscaler read.

The API server passes requests on, after it has checked what the caller may. The objects are those of
https://github.com/kubernetes/metrics/blob/master/pkg/apis/metrics/v1beta1/types.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx

from modelworks.laptop.agent.api import Object, RefusedError
from modelworks.laptop.agent.host import NAME
from modelworks.laptop.agent.messages import Request, say_json
from modelworks.laptop.agent.node import Node
from modelworks.laptop.agent.pod import Pod
from modelworks.laptop.agent.status import timestamp
from modelworks.laptop.agent.usage import Usage

GROUP = "metrics.k8s.io"
VERSION = "v1beta1"
DOCUMENTS: dict[tuple[str, ...], Object] = {
    ("openapi", "v2"): {"swagger": "2.0", "info": {"title": GROUP, "version": VERSION}, "paths": {}},
    ("openapi", "v3"): {"paths": {}},
}
"""Descriptions of the API, by path. The API server logs an error a minute for one that is not there."""
_ON_THIS_NODE = f"spec.nodeName={NAME}"


async def answer(node: Node, path: Sequence[str], request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer a request to a path below that of the version."""
    try:
        try:
            body = await _object(node, path, request)
        except httpx.TransportError as error:
            raise RefusedError(503, f"the API server cannot be reached: {error}") from error
    except RefusedError as refused:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": refused.reason}
        await say_json(writer, f"{refused.status} Refused", {**status, "code": refused.status})
    else:
        await say_json(writer, "200 OK", body)


async def _object(node: Node, path: Sequence[str], request: Request) -> Object:
    found: Object | None = None
    match path:
        case []:
            found = _resources()
        case ["nodes"]:
            chosen = await _chosen(node, "/api/v1/nodes", f"metadata.name={NAME}", request)
            found = _list("NodeMetrics", [_node(node, one["metadata"]) for one in chosen])
        case ["nodes", name] if name == NAME:
            found = _node(node, {"name": name})
        case ["pods"]:
            found = _pods(node, await _chosen(node, "/api/v1/pods", _ON_THIS_NODE, request))
        case ["namespaces", namespace, "pods"]:
            pods = f"/api/v1/namespaces/{namespace}/pods"
            found = _pods(node, await _chosen(node, pods, _ON_THIS_NODE, request))
        case ["namespaces", namespace, "pods", name]:
            pod = node.pod(namespace, name)
            found = _pod(node, pod) if pod else None
    if found is None:
        raise RefusedError(404, f"no metrics of {'/'.join(path)} were found")
    return found


async def _chosen(node: Node, path: str, here: str, request: Request) -> list[Object]:
    """The objects that a request selects: the API server parses its selectors, and refuses wrong ones.

    Raises:
        RefusedError: A selector is wrong.
    """
    fields = ",".join(filter(None, [here, request.first("fieldSelector")]))
    listing = await node.host.cluster.get(path, labelSelector=request.first("labelSelector"), fieldSelector=fields)
    return listing.get("items") or []


def _resources() -> Object:
    kinds = [("nodes", "NodeMetrics", False), ("pods", "PodMetrics", True)]
    resources = [
        {"name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": ["get", "list"]}
        for name, kind, namespaced in kinds
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": resources}


def _pods(node: Node, chosen: Sequence[Object]) -> Object:
    pods = [node.known[uid] for found in chosen if (uid := found["metadata"]["uid"]) in node.known]
    return _list("PodMetrics", [_pod(node, pod) for pod in pods])


def _pod(node: Node, pod: Pod) -> Object | None:
    """None while the usage of a container that runs is not known yet: a part would pass for the whole."""
    running = [name for name, one in pod.view.containers.items() if one.running]
    usages = {name: node.meter.containers.get(pod.usage_key(name)) for name in running}
    known = {name: usage for name, usage in usages.items() if usage is not None}
    if not known or len(known) < len(usages):
        return None
    containers = [{"name": name, "usage": _quantities(usage)} for name, usage in known.items()]
    return {
        **_metrics("PodMetrics", pod.pod["metadata"], min(known.values(), key=lambda u: u.at)),
        "containers": containers,
    }


def _node(node: Node, meta: Object) -> Object | None:
    usage = node.meter.machine
    return {**_metrics("NodeMetrics", meta, usage), "usage": _quantities(usage)} if usage else None


def _metrics(kind: str, meta: Object, usage: Usage) -> dict[str, Any]:
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    return {
        "kind": kind,
        "apiVersion": f"{GROUP}/{VERSION}",
        "metadata": {**kept, "creationTimestamp": timestamp(usage.at)},
        "timestamp": timestamp(usage.at),
        "window": f"{usage.window:.3f}s",
    }


def _quantities(usage: Usage) -> dict[str, str]:
    return {"cpu": f"{round(usage.cores * 1e9)}n", "memory": f"{usage.memory // 1024}Ki"}


def _list(kind: str, items: Sequence[Object | None]) -> Object:
    known = [item for item in items if item is not None]
    return {"kind": f"{kind}List", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": known}
