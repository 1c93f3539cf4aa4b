"""The toolchain on a machine without Go."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from modelworks.laptop import toolchain
from modelworks.laptop.toolchain import golang
from modelworks.laptop.toolchain.tools import MODULES

pytestmark = pytest.mark.e2e


def test_where_there_is_no_go_the_pinned_wheel_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(golang.shutil, "which", lambda name, **_: None)
    told: list = []
    go = golang.find(MODULES / "etcd", tmp_path / "cache", told.append, toolchain.TOOLS["etcd"])
    assert go.is_relative_to(tmp_path / "cache")
    assert [step.what for step in told] == ["fetching"]
    (tmp_path / "main.go").write_text('package main\n\nfunc main() { println("compiled") }\n')
    ran = subprocess.run(
        [go, "run", str(tmp_path / "main.go")],
        env=golang.environment(go, tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == "compiled\n"
