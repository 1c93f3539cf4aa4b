"""Which host has which port of its own, and how its address is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.laptop.gateway import addresses, caddy
from modelworks.laptop.gateway.host_ports import assign
from modelworks.laptop.state_dir import StateDir

PORTS = range(24_000, 24_008)
HOSTS = st.lists(st.sampled_from([f"model-{number}.localhost" for number in range(12)]), unique=True)


# -- Assignment ------------------------------------------------------------------------------------------------------
@given(st.lists(HOSTS, min_size=1))
def test_no_two_hosts_ever_share_a_port(rounds):
    assigned: dict[str, int] = {}
    for hosts in rounds:
        assigned = assign(hosts, assigned, PORTS)
        assert len(set(assigned.values())) == len(assigned)
        assert set(assigned.values()) <= set(PORTS)


@given(st.lists(HOSTS, min_size=2))
def test_a_host_that_stays_keeps_its_port_whoever_comes_and_goes(rounds):
    assigned = assign(rounds[0], {}, PORTS)
    for hosts in rounds[1:]:
        after = assign(hosts, assigned, PORTS)
        staying = [host for host in hosts if host in assigned]
        assert {host: after[host] for host in staying} == {host: assigned[host] for host in staying}
        assigned = after


@given(HOSTS, HOSTS)
def test_as_many_hosts_have_a_port_as_there_are_ports(first, then):
    assigned = assign(then, assign(first, {}, PORTS), PORTS)
    assert sum(host in assigned for host in then) == min(len(then), len(PORTS))


@given(HOSTS, st.dictionaries(st.text(max_size=5), st.integers(23_990, 24_010)))
def test_whatever_was_remembered_no_two_hosts_share_a_port_and_none_is_foreign(hosts, before):
    assigned = assign(hosts, before, PORTS)
    assert len(set(assigned.values())) == len(assigned)
    assert set(assigned.values()) <= set(PORTS)


def test_a_host_that_is_deleted_and_made_again_has_its_port_again():
    before = assign(["a", "b"], {}, PORTS)
    without = assign(["b", "c"], before, PORTS)
    assert assign(["a", "b", "c"], without, PORTS)["a"] == before["a"]


def test_the_port_of_a_host_that_is_gone_is_given_away_only_when_no_other_is_left():
    full = assign([f"old-{number}" for number in range(len(PORTS))], {}, PORTS)
    staying = list(full)[1:]
    assert assign([*staying, "new"], full, PORTS) == {**{host: full[host] for host in staying}, "new": full["old-0"]}


def test_more_hosts_than_ports_leave_the_last_without():
    assigned = assign(["first", "second", "third"], {}, PORTS[:2])
    assert set(assigned) == {"first", "second"}


def test_a_host_whose_port_a_stranger_took_gets_another_and_the_others_keep_theirs():
    before = assign(["a", "b"], {}, PORTS)
    left = [port for port in PORTS if port != before["a"]]
    after = assign(["a", "b"], before, left)
    assert after["b"] == before["b"]
    assert after["a"] in left


def test_where_there_is_room_ports_follow_from_names_so_that_forgetting_them_costs_nothing():
    room = range(24_000, 25_000)
    one_by_one = assign(["a", "b", "c"], assign(["c"], assign(["b"], {}, room), room), room)
    assert assign(["a", "b", "c"], {}, room) == one_by_one


def test_without_ports_no_host_has_one():
    assert assign(["a"], {"a": 24_000}, ()) == {}


# -- Addresses -------------------------------------------------------------------------------------------------------
@pytest.fixture
def place(tmp_path, monkeypatch):
    place = StateDir(tmp_path)
    (tmp_path / "laptop.json").write_text('{"ports": {"gateway": 21212}}')
    monkeypatch.setattr(addresses, "_FOLLOWS_SECONDS", 0)
    return place


def write(place: StateDir, text: str) -> None:
    place.folder(place.gateway)
    caddy.table_path(place).write_text(text)


def test_a_host_is_reached_at_its_own_port(place):
    write(place, json.dumps({"hosts": {"churn.local.localhost": []}, "ports": {"churn.local.localhost": 24_001}}))
    assert addresses.url_of(place, "churn.local.localhost") == "http://127.0.0.1:24001"


def test_a_host_without_a_port_is_reached_by_its_name(place):
    write(place, json.dumps({"hosts": {"churn.example.com": []}, "ports": {}}))
    assert addresses.url_of(place, "churn.example.com") == "http://churn.example.com.localhost:21212"


def test_a_host_that_is_gone_has_no_address_and_its_port_is_remembered(place):
    write(place, json.dumps({"hosts": {"here": []}, "ports": {"gone": 24_000, "here": 24_001}}))
    assert addresses.urls(place) == {"here": "http://127.0.0.1:24001"}
    assert addresses.remembered(place) == {"gone": 24_000, "here": 24_001}


def test_a_host_that_the_gateway_does_not_know_yet_is_waited_for(place, monkeypatch):
    monkeypatch.setattr(addresses, "_FOLLOWS_SECONDS", 60)
    write(place, json.dumps({"hosts": {}, "ports": {}}))

    def gateway_follows(_: float) -> None:
        write(place, json.dumps({"hosts": {"late": []}, "ports": {"late": 24_002}}))

    monkeypatch.setattr(addresses.time, "sleep", gateway_follows)
    assert addresses.url_of(place, "late") == "http://127.0.0.1:24002"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"hosts": []}', '{"ports": []}', '{"ports": {"a": "1"}}', '{"ports": {"a": true}}']
)
def test_a_damaged_table_is_named_with_what_mends_it_without_wiping_anything(place, text):
    write(place, text)
    with pytest.raises(ModelworksError, match=r"table\.json is damaged") as refused:
        addresses.remembered(place)
    assert "down --keep" in refused.value.fix


def test_a_laptop_cloud_without_a_gateway_says_so(tmp_path):
    with pytest.raises(ModelworksError, match="has no gateway"):
        addresses.url_of(StateDir(tmp_path), "churn.local.localhost")
