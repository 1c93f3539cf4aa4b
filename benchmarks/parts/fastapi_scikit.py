"""FastAPI and scikit-learn in its thread pool, as most people start. Arguments: port, skops file."""

import sys
from typing import Any, Literal

import numpy as np
import skops.io
import uvicorn
from fastapi import FastAPI
from pydantic import Field, create_model

CARRIERS = ("AA", "B6", "DL", "UA")
NAMES = [f"x{number}" for number in range(14)]

port, path = int(sys.argv[1]), sys.argv[2]
model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
COLUMNS: dict[str, Any] = {"carrier": (Literal[CARRIERS], ...)}
COLUMNS |= {name: (float | None, Field(ge=-100, le=100)) for name in NAMES}
Row: Any = create_model("Row", **COLUMNS)
Body: Any = create_model("Body", rows=(list[Row], ...))
app = FastAPI()


@app.get("/readyz")
def ready() -> str:
    return "ok"


@app.post("/v1/predict")
def predict(body: Body) -> dict[str, Any]:
    rows = [[*(getattr(row, name) for name in NAMES), CARRIERS.index(row.carrier)] for row in body.rows]
    scores = model.predict_proba(np.array(rows, dtype=float))[:, 1].tolist()
    return {"predictions": [{"label": "late" if score >= 0.5 else "on time", "score": score} for score in scores]}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
