"""Waiting for objects: to be ready, and to be gone. Follows watches, ends at once on Ctrl-C."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from modelworks.laptop.providers.kubernetes.client import Cluster, Refused, UnknownKind, Unreachable
from modelworks.laptop.providers.kubernetes.kinds import Kind
from modelworks.laptop.providers.kubernetes.manifests import annotation, at, name_of, namespace_of
from modelworks.laptop.providers.kubernetes.readiness import Await, Related, Verdict, pod_selector, problems
from modelworks.laptop.providers.plugin import Call

_POD: Final = Kind("", "v1", "Pod")
_EVENT: Final = Kind("", "v1", "Event")
_STORAGE_CLASS: Final = Kind("storage.k8s.io", "v1", "StorageClass")
_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
_BEAT = 0.2  # seconds after which Ctrl-C is noticed
_REPORT_SECONDS = 5.0  # between looks at what pods and events say


class NotReady(Exception):  # noqa: N818  it is an answer, not a fault
    """The object did not become ready (or did not go away).

    Args:
        seen: The object, as it was seen last.
        reasons: Why; the first is the summary.
    """

    def __init__(self, seen: Mapping[str, Any], reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.seen = dict(seen)
        self.reasons = reasons


def until_ready(
    cluster: Cluster, call: Call, kind: Kind, applied: dict[str, Any], how: Await, timeout: float
) -> dict[str, Any]:
    """The object when it is ready.

    Args:
        cluster: The API server that has it.
        call: The engine's request; its `say` tells of progress, its `cancelled` ends the wait.
        kind: The object's kind.
        applied: The object as the API server returned it.
        how: The rule.
        timeout: Seconds to wait.

    Raises:
        NotReady: It failed, was deleted, took too long, or the engine was told to stop.
    """
    seen: dict[str, Any] = applied
    pods: dict[str, dict[str, Any]] = {}
    changes: queue.Queue[tuple[str, str, dict[str, Any]]] = queue.Queue()
    stop = threading.Event()
    namespace = namespace_of(applied)
    _follow(cluster, changes, stop, "object", kind, namespace, fieldSelector=f"metadata.name={name_of(applied)}")
    if how.pods and (selector := pod_selector(applied)):
        _follow(cluster, changes, stop, "pods", _POD, namespace, labelSelector=selector)
    related = Related(storage_class=_storage_class(cluster, applied))
    deadline, said, report_at = time.monotonic() + timeout, "", time.monotonic() + _REPORT_SECONDS
    warned: set[str] = set()
    try:
        verdict = how.rule(seen, related)
        while True:
            if verdict.state == "ready":
                if said:
                    call.say("", passing=True)  # the status line is the engine's again
                return seen
            if verdict.state == "failed":
                raise NotReady(seen, [verdict.message, *_problems(cluster, seen, pods)])
            if verdict.message != said:
                said = verdict.message
                call.say(said, passing=True)
            now = time.monotonic()
            if call.cancelled.is_set():
                raise NotReady(seen, [f"cancelled while {_still(verdict)}"])
            if now >= deadline:
                raise NotReady(
                    seen, [f"timed out after {timeout:g} s {_still(verdict)}", *_problems(cluster, seen, pods)]
                )
            if now >= report_at:
                report_at = now + _REPORT_SECONDS
                for problem in _problems(cluster, seen, pods):
                    if problem not in warned:
                        warned.add(problem)
                        call.say(problem, severity="warning", passing=True)
            try:
                source, what, item = changes.get(timeout=_BEAT)
            except queue.Empty:
                continue
            if source == "pods":
                _note(pods, what, item)
            elif what in {"DELETED", "GONE"}:
                raise NotReady(seen, [f"it was deleted while {_still(verdict)}"])
            else:
                seen = item
            verdict = how.rule(seen, Related(list(pods.values()), related.storage_class))
    finally:
        stop.set()


def now(cluster: Cluster, seen: dict[str, Any], how: Await) -> list[str]:
    """Why an object is not ready at this moment; nothing when it is."""
    pods: list[dict[str, Any]] = []
    if how.pods and (selector := pod_selector(seen)):
        pods = cluster.list(_POD, namespace_of(seen), labelSelector=selector).get("items", [])
    verdict = how.rule(seen, Related(pods, _storage_class(cluster, seen)))
    if verdict.state == "ready":
        return []
    return [verdict.message, *_problems(cluster, seen, {name_of(each): each for each in pods})]


def until_gone(cluster: Cluster, call: Call, kind: Kind, live: dict[str, Any], timeout: float) -> None:
    """Return when the object is gone, or another has taken its name.

    Args:
        cluster: The API server that has it.
        call: The engine's request.
        kind: The object's kind.
        live: The object as it was when its deletion was asked for.
        timeout: Seconds to wait.

    Raises:
        NotReady: It took too long, or the engine was told to stop; the reasons say what holds it.
    """
    changes: queue.Queue[tuple[str, str, dict[str, Any]]] = queue.Queue()
    stop = threading.Event()
    _follow(cluster, changes, stop, "object", kind, namespace_of(live), fieldSelector=f"metadata.name={name_of(live)}")
    uid = at(live, "metadata", "uid")
    deadline, seen, said = time.monotonic() + timeout, live, ""
    try:
        while True:
            try:
                _, what, item = changes.get(timeout=_BEAT)
                if what in {"DELETED", "GONE"} or at(item, "metadata", "uid") != uid:
                    if said:
                        call.say("", passing=True)
                    return
                seen = item
            except queue.Empty:
                pass
            held = _held(seen)
            if held != said:
                said = held
                call.say(held, passing=True)
            if call.cancelled.is_set():
                raise NotReady(seen, [f"cancelled while it was being deleted{': ' if held else ''}{held}"])
            if time.monotonic() >= deadline:
                raise NotReady(
                    seen, [f"timed out after {timeout:g} s waiting for its deletion{': ' if held else ''}{held}"]
                )
    finally:
        stop.set()


def _still(verdict: Verdict) -> str:
    return verdict.message if verdict.message.startswith("waiting") else f"waiting: {verdict.message}"


def _held(seen: Mapping[str, Any]) -> str:
    """What keeps an object from going away."""
    if not seen:
        return ""
    held = [
        each["message"]
        for each in at(seen, "status", "conditions", default=()) or ()
        if seen.get("kind") == "Namespace" and each.get("status") == "True" and each.get("message")
    ]
    finalizers = [each for each in at(seen, "metadata", "finalizers", default=()) if each != "foregroundDeletion"]
    if finalizers:
        held.append(f"it has the finalizers {', '.join(finalizers)}")
    if at(seen, "status", "replicas"):
        held.append(f"{seen['status']['replicas']} of its pods still exist")
    return "; ".join(held)


def _follow(
    cluster: Cluster,
    changes: queue.Queue[tuple[str, str, dict[str, Any]]],
    stop: threading.Event,
    source: str,
    kind: Kind,
    namespace: str,
    **selectors: str,
) -> None:
    def run() -> None:
        try:
            for what, item in cluster.watch(kind, namespace, stop, **selectors):
                if stop.is_set():
                    return
                changes.put((source, what, item))
        except UnknownKind:
            changes.put((source, "GONE", {}))

    threading.Thread(target=run, daemon=True, name=f"watch {kind.name}").start()


def _note(pods: dict[str, dict[str, Any]], what: str, item: dict[str, Any]) -> None:
    if what == "GONE":
        pods.clear()
    elif what == "DELETED":
        pods.pop(name_of(item), None)
    else:
        pods[name_of(item)] = item


def _storage_class(cluster: Cluster, seen: Mapping[str, Any]) -> dict[str, Any] | None:
    if seen.get("kind") != "PersistentVolumeClaim":
        return None
    classes = cluster.list(_STORAGE_CLASS, "").get("items", [])
    name = at(seen, "spec", "storageClassName")
    if name is None:
        return next((each for each in classes if annotation(each, _DEFAULT_CLASS) == "true"), None)
    return next((each for each in classes if name_of(each) == name), None)


def _problems(cluster: Cluster, seen: Mapping[str, Any], pods: Mapping[str, dict[str, Any]]) -> list[str]:
    own = [seen] if seen.get("kind") == "Pod" else []
    try:
        events = cluster.list(_EVENT, namespace_of(seen), fieldSelector="type=Warning", limit="500").get("items", [])
    except (Refused, Unreachable):
        events = []  # what the pods themselves say is still told
    return problems(seen, [*own, *pods.values()], events)
