"""How fast a served model answers, against the usual ways to serve it. Prints JSON; nothing is asserted but answers.

    .venv/bin/python benchmarks/serving.py [--seconds 3] [--only modelworks,base]

One worker on the first core, the load on the last. Everything is on that an environment has on: logs, metrics, trace
context, prediction log. The base is FastAPI with scikit-learn in its thread pool; `fastapi-onnx` is an async FastAPI
route around ONNX Runtime; both are written below, as people write them. Ratios are to the base of the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from modelworks import contract  # noqa: E402
from runtime.example_bundle import Example, build, rows  # noqa: E402

BASE = """
import sys, msgspec, numpy as np, skops.io
from typing import Literal
from fastapi import FastAPI
from pydantic import BaseModel, create_model, Field
import uvicorn
model = skops.io.load(sys.argv[2], trusted=skops.io.get_untrusted_types(file=sys.argv[2]))
CARRIERS = ["AA", "B6", "DL", "UA"]
fields = {f"x{i}": (float | None, Field(ge=-100, le=100)) for i in range(14)}
Row = create_model("Row", carrier=(Literal["AA", "B6", "DL", "UA"], ...), **fields)
Body = create_model("Body", rows=(list[Row], ...))
names = [f"x{i}" for i in range(14)]
app = FastAPI()
@app.get("/readyz")
def ready(): return "ok"
@app.post("/v1/predict")
def predict(body: Body):
    table = np.array([[*(getattr(r, n) for n in names), CARRIERS.index(r.carrier)] for r in body.rows], dtype=float)
    scores = model.predict_proba(table)[:, 1].tolist()
    return {"predictions": [{"label": "late" if s >= 0.5 else "on time", "score": s} for s in scores]}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""
ONNX = """
import sys, numpy as np, onnxruntime as ort
from typing import Literal
from fastapi import FastAPI
from pydantic import create_model, Field
import uvicorn
options = ort.SessionOptions(); options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
CARRIERS = ["AA", "B6", "DL", "UA"]
fields = {f"x{i}": (float | None, Field(ge=-100, le=100)) for i in range(14)}
Row = create_model("Row", carrier=(Literal["AA", "B6", "DL", "UA"], ...), **fields)
Body = create_model("Body", rows=(list[Row], ...))
names = [f"x{i}" for i in range(14)]
app = FastAPI()
@app.get("/readyz")
async def ready(): return "ok"
@app.post("/v1/predict")
async def predict(body: Body):
    rows = [[*(getattr(r, n) for n in names), CARRIERS.index(r.carrier)] for r in body.rows]
    table = np.array(rows, dtype=np.float32)
    scores = session.run(["probabilities"], {"X": table})[0][:, 1].tolist()
    return {"predictions": [{"label": "late" if s >= 0.5 else "on time", "score": s} for s in scores]}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], port: int, core: int, env: dict[str, str], log: Path) -> Iterator[tuple[int, float]]:
    """A server pinned to `core`, once it is ready; gives its pid and the seconds until then."""
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *argv], env={**os.environ, **env}, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        while not is_ready(port):
            if process.poll() is not None or time.perf_counter() - began > 60:
                raise SystemExit(f"{argv} did not come up:\n{log.read_text()[-2000:]}")
            time.sleep(0.005)
        yield process.pid, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_ready(port: int) -> bool:
    """Whether the server answers its readiness probe."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def request_bytes(body: bytes) -> bytes:
    """A predict request as a plain client sends it."""
    return (
        b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: load\r\ncontent-type: application/json\r\n"
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


def complete(answer: bytes) -> bool:
    """Whether an answer is all there."""
    head = answer.find(b"\r\n\r\n")
    if head < 0:
        return False
    start = answer.lower().find(b"content-length:", 0, head)
    return len(answer) >= head + 4 + int(answer[start + 15 : answer.index(b"\r\n", start)])


def closed_loop(port: int, request: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` connections, each of which asks again as soon as it was answered."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent: dict[int, float] = {}
    parts: dict[int, bytes] = {}
    clock = time.perf_counter
    for _ in range(clients):
        each = socket.create_connection(("127.0.0.1", port))
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[each.fileno()] = each
        poll.register(each, select.EPOLLIN)
    latencies: list[float] = []
    statuses: Counter[bytes] = Counter()
    total = 0
    for fd, each in sockets.items():
        sent[fd] = clock()
        each.sendall(request)
    began = clock()
    end = began + seconds
    counting = began + min(0.5, seconds / 4)
    while (now := clock()) < end:
        for fd, _ in poll.poll(1):
            answer = sockets[fd].recv(1 << 18)
            if not answer:
                raise SystemExit("the server hung up")
            if fd in parts:
                answer = parts.pop(fd) + answer
            if not complete(answer):
                parts[fd] = answer
                continue
            now = clock()
            total += 1
            if now > counting:
                latencies.append(now - sent[fd])
                statuses[answer[9:12]] += 1
            sent[fd] = now
            sockets[fd].sendall(request)
    for each in sockets.values():
        each.close()
    latencies.sort()
    return {
        "total": total,
        "rps": round(len(latencies) / (end - counting)),
        "p50_ms": round(1000 * statistics.median(latencies), 3),
        "p99_ms": round(1000 * latencies[int(0.99 * len(latencies))], 3),
        "statuses": {status.decode(): count for status, count in statuses.items()},
    }


def open_loop(port: int, request: bytes, rate: float, seconds: float, connections: int = 256) -> dict[str, Any]:
    """Requests at a fixed rate, whether answered or not, as far as `connections` and this machine allow."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent: dict[int, float] = {}
    parts: dict[int, bytes] = {}
    for _ in range(connections):
        each = socket.create_connection(("127.0.0.1", port))
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[each.fileno()] = each
        poll.register(each, select.EPOLLIN)
    free = list(sockets)
    by_status: dict[str, list[float]] = {}
    clock = time.perf_counter
    began = clock()
    issued = 0
    while (now := clock()) < began + seconds:
        due = int((now - began) * rate) - issued
        for _ in range(min(due, len(free), 64)):
            fd = free.pop()
            sent[fd] = clock()
            sockets[fd].sendall(request)
            issued += 1
        for fd, _ in poll.poll(0):
            answer = parts.pop(fd, b"") + sockets[fd].recv(1 << 18)
            if complete(answer):
                by_status.setdefault(answer[9:12].decode(), []).append(clock() - sent[fd])
                free.append(fd)
            else:
                parts[fd] = answer
    for each in sockets.values():
        each.close()
    return {
        "offered_rps": round(issued / seconds),
        "wanted_rps": round(rate),
        **{
            status: {
                "rps": round(len(times) / seconds),
                "p50_ms": round(1000 * statistics.median(times), 2),
                "p99_ms": round(1000 * sorted(times)[int(0.99 * len(times))], 2),
            }
            for status, times in by_status.items()
        },
    }


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


def check(port: int, example: Example) -> None:
    """The server answers as the model does."""
    asked = rows(50, seed=9)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/predict", json.dumps({"rows": asked}), {"content-type": "application/json"})
    scores = [each["score"] for each in json.loads(connection.getresponse().read())["predictions"]]
    expected = example.model.predict_proba(example.matrix(asked))[:, 1].tolist()
    worst = max(abs(a - b) for a, b in zip(scores, expected, strict=True))
    if worst > 1e-5:
        raise SystemExit(f"wrong answers: off by {worst}")


def measure(port: int, pid: int, example: Example, seconds: float, *, wrapped: bool) -> dict[str, Any]:
    """One row at 1, 8 and 32 clients, and batches of 100 at 32."""
    check(port, example)
    one = rows(1)[0]
    single = request_bytes(json.dumps({"rows": [one]} if wrapped else one).encode())
    batch = request_bytes(json.dumps({"rows": rows(100)}).encode())
    closed_loop(port, single, 8, 0.5)

    def point(request: bytes, clients: int) -> dict[str, Any]:
        before = cpu_seconds(pid)
        found = closed_loop(port, request, clients, seconds)
        found["cpu_us"] = round(1e6 * (cpu_seconds(pid) - before) / found["total"], 1)
        return found

    return {
        **{f"1_row_{clients}_clients": point(single, clients) for clients in (1, 8, 32)},
        "100_rows_32_clients": point(batch, 32),
        "memory_mb": memory_mb(pid),
    }


def main() -> None:
    """Run what is asked for and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--only", default="base,fastapi-onnx,modelworks,overload", help="comma-separated")
    parser.add_argument("--sample", default="1", help="share of requests in the prediction log")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    core = cores[0]
    os.sched_setaffinity(0, {cores[-1]})
    folder = Path(tempfile.mkdtemp(prefix="modelworks-bench-"))
    moto = None
    try:
        example = build(folder)
        import skops.io  # noqa: PLC0415

        skops.io.dump(example.model, folder / "model.skops")
        (folder / "model.onnx").write_bytes(_member(example.archive, "src/model.onnx"))
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        moto = subprocess.Popen(
            ["taskset", "-c", str(cores[-1]), str(Path(sys.executable).parent / "moto_server"), "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        env = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }
        _bucket(env)
        print(json.dumps(_results(args, example, folder, core, env), indent=2))
    finally:
        if moto is not None:
            moto.terminate()
            moto.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _results(
    args: argparse.Namespace, example: Example, folder: Path, core: int, env: dict[str, str]
) -> dict[str, Any]:
    wanted = args.only.split(",")
    results: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "seconds": args.seconds}
    for name, program, model in (("base", BASE, "model.skops"), ("fastapi-onnx", ONNX, "model.onnx")):
        if name in wanted:
            script, port = folder / f"{name}.py", free_port()
            script.write_text(program)
            argv = [sys.executable, str(script), str(port), str(folder / model)]
            with running(argv, port, core, {}, folder / f"{name}.log") as (pid, start):
                measured = measure(port, pid, example, args.seconds, wrapped=True)
                results[name] = {**measured, "start_seconds": round(start, 2)}
    if "modelworks" in wanted or "overload" in wanted:
        port = free_port()
        environ = {
            **env,
            contract.ENV_BUNDLE_URI: str(example.archive),
            contract.ENV_BUNDLE_DIGEST: example.digest,
            contract.ENV_MODEL: "delays",
            contract.ENV_ALLOW_ANONYMOUS: "true",
            contract.ENV_METRICS_SECONDS: "5",
            contract.ENV_PREDICTION_LOG: "s3://bench/predictions",
            contract.ENV_PREDICTION_LOG_SAMPLE: args.sample,
            contract.ENV_PREDICTION_LOG_SECONDS: "5",
            contract.ENV_PORT: str(port),
            contract.ENV_DRAIN_SECONDS: "0",
        }
        log = folder / "modelworks.log"
        argv = [sys.executable, "-m", "modelworks.runtime.serve"]
        with running(argv, port, core, environ, log) as (pid, start):
            if "modelworks" in wanted:
                measured = measure(port, pid, example, args.seconds, wrapped=False)
                ready = json.loads(next(text for text in log.read_text().splitlines() if '"ready"' in text))
                results["modelworks"] = {
                    **measured,
                    "start_seconds": round(start, 2),
                    "bundle_to_ready_seconds": ready["ready_seconds"],
                    "prediction_log_sample": float(args.sample),
                }
            if "overload" in wanted:
                results["overload"] = _overload(port, args.seconds)
    if "base" in results:
        for name in ("fastapi-onnx", "modelworks"):
            if name in results:
                points = [point for point in results["base"] if "clients" in point]
                results[name]["ratio_to_base"] = {
                    point: round(results[name][point]["rps"] / results["base"][point]["rps"], 1) for point in points
                }
                results[name]["ratio_of_cpu"] = {
                    point: round(results["base"][point]["cpu_us"] / results[name][point]["cpu_us"], 1)
                    for point in points
                }
    return results


def _overload(port: int, seconds: float) -> dict[str, Any]:
    found = {}
    for name, count in (("100_rows", 100), ("1_row", 1)):
        request = request_bytes(json.dumps({"rows": rows(count)}).encode())
        capacity = closed_loop(port, request, 32, seconds)["rps"]
        overload = open_loop(port, request, 3 * capacity, seconds)
        overload["capacity_rps"] = capacity
        overload["goodput"] = round(overload.get("200", {"rps": 0})["rps"] / capacity, 2)
        found[name] = overload
    return found


def _member(archive: Path, name: str) -> bytes:
    import tarfile  # noqa: PLC0415

    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        return file.read() if file else b""


def _bucket(env: dict[str, str]) -> None:
    import boto3  # noqa: PLC0415

    s3 = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )
    for _ in range(100):
        try:
            s3.create_bucket(Bucket="bench", CreateBucketConfiguration={"LocationConstraint": env["AWS_REGION"]})
        except Exception:  # noqa: BLE001 - it is still starting
            time.sleep(0.2)
        else:
            return
    raise SystemExit("the AWS emulator did not come up")


if __name__ == "__main__":
    main()
