"""Two laptop clouds on one machine never share addresses of pods, or ports, whoever's they are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from modelworks.errors import ModelworksError
from modelworks.laptop import pod_network, status, supervisor
from modelworks.laptop.state_dir import StateDir
from strangers import UID, as_stranger, only_root
from waiting import PATIENCE


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pod_network, "_listened_in", set)
    # The laptop clouds that this machine has besides hold their own.
    monkeypatch.setattr(pod_network, "_NAME", f"modelworks-test-{os.getpid()}")


@pytest.fixture
def choose(tmp_path):
    """Chooses a network for the laptop cloud of a name, as a process of its own would; it is held until the end."""
    claims = []

    def chosen(name):
        claims.append(pod_network.choose(StateDir(tmp_path / name)))
        return claims[-1].network

    yield chosen
    for claim in claims:
        claim.close()


def _up(place):
    place.root.mkdir(parents=True, exist_ok=True)
    (place.root / "laptop.json").touch()


def _long_ago(tmp_path, octet):
    os.utime(tmp_path / "cache" / "modelworks" / "pod-networks" / octet, (0, 0))


def test_two_that_come_up_at_once_choose_two_networks(choose):
    assert [choose("one"), choose("two")] == ["127.77.0.0/16", "127.78.0.0/16"]


def test_two_that_come_up_at_once_choose_no_port_twice(choose):
    chosen = [pod_network.ports(choose("one")), pod_network.ports(choose("two"))]
    assert set(chosen[0]).isdisjoint(chosen[1])


def _chosen(name, folder, barrier, results):
    """What a process with a cache of its own chooses, at the same moment as another."""
    os.environ["XDG_CACHE_HOME"] = str(folder / name)
    pod_network._listened_in = set
    barrier.wait()
    claim = pod_network.choose(StateDir(folder / name))
    results.put(claim.network)
    barrier.wait()  # and it is held until both have chosen


def test_two_processes_without_a_file_in_common_choose_two_networks(tmp_path):
    fork = get_context("fork")
    barrier, results = fork.Barrier(2), fork.Queue()
    both = [fork.Process(target=_chosen, args=(name, tmp_path, barrier, results)) for name in ("one", "two")]
    for process in both:
        process.start()
    found = sorted(results.get(timeout=PATIENCE) for _ in both)
    for process in both:
        process.join(PATIENCE)
    assert found == ["127.77.0.0/16", "127.78.0.0/16"]


@only_root
def test_another_user_chooses_another_network_at_once(choose):
    """Who can read no file of this user, and no environment of their processes."""
    mine = choose("one")
    theirs = as_stranger(lambda: (os.getuid(), pod_network._hold(mine), pod_network.keep("127.78.0.0/16").network))
    assert theirs == (UID, None, "127.78.0.0/16")


def test_a_laptop_cloud_that_comes_up_again_is_told_that_its_network_was_taken(choose):
    mine = choose("one")
    with pytest.raises(ModelworksError, match=f"{mine} was taken by another laptop cloud while this one was down"):
        pod_network.keep(mine)


def test_supervisord_holds_the_network_after_the_command_and_until_its_own_end(tmp_path):
    place = StateDir(tmp_path / "place")
    for folder in (place.root, place.run, place.logs):
        place.folder(folder)
    claim = pod_network.choose(place)
    try:
        supervisor.apply(place, [supervisor.Program("one", ["sleep", "600"])], held=claim.descriptors)
        claim.close()
        assert pod_network._hold(claim.network) is None
    finally:
        supervisor.stop(place, grace=0)
    again = pod_network.keep(claim.network)
    assert again.holder is not None
    again.close()


def test_a_process_whose_parent_does_not_notice_has_ended_too():
    # Where the first process of a container takes no notice of orphans, each of them stays a zombie.
    careless = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", careless], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        orphan = psutil.Process(int(parent.stdout.readline()))
        assert supervisor._alive([orphan], 0) == [orphan]
        supervisor.end([orphan], grace=0)
        assert orphan.status() == psutil.STATUS_ZOMBIE
        assert supervisor._alive([orphan], 0) == []
        parent.stdin.close()


def test_the_last_network_has_ports_too_and_none_of_those_that_the_kernel_gives_to_connections():
    last = pod_network.ports(f"127.{pod_network._OCTETS[-1]}.0.0/16")
    assert (len(last), last.stop) == (240, 32_000)


def test_a_place_that_comes_up_again_keeps_its_network(tmp_path):
    first = pod_network.choose(StateDir(tmp_path / "one"))
    first.close()
    again = pod_network.choose(StateDir(tmp_path / "one"))
    again.close()
    assert first.network == again.network


def test_the_network_of_a_wiped_laptop_is_free_again(tmp_path, choose):
    pod_network.choose(StateDir(tmp_path / "gone")).close()
    _long_ago(tmp_path, "77")
    assert choose("new") == "127.77.0.0/16"


def test_the_network_of_a_laptop_that_is_there_stays_its_own_however_old(tmp_path, choose):
    place = StateDir(tmp_path / "there")
    pod_network.choose(place).close()
    _up(place)
    _long_ago(tmp_path, "77")
    assert choose("new") == "127.78.0.0/16"


def test_a_network_that_somebody_listens_in_is_passed_over(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script = "import socket, sys; s = socket.create_server(('127.77.0.1', 0)); print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listening:
        listening.stdout.readline()
        claim = pod_network.choose(StateDir(tmp_path / "one"))
        claim.close()
        listening.stdin.close()
    assert claim.network != "127.77.0.0/16"


def test_of_many_that_find_a_stale_claim_at_once_one_takes_it_over(tmp_path, choose):
    pod_network.choose(StateDir(tmp_path / "gone")).close()
    _long_ago(tmp_path, "77")
    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(choose, map(str, range(8))))
    assert sorted(chosen) == [f"127.{octet}.0.0/16" for octet in range(77, 85)]


LOWEST = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


def _listens(port):
    with socket.socket() as one:
        one.bind(("127.77.128.9", port))


@only_root
@pytest.mark.skipif(LOWEST < 2, reason="this machine allows every port to everybody")
def test_the_lowest_port_is_the_one_from_which_on_the_kernel_lets_a_user_listen():
    def below_and_at():
        lowest = pod_network.lowest_port()
        _listens(lowest)
        with pytest.raises(PermissionError):
            _listens(lowest - 1)
        return lowest

    assert as_stranger(below_and_at) == LOWEST
    assert pod_network.lowest_port() == 1


@only_root
@pytest.mark.skipif(LOWEST < 2, reason="this machine allows every port to everybody")
def test_status_tells_an_ordinary_user_which_ports_are_not_served():
    said = as_stranger(status._ports_not_served)
    assert said[0].startswith(f"ports below {LOWEST} of pods and Services")
    assert status._ports_not_served() == []
