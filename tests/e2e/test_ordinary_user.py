"""The first run as an ordinary user has it: no root, nothing of root's home, and not even a name in /etc/passwd."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from e2e import ordinary_user
from e2e.ordinary_user import UID, Shell, become
from modelworks.laptop.state_dir import read_facts
from waiting import PATIENCE, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", name="home")
def _home():
    if os.getuid() != 0:
        pytest.skip("only root may become another user; every other test runs as this one")
    with ordinary_user.home() as folder:
        yield folder


@pytest.mark.parametrize("kind", ["none", "links"])
def test_the_reference_program_is_deployed_released_and_served_with_each_kind_of_isolation(home, kind):
    """From nothing to a prediction with one kind, and continued with the other where the machine allows it."""
    if kind == "links" and not _has_namespaces():
        pytest.skip("this machine allows no user namespaces")
    shell = Shell(home, kind)
    try:
        said = shell("quickstart")
        assert "flight-delay answers" in said
        assert ("no mount namespaces" in said) == (kind == "none")
        assert shell.node() == f"process://{kind}"
        if kind == "none":
            _is_good_enough_for_every_environment(shell)
        _takes_over_by_a_canary(shell)
        shell("laptop", "down", "--keep")
        assert shell.processes() == []
        other = Shell(home, "none" if kind == "links" else "")
        other("laptop", "up")
        expected = "process://links" if kind == "none" and _has_namespaces() else "process://none"
        eventually(lambda: other.node() == expected)  # until its agent reports, the node is that of before
        eventually(lambda: other.run("predict", "flight-delay", "--json").returncode == 0)
    finally:
        shell("laptop", "down")
    assert shell.processes() == []


def _is_good_enough_for_every_environment(shell: Shell) -> None:
    """The gates of the reference model are those of a product: they allow it where they count."""
    for environment in ("staging", "prod"):
        shell("gates", "flight-delay", "--env", environment)


def _takes_over_by_a_canary(shell: Shell) -> None:
    """Another run of the reference model, released while clients go on."""
    first = shell.answer()["version"]
    code = shell.checkout / "models" / "flight_delay" / "model.py"
    text = code.read_text(encoding="utf-8")
    code.write_text(re.sub(r"seed=(\d+)", lambda found: f"seed={int(found[1]) + 1}", text), encoding="utf-8")
    for step in ("train", "bundle", "register", "release"):
        shell(step, "flight-delay")
    with _asked(shell):
        shell("up", "local", "--yes")
        shell("rollout", "watch", "flight-delay")
    assert shell.answer()["version"] != first


@contextmanager
def _asked(shell: Shell) -> Iterator[None]:
    """Clients that never stop, and that get an answer each time."""
    port = read_facts(shell.checkout / ".modelworks" / "laptop.json")["ports"]["gateway"]
    url, host = f"http://127.0.0.1:{port}", {"Host": "flight-delay.local.localhost"}
    over, codes = threading.Event(), Counter[int]()
    with httpx.Client(base_url=url, headers=host, timeout=PATIENCE, trust_env=False) as client:
        body = client.get("/openapi.json").json()["paths"]["/v1/predict"]["post"]["requestBody"]
        content = body["content"]["application/json"]
        row = content["example"] if "example" in content else next(iter(content["examples"].values()))["value"]

        def ask() -> None:
            while not over.wait(0.05):
                codes[client.post("/v1/predict", json=row).status_code] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    assert set(codes) == {200}, codes


def test_a_private_copy_of_the_root_is_refused_to_an_ordinary_user_in_one_sentence(home):
    refused = Shell(home, "overlay").run("laptop", "up")
    assert refused.returncode == 1
    assert "error: MODELWORKS_ISOLATION is overlay, and this machine does not allow it" in refused.stdout


def _has_namespaces() -> bool:
    probe = [*become(UID), "unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0
