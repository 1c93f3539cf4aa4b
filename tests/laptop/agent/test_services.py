"""Services inside the cluster: names, addresses and connections."""

import asyncio
from ipaddress import IPv4Network

import pytest

from modelworks.laptop.agent.service_proxy import ServiceProxy
from modelworks.laptop.agent.services import ClusterServices
from modelworks.laptop.endpoints import Endpoints
from waiting import PATIENCE

API = ("127.0.0.1", "6443")


def service(name, namespace="shop", address="127.77.128.5", **spec):
    spec = {"clusterIP": address, "selector": {"app": name}, "ports": [{"port": 80, "targetPort": "web"}], **spec}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def pod(name, app, ip, *, namespace="shop", ready="True", phase="Running", port=8080, **spec):
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {"containers": [{"ports": [{"name": "web", "containerPort": port}]}], **spec},
        "status": {"phase": phase, "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
    }


def cluster(services, pods=()):
    return ClusterServices(services, Endpoints.of(pods), IPv4Network("127.77.128.0/17"), API)


def test_a_service_has_its_short_name_in_its_own_namespace_alone():
    found = cluster([service("db")])
    qualified = "127.77.128.5\tdb.shop.svc.cluster.local db.shop.svc db.shop"
    assert found.hosts("shop") == [f"{qualified} db"]
    assert found.hosts("other") == [qualified]


def test_a_headless_service_is_named_by_the_addresses_of_its_ready_pods():
    pods = [
        pod("db-0", "db", "127.77.0.2", hostname="db-0", subdomain="db"),
        pod("db-1", "db", "127.77.0.3", hostname="db-1", subdomain="db", ready="False"),
    ]
    assert cluster([service("db", address="None")], pods).hosts("other") == [
        "127.77.0.2\tdb.shop.svc.cluster.local db.shop.svc db.shop",
        "127.77.0.2\tdb-0.db.shop.svc.cluster.local db-0.db.shop.svc db-0.db.shop",
    ]
    peers = cluster([service("db", address="None", publishNotReadyAddresses=True)], pods)
    assert [line.split()[0] for line in peers.hosts("other")] == ["127.77.0.2"] * 2 + ["127.77.0.3"] * 2


@pytest.mark.parametrize(
    "strange",
    [
        service("db", address="240.77.0.9"),
        service("db", address="fd00::1"),
        service("db", address="", type="ExternalName", externalName="db.example.com"),
    ],
    ids=["of an earlier network", "of another family", "external"],
)
def test_a_service_without_an_address_here_has_no_name(strange):
    found = cluster([strange], [pod("db-0", "db", "127.77.0.2")])
    assert (found.hosts("shop"), found.listeners()) == ([], {})


def test_a_port_leads_to_the_ready_pods_of_its_namespace_by_the_port_that_each_names():
    pods = [
        pod("db-0", "db", "127.77.0.2"),
        pod("db-1", "db", "127.77.0.3", port=9090),
        pod("db-2", "db", "127.77.0.4", ready="False"),
        pod("db-3", "db", "127.77.0.5", phase="Succeeded"),
        pod("db-4", "db", "127.77.0.6", namespace="other"),
        pod("web-0", "web", "127.77.0.7"),
    ]
    assert cluster([service("db")], pods).listeners() == {
        ("127.77.128.5", 80): (("127.77.0.2", 8080), ("127.77.0.3", 9090))
    }


def test_a_port_that_leads_nowhere_is_not_listened_on():
    assert cluster([service("db")]).listeners() == {}
    udp = service("db", ports=[{"port": 53, "protocol": "UDP"}])
    assert cluster([udp], [pod("db-0", "db", "127.77.0.2")]).listeners() == {}


def test_the_service_of_the_api_server_leads_to_it():
    own = service("kubernetes", "default", "127.77.128.1", selector=None, ports=[{"port": 443, "targetPort": 6443}])
    assert cluster([own]).listeners() == {("127.77.128.1", 443): (("127.0.0.1", 6443),)}


@pytest.fixture
async def proxy():
    one = ServiceProxy()
    yield one
    one.close()


@pytest.fixture
async def pods():
    """Starts a server that answers with its name and what it was sent; returns where."""
    servers = []

    async def start(name):
        async def answer(reader, writer):
            writer.write(name.encode() + await reader.read())
            writer.close()

        servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
        return servers[-1].sockets[0].getsockname()

    yield start
    for server in servers:
        server.close()


ADDRESS = ("127.126.255.7", 20_099)
"""No laptop cloud gives this one out before thousands of Services exist."""


async def ask(text=b""):
    reader, writer = await asyncio.open_connection(*ADDRESS)
    writer.write(text)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return answer


async def test_connections_go_to_each_target_in_turn_and_both_ways(proxy, pods):
    await proxy.update({ADDRESS: (await pods("one"), await pods("two"))})
    assert [await ask(b"!") for _ in range(3)] == [b"one!", b"two!", b"one!"]


async def test_a_target_that_refuses_is_passed_over(proxy, pods):
    await proxy.update({ADDRESS: (("127.0.0.1", 1), await pods("two"))})
    assert [await ask() for _ in range(2)] == [b"two", b"two"]


async def test_targets_follow_the_cluster(proxy, pods):
    await proxy.update({ADDRESS: (await pods("one"),)})
    await proxy.update({ADDRESS: (await pods("two"),)})
    assert await ask() == b"two"
    await proxy.update({})
    with pytest.raises(ConnectionRefusedError):
        await ask()


async def test_an_address_that_the_kernel_refuses_is_reported_once(proxy):
    foreign = ("192.0.2.1", 80)
    assert set(await proxy.update({foreign: (("127.0.0.1", 1),)})) == {foreign}
    assert await proxy.update({foreign: (("127.0.0.1", 1),)}) == {}
