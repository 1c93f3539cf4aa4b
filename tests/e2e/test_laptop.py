"""The laptop cloud as a user has it: up, killed at every part, interrupted, kept, and gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import psutil
import pytest

from modelworks.laptop import cloud, control_plane, environments, supervisor, toolchain
from modelworks.laptop.agent import cgroup
from modelworks.laptop.state_dir import StateDir, read_facts
from modelworks.laptop.status import condition
from waiting import PATIENCE, eventually

pytestmark = pytest.mark.e2e


def _pids(place):
    return {info["name"]: info["pid"] for info in supervisor.processes(place) if info["statename"] == "RUNNING"}


def _api(place):
    return control_plane.client(place, read_facts(place.root / "laptop.json")["ports"])


def _kubectl(place, *args):
    kubectl = read_facts(place.root / "laptop.json")["tools"]["kubectl"]
    kubeconfig = place.environment("local") / "kubeconfig"
    return subprocess.run(
        [kubectl, "--kubeconfig", kubeconfig, *args], capture_output=True, text=True, timeout=60, check=False
    )


def _command(place, *args, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", "from modelworks.cli import main; main()", "laptop", *args],
        env={**os.environ, "MODELWORKS_HOME": str(place.root), **variables},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_a_second_up_starts_nothing_and_says_so(laptop):
    # Tests that ran before on this cloud may have killed parts, which run again a second after their start.
    eventually(lambda: set(PARTS) == set(_pids(laptop)))
    before, said = _pids(laptop), []
    cloud.up(laptop, report=said.append)
    assert _pids(laptop) == before
    assert said[-1] == "the laptop cloud is up already: local"


PARTS = (
    *("etcd", "apiserver", "controller-manager", "scheduler", "rollouts-local"),
    *("aws-local", "agent", "caddy", "gateway"),
)


@pytest.mark.parametrize("name", PARTS)
def test_a_killed_part_comes_back_and_the_cloud_goes_on(laptop, name):
    pid = _pids(laptop)[name]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _pids(laptop).get(name) not in {None, pid})
    with _api(laptop) as api:
        eventually(lambda: control_plane.ready(api))
        data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "after"}, "data": {"killed": name}}
        control_plane.apply(api, "/api/v1/namespaces/default/configmaps/after", data)
        assert api.get("/api/v1/namespaces/default/configmaps/after").json()["data"] == {"killed": name}


def test_nothing_listens_beyond_loopback(laptop):
    pids = set(_pids(laptop).values())
    listening = [c.laddr.ip for c in psutil.net_connections("inet") if c.pid in pids and c.status == psutil.CONN_LISTEN]
    assert listening
    assert {ip for ip in listening if not ip.removeprefix("::ffff:").startswith("127.")} == set()


def test_no_provider_stands_by(laptop):
    assert not [name for name in _pids(laptop) if "provider" in name or "plugin" in name]
    assert "PULUMI_DEBUG_PROVIDERS" not in environments.environment_variables(laptop, "local")


def test_no_secret_is_in_the_process_list(laptop):
    shown = " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in _pids(laptop).values())
    variables = environments.environment_variables(laptop, "local")
    passphrase = (laptop.environment("local") / "passphrase").read_text()
    assert variables["AWS_SECRET_ACCESS_KEY"] not in shown
    assert passphrase not in shown


def test_every_file_with_a_secret_is_private(laptop):
    secret = [
        *laptop.cluster.rglob("*.key"),
        *laptop.root.rglob("*kubeconfig"),
        laptop.environment("local") / "passphrase",
    ]
    assert {path.stat().st_mode & 0o077 for path in secret} == {0}
    assert laptop.root.stat().st_mode & 0o077 == 0


def test_an_environments_user_makes_namespaces_and_deploys_and_does_not_administer_the_laptop(laptop):
    assert _kubectl(laptop, "create", "namespace", "made").returncode == 0
    assert _kubectl(laptop, "create", "deployment", "d", "--image=none", "-n", "made").returncode == 0
    assert _kubectl(laptop, "delete", "namespace", "made", "--wait=false").returncode == 0
    refused = _kubectl(laptop, "create", "deployment", "d", "--image=none", "-n", "default").stderr
    assert "namespace default belongs to the laptop cloud itself" in refused
    assert "belongs to the laptop cloud itself" in _kubectl(laptop, "delete", "node", "laptop").stderr
    assert _kubectl(laptop, "auth", "can-i", "impersonate", "users").stdout == "no\n"


def test_nobody_anonymous_is_let_in(laptop):
    with _api(laptop) as api:
        url = str(api.base_url)
    answer = subprocess.run(
        [sys.executable, "-c", f"import httpx; print(httpx.get('{url}/version', verify=False).status_code)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout == "401\n"


def test_pod_security_is_enforced_where_a_namespace_asks_for_it(laptop):
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    pod = {"metadata": {"name": "bad"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    with _api(laptop) as api:
        api.post("/api/v1/namespaces", json={"metadata": {"name": "strict", "labels": label}})
        refused = api.post("/api/v1/namespaces/strict/pods", json=pod)
        api.delete("/api/v1/namespaces/strict")
    assert refused.status_code == 403
    assert 'violates PodSecurity "restricted' in refused.json()["message"]


def test_a_service_accounts_token_is_one_the_api_server_knows(laptop):
    path = "/api/v1/namespaces/default/serviceaccounts/default"
    with _api(laptop) as api:
        eventually(lambda: api.get(path).status_code == 200)
        token = api.post(f"{path}/token", json={"spec": {"expirationSeconds": 600}}).json()["status"]["token"]
        review = api.post("/apis/authentication.k8s.io/v1/tokenreviews", json={"spec": {"token": token}}).json()
    assert review["status"]["user"]["username"] == "system:serviceaccount:default:default"


def test_status_counts_what_is_up_and_says_what_is_not_enforced(laptop):
    found = condition(laptop)
    assert found["up"]
    assert found["environments"][0]["name"] == "local"
    assert any("network policies" in line for line in found["not_enforced"])
    assert found["recorded_not_emulated"]


def test_what_is_in_the_cluster_survives_down_with_keep(empty_place):
    cloud.up(empty_place)
    path = "/api/v1/namespaces/default/configmaps/kept"
    with _api(empty_place) as api:
        control_plane.apply(api, path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}})
    cloud.down(empty_place, keep=True)
    assert not supervisor.leftovers(empty_place)
    cloud.up(empty_place)
    with _api(empty_place) as api:
        assert api.get(path).status_code == 200


def test_down_leaves_no_process_mount_port_control_group_or_file_of_pods(empty_place):
    cloud.up(empty_place)
    container = {
        "name": "c",
        "image": "none",
        "command": ["sh", "-c", "python -m http.server 8000 --bind $(POD_IP) & exec sleep 88123"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "resources": {"limits": {"memory": "128Mi"}},
        "volumeMounts": [{"name": "scratch", "mountPath": "/modelworks-e2e-down"}],
    }
    spec = {"containers": [container], "volumes": [{"name": "scratch", "emptyDir": {}}]}
    pod = "/api/v1/namespaces/default/pods/left"
    with _api(empty_place) as api:
        eventually(lambda: api.get("/api/v1/namespaces/default/serviceaccounts/default").status_code == 200)
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "left"}, "spec": spec}
        control_plane.apply(api, pod, body)
        eventually(lambda: api.get(pod).json().get("status", {}).get("containerStatuses", [{}])[0].get("ready"))
    facts = read_facts(empty_place.root / "laptop.json")
    ports, network = {*facts["ports"].values()}, facts["pod_network"].removesuffix("0.0/16")
    cloud.down(empty_place)
    assert not supervisor.leftovers(empty_place)
    assert not [each for each in psutil.process_iter(["cmdline"]) if "88123" in (each.info["cmdline"] or [])]
    mine = os.fsencode(empty_place.root)
    assert mine not in Path("/proc/self/mountinfo").read_bytes()
    listening = [c.laddr for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert not [address for address in listening if address.port in ports or address.ip.startswith(network)]
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{cgroup._name(empty_place.root)}"))
    assert not empty_place.root.exists()
    assert not supervisor.socket_path(empty_place).exists()


def test_down_leaves_nothing_even_when_the_supervisor_was_killed(empty_place):
    cloud.up(empty_place, kubernetes=False)
    os.kill(int((empty_place.run / "supervisord.pid").read_text()), signal.SIGKILL)
    eventually(lambda: not supervisor.running(empty_place))
    cloud.down(empty_place)
    assert not supervisor.leftovers(empty_place)
    assert not empty_place.root.exists()


def test_up_takes_over_when_the_supervisor_was_killed(empty_place):
    cloud.up(empty_place, kubernetes=False)
    os.kill(int((empty_place.run / "supervisord.pid").read_text()), signal.SIGKILL)
    eventually(lambda: not supervisor.running(empty_place))
    cloud.up(empty_place, kubernetes=False)
    assert condition(empty_place)["up"]


def _listens(place):
    port = read_facts(place.environment("local") / "environment.json").get("aws_port")
    with socket.socket() as client:
        return bool(port) and client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(lambda place: place.logs.exists(), id="its folders are there"),
        pytest.param(lambda place: (place.run / "supervisord.pid").exists(), id="its supervisor runs"),
        pytest.param(_listens, id="its first port is open"),
    ],
)
def test_an_interrupted_first_up_leaves_nothing(empty_place, begun):
    command = _command(empty_place, "up")
    eventually(lambda: begun(empty_place))
    os.kill(command.pid, signal.SIGINT)
    assert command.wait(PATIENCE) != 0
    assert not supervisor.leftovers(empty_place)
    assert not empty_place.root.exists()


def test_two_ups_at_once_make_one_cloud(empty_place):
    commands = [_command(empty_place, "up", "--aws-only"), _command(empty_place, "up", "dev", "--aws-only")]
    assert [command.wait(PATIENCE) for command in commands] == [0, 0]
    assert empty_place.environments() == ["dev", "local"]
    assert {"aws-dev", "aws-local"} <= set(_pids(empty_place))


def test_two_laptop_clouds_that_share_no_file_come_up_at_once(empty_place, tmp_path):
    """As those of two users: neither sees what the other one notes in its cache."""
    both = [StateDir(empty_place.root / name) for name in ("one", "two")]
    for place in both:
        (tmp_path / place.root.name / "modelworks").mkdir(parents=True)
        (tmp_path / place.root.name / "modelworks" / "toolchain").symlink_to(toolchain.cache_folder())
    try:
        commands = [
            _command(place, "up", "--aws-only", XDG_CACHE_HOME=str(tmp_path / place.root.name)) for place in both
        ]
        assert [command.wait(PATIENCE) for command in commands] == [0, 0]
        assert [condition(place)["up"] for place in both] == [True, True]
        networks = [read_facts(place.root / "laptop.json")["pod_network"] for place in both]
        assert len(set(networks)) == 2
        ports = [environments.used_ports(place) for place in both]
        assert ports[0].isdisjoint(ports[1])
    finally:
        for place in both:
            cloud.down(place)


def test_each_environment_is_an_aws_account_of_its_own(empty_place):
    cloud.up(empty_place, ["dev", "staging"], kubernetes=False)
    buckets = {}
    for name in ("dev", "staging"):
        found = environments.environment_variables(empty_place, name)
        client = boto3.client(
            "s3",
            endpoint_url=found["AWS_ENDPOINT_URL"],
            region_name=found["AWS_REGION"],
            aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=f"of-{name}", CreateBucketConfiguration={"LocationConstraint": found["AWS_REGION"]})
        buckets[name] = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    assert buckets == {"dev": ["of-dev"], "staging": ["of-staging"]}


def test_a_path_that_is_too_long_for_a_socket_works(empty_place):
    place = type(empty_place)(Path(empty_place.root) / ("x" * 100))
    try:
        cloud.up(place, kubernetes=False)
        assert condition(place)["up"]
        sockets = supervisor.socket_path(place).parent
        assert sockets != place.run
    finally:
        cloud.down(place)
    assert not sockets.exists()
