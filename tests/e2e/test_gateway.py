"""The gateway's Caddy with pods of our own: small HTTP servers on loopback addresses, as the node agent gives them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest

from modelworks import contract
from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop import toolchain
from modelworks.laptop.environments import free_range
from modelworks.laptop.gateway import caddy
from modelworks.laptop.state_dir import StateDir
from modelworks.runtime.server import v2_messages
from runtime import test_v2_grpc as serving
from waiting import PATIENCE, eventually, eventually_async

pytestmark = pytest.mark.e2e


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pod:
    """A server that answers with its name, and keeps what it was asked."""

    def __init__(self, name: str, address: str, *, delay: float = 0.0) -> None:
        self.name, self.delay, self.asked = name, delay, []
        self.host, self.port = address, 0
        self.server: asyncio.Server | None = None
        self.connections: set[asyncio.StreamWriter] = set()
        self.read = asyncio.Semaphore(0)
        """Released for each piece of `/stream-as-read` that its client has, and for each answer to `/held`."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> Pod:
        self.server = await asyncio.start_server(self.serve, self.host, self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Like a graceful server: no new connection, idle ones closed."""
        self.server.close()
        for writer in list(self.connections):
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self.answer(reader, writer)
        finally:
            self.connections.discard(writer)
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")),
                0,
            )
            chunked = "transfer-encoding: chunked" in head.lower()
            body = await (reader.readuntil(b"0\r\n\r\n") if chunked else reader.readexactly(length))
            self.asked.append((head, body))
            if "/hang-up" in head:
                break
            if "/moved-to?" in head:
                target = head.split("/moved-to?")[1].split(" ")[0]
                writer.write(f"HTTP/1.1 307 Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
                continue
            if "/stream" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for number in range(3):
                    writer.write(b"2\r\n%d\n\r\n" % number)
                    await writer.drain()
                    await (self.read.acquire() if "/stream-as-read" in head else asyncio.sleep(0.3))
                writer.write(b"0\r\n\r\n")
                continue
            await (self.read.acquire() if "/held" in head else asyncio.sleep(self.delay))
            answer = self.name.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            await writer.drain()


class Running:
    """Caddy, running in a place of its own."""

    def __init__(self, place: StateDir) -> None:
        self.place, self.port, self.tls_port = place, free_port(), free_port()
        self.host_ports = free_range(3, range(32_000, 32_700))  # where no laptop cloud takes any
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = caddy.caddy_argv(
            self.place, self.port, self.tls_port, toolchain.ensure(["caddy"])["caddy"], self.host_ports
        )
        self.place.folder(caddy.admin_socket(self.place).parent)
        with (self.place.root / "caddy.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, env={**os.environ, "HOME": str(self.place.root)}
            )
        eventually(self.listens)

    def listens(self) -> bool:
        assert self.process.poll() is None, (self.place.root / "caddy.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE):
            return True
        return False

    async def routes(
        self,
        *routes: dict[str, object],
        host: str = "model.localhost",
        tls: tuple[str, ...] = (),
        ports: dict[str, int] | None = None,
        strict: bool = False,
    ) -> None:
        hosts, ports = {host: list(routes)}, ports or {host: self.host_ports[0]}
        table = json.dumps({"hosts": hosts, "tls": tls, "ports": ports, "strict": strict})
        write_whole(caddy.table_path(self.place), table)
        await caddy.put_table(caddy.admin_socket(self.place), table)

    def client(self, **more: object) -> httpx.AsyncClient:
        headers = {"Host": "model.localhost"}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, trust_env=False, **more)

    def own(self, number: int = 0) -> httpx.AsyncClient:
        """A client of one host's own port, which says nothing of a name."""
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.host_ports[number]}", trust_env=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    gateway = Running(StateDir(tmp_path_factory.mktemp("place")))
    gateway.start()
    yield gateway
    gateway.process.kill()
    gateway.process.wait()


@pytest.fixture
async def pods():
    network = f"127.{100 + os.getpid() % 27}.251"
    started: list[Pod] = []

    async def start(name: str, **more: float) -> Pod:
        pod = await Pod(name, f"{network}.{len(started) + 1}", **more).start()
        started.append(pod)
        return pod

    yield start
    for pod in started:
        await pod.stop()
    await eventually_async(lambda: not any(pod.connections for pod in started))


def forward(*backends: tuple[int, list[Pod]], **more: object) -> dict[str, object]:
    targets = [{"weight": weight, "pods": [pod.address for pod in pods]} for weight, pods in backends]
    return {"prefix": "/", "backends": targets, **more}


async def test_weights_hold_between_services_however_many_pods_each_has(running, pods):
    stable = [await pods(f"stable-{number}") for number in range(3)]
    canary = [await pods("canary")]
    await running.routes(forward((95, stable), (5, canary)))
    async with running.client() as client:
        answers = Counter([(await client.get("/")).text for _ in range(400)])
    assert answers["canary"] == 20
    assert max(answers[pod.name] for pod in stable) - min(answers[pod.name] for pod in stable) <= 2


async def test_a_weight_of_zero_gets_nothing(running, pods):
    stable, canary = await pods("stable"), await pods("canary")
    await running.routes(forward((100, [stable]), (0, [canary])))
    async with running.client() as client:
        assert {(await client.get("/")).text for _ in range(50)} == {"stable"}


async def test_a_service_without_ready_pods_leaves_its_share_to_the_others(running, pods):
    await running.routes(forward((50, [await pods("stable")]), (50, [])))
    async with running.client() as client:
        assert {(await client.get("/")).text for _ in range(50)} == {"stable"}


async def test_a_strict_gateway_answers_the_share_of_a_service_without_pods_as_aws_does(running, pods):
    await running.routes(forward((80, [await pods("stable")]), (20, [])), strict=True)
    async with running.client() as client:
        answers = Counter([(await client.get("/")).status_code for _ in range(200)])
    assert answers == {200: 160, 503: 40}


async def test_exact_paths_prefixes_and_patterns(running, pods):
    exact, prefix, pattern = await pods("exact"), await pods("prefix"), await pods("pattern")
    await running.routes(
        {**forward((1, [exact])), "exact": "/v1", "prefix": ""},
        {**forward((1, [pattern])), "pattern": "^/img/.*\\.png$", "prefix": ""},
        {**forward((1, [prefix])), "prefix": "/v1"},
    )
    async with running.client() as client:
        paths = ("/v1", "/v1/predict", "/img/a.png", "/v10", "/img/a.gif")
        answers = [await client.get(path) for path in paths]
    assert [answer.text for answer in answers[:3]] == ["exact", "prefix", "pattern"]
    assert [answer.status_code for answer in answers[3:]] == [404, 404]


async def test_an_unknown_host_is_answered_as_json(running, pods):
    await running.routes(forward((1, [await pods("a")])))
    async with running.client() as client:
        answer = await client.get("/", headers={"Host": "nobody.localhost"})
    assert answer.status_code == 404
    assert "nobody.localhost" in answer.json()["error"]["message"]


async def test_a_route_without_pods_answers_503_and_when_to_come_back(running):
    await running.routes(forward((1, [])))
    async with running.client() as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["message"] == "no ready pod"


async def test_a_post_moves_on_from_a_pod_that_refuses_connections(running, pods):
    dead, alive = await pods("dead"), await pods("alive")
    await dead.stop()
    await running.routes(forward((1, [dead, alive])))
    async with running.client() as client:
        answers = [await client.post("/predict", content=b"x" * 5000) for _ in range(20)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "alive")}
    assert {body for _, body in alive.asked} == {b"x" * 5000}


async def test_a_post_that_may_have_been_executed_is_never_sent_twice(running, pods):
    first, second = await pods("first"), await pods("second")
    await running.routes(forward((1, [first, second])))
    async with running.client() as client:
        answer = await client.post("/hang-up", content=b"once")
    assert answer.status_code == 502
    assert "may have been executed" in answer.json()["error"]["message"]
    assert len(first.asked) + len(second.asked) == 1


async def test_a_get_that_got_no_answer_is_tried_elsewhere(running, pods):
    first, second = await pods("first"), await pods("second")
    await running.routes(forward((1, [first, second])))
    async with running.client() as client:
        await client.get("/hang-up")
    assert first.asked
    assert second.asked


async def test_a_stream_is_passed_on_as_it_comes(running, pods):
    pod = await pods("a")
    await running.routes(forward((1, [pod])))
    came = []
    async with running.client(timeout=PATIENCE) as client, client.stream("GET", "/stream-as-read") as answer:
        async for piece in answer.aiter_raw():
            came.append(piece)
            pod.read.release()
    assert came == [b"0\n", b"1\n", b"2\n"]


async def test_a_body_beyond_the_limit_is_refused_with_413(running, pods):
    await running.routes(forward((1, [await pods("a")]), max_body_bytes=1000))

    async def unannounced():
        for _ in range(20):
            yield b"x" * 100

    async with running.client() as client:
        announced = await client.post("/", content=b"x" * 1001)
        chunked = await client.post("/", content=unannounced())
        within = await client.post("/", content=b"x" * 1000)
    assert [announced.status_code, chunked.status_code, within.status_code] == [413, 413, 200]


async def test_a_pod_that_does_not_begin_to_answer_in_time_is_a_504(running, pods):
    await running.routes(forward((1, [await pods("slow", delay=5)]), timeout_ms=200))
    async with running.client() as client:
        answer = await client.get("/")
    assert answer.status_code == 504
    assert answer.json()["error"]["message"] == "no answer within 200 ms"


async def test_a_stream_may_last_longer_than_the_time_limit(running, pods):
    await running.routes(forward((1, [await pods("a")]), timeout_ms=200))
    async with running.client() as client:
        assert (await client.get("/stream")).text == "0\n1\n2\n"


async def test_http2_without_tls_reaches_the_gateway(running, pods):
    await running.routes(forward((1, [await pods("a")])))
    answer = await asyncio.create_subprocess_exec(
        *("curl", "-s", "--http2-prior-knowledge", "-w", " %{http_version}"),
        *("-H", "Host: model.localhost", f"http://127.0.0.1:{running.port}/"),
        stdout=subprocess.PIPE,
    )
    assert await answer.stdout.read() == b"a 2"
    await answer.wait()


async def curl(running: Running, host: str, *more: str) -> tuple[int, str]:
    """Ask over TLS, trusting nothing but the laptop's authority: exit code, and body with the protocol's version."""
    place = f"{host}:{running.tls_port}"
    done = await asyncio.create_subprocess_exec(
        *("curl", "-s", "--noproxy", "*", "--cacert", str(running.place.gateway_authority)),
        *("--resolve", f"{place}:127.0.0.1", "-w", " %{http_version}", *more, f"https://{place}/"),
        stdout=subprocess.PIPE,
    )
    shown, _ = await done.communicate()
    return done.returncode, shown.decode()


async def test_tls_is_spoken_in_both_versions_of_http_with_a_certificate_of_the_laptops_authority(running, pods):
    await running.routes(forward((1, [await pods("a")])), tls=("model.localhost",))
    assert await curl(running, "model.localhost") == (0, "a 2")
    assert await curl(running, "model.localhost", "--http1.1") == (0, "a 1.1")
    async with running.client() as client:
        assert (await client.get("/")).text == "a"  # the plain port stays


async def test_no_host_gets_a_certificate_that_does_not_ask_for_one(running, pods):
    await running.routes(forward((1, [await pods("a")])), host="plain.localhost", tls=("*.apart.localhost",))
    handshake_failed = 35
    assert (await curl(running, "plain.localhost"))[0] == handshake_failed
    assert await curl(running, "one.apart.localhost", "-o", "/dev/null") == (0, " 2")


async def test_h2c_is_spoken_to_pods_that_ask_for_it(running):
    second = Running(StateDir(running.place.root / "second"))
    second.start()
    try:
        # Another Caddy is the pod: it speaks HTTP/2 without TLS, and says which protocol it was asked in.
        await second.routes({"prefix": "/", "fixed": {"status": 200, "body": "from h2c"}}, host="model.localhost")
        await running.routes(
            {"prefix": "/", "protocol": "h2c", "backends": [{"weight": 1, "pods": [f"127.0.0.1:{second.port}"]}]}
        )
        async with running.client() as client:
            assert (await client.get("/")).text == "from h2c"
        async with running.own() as client:
            assert (await client.get("/")).text == "from h2c"
    finally:
        second.process.kill()
        second.process.wait()


async def test_a_grpc_client_has_bit_for_bit_what_the_json_api_answers(running, tmp_path):
    await asyncio.to_thread(_compare_protocols, running, serving.build(tmp_path))


def _compare_protocols(gateway: Running, app: object) -> None:
    row = {"price": 1 / 3, "day": 1, "seats": 2, "paid": True, "kind": "a"}
    with serving.running(app, one_port=True) as pod:
        backends = [{"weight": 1, "pods": [f"127.0.0.1:{pod.http_port}"]}]
        grpc_paths = f"/{contract.GRPC_SERVICE}"
        asyncio.run(
            gateway.routes(
                {"prefix": grpc_paths, "protocol": "h2c", "backends": backends}, {"prefix": "/", "backends": backends}
            )
        )
        for port, authority in ((gateway.port, "model.localhost"), (gateway.host_ports[0], "localhost")):
            expected = httpx.post(
                f"http://127.0.0.1:{port}/v1/predict", json=row, headers={"Host": authority}, trust_env=False
            ).json()
            client = serving.Client(port, authority)
            answered = serving.outputs(client.call("ModelInfer", serving.typed([tuple(row.values())])))
            assert [each.hex() for each in answered["score"]] == [
                each["score"].hex() for each in expected["predictions"]
            ]
            # Refusals pass as well, each time: their code and text are headers that end the stream.
            refusals = {
                client.refusal("ModelInfer", v2_messages.ModelInferRequest(model_name="other")) for _ in range(200)
            }
            assert {(code, said[:28]) for code, said in refusals} == {("NOT_FOUND", "there is no such model or ve")}


# -- A port of its own -----------------------------------------------------------------------------------------------
def fields(pod: Pod) -> dict[str, str]:
    """The header of the last request that a pod got."""
    lines = pod.asked[-1][0].splitlines()[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}


async def test_a_host_is_reached_at_its_own_port_and_its_pods_see_its_name(running, pods):
    pod = await pods("a")
    await running.routes(forward((1, [pod])))
    async with running.own() as client:
        assert (await client.get("/v1")).text == "a"
    asked = fields(pod)
    assert (asked["host"], asked["x-forwarded-proto"]) == ("model.localhost", "http")
    assert asked["x-forwarded-host"] == f"127.0.0.1:{running.host_ports[0]}"
    assert asked["x-forwarded-for"] == "127.0.0.1"


async def test_at_the_port_of_all_hosts_pods_see_the_name_as_the_client_wrote_it(running, pods):
    pod = await pods("a")
    await running.routes(forward((1, [pod])))
    async with running.client() as client:
        await client.get("/", headers={"Host": "model.localhost:8080"})
    assert fields(pod)["host"] == "model.localhost:8080"


async def test_weights_hold_at_a_hosts_own_port_too(running, pods):
    await running.routes(forward((95, [await pods("stable")]), (5, [await pods("canary")])))
    async with running.own() as client:
        answers = Counter([(await client.get("/")).text for _ in range(200)])
    assert answers == {"stable": 190, "canary": 10}


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "model.localhost", "MODEL.localhost.", "model.localhost:1"])
async def test_a_request_at_a_hosts_own_port_may_name_the_host_or_loopback(running, pods, name):
    await running.routes(forward((1, [await pods("a")])))
    async with running.own() as client:
        assert (await client.get("/", headers={"Host": name})).text == "a"


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "other.localhost", "127.0.0.2", "[::1]"])
async def test_a_web_page_whose_name_was_made_to_lead_here_reaches_no_pod(running, pods, name):
    pod = await pods("a")
    await running.routes(forward((1, [pod])))
    async with running.own() as client:
        answer = await client.get("/", headers={"Host": name})
    assert answer.status_code == 421
    assert f'the port of model.localhost, not of "{name}"' in answer.json()["error"]["message"]
    assert pod.asked == []


async def test_a_port_that_no_host_has_leads_nowhere_and_one_whose_host_is_gone_neither(running, pods):
    ports = {"*": running.host_ports[0], "gone.localhost": running.host_ports[1]}
    await running.routes(forward((1, [await pods("any")])), host="*", ports=ports)
    for number in (1, 2):
        async with running.own(number) as client:
            answer = await client.get("/")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"127.0.0.1:{running.host_ports[number]} is no host's port"


async def test_a_redirect_to_the_host_itself_stays_at_its_own_port_and_others_are_passed_on(running, pods):
    await running.routes(forward((1, [await pods("a")])))
    here, elsewhere = "http://model.localhost/x?y=1", "https://example.com/"
    async with running.own() as client:
        moved = [(await client.get(f"/moved-to?{to}")).headers["location"] for to in (here, elsewhere, "/x")]
    assert moved == [f"http://127.0.0.1:{running.host_ports[0]}/x?y=1", elsewhere, "/x"]
    async with running.client() as client:
        assert (await client.get(f"/moved-to?{here}")).headers["location"] == here


async def test_http2_without_tls_is_spoken_at_a_hosts_own_port(running, pods):
    await running.routes(forward((1, [await pods("a")])))
    answer = await asyncio.create_subprocess_exec(
        *("curl", "-s", "--noproxy", "*", "--http2-prior-knowledge", "-w", " %{http_version}"),
        f"http://127.0.0.1:{running.host_ports[0]}/",
        stdout=subprocess.PIPE,
    )
    shown, _ = await answer.communicate()
    assert shown == b"a 2"


async def test_a_post_at_a_hosts_own_port_moves_on_from_a_pod_that_refuses_connections(running, pods):
    dead, alive = await pods("dead"), await pods("alive")
    await dead.stop()
    await running.routes(forward((1, [dead, alive])))
    async with running.own() as client:
        answers = [(await client.post("/", content=b"x")).text for _ in range(8)]
    assert answers == ["alive"] * 8
    assert fields(alive)["host"] == "model.localhost"


async def test_a_table_that_gives_two_hosts_one_port_is_refused(running, pods):
    table = {"hosts": {"a": [], "b": []}, "ports": dict.fromkeys(("a", "b"), running.host_ports[0])}
    with pytest.raises(ModelworksError, match="is given to two hosts"):
        await caddy.put_table(caddy.admin_socket(running.place), json.dumps(table))


async def test_requests_in_flight_finish_when_their_pod_leaves(running, pods):
    leaving, staying = await pods("leaving"), await pods("staying")
    await running.routes(forward((1, [leaving])))
    async with running.client() as client:
        in_flight = asyncio.create_task(client.post("/held", content=b"x", timeout=PATIENCE))
        await eventually_async(lambda: leaving.asked)
        await running.routes(forward((1, [staying])))
        assert (await client.get("/")).text == "staying"
        leaving.read.release()
        assert (await in_flight).text == "leaving"


async def test_no_request_is_lost_while_all_pods_are_replaced_again_and_again(running, pods):
    serving = [await pods("0-a"), await pods("0-b")]
    await running.routes(forward((1, serving)))
    answers: Counter[object] = Counter()
    done = asyncio.Event()

    async def ask(method: str) -> None:
        async with running.client(timeout=PATIENCE) as client:
            while not done.is_set():
                try:
                    answers[(await client.request(method, "/", content=b"hello")).status_code] += 1
                except httpx.HTTPError as error:
                    answers[repr(error)] += 1

    async def go_on() -> None:
        before = answers.total()
        await eventually_async(lambda: answers.total() >= before + 25)

    clients = [asyncio.create_task(ask(method)) for method in ("GET", "POST") * 8]
    for generation in range(1, 13):
        coming = [await pods(f"{generation}-a"), await pods(f"{generation}-b")]
        await running.routes(forward((10, coming), (90, serving)))
        await go_on()
        await running.routes(forward((1, coming)))
        await go_on()
        for pod in serving:
            await pod.stop()
        serving = coming
    done.set()
    await asyncio.gather(*clients)
    assert set(answers) == {200}
    assert answers[200] > 500


async def test_a_killed_caddy_comes_back_with_its_routes(running, pods):
    await running.routes(forward((1, [await pods("a")])))
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    running.start()
    async with running.client() as client, running.own() as other:
        assert [(await client.get("/")).text, (await other.get("/")).text] == ["a", "a"]


async def test_a_table_that_makes_no_sense_is_refused_and_the_old_one_holds(running, pods):
    await running.routes(forward((1, [await pods("a")])))
    with pytest.raises(Exception, match="refused the routes"):
        await caddy.put_table(caddy.admin_socket(running.place), '{"hosts": {"x": [{"pattern": "("}]}}')
    async with running.client() as client:
        assert (await client.get("/")).text == "a"


def test_only_the_user_may_reach_the_admin_api(running):
    assert Path(caddy.admin_socket(running.place)).stat().st_mode & 0o077 == 0
