"""Another day: a C compiler makes a clock that a child process is told to believe."""

from __future__ import annotations

import subprocess
from pathlib import Path


def variables(folder: Path) -> dict[str, str]:
    """What lets a process live some eight years from now; the clock is compiled into `folder`."""
    made = folder / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"], check=True, timeout=60)
    return {"LD_PRELOAD": str(made)}
