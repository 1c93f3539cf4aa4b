"""What an environment may do with the kinds that it made: everything, as soon as they are defined.

RBAC knows no "every group but the cluster's own", so the rights follow the definitions: those that carry the
environment's mark (see `ownership`), and no others.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.laptop import control_plane
from modelworks.laptop.ownership import LABEL
from modelworks.laptop.place import read_facts

if TYPE_CHECKING:
    import threading

    import httpx

    from modelworks.laptop.place import Place

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
"""How long until an API server that is not there is asked again."""

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def follow(place: Place, environment: str, stop: threading.Event) -> None:
    """Keep the rights of `environment` in step with its definitions until `stop`; waits for a cluster to be there."""
    import httpx  # noqa: PLC0415 - not before somebody follows

    pki = place.cluster / "pki"
    while not stop.is_set():
        # They are written by `up`, and must not be made here by a second hand.
        if (pki / "admin.key").exists() and (pki / "admin.crt").exists():
            try:
                with control_plane.client(place, read_facts(place.root / "laptop.json")["ports"]) as api:
                    _follow(api, environment, stop)
            except (httpx.HTTPError, ModelworksError, OSError, ValueError, KeyError) as error:
                log.info("kinds of %s are not followed for a moment: %s", environment, error or type(error).__name__)
        stop.wait(PAUSE_SECONDS)


def _follow(api: httpx.Client, environment: str, stop: threading.Event) -> None:
    chosen = {"labelSelector": f"{LABEL}={environment}"}
    while not stop.is_set():
        found = api.get(_DEFINITIONS, params=chosen).raise_for_status().json()
        _grant(api, environment, found["items"])
        since = found["metadata"]["resourceVersion"]
        watch = {**chosen, "watch": "true", "resourceVersion": since, "timeoutSeconds": "300"}
        with api.stream("GET", _DEFINITIONS, params=watch, timeout=330) as answer:
            next(answer.iter_lines(), None)  # whatever it was, the list says it all


def _grant(api: httpx.Client, environment: str, definitions: list[dict[str, Any]]) -> None:
    name = f"modelworks:kinds:{environment}"
    path = "/apis/rbac.authorization.k8s.io/v1"
    role, binding = control_plane.environment_role(name, rules(definitions), f"modelworks:environment:{environment}")
    control_plane.apply(api, f"{path}/clusterroles/{name}", role)
    control_plane.apply(api, f"{path}/clusterrolebindings/{name}", binding)


def rules(definitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
