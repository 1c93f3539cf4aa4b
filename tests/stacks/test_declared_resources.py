"""What the reference program declares, held to a record: resources, inputs, options and outputs, for each stack.

A change of the components that is to change nothing leaves these files alone. One that is to change something writes
them anew, and their diff is what a reviewer reads:

    RECORD_DECLARED=1 .venv/bin/pytest tests/stacks/test_declared_resources.py
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mocks import Declared
from reference import FILES, SECRETS, evaluated

RECORDS = Path(__file__).parent / "declared"
RELEASES = {"flight-delay": {"digest": "sha256:" + "ab" * 32, "version": 3}}
TOKENS = {"flight-delay": "t0ken"}


@pytest.fixture(autouse=True)
def _no_laptop(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PULUMI_", "AWS_"))]:
        monkeypatch.delenv(name)


def record(declared: Declared) -> str:
    """All that was asked for, resource by resource, without what differs from one lock or checkout to the next."""
    resources = {_settled(urn): _settled(_of_any_lock(asked)) for urn, asked in declared.requests().items()}
    return json.dumps(resources, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _of_any_lock(asked: dict[str, Any]) -> dict[str, Any]:
    return asked | ({"version": "(of the lock)"} if "version" in asked else {})


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        # Dependencies are a set; the SDK sends them in the order in which they happened to be known.
        return {
            name: sorted(_settled(item)) if name in {"dependencies", "urns"} else _settled(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_settled(item) for item in value]
    if isinstance(value, str):
        short = re.sub(r"^urn:pulumi:[\w-]+::modelworks::", "", value)
        return re.sub(r"(modelworks\.invalid/\w+@sha256:)[0-9a-f]{64}", r"\1(of the lock)", short)
    return value


@pytest.mark.parametrize("stack", FILES)
def test_a_stack_declares_what_its_record_holds(stack):
    secrets = {**SECRETS, "tokens": TOKENS}
    found = record(evaluated(stack, **{"modelworks:releases": RELEASES, "modelworks:secrets": secrets}))
    path = RECORDS / f"{stack}.json"
    if os.environ.get("RECORD_DECLARED"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_a_record_holds_the_endpoint_and_the_options_that_matter():
    rollout = "modelworks:index:ModelEndpoint$kubernetes:argoproj.io/v1alpha1:Rollout::flight-delay"
    recorded = json.loads((RECORDS / "prod.json").read_text(encoding="utf-8"))
    assert recorded[rollout]["ignoreChanges"] == ["spec.replicas"]
    assert recorded[rollout]["parent"].endswith("modelworks:index:ModelEndpoint::flight-delay")
    assert recorded["modelworks:index:ModelEndpoint$kubernetes:core/v1:Secret::flight-delay-tokens"]["object"][
        "stringData"
    ] == {"tokens": {"(secret)": "t0ken"}}
