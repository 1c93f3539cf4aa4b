"""Triton's, KServe's and MLServer's own clients get what the JSON API answers, bit for bit."""

from __future__ import annotations

import httpx
import pytest

import v2_clients
from modelworks import contract
from runtime import example_bundle
from runtime.running import SAME_PORT, Server, settings
from waiting import PATIENCE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TOKEN = "a-token-of-" + "thirty-two-characters"
ROWS = [row for row in example_bundle.rows(40, seed=3) if row["x1"] is not None]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    tokens = folder / "tokens"
    tokens.write_text(f"{TOKEN}\n", encoding="utf-8")
    variables = {
        contract.ENV_GRPC_PORT: SAME_PORT,
        contract.ENV_ALLOW_ANONYMOUS: "false",
        contract.ENV_TOKEN_FILE: str(tokens),
    }
    running = Server(settings(example_bundle.build(folder), **variables), folder / "log").ready()
    yield running
    running.stop()


@pytest.mark.parametrize("client", v2_clients.CLIENTS)
def test_a_client_with_a_token_gets_what_the_json_api_answers(server, v2_python, client):
    url, headers = f"http://127.0.0.1:{server.port}/v1/predict", {"Authorization": f"Bearer {TOKEN}"}
    expected = httpx.post(url, json={"rows": ROWS}, headers=headers, timeout=PATIENCE, trust_env=False)
    answered = v2_clients.ask(v2_python, client, f"127.0.0.1:{server.port}", "delays", ROWS, TOKEN)
    outputs = {name: [each[name] for each in expected.json()["predictions"]] for name in ("score", "label")}
    assert answered == dict.fromkeys(v2_clients.CLIENTS[client], outputs)
