"""The Open Inference Protocol over REST and gRPC, beside MLServer and a bare grpcio echo. Prints JSON.

    .venv/bin/python benchmarks/protocols.py [--seconds 3] [--rounds 1] [--no-mlserver]

One worker on the first core; the load comes from the others, in bytes that were prepared (see `parts/`). Every server
answers once over grpcio and over http.client before it is measured, and its answers are those of the model. `echo` is
the aio server of grpcio with a method that answers what it gets: what that library alone takes. Ratios are within the
run; of several rounds, in which the servers take turns, the middle one counts. The servers are those of
`serving.py`: modelworks has everything on that an environment has on, MLServer has a runtime class around ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

import serving  # noqa: E402
from modelworks import contract  # noqa: E402
from modelworks.runtime.server import v2_messages as messages  # noqa: E402
from parts import grpc_load  # noqa: E402
from parts.load import load  # noqa: E402
from runtime.example_bundle import CARRIERS, Example, build, rows  # noqa: E402

INFER = f"/{contract.GRPC_SERVICE}/ModelInfer"
POINTS = {"1_row_1_client": (1, 1), "1_row_8_clients": (1, 8), "100_rows_8_clients": (100, 8)}
"""Rows of a request, and clients that each send the next request after the last answer."""

Rows = list[dict[str, Any]]


def columns(asked: Rows) -> dict[str, Any]:
    """Rows as REST of the protocol has them for our server: a tensor a feature."""
    inputs = []
    for name in asked[0]:
        values = [row[name] for row in asked]
        datatype = "BYTES" if name == "carrier" else "FP64"
        inputs.append({"name": name, "shape": [len(asked)], "datatype": datatype, "data": values})
    return {"inputs": inputs}


def column_message(asked: Rows) -> bytes:
    """The same as a message."""
    request = messages.ModelInferRequest(model_name="delays")
    for given in columns(asked)["inputs"]:
        tensor = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        if given["datatype"] == "BYTES":
            tensor.contents.bytes_contents.extend(value.encode() for value in given["data"])
        else:
            tensor.contents.fp64_contents.extend(_numbers(given["data"]))
    return bytes(request.SerializeToString())


def table_message(asked: Rows) -> bytes:
    """Rows as one tensor, which MLServer hands to a runtime class."""
    request = messages.ModelInferRequest(model_name="delays")
    tensor = request.inputs.add(name="X", datatype="FP32", shape=[len(asked), 15])
    for row in asked:
        values = [row[f"x{number}"] for number in range(14)]
        tensor.contents.fp32_contents.extend(_numbers([*values, CARRIERS.index(row["carrier"])]))
    return bytes(request.SerializeToString())


def _numbers(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def main() -> None:
    """Run the benchmarks and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=1, help="how often each server is measured")
    parser.add_argument("--no-mlserver", action="store_true", help="leave MLServer out; it is installed once")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelworks-bench-"))
    try:
        example = build(folder)
        with serving.emulated_aws(folder) as aws:
            print(json.dumps(_results(args, example, aws, folder), indent=2))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _results(args: argparse.Namespace, example: Example, aws: dict[str, str], folder: Path) -> dict[str, Any]:
    servers = serving.servers_of(folder, example, aws, "1", mlserver=not args.no_mlserver)
    ours = servers["modelworks"]
    ours = replace(
        ours,
        environ={**ours.environ, contract.ENV_GRPC_PORT: str(ours.port)},
        route="/v2/models/delays/infer",
        body=columns,
        scores=lambda answer: next(each["data"] for each in answer["outputs"] if each["name"] == "score"),
    )
    port = serving.free_port()
    echo = serving.Server([sys.executable, str(HERE / "parts/grpc_echo.py"), str(port)], port)
    measured: dict[str, list[dict[str, Any]]] = {}

    def note(name: str, found: dict[str, Any]) -> None:
        measured.setdefault(name, []).append(found)

    for _ in range(args.rounds):
        with serving.running(ours, folder / "modelworks.log") as (pid, _start):
            serving.check(ours, example)
            _check_grpc(ours.port, column_message, example)
            note("modelworks-rest", _points(pid, _requests(ours, args.seconds)))
            note("modelworks-grpc", _points(pid, _calls(ours.port, column_message, args.seconds)))
        if not args.no_mlserver:
            theirs = servers["mlserver-onnx"]
            grpc_port = json.loads((folder / "mlserver/settings.json").read_text())["grpc_port"]
            with serving.running(theirs, folder / "mlserver.log") as (pid, _start):
                serving.check(theirs, example)
                _check_grpc(grpc_port, table_message, example)
                note("mlserver-rest", _points(pid, _requests(theirs, args.seconds)))
                note("mlserver-grpc", _points(pid, _calls(grpc_port, table_message, args.seconds)))
        with serving.started(echo.argv, min(os.sched_getaffinity(0)), {}, folder / "echo.log") as process:
            _await_grpc(port)
            note("grpcio-echo", _points(process.pid, _calls(port, column_message, args.seconds)))
    results: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "seconds": args.seconds,
        "rounds": args.rounds,
    }
    results |= {name: serving.middle(rounds) for name, rounds in measured.items()}
    for ours_name, other in (
        ("modelworks-rest", "mlserver-rest"),
        ("modelworks-grpc", "mlserver-grpc"),
        ("modelworks-grpc", "grpcio-echo"),
    ):
        if other in results:
            results[f"{ours_name} to {other}"] = {
                point: {
                    "rps": round(results[ours_name][point]["rps"] / results[other][point]["rps"], 2),
                    "cpu": round(results[other][point]["cpu_us"] / results[ours_name][point]["cpu_us"], 2),
                }
                for point in POINTS
            }
    return results


def _points(pid: int, ask: Callable[[int, int], dict[str, Any]]) -> dict[str, Any]:
    """Every point of `POINTS`, and the processor time of a request."""
    ask(1, 8)  # warms up
    found = {}
    for name, (count, clients) in POINTS.items():
        before = serving.cpu_seconds(pid)
        answers = ask(count, clients)
        cpu = 1e6 * (serving.cpu_seconds(pid) - before) / max(1, answers.pop("good"))
        found[name] = {**answers, "cpu_us": round(cpu, 1)}
    return found


def _requests(server: serving.Server, seconds: float) -> Callable[[int, int], dict[str, Any]]:
    def ask(count: int, clients: int) -> dict[str, Any]:
        found = load(server.port, server.request(rows(count)), clients, seconds, serving.others())
        return {"good": found["good"], **found["by_status"].get("200", {"rps": 0})}

    return ask


def _calls(port: int, message: Callable[[Rows], bytes], seconds: float) -> Callable[[int, int], dict[str, Any]]:
    return lambda count, clients: grpc_load.load(port, INFER, message(rows(count)), clients, seconds, serving.others())


def _await_grpc(port: int) -> None:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(30)


def _check_grpc(port: int, message: Callable[[Rows], bytes], example: Example) -> None:
    """The server answers as the model does, to a client of grpcio."""
    import grpc

    asked = rows(50, seed=9)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = messages.ModelInferResponse.FromString(channel.unary_unary(INFER)(message(asked), timeout=30))
    [output] = [each for each in answer.outputs if each.name == "score"]
    scores = [*output.contents.fp64_contents, *output.contents.fp32_contents]
    expected = example.model.predict_proba(example.matrix(asked))[:, 1].tolist()
    worst = max(abs(a - b) for a, b in zip(scores, expected, strict=True))
    if worst > 1e-5:
        raise SystemExit(f"wrong answers: off by {worst}")


if __name__ == "__main__":
    main()
