"""Two laptop clouds on one machine never share addresses of pods."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelworks.laptop import pod_network
from modelworks.laptop.state_dir import StateDir


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pod_network, "_listened_in", set)


def _up(place):
    place.root.mkdir(parents=True, exist_ok=True)
    (place.root / "laptop.json").touch()


def _long_ago(tmp_path, octet):
    os.utime(tmp_path / "cache" / "modelworks" / "pod-networks" / octet, (0, 0))


def test_two_that_come_up_at_once_choose_two_networks(tmp_path):
    chosen = [pod_network.choose(StateDir(tmp_path / name)) for name in ("one", "two")]
    assert chosen == ["127.77.0.0/16", "127.78.0.0/16"]


def test_two_that_come_up_at_once_choose_no_port_twice(tmp_path):
    chosen = [pod_network.ports(pod_network.choose(StateDir(tmp_path / name))) for name in ("one", "two")]
    assert set(chosen[0]).isdisjoint(chosen[1])


def test_the_last_network_has_ports_too_and_none_of_those_that_the_kernel_gives_to_connections():
    last = pod_network.ports(f"127.{pod_network._OCTETS[-1]}.0.0/16")
    assert (len(last), last.stop) == (240, 32_000)


def test_a_place_that_comes_up_again_keeps_its_network(tmp_path):
    assert pod_network.choose(StateDir(tmp_path / "one")) == pod_network.choose(StateDir(tmp_path / "one"))


def test_the_network_of_a_wiped_laptop_is_free_again(tmp_path):
    pod_network.choose(StateDir(tmp_path / "gone"))
    _long_ago(tmp_path, "77")
    assert pod_network.choose(StateDir(tmp_path / "new")) == "127.77.0.0/16"


def test_the_network_of_a_laptop_that_is_there_stays_its_own_however_old(tmp_path):
    place = StateDir(tmp_path / "there")
    pod_network.choose(place)
    _up(place)
    _long_ago(tmp_path, "77")
    assert pod_network.choose(StateDir(tmp_path / "new")) == "127.78.0.0/16"


def test_a_network_that_somebody_listens_in_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with socket.create_server(("127.77.0.1", 0)):
        assert pod_network.choose(StateDir(tmp_path / "one")) != "127.77.0.0/16"


def test_of_many_that_find_a_stale_claim_at_once_one_takes_it_over(tmp_path):
    pod_network.choose(StateDir(tmp_path / "gone"))
    _long_ago(tmp_path, "77")
    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(pod_network.choose, [StateDir(tmp_path / str(number)) for number in range(8)]))
    assert sorted(chosen) == [f"127.{octet}.0.0/16" for octet in range(77, 85)]
