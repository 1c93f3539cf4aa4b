"""The point-in-time join through Feast's API beside the same join written by hand in Polars, in one run.

Three views by aircraft, airport and carrier; every value has a creation time. Each way runs in processes of its own, in
turns, so that peak memory is its own. `to_arrow` is timed from Arrow rows; what a pandas frame of rows costs more is
reported apart. Prints JSON, asserts nothing.

Usage: `python benchmarks/features.py [ROWS] [REPEATS]`

`python benchmarks/features.py --limit GIB` joins a million rows to sources of three times GIB in a control group that
has no more (Linux, as root), and again without one.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

VIEWS = {"aircraft": 4_000, "airport": 300, "carrier": 16}
TTL = timedelta(days=30)
START = datetime(2013, 1, 1)  # noqa: DTZ001 - UTC, as the sources hold it
FEATURES = [f"{view}:{view}_{name}" for view in VIEWS for name in ("mean", "count")]
YAML = """project: benchmark
provider: local
registry: registry.db
offline_store: {type: modelworks.features.offline.PolarsOfflineStore}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""


def moments(dice: np.random.Generator, count: int) -> pl.Series:
    """`count` moments of one year, in no order."""
    year = 365 * 86_400_000_000
    return pl.Series(dice.integers(0, year, count)).cast(pl.Duration("us")) + START


def write(folder: Path, rows: int, values: int) -> None:
    """Entity rows, and three sources of `values` rows each, of 40 bytes."""
    dice = np.random.default_rng(7)
    keys = {view: dice.integers(0, of, rows) for view, of in VIEWS.items()}
    pl.DataFrame({**keys, "event_timestamp": moments(dice, rows)}).write_parquet(folder / "rows.parquet")
    for view, of in VIEWS.items():
        event = moments(dice, values)
        pl.DataFrame(
            {
                view: dice.integers(0, of, values),
                "event": event,
                "created": event + timedelta(minutes=5),
                f"{view}_mean": dice.normal(size=values),
                f"{view}_count": dice.integers(0, 99, values),
            }
        ).write_parquet(folder / f"{view}.parquet")


def apply(folder: Path) -> None:
    """The three views as Feast objects in a store of their own."""
    from feast import Entity, FeatureStore, FeatureView, FileSource, ValueType

    (folder / "feature_store.yaml").write_text(YAML, encoding="utf-8")
    objects: list[Any] = []
    for view in VIEWS:
        entity = Entity(name=f"one_{view}", join_keys=[view], value_type=ValueType.INT64)
        source = FileSource(
            name=view, path=f"{view}.parquet", timestamp_field="event", created_timestamp_column="created"
        )
        objects += [entity, FeatureView(name=view, entities=[entity], ttl=TTL, source=source)]
    FeatureStore(repo_path=str(folder)).apply(objects)


def by_hand(folder: Path) -> tuple[float, pl.DataFrame]:
    """Seconds and result of the join as one would write it for these very files."""
    rows = pl.read_parquet(folder / "rows.parquet")
    start = time.perf_counter()
    joined = rows.lazy().with_row_index("row").sort("event_timestamp")
    for view in VIEWS:
        values = pl.scan_parquet(folder / f"{view}.parquet").sort("event", "created").drop("created")
        joined = joined.join_asof(
            values, left_on="event_timestamp", right_on="event", by=view, tolerance=TTL, check_sortedness=False
        ).drop("event", strict=False)
    result = joined.sort("row").drop("row").collect(engine="streaming")
    return time.perf_counter() - start, result


def through_feast(folder: Path, kind: str) -> tuple[float, pl.DataFrame]:
    """Seconds and result of Feast's `get_historical_features(...).to_arrow()`, its registry read before."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(folder))
    store.list_feature_views()
    frame = pl.read_parquet(folder / "rows.parquet")
    rows = frame.to_pandas() if kind == "pandas" else frame.to_arrow()
    start = time.perf_counter()
    table = store.get_historical_features(entity_df=rows, features=FEATURES).to_arrow()
    return time.perf_counter() - start, pl.DataFrame(pl.from_arrow(table))


def one(way: str, folder: Path) -> None:
    """Run one way once in this process, and print what it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, result = by_hand(folder) if way == "hand" else through_feast(folder, way)
    features = result.select(name.partition(":")[2] for name in FEATURES)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "peak_before_gib": before / 2**20,
                "digest": int(features.hash_rows(seed=1).sum()),
            }
        )
    )


def main(rows: int, repeats: int) -> None:
    """Every way `repeats` times in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, rows, rows)
        apply(folder)
        runs: dict[str, list[dict[str, float]]] = {"hand": [], "arrow": [], "pandas": []}
        for _ in range(repeats):
            for way, results in runs.items():
                argv = [sys.executable, __file__, "--one", way, scratch]
                results.append(json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))
    seconds = {way: statistics.median(run["seconds"] for run in results) for way, results in runs.items()}
    ratios = [feast["seconds"] / hand["seconds"] for hand, feast in zip(runs["hand"], runs["arrow"], strict=True)]
    print(
        json.dumps(
            {
                "rows": rows,
                "repeats": repeats,
                "seconds": {way: round(each, 3) for way, each in seconds.items()},
                "peak_gib": {way: round(max(run["peak_gib"] for run in results), 2) for way, results in runs.items()},
                "ratio of medians, arrow to hand": round(seconds["arrow"] / seconds["hand"], 2),
                "ratio of each turn": [round(ratio, 2) for ratio in ratios],
                "same result": len({run["digest"] for results in runs.values() for run in results}) == 1,
            },
            indent=2,
        )
    )


def limited(gib: float) -> None:
    """Once with three times as much data as memory, and once with all memory there is."""
    groups = Path("/sys/fs/cgroup/memory")
    group = (groups if groups.is_dir() else groups.parent) / f"modelworks-{os.getpid()}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, 1_000_000, round(gib * 2**30 / 40))
        apply(folder)
        argv = [sys.executable, __file__, "--one", "arrow", scratch]
        group.mkdir()
        try:
            limit = "memory.limit_in_bytes" if groups.is_dir() else "memory.max"
            (group / limit).write_text(str(round(gib * 2**30)), encoding="ascii")
            join = f"echo $$ > {group}/cgroup.procs && exec " + " ".join(argv)
            runs = [
                json.loads(subprocess.run(each, check=True, capture_output=True, text=True).stdout)
                for each in (["sh", "-c", join], argv)
            ]
        finally:
            group.rmdir()
    seconds = [round(run["seconds"], 1) for run in runs]
    same = runs[0]["digest"] == runs[1]["digest"]
    print(json.dumps({"limit_gib": gib, "data_gib": 3 * gib, "seconds": seconds, "same result": same}, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--limit"]:
        limited(float(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
