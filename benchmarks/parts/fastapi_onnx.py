"""FastAPI and ONNX Runtime on its event loop, as people who measured do it. Arguments: port, ONNX file."""

import sys
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import Field, create_model

CARRIERS = ("AA", "B6", "DL", "UA")
NAMES = [f"x{number}" for number in range(14)]

port, path = int(sys.argv[1]), sys.argv[2]
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
COLUMNS: dict[str, Any] = {"carrier": (Literal[CARRIERS], ...)}
COLUMNS |= {name: (float | None, Field(ge=-100, le=100)) for name in NAMES}
Row: Any = create_model("Row", **COLUMNS)
Body: Any = create_model("Body", rows=(list[Row], ...))
app = FastAPI()


@app.get("/readyz")
async def ready() -> str:
    return "ok"


@app.post("/v1/predict")
async def predict(body: Body) -> dict[str, Any]:
    rows = [[*(getattr(row, name) for name in NAMES), CARRIERS.index(row.carrier)] for row in body.rows]
    scores = session.run(["probabilities"], {"X": np.array(rows, dtype=np.float32)})[0][:, 1].tolist()
    return {"predictions": [{"label": "late" if score >= 0.5 else "on time", "score": score} for score in scores]}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
