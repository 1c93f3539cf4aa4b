"""The sources of a pod's volumes and variables, read from the API server."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from modelworks.laptop.agent import env, volumes
from modelworks.laptop.agent.api import Object
from modelworks.laptop.agent.env import UnresolvedError
from modelworks.laptop.agent.host import REFRESH_SECONDS, Host


class Supplies:
    """The ConfigMaps, Secrets, tokens and claims of one pod.

    Args:
        host: The namespace of the pod and its API server.
        ip: The pod's address.
    """

    def __init__(self, host: Host, ip: str) -> None:
        self._host = host
        self._ip = ip
        self._tokens: dict[tuple[str, int], tuple[float, str]] = {}
        self.claimed: dict[str, Path] = {}
        """Folders of the pod's persistent volume claims, by volume."""

    async def of_volumes(self, pod: Object, *, fresh: bool = True) -> volumes.Sources:
        """The objects that volumes refer to, without missing ones. Unless `fresh`, it may be half a minute old.

        Raises:
            UnresolvedError: A claim is not bound.
            RefusedError: The API server refused the request.
            httpx.HTTPError: It cannot be reached.
        """
        if fresh:
            self.claimed = await self._claims(pod)
        around = await self._around(pod, volumes.config_maps_and_secrets(pod), 0 if fresh else REFRESH_SECONDS / 2)
        tokens = {key: await self._token(pod, *key) for key in volumes.token_requests(pod)}
        return volumes.Sources(around, tokens, self.claimed)

    async def of_variables(self, pod: Object) -> env.Surroundings:
        """The objects that variables refer to, without missing ones.

        Raises:
            RefusedError: The API server refused the request.
            httpx.HTTPError: It cannot be reached.
        """
        return await self._around(pod, env.references(pod), 0, services=True)

    async def _around(
        self, pod: Object, named: tuple[set[str], set[str]], age: float, *, services: bool = False
    ) -> env.Surroundings:
        namespace = pod["metadata"]["namespace"]
        return env.Surroundings(
            ip=self._ip,
            config_maps=await self._host.objects(namespace, "configmaps", named[0], age),
            secrets=await self._host.objects(namespace, "secrets", named[1], age),
            services=self._host.services(namespace) if services else (),
            cores=os.cpu_count() or 1,
            memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )

    async def _claims(self, pod: Object) -> dict[str, Path]:
        namespace = pod["metadata"]["namespace"]
        found = {}
        for volume, claim in volumes.claims(pod).items():
            held = await self._host.cluster.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")
            name = held["spec"].get("volumeName")
            if not name or held.get("status", {}).get("phase") != "Bound":
                raise UnresolvedError(f'persistentvolumeclaim "{claim}" is not bound')
            bound = await self._host.cluster.get(f"/api/v1/persistentvolumes/{name}")
            path = (bound["spec"].get("local") or bound["spec"].get("hostPath") or {}).get("path")
            if not path:
                raise UnresolvedError(f'persistentvolume "{name}" is not a folder of this machine')
            Path(path).mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - one folder on a local disk
            found[volume] = Path(path)
        return found

    async def _token(self, pod: Object, audience: str, lifetime: int) -> str:
        until, token = self._tokens.get((audience, lifetime), (0.0, ""))
        if time.time() < until:
            return token
        meta = pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        spec = {
            "expirationSeconds": lifetime,
            "boundObjectRef": bound,
            **({"audiences": [audience]} if audience else {}),
        }
        account = pod["spec"].get("serviceAccountName", "default")
        answer = await self._host.cluster.call(
            "POST",
            f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        token = str(answer["status"]["token"])
        # Renewed at four fifths of its life, as the kubelet does, less a little so that not all are renewed at once.
        self._tokens[audience, lifetime] = (time.time() + lifetime * random.uniform(0.7, 0.8), token)  # noqa: S311
        return token
