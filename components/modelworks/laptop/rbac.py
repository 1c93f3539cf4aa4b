"""Permissions of an environment: everything in the namespaces that it made, and with the kinds that it defined.

RBAC has no "the namespaces that this user made" and no "every group but the cluster's own", so rights follow what
carries the environment's mark (see `ownership`), a moment after it was made. Objects with another's mark stay unseen.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.laptop import control_plane
from modelworks.laptop.admission import LABEL
from modelworks.laptop.state_dir import read_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx

    from modelworks.laptop.state_dir import Place

    Objects = Sequence[dict[str, Any]]
    Grant = Callable[[httpx.Client, str, Objects], None]

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
"""Seconds between two calls of an unreachable API server."""

_NAMESPACES = "/api/v1/namespaces"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def follow(place: Place, environment: str, stop: threading.Event) -> None:
    """Keep the rights of `environment` in step with what it made until `stop`; returns at once.

    Waits for a cluster to be there, and outlives its restarts.
    """
    for path, grant in ((_NAMESPACES, _grant_namespaces), (_DEFINITIONS, _grant_kinds)):
        work = partial(_keep, place, environment, path, grant, stop)
        threading.Thread(target=work, name=f"rights {path}", daemon=True).start()


def _keep(place: Place, environment: str, path: str, grant: Grant, stop: threading.Event) -> None:
    import httpx  # not before somebody follows

    pki = place.cluster / "pki"
    while not stop.is_set():
        # They are written by `up`, and must not be made here by a second hand.
        if (pki / "admin.key").exists() and (pki / "admin.crt").exists():
            try:
                with control_plane.client(place, read_facts(place.root / "laptop.json")["ports"]) as api:
                    while not stop.is_set():
                        _once(api, environment, path, grant)
            except (httpx.HTTPError, ModelworksError, OSError, ValueError, KeyError) as error:
                log.info("%s of %s are not followed for a moment: %s", path, environment, error or type(error).__name__)
        stop.wait(PAUSE_SECONDS)


def _once(api: httpx.Client, environment: str, path: str, grant: Grant) -> None:
    """Grant what goes with the objects that are there, then wait for a change of one."""
    chosen = {"labelSelector": f"{LABEL}={environment}"}
    found = api.get(path, params=chosen).raise_for_status().json()
    grant(api, environment, found["items"])
    since = found["metadata"]["resourceVersion"]
    watch = {**chosen, "watch": "true", "resourceVersion": since, "timeoutSeconds": "300"}
    with api.stream("GET", path, params=watch, timeout=330) as answer:
        next(answer.iter_lines(), None)  # whatever it was, the list says it all


def _grant_namespaces(api: httpx.Client, environment: str, namespaces: Objects) -> None:
    binding = control_plane.binding_in_namespace(environment)
    for name in standing(namespaces):
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/rolebindings/{binding['metadata']['name']}"
        control_plane.apply(api, path, binding)


def standing(namespaces: Objects) -> list[str]:
    """Names of the namespaces that are not on their way out: nothing can be granted in those."""
    return [each["metadata"]["name"] for each in namespaces if not each["metadata"].get("deletionTimestamp")]


def _grant_kinds(api: httpx.Client, environment: str, definitions: Objects) -> None:
    name, user = f"modelworks:kinds:{environment}", control_plane.environment_user(environment)
    path = "/apis/rbac.authorization.k8s.io/v1"
    role, binding = control_plane.environment_role(name, rules(definitions), user)
    control_plane.apply(api, f"{path}/clusterroles/{name}", role)
    control_plane.apply(api, f"{path}/clusterrolebindings/{name}", binding)


def rules(definitions: Objects) -> list[dict[str, Any]]:
    """The RBAC rules that go with definitions; none for kinds in Kubernetes' own groups."""
    kinds: dict[str, list[str]] = {}
    for definition in definitions:
        spec = definition["spec"]
        if not f".{spec['group']}".endswith((".k8s.io", ".kubernetes.io")):
            kinds.setdefault(spec["group"], []).append(spec["names"]["plural"])
    return [
        {"apiGroups": [group], "resources": sorted([*plurals, *(f"{each}/*" for each in plurals)]), "verbs": ["*"]}
        for group, plurals in sorted(kinds.items())
    ]
