"""The programs of docs/guides/escape-hatches.md, evaluated as they stand there."""

from __future__ import annotations

import re

from declared import ROOT, declare
from smallest import FULLEST, SMALLEST

GUIDE = (ROOT / "docs/guides/escape-hatches.md").read_text(encoding="utf-8")
ROLLOUT = "kubernetes:argoproj.io/v1alpha1:Rollout"


def evaluated():
    release = FULLEST["ModelEndpoint"]["release"]
    given = {"wiring": {**SMALLEST["ModelEndpoint"], "allow_anonymous": True}, "release": release}
    program = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
    return declare(lambda: exec(program, given))


def pod(rollout):
    return rollout["spec"]["template"]["spec"]


def test_a_child_is_reached_and_added_to():
    declared = evaluated()
    assert declared.all("aws:iam/rolePolicy:RolePolicy")["churn-reads-customers"]["role"] == "churn-endpoint-id"
    monitor = declared.one("kubernetes:monitoring.coreos.com/v1:PodMonitor")
    assert monitor["metadata"]["namespace"] == "modelworks-dev"
    assert monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == "churn"


def test_a_transformation_changes_a_child_of_the_component_it_is_given_to_alone():
    rollouts = evaluated().all(ROLLOUT)
    assert pod(rollouts["fraud"])["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert {**pod(rollouts["churn"]), "nodeSelector": None}.keys() == pod(rollouts["fraud"]).keys()
    assert "nodeSelector" not in pod(rollouts["churn"])
