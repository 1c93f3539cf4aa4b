"""The environment variables and arguments of a container: pure functions of specification and what it refers to."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from modelworks.laptop.agent.quantity import divided, parse
from modelworks.laptop.agent.reconcile import Spec

Object = Mapping[str, Any]


class UnresolvedError(ValueError):
    """Something a container refers to is not there; the message is what the kubelet would report."""


@dataclass(frozen=True)
class Surroundings:
    """The sources of a pod's variables."""

    ip: str
    config_maps: Mapping[str, Object] = field(default_factory=dict)
    secrets: Mapping[str, Object] = field(default_factory=dict)
    services: Sequence[Object] = ()
    """The services of the pod's namespace."""
    cores: int = 1
    memory: int = 0
    """Bytes of this machine: what `resourceFieldRef` gives where no limit is stated."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced; `$$` is a dollar sign, and names that are not known stay as they are."""

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replaced, text)


def variables(pod: Spec, container: Spec, around: Surroundings) -> dict[str, str]:
    """The variables that the pod's specification gives a container, service links included.

    Raises:
        UnresolvedError: A ConfigMap, Secret, key or field it refers to is not there and not optional.
    """
    links = service_links(around.services) if pod["spec"].get("enableServiceLinks", True) else {}
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        found |= _from_source(source, around)
    for entry in container.get("env") or []:
        if (value := entry.get("value")) is not None:
            found[entry["name"]] = expand(value, {**links, **found})
        elif "valueFrom" in entry:
            resolved = _value_from(pod, container, entry["valueFrom"], around)
            if resolved is not None:
                found[entry["name"]] = resolved
        else:
            found[entry["name"]] = ""
    return {**links, **found}


def argv(container: Spec, known: Mapping[str, str]) -> list[str]:
    """`command` and `args` with references expanded."""
    return [expand(word, known) for word in [*(container.get("command") or []), *(container.get("args") or [])]]


def references(pod: Spec) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and Secrets that variables of the pod's containers refer to."""
    config_maps: set[str] = set()
    secrets: set[str] = set()
    for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
        for source in container.get("envFrom") or []:
            config_maps.update(filter(None, [(source.get("configMapRef") or {}).get("name")]))
            secrets.update(filter(None, [(source.get("secretRef") or {}).get("name")]))
        for entry in container.get("env") or []:
            source = entry.get("valueFrom") or {}
            config_maps.update(filter(None, [(source.get("configMapKeyRef") or {}).get("name")]))
            secrets.update(filter(None, [(source.get("secretKeyRef") or {}).get("name")]))
    return config_maps, secrets


def service_links(services: Sequence[Object]) -> dict[str, str]:
    """The `NAME_SERVICE_HOST` and `NAME_SERVICE_PORT` variables of services that have a cluster address."""
    found: dict[str, str] = {}
    for service in services:
        address = service["spec"].get("clusterIP")
        ports = service["spec"].get("ports") or []
        if not address or address == "None" or not ports:
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        found[f"{name}_SERVICE_HOST"] = address
        found[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                found[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    return found


def field_value(pod: Spec, path: str, ip: str) -> str:
    """The value of a `fieldRef`.

    Raises:
        UnresolvedError: There is no such field.
    """
    meta, spec = pod["metadata"], pod["spec"]
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str((meta.get(match[1]) or {}).get(match[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        held = meta.get(path.split(".")[1]) or {}
        # The format of the downward API: one key="value" a line, the value quoted and escaped.
        return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(held.items()))
    simple = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": "127.0.0.1",
        "status.hostIPs": "127.0.0.1",
        "status.podIP": ip,
        "status.podIPs": ip,
    }
    if path not in simple:
        raise UnresolvedError(f"field label not supported: {path}")
    return str(simple[path])


def resource_value(pod: Spec, container: Spec, reference: Mapping[str, Any], around: Surroundings) -> str:
    """The value of a `resourceFieldRef`: an unset limit is the capacity of the machine.

    Raises:
        UnresolvedError: It selects something else than a request or limit.
    """
    if name := reference.get("containerName"):
        everyone = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
        container = next((c for c in everyone if c["name"] == name), container)
    kind, _, resource = str(reference["resource"]).partition(".")
    if kind not in ("limits", "requests") or not resource:
        raise UnresolvedError(f"unsupported container resource: {reference['resource']}")
    stated = (container.get("resources") or {}).get(kind, {}).get(resource)
    default = {"cpu": Decimal(around.cores), "memory": Decimal(around.memory)}.get(resource, Decimal(0))
    missing = default if kind == "limits" else Decimal(0)
    return divided(parse(stated) if stated is not None else missing, reference.get("divisor"))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _from_source(source: Mapping[str, Any], around: Surroundings) -> dict[str, str]:
    prefix = source.get("prefix", "")
    if reference := source.get("configMapRef"):
        data = _data(around.config_maps, reference, "configmap")
    else:
        reference = source["secretRef"]
        data = _data(around.secrets, reference, "secret")
    return {f"{prefix}{key}": value for key, value in data.items()}


def _value_from(pod: Spec, container: Spec, source: Mapping[str, Any], around: Surroundings) -> str | None:
    if reference := source.get("fieldRef"):
        return field_value(pod, reference["fieldPath"], around.ip)
    if reference := source.get("resourceFieldRef"):
        return resource_value(pod, container, reference, around)
    for key, objects, word in (
        ("configMapKeyRef", around.config_maps, "ConfigMap"),
        ("secretKeyRef", around.secrets, "Secret"),
    ):
        if reference := source.get(key):
            data = _data(objects, reference, word.lower())
            if reference["key"] in data:
                return data[reference["key"]]
            if reference.get("optional"):
                return None
            raise UnresolvedError(f"couldn't find key {reference['key']} in {word} {reference['name']}")
    raise UnresolvedError(f"unsupported source of a variable: {', '.join(source)}")


def _data(objects: Mapping[str, Object], reference: Mapping[str, Any], word: str) -> dict[str, str]:
    found = objects.get(reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise UnresolvedError(f'{word} "{reference["name"]}" not found')
    if word == "configmap":
        return dict(found.get("data") or {})
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in (found.get("data") or {}).items()}
