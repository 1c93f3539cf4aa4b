"""Private: where a model is reached: two Services that take turns at being stable, and the Ingresses before them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pulumi

from modelworks import contract
from modelworks._resources.canary import Routing
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject
from modelworks._resources.network import AT_ONCE, grpc_targets, ingress, load_balancer, service, shared_load_balancer


class Address(NamedTuple):
    """The Services and Ingresses of an endpoint."""

    ping: KubernetesObject
    pong: KubernetesObject
    ingress: KubernetesObject
    grpc_ingress: KubernetesObject | None

    @property
    def routing(self) -> Routing:
        """Services and Ingresses, as Argo takes them to shift traffic."""
        first = [self.grpc_ingress.name] if self.grpc_ingress else []
        return Routing(self.ping.name, self.pong.name, (*first, self.ingress.name))


def serving_address(component: KubernetesComponent, model: str, args: Mapping[str, Any]) -> Address:
    """Declare the Services and Ingresses of a model.

    Args:
        component: The endpoint.
        model: Name of the model.
        args: The endpoint's `host`, `ingress`, `grpc` and `namespace`.
    """
    ping, pong = _service(component, "ping"), _service(component, "pong")

    def one(
        suffix: str,
        health: str,
        annotations: Mapping[str, pulumi.Input[str]],
        below: tuple[str, ...] = ("/",),
    ) -> KubernetesObject:
        # Argo writes the weights into an annotation of ours, which a server-side apply leaves alone.
        return component.object(
            "networking.k8s.io/v1",
            "Ingress",
            suffix,
            annotations={**AT_ONCE, **load_balancer(args["ingress"], health=health), **annotations},
            spec=ingress(args["host"], ping.name, port="use-annotation", below=below),
        )

    def shared(order: int) -> dict[str, pulumi.Input[str]]:
        return shared_load_balancer(args["ingress"], model, namespace=args["namespace"], order=order)

    if not args["grpc"]:
        return Address(ping, pong, one("", "/readyz", {}), None)
    rest = one("", "/readyz", shared(0))
    # Of its own, because the protocol of its targets is one for the whole of an Ingress.
    grpc = one(
        "grpc",
        f"/{contract.GRPC_HEALTH}/Check",
        {**shared(-1), **grpc_targets()},
        (f"/{contract.GRPC_SERVICE}", f"/{contract.GRPC_HEALTH}"),
    )
    return Address(ping, pong, rest, grpc)


def _service(component: KubernetesComponent, suffix: str) -> KubernetesObject:
    # Argo adds the hash of the pods it means; taking it away would mix stable and canary.
    return component.object(
        "v1", "Service", suffix, annotations=AT_ONCE, ignore_changes=["spec.selector"], spec=service(component.selector)
    )
