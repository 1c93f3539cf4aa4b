"""What `verify` decides, from plain values."""

from __future__ import annotations

from modelworks import contract
from modelworks.cli.verify import pods_against

RELEASED, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def pod(name, digest):
    return {"metadata": {"name": name, "annotations": {contract.ANNOTATION_DIGEST: digest} if digest else {}}}


def test_pods_that_run_the_release_are_one_good_finding():
    (found,) = pods_against("churn", RELEASED, [pod("one", RELEASED), pod("two", RELEASED)], "dev")
    assert (found.verdict, found.message) == ("ok", "2 run the release aaaaaaaaaaaa")


def test_a_pod_that_runs_something_else_is_named():
    (found,) = pods_against("churn", RELEASED, [pod("one", RELEASED), pod("two", OTHER)], "dev")
    assert (found.verdict, found.subject) == ("wrong", "two")


def test_a_pod_without_our_annotation_is_named():
    (found,) = pods_against("churn", RELEASED, [pod("one", "")], "dev")
    assert "nothing that is ours" in found.message


def test_a_release_without_pods_is_wrong():
    (found,) = pods_against("churn", RELEASED, [], "dev")
    assert (found.verdict, found.message) == ("wrong", "no pod runs it")
