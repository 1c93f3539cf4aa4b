"""How fast a served model answers, against the usual ways to serve it. Prints JSON; nothing is asserted but answers.

    .venv/bin/python benchmarks/serving.py [--seconds 3] [--rounds 1] [--only base,modelworks] [--mlserver]

One worker on the first core; the load comes from the others. modelworks has everything on that an environment has on:
logs, metrics, trace context, prediction log. `base` is FastAPI with scikit-learn in its thread pool, `fastapi-onnx` an
async FastAPI route around ONNX Runtime, `mlserver-onnx` MLServer with a runtime class of the same kind, installed into
an environment of its own in the user's cache on request. They are in `parts/`. Ratios are to the base of the same run;
of several rounds, in which the servers take turns, the middle one counts. `overload` offers modelworks three times and
ten times what it can do, with models whose calls take 0.03, 5, 25 and 60 ms, in requests of one row, of a hundred, and
of both sizes at once; its ratios are to the capacity that the same run found. `flood` has 32 clients for ten times as
long and every answer logged: memory of server and publisher. `batches` has 8 clients with 1,000 rows a request, in JSON
and as Arrow IPC streams. `strangers` has clients that hold what they can, and next to them eight good ones.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from modelworks import contract  # noqa: E402
from parts.load import load  # noqa: E402
from parts.slow import slowed  # noqa: E402
from runtime.example_bundle import CARRIERS, Example, build, rows  # noqa: E402

MLSERVER = ("mlserver==1.7.1", "onnxruntime>=1.22")
POINTS = {
    "1_row_1_client": (1, 1),
    "1_row_8_clients": (1, 8),
    "1_row_32_clients": (1, 32),
    "100_rows_32_clients": (100, 32),
}
"""Rows of a request, and clients that each send the next request after the last answer."""
OVERLOAD = (3, 10)
CONNECTIONS = 256
"""Of an overload: far more than the server can answer within its queue."""
CALL_MS = (0.03, 5, 25, 60)
"""Milliseconds that a call of one row takes, of the models that are overloaded. The first is the example as it is; the
others take twice as long for a hundred rows."""
SMALL_SHARE = 0.1
"""Of what the server can do, in requests of one row next to too many large ones."""
LARGE_ROWS = {0.03: 1000}
"""Of a large request next to small ones; 100 for models that are not named here."""
HEAD = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\n"
BATCH = (1000, 8)
"""Rows of a request, and clients, for `batches`."""
ARROW = "application/vnd.apache.arrow.stream"
STRANGERS = {
    "none": (0, b""),
    "5000_idle": (5000, b""),
    "600_slow_bodies": (600, HEAD + b"content-length: 1000000\r\n\r\n" + b"x" * 500_000),
    "600_trailers_without_end": (600, HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 4000),
}
"""How many connections, and the part of a request that each of them sends."""

Rows = list[dict[str, Any]]


def named(asked: Rows) -> dict[str, Any]:
    """Rows as our contract has them."""
    return {"rows": asked}


def tensor(asked: Rows) -> dict[str, Any]:
    """Rows as the open inference protocol has them: the client must have their order and codes."""
    names = [f"x{number}" for number in range(14)]
    data = [[*(row[name] for name in names), CARRIERS.index(row["carrier"])] for row in asked]
    return {"inputs": [{"name": "X", "shape": [len(data), 15], "datatype": "FP32", "data": data}]}


@dataclass(frozen=True)
class Server:
    """One way to serve the model."""

    argv: list[str]
    port: int
    environ: dict[str, str] = field(default_factory=dict)
    route: str = "/v1/predict"
    ready: str = "/readyz"
    body: Callable[[Rows], dict[str, Any]] = named
    scores: Callable[[Any], list[float]] = lambda answer: [each["score"] for each in answer["predictions"]]

    def request(self, asked: Rows) -> bytes:
        """A predict request as a plain client sends it."""
        return self.wire(json.dumps(self.body(asked)).encode(), "content-type: application/json")

    def arrow_request(self, asked: Rows) -> bytes:
        """The same as an Arrow IPC stream, answered as one."""
        import pyarrow as pa

        batch = pa.RecordBatch.from_pylist(asked)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return self.wire(sink.getvalue().to_pybytes(), f"content-type: {ARROW}\r\naccept: {ARROW}")

    def wire(self, body: bytes, headers: str) -> bytes:
        """A request with this body."""
        return (
            b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: load\r\n%b\r\n"
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
            b"content-length: %d\r\n\r\n%b" % (self.route.encode(), headers.encode(), len(body), body)
        )


def main() -> None:
    """Run the requested benchmarks and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=1, help="how often each server is measured")
    parser.add_argument("--only", default="base,fastapi-onnx,modelworks,overload", help="comma-separated")
    parser.add_argument("--mlserver", action="store_true", help="measure MLServer too; installs it once")
    parser.add_argument("--sample", default="1", help="share of requests in the prediction log")
    args = parser.parse_args()
    wanted = [*args.only.split(","), *(["mlserver-onnx"] if args.mlserver else [])]
    folder = Path(tempfile.mkdtemp(prefix="modelworks-bench-"))
    try:
        example = build(folder)
        with emulated_aws(folder) as aws:
            servers = servers_of(folder, example, aws, args.sample, mlserver=args.mlserver)
            print(json.dumps(_results(args, servers, example, folder, wanted), indent=2))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _results(
    args: argparse.Namespace, servers: dict[str, Server], example: Example, folder: Path, wanted: list[str]
) -> dict[str, Any]:
    results: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "seconds": args.seconds,
        "rounds": args.rounds,
        "prediction_log_sample": float(args.sample),
    }
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in servers if name in wanted}
    for _ in range(args.rounds):
        for name, rounds in measured.items():
            server = servers[name]
            log = folder / f"{name}.log"
            with running(server, log) as (pid, start):
                rounds.append({"start_seconds": round(start, 2), **measure(server, pid, example, args.seconds)})
                if name == "modelworks":
                    ready = json.loads(next(text for text in log.read_text().splitlines() if '"ready"' in text))
                    rounds[-1]["bundle_to_ready_seconds"] = ready["ready_seconds"]
    for name, rounds in measured.items():
        results[name] = {key: middle([each[key] for each in rounds]) for key in rounds[0]}
        if "base" in results:
            results[name]["rps_to_base"] = {
                point: round(results[name][point]["rps"] / results["base"][point]["rps"], 1) for point in POINTS
            }
            results[name]["cpu_to_base"] = {
                point: round(results["base"][point]["cpu_us"] / results[name][point]["cpu_us"], 1) for point in POINTS
            }
    ours = servers["modelworks"]
    if "overload" in wanted:
        results["overload"] = {
            f"{call_ms:g}_ms": _overloads(_slower(ours, example, folder, call_ms), folder, call_ms, args.seconds)
            for call_ms in CALL_MS
        }
    if "batches" in wanted:
        with running(ours, folder / "batches.log") as (pid, _start):
            results["batches"] = _batches(ours, pid, args.seconds)
    if "flood" in wanted:
        with running(ours, folder / "flood.log") as (pid, _start):
            results["flood"] = _flood(ours, pid, 10 * args.seconds)
    if "strangers" in wanted:
        results["strangers"] = {}
        for name, (count, sent) in STRANGERS.items():
            with running(ours, folder / f"{name}.log") as (pid, _start):
                results["strangers"][name] = _beside(ours, pid, count, sent, args.seconds)
    return results


def _batches(server: Server, pid: int, seconds: float) -> dict[str, Any]:
    """Rows a second in JSON and as Arrow IPC streams, and the processor time of a row."""
    count, clients = BATCH
    found: dict[str, Any] = {}
    for name, request in (("json", server.request(rows(count))), ("arrow", server.arrow_request(rows(count)))):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as first:
            first.sendall(request)  # the first one loads pyarrow
            first.recv(1)
        before = cpu_seconds(pid)
        done = load(server.port, request, clients, seconds, others())
        cpu = 1e6 * (cpu_seconds(pid) - before) / max(1, done["good"] * count)
        good = done["by_status"].get("200", {"rps": 0})
        found[name] = {**good, "rows_per_second": count * good["rps"], "cpu_us_per_row": round(cpu, 2)}
    found["arrow_to_json"] = round(found["arrow"]["rows_per_second"] / max(1, found["json"]["rows_per_second"]), 1)
    return found


def _flood(server: Server, pid: int, seconds: float) -> dict[str, Any]:
    """The most memory of a server and its publisher while every answer is logged, and what was lost."""
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load, server.port, server.request(rows(1)), 32, seconds, others())
        most = memory_mb(pid)
        while not loading.done():
            time.sleep(0.1)
            found = memory_mb(pid)
            most = {name: max(most[name], found[name]) for name in most}
    page = get(server, "/metrics")
    lost = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if "log_dropped_total{" in line}
    return {"rps": loading.result()["by_status"]["200"]["rps"], "memory_mb": most, "rows_lost": lost}


def _beside(server: Server, pid: int, count: int, sent: bytes, seconds: float) -> dict[str, Any]:
    """Eight good clients next to strangers: their answers, the slowest probe and the memory."""
    strangers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for each in strangers:
        each.setblocking(False)
        with contextlib.suppress(OSError):  # what is refused may be closed already
            each.send(sent)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load, server.port, server.request(rows(1)), 8, seconds, others())
        slowest, most = 0.0, memory_mb(pid)
        while not loading.done():
            began = time.perf_counter()
            get(server, "/readyz")
            slowest = max(slowest, time.perf_counter() - began)
            found = memory_mb(pid)
            most = {name: max(most[name], found[name]) for name in most}
            time.sleep(0.05)
    for each in strangers:
        each.close()
    return {"by_status": loading.result()["by_status"], "slowest_probe_ms": round(1000 * slowest, 1), "memory_mb": most}


def get(server: Server, path: str) -> str:
    """A page of the server."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"{path} is answered with {response.status}")
    return text


def measure(server: Server, pid: int, example: Example, seconds: float) -> dict[str, Any]:
    """Every point of `POINTS`, once the server has answered as the model does."""
    check(server, example)
    load(server.port, server.request(rows(1)), 8, 0.5, others())

    def point(count: int, clients: int) -> dict[str, Any]:
        before = cpu_seconds(pid)
        found = load(server.port, server.request(rows(count)), clients, seconds, others())
        cpu = 1e6 * (cpu_seconds(pid) - before) / max(1, found["good"])
        refused = {status: said["rps"] for status, said in found["by_status"].items() if status != "200"}
        good = found["by_status"].get("200", {"rps": 0})
        return {**good, "cpu_us": round(cpu, 1), **({"refused_rps": refused} if refused else {})}

    return {**{name: point(*what) for name, what in POINTS.items()}, "memory_mb": memory_mb(pid)}


def check(server: Server, example: Example) -> None:
    """The server answers as the model does."""
    asked = rows(50, seed=9)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = json.dumps(server.body(asked))
    connection.request("POST", server.route, body, {"content-type": "application/json"})
    scores = server.scores(json.loads(connection.getresponse().read()))
    connection.close()
    expected = example.model.predict_proba(example.matrix(asked))[:, 1].tolist()
    worst = max(abs(a - b) for a, b in zip(scores, expected, strict=True))
    if worst > 1e-5:
        raise SystemExit(f"wrong answers: off by {worst}")


def _slower(server: Server, example: Example, folder: Path, call_ms: float) -> Server:
    """The server of a model whose calls take so long."""
    if call_ms == CALL_MS[0]:
        return server
    slow = slowed(example, folder / f"{call_ms:g}-ms", call_ms / 1000)
    bundle = {contract.ENV_BUNDLE_URI: str(slow.archive), contract.ENV_BUNDLE_DIGEST: slow.digest}
    return replace(server, environ={**server.environ, **bundle})


def _overloads(server: Server, folder: Path, call_ms: float, seconds: float) -> dict[str, Any]:
    """One model under too many requests of one size, and of two."""
    with running(server, folder / f"overload-{call_ms:g}.log"):
        found: dict[str, Any] = {}
        capacities: dict[int, float] = {}
        large = LARGE_ROWS.get(call_ms, 100)
        for count in sorted({1, 100, large}):
            capacities[count] = _capacity(server, count, seconds)
            if count <= 100:
                found[f"{count}_row{'s' * (count > 1)}"] = {
                    f"{times}x": _overload(server, count, times * capacities[count], capacities[count], seconds)
                    for times in OVERLOAD
                }
        found[f"1_row_beside_{large}_rows"] = {
            f"{times}x": _mixed(server, large, times, capacities, seconds) for times in OVERLOAD
        }
        return found


def _capacity(server: Server, count: int, seconds: float) -> float:
    """Requests a second of so many rows that are answered: with few clients or many, whatever is more."""
    request = server.request(rows(count))
    load(server.port, request, 32, 1, others())
    found = [load(server.port, request, clients, seconds, others(), spins=True) for clients in (32, 128)]
    capacity = max(float(each["by_status"].get("200", {"rps": 0})["rps"]) for each in found)
    if not capacity:
        raise SystemExit(f"no request of {count} rows was answered within {seconds:g} seconds; give more --seconds")
    return capacity


def _overload(server: Server, count: int, rate: float, capacity: float, seconds: float) -> dict[str, Any]:
    """The answers to so many requests a second."""
    found = load(server.port, server.request(rows(count)), CONNECTIONS, seconds, others(), rate=rate)["by_status"]
    return {"capacity_rps": capacity, **_ratios(found, capacity), "by_status": found}


def _mixed(server: Server, large: int, times: int, capacities: dict[int, float], seconds: float) -> dict[str, Any]:
    """The answers to too many large requests, and to a few of one row next to them."""
    few = SMALL_SHARE * capacities[1]
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_overload, server, large, times * capacities[large], capacities[large], seconds)
        small = _overload(server, 1, few, few, seconds)
        many = loading.result()
    answered = small["goodput_to_capacity"] * SMALL_SHARE + many["goodput_to_capacity"]
    return {
        "goodput_to_capacity": round(answered, 2),
        "small_lost": round(1 - small["goodput_to_capacity"] / max(0.01, small["offered_to_capacity"]), 3),
        "refused_p99_ms": many["refused_p99_ms"],
        "server_errors": small["server_errors"] + many["server_errors"],
        "small": small["by_status"],
        "large": many["by_status"],
    }


def _ratios(found: dict[str, Any], capacity: float) -> dict[str, Any]:
    """Offered and answered requests as shares of the capacity, and the time of a refusal."""
    return {
        "offered_to_capacity": round(sum(each["rps"] for each in found.values()) / capacity, 2),
        "goodput_to_capacity": round(found.get("200", {"rps": 0})["rps"] / capacity, 2),
        "refused_p99_ms": found.get("429", {"p99_ms": 0.0})["p99_ms"],
        "server_errors": sum(each["rps"] for status, each in found.items() if status >= "500"),
    }


def middle(values: list[Any]) -> Any:
    """The value of the middle round; of several numbers each by itself."""
    if isinstance(values[0], dict):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: middle([value[key] for value in values if key in value]) for key in keys}
    return sorted(values)[len(values) // 2]


# -- Servers ---------------------------------------------------------------------------------------------------------
def servers_of(
    folder: Path, example: Example, aws: dict[str, str], sample: str, *, mlserver: bool
) -> dict[str, Server]:
    """The ways to serve the model, by name."""
    import skops.io  # brings scikit-learn, which takes a second

    scikit, onnx = folder / "model.skops", folder / "model.onnx"
    skops.io.dump(example.model, scikit)
    with tarfile.open(example.archive) as bento:
        member = bento.extractfile("src/model.onnx")
        onnx.write_bytes(member.read() if member else b"")
    ports = [free_port() for _ in range(4)]
    servers = {
        "base": Server([sys.executable, str(HERE / "parts/fastapi_scikit.py"), str(ports[0]), str(scikit)], ports[0]),
        "fastapi-onnx": Server(
            [sys.executable, str(HERE / "parts/fastapi_onnx.py"), str(ports[1]), str(onnx)], ports[1]
        ),
        "modelworks": Server(
            [sys.executable, "-m", "modelworks.runtime.serve"],
            ports[2],
            environ={
                **aws,
                contract.ENV_BUNDLE_URI: str(example.archive),
                contract.ENV_BUNDLE_DIGEST: example.digest,
                contract.ENV_MODEL: "delays",
                contract.ENV_ALLOW_ANONYMOUS: "true",
                contract.ENV_METRICS_SECONDS: "5",
                contract.ENV_PREDICTION_LOG: "s3://bench/predictions",
                contract.ENV_PREDICTION_LOG_SAMPLE: sample,
                contract.ENV_PREDICTION_LOG_SECONDS: "5",
                contract.ENV_PORT: str(ports[2]),
                contract.ENV_DRAIN_SECONDS: "0",
            },
        ),
    }
    if mlserver:
        servers["mlserver-onnx"] = _mlserver(folder / "mlserver", onnx, ports[3])
    return servers


def _mlserver(folder: Path, onnx: Path, port: int) -> Server:
    """MLServer, without worker processes of its own: they would only add to what one core has to do."""
    (folder / "delays").mkdir(parents=True)
    shutil.copy(HERE / "parts/mlserver_onnx.py", folder)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings |= {"parallel_workers": 0, "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "delays", "implementation": "mlserver_onnx.OnnxModel", "parameters": {"uri": str(onnx)}}
    (folder / "delays/model-settings.json").write_text(json.dumps(model))
    executables = mlserver_environment() / "bin"
    return Server(
        [str(executables / "python"), str(executables / "mlserver"), "start", str(folder)],
        port,
        environ={"PYTHONPATH": str(folder)},
        route="/v2/models/delays/infer",
        ready="/v2/health/ready",
        body=tensor,
        scores=lambda answer: answer["outputs"][0]["data"],
    )


def mlserver_environment() -> Path:
    """A Python environment with MLServer, made when it is not there. Its pins and ours do not go together."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelworks/benchmarks"
    made = cache / MLSERVER[0].replace("==", "-")
    if not (made / "bin/mlserver").exists():
        print(f"installing {', '.join(MLSERVER)} into {made}", file=sys.stderr)
        uv = str(HERE.parent / ".uv/bin/uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(made)], check=True)
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(made / "bin/python")]
        subprocess.run([*install, *MLSERVER], check=True)
    return made


@contextlib.contextmanager
def emulated_aws(folder: Path) -> Iterator[dict[str, str]]:
    """Where metrics and predictions go: by environment variables."""
    import boto3
    from botocore.exceptions import EndpointConnectionError

    port = free_port()
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    s3 = boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        region_name=environ["AWS_REGION"],
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )
    # It shares a core with the load, which must not wait for it.
    argv = ["nice", "-n", "19", str(Path(sys.executable).parent / "moto_server"), "-p", str(port)]
    with started(argv, others()[-1], {}, folder / "aws.log"):
        for attempt in range(150):
            try:
                s3.create_bucket(Bucket="bench", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
                break
            except EndpointConnectionError:  # it is still starting
                if attempt == 149:
                    raise
                time.sleep(0.2)
        yield environ


# -- Processes -------------------------------------------------------------------------------------------------------
def others() -> list[int]:
    """The cores that are not the server's; at most four, for more send no faster."""
    return sorted(os.sched_getaffinity(0))[1:5] or sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def running(server: Server, log: Path) -> Iterator[tuple[int, float]]:
    """A server on the first core, once it is ready: its pid and the seconds until then."""
    core = min(os.sched_getaffinity(0))
    with started(server.argv, core, server.environ, log) as process:
        began = time.perf_counter()
        while not is_ready(server):
            if process.poll() is not None or time.perf_counter() - began > 60:
                raise SystemExit(f"{server.argv} did not come up:\n{log.read_text()[-2000:]}")
            time.sleep(0.005)
        yield process.pid, time.perf_counter() - began


@contextlib.contextmanager
def started(argv: list[str], core: int, environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process pinned to `core`, and its end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *argv], env={**os.environ, **environ}, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(server: Server) -> bool:
    """Whether the server answers its readiness probe."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=2)
    try:
        connection.request("GET", server.ready)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all its children: what a request costs, however busy the machine is."""
    ticks = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all its children."""
    pids, found = [pid], [pid]
    while pids:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pids.pop()}/task").glob("*/children")
            pids += (new := [int(child) for path in children for child in path.read_text().split()])
            found += new
    return found


def memory_mb(pid: int) -> dict[str, int]:
    """Resident and proportional memory of a process and all its children."""
    found = family(pid)
    totals = {"rss": 0, "pss": 0}
    for each in found:
        with contextlib.suppress(OSError):
            for text in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                name = text.split(":")[0].lower()
                if name in totals:
                    totals[name] += int(text.split()[1])
    return {name: kib // 1024 for name, kib in totals.items()} | {"processes": len(found)}


if __name__ == "__main__":
    main()
