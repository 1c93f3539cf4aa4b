"""A release in numbers: the time to its first request, its cost for clients, and the time to the abort of a bad one.

    .venv/bin/python benchmarks/rollout.py [--rate 400] [--requests 20000]

Brings up a laptop cloud of its own in a temporary folder, with the endpoint and the times of the rehearsals in
tests/e2e/rehearsal.py, and takes it down again. Prints one JSON object; nothing is asserted. Times are seconds since
the release line changed, that is since `pulumi up` was started, unless they say otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from e2e import rehearsal
from e2e.rehearsal import Load, Rehearsal, until
from modelworks.laptop import cloud
from modelworks.laptop.state_dir import StateDir
from runtime.example_bundle import Example


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=400, help="requests a second, of all clients together")
    parser.add_argument("--requests", type=int, default=20_000, help="fewest requests during the good release")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelworks-benchmark-"))
    place = StateDir(folder / "place")
    try:
        cloud.up(place, ("local",), report=_say, strict=True)
        print(json.dumps(measure(place, folder, options.rate, options.requests), indent=2))
    finally:
        cloud.down(place)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(place: StateDir, folder: Path, rate: float, requests: int) -> dict[str, Any]:
    """A first release, a good one, and two bad ones, one after the other."""
    program, bundles = folder / "program", folder / "bundles"
    program.mkdir()
    endpoint = Rehearsal(place, program)
    began = time.monotonic()
    endpoint.serving = endpoint.release(rehearsal.build(bundles, trees=10))
    until(endpoint.healthy)
    first = time.monotonic() - began
    return {
        "settings": rehearsal.SETTINGS,
        "requests_a_second": rate,
        "first_release_serving_seconds": round(first, 1),
        "good": _good(endpoint, rehearsal.build(bundles, trees=11), rate, requests),
        "fails_on_one_in_twenty": _bad(endpoint, rehearsal.failing(bundles), rate),
        "never_ready": _bad(endpoint, rehearsal.crashing(bundles), rate),
    }


def _good(endpoint: Rehearsal, example: Example, rate: float, requests: int) -> dict[str, Any]:
    with Load(endpoint.gateway, rate) as load:
        before, began = endpoint.serving, time.monotonic()
        endpoint.serving = version = endpoint.release(example)
        up = time.monotonic() - began
        until(endpoint.healthy, what=endpoint.rollout)
        taken = time.monotonic() - began
        until(lambda: len(endpoint.pods()) == 2 and load.count >= requests)
    return {
        "up_seconds": round(up, 1),
        "first_canary_request_seconds": round(load.firsts[version] - began, 1),
        "taken_over_seconds": round(taken, 1),
        "requests": load.count,
        "failed": load.failed,
        "faults": load.faults,
        "milliseconds": {
            name: _quantiles(load.milliseconds[each]) for name, each in (("old", before), ("new", version))
        },
    }


def _bad(endpoint: Rehearsal, example: Example, rate: float) -> dict[str, Any]:
    with Load(endpoint.gateway, rate) as load:
        began = time.monotonic()
        version = endpoint.release(example)
        until(endpoint.turned_back, what=endpoint.rollout)
        back = time.monotonic() - began
    first = load.firsts.get(version)
    return {
        "turned_back_seconds": round(back, 1),
        "turned_back_seconds_after_first_canary_request": round(back - (first - began), 1) if first else None,
        "requests": load.count,
        "answered_by_canary": load.of(version),
        "failed": load.failed,
        "because": endpoint.failures() or [endpoint.status["message"]],
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{share}": round(ordered[len(ordered) * share // 100], 2) for share in (50, 99)}


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
