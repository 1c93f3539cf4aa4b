"""What a program writes reaches its reader whole, and holds nobody up: over real pipes and processes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from waiting import PATIENCE, eventually

COMMAND = """
import os, pathlib, sys
from modelworks.deploy import process
process.LAST_GRACE = float(sys.argv[2])
end = process.end_session
def end_session(session):
    end(session)
    pathlib.Path("ended").touch()
process.end_session = end_session
try:
    argv = [sys.executable, "-c", sys.argv[1]]
    os._exit(process.run(argv, cwd=pathlib.Path(), env=dict(os.environ), log=pathlib.Path("log")))
except process.Interrupted:
    sys.exit(130)
"""
"""A command that says when its program is gone, and waits for nothing but its output then."""
WRITES = """
for _ in range(60):
    print("x" * 999, flush=True)
"""
"""It ends although nobody reads: its own pipe holds more."""


@pytest.fixture
def start(tmp_path):
    """Starts a command that runs a Python program and shows what it writes; one page of that waits for its reader."""
    started = []

    def start(program, *, last_grace):
        argv = [sys.executable, "-c", COMMAND, program, str(last_grace)]
        command = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        fcntl.fcntl(command.stdout, fcntl.F_SETPIPE_SZ, 4096)
        started.append(command)
        return command

    yield start
    for command in started:
        command.kill()
        command.communicate()


def test_a_reader_that_begins_after_the_end_still_gets_everything(start, tmp_path):
    command = start(WRITES, last_grace=0)
    eventually((tmp_path / "ended").exists)
    shown, said = command.communicate(timeout=PATIENCE)
    assert (len(shown), said, command.returncode) == (60_000, b"", 0)


def test_ctrl_c_ends_a_command_whose_reader_does_not_read(start, tmp_path):
    command = start(WRITES, last_grace=0)
    eventually((tmp_path / "ended").exists)
    command.send_signal(signal.SIGINT)
    assert command.wait(PATIENCE) == 130


def left_behind(*argv):
    """A program that leaves another one, in a session of its own, with the pipe."""
    return f"import subprocess; print(subprocess.Popen({argv}, start_new_session=True).pid)"


def test_who_holds_the_pipe_open_after_the_end_is_not_waited_for(start):
    shown, _ = start(left_behind("sleep", "600"), last_grace=10 * PATIENCE).communicate(timeout=PATIENCE)
    os.kill(int(shown), signal.SIGKILL)  # it is there still


def test_who_writes_on_after_the_end_is_not_waited_for(start):
    command = start(left_behind("yes"), last_grace=10 * PATIENCE)
    command.communicate(timeout=PATIENCE)
    assert command.returncode == 0
