"""Taking a rollout in hand patches what `kubectl argo rollouts` does, and more where that is not enough."""

from __future__ import annotations

import pytest

from cluster.argo_objects import CANARY, a_rollout
from modelworks.cluster.rollout_patches import RETRY, Patches, promotion


@pytest.mark.parametrize(
    ("status", "spec", "patches"),
    [
        ({"pauseConditions": [{}]}, {}, Patches({"pauseConditions": None})),
        ({"pauseConditions": [{}]}, {"paused": True}, Patches({"pauseConditions": None}, {"paused": False})),
        ({"currentStepIndex": 1}, {}, Patches({"pauseConditions": None, "currentStepIndex": 2})),
        ({"currentStepIndex": 5}, {}, Patches({"pauseConditions": None, "currentStepIndex": 5})),
        (
            {
                "pauseConditions": [{}],
                "controllerPause": True,
                "currentStepIndex": 1,
                "canary": {"currentStepAnalysisRunStatus": {"status": "Inconclusive"}},
            },
            {},
            Patches({"pauseConditions": None, "controllerPause": False, "currentStepIndex": 2}),
        ),
    ],
)
def test_promoting_patches_what_argo_itself_would(status, spec, patches):
    assert promotion(a_rollout(spec=spec, **status), full=False) == patches


def test_promoting_in_full_is_asked_for_once():
    assert promotion(a_rollout(), full=True) == Patches({"promoteFull": True})
    assert promotion(a_rollout(stableRS=CANARY), full=True) == Patches()


def test_a_retry_leaves_argo_no_analysis_of_the_try_before():
    assert RETRY.status["abort"] is False
    assert RETRY.status["canary"] == {"currentBackgroundAnalysisRunStatus": None, "currentStepAnalysisRunStatus": None}
