"""Another user of the machine tries to get into a laptop cloud: everything that any local user may do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
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
from waiting import eventually

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
    found = {}
    for process in _marked(place):
        with contextlib.suppress(psutil.Error):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    address = one.laddr.ip.removeprefix("::ffff:"), one.laddr.port
                    found[address] = named.get(address[1], process.name())
    return found


def _status(address, *, tls, method="GET", path="/", **headers):
    """The status of an answer; None where there is none without credentials."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain, secure = http.client.HTTPConnection, partial(http.client.HTTPSConnection, context=context)
    connection = (secure if tls else plain)(*address, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _let_in(statuses):
    """Those that are no refusal. 400 is TLS, asked in plain; 404 and 421 are the gateway, which has nothing there."""
    return {key: status for key, status in statuses.items() if status not in {None, 400, 401, 403, 404, 421}}


def test_no_standing_port_does_anything_for_another_user(laptop):
    """Neither in plain nor over TLS: no answer at all, or a refusal; the gateway has no route for them."""
    standing = _standing(laptop)
    assert {"apiserver", "etcd", "agent", "gateway"} <= set(standing.values())

    def tried():
        return {
            (name, *address, tls): _status(address, tls=tls)
            for address, name in standing.items()
            for tls in (False, True)
        }

    assert _let_in(as_stranger(tried)) == {}


def test_a_page_that_leads_its_own_name_to_a_standing_port_gets_nothing_from_it(laptop):
    """DNS rebinding: the browser sends the page's name in Host, and believes that it speaks to its own server."""
    standing = _standing(laptop)

    def tried():
        return {
            (name, *address, tls): _status(
                address, tls=tls, Host=f"evil.example:{address[1]}", Origin="http://evil.example"
            )
            for address, name in standing.items()
            for tls in (False, True)
        }

    assert _let_in(as_stranger(tried)) == {}


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
                refused.append(client.connect_ex(str(path)) != 0)
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
