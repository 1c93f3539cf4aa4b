"""Network policies as a graph: which connections pass, of pods with each other and with addresses outside."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.laptop.gateway.controller import _reachable
from modelworks.laptop.gateway.routes import pod_facts
from modelworks.laptop.network_policies import Connection, Outside, Policies, outside

GUIDE = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
ANYBODY = Outside("anybody")
DECLARED = Path(__file__).parents[1] / "stacks" / "declared"


def pod(namespace="models", **labels):
    ports = [{"name": "http", "containerPort": 3000}]
    return {"metadata": {"namespace": namespace, "labels": labels}, "spec": {"containers": [{"ports": ports}]}}


def allows(policies, pod, direction, port, *, protocol="TCP"):
    """Whether a connection between a pod and anybody outside of the cluster passes."""
    ends = (ANYBODY, pod) if direction == "ingress" else (pod, ANYBODY)
    return Policies(policies, {}).allow(Connection(*ends, port, protocol))


def policy(**spec):
    return {"metadata": {"namespace": "models"}, "spec": {"podSelector": {}, **spec}}


ROWS = [
    # policies, port, whether a connection to the pod passes
    ([], 3000, True),
    ([policy(policyTypes=["Ingress"])], 3000, False),
    ([policy(policyTypes=["Egress"])], 3000, True),
    ([policy()], 3000, False),
    ([policy(ingress=[{}])], 1, True),
    ([policy(ingress=[{"ports": [{"port": "http"}]}])], 3000, True),
    ([policy(ingress=[{"ports": [{"port": "grpc"}]}])], 3000, False),
    ([policy(ingress=[{"ports": [{"port": 2999, "endPort": 3001}]}])], 3000, True),
    ([policy(ingress=[{"ports": [{"port": 3000, "protocol": "UDP"}]}])], 3000, False),
    ([policy(ingress=[{"from": [{"podSelector": {}}]}])], 3000, False),
    ([policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])], 3000, True),
    # The API server takes a network with the address of a host in it.
    ([policy(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.1/16"]}}]}])], 3000, True),
    # Policies add up: what one allows, another does not take away.
    ([policy(policyTypes=["Ingress"]), policy(ingress=[{"ports": [{"port": 3000}]}])], 3000, True),
    ([policy(podSelector={"matchLabels": {"app": "other"}})], 3000, True),
    ([policy(podSelector={"matchExpressions": [{"key": "app", "operator": "Exists"}]})], 3000, False),
    ([policy(podSelector={"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]})], 3000, True),
    ([policy(podSelector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]})], 3000, False),
    ([policy(podSelector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["b"]}]})], 3000, True),
    ([policy(podSelector={"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]})], 3000, True),
]


@pytest.mark.parametrize(("policies", "port", "passes"), ROWS)
def test_connections_to_a_pod(policies, port, passes):
    assert allows(policies, pod(app="a"), "ingress", port) is passes, GUIDE


@pytest.mark.parametrize(
    ("rules", "comes_in", "goes_out"),
    [
        ({}, False, True),
        ({"egress": [{"ports": [{"port": 443}]}]}, False, False),
        ({"egress": [{"ports": [{"port": 80}]}], "ingress": [{}]}, True, True),
    ],
)
def test_a_policy_that_states_no_types_is_about_ingress_and_about_egress_if_it_has_rules_for_it(
    rules, comes_in, goes_out
):
    assert allows([policy(**rules)], pod(), "ingress", 80) is comes_in
    assert allows([policy(**rules)], pod(), "egress", 80) is goes_out


def test_a_named_port_is_one_of_the_same_protocol():
    names = pod()
    names["spec"]["containers"][0]["ports"] = [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]
    policies = [policy(ingress=[{"ports": [{"port": "dns", "protocol": each} for each in ("TCP", "UDP")]}])]
    assert allows(policies, names, "ingress", 53, protocol="UDP")
    assert not allows(policies, names, "ingress", 53)


def test_policies_of_another_namespace_do_not_matter():
    assert allows([policy()], pod("other"), "ingress", 3000)


NAMESPACES = {"models": {"team": "ml"}, "jobs": {"team": "data"}}
WEB, JOB = pod(app="web"), pod("jobs", app="job")
BOTH = {"podSelector": {"matchLabels": {"app": "job"}}, "namespaceSelector": {"matchLabels": {"team": "data"}}}


def let_in(*peers):
    return [policy(ingress=[{"from": list(peers)}])]


BETWEEN_PODS = [
    # policies, source, destination, whether it passes
    ([], JOB, WEB, True),
    ([policy()], JOB, WEB, False),
    (let_in(BOTH), JOB, WEB, True),
    (let_in(BOTH), pod("jobs", app="other"), WEB, False),
    (let_in(BOTH), pod("models", app="job"), WEB, False),
    # A podSelector alone is about the policy's own namespace.
    (let_in({"podSelector": {"matchLabels": {"app": "job"}}}), JOB, WEB, False),
    (let_in({"podSelector": {"matchLabels": {"app": "job"}}}), pod("models", app="job"), WEB, True),
    # Two entries of a list are alternatives, where one with both selectors is not.
    (let_in({"podSelector": {"matchLabels": {"app": "x"}}}, {"namespaceSelector": {}}), JOB, WEB, True),
    (let_in({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "jobs"}}}), JOB, WEB, True),
    (let_in({"namespaceSelector": {"matchLabels": {"team": "ml"}}}), JOB, WEB, False),
    # No address of a pod is known, except that it is one.
    (let_in({"ipBlock": {"cidr": "0.0.0.0/0"}}), JOB, WEB, True),
    (let_in({"ipBlock": {"cidr": "10.0.0.0/8"}}), JOB, WEB, False),
    (let_in({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}), JOB, WEB, False),
    (let_in({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}), JOB, WEB, True),
    (let_in({"ipBlock": {"cidr": "::/0"}}), JOB, WEB, False),
    # A pod with its node's network is no pod to selectors.
    (let_in(BOTH), {**JOB, "spec": {"hostNetwork": True}}, WEB, False),
    (let_in({"ipBlock": {"cidr": "0.0.0.0/0"}}), {**JOB, "spec": {"hostNetwork": True}}, WEB, True),
    ([policy()], JOB, {**WEB, "spec": {**WEB["spec"], "hostNetwork": True}}, True),
    # Both ends have a say.
    ([policy(policyTypes=["Egress"])], WEB, JOB, False),
    ([policy(policyTypes=["Egress"], egress=[{"to": [{"namespaceSelector": {}}]}])], WEB, JOB, True),
    ([policy(policyTypes=["Egress"], egress=[{"to": [{"podSelector": {}}]}])], WEB, JOB, False),
    # A name in an egress rule is that of the destination's port.
    ([policy(policyTypes=["Egress"], egress=[{"ports": [{"port": "http"}]}])], WEB, JOB, True),
    ([policy(policyTypes=["Egress"], egress=[{"ports": [{"port": "grpc"}]}])], WEB, JOB, False),
    ([policy()], WEB, WEB, True),
]


@pytest.mark.parametrize(("policies", "source", "destination", "passes"), BETWEEN_PODS)
def test_connections_between_pods(policies, source, destination, passes):
    assert Policies(policies, NAMESPACES).allow(Connection(source, destination, 3000)) is passes, GUIDE


@pytest.mark.parametrize(
    ("address", "passes"),
    [("10.1.2.3", True), ("10.9.0.1", False), ("11.0.0.1", False), ("fd00::1", True), ("fe80::1", False)],
)
def test_an_address_that_is_known_is_compared_with_blocks(address, passes):
    blocks = [{"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}, {"cidr": "fd00::/16"}]
    policies = [policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": block} for block in blocks]}])]
    assert Policies(policies, {}).allow(Connection(WEB, outside(address), 443)) is passes


@pytest.mark.parametrize(
    ("cidr", "passes"), [("10.0.0.0/8", True), ("169.254.170.23/32", False), ("fd00:ec2::23/128", False)]
)
def test_an_address_that_is_not_known_is_in_no_block_of_what_each_node_serves(cidr, passes):
    policies = [policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": cidr}}]}])]
    assert Policies(policies, {}).allow(Connection(WEB, ANYBODY, 80)) is passes


def test_the_network_of_the_node_is_that_of_a_pod_that_shares_it():
    shared = {**WEB, "spec": {**WEB["spec"], "hostNetwork": True}}
    assert Policies([policy(policyTypes=["Egress"])], {}).allow(Connection(shared, ANYBODY, 443))


def test_a_refusal_names_pod_peer_port_and_the_policy_that_is_missing():
    deny = {**policy(), "metadata": {"namespace": "models", "name": "default-deny"}}
    web = {**WEB, "metadata": {**WEB["metadata"], "name": "web-1"}}
    web["metadata"]["labels"] = {"app": "web", "rollouts-pod-template-hash": "5dc85584fc"}
    job = {**JOB, "metadata": {**JOB["metadata"], "name": "job-1"}}
    (sentence,) = Policies([deny], NAMESPACES).refusals(Connection(job, web, 3000))
    assert sentence == (
        "network policies refuse the connection of pod models/web-1 from pod jobs/job-1 at TCP port 3000: those that "
        "select it (default-deny) have no ingress rule for it. Missing is a NetworkPolicy in models that selects "
        "app=web, with an ingress rule from pods of jobs with app=job at TCP port 3000"
    )


def test_a_refusal_names_every_policy_that_selects_the_pod_and_a_pod_without_labels_as_any():
    both = [{**policy(), "metadata": {"namespace": "models", "name": name}} for name in ("b", "a")]
    (sentence,) = Policies(both, {}).refusals(Connection(ANYBODY, pod(), 80))
    assert "those that select it (a, b) have no ingress rule for it" in sentence
    assert "a NetworkPolicy in models that selects every pod, with" in sentence


def test_a_namespace_whose_labels_are_not_known_yet_is_known_by_its_name():
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "jobs"}}}
    assert Policies([policy(ingress=[{"from": [named]}])], {}).allow(Connection(JOB, WEB, 80))


@pytest.mark.parametrize(
    ("peer", "rule"),
    [
        (outside("10.1.2.3"), "the ipBlock 10.1.2.3/32"),
        (outside("fd00::1"), "the ipBlock fd00::1/128"),
        (outside("db.example.com"), "any address"),
        ({**JOB, "spec": {"hostNetwork": True}}, "the ipBlock of the nodes"),
        (pod("jobs"), "pods of jobs with any labels"),
    ],
)
def test_the_rule_that_is_missing_is_one_that_would_let_it_pass(peer, rule):
    (sentence,) = Policies([policy(policyTypes=["Egress"])], {}).refusals(Connection(WEB, peer, 443))
    assert sentence.endswith(f"with an egress rule to {rule} at TCP port 443")


# -- An oracle that writes out whom a policy lets through -------------------------------------------------------------
LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)
OPERATORS = st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"])
EXPRESSION = st.builds(
    lambda key, operator, values: {"key": key, "operator": operator} | ({"values": values} if "In" in operator else {}),
    st.sampled_from("ab"),
    OPERATORS,
    st.lists(st.sampled_from("xy"), min_size=1, max_size=2),
)
REQUIREMENTS = st.fixed_dictionaries(
    {}, optional={"matchLabels": LABELS, "matchExpressions": st.lists(EXPRESSION, max_size=2)}
)
# Most of what is drawn at random matches nothing, and nothing would be compared.
SELECTOR = st.one_of(st.just({}), REQUIREMENTS)
BLOCK = st.sampled_from(
    [{"cidr": "0.0.0.0/0"}, {"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "::/0"}]
)
PEER = st.one_of(
    st.builds(lambda block: {"ipBlock": block}, BLOCK),
    st.builds(lambda pods: {"podSelector": pods}, SELECTOR),
    st.builds(lambda namespaces: {"namespaceSelector": namespaces}, SELECTOR),
    st.builds(lambda pods, namespaces: {"podSelector": pods, "namespaceSelector": namespaces}, SELECTOR, SELECTOR),
)
PORT = st.one_of(
    st.just({"port": "http"}),
    st.just({"protocol": "UDP"}),
    st.builds(lambda first, more: {"port": first, "endPort": first + more}, st.integers(1, 4), st.integers(0, 3)),
    st.builds(
        lambda port, protocol: {"port": port, "protocol": protocol}, st.integers(1, 4), st.sampled_from(["TCP", "UDP"])
    ),
)


def rules(word):
    return st.lists(
        st.fixed_dictionaries(
            {}, optional={word: st.lists(PEER, max_size=2), "ports": st.one_of(st.just([]), st.lists(PORT, max_size=2))}
        ),
        max_size=2,
    )


POLICY = st.builds(
    lambda namespace, spec: {"metadata": {"namespace": namespace, "name": "p"}, "spec": spec},
    st.sampled_from(["models", "jobs"]),
    st.fixed_dictionaries(
        {"podSelector": SELECTOR},
        optional={
            "policyTypes": st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
            "ingress": rules("from"),
            "egress": rules("to"),
        },
    ),
)
POD = st.builds(
    lambda namespace, labels, port, named: {
        "metadata": {"namespace": namespace, "labels": labels, "name": str(named)},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
    },
    st.sampled_from(["models", "jobs"]),
    LABELS,
    st.integers(1, 4),
    st.integers(),
)
ADDRESS = st.builds(
    lambda address: Outside("x", ip_address(address)), st.sampled_from(["10.0.0.1", "10.1.0.1", "8.8.8.8", "::1"])
)
ENDS = st.one_of(st.tuples(POD, POD), st.tuples(POD, ADDRESS), st.tuples(ADDRESS, POD))


def matching(selector, labels):
    """Each requirement by itself, in the words of the API's reference."""
    requirements = [(key, "In", [value]) for key, value in selector.get("matchLabels", {}).items()]
    requirements += [
        (each["key"], each["operator"], each.get("values")) for each in selector.get("matchExpressions", [])
    ]
    for key, operator, values in requirements:
        present, value = key in labels, labels.get(key)
        if operator == "In" and not (present and value in values):
            return False
        if operator == "NotIn" and present and value in values:
            return False
        if operator == "Exists" and not present:
            return False
        if operator == "DoesNotExist" and present:
            return False
    return True


def lets_through(policies, end, peer, way, connection):
    """By the text of the API's reference for one end: isolated or not, and if so, every way to be let through."""
    if isinstance(end, Outside):
        return True
    isolated, home = False, end["metadata"]["namespace"]
    for each in policies:
        spec = each["spec"]
        ways = spec.get("policyTypes", ["Ingress"] + ["Egress"] * bool(spec.get("egress")))
        if each["metadata"]["namespace"] != home or not matching(spec["podSelector"], end["metadata"]["labels"]):
            continue
        if way.capitalize() not in ways:
            continue
        isolated = True
        for rule in spec.get(way, []):
            peers = rule.get("to" if way == "egress" else "from", [])
            if (not peers or any(about(one, peer, home) for one in peers)) and (
                not rule.get("ports") or any(reaches(one, connection) for one in rule["ports"])
            ):
                return True
    return not isolated


def about(stated, peer, home):
    if "ipBlock" in stated:
        block = stated["ipBlock"]
        if not isinstance(peer, Outside):
            return block == {"cidr": "0.0.0.0/0"}
        return peer.address in ip_network(block["cidr"]) and not (
            "except" in block and peer.address in ip_network(block["except"][0])
        )
    if isinstance(peer, Outside):
        return False
    there = peer["metadata"]["namespace"]
    if "namespaceSelector" not in stated:
        return there == home and matching(stated["podSelector"], peer["metadata"]["labels"])
    return matching(stated["namespaceSelector"], SPACES[there]) and matching(
        stated.get("podSelector", {}), peer["metadata"]["labels"]
    )


def reaches(stated, connection):
    if stated.get("protocol", "TCP") != connection.protocol:
        return False
    if stated.get("port") == "http":
        there = connection.destination
        held = None if isinstance(there, Outside) else there["spec"]["containers"][0]["ports"][0]["containerPort"]
        return connection.protocol == "TCP" and held == connection.port
    return "port" not in stated or connection.port in range(stated["port"], stated.get("endPort", stated["port"]) + 1)


SPACES = {"models": {"a": "x"}, "jobs": {"b": "y"}}


def agrees(policies, ends, port, protocol="TCP"):
    connection = Connection(*ends, port, protocol)
    source, destination = ends
    expected = source == destination or (
        lets_through(policies, source, destination, "egress", connection)
        and lets_through(policies, destination, source, "ingress", connection)
    )
    return Policies(policies, SPACES).allow(connection) is expected


@given(st.lists(POLICY, max_size=4), ENDS, st.integers(1, 5), st.sampled_from(["TCP", "UDP"]))
def test_the_evaluator_agrees_with_the_text_of_the_reference(policies, ends, port, protocol):
    assert agrees(policies, ends, port, protocol)


def isolating(way, rule):
    """A policy of each namespace, for all of its pods."""
    spec = {"podSelector": {}, "policyTypes": [way.capitalize()], way: [rule]}
    return [{"metadata": {"namespace": each, "name": "p"}, "spec": spec} for each in SPACES]


@settings(max_examples=300)
@given(st.lists(PEER, min_size=1, max_size=2), ENDS, st.sampled_from(["ingress", "egress"]))
def test_the_peers_of_a_rule_are_those_that_the_reference_says(peers, ends, way):
    assert agrees(isolating(way, {"from" if way == "ingress" else "to": peers}), ends, 1)


@settings(max_examples=300)
@given(st.lists(PORT, min_size=1, max_size=2), ENDS, st.integers(1, 5), st.sampled_from(["TCP", "UDP"]))
def test_the_ports_of_a_rule_are_those_that_the_reference_says(ports, ends, port, protocol):
    assert agrees(isolating("ingress", {"ports": ports}), ends, port, protocol)
    assert agrees(isolating("egress", {"ports": ports}), ends, port, protocol)


NETWORK = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32))


def ends_of(network):
    """The first and the last address of a network of IPv4, as numbers."""
    number, length = network
    size = 2 ** (32 - length)
    return number // size * size, number // size * size + size - 1


def written(network):
    return f"{IPv4Address(ends_of(network)[0])}/{network[1]}"


@st.composite
def blocks_and_addresses(draw):
    """A block, networks in it that are excepted, and an address at an edge of one of them."""
    block = draw(NETWORK)
    first, last = ends_of(block)
    inside = st.tuples(st.integers(first, last), st.integers(block[1], 32))
    excepted = draw(st.lists(inside, max_size=3))
    near = [edge + step for one in (block, *excepted) for edge in ends_of(one) for step in (-1, 0, 1)]
    return block, excepted, draw(st.sampled_from([each for each in near if 0 <= each < 2**32]))


@given(blocks_and_addresses(), st.sampled_from(["ingress", "egress"]))
def test_a_block_holds_its_addresses_without_those_that_are_excepted(drawn, way):
    block, excepted, number = drawn
    stated = {"ipBlock": {"cidr": written(block), "except": [written(each) for each in excepted]}}
    rule = {"from" if way == "ingress" else "to": [stated]}
    policies = Policies([policy(policyTypes=[way.capitalize()], **{way: [rule]})], {})
    peer = outside(str(IPv4Address(number)))
    held = [first <= number <= last for first, last in map(ends_of, (block, *excepted))]
    ends = (peer, WEB) if way == "ingress" else (WEB, peer)
    assert policies.allow(Connection(*ends, 3000)) is (held[0] and not any(held[1:]))


@given(st.lists(POLICY, max_size=3), POLICY, ENDS, st.integers(1, 5))
def test_a_policy_takes_away_nothing_from_pods_that_are_isolated_already(policies, another, ends, port):
    deny = [
        {
            "metadata": {"namespace": each, "name": "deny"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        }
        for each in SPACES
    ]
    connection = Connection(*ends, port)
    before, after = Policies([*deny, *policies], SPACES), Policies([*deny, *policies, another], SPACES)
    assert after.allow(connection) or not before.allow(connection)


def declared(stack):
    """The network policies of a stack, and the pods of its workloads, by name."""
    resources = json.loads((DECLARED / f"{stack}.json").read_text("utf-8")).items()
    manifests = [
        (urn.rpartition("::")[2], each.get("inputs") or each["object"])
        for urn, each in resources
        if each["type"].startswith("kubernetes:")
    ]
    pods = {}
    for name, each in manifests:
        spec = each.get("spec") or {}
        job = (spec.get("jobTemplate") or {}).get("spec") or spec
        if template := job.get("template"):
            namespace = each["metadata"]["namespace"]
            metadata = {"namespace": namespace, "labels": template["metadata"].get("labels") or {}}
            pods[name] = {"metadata": metadata, "spec": template["spec"]}
    return [each for _, each in manifests if each["kind"] == "NetworkPolicy"], pods


@pytest.mark.parametrize("stack", ["local", "dev", "staging", "prod"])
def test_pods_reach_aws_and_name_servers_and_nothing_in_plain_text_but_the_checks_of_hosts_of_plain_http(stack):
    policies, pods = declared(stack)
    assert len(pods) >= 5
    # The hosts of a laptop have no certificate.
    plain = {"registry-uptime", "flight-delay-uptime"} if stack == "local" else set()
    assert plain <= pods.keys()
    for name, each in pods.items():
        assert allows(policies, each, "egress", 443), name
        assert allows(policies, each, "egress", 53, protocol="UDP"), name
        assert allows(policies, each, "egress", 80) is (name in plain), name
        assert not allows(policies, each, "egress", 8080), name


@pytest.mark.parametrize("stack", ["local", "dev", "staging", "prod"])
def test_the_load_balancer_reaches_every_pod_behind_a_service_and_without_its_policy_none(stack):
    policies, pods = declared(stack)
    served = [each for each in pods.values() if ports(each)]
    assert len(served) >= 2
    for each in served:
        assert any(allows(policies, each, "ingress", port) for port in ports(each))
        default_deny = [one for one in policies if not one["spec"]["podSelector"]]
        assert not any(allows(default_deny, each, "ingress", port) for port in ports(each))


def ports(pod):
    return [int(port["containerPort"]) for one in pod["spec"]["containers"] for port in one.get("ports") or []]


def test_a_strict_gateway_has_no_target_that_a_policy_refuses():
    facts = pod_facts({**pod(app="a"), "status": {}})
    facts["metadata"] = {**facts["metadata"], "name": "a"}
    http = policy(ingress=[{"ports": [{"port": "http"}]}])
    assert _reachable(Policies([http], {}), facts)["spec"]["containers"][0]["ports"][0]["name"] == "http"
    closed = Policies([policy(policyTypes=["Ingress"])], {})
    assert _reachable(closed, facts) is None
    shared = {**pod(app="a"), "status": {}}
    shared["spec"]["hostNetwork"] = True
    assert _reachable(closed, pod_facts(shared))
