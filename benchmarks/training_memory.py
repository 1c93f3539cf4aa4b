"""Peak memory of training, as a multiple of the rows' size in memory. Argument: megabytes of rows (default 500)."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import make_run

COLUMNS = 20
MODEL = """
import numpy as np
import pandas as pd
import pandera.pandas as pa
from sklearn.linear_model import SGDRegressor

from modelworks.lifecycle import Card, DataSource, Feature, ModelSpec

NAMES = [f"x{{number}}" for number in range({columns})]


def load():
    values = np.random.default_rng(0).random(({rows}, {columns}))
    frame = pd.DataFrame(values, columns=NAMES, copy=False)
    frame["y"] = values[:, 0] - values[:, 1]
    return frame


def train(data):
    return SGDRegressor(max_iter=1, tol=None, random_state=data.seed).fit(data.x, data.y)


spec = ModelSpec(
    name="big", description="Measure memory.", owner="benchmarks", kind="regression", target="y",
    data=DataSource(load=load, description="Made up."), schema=pa.DataFrameSchema({{}}),
    features=tuple(Feature(name=name, type="number", minimum=0, maximum=1) for name in NAMES),
    train=train, metric="mae", card=Card(intended_use="None."),
)
"""


def main(megabytes: float) -> None:
    """Train once and print the peak of the process that trains."""
    rows = int(megabytes * 1e6 / 8 / (COLUMNS + 1))
    with tempfile.TemporaryDirectory(prefix="modelworks-bench-") as scratch:
        folder = Path(scratch) / "models" / "big"
        folder.mkdir(parents=True)
        shutil.copyfile(Path(__file__).parents[1] / "uv.lock", Path(scratch) / "uv.lock")
        (folder / "model.py").write_text(MODEL.format(rows=rows, columns=COLUMNS))
        make_run(folder, "big", Home(Path(scratch) / "home"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = rows * 8 * (COLUMNS + 1)
    print(json.dumps({"rows": rows, "megabytes": size / 1e6, "peak_megabytes": peak / 1e6, "multiple": peak / size}))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 500)
