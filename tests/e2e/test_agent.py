"""The node agent on the real control plane: what a kubelet does, done with processes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import secrets
import shutil
import signal
import ssl
import struct
import subprocess
import termios
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from images_of_projects import lock_only_here
from modelworks.laptop import environments, toolchain
from modelworks.laptop.state_dir import StateDir
from waiting import eventually

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Cluster:
    """kubectl in a namespace of its own."""

    place: StateDir
    kubectl: str
    namespace: str

    def __call__(self, *arguments, stdin=None, check=True):
        config = f"--kubeconfig={self.place.cluster / 'admin.kubeconfig'}"
        done = subprocess.run(
            [self.kubectl, config, f"--namespace={self.namespace}", *arguments],  # the last of two namespaces holds
            input=stdin, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def make(self, kind, name, spec, version="v1", **more):
        body = {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name},
            **({"spec": spec} if spec else {}),
            **more,
        }
        self("apply", "-f", "-", stdin=json.dumps(body))

    def pod(self, name, command, *, pod=None, **container):
        one = {"name": "c", "image": "none", **({"command": command} if command else {}), **container}
        self.make("Pod", name, {"containers": [one], "terminationGracePeriodSeconds": 2, **(pod or {})})

    def get(self, kind, name):
        return json.loads(self("get", kind, name, "-o", "json"))

    def container(self, name):
        return (self.get("pod", name).get("status", {}).get("containerStatuses") or [{}])[0]

    def wait(self, condition, what):
        return eventually(condition, lambda: f"{what}\n{self('get', 'pods,events', '-o', 'wide')}", pause=0.2)

    def ended(self, name):
        return self.wait(lambda: self.container(name).get("state", {}).get("terminated"), f"{name} ends")

    def ready(self, name):
        return self.wait(lambda: self.container(name).get("ready"), f"{name} is ready")

    def reasons(self, name):
        events = json.loads(self("get", "events", f"--field-selector=involvedObject.name={name}", "-o", "json"))
        return {event["reason"] for event in events["items"]}


@pytest.fixture(scope="module")
def cluster(laptop):
    one = Cluster(laptop, str(toolchain.ensure(["kubectl"])["kubectl"]), f"agent-{os.getpid()}")
    one("create", "namespace", one.namespace)
    one.wait(lambda: one("get", "serviceaccount", "default", check=False), "service account")
    yield one
    one("delete", "namespace", one.namespace, "--wait=false")


def agent_process(place):
    return next(
        p for p in psutil.process_iter(["cmdline"])
        if "modelworks.laptop.agent" in (p.info["cmdline"] or []) and str(place.root) in p.info["cmdline"]
    )  # fmt: skip


def test_a_deployment_becomes_ready_and_answers_at_its_pods_address(cluster):
    container = {
        "name": "web", "image": "none",
        "command": ["python", "-m", "http.server", "8080", "--bind", "$(POD_IP)"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }  # fmt: skip
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 2},
    }
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    cluster.make("Deployment", "web", spec, "apps/v1")
    cluster("rollout", "status", "deployment/web", "--timeout=60s")
    pods = json.loads(cluster("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    assert len({pod["status"]["podIP"] for pod in pods}) == 2


def test_logs_are_told_with_their_times_and_from_a_time_on(cluster):
    cluster.pod("timed", ["sh", "-c", "echo before; sleep 4; echo after; sleep 60"])
    cluster.ready("timed")
    cluster.wait(lambda: "after" in cluster("logs", "timed"), "it says both")
    before, after = cluster("logs", "timed", "--timestamps").splitlines()
    assert (before.split()[1], after.split()[1]) == ("before", "after")
    moments = [datetime.fromisoformat(line.split()[0]) for line in (before, after)]
    assert 3 < (moments[1] - moments[0]).total_seconds() < 60
    between = moments[0] + timedelta(seconds=2)
    assert cluster("logs", "timed", f"--since-time={between.isoformat()}") == "after\n"
    assert cluster("logs", "timed", "--since=1h") == "before\nafter\n"


def test_a_volume_in_memory_is_shared_by_a_pods_containers_and_gone_with_it(cluster):
    mounts = [{"name": "memory", "mountPath": "/modelworks-memory"}]
    first = {"name": "first", "image": "none", "command": ["touch", "/modelworks-memory/left"], "volumeMounts": mounts}
    volumes = [{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}]
    look = "stat -f -c %T /modelworks-memory; ls /modelworks-memory"
    pod = {"volumes": volumes, "initContainers": [first], "restartPolicy": "Never"}
    cluster.pod("memory", ["sh", "-c", look], pod=pod, volumeMounts=mounts)
    cluster.ended("memory")
    kind, left = cluster("logs", "memory").split()
    assert left == "left"
    assert (kind == "tmpfs") != ("NotInMemory" in cluster.reasons("memory"))
    folder = cluster.place.node / "pods" / cluster.get("pod", "memory")["metadata"]["uid"]
    cluster("delete", "pod", "memory")
    cluster.wait(lambda: not folder.exists(), "its folder is gone")
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()


def test_volumes_appear_at_their_paths_and_nowhere_else(cluster):
    cluster.make("ConfigMap", "conf", None, data={"a": "from the map"})
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    cluster.make("PersistentVolumeClaim", "claim", claim)
    volumes = [
        {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "empty", "emptyDir": {}},
        {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
    ]
    mounts = [
        {"name": "conf", "mountPath": "/etc/modelworks-e2e"},
        {"name": "empty", "mountPath": "/modelworks-e2e/scratch"},
        {"name": "claim", "mountPath": "/modelworks-e2e/kept"},
    ]
    script = (
        "cat /etc/modelworks-e2e/a; echo; touch /modelworks-e2e/scratch/x /modelworks-e2e/kept/y; "
        "touch /etc/modelworks-e2e/z 2>/dev/null || echo read-only; ls /var/run/secrets/kubernetes.io/serviceaccount"
    )
    cluster.pod(
        "volumes", ["sh", "-c", script], volumeMounts=mounts, pod={"volumes": volumes, "restartPolicy": "Never"}
    )
    assert cluster.ended("volumes")["exitCode"] == 0
    assert cluster("logs", "volumes") == "from the map\nread-only\nca.crt\nnamespace\ntoken\n"
    assert not any(Path(path).exists() for path in ("/etc/modelworks-e2e", "/modelworks-e2e"))


def test_a_container_without_a_command_is_refused_with_the_reason(cluster):
    cluster.pod("bare", None)
    cluster.wait(lambda: "Failed" in cluster.reasons("bare"), "event")
    assert cluster.container("bare")["state"]["waiting"]["reason"] == "CommandRequired"


def test_too_much_memory_is_reported_as_oom_killed(cluster):
    script = "x = b'x' * (300 << 20); print(len(x))"
    limit = {"limits": {"memory": "64Mi"}}
    cluster.pod("greedy", ["python", "-c", script], resources=limit, pod={"restartPolicy": "Never"})
    ended = cluster.ended("greedy")
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_a_crash_loop_backs_off_and_counts(cluster):
    cluster.pod("crash", ["sh", "-c", "echo again; exit 3"])
    cluster.wait(
        lambda: cluster.container("crash").get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff",
        "loop",
    )
    found = cluster.container("crash")
    assert found["restartCount"] >= 1
    assert found["lastState"]["terminated"]["exitCode"] == 3
    assert cluster("logs", "crash") == "again\n"


def test_a_failed_liveness_probe_restarts_the_container(cluster):
    probe = {"exec": {"command": ["cat", "alive"]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1}
    cluster.pod("sick", ["sh", "-c", "touch alive; sleep 2; rm alive; sleep 1000"], livenessProbe=probe)
    cluster.wait(lambda: cluster.container("sick").get("restartCount", 0) >= 1, "restart")
    assert {"Unhealthy", "Killing"} <= cluster.reasons("sick")


def test_a_job_runs_to_completion(cluster):
    container = {"name": "c", "image": "none", "command": ["sh", "-c", "sleep 0.2"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    cluster.make("Job", "work", {"completions": 3, "parallelism": 2, "template": template}, "batch/v1")
    cluster("wait", "--for=condition=complete", "job/work", "--timeout=60s")


def test_a_daemon_set_has_a_pod_on_the_node_and_the_pods_machine_has_its_name(cluster):
    container = {"name": "c", "image": "none", "command": ["sh", "-c", "uname -n; sleep 1000"]}
    template = {"metadata": {"labels": {"app": "each"}}, "spec": {"containers": [container]}}
    cluster.make("DaemonSet", "each", {"selector": {"matchLabels": {"app": "each"}}, "template": template}, "apps/v1")
    cluster("rollout", "status", "daemonset/each", "--timeout=60s")
    (name,) = cluster("get", "pods", "-l", "app=each", "-o", "name").split()
    assert cluster("logs", name) == name.removeprefix("pod/") + "\n" == cluster("exec", name, "--", "uname", "-n")


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period_with_all_its_processes(cluster):
    script = "trap '' TERM; sleep 77123 & while true; do sleep 1; done"
    cluster.pod("stubborn", ["sh", "-c", script])
    cluster.ready("stubborn")
    cluster("delete", "pod", "stubborn", "--timeout=60s")
    assert not [p for p in psutil.process_iter(["cmdline"]) if "77123" in (p.info["cmdline"] or [])]


def test_a_killed_agent_is_restarted_adopts_what_runs_and_misses_no_exit(cluster):
    cluster.pod("steady", ["sleep", "1000"])
    cluster.pod("brief", ["sh", "-c", "sleep 3; exit 5"], pod={"restartPolicy": "Never"})
    cluster.ready("steady")
    cluster.ready("brief")
    before = cluster.container("steady")
    agent = agent_process(cluster.place)
    os.kill(agent.pid, signal.SIGKILL)
    assert cluster.ended("brief")["exitCode"] == 5
    assert agent_process(cluster.place).pid != agent.pid
    after = cluster.container("steady")
    assert (after["restartCount"], after["state"]) == (0, before["state"])
    cluster("delete", "pod", "steady", "--timeout=60s")


def test_a_pod_that_outlives_its_deadline_fails_with_the_reason(cluster):
    cluster.pod("late", ["sleep", "1000"], pod={"activeDeadlineSeconds": 2, "restartPolicy": "Never"})
    cluster.wait(lambda: cluster.get("pod", "late")["status"].get("reason") == "DeadlineExceeded", "deadline")
    assert cluster.get("pod", "late")["status"]["phase"] == "Failed"
    assert cluster.ended("late")


def test_pods_of_an_environments_namespace_find_its_aws_account_and_others_do_not(cluster):
    script = "echo ${AWS_ENDPOINT_URL:-none} $AWS_REGION"
    facts = environments.facts(cluster.place, "local")
    namespace = f"--namespace={facts['namespace']}"
    container = {"name": "c", "image": "none", "command": ["sh", "-c", script]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"}}
    body["spec"] = {"containers": [container], "restartPolicy": "Never", "automountServiceAccountToken": False}
    made = cluster("create", "namespace", facts["namespace"], check=False)
    # As the API server marks what an environment makes.
    cluster("label", "namespace", facts["namespace"], "modelworks.dev/environment=local", "--overwrite")
    cluster.wait(lambda: cluster("get", "serviceaccount", "default", namespace, check=False), "service account")
    cluster("apply", namespace, "-f", "-", stdin=json.dumps(body))
    cluster.pod("asks", ["sh", "-c", script], pod={"restartPolicy": "Never"})
    cluster("wait", namespace, "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=60s")
    cluster.ended("asks")
    assert cluster("logs", namespace, "asks") == f"http://127.0.0.1:{facts['aws_port']} {facts['region']}\n"
    assert cluster("logs", "asks").split() == ["none"]
    # Made by the administrator, it would be in the way of programs that declare it.
    cluster("delete", *(("namespace", facts["namespace"]) if made else ("pod", "asks", namespace)))


@pytest.fixture
def pictured(cluster, tmp_path, monkeypatch):
    """A namespace of an environment in whose project the folder of an image locks a package that is not ours."""
    folder = tmp_path / "images" / "tiny"
    folder.mkdir(parents=True)
    (tmp_path / "Pulumi.yaml").write_text("name: pictured\nruntime: python\n")
    lock_only_here(folder, "1.0")
    monkeypatch.chdir(tmp_path)
    environments.create(cluster.place, "pictured")
    name = f"pictured-{secrets.token_hex(4)}"
    cluster("create", "namespace", name)
    cluster("label", "namespace", name, "modelworks.dev/environment=pictured", "--overwrite")
    cluster.wait(lambda: cluster("get", "serviceaccount", "default", "-n", name, check=False), "service account")
    yield replace(cluster, namespace=name), folder
    cluster("delete", "namespace", name, "--wait=false")
    shutil.rmtree(cluster.place.environment("pictured"))


def test_a_container_runs_with_the_packages_that_the_folder_of_its_image_locks_and_no_others(pictured):
    cluster, folder = pictured
    image = f"registry.example/team/tiny@sha256:{'0' * 64}"
    script = (
        "import importlib.util, onlyhere\n"
        "print(onlyhere.VERSION, importlib.util.find_spec('modelworks'), importlib.util.find_spec('yaml'))"
    )
    cluster.pod("first", ["python", "-c", script], image=image, pod={"restartPolicy": "Never"})
    assert cluster.ended("first")["exitCode"] == 0
    assert cluster("logs", "first") == "1.0 None None\n"
    assert {"Pulling", "Pulled", "Started"} <= cluster.reasons("first")

    (folder / "uv.lock").unlink()
    cluster.pod("second", ["python", "-c", script], image=image, pod={"restartPolicy": "Never"})
    waiting = cluster.wait(
        lambda: cluster.container("second").get("state", {}).get("waiting", {}).get("message"), "why"
    )
    assert waiting == f"{folder / 'uv.lock'} is not there: run `uv lock` in {folder}"
    assert cluster.container("second")["state"]["waiting"]["reason"] == "ImagePullBackOff"
    lock_only_here(folder, "2.0")
    assert cluster.ended("second")["exitCode"] == 0
    assert cluster("logs", "second") == "2.0 None None\n"


def test_a_command_of_exec_and_of_a_probe_finds_the_packages_of_the_image(pictured):
    cluster, _ = pictured
    probe = {"exec": {"command": ["python", "-c", "import onlyhere"]}, "periodSeconds": 1}
    cluster.pod("inside", ["sleep", "1000"], image="tiny", readinessProbe=probe)
    cluster.ready("inside")
    script = "import onlyhere; print(onlyhere.VERSION)"
    assert cluster("exec", "inside", "--", "python", "-c", script) == "1.0\n"


def _burning(name, **resources):
    """A Deployment whose pod keeps a core busy and holds 40 MiB."""
    script = "x = b'x' * (40 << 20)\nwhile True: pass"
    container = {"name": "c", "image": "none", "command": ["python", "-c", script], "resources": resources}
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }
    return {"selector": {"matchLabels": {"app": name}}, "template": template}


def _top(cluster, *arguments):
    """Cores and bytes of what `kubectl top` prints."""
    _, cpu, memory = cluster("top", *arguments, "--no-headers").split()
    return int(cpu.removesuffix("m")) / 1000, int(memory.removesuffix("Mi")) << 20


def test_kubectl_top_shows_what_a_pod_uses(cluster):
    cluster.make("Deployment", "busy", _burning("busy"), "apps/v1")
    cluster.pod("idle", ["sleep", "1000"])
    cluster.wait(lambda: cluster("top", "pods", "-l", "app=busy", "--no-headers", check=False), "usage of busy")
    cluster.wait(lambda: cluster("top", "pod", "idle", "--no-headers", check=False), "usage of idle")
    cores, memory = _top(cluster, "pods", "-l", "app=busy")
    assert 0.02 < cores < 1.1
    assert 40 << 20 < memory < 80 << 20
    cores, memory = _top(cluster, "pod", "idle")
    assert cores < 0.02
    assert memory < 10 << 20
    assert "laptop" in cluster("top", "nodes")
    cluster("delete", "deployment/busy", "pod/idle", "--wait=false")


def test_an_autoscaler_adds_pods_under_load(cluster):
    cluster.make("Deployment", "scaled", _burning("scaled", requests={"cpu": "10m"}), "apps/v1")
    cluster("autoscale", "deployment", "scaled", "--cpu=50%", "--min=1", "--max=3")
    cluster("wait", "--for=jsonpath={.spec.replicas}=3", "deployment/scaled", "--timeout=100s")
    cluster("delete", "hpa/scaled", "deployment/scaled", "--wait=false")


def test_only_the_api_server_may_call_the_node(cluster):
    """Neither without a certificate nor with one of the cluster's other users."""
    facts = json.loads((cluster.place.root / "laptop.json").read_text())
    pki = cluster.place.cluster / "pki"
    url = f"https://127.0.0.1:{facts['ports']['agent']}/apis/metrics.k8s.io/v1beta1/nodes"
    tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    with pytest.raises(httpx.HTTPError):
        httpx.get(url, verify=tls, trust_env=False)
    tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    assert httpx.get(url, verify=tls, trust_env=False).status_code == 403


def _named_by(cluster, name, answer):
    """A pod that answers with a text on port 8080, behind a Service of its name on port 8099."""
    script = (
        "import http.server, os, sys\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())\n"
        "http.server.HTTPServer((os.environ['POD_IP'], 8080), Answer).serve_forever()"
    )
    cluster.pod(
        name, ["python", "-c", script, answer], pod={},
        env=[{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    )  # fmt: skip
    cluster("label", "pod", name, f"app={name}")
    cluster.make("Service", name, {"selector": {"app": name}, "ports": [{"port": 8099, "targetPort": 8080}]})


@pytest.fixture
def own_hosts(cluster):
    """Pods that have an /etc/hosts of their own."""
    runtime = cluster.get("node", "laptop")["status"]["nodeInfo"]["containerRuntimeVersion"]
    if runtime == "process://none":
        pytest.skip("without mount namespaces, /etc/hosts is the machine's")


def test_pods_call_each_other_by_the_names_of_services(cluster, own_hosts):
    """A name appears in a pod that runs already, and goes with its Service."""
    look = "curl -sf --retry 90 --retry-delay 1 --retry-all-errors --max-time 5"
    script = (
        f"{look} http://newcomer:8099; {look} http://newcomer.{cluster.namespace}.svc.cluster.local:8099; "
        "while grep -q newcomer /etc/hosts; do sleep 0.2; done; echo gone"
    )
    cluster.pod("caller", ["sh", "-c", script], pod={"restartPolicy": "Never"})
    cluster.ready("caller")
    _named_by(cluster, "newcomer", "reached;")
    cluster.wait(lambda: cluster("logs", "caller") == "reached;reached;", "both calls are answered")
    cluster("delete", "service", "newcomer")
    assert cluster.ended("caller")["exitCode"] == 0
    assert cluster("logs", "caller") == "reached;reached;gone\n"


def test_the_address_of_a_service_leads_to_its_ready_pods_only(cluster):
    _named_by(cluster, "steadfast", "here")
    cluster.ready("steadfast")
    address = cluster.get("service", "steadfast")["spec"]["clusterIP"]
    url = f"http://{address}:8099"
    cluster.wait(lambda: _answer(url) == "here", "the Service answers")
    cluster("delete", "pod", "steadfast")
    cluster.wait(lambda: _answer(url) is None, "the Service refuses connections")
    cluster("delete", "service", "steadfast")


def _answer(url):
    """None where nothing listens."""
    try:
        return httpx.get(url, trust_env=False).text
    except httpx.ConnectError:
        return None


LOWEST_PORT = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


@pytest.mark.skipif(os.geteuid() != 0 and LOWEST_PORT > 443, reason="only root may listen on port 443")
def test_a_pod_reaches_the_api_server_by_its_name(cluster, own_hosts):
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = f"curl -s --cacert {token}/ca.crt https://kubernetes.default.svc/version -o /dev/null -w '%{{http_code}}'"
    cluster.pod("insider", ["sh", "-c", script], pod={"restartPolicy": "Never"})
    cluster.ended("insider")
    assert cluster("logs", "insider") == "401"


@pytest.fixture(scope="module")
def shell(cluster):
    """A pod that writes a line a second and has a volume at /modelworks-shell."""
    cluster.pod(
        "shell",
        ["sh", "-c", "while true; do echo tick; sleep 1; done"],
        env=[{"name": "GREETING", "value": "hello"}, {"name": "KEPT", "value": "/modelworks-shell"}],
        volumeMounts=[{"name": "kept", "mountPath": "/modelworks-shell"}],
        pod={"volumes": [{"name": "kept", "emptyDir": {}}]},
    )
    cluster.ready("shell")
    yield "shell"
    cluster("delete", "pod", "shell", "--wait=false")


def _kubectl(cluster, *arguments):
    config = f"--kubeconfig={cluster.place.cluster / 'admin.kubeconfig'}"
    return [cluster.kubectl, config, f"--namespace={cluster.namespace}", *arguments]


def test_exec_runs_where_the_container_runs_and_its_exit_code_arrives(cluster, shell):
    script = "echo $GREETING; test -d $KEPT && echo kept; echo wrong >&2; exit 7"
    argv = _kubectl(cluster, "exec", shell, "--", "sh", "-c", script)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (7, "hello\nkept\n")
    assert done.stderr.startswith("wrong\n")


def test_exec_has_standard_input_to_its_end(cluster, shell):
    assert cluster("exec", "-i", shell, "--", "wc", "-c", stdin="x" * 3_000_000).strip() == "3000000"


def test_a_command_ends_with_the_kubectl_that_runs_it(cluster, shell):
    kubectl = subprocess.Popen(_kubectl(cluster, "exec", shell, "--", "sleep", "77124"))
    cluster.wait(lambda: _running("77124", "exec"), "it runs")
    kubectl.kill()
    kubectl.wait()
    cluster.wait(lambda: not _running("77124", "exec"), "it has ended")


def _running(word, besides):
    """Processes with an argument, those of kubectl not counted."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if word in line and besides not in line]


def test_a_terminal_has_the_size_of_ours(cluster, shell):
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 133, 0, 0))
    script = "until [ \"$(stty size)\" = '41 133' ]; do sleep 0.1; done; test -t 1; exit $(( 40 + $? ))"
    argv = _kubectl(cluster, "exec", "-it", shell, "--", "sh", "-c", script)
    with os.fdopen(ours), os.fdopen(theirs):
        done = subprocess.run(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, timeout=60, check=False
        )
    assert done.returncode == 40


def test_files_are_copied_both_ways(cluster, shell, tmp_path, own_hosts):
    (tmp_path / "there").write_bytes(content := os.urandom(2_000_000))
    cluster("cp", str(tmp_path / "there"), f"{shell}:/modelworks-shell/file")
    cluster("cp", f"{shell}:/modelworks-shell/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content


def test_attach_shows_what_a_container_writes_from_now_on(cluster, shell):
    attached = subprocess.Popen(_kubectl(cluster, "attach", shell), stdout=subprocess.PIPE, text=True)
    assert [attached.stdout.readline() for _ in range(2)] == ["tick\n"] * 2
    attached.kill()
    attached.communicate()


def test_port_forward_reaches_a_pod_behind_a_service(cluster):
    _named_by(cluster, "forwarded", "through")
    cluster.ready("forwarded")
    argv = _kubectl(cluster, "port-forward", "service/forwarded", ":8099", "--address=127.0.0.1")
    forwarding = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    port = re.search(r"127.0.0.1:(\d+)", forwarding.stdout.readline())[1]
    url = f"http://127.0.0.1:{port}"
    assert [httpx.get(url, trust_env=False).text for _ in range(3)] == ["through"] * 3
    forwarding.kill()
    forwarding.communicate()
    cluster("delete", "service/forwarded", "pod/forwarded", "--wait=false")
