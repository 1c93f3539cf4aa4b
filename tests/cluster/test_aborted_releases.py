"""What a cluster remembers of a release that it aborted."""

from __future__ import annotations

from cluster.argo_objects import ABORTED, CANARY, FAILED, FIRST, LAST, NEW, OLD, SETS, STABLE, a_rollout, run
from modelworks import contract
from modelworks.cluster.aborted_releases import ANNOTATION_TURNED_BACK, abort_reason, to_forget, to_note
from modelworks.cluster.rollout_objects import RolloutObjects


def test_an_aborted_release_is_remembered_with_its_measurement():
    seen = RolloutObjects(a_rollout(abort=True, message=ABORTED), SETS, [FAILED])
    assert "errors: measured 0.08" in abort_reason(NEW, seen)
    assert abort_reason(OLD, seen) == ""


def test_it_is_remembered_by_its_analysis_after_another_release_took_its_place():
    seen = RolloutObjects(a_rollout(of=OLD, currentPodHash=STABLE, phase="Healthy"), SETS, [FAILED])
    assert "errors: measured 0.08" in abort_reason(NEW, seen)


def test_a_run_that_the_same_abort_ended_does_not_excuse_it():
    also = run("Successful", [], made=FIRST, ended=LAST)
    seen = RolloutObjects(a_rollout(of=OLD, currentPodHash=STABLE, phase="Healthy"), SETS, [FAILED, also])
    assert abort_reason(NEW, seen)


def test_a_release_that_was_insisted_on_and_now_serves_is_forgiven():
    seen = RolloutObjects(a_rollout(phase="Healthy", stableRS=CANARY), SETS, [FAILED])
    assert abort_reason(NEW, seen) == ""


def test_a_release_that_was_insisted_on_is_not_refused_while_it_is_tried():
    again = run("Running", [], made=LAST, ended="")
    assert abort_reason(NEW, RolloutObjects(a_rollout(), SETS, [FAILED, again])) == ""


def test_one_that_left_no_analysis_is_remembered_by_a_note():
    aborted = RolloutObjects(a_rollout(abort=True, message="x"), SETS)
    note = to_note(aborted)
    noted = RolloutObjects(a_rollout(of=OLD, annotations={ANNOTATION_TURNED_BACK: note}, currentPodHash=STABLE), SETS)
    assert note == contract.short_digest(NEW)
    assert abort_reason(NEW, noted) == "it was given up before"
    assert to_forget(NEW, noted) == ""
    assert to_forget(OLD, noted) is None


def test_the_note_keeps_the_newest_twenty():
    before = {ANNOTATION_TURNED_BACK: ",".join(f"{number:012d}" for number in range(20))}
    note = to_note(RolloutObjects(a_rollout(abort=True, annotations=before)))
    assert note is not None
    assert (len(note.split(",")), note.split(",")[0], note.split(",")[-1]) == (20, f"{1:012d}", "a" * 12)


def test_what_goes_well_leaves_no_note():
    assert to_note(RolloutObjects(a_rollout(phase="Healthy"))) is None
