from __future__ import annotations

import json

import pytest

from modelworks.laptop.gateway.routes import pod_facts, render

DEFAULTS = {"timeout_ms": 60_000, "max_body_bytes": 104_857_600}


def pod(name: str, ip: str, *, namespace: str = "local", app: str = "model", ready: bool = True, **metadata: object):
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app, "hash": "x"}, **metadata},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 3000}]}]},
        "status": {
            "phase": "Running",
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def service(
    name: str = "model", *, namespace: str = "local", app: str = "model", port: dict | None = None, **spec: object
):
    ports = [port or {"name": "web", "port": 80, "targetPort": "http"}]
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {"selector": {"app": app}, "ports": ports, **spec},
    }


def path(service: str = "model", port: object = 80, *, kind: str = "Prefix", at: str = "/"):
    key = "number" if isinstance(port, int) else "name"
    return {"path": at, "pathType": kind, "backend": {"service": {"name": service, "port": {key: port}}}}


def ingress(*paths: dict, host: str | None = "model.localhost", name: str = "model", namespace: str = "local", **more):
    rule = {"http": {"paths": list(paths)}} | ({"host": host} if host else {})
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "creationTimestamp": more.pop("born", "2026"),
    }
    if annotations := more.pop("annotations", None):
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": {"rules": [rule], **more}}


def forward(*groups: tuple[str, int | None]) -> dict[str, str]:
    """The annotation as Argo Rollouts writes it."""
    targets = [
        {"ServiceName": name, "ServicePort": "80"} | ({} if weight is None else {"Weight": weight})
        for name, weight in groups
    ]
    action = {"Type": "forward", "ForwardConfig": {"TargetGroups": targets}}
    return {"alb.ingress.kubernetes.io/actions.root": json.dumps(action)}


def routes(rendered, host: str = "model.localhost"):
    return rendered.table["hosts"][host]


def test_an_ingress_reaches_the_ready_pods_that_its_service_selects():
    rendered = render(
        [ingress(path())],
        [service()],
        [pod("b", "127.77.0.2"), pod("a", "127.77.0.1"), pod("other", "127.77.0.3", app="other")],
    )
    assert routes(rendered) == [
        {"prefix": "/", **DEFAULTS, "backends": [{"weight": 1, "pods": ["127.77.0.1:3000", "127.77.0.2:3000"]}]}
    ]
    assert rendered.notices == ()


def test_a_pod_that_is_ending_not_ready_or_elsewhere_gets_no_request():
    pods = [
        pod("ending", "127.77.0.1", deletionTimestamp="2026-01-01T00:00:00Z"),
        pod("unready", "127.77.0.2", ready=False),
        pod("elsewhere", "127.77.0.3", namespace="other"),
        pod("failed", "127.77.0.4") | {"status": {"phase": "Failed", "podIP": "127.77.0.4"}},
        pod("without-address", ""),
    ]
    assert routes(render([ingress(path())], [service()], pods))[0]["backends"] == [{"weight": 1, "pods": []}]


def test_a_port_is_found_by_number_name_and_target():
    by_name = render([ingress(path(port="web"))], [service()], [pod("a", "127.77.0.1")])
    number = service(port={"port": 80, "targetPort": 8080})
    same = service(port={"port": 80})
    assert routes(by_name)[0]["backends"][0]["pods"] == ["127.77.0.1:3000"]
    assert routes(render([ingress(path())], [number], [pod("a", "127.77.0.1")]))[0]["backends"][0]["pods"] == [
        "127.77.0.1:8080"
    ]
    assert routes(render([ingress(path())], [same], [pod("a", "127.77.0.1")]))[0]["backends"][0]["pods"] == [
        "127.77.0.1:80"
    ]


def test_a_service_without_a_selector_selects_no_pod():
    bare = service() | {"spec": {"ports": [{"port": 80}]}}
    assert routes(render([ingress(path())], [bare], [pod("a", "127.77.0.1")]))[0]["backends"][0]["pods"] == []


def test_exact_paths_come_first_then_the_longest_prefix():
    rules = ingress(path(at="/"), path(at="/v1"), path(at="/v1", kind="Exact"), path(at="/v1/deep"))
    found = routes(render([rules], [service()], []))
    assert [(route.get("exact"), route.get("prefix")) for route in found] == [
        ("/v1", None),
        (None, "/v1/deep"),
        (None, "/v1"),
        (None, "/"),
    ]


def test_the_load_balancers_own_patterns_are_understood():
    kinds = ingress(
        path(at="/*", kind="ImplementationSpecific"),
        path(at="/img/*.png", kind="ImplementationSpecific"),
        path(at="/plain", kind="ImplementationSpecific"),
    )
    found = routes(render([kinds], [service()], []))
    assert [{key: route[key] for key in ("exact", "prefix", "pattern") if key in route} for route in found] == [
        {"exact": "/plain"},
        {"pattern": "^/img/.*\\.png$"},
        {"prefix": "/"},
    ]


def test_weights_come_from_the_annotation_that_argo_writes():
    rendered = render(
        [ingress(path("root", "use-annotation"), annotations=forward(("stable", 90), ("canary", 10)))],
        [service("stable", app="s"), service("canary", app="c")],
        [pod("s1", "127.77.0.1", app="s"), pod("s2", "127.77.0.2", app="s"), pod("c1", "127.77.0.3", app="c")],
    )
    assert routes(rendered)[0]["backends"] == [
        {"weight": 90, "pods": ["127.77.0.1:3000", "127.77.0.2:3000"]},
        {"weight": 10, "pods": ["127.77.0.3:3000"]},
    ]


def test_a_weight_of_zero_stays_zero_and_none_is_one():
    rendered = render(
        [ingress(path("root", "use-annotation"), annotations=forward(("stable", None), ("canary", 0)))],
        [service("stable"), service("canary")],
        [],
    )
    assert [backend["weight"] for backend in routes(rendered)[0]["backends"]] == [1, 0]


def test_an_action_as_people_write_it_is_read_too():
    action = {"type": "forward", "forwardConfig": {"targetGroups": [{"serviceName": "model", "servicePort": 80}]}}
    annotations = {"alb.ingress.kubernetes.io/actions.root": json.dumps(action)}
    rendered = render(
        [ingress(path("root", "use-annotation"), annotations=annotations)], [service()], [pod("a", "127.77.0.1")]
    )
    assert routes(rendered)[0]["backends"] == [{"weight": 1, "pods": ["127.77.0.1:3000"]}]


def test_a_fixed_response_needs_no_service():
    config = {"contentType": "text/plain", "statusCode": "503", "messageBody": "closed"}
    action = json.dumps({"type": "fixed-response", "fixedResponseConfig": config})
    annotations = {"alb.ingress.kubernetes.io/actions.root": action}
    rendered = render([ingress(path("root", "use-annotation"), annotations=annotations)], [], [])
    assert routes(rendered)[0]["fixed"] == {"status": 503, "headers": {"Content-Type": "text/plain"}, "body": "closed"}


def test_an_annotation_that_is_missing_or_broken_answers_503_and_says_why():
    missing = render([ingress(path("root", "use-annotation"))], [], [])
    broken = render(
        [ingress(path("root", "use-annotation"), annotations={"alb.ingress.kubernetes.io/actions.root": "{"})], [], []
    )
    odd = render(
        [ingress(path("root", "use-annotation"), annotations={"alb.ingress.kubernetes.io/actions.root": "[]"})], [], []
    )
    assert [routes(rendered)[0]["backends"] for rendered in (missing, broken, odd)] == [[], [], []]
    assert "is missing" in missing.notices[0].message
    assert "cannot be read" in broken.notices[0].message
    assert "cannot be read" in odd.notices[0].message


def test_a_service_that_is_not_there_is_said_and_leaves_the_others():
    rendered = render(
        [ingress(path("root", "use-annotation"), annotations=forward(("stable", 90), ("canary", 10)))],
        [service("stable")],
        [pod("a", "127.77.0.1")],
    )
    assert routes(rendered)[0]["backends"] == [{"weight": 90, "pods": ["127.77.0.1:3000"]}]
    assert rendered.notices[0].message == "there is no Service canary in the namespace local"


def test_a_host_belongs_to_the_namespace_that_named_it_first():
    rendered = render(
        [
            ingress(path(), namespace="late", born="2026-02-01T00:00:00Z"),
            ingress(path(), namespace="early", born="2026-01-01T00:00:00Z"),
        ],
        [service(namespace="early"), service(namespace="late")],
        [pod("e", "127.77.0.1", namespace="early"), pod("l", "127.77.0.2", namespace="late")],
    )
    assert [route["backends"][0]["pods"] for route in routes(rendered)] == [["127.77.0.1:3000"]]
    [refusal] = rendered.notices
    assert (refusal.namespace, refusal.reason) == ("late", "HostTaken")
    assert "already belongs to the namespace early" in refusal.message
    assert ("Ingress", "late", "model") not in rendered.addresses


def test_two_ingresses_of_one_namespace_share_a_host():
    rendered = render([ingress(path(at="/a"), name="one"), ingress(path(at="/b"), name="two")], [service()], [])
    assert [route["prefix"] for route in routes(rendered)] == ["/a", "/b"]
    assert rendered.notices == ()


def test_a_host_of_the_real_world_is_reached_below_localhost_too():
    rendered = render([ingress(path(), host="Model.Example.com.")], [service()], [])
    assert sorted(rendered.table["hosts"]) == ["model.example.com", "model.example.com.localhost"]
    assert rendered.addresses == {("Ingress", "local", "model"): "model.example.com.localhost"}


def test_a_rule_without_a_host_is_for_every_host_and_has_a_name_of_its_own():
    rendered = render([ingress(path(), host=None)], [service()], [])
    assert sorted(rendered.table["hosts"]) == ["*", "model.local.localhost"]
    assert rendered.addresses == {("Ingress", "local", "model"): "model.local.localhost"}


def test_the_default_backend_takes_what_no_path_does():
    with_default = ingress(path(at="/v1"), defaultBackend={"service": {"name": "other", "port": {"number": 80}}})
    found = routes(render([with_default], [service(), service("other", app="o")], [pod("o", "127.77.0.9", app="o")]))
    assert [(route["prefix"], route["backends"][0]["pods"]) for route in found] == [
        ("/v1", []),
        ("/", ["127.77.0.9:3000"]),
    ]


def test_an_ingress_of_another_class_is_left_alone():
    others = ingress(path(), ingressClassName="nginx")
    legacy = ingress(path(), annotations={"kubernetes.io/ingress.class": "nginx"})
    ours = ingress(path(), ingressClassName="alb")
    assert render([others, legacy], [service()], []).table["hosts"] == {}
    assert list(render([ours], [service()], []).table["hosts"]) == ["model.localhost"]


def test_limits_come_from_annotations():
    annotations = {"gateway.modelworks.dev/timeout-seconds": "5", "gateway.modelworks.dev/max-body-bytes": "1000"}
    [route] = routes(render([ingress(path(), annotations=annotations)], [service()], []))
    assert (route["timeout_ms"], route["max_body_bytes"]) == (5000, 1000)


def test_the_load_balancers_idle_timeout_is_obeyed():
    annotations = {"alb.ingress.kubernetes.io/load-balancer-attributes": "a.b=c, idle_timeout.timeout_seconds=600"}
    [route] = routes(render([ingress(path(), annotations=annotations)], [service()], []))
    assert route["timeout_ms"] == 600_000


@pytest.mark.parametrize("value", ["soon", "²", "-1", "0", "1.5", ""])
def test_a_limit_that_is_no_number_is_said_and_the_default_holds(value):
    annotations = {"gateway.modelworks.dev/timeout-seconds": value}
    rendered = render([ingress(path(), annotations=annotations)], [service()], [])
    assert routes(rendered)[0]["timeout_ms"] == 60_000
    assert f"must be a whole number above 0, got {value!r}" in rendered.notices[0].message


def test_conditions_are_said_not_to_be_emulated():
    annotations = {"alb.ingress.kubernetes.io/conditions.model": "[]"}
    assert (
        "conditions are not emulated"
        in render([ingress(path(), annotations=annotations)], [service()], []).notices[0].message
    )


def test_http2_to_pods_where_the_service_or_the_ingress_says_so():
    h2c = service(port={"port": 80, "targetPort": 3000, "appProtocol": "kubernetes.io/h2c"})
    annotated = ingress(path(), annotations={"alb.ingress.kubernetes.io/backend-protocol-version": "GRPC"})
    assert routes(render([ingress(path())], [h2c], []))[0]["protocol"] == "h2c"
    assert routes(render([annotated], [service()], []))[0]["protocol"] == "h2c"
    assert "protocol" not in routes(render([ingress(path())], [service()], []))[0]


def test_an_ingress_for_grpc_and_one_for_everything_else_share_a_host_a_service_and_its_weights():
    weights = forward(("stable", 95), ("canary", 5))
    protocol = {"alb.ingress.kubernetes.io/backend-protocol-version": "GRPC"}
    http = ingress(path("root", "use-annotation"), annotations=weights)
    grpc = ingress(
        path("root", "use-annotation", at="/inference.GRPCInferenceService"),
        name="grpc",
        annotations={**weights, **protocol},
    )
    services = [service("stable", app="stable"), service("canary", app="canary")]
    pods = [pod("a", "127.77.0.1", app="stable"), pod("b", "127.77.0.2", app="canary")]
    rendered = render([http, grpc], services, pods)
    first, second = routes(rendered)
    assert (first["prefix"], first["protocol"]) == ("/inference.GRPCInferenceService", "h2c")
    assert (second["prefix"], second.get("protocol")) == ("/", None)
    assert first["backends"] == second["backends"]
    assert [each["weight"] for each in first["backends"]] == [95, 5]
    assert rendered.notices == ()


def test_a_load_balancer_service_has_a_host_of_its_own():
    rendered = render([], [service(type="LoadBalancer")], [pod("a", "127.77.0.1")])
    assert routes(rendered, "model.local.localhost")[0]["backends"] == [{"weight": 1, "pods": ["127.77.0.1:3000"]}]
    assert rendered.addresses == {("Service", "local", "model"): "model.local.localhost"}


def test_the_order_in_which_objects_come_does_not_matter():
    things = [ingress(path(), name="a"), ingress(path(), name="b", host="b.localhost")]
    pods = [pod("a", "127.77.0.1"), pod("b", "127.77.0.2")]
    services = [service(), service("other")]
    assert render(things, services, pods) == render(things[::-1], services[::-1], pods[::-1])


def test_a_pods_facts_are_all_that_its_routes_depend_on():
    noisy = pod("a", "127.77.0.1", resourceVersion="1", managedFields=["much"])
    noisy["status"]["conditions"][0]["lastProbeTime"] = "now"
    assert pod_facts(noisy) == pod_facts(pod("a", "127.77.0.1", resourceVersion="2"))
    assert render([ingress(path())], [service()], [pod_facts(noisy)]) == render([ingress(path())], [service()], [noisy])


ALB = "alb.ingress.kubernetes.io"


@pytest.mark.parametrize(
    "asking",
    [
        {"tls": [{"hosts": ["model.example.com"]}]},
        {"tls": [{"secretName": "mine"}]},
        {"annotations": {f"{ALB}/listen-ports": '[{"HTTP":80}, {"HTTPS":443}]'}},
        {"annotations": {f"{ALB}/certificate-arn": "arn:aws:acm:eu-central-1:111122223333:certificate/a"}},
    ],
)
def test_a_host_that_asks_for_tls_gets_it_under_each_of_its_names(asking):
    rendered = render([ingress(path(), host="model.example.com", **asking)], [service()], [])
    assert rendered.table["tls"] == ["model.example.com", "model.example.com.localhost"]
    assert rendered.notices == ()


@pytest.mark.parametrize(
    "asking", [{}, {"tls": [{"hosts": ["other"]}]}, {"annotations": {f"{ALB}/listen-ports": "[]"}}]
)
def test_a_host_that_does_not_ask_for_tls_gets_none(asking):
    assert render([ingress(path(), **asking)], [service()], []).table["tls"] == []


def test_a_rule_for_every_host_gets_tls_under_its_own_name_alone():
    rendered = render([ingress(path(), host=None, tls=[{}])], [service()], [])
    assert rendered.table["tls"] == ["model.local.localhost"]


def test_listen_ports_that_cannot_be_read_are_told():
    rendered = render([ingress(path(), annotations={f"{ALB}/listen-ports": "HTTPS"})], [service()], [])
    assert "listen-ports cannot be read" in rendered.notices[0].message


# -- Ports of their own ----------------------------------------------------------------------------------------------
PORTS = range(24_000, 24_004)


def ports(*things: dict, assigned: dict[str, int] | None = None, among=PORTS, services=None):
    return render(things, services or [service()], [], ports=among, assigned=assigned)


def test_each_host_has_one_port_under_the_name_that_its_pods_know():
    hosts = [ingress(path(), name="a", host="Model.Example.com"), ingress(path(), name="b", host="b.localhost")]
    anybody, direct = ingress(path(), name="c", host=None), service("direct", type="LoadBalancer")
    found = ports(*hosts, anybody, services=[service(), direct]).table["ports"]
    assert set(found) == {"model.example.com", "b.localhost", "c.local.localhost", "direct.local.localhost"}
    assert len(set(found.values())) == len(found)


def test_a_pattern_of_hosts_has_no_port_for_no_name_could_stand_for_it():
    assert ports(ingress(path(), host="*.example.com")).table["ports"] == {}


def test_a_host_keeps_the_port_that_it_had_and_a_host_that_is_gone_is_remembered():
    rendered = ports(ingress(path()), assigned={"gone.localhost": 24_001, "model.localhost": 24_003})
    assert rendered.table["ports"] == {"gone.localhost": 24_001, "model.localhost": 24_003}
    assert list(rendered.table["hosts"]) == ["model.localhost"]


def test_a_host_of_another_namespace_gets_no_port_of_ours():
    first = ingress(path(), born="2025")
    late = ingress(path(), name="late", namespace="other", born="2026")
    assert ports(first, late).table["ports"] == ports(first).table["ports"]


def test_where_ports_run_out_the_youngest_host_has_none_and_its_owner_is_told():
    hosts = [ingress(path(), name=name, host=f"{name}.localhost", born=born) for name, born in (("a", "1"), ("b", "2"))]
    rendered = ports(*hosts, among=PORTS[:1])
    assert rendered.table["ports"] == {"a.localhost": 24_000}
    [notice] = rendered.notices
    assert (notice.name, notice.reason) == ("b", "NoPort")
    assert "b.localhost" in notice.message
