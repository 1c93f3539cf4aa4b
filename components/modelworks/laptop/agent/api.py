"""The few calls a node makes to the API server, over one pooled connection."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from modelworks.errors import ModelworksError

log = logging.getLogger(__name__)

Object = dict[str, Any]
"""A Kubernetes object as the API server sends it."""

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class RefusedError(ModelworksError):
    """The API server answered with an error; `status` is its HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answered {status}: {message}")
        self.status = status
        self.reason = message


class ApiClient:
    """The API server as one identity sees it."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._client.base_url)

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        """The cluster and identity that a kubeconfig file names as current.

        Raises:
            ModelworksError: The file is missing or incomplete.
        """
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
            context = _named(config["contexts"], config["current-context"])["context"]
            cluster = _named(config["clusters"], context["cluster"])["cluster"]
            user = _named(config["users"], context["user"])["user"]
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ModelworksError(
                f"{path} is not a usable kubeconfig: {error}", fix="Run `modelworks laptop up` to create it again."
            ) from error
        tls = ssl.create_default_context()
        if authority := _content(cluster, "certificate-authority"):
            tls.load_verify_locations(cadata=authority.decode())
        if (certificate := _content(user, "client-certificate")) and (key := _content(user, "client-key")):
            with tempfile.TemporaryDirectory() as folder:  # ssl reads keys from files only
                pair = Path(folder) / "pair.pem"
                pair.touch(mode=0o600)
                pair.write_bytes(certificate + b"\n" + key)
                tls.load_cert_chain(pair)
        headers = {"Authorization": f"Bearer {user['token']}"} if user.get("token") else {}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=20)
        timeout = httpx.Timeout(15, pool=60)
        return cls(
            httpx.AsyncClient(
                base_url=cluster["server"], verify=tls, headers=headers, limits=limits, timeout=timeout, trust_env=False
            )
        )

    async def close(self) -> None:
        """End all connections."""
        await self._client.aclose()

    async def call(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **query: str
    ) -> Object:
        """One request; the answer's JSON object.

        Raises:
            RefusedError: The API server refused the request.
            httpx.TransportError: It could not be reached.
        """
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind} if body is not None else {}
        response = await self._client.request(method, path, content=content, headers=headers, params=query)
        if response.is_error:
            raise RefusedError(response.status_code, _reason(response))
        answer: Object = response.json()
        return answer

    async def get(self, path: str, **query: str) -> Object:
        """Read one object or list."""
        return await self.call("GET", path, **query)

    async def follow(self, path: str, **query: str) -> AsyncIterator[tuple[str, Any]]:
        """Yields (`LISTED`, all objects) at first and after each lost connection, else one change at a time, for ever.

        Never ends, whatever the API server does: it is called again after a second.
        """
        while True:
            try:
                listing = await self.get(path, **query)
                yield "LISTED", listing.get("items") or []
                async for change in self._changes(path, query, listing["metadata"]["resourceVersion"]):
                    yield change
            except (httpx.HTTPError, RefusedError) as error:
                log.warning("watch of %s ended (%s), listing again in 1 s", path, error or type(error).__name__)
                await asyncio.sleep(1)

    async def _changes(self, path: str, query: Mapping[str, str], version: str) -> AsyncIterator[tuple[str, Object]]:
        while True:
            parameters = {
                **query,
                "watch": "true",
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": "1800",
            }
            timeout = httpx.Timeout(15, read=None)
            async with self._client.stream("GET", path, params=parameters, timeout=timeout) as response:
                if response.is_error:
                    await response.aread()
                    raise RefusedError(response.status_code, _reason(response))
                async for line in response.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":  # typically 410: the version was compacted away
                        raise RefusedError(int(event["object"].get("code", 500)), str(event["object"].get("message")))
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _content(section: Object, key: str) -> bytes | None:
    if data := section.get(f"{key}-data"):
        return base64.b64decode(data)
    return Path(section[key]).read_bytes() if section.get(key) else None


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500]
