"""What the laptop cloud decides before it starts anything."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest
from cryptography import x509

from modelworks.errors import ModelworksError
from modelworks.laptop import (
    cloud,
    cloud_facts,
    control_plane,
    environments,
    exclusive,
    parts,
    pki,
    supervisor,
    teardown,
)
from modelworks.laptop.gateway import caddy
from modelworks.laptop.state_dir import StateDir
from modelworks.laptop.supervisor import Program
from strangers import UID, as_stranger, only_root
from waiting import eventually


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return StateDir(tmp_path / getattr(request, "param", "place"))


PORTS = {name: 20_000 + number for number, name in enumerate(control_plane.PORTS)}
FACTS = {"ports": PORTS, "pod_network": "127.77.0.0/16"}
TOOLS = {name: f"/tools/{name}" for name in control_plane.TOOLS}


def _argv(place):
    facts = {"ports": PORTS, "pod_network": "127.77.0.0/16"}
    return {program.name: list(map(str, program.argv)) for program in control_plane.programs(place, facts, TOOLS)}


def test_every_key_and_kubeconfig_is_private(place):
    control_plane.prepare(place, FACTS)
    modes = {path.name: path.stat().st_mode & 0o077 for path in place.cluster.rglob("*")}
    assert set(modes.values()) == {0}
    assert {"admin.kubeconfig", "agent.kubeconfig", "gateway.kubeconfig", "service-accounts.key"} <= set(modes)


def test_preparing_again_changes_no_key(place):
    control_plane.prepare(place, FACTS)
    before = {path: path.read_bytes() for path in place.cluster.rglob("*") if path.is_file()}
    control_plane.prepare(place, FACTS)
    assert {path: path.read_bytes() for path in place.cluster.rglob("*") if path.is_file()} == before


def test_etcd_trusts_another_authority_than_the_api_server(place):
    control_plane.prepare(place, FACTS)
    folder = place.cluster / "pki"
    etcd = x509.load_pem_x509_certificate((folder / "etcd-ca.crt").read_bytes())
    user = x509.load_pem_x509_certificate((folder / "kubelet-client.crt").read_bytes())
    with pytest.raises(ValueError, match="Issuer"):
        user.verify_directly_issued_by(etcd)
    assert f"--trusted-ca-file={folder / 'etcd-ca.crt'}" in _argv(place)["etcd"]


def test_the_agent_is_a_node_of_the_group_of_nodes(place):
    control_plane.prepare(place, FACTS)
    certificate = x509.load_pem_x509_certificate((place.cluster / "pki" / "kubelet.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=system:node:laptop,O=system:nodes"


def test_a_server_certificate_names_its_hosts_and_a_client_certificate_serves_nobody():
    authority = pki.new_authority("test")
    server = x509.load_pem_x509_certificate(pki.issue(authority, "s", hosts=("127.0.0.1", "name")).certificate.encode())
    client = x509.load_pem_x509_certificate(pki.issue(authority, "c").certificate.encode())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["name"]
    uses = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_api_server_knows_nobody_anonymous_and_asks_rbac(place):
    control_plane.prepare(place, FACTS)
    argv = _argv(place)["apiserver"]
    assert "--anonymous-auth=false" in argv
    config = json.loads((place.cluster / "authorization.json").read_text())
    assert f"--authorization-config={place.cluster / 'authorization.json'}" in argv
    assert [authorizer["type"] for authorizer in config["authorizers"]] == ["Webhook", "Node", "RBAC"]
    assert config["authorizers"][0]["webhook"]["failurePolicy"] == "Deny"
    assert "--enable-admission-plugins=NodeRestriction,PodSecurity" in argv


def test_everything_of_the_control_plane_binds_to_loopback(place):
    argv = _argv(place)
    assert all("--bind-address=127.0.0.1" in argv[name] for name in ("apiserver", "controller-manager", "scheduler"))
    assert f"--listen-client-urls=https://127.0.0.1:{PORTS['etcd']}" in argv["etcd"]


def test_no_key_is_on_a_command_line(place):
    control_plane.prepare(place, FACTS)
    words = [word for argv in _argv(place).values() for word in argv]
    assert not [word for word in words if "BEGIN" in word or "token=" in word]


def test_an_environment_takes_account_region_and_namespace_from_its_stack(place, tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("name: x\nruntime: python\nstackConfigDir: stacks\n")
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "Pulumi.prod.yaml").write_text(
        'config:\n  aws:region: eu-north-1\n  aws:allowedAccountIds: ["111122223333"]\n'
        "  modelworks:settings:\n    cluster: {namespace: team}\n"
    )
    facts = environments.create(place, "prod")
    assert (facts["account"], facts["region"], facts["namespace"]) == ("111122223333", "eu-north-1", "team")


def test_an_environment_without_a_stack_has_the_laptops_own_account(place):
    facts = environments.create(place, "local")
    assert (facts["account"], facts["namespace"]) == ("000000000000", "modelworks-local")


def test_a_kind_of_isolation_that_works_here_is_that_of_the_node_agent(place, monkeypatch):
    monkeypatch.setenv("MODELWORKS_ISOLATION", "none")
    facts = {"tools": TOOLS | {"caddy": "/tools/caddy"}, "ports": dict.fromkeys((*PORTS, *caddy.PORTS), 1)}
    facts["isolation"] = cloud_facts.chosen_isolation(place, facts, was=set())
    control_plane.prepare(place, FACTS)
    agent = next(part.program for part in parts.followers(place, facts) if part.program.name == "agent")
    assert agent.environment == {"MODELWORKS_ISOLATION": "none"}


def test_a_kind_of_isolation_that_does_not_exist_is_refused_before_anything_starts(place, monkeypatch):
    monkeypatch.setenv("MODELWORKS_ISOLATION", "docker")
    with pytest.raises(ModelworksError, match="must be one of links, none, overlay, got 'docker'"):
        cloud.up(place)
    assert not place.root.exists()


def test_containers_that_run_keep_their_kind_of_isolation(place, monkeypatch):
    assert cloud_facts.chosen_isolation(place, {"isolation": "links"}, was={"agent"}) == "links"
    monkeypatch.setenv("MODELWORKS_ISOLATION", "none")
    with pytest.raises(ModelworksError, match="is none, and the containers that run were started with links"):
        cloud_facts.chosen_isolation(place, {"isolation": "links"}, was={"agent"})


def test_two_environments_share_no_port_and_no_secret(place):
    one, two = environments.create(place, "dev"), environments.create(place, "staging")
    assert one["aws_port"] != two["aws_port"]
    passphrases = {(place.environment(name) / "passphrase").read_text() for name in ("dev", "staging")}
    assert len(passphrases) == 2


def test_the_engine_has_a_name_and_a_home_for_a_user_that_the_system_does_not_know(place, monkeypatch):
    environments.create(place, "local")
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.root))
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    variables = environments.environment_variables(place, "local")
    assert (variables["USER"], variables["HOME"]) == (f"uid-{os.getuid()}", str(place.root))


@pytest.mark.parametrize("place", ["mö del 50% #1?"], indirect=True)
def test_the_engine_finds_the_state_in_a_folder_with_any_name(place):
    environments.create(place, "local")
    url = urlsplit(environments.environment_variables(place, "local")["PULUMI_BACKEND_URL"])
    assert (url.scheme, unquote(url.path)) == ("file", str(place.environment("local") / "backend"))
    assert (url.query, url.fragment) == ("metadata=skip", "")


@pytest.mark.parametrize("name", ["", "Local", "../up", "a b", "-a", "a" * 33, "local\n"])
def test_a_name_that_no_namespace_can_have_is_refused(place, name):
    with pytest.raises(ModelworksError, match="is not a name for an environment"):
        environments.create(place, name)


def test_an_unknown_environment_is_answered_with_those_there_are(place):
    environments.create(place, "dev")
    with pytest.raises(ModelworksError, match=r"no environment 'prod' .*\(there is: dev\)"):
        environments.environment_variables(place, "prod")


def test_a_shells_variables_name_secrets_by_their_files_and_do_not_mark_it_as_a_part_of_the_cloud(place):
    environments.create(place, "local")
    variables = environments.environment_variables(place, "local")
    assert (place.environment("local") / "passphrase").read_text() not in variables.values()
    assert variables["PULUMI_CONFIG_PASSPHRASE_FILE"] == str(place.environment("local") / "passphrase")
    assert supervisor.MARK not in variables


@pytest.fixture
def far(tmp_path, monkeypatch):
    """A place whose path is too long for a socket."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    place = StateDir(tmp_path / ("x" * 120))
    place.run.mkdir(parents=True)
    place.logs.mkdir()
    yield place
    supervisor.stop(place, grace=0)


def test_a_socket_with_too_long_a_path_moves_to_a_short_private_one(far):
    supervisor.apply(far, [])
    path = supervisor.socket_path(far)
    assert len(os.fsencode(path)) <= supervisor.LONGEST_SOCKET
    assert path.parent.stat().st_mode & 0o777 == 0o700
    supervisor.stop(far, grace=0)
    assert not path.parent.exists()


def test_a_shell_with_another_folder_for_temporary_files_finds_the_same_supervisor(far, tmp_path, monkeypatch):
    supervisor.apply(far, [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert supervisor.running(far)


def test_a_long_folder_for_temporary_files_holds_no_socket(far, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    supervisor.apply(far, [])
    assert supervisor.running(far)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_others_may_enter_holds_no_socket(far, tmp_path):
    supervisor.apply(far, [])
    first = supervisor.socket_path(far).parent
    supervisor.stop(far, grace=0)
    first.mkdir(mode=0o755)
    (far.run / "sockets").symlink_to(first)
    supervisor.apply(far, [])
    assert supervisor.socket_path(far).parent != first
    first.rmdir()


@pytest.fixture
def unguarded():
    """A folder with a short path in which everybody may rename and remove the files of others."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_a_folder_in_which_others_may_rename_ours_holds_no_socket(far, unguarded, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(unguarded))
    supervisor.apply(far, [])
    assert supervisor.running(far)
    assert not supervisor.socket_path(far).is_relative_to(unguarded)


def test_a_first_up_that_fails_leaves_its_logs_for_temporary_files_and_nothing_else(tmp_path, monkeypatch):
    """The message names them, for everything else of it is wiped."""
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    place = StateDir(tmp_path / ("x" * 120))

    def fails(place, *_):
        supervisor.apply(place, [Program("one", ["sleep", "600"])])
        raise ModelworksError("one does not start", fix=f"Look into {place.logs / 'one.log'}.")

    monkeypatch.setattr(cloud, "_parts_up", fails)
    with pytest.raises(ModelworksError) as refused:
        cloud.up(place, kubernetes=False)
    [left] = temporary.iterdir()
    assert refused.value.fix == f"Look into {left / 'one.log'}."
    assert (left / "one.log").exists()
    assert not place.root.exists()
    assert supervisor.leftovers(place) == []
    shutil.rmtree(temporary)


@only_root
def test_an_up_that_was_interrupted_before_it_made_anything_counts_as_none(place):
    place.root.mkdir()
    place.claim()
    with exclusive.locked(place) as fresh:
        assert fresh
        place.folder(place.run)
    with exclusive.locked(place) as fresh:
        assert not fresh


def test_a_socket_that_another_user_puts_in_place_of_ours_is_never_spoken_to(far, unguarded):
    (far.run / "sockets").symlink_to(unguarded / "socks")

    def pretend():
        (unguarded / "socks").mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(unguarded / "socks" / "supervisor.sock"))

    as_stranger(pretend)
    assert not supervisor.socket_path(far).is_relative_to(unguarded)
    supervisor.apply(far, [])
    assert not supervisor.socket_path(far).is_relative_to(unguarded)
    supervisor.stop(far, grace=0)
    assert (unguarded / "socks" / "supervisor.sock").exists()


@only_root
def test_a_port_that_another_user_takes_as_a_part_starts_is_not_taken_for_the_part():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert parts._all_listen([port])
        os.fchown(server.fileno(), UID, -1)
        with pytest.raises(ModelworksError, match=rf"port {port} .* another user \(id {UID}\)"):
            parts._answers(port, "/")


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelworksError, match=r"cannot make the folder .*: Not a directory"):
        cloud.up(StateDir(tmp_path / "file" / "place"), kubernetes=False)


@pytest.mark.parametrize("place", ["a:b", "a\nb", "a\tb"], indirect=True)
def test_a_path_that_no_configuration_can_hold_is_refused_in_one_sentence(place):
    with pytest.raises(ModelworksError, match="the path of the laptop cloud must not contain"):
        cloud.up(place, kubernetes=False)
    assert not place.root.exists()


def test_down_is_safe_when_nothing_is_up(place):
    said = []
    cloud.down(place, report=said.append)
    assert said == [f"nothing is up in {place.root}"]
    assert not place.root.exists()


def test_down_deletes_no_folder_that_up_did_not_make(place):
    place.root.mkdir()
    (place.root / "thesis.tex").write_text("precious")
    said = []
    cloud.down(place, report=said.append)
    assert said == [f"nothing is up in {place.root}, and nothing of it is deleted"]
    assert (place.root / "thesis.tex").read_text() == "precious"


def test_up_refuses_a_folder_with_files_of_somebody_else_and_leaves_it_as_it_is(place):
    place.root.mkdir()
    (place.root / "thesis.tex").write_text("precious")
    with pytest.raises(ModelworksError, match=r"not a laptop cloud's \(thesis\.tex\)"):
        cloud.up(place, kubernetes=False)
    assert [path.name for path in place.root.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_up_refuses_a_folder_of_another_user(place):
    place.root.mkdir()
    os.chown(place.root, 12345, -1)
    with pytest.raises(ModelworksError, match=r"belongs to another user \(id 12345\)"):
        cloud.up(place, kubernetes=False)


def test_a_folder_that_becomes_a_laptop_clouds_is_private(place):
    place.root.mkdir(mode=0o755)
    place.claim()
    assert place.root.stat().st_mode & 0o777 == 0o700


def test_logs_that_another_command_wrote_before_are_no_obstacle(place):
    place.folder(place.logs)
    place.claim()
    assert place.claimed


def test_down_wipes_what_up_claimed(place):
    place.root.mkdir()
    place.claim()
    (place.folder(place.node) / "file").write_text("x")
    said = []
    cloud.down(place, report=said.append)
    assert said == [f"stopped and wiped {place.root}"]
    assert not place.root.exists()


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_down_continues_where_a_killed_one_ended(place, monkeypatch):
    place.root.mkdir()
    place.claim()
    (place.root / "laptop.json").write_text("{}")
    place.folder(place.node)
    with monkeypatch.context() as patch:
        patch.setattr(teardown.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cloud.down(place)
    cloud.down(place)
    assert not place.root.exists()


def test_down_leaves_what_a_link_in_its_folder_points_to(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("precious")
    place.root.mkdir()
    place.claim()
    (place.root / "linked").symlink_to(tmp_path / "elsewhere")
    cloud.down(place)
    assert (tmp_path / "elsewhere" / "file").read_text() == "precious"
    assert not place.root.exists()


def test_the_state_folder_of_a_checkout_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "Pulumi.yaml").touch()
    (tmp_path / "disk").mkdir()
    (tmp_path / ".modelworks").symlink_to(tmp_path / "disk" / "cloud")
    place = StateDir.here(tmp_path)
    place.folder(place.root)
    place.claim()
    cloud.down(place)
    assert place.root == tmp_path / "disk" / "cloud"
    assert not place.root.exists()


def test_a_recorded_port_that_somebody_took_is_named_with_its_holder(place):
    facts = environments.create(place, "local")
    with socket.create_server(("127.0.0.1", facts["aws_port"])), pytest.raises(ModelworksError) as refused:
        cloud_facts.require_free_ports(place, {"ports": {}})
    assert f"port {facts['aws_port']}" in str(refused.value)
    assert f"(pid {os.getpid()})" in str(refused.value)


def test_a_place_gets_a_row_of_ports_for_hosts_and_keeps_them(place):
    before = cloud_facts.facts_of(place, "127.77.0.0/16", kubernetes=True)
    assert before["host_ports"] == list(range(before["host_ports"][0], before["host_ports"][0] + caddy.HOST_PORTS))
    assert set(before["host_ports"]).isdisjoint(before["ports"].values())
    assert cloud_facts.facts_of(place, "127.77.0.0/16", kubernetes=True) == before
    assert set(before["host_ports"]) <= environments.used_ports(place)


def test_a_port_for_hosts_that_a_stranger_took_is_replaced_and_no_other(place):
    before = cloud_facts.facts_of(place, "127.77.0.0/16", kubernetes=True)["host_ports"]
    with socket.create_server(("127.0.0.1", before[3])):
        after = cloud_facts.facts_of(place, "127.77.0.0/16", kubernetes=True)["host_ports"]
    assert after[:-1] == before[:3] + before[4:]
    assert after[-1] not in before


def test_a_place_without_kubernetes_has_no_ports_for_hosts(place):
    assert "host_ports" not in cloud_facts.facts_of(place, "127.77.0.0/16", kubernetes=False)


def test_a_row_of_ports_that_nobody_can_have_is_one_clear_sentence(monkeypatch):
    monkeypatch.setattr(environments, "holder_free", lambda _: False)
    with pytest.raises(ModelworksError, match="no 64 free ports in a row between 20000 and 20240"):
        environments.free_range(64, range(20_000, 20_240))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "a.example", "no_proxy": "b.example"}, "a.example,b.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "127.0.0.1"}, "127.0.0.1,localhost"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_no_proxy_stands_before_the_laptop_and_who_had_none_before_still_has_none(place, monkeypatch, given, wanted):
    for name in environments.NO_PROXY:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environments.create(place, "local")
    variables = environments.environment_variables(place, "local")
    assert {variables[name] for name in environments.NO_PROXY} == {wanted}


@pytest.fixture
def stubborn(place):
    """A process of the place that ignores being asked to end, and has a child."""
    place.root.mkdir()
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '600'], env={}); print(child.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={supervisor.MARK: str(place.root)}, stdout=subprocess.PIPE, text=True
    )
    yield process, psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_a_crash_left_behind_is_found_by_its_mark_and_ended_with_its_children(place, stubborn):
    process, child = stubborn
    place.claim()
    cloud.down(place)
    assert process.poll() is not None
    assert _has_ended(child)
    assert not place.root.exists()


def _has_ended(process):
    """Whether it runs no more; whoever its parent is may not have noticed yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_becomes_another_program_all_the_time_is_found_each_time(place, tmp_path):
    # In the middle of `execve` it has no environment, and with it no mark.
    script = tmp_path / "again"
    script.write_text('#!/bin/sh\nexec "$0"\n')
    script.chmod(0o755)
    with subprocess.Popen([script], env={supervisor.MARK: str(place.root)}) as process:
        try:
            assert [len(supervisor.leftovers(place)) for _ in range(300)] == [1] * 300
        finally:
            process.kill()


def test_another_places_processes_are_left_alone(place, stubborn, tmp_path):
    process, _ = stubborn
    other = StateDir(tmp_path / "place2")
    other.root.mkdir()
    cloud.down(other)
    assert process.poll() is None


@pytest.fixture
def supervised(place):
    """A place whose supervisor runs one sleeper."""
    for folder in (place.root, place.run, place.logs):
        place.folder(folder)
    supervisor.apply(place, [Program("one", ["sleep", "600"])])
    yield place
    cloud.down(place)


def _pid(place, name):
    return next(info["pid"] for info in supervisor.processes(place) if info["name"] == name)


def test_applying_again_leaves_a_running_process_alone(supervised):
    before = _pid(supervised, "one")
    supervisor.apply(supervised, [Program("one", ["sleep", "600"]), Program("two", ["sleep", "600"])])
    assert _pid(supervised, "one") == before
    assert _pid(supervised, "two")


def test_a_process_that_is_declared_differently_is_restarted_and_one_that_is_not_listed_ends(supervised):
    supervisor.apply(supervised, [Program("one", ["sleep", "700"]), Program("two", ["sleep", "600"])])
    eventually(lambda: psutil.Process(_pid(supervised, "one")).cmdline() == ["sleep", "700"])
    supervisor.apply(supervised, [Program("one", ["sleep", "700"])])
    assert [info["name"] for info in supervisor.processes(supervised)] == ["one"]


def test_a_supervisor_that_does_not_answer_is_named_and_down_ends_it(supervised, monkeypatch):
    process = psutil.Process(int((supervised.run / "supervisord.pid").read_text()))
    process.suspend()
    eventually(lambda: process.status() == psutil.STATUS_STOPPED)
    monkeypatch.setattr(supervisor, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(ModelworksError, match=r"did not answer within 0\.2 s"):
        supervisor.processes(supervised)
    cloud.down(supervised)
    assert supervisor.leftovers(supervised) == []


def test_a_killed_supervisor_is_replaced_without_doubling_what_it_ran(supervised):
    orphan = psutil.Process(_pid(supervised, "one"))
    os.kill(int((supervised.run / "supervisord.pid").read_text()), signal.SIGKILL)
    eventually(lambda: not supervisor.running(supervised))  # a signal takes a while to arrive on a busy machine
    supervisor.apply(supervised, [Program("one", ["sleep", "600"])])
    assert _has_ended(orphan)
    assert _pid(supervised, "one")


@pytest.mark.parametrize("stage", ["the supervisor's copy", "its env"])
def test_what_a_killed_supervisor_was_about_to_start_becomes_no_program(supervised, stage):
    config = str(supervised.run / "supervisord.conf")
    argument = config if stage == "the supervisor's copy" else f"{supervisor.PROCESS}=one"
    mark = {**os.environ, supervisor.MARK: str(supervised.root)}
    starting = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", argument], env=mark)
    try:
        eventually(lambda: argument in psutil.Process(starting.pid).cmdline())
        os.kill(int((supervised.run / "supervisord.pid").read_text()), signal.SIGKILL)
        eventually(lambda: not supervisor.running(supervised))
        supervisor.apply(supervised, [Program("one", ["sleep", "600"])])
        assert starting.poll() is not None
    finally:
        starting.kill()
        starting.wait()


def test_arguments_and_values_reach_a_process_as_they_are(supervised):
    odd = "a 100% 'quoted' \"value\", with ;every #thing"
    code = "import json, os, sys, time; json.dump([sys.argv[1], os.environ['ODD']], open('said', 'w')); time.sleep(600)"
    supervisor.apply(supervised, [Program("one", [sys.executable, "-c", code, odd], {"ODD": odd})])
    said = supervised.root / "said"
    eventually(lambda: said.exists() and said.read_text().endswith("]"))
    assert json.loads(said.read_text()) == [odd, odd]


@pytest.mark.parametrize("place", ["mö del 50%s %(here)s", "a,b ;c", "a #b", "$HOME 'a' \"b\"", "a\\b"], indirect=True)
def test_a_folder_with_any_name_holds_a_place(supervised):
    assert _pid(supervised, "one")
    assert (supervised.logs / "one.log").exists()


def test_the_control_plane_starts_while_caddy_and_argos_controller_are_still_built(place, monkeypatch):
    happened: list = []

    class Obtaining:
        def wait(self, names):
            happened.append(("waited for", sorted(names)))
            return {name: f"/tools/{name}" for name in names}

        def wait_for_all(self):
            happened.append(("waited for", "all"))
            return {name: f"/tools/{name}" for name in (*control_plane.TOOLS, "caddy", "pulumi")}

    monkeypatch.setattr(
        supervisor, "apply", lambda _, programs: happened.append([program.name for program in programs])
    )
    monkeypatch.setattr(parts, "wait", lambda *_: None)
    monkeypatch.setattr(cloud, "_isolation", lambda _: "overlay")
    for name in ("set_up_cluster", "publish_metrics", "wait_for_ownership"):
        monkeypatch.setattr(control_plane, name, lambda *_: None)
    facts = {"ports": {**PORTS, "gateway": 1, "gateway-tls": 2, "gateway-admin": 3}, "pod_network": "127.77.0.0/16"}
    cloud._kubernetes_up(place, facts, [], set(), lambda _: None, Obtaining())
    first, started, everything, again = happened
    assert first == ("waited for", sorted(control_plane.PROGRAMS))
    assert started == ["etcd", "apiserver", "controller-manager", "scheduler"]
    assert everything == ("waited for", "all")
    assert again[:4] == started
    assert "caddy" in again
    assert facts["tools"]["caddy"] == "/tools/caddy"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"strict": True}, cloud_facts.STRICT_METRICS_DELAY),
        ({"strict": True, "metrics_delay": 0}, 0),
        ({"strict": True, "metrics_delay": 120}, 120),
        ({}, 0),
        ({"metrics_delay": 7}, 7),
    ],
)
def test_metrics_of_a_strict_place_are_late_unless_another_delay_is_stated_and_stay_so(place, given, seconds):
    assert cloud_facts.facts_of(place, "127.77.0.0/16", kubernetes=False, **given)["metrics_delay"] == seconds
    assert cloud_facts.facts_of(place, "127.77.0.0/16", kubernetes=False)["metrics_delay"] == seconds
