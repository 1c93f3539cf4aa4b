"""Who holds a stack, in a backend of files: a running engine, or one that was killed."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class StackLock:
    """Who holds a stack: what the engine of a file, S3 or GCS backend writes beside the state."""

    path: Path
    pid: int
    user: str
    host: str
    time: str

    @property
    def stale(self) -> bool:
        """Whether its engine ran on this host and is gone."""
        return self.host == socket.gethostname() and not _is_engine(self.pid, self.time)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.time[:19].replace('T', ' ')} UTC"


def locks_in(backend: Path, project: str, environment: str) -> list[StackLock]:
    """The locks of one stack in the folder of a backend."""
    found = []
    for path in (backend / ".pulumi" / "locks").glob(f"*/{project}/{environment}/*.json"):
        with suppress(OSError, ValueError, KeyError):  # it may be released while we look
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append(
                StackLock(path, content["pid"], content["username"], content["hostname"], content["timestamp"])
            )
    return found


def _is_engine(pid: int, since: str) -> bool:
    """Whether process `pid` is an engine that ran at `since` already, and not a later process of the same number."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError):
        return False
    if not name.startswith("pulumi") or fields[0] == "Z":
        return False
    started = time.time() - up + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    locked = datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", since)).timestamp()
    return started <= locked + 2
