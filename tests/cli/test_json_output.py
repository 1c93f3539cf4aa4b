"""The documented keys of `--json` are those that the commands print."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import typer.main
from typer.testing import CliRunner

from modelworks import cli
from modelworks.cli import compare, quickstart, verify
from modelworks.cli.json_output import ENDPOINT, JSON_OUTPUT, OPEN
from modelworks.cli.lineage import facts_of
from modelworks.cli.status import Told
from modelworks.cluster.rollout import Status
from modelworks.deploy.preview import Preview
from modelworks.features.materialization import Materialized
from modelworks.features.plan import Change
from modelworks.features.served import Skew
from modelworks.laptop.state_dir import StateDir
from modelworks.laptop.status import condition
from modelworks.laptop.toolchain import states
from modelworks.lifecycle.checks import CheckReport
from modelworks.lifecycle.gates import GateReport
from modelworks.lifecycle.rebuild import Rebuilt
from modelworks.lifecycle.version import Version, lineage_of

cli._register()


def with_json(command, path=()):
    if not (inner := getattr(command, "commands", None)):
        return [" ".join(path)] if any("--json" in parameter.opts for parameter in command.params) else []
    return [name for key in inner for name in with_json(inner[key], (*path, key))]


def version():
    run = SimpleNamespace(model="m", run="r", metrics={}, origin={}, inputs=dict.fromkeys(["data", "code", "lock"], ""))
    run.inputs |= {"parameters": {}, "seed": 0}
    bundle = SimpleNamespace(digest="sha256:1", served="onnx")
    facts = lineage_of(run, bundle, GateReport("m", "r", "sha256:1", "dev", "", ()), project="")
    return Version("m", 1, {**facts, "registered_at": ""})


PRINTED = {
    "preview": {**Preview("dev", (), 0, ()).facts(), "failed": False},
    "check-data": CheckReport("m", "sha256:1", 0, "", (), (), ()).to_facts(),
    "gates": GateReport("m", "r", "sha256:1", "dev", "", ()).to_facts(),
    "compare": asdict(compare.Difference(declared=True, path="", here=1, there=2)),
    "features plan": asdict(Change("add", "view", "")),
    "features materialize": asdict(Materialized("view", None, datetime.now(UTC), 1, 0, 0, None)),
    "features backfill": asdict(Materialized("view", None, datetime.now(UTC), 1, 0, 0, None)),
    "features verify": asdict(Skew("view", "feature", 1, 0, 0)),
    "registry rebuild": asdict(Rebuilt("m", "present")),
    "register": facts_of(version()),
    "laptop toolchain": states()[0].facts(),
}


@pytest.mark.parametrize(("command", "printed"), PRINTED.items())
def test_the_documented_keys_are_printed(command, printed):
    assert {*JSON_OUTPUT[command]} == {*printed}


def test_the_documented_keys_of_an_endpoint_are_printed():
    assert {*ENDPOINT} == {*Told(Status("m", "Healthy", "", ""), "").facts()}


def test_the_documented_keys_of_a_finding_are_its_fields():
    documented = JSON_OUTPUT["verify"]["findings"]
    assert [field.name for field in fields(verify.Finding) if f"`{field.name}`" not in documented] == []


def test_the_documented_keys_of_the_laptop_are_printed(monkeypatch, tmp_path):
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    assert {*JSON_OUTPUT["laptop status"]} == {*condition(StateDir.here())}


def test_the_documented_keys_of_the_quickstart_are_printed(monkeypatch):
    story = (SimpleNamespace(models={"flight-delay": "http://x"}), {}, {})
    monkeypatch.setattr(quickstart, "_local_server", lambda *_: SimpleNamespace(answer=None, close=lambda: None))
    monkeypatch.setattr(quickstart, "_story", lambda *_: story)
    done = CliRunner().invoke(cli.app, ["quickstart", "--json"])
    assert {*JSON_OUTPUT["quickstart"]} == {*json.loads(done.stdout)}


def test_every_command_with_json_is_documented():
    assert {*with_json(typer.main.get_command(cli.app))} == {*JSON_OUTPUT, *OPEN}
