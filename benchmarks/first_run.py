"""The first run in numbers: `make up`, packages apart, as root and as an ordinary user with each kind of isolation.

    sudo .venv/bin/python benchmarks/first_run.py [--kinds overlay links none]

Each kind has a home of its own with a fresh checkout of the last commit, the tools of the laptop and the packages of
this checkout, and runs `modelworks quickstart` and `modelworks laptop down` there, one after the other. Prints one JSON
object; nothing is asserted but an answer. Times are seconds; sizes are what the run left, in MB (10^6 bytes).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from e2e import ordinary_user
from e2e.ordinary_user import Shell

KINDS = {"overlay": 0, "links": ordinary_user.UID, "none": ordinary_user.UID}
"""Who runs each kind of isolation; only root may have the first."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of isolation; default: all"
    )
    kinds = parser.parse_args().kinds
    print(json.dumps({kind: measure(kind, KINDS[kind]) for kind in kinds}, indent=2))
    return 0


def measure(kind: str, uid: int) -> dict[str, Any]:
    """One first run, and its end."""
    with ordinary_user.home(uid) as home:
        shell = Shell(home, kind, uid)
        before = _megabytes(home)
        story = json.loads(shell("quickstart", "--json", stderr=sys.stderr))
        after = _megabytes(home)
        began = time.monotonic()
        shell("laptop", "down")
        return {
            "first_answer": story["first_answer_seconds"],
            "environment_answers": story["seconds"],
            "steps": story["steps"],
            "down": round(time.monotonic() - began, 1),
            "left_while_up": round(after - before),
            "left_after_down": round(_megabytes(home) - before),
        }


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
