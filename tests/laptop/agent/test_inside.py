"""Commands with streams or a terminal, as `kubectl exec` runs them."""

import asyncio
import os

import psutil
import pytest

from modelworks.laptop.agent.inside import Prepared, run
from waiting import PATIENCE


class Pipe:
    """A stream that has its input from the start and keeps what is written to it."""

    def __init__(self, *received):
        self.written = b""
        self.wrote = asyncio.Event()
        self.received = asyncio.Queue()
        for part in received:
            self.received.put_nowait(part)

    async def read(self):
        return await self.received.get()

    async def write(self, data):
        self.written += data
        self.wrote.set()

    async def discard(self):
        pass


def shell(script):
    return Prepared(["sh", "-c", script], {"PATH": os.environ["PATH"]})


async def finished(script, sizes=None, **streams):
    return await asyncio.wait_for(run(shell(script), streams, sizes), PATIENCE)


async def test_output_errors_and_exit_code_arrive_apart():
    out, err = Pipe(), Pipe()
    assert await finished("echo out; echo err >&2; exit 3", stdout=out, stderr=err) == 3
    assert (out.written, err.written) == (b"out\n", b"err\n")


async def test_a_signal_is_an_exit_code_as_shells_have_it():
    assert await finished("kill -9 $$") == 137


async def test_input_arrives_with_its_end():
    out = Pipe()
    assert await finished("cat", stdin=Pipe(b"one ", b"two", b""), stdout=out) == 0
    assert out.written == b"one two"


async def test_a_command_that_reads_no_input_ends_all_the_same():
    assert await finished("exec <&-; exit 4", stdin=Pipe(b"x" * 1_000_000)) == 4


async def test_a_terminal_is_one_and_follows_its_size():
    out, sizes = Pipe(), Pipe(b'{"Width":133,', b'"Height":41}\n')
    wait = "until [ \"$(stty size)\" = '41 133' ]; do sleep 0.05; done"
    assert await finished(f"test -t 0 && {wait}; echo $TERM; exit 6", sizes.read, stdout=out) == 6
    assert out.written == b"xterm\r\n"


@pytest.mark.parametrize("wrong", [b"no size\n", b"{}\n", b'{"Width":-1,"Height":1000000}\n', b"[]\n"])
async def test_what_is_no_size_changes_nothing(wrong):
    out, sizes = Pipe(), Pipe(b'{"Width":7,"Height":5}\n', wrong, b'{"Width":9,"Height":5}\n')
    wait = "until [ \"$(stty size)\" = '5 9' ]; do sleep 0.05; done"
    assert await finished(wait, sizes.read, stdout=out) == 0


async def test_what_is_typed_reaches_the_terminal_and_ctrl_c_its_command():
    out, typed = Pipe(), Pipe(b"typed\n")
    running = asyncio.create_task(run(shell("exec cat"), {"stdin": typed, "stdout": out}, Pipe().read))
    while out.written.count(b"typed\r\n") < 2:  # the echo of the terminal, and that of cat
        await asyncio.wait_for(out.wrote.wait(), PATIENCE)
        out.wrote.clear()
    typed.received.put_nowait(b"\x03")
    assert await asyncio.wait_for(running, PATIENCE) == 130


async def test_a_command_that_is_cancelled_ends_with_what_it_started():
    out = Pipe()
    running = asyncio.create_task(run(shell("sleep 77126 & echo ready; wait"), {"stdout": out}, None))
    await asyncio.wait_for(out.wrote.wait(), PATIENCE)
    started = psutil.Process().children(recursive=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(started) >= 2
    assert not psutil.wait_procs(started, timeout=PATIENCE)[1]
