"""The lifecycle of a model: spec, data checks, training, bundle, gates. Never imports pulumi.

A project is a folder with a `model.py` that ends in `spec = ModelSpec(...)`. The steps are plain functions that can be
called again after a crash: each finds what is already done by the digest of its inputs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import BaselineGate as BaselineGate
    from modelworks.lifecycle.spec import Card as Card
    from modelworks.lifecycle.spec import ChampionGate as ChampionGate
    from modelworks.lifecycle.spec import DataSource as DataSource
    from modelworks.lifecycle.spec import DirectionGate as DirectionGate
    from modelworks.lifecycle.spec import FairnessGate as FairnessGate
    from modelworks.lifecycle.spec import Feature as Feature
    from modelworks.lifecycle.spec import Fitted as Fitted
    from modelworks.lifecycle.spec import Group as Group
    from modelworks.lifecycle.spec import InvarianceGate as InvarianceGate
    from modelworks.lifecycle.spec import LatencyGate as LatencyGate
    from modelworks.lifecycle.spec import MetricGate as MetricGate
    from modelworks.lifecycle.spec import ModelSpec as ModelSpec
    from modelworks.lifecycle.spec import Service as Service
    from modelworks.lifecycle.spec import SizeGate as SizeGate
    from modelworks.lifecycle.spec import SliceGate as SliceGate
    from modelworks.lifecycle.spec import Split as Split
    from modelworks.lifecycle.spec import StoredFeatures as StoredFeatures
    from modelworks.lifecycle.spec import TrainingData as TrainingData
    from modelworks.lifecycle.spec import load_spec as load_spec

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
    if name in __all__:
        return getattr(import_module("modelworks.lifecycle.spec"), name)
    raise AttributeError(f"module 'modelworks.lifecycle' has no attribute {name!r}")
