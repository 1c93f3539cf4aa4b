"""The uptime check: what counts as an answer, and how hosts are found where no name server knows them."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from emulated import emulator
from modelworks import contract
from modelworks.laptop import pki
from modelworks.runtime import uptime
from waiting import eventually

HOST = "flight-delay.example.com"
SERIES = {"environment": "dev", "model": "flight-delay"}


class Gateway:
    """A load balancer: the status that a test states, and the hosts and pages that were requested."""

    def __init__(self, certificate: pki.Pair | None = None, folder=None) -> None:
        self.status, self.requests = 200, list[tuple[str, str]]()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gateway.requests.append((self.headers["host"], self.path))
                self.send_response(gateway.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            for name, text in (("key", certificate.key), ("crt", certificate.certificate)):
                (folder / name).write_text(text)
            context.load_cert_chain(folder / "crt", folder / "key")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway():
    found = Gateway()
    yield found
    found.close()


@pytest.fixture
def authority(tmp_path):
    found = pki.new_authority("tests")
    (tmp_path / "root.crt").write_text(found.certificate)
    return found


def by(**found: str) -> str:
    return json.dumps(found)


def over_tls(authority, folder, *hosts: str) -> Gateway:
    return Gateway(pki.issue(authority, "gateway", hosts=hosts), folder)


def test_a_page_is_requested_by_the_name_of_its_host(gateway):
    assert uptime.why_unanswered(f"http://{HOST}/readyz", gateway=by(http=gateway.address)) == ""
    assert gateway.requests == [(HOST, "/readyz")]


def test_without_a_gateway_the_host_is_looked_up(gateway):
    assert uptime.why_unanswered(f"http://{gateway.address}/readyz") == ""
    assert uptime.why_unanswered("http://nobody.invalid/readyz").startswith(
        "http://nobody.invalid/readyz is not answered: "
    )


@pytest.mark.parametrize("status", [301, 404, 502, 503])
def test_any_other_status_than_200_is_no_answer(gateway, status):
    gateway.status = status
    said = uptime.why_unanswered(f"http://{HOST}/readyz", gateway=by(http=gateway.address))
    assert said == f"http://{HOST}/readyz is answered {status}"


def test_a_gateway_that_is_gone_is_no_answer():
    gone = Gateway()
    gone.close()
    said = uptime.why_unanswered(f"http://{HOST}/health", gateway=by(http=gone.address))
    assert said.startswith(f"http://{HOST}/health is not answered: ")


def test_over_tls_the_certificate_must_be_that_of_the_host(authority, tmp_path):
    gateway = over_tls(authority, tmp_path, HOST)
    try:
        found = by(https=gateway.address, authority=str(tmp_path / "root.crt"))
        assert uptime.why_unanswered(f"https://{HOST}/readyz", gateway=found) == ""
        said = uptime.why_unanswered("https://other.example.com/readyz", gateway=found)
    finally:
        gateway.close()
    assert "certificate is not valid for 'other.example.com'" in said
    assert gateway.requests == [(HOST, "/readyz")]


def test_a_certificate_that_nobody_trusts_is_no_answer(authority, tmp_path):
    gateway = over_tls(authority, tmp_path, HOST)
    try:
        said = uptime.why_unanswered(f"https://{HOST}/readyz", gateway=by(https=gateway.address))
    finally:
        gateway.close()
    assert "CERTIFICATE_VERIFY_FAILED" in said


def test_the_program_publishes_answers_and_their_absence_and_says_each_change_once(gateway, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with emulator() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv(contract.ENV_GATEWAY, by(http=gateway.address))
        cloudwatch = boto3.client("cloudwatch")
        order = ["--every-seconds=0.05", "--namespace=modelworks", "--dimension=environment=dev"]
        process = subprocess.Popen(
            [sys.executable, "-m", "modelworks.runtime.uptime", *order, "--dimension=model=flight-delay",
             f"http://{HOST}/readyz"],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            eventually(lambda: published(cloudwatch)["Maximum"] == 1.0)
            gateway.status = 503
            eventually(lambda: published(cloudwatch)["Minimum"] == 0.0)
        finally:
            process.terminate()
            said = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 143
    assert said == [f"http://{HOST}/readyz is answered", f"http://{HOST}/readyz is answered 503"]


def published(cloudwatch) -> dict[str, float]:
    """Least and most of what was published in the last hour."""
    now = datetime.now(UTC)
    found = cloudwatch.get_metric_statistics(
        Namespace=contract.METRIC_NAMESPACE,
        MetricName=contract.METRIC_ANSWERED,
        Dimensions=[{"Name": name, "Value": value} for name, value in SERIES.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=7200,
        Statistics=["Minimum", "Maximum"],
    )["Datapoints"]
    return {
        "Minimum": min((each["Minimum"] for each in found), default=9.0),
        "Maximum": max((each["Maximum"] for each in found), default=-9.0),
    }
