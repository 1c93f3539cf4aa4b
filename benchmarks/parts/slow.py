"""A model that takes long: the same answers, with a chain of matrix products before each call's.

The chain takes processor time without Python's lock, as models do: so much for a call, and as much again for a hundred
rows.
"""

from __future__ import annotations

import hashlib
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runtime.example_bundle import Example, repack

_WIDTH = 256
_TRIED = 20
"""Products by which one is measured."""
_ROWS = 100
"""Rows that take as long as what a call takes besides."""


def slowed(example: Example, folder: Path, seconds: float) -> Example:
    """The bundle with a model whose calls take about so many seconds more on this machine."""
    with tarfile.open(example.archive) as bento:
        member = bento.extractfile("src/model.onnx")
        graph = member.read() if member else b""
    names = [each.name for each in example.manifest.request_features]
    products = max(1, round(_TRIED * seconds / _seconds(_chained(graph, _TRIED), len(names))))
    longer = _chained(graph, products)
    artifact = msgspec.structs.replace(example.manifest.onnx, sha256=hashlib.sha256(longer).hexdigest())
    folder.mkdir()
    return repack(replace(example, archive=folder / example.archive.name), longer, artifact)


def _chained(graph: bytes, products: int) -> bytes:
    """The graph with so many products, whose result adds nothing to its output."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(graph)
    inside, [given] = model.graph, model.graph.input
    output = next(each for each in inside.output if each.name == "probabilities")
    for node in inside.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(_WIDTH, _WIDTH)))
    of_rows = round(products * _WIDTH / _ROWS)  # a product of the call has as many rows as columns
    constants = {
        "turn": turn.astype(np.float32),
        "tiny": np.float32(1e-20),
        "none": np.float32(0),
        "first": np.array([0]),
        "second": np.array([_WIDTH]),
        "row0": np.ones((1, _WIDTH), np.float32),
    }
    inside.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    inside.node.extend(
        [  # the number of rows is in it, else it would be computed once for all calls
            helper.make_node("Size", [given.name], ["size"]),
            helper.make_node("Cast", ["size"], ["count"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["count", "tiny"], ["little"]),
            helper.make_node("Add", ["turn", "little"], ["turn0"]),
            *(
                helper.make_node("MatMul", [f"turn{number}", "turn"], [f"turn{number + 1}"])
                for number in range(products)
            ),
            helper.make_node("Shape", [given.name], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["length"]),
            helper.make_node("Concat", ["length", "second"], ["expanded"], axis=0),
            helper.make_node("Expand", ["row0", "expanded"], ["rows0"]),
            *(
                helper.make_node("MatMul", [f"rows{number}", "turn"], [f"rows{number + 1}"])
                for number in range(of_rows)
            ),
            helper.make_node("ReduceMean", [f"turn{products}"], ["mean of call"], keepdims=0),
            helper.make_node("ReduceMean", [f"rows{of_rows}"], ["mean of rows"], keepdims=0),
            helper.make_node("Add", ["mean of call", "mean of rows"], ["mean"]),
            helper.make_node("Mul", ["mean", "none"], ["nothing"]),
            helper.make_node("Add", ["before", "nothing"], [output.name]),
        ]
    )
    return bytes(model.SerializeToString())


def _seconds(graph: bytes, width: int) -> float:
    """Of a call with one row."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    row: dict[str, Any] = {session.get_inputs()[0].name: np.zeros((1, width), np.float32)}
    taken = []
    for _ in range(10):
        began = time.perf_counter()
        session.run(["probabilities"], row)
        taken.append(time.perf_counter() - began)
    return min(taken)
