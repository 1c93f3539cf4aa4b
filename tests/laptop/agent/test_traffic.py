"""The connections of pods on a strict node: what containers name, what their processes have, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from ipaddress import IPv4Network

import pytest

from modelworks.laptop.agent import traffic
from modelworks.laptop.agent.sandbox import Marked, process_start
from modelworks.laptop.agent.services import ClusterServices
from modelworks.laptop.agent.traffic import Attempt, Checked, Peers, Traffic, connections, declared, refusals
from modelworks.laptop.agent.usage import Measured
from modelworks.laptop.endpoints import Endpoints
from modelworks.laptop.network_policies import Outside, Policies
from modelworks.laptop.state_dir import StateDir

AWS = Outside("AWS")


def pod(name, app, ip, *, port=3000, **metadata):
    return {
        "metadata": {"name": name, "namespace": "models", "uid": name, "labels": {"app": app}, **metadata},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def service(name, address, **spec):
    ports = [{"port": 80, "targetPort": "http"}]
    return {
        "metadata": {"name": name, "namespace": "models"},
        "spec": {"clusterIP": address, "selector": {"app": name}, "ports": ports, **spec},
    }


WEB, PROBES = pod("web-1", "web", "127.77.0.2"), pod("probes-1", "probes", "127.77.0.3")
SERVICES = [
    service("web", "127.77.128.5"),
    service("db", "None"),
    {**service("kubernetes", "127.77.128.1"), "metadata": {"name": "kubernetes", "namespace": "default"}},
]
DB = pod("db-0", "db", "127.77.0.4", port=5432)
CLUSTER = ClusterServices(
    SERVICES, Endpoints.of([WEB, PROBES, DB]), IPv4Network("127.77.128.0/17"), ("127.0.0.1", "6443")
)
API = Outside("the API server"), 443
PEERS = Peers(
    CLUSTER,
    {each["status"]["podIP"]: each for each in (WEB, PROBES, DB)},
    {20080: (AWS, 443), 6443: API},
    ["models", "other"],
)


def deny(name="deny", **spec):
    return {
        "metadata": {"namespace": "models", "name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], **spec},
    }


OPEN = deny("open", ingress=[{}], egress=[{}])
NAMES = deny("names", egress=[{"ports": [{"port": 53, "protocol": "UDP"}]}])


@pytest.mark.parametrize(
    ("host", "port", "ends"),
    [
        ("web", 80, [(WEB, 3000)]),
        ("web.models.svc.cluster.local", 80, [(WEB, 3000)]),
        ("web.other", 80, []),
        ("127.77.128.5", 80, [(WEB, 3000)]),
        ("web", 81, []),
        ("db", 5432, [(DB, 5432)]),
        ("127.77.0.2", 3001, [(WEB, 3001)]),
        ("kubernetes.default.svc", 80, [API]),
        # A program of this machine stands for a part of the cloud; each other port of 127.0.0.1 is the pod's own.
        ("127.0.0.1", 20080, [(AWS, 443)]),
        ("localhost", 4000, []),
        ("model.local.localhost", 20080, [(AWS, 443)]),
        ("db.example.com", 5432, [(Outside("db.example.com"), 5432)]),
        ("unknown", 80, []),
    ],
)
def test_who_is_behind_an_address_that_a_pod_connects_to(host, port, ends):
    assert PEERS.at(host, port, "models") == ends


def test_the_services_of_another_namespace_have_no_short_names_here():
    assert PEERS.at("web", 80, "other") == []


def test_an_address_beyond_this_machine_is_what_blocks_are_compared_with():
    ((end, port),) = PEERS.at("10.0.0.1", 443, "models")
    assert (str(end.address), port) == ("10.0.0.1", 443)


@pytest.mark.parametrize(
    ("variables", "argv", "found"),
    [
        ({"TRACKING": "http://registry"}, [], {("registry", 80)}),
        ({"OTLP": "http://collector.monitoring:4318/v1"}, [], {("collector.monitoring", 4318)}),
        ({"URI": "postgresql+psycopg://user:pass@db.example.com/mlflow"}, [], {("db.example.com", 5432)}),
        ({}, ["probe", "http://web-a:80", "--url=x"], {("web-a", 80)}),
        ({}, ["--url=http://web-a", "--name=x", "http://web-b/?next=http://web-c"], {("web-a", 80), ("web-b", 80)}),
        ({"A": "s3://bucket/key", "B": "sqlite:///x.db", "C": "http://[bad", "D": "see http://a b"}, [], set()),
        ({"PORT": "http://host:99999999"}, [], set()),
        # The address of the emulator is given to each pod, and only those with a role are somebody to AWS.
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:20080"}, [], set()),
        ({"AWS_ROLE_ARN": "arn:aws:iam::1:role/x"}, [], {("AWS", 443)}),
    ],
)
def test_connections_that_variables_and_arguments_declare(variables, argv, found):
    assert declared(variables, argv) == found


def refused(checked, now, policies, *, pods=(WEB, PROBES)):
    by_uid = {each["metadata"]["uid"]: each for each in pods}
    return [
        (each["metadata"]["name"], why)
        for each, why in checked.refused(now, by_uid, PEERS, Policies(policies, {"models": {}}))
    ]


@pytest.fixture
def checked():
    """Probes that will connect to the endpoint's Service."""
    checked = Checked()
    checked.add(Attempt("probes-1", "web", 80))
    return checked


def test_a_connection_that_no_policy_allows_is_reported_once_for_each_end_that_refuses_it(checked):
    assert refused(checked, 0, [NAMES]) == []
    (name, out), (_, into) = refused(checked, traffic.FOLLOWS_SECONDS, [NAMES])
    assert name == "probes-1"
    assert "pod models/probes-1 to pod models/web-1 at TCP port 3000" in out
    assert "with an egress rule to pods of models with app=web at TCP port 3000" in out
    assert "pod models/web-1 from pod models/probes-1 at TCP port 3000" in into
    checked.add(Attempt("probes-1", "web", 80))
    assert refused(checked, 100, [NAMES]) == refused(checked, 200, [NAMES]) == []


def test_a_connection_that_has_a_name_and_an_address_is_reported_once(checked):
    checked.add(Attempt("probes-1", "127.77.128.5", 80))
    refused(checked, 0, [NAMES])
    assert len(refused(checked, 100, [NAMES])) == 2


def test_another_reason_for_the_same_connection_is_reported_too(checked):
    refused(checked, 0, [NAMES])
    refused(checked, 100, [NAMES])
    checked.add(Attempt("probes-1", "web", 80))
    out = deny("out", policyTypes=["Egress"], egress=[{}])
    wrong = deny("wrong", ingress=[{"ports": [{"port": 80}]}])
    assert refused(checked, 200, [out, wrong]) == []
    ((_, why),) = refused(checked, 300, [out, wrong])
    assert "those that select it (wrong) have no ingress rule for it" in why


@pytest.mark.parametrize(
    ("host", "port", "asked"), [("web", 80, 1), ("db.example.com", 5432, 1), ("127.77.128.5", 80, 0), ("AWS", 443, 1)]
)
def test_a_name_takes_a_connection_with_a_name_server(host, port, asked):
    closed = deny(egress=[{"ports": [{"port": number} for number in (3000, 5432, 443)]}], policyTypes=["Egress"])
    checked = Checked()
    checked.add(Attempt("probes-1", host, port))
    refused(checked, 0, [closed])
    found = [why for _, why in refused(checked, 100, [closed])]
    assert ["to pod kube-system/coredns at UDP port 53" in why for why in found] == [True] * asked


def test_a_name_server_is_let_through_by_the_labels_that_clusters_give_it(checked):
    peer = {"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}, "namespaceSelector": {
        "matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}  # fmt: skip
    named = deny("names", policyTypes=["Egress"], egress=[{"to": [peer]}, {"ports": [{"port": 3000}]}])
    assert refused(checked, 0, [named]) == refused(checked, 100, [named]) == []


def test_a_name_that_the_pod_itself_gives_an_address_takes_no_name_server(checked):
    alias = [{"ip": "10.0.0.1", "hostnames": ["db.example.com"]}]
    pod = {**PROBES, "spec": {**PROBES["spec"], "hostAliases": alias}}
    (one,) = connections(Attempt("probes-1", "db.example.com", 5432), pod, PEERS)
    assert (str(one.destination.address), one.port) == ("10.0.0.1", 5432)


def test_a_policy_that_is_declared_beside_its_pod_is_waited_for(checked):
    assert refused(checked, 0, [deny()]) == []
    assert refused(checked, 1, [deny(), OPEN]) == []
    assert refused(checked, 100, [deny()]) == []


def test_a_policy_that_is_gone_is_missed_by_the_next_connection(checked):
    assert refused(checked, 0, [deny(), OPEN]) == []
    checked.add(Attempt("probes-1", "web", 80))
    refused(checked, 1, [deny()])
    assert refused(checked, 100, [deny()]) != []


def test_a_pod_that_is_ending_may_outlive_its_policies(checked):
    refused(checked, 0, [deny()])
    ending = {**PROBES, "metadata": {**PROBES["metadata"], "deletionTimestamp": "now"}}
    assert refused(checked, 100, [deny()], pods=(WEB, ending)) == []


def test_a_service_without_pods_is_waited_for(checked):
    checked.add(Attempt("probes-1", "later.models.svc", 80))
    nobody = Peers(ClusterServices([], Endpoints(), CLUSTER.network, CLUSTER.api), {}, {}, [])
    pods, policies = {"probes-1": PROBES}, Policies([deny()], {"models": {}})
    assert checked.refused(0, pods, nobody, policies) == checked.refused(100, pods, nobody, policies) == []
    assert checked.refused(100, pods, PEERS, policies) == []
    assert checked.refused(200, pods, PEERS, policies) != []


def test_a_role_is_a_connection_with_aws():
    checked = Checked()
    checked.add(Attempt("web-1", "AWS", 443))
    tls = deny("tls", egress=[{"ports": [{"port": 443}]}])
    assert refused(checked, 0, [NAMES, tls]) == []
    checked.add(Attempt("web-1", "AWS", 443))
    refused(checked, 0, [NAMES])
    ((_, why),) = refused(checked, 100, [NAMES])
    assert "pod models/web-1 to AWS at TCP port 443" in why
    assert "with an egress rule to any address at TCP port 443" in why


# -- With sockets that are real ---------------------------------------------------------------------------------------
CLIENT = """
import socket, sys
opened = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
"""


class Cluster:
    """An API server with these policies and one namespace."""

    def __init__(self, *policies, later=()):
        self.policies, self.later = policies, later

    async def follow(self, path):
        of_policies = path.endswith("/networkpolicies")
        yield "LISTED", self.policies if of_policies else [{"metadata": {"name": "models", "labels": {}}}]
        for change in self.later if of_policies else ():
            yield change


@pytest.fixture
def listening():
    """The port of 127.0.0.1 where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def client(listening):
    """The processes of a pod that has a connection with the port: the socket is that of a child."""
    process = subprocess.Popen(
        ["sh", "-c", '"$0" -c "$1" "$2" "$3"; exit', sys.executable, CLIENT, "127.0.0.1", str(listening)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        yield {"web-1/main/0": Measured(Marked(process.pid, process_start(process.pid)), None)}
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


@pytest.fixture
def place(tmp_path, listening):
    """A laptop cloud whose API server is what listens."""
    place = StateDir(tmp_path / "place")
    place.folder(place.logs)
    (place.root / "laptop.json").write_text(json.dumps({"ports": {"apiserver": listening}}))
    return place


PODS = {"web-1": ("127.77.0.2", WEB)}


def looked(place, client, monkeypatch, *policies, later=()):
    monkeypatch.setattr(traffic, "FOLLOWS_SECONDS", 0)
    checks = Traffic(place, Cluster(*policies, later=later))
    asyncio.run(checks.follow())
    return [found for _ in range(2) for found in asyncio.run(checks.look(PODS, client, CLUSTER))]


def test_a_connection_that_a_process_of_a_pod_has_is_refused_and_logged(place, client, monkeypatch):
    ((found, why),) = looked(place, client, monkeypatch, deny())
    assert found == WEB
    assert "pod models/web-1 to the API server at TCP port 443" in why
    assert refusals(place).read_text().endswith(f" {why}\n")


def test_a_connection_that_a_policy_allows_is_not(place, client, monkeypatch):
    assert looked(place, client, monkeypatch, deny(), OPEN) == []
    assert not refusals(place).exists()


@pytest.mark.parametrize(
    ("later", "count"),
    [
        ([("ADDED", OPEN)], 0),
        ([("ADDED", OPEN), ("DELETED", OPEN)], 1),
        ([("DELETED", deny())], 0),
        # The connection with the API server was lost, and everything is listed again.
        ([("ADDED", OPEN), ("LISTED", [deny()])], 1),
        ([("MODIFIED", {**OPEN, "metadata": deny()["metadata"]})], 0),
    ],
)
def test_policies_that_change_are_followed(place, client, monkeypatch, later, count):
    assert len(looked(place, client, monkeypatch, deny(), later=later)) == count


def test_connections_of_processes_that_are_no_pods_are_nobodys_business(place, client, monkeypatch):
    assert looked(place, {}, monkeypatch, deny()) == []


def test_nothing_is_refused_before_the_policies_are_known(place, client):
    assert asyncio.run(Traffic(place, Cluster()).look(PODS, client, CLUSTER)) == []


def test_what_a_pod_declares_is_checked_when_the_pod_is_known(place, monkeypatch):
    monkeypatch.setattr(traffic, "FOLLOWS_SECONDS", 0)

    async def found():
        checks = Traffic(place, Cluster(NAMES))
        await checks.follow()
        beginning = asyncio.ensure_future(checks.look({}, {}, CLUSTER))
        await asyncio.sleep(0)
        checks.declare("web-1", {"URI": "postgresql://db.example.com/models"}, [])
        return [await beginning, *[await checks.look(PODS, {}, CLUSTER) for _ in range(2)]]

    before, first, ((_, why),) = asyncio.run(found())
    assert before == first == []
    assert "to db.example.com at TCP port 5432" in why
