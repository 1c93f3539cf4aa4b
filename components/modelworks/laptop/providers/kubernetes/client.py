"""A small Kubernetes client for threads: kubeconfig, discovery, requests and watches.

`kr8s` and the official client are made for other things: the one is asynchronous and keeps classes for kinds, the other
takes some 60 MB. A provider needs five verbs on any kind.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml

from modelworks.errors import ModelworksError
from modelworks.laptop.providers.kubernetes.kinds import Kind
from modelworks.laptop.providers.plugin import ProviderError

_DISCOVERY_SECONDS = 60  # after which the kinds of a version are asked for again
_WATCH_SECONDS = 300  # the API server ends a watch by then, and the watcher asks anew
_NAMESPACE_OF = re.compile(r"/apis?/.*?/namespaces/([^/]+)/")


class Refused(ProviderError):  # noqa: N818  it reads as what it is, where it is raised
    """The API server answered with an error.

    Args:
        status: The HTTP status.
        body: The `Status` object it sent.
    """

    def __init__(self, status: int, body: Mapping[str, Any], *, doing: str, fix: str = "") -> None:
        message = str(body.get("message") or f"HTTP {status}")
        super().__init__(f"{doing}: {message}", fix=fix)
        self.status = status
        self.reason = str(body.get("reason", ""))
        self.details: Mapping[str, Any] = body.get("details") or {}
        self.server_message = message


class Unreachable(ProviderError):  # noqa: N818  likewise
    """There is no API server at the address of the kubeconfig, or it does not answer."""

    def __init__(self, server: str, why: str) -> None:
        super().__init__(
            f"the Kubernetes API server at {server} cannot be reached: {why}",
            fix="Run `modelworks laptop status`. If the cluster is gone for good, set the provider's deleteUnreachable "
            "to forget what it held.",
            code=grpc.StatusCode.UNAVAILABLE,
        )


class UnknownKind(ProviderError):  # noqa: N818  likewise
    """The API server serves no such kind."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(
            f"the API server has no kind {kind.name} in {kind.api_version}",
            fix="Check apiVersion and kind, or declare its CustomResourceDefinition and depend on that.",
        )
        self.kind = kind


@dataclass(frozen=True)
class Access:
    """Where an API server is and how to be let in."""

    server: str
    namespace: str
    """The context's default namespace; empty where it names none."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | bool = True


def connect(kubeconfig: str, *, context: str = "", cluster: str = "") -> Cluster:
    """The API server that a kubeconfig names.

    Whoever asks with the same kubeconfig gets the same one: each run of an engine is a new connection to the provider,
    and would else leave open sockets behind.

    Args:
        kubeconfig: The path of the file, or its content.
        context: The context to use instead of the current one.
        cluster: The cluster to use instead of the context's.

    Raises:
        ModelworksError: It cannot be read, or lacks the context, cluster or user; the message names it.
    """
    text, base = kubeconfig, Path.cwd()
    if "\n" not in kubeconfig and not kubeconfig.lstrip().startswith("{"):
        paths = [Path(path).expanduser() for path in kubeconfig.split(os.pathsep) if path]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ModelworksError(
                f"there is no kubeconfig at {kubeconfig!r}",
                fix="Run `modelworks laptop up`, or set the provider's kubeconfig to a file or to its content.",
            )
        text, base = path.read_text(encoding="utf-8"), path.parent
    return _connected(text, base, context, cluster)


@functools.lru_cache(maxsize=8)
def _connected(text: str, base: Path, context: str, cluster: str) -> Cluster:
    return Cluster(access(text, base, context=context, cluster=cluster))


def access(text: str, base: Path, *, context: str = "", cluster: str = "") -> Access:
    """What a kubeconfig says.

    Args:
        text: Its content.
        base: The folder that its paths start from.
        context: The context to use instead of the current one.
        cluster: The cluster to use instead of the context's.

    Raises:
        ModelworksError: It is none, or lacks the context, cluster or user; the message names it.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelworksError(f"the kubeconfig is not YAML: {error}", fix="Correct it.") from error
    if not isinstance(document, dict):
        raise ModelworksError("the kubeconfig holds no mapping", fix="Correct it.")
    name = context or document.get("current-context") or ""
    chosen = _entry(document, "contexts", "context", name) if name or not cluster else {}
    target = _entry(document, "clusters", "cluster", cluster or chosen.get("cluster", ""))
    user = _entry(document, "users", "user", chosen["user"]) if chosen.get("user") else {}
    if "exec" in user or "auth-provider" in user:
        raise ModelworksError(
            "the kubeconfig's user is authenticated by a program (`exec`), which the laptop's provider does not run",
            fix="Use the laptop's kubeconfig (`modelworks env`), or the real provider for a real cluster.",
        )
    headers = {}
    token = user.get("token") or (_content(user, "tokenFile", base).decode().strip() if user.get("tokenFile") else "")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return Access(
        server=str(target.get("server", "")).rstrip("/"),
        namespace=chosen.get("namespace") or "",
        headers=headers,
        tls=_tls(target, user, base),
    )


def _entry(document: Mapping[str, Any], key: str, kind: str, name: str) -> dict[str, Any]:
    for each in document.get(key) or ():
        if each.get("name") == name:
            return dict(each.get(kind) or {})
    names = ", ".join(str(each.get("name")) for each in document.get(key) or ()) or "none"
    raise ModelworksError(f"the kubeconfig has no {kind} {name!r}; it has {names}", fix=f"Name one of its {key}.")


def _content(entry: Mapping[str, Any], key: str, base: Path) -> bytes:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data)
    if path := entry.get(key):
        return (base / str(path)).read_bytes()
    return b""


def _tls(target: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> ssl.SSLContext | bool:
    if not str(target.get("server", "")).startswith("https"):
        return False
    try:
        return _tls_settings(target, user, base)
    except (OSError, ValueError) as error:  # SSLError is an OSError, what is no base64 a ValueError
        raise ModelworksError(
            f"the kubeconfig's certificates cannot be used: {error}", fix="Run `modelworks laptop up`."
        ) from error


def _tls_settings(target: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> ssl.SSLContext:
    authority = _content(target, "certificate-authority", base)
    settings = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if target.get("insecure-skip-tls-verify"):
        settings.check_hostname, settings.verify_mode = False, ssl.CERT_NONE
    certificate, key = _content(user, "client-certificate", base), _content(user, "client-key", base)
    if certificate and key:
        with tempfile.TemporaryDirectory() as folder:  # private (0700); the ssl module reads files only
            pair = Path(folder) / "client.pem"
            pair.touch(mode=0o600)
            pair.write_bytes(certificate + b"\n" + key)
            settings.load_cert_chain(pair)
    return settings


@dataclass(frozen=True)
class Endpoint:
    """Where the API server serves a kind."""

    plural: str
    namespaced: bool


class Cluster:
    """One API server, for any number of threads.

    Args:
        access: Where it is.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._http = httpx.Client(
            base_url=access.server,
            headers={"User-Agent": "modelworks-laptop", "Accept": "application/json", **access.headers},
            verify=access.tls,
            timeout=httpx.Timeout(30, connect=5),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
            trust_env=False,
        )
        self._kinds: dict[str, tuple[float, dict[str, Endpoint]]] = {}
        self._lock = threading.Lock()

    # ---- discovery

    def endpoint(self, kind: Kind) -> Endpoint:
        """Where `kind` is served.

        Raises:
            UnknownKind: It is not, for now: its CustomResourceDefinition may come.
            Unreachable: The API server does not answer.
        """
        with self._lock:
            asked, known = self._kinds.get(kind.api_version, (0.0, {}))
        if kind.name in known and time.monotonic() < asked + _DISCOVERY_SECONDS:
            return known[kind.name]
        path = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
        try:
            listed = self.request("GET", path, doing=f"asking for {kind.api_version}")
        except Refused as error:
            if error.status == 404:
                raise UnknownKind(kind) from error
            raise
        found = {
            each["kind"]: Endpoint(each["name"], bool(each["namespaced"]))
            for each in listed.get("resources", ())
            if "/" not in each["name"]
        }
        with self._lock:
            self._kinds[kind.api_version] = time.monotonic(), found
        if kind.name not in found:
            raise UnknownKind(kind)
        return found[kind.name]

    def forget(self, kind: Kind) -> None:
        """Ask anew where `kind` is served, next time."""
        with self._lock:
            self._kinds.pop(kind.api_version, None)

    def serves(self, kind: Kind) -> bool:
        """Whether the API server knows `kind`. Raises `Unreachable`."""
        try:
            self.endpoint(kind)
        except UnknownKind:
            return False
        return True

    def url(self, kind: Kind, namespace: str, name: str = "") -> str:
        """The path of an object, or of all objects of a kind."""
        endpoint = self.endpoint(kind)
        root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
        scope = f"/namespaces/{namespace}" if endpoint.namespaced and namespace else ""
        return f"{root}{scope}/{endpoint.plural}" + (f"/{name}" if name else "")

    # ---- requests

    def request(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        warn: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """One request, and its answer.

        Args:
            method: The HTTP method.
            path: Path of the API.
            doing: What this is for, as the message of an error begins.
            params: Query parameters.
            body: Sent as JSON.
            content_type: Its media type.
            warn: Called with each warning the API server sends along.

        Raises:
            Refused: The API server answered with an error.
            Unreachable: It did not answer.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if content is not None else {}
        for attempt in range(3):
            try:
                response = self._http.request(method, path, params=params, content=content, headers=headers)
            except (httpx.RemoteProtocolError, httpx.ReadError) as error:
                # A kept-alive connection that the server closed meanwhile. Every request here may be repeated.
                if attempt == 2:
                    raise Unreachable(self.access.server, str(error) or type(error).__name__) from error
            except httpx.HTTPError as error:
                raise Unreachable(self.access.server, str(error) or type(error).__name__) from error
            else:
                if response.status_code == 429 and attempt < 2:
                    time.sleep(min(float(response.headers.get("Retry-After", 1)), 5))
                    continue
                break
        for warning in response.headers.get_list("Warning") if warn else ():
            # `299 - "text"`
            warn(warning.split('"', 1)[-1].rstrip('"').replace('\\"', '"'))  # type: ignore[misc]
        try:
            answer = response.json() if response.content else {}
        except ValueError:
            answer = {"message": response.text[:500]}
        if response.is_success:
            return answer if isinstance(answer, dict) else {}
        if response.status_code == 403 and (missing := self._missing_namespace(path)):
            raise Refused(404, {"message": missing, "reason": "NotFound"}, doing=doing)
        raise Refused(response.status_code, answer if isinstance(answer, dict) else {}, doing=doing)

    def _missing_namespace(self, path: str) -> str:
        """What is wrong with the namespace of `path`, if that is why it is forbidden: rights in it end with it."""
        match = _NAMESPACE_OF.match(path)
        if match is None:
            return ""
        try:
            response = self._http.get(f"/api/v1/namespaces/{match[1]}")
        except httpx.HTTPError as error:
            raise Unreachable(self.access.server, str(error) or type(error).__name__) from error
        if response.status_code == 404:
            return f'namespaces "{match[1]}" not found'
        if response.is_success and response.json()["metadata"].get("deletionTimestamp"):
            return f'namespace "{match[1]}" is being deleted, and all that is in it'
        return ""

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, or `None` where there is none."""
        try:
            return self.request("GET", self.url(kind, namespace, name), doing=f"reading {kind.name} {name}")
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: Kind, namespace: str, **selectors: str) -> dict[str, Any]:
        """The objects of a kind, as the API server lists them (with `metadata.resourceVersion`)."""
        return self.request("GET", self.url(kind, namespace), doing=f"listing {kind.name}", params=selectors)

    # ---- watching

    def watch(
        self, kind: Kind, namespace: str, stop: threading.Event, **selectors: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every object now, then every change, until `stop` is set: `("ADDED" | "MODIFIED" | "DELETED", object)`.

        Goes on after the API server was restarted; what was deleted meanwhile is then told as `("GONE", {})`: whoever
        watches a single object asks for it.
        """
        while not stop.is_set():
            try:
                listed = self.list(kind, namespace, **selectors)
                if not listed.get("items"):
                    yield "GONE", {}
                for item in listed.get("items", ()):
                    yield "ADDED", {"apiVersion": kind.api_version, "kind": kind.name, **item}
                version = listed["metadata"]["resourceVersion"]
                yield from self._stream(self.url(kind, namespace), stop, version, selectors)
            except (Unreachable, Refused, httpx.HTTPError, OSError, ValueError) as error:
                if isinstance(error, Refused) and error.status == 404:
                    yield "GONE", {}
                stop.wait(0.5)

    def _stream(
        self, path: str, stop: threading.Event, version: str, selectors: Mapping[str, str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        params = {**selectors, "watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        timeout = httpx.Timeout(_WATCH_SECONDS + 30, connect=5)
        with self._http.stream("GET", path, params=params, timeout=timeout) as response:
            if not response.is_success:
                stop.wait(0.5)
                return
            hang_up = threading.Thread(target=_hang_up, args=(response, stop), daemon=True, name="hang-up")
            hang_up.start()
            for line in response.iter_lines():
                if stop.is_set():
                    return
                if not line:
                    continue
                event = json.loads(line)
                if event["type"] == "ERROR":  # the version is too old: list again
                    return
                yield event["type"], event["object"]


def _hang_up(response: httpx.Response, stop: threading.Event) -> None:
    # A thread that reads a silent watch wakes up for nothing but the end of its connection.
    stop.wait()
    connection = response.extensions["network_stream"].get_extra_info("socket")
    try:
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it had ended by itself
