"""Times and sizes of a model's way to a bundle, and whether its digest holds elsewhere. Prints JSON, asserts nothing.

Usage: `python benchmarks/lifecycle.py [MODEL]`
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from modelworks.lifecycle import load_spec
from modelworks.lifecycle.bundle import Bundle, build_bundle
from modelworks.lifecycle.gates import run_gates
from modelworks.lifecycle.spec import find_model
from modelworks.lifecycle.training import Home, train


def measured(folder: Path, home: Home) -> tuple[dict[str, float], Bundle]:
    """Seconds of every command, and the bundle."""
    spec = load_spec(folder)
    seconds: dict[str, float] = {}

    def timed(name, call):  # noqa: ANN001, ANN202
        start = time.perf_counter()
        result = call()
        seconds[name] = round(time.perf_counter() - start, 2)
        return result

    run = timed("train", lambda: train(spec, home))
    bundle = timed("bundle", lambda: build_bundle(spec, run, home))
    timed("gates", lambda: run_gates(spec, run, bundle, home, "local"))
    timed("train again, nothing changed", lambda: train(spec, home))
    return seconds, bundle


def main() -> None:
    """Measure here, then again in another folder under other conditions."""
    file = find_model(sys.argv[1] if len(sys.argv) > 1 else "flight-delay")
    with tempfile.TemporaryDirectory() as scratch:
        seconds, bundle = measured(file.parent, Home(Path(scratch) / "one"))
        elsewhere = Path(scratch) / "another" / "clone"
        shutil.copytree(
            file.parent, elsewhere / "models" / file.parent.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copyfile(file.parents[2] / "uv.lock", elsewhere / "uv.lock")
        os.environ |= {"PYTHONHASHSEED": "99", "OMP_NUM_THREADS": "2", "TZ": "Pacific/Auckland"}
        _, again = measured(elsewhere / "models" / file.parent.name, Home(Path(scratch) / "two"))
        facts = {
            "model": bundle.model, "seconds": seconds, "bytes": bundle.size, "served": bundle.served,
            "parity": bundle.parity, "digest": bundle.digest, "same_digest_elsewhere": bundle.digest == again.digest,
        }  # fmt: skip
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
