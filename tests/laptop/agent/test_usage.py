"""CPU and memory of process trees, and the objects that the metrics API makes of them."""

import os
import subprocess
import sys
import time

import pytest

from modelworks.laptop.agent.sandbox import Marked, process_start
from modelworks.laptop.agent.usage import Measured, Meter


@pytest.fixture
def tree():
    """Starts a shell whose child runs Python code; gone afterwards. Returns it when the code prints."""
    started = []

    def start(code):
        process = subprocess.Popen(
            ["sh", "-c", '"$0" -c "$1"; exit', sys.executable, code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _measured(process, group=None):
    return Measured(Marked(process.pid, process_start(process.pid)), group)


WORK = """
import sys, time
print("ready", flush=True)
sys.stdin.readline()
while time.process_time() < 0.5: pass
print("worked", flush=True)
sys.stdin.readline()
"""


def test_cpu_is_that_of_the_children_too(tree):
    process, meter = tree(WORK), Meter()
    one = {"key": _measured(process)}
    meter.read(one)
    assert meter.containers == {}
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "worked\n"
    meter.read(one)
    usage = meter.containers["key"]
    assert usage.cores * usage.window == pytest.approx(0.5, abs=0.2)


def test_cpu_of_a_child_that_ended_is_not_lost(tree):
    process, meter = (
        tree(WORK.replace("import sys, time", "import os, sys, time\nif os.fork(): os.wait()")),
        Meter(),
    )
    one = {"key": _measured(process)}
    meter.read(one)
    process.stdin.write("\n\n")
    process.stdin.flush()
    assert process.stdout.readline() == "worked\n"
    assert process.stdout.readline() == "ready\n"  # the parent, once its child was waited for
    meter.read(one)
    usage = meter.containers["key"]
    assert usage.cores * usage.window == pytest.approx(0.5, abs=0.2)


def test_memory_that_forked_workers_share_counts_once(tree):
    process = tree(
        "import os, sys\nx = b'x' * (64 << 20)\n[os.fork() for _ in range(2)]\n"
        "if os.getppid() == os.getpgid(0): print('ready', flush=True)\nsys.stdin.readline()"
    )
    meter, one = Meter(), {"key": _measured(process)}
    meter.read(one)
    meter.read(one)
    assert 64 << 20 <= meter.containers["key"].memory < 128 << 20


def test_a_process_id_that_was_used_again_is_somebody_else(tree):
    process, meter = tree("print('ready', flush=True); input()"), Meter()
    one = {"key": Measured(Marked(process.pid, "1"), None)}
    meter.read(one)
    meter.read(one)
    assert meter.containers == {}


@pytest.mark.parametrize(
    ("used", "inactive"), [("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")]
)
def test_a_control_group_counts_without_the_cache_that_can_go(tree, tmp_path, used, inactive):
    (tmp_path / used).write_text("1000\n")
    (tmp_path / "memory.stat").write_text(f"anon 600\n{inactive} 300\n")
    meter, one = Meter(), {"key": _measured(tree("print('ready', flush=True); input()"), tmp_path)}
    meter.read(one)
    meter.read(one)
    assert meter.containers["key"].memory == 700


def test_the_machine_is_measured_too():
    meter = Meter()
    meter.read({})
    used = time.process_time() + 0.2  # twenty ticks of the kernel's clock, however long they take
    while time.process_time() < used:
        pass
    meter.read({})
    assert meter.machine.memory > 10 << 20
    assert meter.machine.cores * meter.machine.window > 0.1
