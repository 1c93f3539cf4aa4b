"""The lifecycle of a model: spec, data checks, training, bundle, gates. Never imports pulumi.

A project is a folder with a `model.py` that ends in `spec = ModelSpec(...)`. The steps are plain functions that can be
called again after a crash: each finds what is already done by the digest of its inputs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import Card as Card
    from modelworks.lifecycle.spec import Fitted as Fitted
    from modelworks.lifecycle.spec import ModelSpec as ModelSpec
    from modelworks.lifecycle.spec import Service as Service
    from modelworks.lifecycle.spec import TrainingData as TrainingData
    from modelworks.lifecycle.spec_data import DataSource as DataSource
    from modelworks.lifecycle.spec_data import Split as Split
    from modelworks.lifecycle.spec_features import Feature as Feature
    from modelworks.lifecycle.spec_features import StoredFeatures as StoredFeatures
    from modelworks.lifecycle.spec_gates import BaselineGate as BaselineGate
    from modelworks.lifecycle.spec_gates import ChampionGate as ChampionGate
    from modelworks.lifecycle.spec_gates import DirectionGate as DirectionGate
    from modelworks.lifecycle.spec_gates import FairnessGate as FairnessGate
    from modelworks.lifecycle.spec_gates import Group as Group
    from modelworks.lifecycle.spec_gates import InvarianceGate as InvarianceGate
    from modelworks.lifecycle.spec_gates import LatencyGate as LatencyGate
    from modelworks.lifecycle.spec_gates import MetricGate as MetricGate
    from modelworks.lifecycle.spec_gates import SizeGate as SizeGate
    from modelworks.lifecycle.spec_gates import SliceGate as SliceGate
    from modelworks.lifecycle.spec_loader import load_spec as load_spec

_HOMES = {
    "BaselineGate": "modelworks.lifecycle.spec_gates",
    "Card": "modelworks.lifecycle.spec",
    "ChampionGate": "modelworks.lifecycle.spec_gates",
    "DataSource": "modelworks.lifecycle.spec_data",
    "DirectionGate": "modelworks.lifecycle.spec_gates",
    "FairnessGate": "modelworks.lifecycle.spec_gates",
    "Feature": "modelworks.lifecycle.spec_features",
    "Fitted": "modelworks.lifecycle.spec",
    "Group": "modelworks.lifecycle.spec_gates",
    "InvarianceGate": "modelworks.lifecycle.spec_gates",
    "LatencyGate": "modelworks.lifecycle.spec_gates",
    "MetricGate": "modelworks.lifecycle.spec_gates",
    "ModelSpec": "modelworks.lifecycle.spec",
    "Service": "modelworks.lifecycle.spec",
    "SizeGate": "modelworks.lifecycle.spec_gates",
    "SliceGate": "modelworks.lifecycle.spec_gates",
    "Split": "modelworks.lifecycle.spec_data",
    "StoredFeatures": "modelworks.lifecycle.spec_features",
    "TrainingData": "modelworks.lifecycle.spec",
    "load_spec": "modelworks.lifecycle.spec_loader",
}

__all__ = [
    "BaselineGate",
    "Card",
    "ChampionGate",
    "DataSource",
    "DirectionGate",
    "FairnessGate",
    "Feature",
    "Fitted",
    "Group",
    "InvarianceGate",
    "LatencyGate",
    "MetricGate",
    "ModelSpec",
    "Service",
    "SizeGate",
    "SliceGate",
    "Split",
    "StoredFeatures",
    "TrainingData",
    "load_spec",
]


def __getattr__(name: str) -> object:
    # Names are loaded when they are first used: a release is read and written where there is no NumPy.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'modelworks.lifecycle' has no attribute {name!r}")
