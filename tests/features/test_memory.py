"""How much memory a process may still take, by the limits of its container."""

from __future__ import annotations

import psutil
import pytest

from modelworks.features.memory import available_bytes

USED = 200_000_000


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8_000_000_000}))
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: type("Info", (), {"rss": USED}))


def groups(folder, lines: str, limits: dict[str, str]):
    listed = folder / "cgroup"
    listed.write_text(lines)
    for name, limit in limits.items():
        (folder / "mounts" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mounts" / name).write_text(limit)
    return listed, folder / "mounts"


@pytest.mark.parametrize(
    ("lines", "limits", "expected"),
    [
        pytest.param("0::/\n", {"memory.max": "1000000000\n"}, 800_000_000, id="version 2 in a container"),
        pytest.param("0::/a/b\n", {"a/b/memory.max": "1000000000\n"}, 800_000_000, id="version 2 outside"),
        pytest.param("0::/a\n", {"a/memory.max": "max\n"}, 8_000_000_000, id="no limit"),
        pytest.param(
            "3:cpu,cpuacct:/x\n4:memory:/docker/1\n",
            {"memory/memory.limit_in_bytes": "2000000000\n"},
            1_800_000_000,
            id="version 1 in a container",
        ),
        pytest.param(
            "4:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": "500000000\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"},
            300_000_000,
            id="version 1 outside",
        ),
        pytest.param("0::/\n", {"memory.max": "1000\n"}, 0, id="more is used than allowed"),
        pytest.param("", {}, 8_000_000_000, id="none"),
    ],
)
def test_the_least_limit_counts(tmp_path, lines, limits, expected):
    assert available_bytes(*groups(tmp_path, lines, limits)) == expected


def test_without_control_groups_the_machine_counts(tmp_path):
    assert available_bytes(tmp_path / "none", tmp_path) == 8_000_000_000
