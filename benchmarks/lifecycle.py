"""Times and sizes of a model's way to a bundle, whether its digest holds elsewhere, and each step of `make up`.

Elsewhere is a second clone in another folder, with another hash seed, thread count, time zone and day. `make up` runs
twice in a third one, with a laptop cloud of its own: from nothing (tools and packages cached), and again unchanged.
Prints JSON, asserts nothing.

Usage: `python benchmarks/lifecycle.py [MODEL]`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from modelworks.lifecycle import child_process, load_spec
from modelworks.lifecycle.bundle import Bundle, build_bundle
from modelworks.lifecycle.model_project import find_model
from modelworks.lifecycle.run_gates import run_gates
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import train

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
import clock_shift  # noqa: E402 - the tests' other day


def measured(folder: Path, home: Home) -> tuple[dict[str, float], Bundle]:
    """Seconds of every command, and the bundle."""
    spec = load_spec(folder)
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = call()
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    run = timed("train", lambda: train(spec, home))
    bundle = timed("bundle", lambda: build_bundle(run, home))
    timed("gates", lambda: run_gates(run, bundle, home, "local"))
    timed("train again, nothing changed", lambda: train(spec, home))
    return seconds, bundle


def clone(folder: Path) -> Path:
    """The last commit of this checkout, in `folder`."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def story(folder: Path, model: str) -> dict[str, Any]:
    """Seconds of every step of `make up`, the first time and again."""
    program = str(Path(sys.executable).with_name("modelworks"))
    environment = {name: value for name, value in os.environ.items() if name != "MODELWORKS_HOME"}

    def told() -> dict[str, Any]:
        argv = [program, "quickstart", model, "--json"]
        done = subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, timeout=1800)
        facts = json.loads(done.stdout)
        return {"seconds": facts["seconds"], "steps": facts["steps"]}

    try:
        return {"first": told(), "again": told()}
    finally:
        subprocess.run([program, "laptop", "down"], cwd=folder, env=environment, check=True, timeout=300)


def main() -> None:
    """Measure in one clone, then in another under other conditions, then run the quickstart in a third."""
    file = find_model(sys.argv[1] if len(sys.argv) > 1 else "flight-delay").relative_to(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        one, other, whole = (clone(Path(scratch) / name) for name in ("one", "another/clone", "whole"))
        seconds, bundle = measured(one / file, Home(Path(scratch) / "home of one"))
        os.environ |= {"PYTHONHASHSEED": "99", "OMP_NUM_THREADS": "2", "TZ": "Pacific/Auckland"}
        child_process.FIXED |= clock_shift.variables(Path(scratch))
        _, again = measured(other / file, Home(Path(scratch) / "home of another"))
        facts = {
            "model": bundle.model, "seconds": seconds, "bytes": bundle.size, "served": bundle.served,
            "parity": bundle.parity, "digest": bundle.digest, "same_digest_elsewhere": bundle.digest == again.digest,
            "make_up": story(whole, bundle.model),
        }  # fmt: skip
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
