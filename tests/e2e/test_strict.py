"""A rehearsal on a strict laptop: pods have the rights of their role, and the load balancer is as late as AWS's.

The tests share one endpoint and run in their order.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from e2e import rehearsal
from e2e.rehearsal import Load, Rehearsal, until
from modelworks import contract
from modelworks.laptop import aws, cloud
from modelworks.laptop.agent import traffic
from modelworks.laptop.state_dir import StateDir

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: of-no-class}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """An endpoint that serves a first good release on a strict laptop."""
    home = Path(tempfile.mkdtemp(prefix="modelworks-strict-"))
    place = StateDir(home / "place")
    try:
        cloud.up(place, ("local",), strict=True)
        program = home / "program"
        program.mkdir()
        endpoint = Rehearsal(place, program)
        endpoint.serving = endpoint.release(rehearsal.build(tmp_path_factory.mktemp("bundles"), trees=10))
        until(endpoint.takes_over, what=endpoint.rollout)
        yield endpoint
    finally:
        cloud.down(place)
        shutil.rmtree(home, ignore_errors=True)


def denied(endpoint: Rehearsal) -> str:
    path = aws.denials(endpoint.place, "local")
    return path.read_text() if path.exists() else ""


def refused(endpoint: Rehearsal) -> str:
    path = traffic.refusals(endpoint.place)
    return path.read_text() if path.exists() else ""


def test_predictions_are_logged_with_the_rights_of_the_pods_role(endpoint):
    endpoint.predictions(rehearsal.ROWS[:5])
    prefix = f"{contract.predictions_prefix(rehearsal.MODEL)}/"
    until(lambda: endpoint.aws("s3").list_objects_v2(Bucket="store", Prefix=prefix)["KeyCount"] > 0, what=endpoint.why)


def test_a_good_release_takes_over_without_a_denied_a_refused_or_a_lost_request(endpoint, tmp_path):
    with Load(endpoint.gateway, rate=200) as load:
        version = endpoint.release(rehearsal.build(tmp_path, trees=11))
        until(endpoint.takes_over, what=endpoint.rollout)
        until(lambda: len(endpoint.pods()) == 2, what=endpoint.pods)
    assert load.failed == 0, load.faults
    assert denied(endpoint) == refused(endpoint) == ""
    endpoint.serving = version


def test_a_node_that_is_drained_in_the_middle_of_a_canary_loses_no_request(endpoint, tmp_path):
    with Load(endpoint.gateway, rate=100) as load:
        version = endpoint.release(rehearsal.build(tmp_path, trees=12))
        until(endpoint.weight, what=endpoint.rollout)
        drained = {pod["metadata"]["name"] for pod in endpoint.pods()}
        for name in sorted(drained):
            until(lambda name=name: endpoint.evict(name), what=endpoint.pods)
        until(endpoint.takes_over, what=endpoint.rollout)
        until(lambda: not drained & {pod["metadata"]["name"] for pod in endpoint.pods()}, what=endpoint.pods)
    assert load.firsts.get(version)
    assert len(drained) >= 3
    assert load.failed == 0, load.faults
    assert denied(endpoint) == refused(endpoint) == ""
    endpoint.serving = version


def test_probes_connect_with_the_canary_and_policies_allow_it(endpoint, tmp_path):
    probed = {**rehearsal.SETTINGS["canary"], "probes": True}
    version = endpoint.release(rehearsal.build(tmp_path, trees=13), canary=probed)
    until(endpoint.takes_over, what=endpoint.rollout)
    assert refused(endpoint) == ""
    endpoint.serving = version


def test_a_pod_that_no_policy_lets_out_is_named_with_its_peer_and_what_is_missing(endpoint):
    (policy,) = [
        each["metadata"]["name"]
        for each in endpoint.items("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies")
        if each["metadata"]["name"].startswith(f"{rehearsal.MODEL}-") and "ingress" in each["spec"]
    ]
    until(lambda: len(endpoint.pods()) == 2, what=endpoint.pods)
    whole = endpoint.kubectl("get", "networkpolicy", policy, "-o", "jsonpath={.spec.egress}")
    closed = json.dumps([{"ports": [{"port": 53, "protocol": "UDP"}]}])
    change = '[{{"op": "replace", "path": "/spec/egress", "value": {}}}]'
    endpoint.kubectl("patch", "networkpolicy", policy, "--type=json", "-p", change.format(closed))
    try:
        endpoint.kubectl("delete", "pod", endpoint.pods()[0]["metadata"]["name"], "--wait=false")
        until(lambda: "to AWS at TCP port 443" in refused(endpoint), what=endpoint.pods)
    finally:
        endpoint.kubectl("patch", "networkpolicy", policy, "--type=json", "-p", change.format(whole))
    assert policy in refused(endpoint)
    events = ("get", "events", "--field-selector=reason=ConnectionRefusedByPolicy", "-o", "jsonpath={..message}")
    until(lambda: "with an egress rule to any address at TCP port 443" in endpoint.kubectl(*events))
    until(lambda: len(endpoint.pods()) == 2 and endpoint.healthy(), what=endpoint.pods)


def test_a_pod_whose_role_has_one_permission_less_gets_no_bundle_and_a_log_names_it(endpoint):
    iam = endpoint.aws("iam")
    (role,) = [each["RoleName"] for each in iam.list_roles()["Roles"]]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    whole = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    less = {**whole, "Statement": [each for each in whole["Statement"] if each["Action"] != ["s3:GetObject"]]}
    assert len(less["Statement"]) == len(whole["Statement"]) - 1
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(less))
    try:
        endpoint.kubectl("delete", "pod", endpoint.pods()[0]["metadata"]["name"], "--wait=false")
        until(lambda: "perform: s3:GetObject on resource" in denied(endpoint), what=endpoint.pods)
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(whole))
    until(lambda: len(endpoint.pods()) == 2 and endpoint.healthy(), what=endpoint.pods)


def test_a_claim_that_names_no_class_waits(endpoint):
    path = endpoint.folder / "claim.yaml"
    path.write_text(CLAIM)
    endpoint.kubectl("apply", "-f", str(path))
    try:
        events = ("get", "events", "--field-selector=involvedObject.name=of-no-class", "-o", "jsonpath={..message}")
        until(lambda: "no storage class is set" in endpoint.kubectl(*events), what=endpoint.pods)
    finally:
        endpoint.kubectl("delete", "-f", str(path))
