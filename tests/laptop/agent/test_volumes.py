from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelworks.laptop.agent import provisioner, volumes
from modelworks.laptop.agent.cgroup import Memory
from modelworks.laptop.agent.env import Surroundings, UnresolvedError
from modelworks.laptop.agent.isolation import HostMount, Isolation, Mount, host_mounts, setup_script

AROUND = Surroundings(ip="127.77.0.2", config_maps={"conf": {"data": {"a": "one", "b": "two"}}})


def pod(*made):
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"k": "v"}},
        "spec": {"containers": [{"name": "c"}], "volumes": list(made)},
    }


def test_items_choose_and_rename():
    volume = {"name": "v", "configMap": {"name": "conf", "items": [{"key": "a", "path": "deep/x", "mode": 0o600}]}}
    assert volumes.rendered(pod(), volume, volumes.Sources(AROUND)) == {"deep/x": (b"one", 0o600)}


def test_a_missing_config_map_is_named():
    with pytest.raises(UnresolvedError, match='configmap "none" not found'):
        volumes.rendered(pod(), {"name": "v", "configMap": {"name": "none"}}, volumes.Sources(AROUND))


def test_a_projected_volume_gathers():
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
        {"configMap": {"name": "conf", "items": [{"key": "a", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    known = volumes.Sources(AROUND, {("", 600): "secret"})
    found = volumes.rendered(pod(), {"name": "v", "projected": {"sources": sources}}, known)
    assert {name: content for name, (content, _) in found.items()} == {
        "token": b"secret",
        "ca.crt": b"one",
        "labels": b'k="v"',
    }


def test_a_refresh_changes_all_files_at_once(tmp_path):
    assert volumes.write(tmp_path, {"a": (b"1", 0o644), "b/c": (b"2", 0o600)})
    assert not volumes.write(tmp_path, {"a": (b"1", 0o644), "b/c": (b"2", 0o600)})
    assert volumes.write(tmp_path, {"a": (b"3", 0o644)})
    assert (tmp_path / "a").read_bytes() == b"3"
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("..")) == ["a"]


def test_a_volume_that_cannot_be_had_is_refused_by_name():
    with pytest.raises(UnresolvedError, match='volume "v": hostPath is not available'):
        volumes.check(pod({"name": "v", "hostPath": {"path": "/"}}))


def test_a_sub_path_may_not_leave_its_volume(tmp_path):
    container = {"volumeMounts": [{"name": "v", "mountPath": "/m", "subPath": "../x"}]}
    with pytest.raises(UnresolvedError, match="must be relative"):
        volumes.mounts(pod({"name": "v", "emptyDir": {}}), container, tmp_path, {}, {})


def test_config_is_mounted_read_only(tmp_path):
    container = {"volumeMounts": [{"name": "v", "mountPath": "/m"}]}
    made = pod({"name": "v", "configMap": {"name": "conf"}})
    assert volumes.mounts(made, container, tmp_path, {}, {}) == [Mount(tmp_path / "v", "/m", read_only=True)]


def test_targets_are_resolved_on_the_machine_not_in_the_new_root(tmp_path):
    source, real, link = tmp_path / "s", tmp_path / "real", tmp_path / "link"
    source.mkdir()
    real.mkdir()
    link.symlink_to(real)
    script = setup_script(Isolation("overlay", ()), tmp_path / "run", [Mount(source, f"{link}/new")], [])
    assert f"mkdir -p {tmp_path}/run/root{os.path.realpath(real)}/new" in script
    assert f"root{link}" not in script


def test_only_the_topmost_file_systems_of_the_machine_are_shown():
    lines = [
        f"1 0 0:1 / {path} rw - {kind} x rw"
        for path, kind in [
            ("/", "ext4"),
            ("/proc", "proc"),
            ("/dev/shm", "tmpfs"),
            ("/home", "xfs"),
            ("/home/a", "nfs"),
            ("/p/x", "tmpfs"),
        ]
    ]
    assert host_mounts("\n".join(lines), Path("/p")) == [HostMount("/home", "xfs")]


def test_a_file_system_is_known_by_its_name_in_any_script():
    line = r"1 0 0:1 / /media/Müll\040\134\04050% rw - ext4 x rw"
    assert host_mounts(line, Path("/p")) == [HostMount("/media/Müll \\ 50%", "ext4")]


def test_a_claim_gets_a_volume_bound_to_a_folder_of_this_node():
    claim = {
        "metadata": {"name": "c", "namespace": "n", "uid": "1"},
        "spec": {
            "storageClassName": "laptop",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": "Pending"},
    }
    assert provisioner.wanted(claim)
    assert provisioner.volume(claim, Path("/v"), "laptop")["spec"]["claimRef"]["uid"] == "1"
    assert not provisioner.wanted({**claim, "status": {"phase": "Bound"}})
    assert not provisioner.wanted({**claim, "spec": {**claim["spec"], "storageClassName": "other"}})


def test_a_strict_laptops_class_is_not_for_claims_that_name_none():
    def default(*, is_default):
        annotations = provisioner.storage_class(default=is_default)["metadata"]["annotations"]
        return annotations["storageclass.kubernetes.io/is-default-class"]

    assert (default(is_default=True), default(is_default=False)) == ("true", "false")


def test_an_empty_dir_beyond_its_limit_is_reported_as_the_kubelet_reports_it(tmp_path):
    scratch = pod({"name": "cache", "emptyDir": {}}, {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}})
    for name in ("cache", "scratch"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below" / "file").write_bytes(b"x" * 2**19)
    (tmp_path / "cache" / "large").write_bytes(b"x" * 2**22)
    assert volumes.beyond_limit(scratch, tmp_path) == ""
    (tmp_path / "scratch" / "more").write_bytes(b"x" * 2**20)
    assert volumes.beyond_limit(scratch, tmp_path) == 'Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". '


def test_a_file_under_two_names_and_a_hole_take_no_room(tmp_path):
    scratch = pod({"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}})
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "file").write_bytes(b"x" * 3 * 2**18)
    (tmp_path / "scratch" / "again").hardlink_to(tmp_path / "scratch" / "file")
    with (tmp_path / "scratch" / "hole").open("wb") as file:
        file.truncate(2**30)
    assert volumes.beyond_limit(scratch, tmp_path) == ""


def test_a_mount_point_that_would_be_made_on_the_machine_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shared with the machine"):
        setup_script(Isolation("overlay", ()), tmp_path, [Mount(tmp_path, "/dev/no-such-entry")], [])


def test_a_full_tmp_costs_a_few_processes_and_not_one_an_entry(tmp_path):
    for number in range(1200):
        (tmp_path / f"entry '{number}'").touch()
    script = setup_script(Isolation("links", ()), tmp_path / "run", [Mount(tmp_path, f"{tmp_path}/new/x")], [])
    linking = [line for line in script.splitlines() if line.startswith("ln ") and "entry" in line]
    assert len(linking) < 10  # as many as the longest command line allows
    assert sum(line.count("/.machine") for line in linking) == 1200


def test_memory_groups_leave_nothing_behind(tmp_path):
    memory = Memory.detect(tmp_path)
    if memory is None:
        pytest.skip("this kernel lets nobody make a memory group here")
    group = memory.limited("one", 64 * 2**20)
    assert not memory.killed(group)
    Memory.wipe(tmp_path)
    assert not memory.base.exists()
