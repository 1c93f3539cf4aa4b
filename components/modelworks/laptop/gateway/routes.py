"""From Ingresses, Services and Pods to the table of routes that Caddy follows. Pure: no cluster, no clock, no Caddy.

An Ingress is read as the AWS load balancer controller reads it (class `alb`), `actions.*` annotations with their
weights included, so that what Argo Rollouts writes for AWS works here unchanged. The guide lists the differences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelworks.laptop.endpoints import Endpoints
from modelworks.laptop.gateway.host_ports import assign

Object = Mapping[str, Any]
"""A Kubernetes object as the API server sends it."""

ALB = "alb.ingress.kubernetes.io"
"""Prefix of the AWS load balancer controller's annotations."""
OWN = "gateway.modelworks.dev"
"""Prefix of the annotations that only the laptop's gateway reads: `timeout-seconds`, `max-body-bytes`."""
CLASSES = (None, "", "alb")
"""The Ingress classes that are served: `alb`, and none given."""

TIMEOUT_SECONDS = 60
"""How long a pod may take until its answer begins, as an AWS load balancer's idle timeout is by default."""
MAX_BODY_BYTES = 100 * 2**20
"""Largest body of a request. AWS load balancers set no limit; one keeps a laptop from being filled by accident."""

LOCAL = "localhost"
"""Browsers, curl and systemd resolve every name below it to loopback (RFC 6761), so that no DNS is needed."""

_Ranked = tuple[tuple[int, int], dict[str, Any]]
"""A route and where it stands among those of its host, lowest first."""


@dataclass(frozen=True)
class Notice:
    """A message for the owner of an object: becomes a Kubernetes Event."""

    kind: str
    namespace: str
    name: str
    uid: str
    reason: str
    message: str


@dataclass(frozen=True)
class Rendered:
    """The result of the cluster's objects."""

    table: dict[str, Any]
    """Routes by host, the hosts that are answered over TLS too, and the ports of hosts, as Caddy's gateway module takes
    them."""
    notices: tuple[Notice, ...]
    """Refused hosts, unreadable annotations, Services that are not there, hosts for which no port is left."""
    addresses: dict[tuple[str, str, str], str]
    """The host under which (kind, namespace, name) is reached: goes into the object's status."""


def render(
    ingresses: Iterable[Object],
    services: Iterable[Object],
    pods: Iterable[Object],
    *,
    ports: Sequence[int] = (),
    assigned: Mapping[str, int] | None = None,
) -> Rendered:
    """The routes of these objects.

    A host belongs to the namespace whose Ingress named it first (by creation time, then by name): another namespace's
    rules for it are refused with a notice, for two environments on one laptop must not see each other.

    Args:
        ingresses: All Ingresses.
        services: All Services.
        pods: All Pods.
        ports: The available ports, one a host.
        assigned: The ports that hosts had before.
    """
    world, claims = _World.of(services, pods), _Claims()
    for ingress in sorted((i for i in ingresses if _served(i)), key=_age):
        claims.add_ingress(ingress, world)
    for service in sorted((s for s in world.services.values() if s["spec"].get("type") == "LoadBalancer"), key=_age):
        claims.add_service(service, world)
    host_ports = assign(claims.named, assigned or {}, ports)
    without = [
        _notice(kind, owner, "NoPort", f"no port is left for {host}: it is reached by its name alone")
        for host, (kind, owner) in claims.named.items()
        if ports and host not in host_ports
    ]
    hosts = {host: [route for _, route in sorted(ranked, key=_rank)] for host, ranked in sorted(claims.routes.items())}
    table = {"hosts": hosts, "tls": sorted(claims.secured), "ports": host_ports}
    return Rendered(table, (*claims.notices, *without), claims.addresses)


def pod_facts(pod: Object) -> dict[str, Any]:
    """The little of a Pod that routes depend on, in the Pod's own form; the same facts mean the same routes."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    containers = (pod.get("spec") or {}).get("containers") or []
    return {
        "metadata": {
            key: metadata[key] for key in ("name", "namespace", "labels", "deletionTimestamp") if key in metadata
        },
        "spec": {
            "containers": [{"ports": container["ports"]} for container in containers if container.get("ports")],
            **({"hostNetwork": True} if (pod.get("spec") or {}).get("hostNetwork") else {}),
        },
        "status": {
            "phase": status.get("phase"),
            "podIP": status.get("podIP"),
            "conditions": [
                {"type": "Ready", "status": condition["status"]}
                for condition in status.get("conditions") or []
                if condition["type"] == "Ready"
            ],
        },
    }


# -- What is there -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _World:
    services: Mapping[tuple[str, str], Object] = field(default_factory=dict)
    endpoints: Endpoints = field(default_factory=Endpoints)

    @classmethod
    def of(cls, services: Iterable[Object], pods: Iterable[Object]) -> _World:
        named = {(s["metadata"]["namespace"], s["metadata"]["name"]): s for s in services}
        return cls(named, Endpoints.of(pods))

    def pods(self, service: Object, port: Object) -> list[str]:
        """Addresses of the ready pods that the Service selects."""
        return [f"{address}:{number}" for address, number in self.endpoints.of_port(service, port)]


@dataclass
class _Claims:
    """The hosts that were claimed so far, each for the namespace that came first."""

    owners: dict[str, str] = field(default_factory=dict)
    """The namespace of each host."""
    routes: dict[str, list[_Ranked]] = field(default_factory=dict)
    secured: set[str] = field(default_factory=set)
    """Hosts that are answered over TLS too."""
    named: dict[str, tuple[str, Object]] = field(default_factory=dict)
    """Hosts that get a port of their own, with kind and object that named them first."""
    addresses: dict[tuple[str, str, str], str] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)

    def add_ingress(self, ingress: Object, world: _World) -> None:
        name, namespace = ingress["metadata"]["name"], ingress["metadata"]["namespace"]
        said: list[str] = []
        over_tls = _over_tls(ingress, said)
        for host, rules in _rules(ingress, world, said).items():
            for alias in _aliases(host, name, namespace):
                if not self._claim(alias, ingress, rules, "Ingress"):
                    continue
                if alias.endswith(f".{LOCAL}"):
                    self.addresses.setdefault(("Ingress", namespace, name), alias)
                if over_tls(host) and alias != "*":
                    self.secured.add(alias)
                if alias == _as_pods_know(host, name, namespace):
                    self.named.setdefault(alias, ("Ingress", ingress))
        self.notices += [_notice("Ingress", ingress, "Unusable", message) for message in dict.fromkeys(said)]

    def add_service(self, service: Object, world: _World) -> None:
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        host = f"{name}.{namespace}.{LOCAL}"
        port = service["spec"]["ports"][0]
        route = {**_limits({}), "prefix": "/", "backends": [{"weight": 1, "pods": world.pods(service, port)}]}
        if _is_h2c(port):
            route["protocol"] = "h2c"
        if self._claim(host, service, [((2, 0), route)], "Service"):
            self.addresses["Service", namespace, name] = host
            self.named.setdefault(host, ("Service", service))

    def _claim(self, host: str, owner: Object, rules: list[_Ranked], kind: str) -> bool:
        namespace = owner["metadata"]["namespace"]
        holder = self.owners.setdefault(host, namespace)
        if holder == namespace:
            self.routes.setdefault(host, []).extend(rules)
            return True
        where = "every host that nobody names" if host == "*" else f"the host {host}"
        self.notices.append(
            _notice(kind, owner, "HostTaken", f"{where} already belongs to the namespace {holder}; rules refused")
        )
        return False


def _rank(ranked: _Ranked) -> tuple[int, int]:
    return ranked[0]


def _served(ingress: Object) -> bool:
    by_annotation = _annotations(ingress).get("kubernetes.io/ingress.class")
    return (ingress["spec"].get("ingressClassName") or by_annotation) in CLASSES


def _age(thing: Object) -> tuple[str, str, str]:
    metadata = thing["metadata"]
    return str(metadata.get("creationTimestamp") or "9"), metadata["namespace"], metadata["name"]


def _aliases(host: str, name: str, namespace: str) -> Iterator[str]:
    """The host itself, and a name that reaches it without DNS."""
    yield host
    if host == "*":
        yield f"{name}.{namespace}.{LOCAL}"
    elif host != LOCAL and not host.endswith(f".{LOCAL}"):
        yield f"{host}.{LOCAL}"


def _as_pods_know(host: str, name: str, namespace: str) -> str | None:
    """The one name of a host in the requests to its own port; a pattern has no such name."""
    if host == "*":
        return f"{name}.{namespace}.{LOCAL}"
    return None if host.startswith("*.") else host


def _rules(ingress: Object, world: _World, said: list[str]) -> dict[str, list[_Ranked]]:
    """Per host its ranked routes: exact paths first, then the longest, as Kubernetes and a reader expect."""
    spec = ingress["spec"]
    ranked: dict[str, list[_Ranked]] = {}
    limits = _limits(_annotations(ingress), said)
    conditions = [key for key in _annotations(ingress) if key.startswith(f"{ALB}/conditions.")]
    said += [f"the annotation {key} is not obeyed on the laptop: conditions are not emulated" for key in conditions]
    for rule in spec.get("rules") or []:
        routes = ranked.setdefault(_host(rule.get("host")), [])
        for path in (rule.get("http") or {}).get("paths") or []:
            matcher, rank = _matcher(path.get("pathType"), path.get("path") or "/")
            routes.append((rank, {**matcher, **limits, **_answer(ingress, path["backend"], world, said)}))
    if backend := spec.get("defaultBackend"):
        answer = _answer(ingress, backend, world, said)
        for host in ranked or {"*": []}:
            ranked.setdefault(host, []).append(((3, 0), {"prefix": "/", **limits, **answer}))
    return ranked


def _over_tls(ingress: Object, said: list[str]) -> Callable[[str], bool]:
    """Whether a host of this Ingress requests TLS: as one of `spec.tls`, or by the load balancer's annotations."""
    annotations = _annotations(ingress)
    try:
        ports = json.loads(annotations.get(f"{ALB}/listen-ports", "[]"))
        listens = any("HTTPS" in port for port in ports)
    except (ValueError, TypeError) as error:
        said.append(f"the annotation {ALB}/listen-ports cannot be read: {error}")
        listens = False
    if listens or annotations.get(f"{ALB}/certificate-arn"):
        return lambda _: True
    asked = [entry.get("hosts") or [] for entry in ingress["spec"].get("tls") or []]
    named = {_host(host) for hosts in asked for host in hosts}
    return lambda host: host in named or [] in asked  # an entry without hosts is for all


def _host(host: str | None) -> str:
    return (host or "*").lower().rstrip(".")


def _matcher(kind: str | None, path: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """How a path is matched, and its rank among the others of its host."""
    if kind == "Prefix":
        return {"prefix": path}, (1, -len(path.rstrip("/")))
    if kind == "Exact" or not re.search(r"[*?]", path):
        return {"exact": path}, (0, 0)
    # The load balancer's own patterns, of which `/*` is the usual one.
    literal = re.split(r"[*?]", path, maxsplit=1)[0]
    if path == "/*":
        return {"prefix": "/"}, (1, 0)
    pattern = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in path)
    return {"pattern": f"^{pattern}$"}, (1, -len(literal.rstrip("/")))


def _answer(ingress: Object, backend: Object, world: _World, said: list[str]) -> dict[str, Any]:
    reference = backend.get("service")
    if reference is None:
        said.append("a backend that is not a Service is not supported")
        return {"backends": []}
    namespace, name, port = ingress["metadata"]["namespace"], reference["name"], reference.get("port") or {}
    if port.get("name") == "use-annotation":
        key = f"{ALB}/actions.{name}"
        try:
            action = _lowered(json.loads(_annotations(ingress)[key]))
            return _action(ingress, action, world, said)
        except KeyError as missing:
            found = "is missing" if str(missing).strip("'") == key else f"lacks {missing}"
            said.append(f"the annotation {key} {found}: {name} answers 503 until it is there")
        except (ValueError, TypeError, AttributeError) as error:
            said.append(f"the annotation {key} cannot be read: {error}")
        return {"backends": []}
    wanted = port.get("name") if "name" in port else port.get("number")
    return _forward(ingress, [(namespace, name, wanted, 1)], world, said)


def _action(ingress: Object, action: Mapping[str, Any], world: _World, said: list[str]) -> dict[str, Any]:
    """One of the load balancer controller's actions. Argo writes its keys capitalised, people do not."""
    kind = action["type"]
    if kind == "fixed-response":
        config = action["fixedresponseconfig"]
        headers = {"Content-Type": config["contenttype"]} if config.get("contenttype") else {}
        return {
            "fixed": {"status": int(config["statuscode"]), "headers": headers, "body": config.get("messagebody") or ""}
        }
    if kind != "forward":
        raise ValueError(f"actions of type {kind!r} are not emulated on the laptop, only forward and fixed-response")
    namespace = ingress["metadata"]["namespace"]
    config = action.get("forwardconfig") or {"targetgroups": [action]}
    targets = []
    for group in config["targetgroups"]:
        weight = group.get("weight")
        port = group["serviceport"]
        wanted = int(port) if str(port).isdecimal() else port
        targets.append((namespace, group["servicename"], wanted, 1 if weight is None else int(weight)))
    return _forward(ingress, targets, world, said)


def _forward(
    ingress: Object, targets: list[tuple[str, str, Any, int]], world: _World, said: list[str]
) -> dict[str, Any]:
    backends, ports = [], []
    for namespace, name, wanted, weight in targets:
        if weight < 0:
            raise ValueError(f"the weight of {name} must not be negative, got {weight}")
        service = world.services.get((namespace, name))
        if service is None:
            said.append(f"there is no Service {name} in the namespace {namespace}")
            continue
        port = next(
            (port for port in service["spec"].get("ports") or [] if wanted in (port["port"], port.get("name"))), None
        )
        if port is None:
            said.append(f"the Service {name} has no port {wanted}")
            continue
        ports.append(port)
        backends.append({"weight": weight, "pods": world.pods(service, port)})
    answer: dict[str, Any] = {"backends": backends}
    version = _annotations(ingress).get(f"{ALB}/backend-protocol-version", "").upper()
    if version in {"HTTP2", "GRPC"} or any(_is_h2c(port) for port in ports):
        answer["protocol"] = "h2c"
    return answer


def _is_h2c(port: Object) -> bool:
    return port.get("appProtocol") in {"kubernetes.io/h2c", "h2c", "grpc"}


def _limits(annotations: Mapping[str, str], said: list[str] | None = None) -> dict[str, int]:
    """How long and how large, from our annotations, or the load balancer's idle timeout."""
    attributes = dict(
        part.strip().split("=", 1)
        for part in annotations.get(f"{ALB}/load-balancer-attributes", "").split(",")
        if "=" in part
    )
    seconds = annotations.get(f"{OWN}/timeout-seconds", attributes.get("idle_timeout.timeout_seconds"))
    return {
        "timeout_ms": _positive(f"{OWN}/timeout-seconds", seconds, TIMEOUT_SECONDS, said) * 1000,
        "max_body_bytes": _positive(
            f"{OWN}/max-body-bytes", annotations.get(f"{OWN}/max-body-bytes"), MAX_BODY_BYTES, said
        ),
    }


def _positive(key: str, value: str | None, default: int, said: list[str] | None) -> int:
    if value is None:
        return default
    if value.isdecimal() and int(value) > 0:
        return int(value)
    if said is not None:
        said.append(f"{key} must be a whole number above 0, got {value!r}; {default} holds")
    return default


def _lowered(value: Any) -> Any:
    """The same with every key in lower case, as the controller reads them."""
    if isinstance(value, dict):
        return {key.lower(): _lowered(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_lowered(inner) for inner in value]
    return value


def _annotations(thing: Object) -> Mapping[str, str]:
    return thing["metadata"].get("annotations") or {}


def _notice(kind: str, thing: Object, reason: str, message: str) -> Notice:
    metadata = thing["metadata"]
    return Notice(kind, metadata["namespace"], metadata["name"], metadata.get("uid", ""), reason, message)
