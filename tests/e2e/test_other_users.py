"""Another user of the machine tries to get into a laptop cloud: everything that any local user may do."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import boto3
import httpx
import psutil
import pytest

from modelworks.errors import ModelworksError
from modelworks.laptop import cloud, control_plane, environments, supervisor
from modelworks.laptop.gateway import caddy
from modelworks.laptop.state_dir import StateDir, read_facts
from strangers import as_stranger, only_root
from waiting import PATIENCE, eventually

pytestmark = [pytest.mark.e2e, only_root]

SECRET = "hunter2-of-the-owner"


@pytest.fixture(scope="module")
def bucket(laptop):
    """An account of the owner's with a bucket; its client."""
    found = environments.environment_variables(laptop, "local")
    client = boto3.client("s3", endpoint_url=found["AWS_ENDPOINT_URL"], region_name=found["AWS_REGION"],
                          aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
                          aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
    client.create_bucket(Bucket="precious", CreateBucketConfiguration={"LocationConstraint": found["AWS_REGION"]})
    yield client
    client.delete_bucket(Bucket="precious")


@pytest.fixture(scope="module")
def secretive(laptop):
    """A pod with secrets in its variables, one of them with a name that no shell can hold."""
    pod = "/api/v1/namespaces/default/pods/secretive"
    variables = [{"name": "PASSWORD", "value": SECRET}, {"name": "db.password", "value": SECRET}]
    container = {"name": "c", "image": "none", "command": ["sleep", "77126"], "env": variables}
    with control_plane.client(laptop, read_facts(laptop.root / "laptop.json")["ports"]) as api:
        eventually(lambda: api.get("/api/v1/namespaces/default/serviceaccounts/default").status_code == 200)
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "secretive"}}
        body["spec"] = {"containers": [container]}
        control_plane.apply(api, pod, body)
        eventually(lambda: api.get(pod).json().get("status", {}).get("containerStatuses", [{}])[0].get("ready"))
        # The command comes after a program that sets the variable that no shell can hold.
        yield eventually(lambda: [p for p in _marked(laptop) if p.cmdline() == ["sleep", "77126"]])[0]
        api.delete(pod, params={"gracePeriodSeconds": 0})


def _marked(place):
    return [process for process in supervisor.leftovers(place) if process.is_running()]


def _standing(place) -> dict[tuple[str, int], str]:
    """Where the laptop cloud listens, with the name of the part, or of the process."""
    named = {port: name for name, port in read_facts(place.root / "laptop.json")["ports"].items()}
    named |= dict.fromkeys(read_facts(place.root / "laptop.json")["host_ports"], "gateway")
    named |= {environments.facts(place, each)["aws_port"]: "aws" for each in place.environments()}
    found = {}
    for process in _marked(place):
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    address = one.laddr.ip.removeprefix("::ffff:"), one.laddr.port
                    found[address] = named.get(address[1], process.name())
    return found


def _connection(address, *, tls, certificate=None, timeout):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # Of the older version, since there the handshake fails without a certificate, and not what is read after it.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    if certificate:
        context.load_cert_chain(f"{certificate}.crt", f"{certificate}.key")
    plain, secure = http.client.HTTPConnection, partial(http.client.HTTPSConnection, context=context)
    return contextlib.closing((secure if tls else plain)(*address, timeout=timeout))


def _status(address, *, tls, method="GET", path="/", **headers):
    """The status of an answer; None where there is none without credentials."""
    with _connection(address, tls=tls, timeout=20) as connection:
        try:
            connection.request(method, path, headers=headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


@dataclass(frozen=True)
class Part:
    """What a part serves, and to whom."""

    path: str
    refusals: frozenset[object]
    tls: bool = True
    certificate: str = ""
    """Whose certificate of the owner's it serves that path to."""


NO_HANDSHAKE = "no handshake"
PARTS = {
    "etcd": Part("/metrics", frozenset({NO_HANDSHAKE}), certificate="etcd-client"),
    "etcd-peer": Part("/members", frozenset({NO_HANDSHAKE}), certificate="etcd-client"),
    "apiserver": Part("/api/v1/namespaces/default/pods", frozenset({401}), certificate="admin"),
    "controller-manager": Part("/metrics", frozenset({401, 403}), certificate="admin"),
    "scheduler": Part("/metrics", frozenset({401, 403}), certificate="admin"),
    "agent": Part("/apis/metrics.k8s.io/v1beta1", frozenset({NO_HANDSHAKE}), certificate="kubelet-client"),
    "aws": Part("/precious", frozenset({403}), tls=False),
    # It serves every user, and has neither a route nor a certificate for a name that no Ingress has.
    "gateway": Part("/", frozenset({404, 421}), tls=False),
    "gateway-tls": Part("/", frozenset({NO_HANDSHAKE, 404, 421})),
}


def _outcome(address, part, certificate=None, **headers):
    """The status of the part's answer, or that it did not end the handshake; silence is an error, and no refusal."""
    with _connection(address, tls=part.tls, certificate=certificate, timeout=PATIENCE) as connection:
        try:
            connection.connect()
        except (ssl.SSLError, ConnectionResetError):
            return NO_HANDSHAKE
        connection.request("GET", part.path, headers=headers)
        return connection.getresponse().status


def _let_in(standing, **headers):
    """What strangers get at the places where the laptop cloud listens, and is no refusal."""
    found = {}
    for address, name in standing.items():
        named = {"Host": f"evil.example:{address[1]}", **headers} if headers else {}
        part = PARTS.get(name)
        if part and (outcome := _outcome(address, part, **named)) not in part.refusals:
            found[name, *address] = outcome
        for tls in {False, True} - ({part.tls} if part else set()):
            # 400 is TLS, asked in plain. A cluster address of the API server refuses as it does.
            if (status := _status(address, tls=tls, **named)) not in {None, 400, 401, 403}:
                found[name, *address, tls] = status
    return found


def test_parts_serve_their_owner_what_they_are_asked_for_here(laptop):
    """What another user is refused is there: else a refusal would say nothing."""
    pki = laptop.cluster / "pki"
    places = {name: address for address, name in _standing(laptop).items()}
    asked = {name: part for name, part in PARTS.items() if part.certificate}
    statuses = {name: _outcome(places[name], part, pki / part.certificate) for name, part in asked.items()}
    assert statuses == dict.fromkeys(asked, 200)


def test_no_standing_port_does_anything_for_another_user(laptop, bucket):
    """Neither in plain nor over TLS: each part refuses in its own way what it serves to its owner."""
    standing = _standing(laptop)
    assert {*read_facts(laptop.root / "laptop.json")["ports"], "aws"} == {*PARTS}
    assert {*PARTS} <= {*standing.values()}
    assert as_stranger(lambda: _let_in(standing)) == {}


def test_a_page_that_leads_its_own_name_to_a_standing_port_gets_nothing_from_it(laptop, bucket):
    """DNS rebinding: the browser sends the page's name in Host, and believes that it speaks to its own server."""
    standing = _standing(laptop)
    assert as_stranger(lambda: _let_in(standing, Origin="http://evil.example")) == {}


@pytest.mark.parametrize("path", ["/moto-api/reset", "/moto-api/data.json", "//moto-api/reset", "/x/../moto-api/reset"])
def test_another_user_can_neither_reset_nor_read_the_aws_account(laptop, bucket, path):
    port = environments.facts(laptop, "local")["aws_port"]
    methods = ("POST", "GET", "DELETE")
    statuses = as_stranger(
        lambda: [_status(("127.0.0.1", port), tls=False, method=each, path=path) for each in methods]
    )
    assert statuses == [403, 403, 403]
    assert "precious" in {each["Name"] for each in bucket.list_buckets()["Buckets"]}


def test_another_user_reads_no_secret_from_the_process_list(laptop, secretive):
    """Command lines are for everybody; environments, open files and working directories for the owner alone."""
    variables = environments.environment_variables(laptop, "local")
    secrets = [SECRET, variables["AWS_SECRET_ACCESS_KEY"], (laptop.environment("local") / "passphrase").read_text()]
    pids = [process.pid for process in _marked(laptop)]
    assert secretive.pid in pids

    def seen():
        text, opened = "", []
        for pid in pids:
            for name in ("cmdline", "comm", "status", "environ", "maps"):
                with contextlib.suppress(OSError):
                    text += Path(f"/proc/{pid}/{name}").read_bytes().decode("utf-8", "replace")
                    if name in {"environ", "maps"}:
                        opened.append((pid, name))
            for name in ("cwd", "root", "exe"):
                with contextlib.suppress(OSError):
                    opened.append((pid, Path(f"/proc/{pid}/{name}").readlink()))
        return text, opened

    text, opened = as_stranger(seen)
    assert "kube" in text
    assert [secret for secret in secrets if secret in text] == []
    assert opened == []


def test_another_user_enters_neither_the_folder_nor_a_socket(laptop):
    sockets = [supervisor.socket_path(laptop), caddy.admin_socket(laptop)]
    assert all(path.exists() for path in sockets)

    def tried():
        refused = []
        for path in sockets:
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
                refused.append(client.connect_ex(str(path)) == errno.EACCES)
        files = (laptop.root, laptop.cluster / "admin.kubeconfig", laptop.environment("local") / "passphrase")
        return [*refused, *(not os.access(path, os.R_OK) and not os.access(path, os.W_OK) for path in files)]

    assert as_stranger(tried) == [True] * 5


def test_another_user_ends_none_of_its_processes(laptop):
    pids = [process.pid for process in _marked(laptop)]

    def tried():
        ended = []
        for pid in pids:
            with contextlib.suppress(PermissionError):
                os.kill(pid, 0)
                ended.append(pid)
        return ended

    assert as_stranger(tried) == []


def test_up_and_down_of_another_user_leave_a_folder_alone(laptop):
    """With MODELWORKS_HOME at the owner's folder, or at any that is not theirs."""

    def tried():
        said = []
        for act in (cloud.up, cloud.down):
            try:
                act(StateDir(laptop.root))
                said.append("done")
            except (ModelworksError, OSError) as error:
                said.append(type(error).__name__)
        return said

    assert "done" not in as_stranger(tried)
    assert supervisor.running(laptop)


def test_a_token_or_certificate_is_asked_of_everybody(laptop):
    facts = read_facts(laptop.root / "laptop.json")
    url = f"https://127.0.0.1:{facts['ports']['apiserver']}"
    paths = ("/version", "/healthz", "/api", "/openapi/v3", "/api/v1/namespaces/default/pods")

    def tried():
        with httpx.Client(verify=False, trust_env=False, timeout=30) as client:
            return {path: client.get(url + path).status_code for path in paths}

    assert set(as_stranger(tried).values()) == {401}
    assert json.loads((laptop.root / "laptop.json").read_text()) == facts
