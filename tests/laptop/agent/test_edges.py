from __future__ import annotations

import asyncio
import signal
import socket
import time
from datetime import UTC, datetime
from ipaddress import IPv4Network

import psutil
import pytest

from modelworks.errors import ModelworksError
from modelworks.laptop.agent import logs, probes
from modelworks.laptop.agent.container_logs import Wanted
from modelworks.laptop.agent.host import Addresses
from modelworks.laptop.agent.isolation import HostMount, Isolation, Mount, detect, setup_script
from modelworks.laptop.agent.probes import Tally
from modelworks.laptop.agent.sandbox import Process, Sandbox
from waiting import PATIENCE, eventually, eventually_async


def answers(probe, *goods):
    tally = Tally()
    for good in goods:
        tally = tally.with_answer(good, probe)
    return tally.healthy


def test_one_success_is_enough_and_three_failures_are_needed():
    assert answers({}, True) is True
    assert answers({}, True, False, False) is True
    assert answers({}, True, False, False, False) is False


def test_thresholds_count_answers_in_a_row():
    assert answers({"failureThreshold": 2}, False, True, False) is True
    assert answers({"successThreshold": 2}, True, False, True) is None


async def no_exec(argv, limit):
    raise ProcessLookupError("gone")


@pytest.fixture
async def web():
    seen = []

    async def answer(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        status = head.split()[1].strip("/")
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1], seen
    listening.close()


async def test_http_probe(web):
    port, seen = web
    container = {"ports": [{"name": "web", "containerPort": port}]}
    get = {"port": "web", "path": "/204", "httpHeaders": [{"name": "X-A", "value": "b"}]}
    assert (await probes.ask({"httpGet": get}, container, "127.0.0.1", no_exec))[0]
    assert "X-A: b" in seen[0]
    bad = await probes.ask({"httpGet": {"port": port, "path": "/503"}}, container, "127.0.0.1", no_exec)
    assert bad == (False, "HTTP probe failed with statuscode: 503")


async def test_tcp_probe(web):
    assert (await probes.ask({"tcpSocket": {"port": web[0]}}, {}, "127.0.0.1", no_exec))[0]
    assert not (await probes.ask({"tcpSocket": {"port": 1}}, {}, "127.0.0.1", no_exec))[0]


async def test_a_grpc_probe_says_that_it_is_not_supported():
    assert "gRPC probes are not supported" in (await probes.ask({"grpc": {"port": 1}}, {}, "127.0.0.1", no_exec))[1]


async def told(path, **query):
    return b"".join([part async for part in Wanted.of(query).lines(path, lambda: False)])


async def test_the_tail_of_a_log(tmp_path):
    path = tmp_path / "0.log"
    path.write_text("".join(f"{n}\n" for n in range(100_000)))
    assert await told(path, tailLines="2") == b"99998\n99999\n"
    assert await told(path, tailLines="0") == b""
    assert len(await told(path)) == path.stat().st_size


@pytest.fixture
def noted(tmp_path):
    """A log of three lines, the first two of which were written by the times 100 and 200."""
    path = tmp_path / "0.log"
    path.write_bytes(b"one\ntwo\nthree\n")
    path.with_name("0.log.times").write_text("4 100.000\n8 200.000\n")
    return path


@pytest.mark.parametrize(("moment", "lines"), [(50, b"one\ntwo\nthree\n"), (101, b"two\nthree\n"), (201, b"three\n")])
async def test_only_what_was_written_since_is_told(noted, moment, lines):
    since = datetime.fromtimestamp(moment, UTC).isoformat()
    assert await told(noted, sinceTime=since) == lines


async def test_a_line_that_was_begun_before_is_not_told(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(b"one\ntwo\n")
    path.with_name("0.log.times").write_text("2 100.000\n8 200.000\n")
    assert await told(path, sinceTime="1970-01-01T00:02:30Z") == b"two\n"


async def test_tail_and_since_both_hold(noted):
    assert await told(noted, sinceTime="1970-01-01T00:01:41Z", tailLines="1") == b"three\n"
    assert await told(noted, sinceTime="1970-01-01T00:03:21Z", tailLines="3") == b"three\n"
    assert await told(noted, sinceSeconds="3600") == b"three\n"  # not noted yet, so just written


async def test_each_line_is_told_with_its_time(noted):
    written = noted.stat().st_mtime
    first, second, third = (await told(noted, timestamps="true")).splitlines()
    assert first == b"1970-01-01T00:01:40.000Z one"
    assert second == b"1970-01-01T00:03:20.000Z two"
    stamp, line = third.split(b" ")
    assert written - 1 < datetime.fromisoformat(stamp.decode()).timestamp() <= time.time()
    assert line == b"three"


def test_how_far_a_log_has_come_is_noted_and_follows_its_rotation(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(b"a" * (3 * 2**20))
    length = logs.note_time(path, 0)
    path.write_bytes(b"a" * (3 * 2**20) + b"b" * 10)
    assert logs.note_time(path, length) == length + 10
    logs.rotate(path)
    assert logs.Times.of(path).since(time.time() + 60) == path.stat().st_size


def test_rotation_loses_nothing_while_the_log_is_appended(tmp_path):
    path = tmp_path / "0.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"a" * (3 * 2**20) + b"b" * 10)
        logs.rotate(path)
        writer.write(b"c")
    older = path.with_name("0.log.1")
    assert older.read_bytes() + path.read_bytes() == b"a" * (3 * 2**20) + b"b" * 10 + b"c"


def test_two_pods_never_share_an_address():
    addresses = Addresses(IPv4Network("127.99.0.0/29"))
    addresses.keep("127.99.0.3")
    taken = [addresses.take() for _ in range(4)]
    assert len({*taken, "127.99.0.3"}) == 5
    with pytest.raises(ModelworksError, match="every address"):
        addresses.take()


async def started(tmp_path, isolation, *argv, mounts=(), hosts=None, hostname="pod-0", **variables):
    folder, work = tmp_path / "run", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    log = tmp_path / "log"
    process, failure = await Sandbox(isolation, tmp_path).start(
        folder,
        argv,
        {"PATH": "/usr/bin:/bin", **variables},
        workdir=str(work),
        logfile=log,
        mounts=mounts,
        hosts=hosts,
        hostname=hostname,
        cgroup=None,
    )
    return process, failure, log


@pytest.fixture(params=["none", "links", "overlay"])
def isolation(request, tmp_path):
    return _allowed(tmp_path, request.param)


def _allowed(tmp_path, kind):
    try:
        return detect(tmp_path, kind)
    except ModelworksError as error:
        pytest.skip(str(error))


def test_a_kind_of_isolation_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ModelworksError, match="must be one of links, none, overlay, got 'docker'"):
        detect(tmp_path, "docker")


@pytest.mark.parametrize("kind", ["links", "overlay"])
async def test_a_container_and_its_commands_find_the_name_of_the_pod_and_the_machine_keeps_its_own(tmp_path, kind):
    ours = socket.gethostname()
    process, failure, log = await started(tmp_path, _allowed(tmp_path, kind), "sh", "-c", "uname -n; sleep 1000")
    try:
        assert not failure
        await eventually_async(lambda: "pod-0\n" in log.read_text())
        argv = process.command_inside(["uname", "-n"], "/")
        inside = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        assert (await inside.communicate())[0] == b"pod-0\n"
        assert socket.gethostname() == ours
    finally:
        process.kill()
        await process.ended()


@pytest.mark.parametrize("kind", ["links", "overlay"])
async def test_files_and_folders_appear_where_they_are_mounted(tmp_path, kind):
    """New ones beside those of the machine, and the pod's own /etc/hosts in the same folder."""
    isolation = _allowed(tmp_path, kind)
    folder, file, hosts = tmp_path / "volume", tmp_path / "file", tmp_path / "hosts"
    folder.mkdir()
    (folder / "inside").write_text("inside\n")
    file.write_text("file\n")
    hosts.write_text("127.0.0.9 pod\n")
    mounts = [
        Mount(folder, "/etc/modelworks-test/keys", read_only=True),
        Mount(folder, "/modelworks-test"),
        Mount(file, "/etc/modelworks-test.conf"),
    ]
    script = (
        "cat /etc/modelworks-test/keys/inside /modelworks-test/inside /etc/modelworks-test.conf /etc/hosts;"
        "echo new >/modelworks-test/new; echo new >/etc/modelworks-test/keys/new; test -r /etc/passwd"
    )
    process, failure, log = await started(tmp_path, isolation, "sh", "-c", script, mounts=mounts, hosts=hosts)
    await process.ended()
    lines = log.read_text().splitlines()
    assert (failure, process.exit_code, lines[:4]) == ("", 0, ["inside", "inside", "file", "127.0.0.9 pod"])
    assert "Read-only" in lines[4]
    assert sorted(path.name for path in folder.iterdir()) == ["inside", "new"]


async def test_a_process_ends_with_its_exit_code_and_log(tmp_path, isolation):
    process, failure, log = await started(
        tmp_path, isolation, "sh", "-c", "echo $GREETING; pwd; exit 7", GREETING="hello"
    )
    await process.ended()
    assert (failure, process.exit_code) == ("", 7)
    assert log.read_text() == f"hello\n{tmp_path}/work\n"


async def test_variables_that_no_shell_holds_reach_the_process_and_stand_in_no_command_line(tmp_path, isolation):
    secrets = {"db.password": "hunter2", "größe": "1 \"2\" '3'", "PLAIN": "x"}
    process, failure, _ = await started(tmp_path, isolation, "sleep", "600", **secrets)
    await asyncio.to_thread(eventually, lambda: process.environment().get("db.password") == "hunter2")
    found = process.environment()
    tree = [psutil.Process(process.shim.pid), *psutil.Process(process.shim.pid).children(recursive=True)]
    commands = str([each.cmdline() for each in tree])
    process.kill()
    await process.ended()
    assert failure == ""
    assert {name: found[name] for name in secrets} == secrets
    assert "MODELWORKS_OTHER_VARIABLES" not in found
    assert "sleep" in commands
    assert "hunter2" not in commands


async def test_a_command_that_is_not_there_says_so(tmp_path, isolation):
    process, failure, _ = await started(tmp_path, isolation, "no-such-program")
    await process.ended()
    assert failure == 'exec: "no-such-program": executable file not found in $PATH'


async def test_an_exit_is_known_to_who_did_not_start_the_process(tmp_path, isolation):
    process, _, _ = await started(tmp_path, isolation, "sleep", "100")
    adopted = Process(process.folder, isolation)
    assert adopted.alive
    adopted.signal(signal.SIGTERM)
    await asyncio.wait_for(adopted.ended(), PATIENCE)
    await process.ended()
    assert adopted.exit_code == 143
    assert not adopted.alive


async def test_a_process_of_an_earlier_boot_is_gone_whoever_has_its_id_now(tmp_path, isolation):
    process, _, _ = await started(tmp_path, isolation, "sleep", "100")
    noted = (process.folder / "main").read_text()
    (process.folder / "main").write_text(noted.rpartition(" ")[0] + " 0f0f0f0f-0000-4000-8000-000000000000\n")
    process.signal(signal.SIGKILL)
    assert process.alive
    (process.folder / "main").write_text(noted)
    process.kill()
    await process.ended()


@pytest.mark.parametrize("name", ["a,b", "a:b", "a ;b", "a\nb", "$HOME", "a\\b", "a'b\"c", "mö del 50%"])
async def test_a_folder_of_any_name_holds_containers(tmp_path, isolation, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "volume").mkdir()
    (folder / "volume" / "file").write_text("inside")
    mounts = [Mount(folder / "volume", "/modelworks-test")] if isolation.kind != "none" else []
    read = "cat /modelworks-test/file" if mounts else 'cat "$0/volume/file"'
    process, failure, log = await started(folder, isolation, "sh", "-c", read, str(folder), mounts=mounts)
    await process.ended()
    assert (failure, process.exit_code, log.read_text()) == ("", 0, "inside")


def test_a_disk_whose_name_cannot_be_an_option_of_a_mount_is_shared_as_it_is(tmp_path):
    machine = [HostMount("/mnt", "ext4"), HostMount("/mnt/a,b", "ext4")]
    script = setup_script(Isolation("overlay", ()), tmp_path, [], machine)
    assert "lowerdir=/mnt,upperdir" in script
    assert f"mount --rbind /mnt/a,b {tmp_path}/root/mnt/a,b" in script


async def test_a_signal_reaches_the_whole_group(tmp_path, isolation):
    process, _, _ = await started(tmp_path, isolation, "sh", "-c", "sleep 1000 & sleep 1000")
    process.kill()
    await asyncio.wait_for(process.ended(), PATIENCE)
    assert process.exit_code == 137
    assert not _living_in(process.folder)


def _living_in(folder):
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
