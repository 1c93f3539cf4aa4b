"""What `modelworks laptop status` shows of the differences from a cloud."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.laptop import aws, status
from modelworks.laptop.agent import traffic
from modelworks.laptop.state_dir import StateDir

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "laptop-aws.md"


@pytest.fixture
def place(tmp_path):
    place = StateDir(tmp_path / "place")
    place.root.mkdir()
    return place


def test_the_list_of_what_is_kinder_than_aws_is_that_of_the_guide():
    listed = GUIDE.read_text("utf-8").partition("### Still kinder than AWS")[2].partition("\n## ")[0]
    assert [line[2:] for line in listed.splitlines() if line.startswith("- ")] == list(status.KINDER)


def test_a_strict_laptop_lists_less_than_a_plain_one(place):
    (place.root / "laptop.json").write_text('{"kubernetes": true}')
    plain = set(status.condition(place)["not_enforced"])
    (place.root / "laptop.json").write_text('{"kubernetes": true, "strict": true}')
    strict = status.condition(place)
    assert strict["strict"]
    assert set(status.ONLY_STRICT) == plain - set(strict["not_enforced"])


def test_the_number_of_denied_requests_is_to_know(place):
    place.logs.mkdir()
    facts = {"aws_port": 1, "account": "000000000000", "region": "r", "namespace": "n"}
    place.environment("local").mkdir(parents=True)
    (place.environment("local") / "environment.json").write_text(json.dumps(facts))
    aws.denials(place, "local").write_text("one\ntwo\n")
    assert "AWS of local denied 2 requests: modelworks laptop logs denied-local" in status.condition(place)["notes"]


def test_the_number_of_connections_that_policies_refuse_is_to_know(place):
    place.logs.mkdir()
    traffic.refusals(place).write_text("one\n")
    note = "network policies refuse 1 connections of pods: modelworks laptop logs refused-connections"
    assert note in status.condition(place)["notes"]
