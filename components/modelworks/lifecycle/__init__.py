"""What happens to a model: spec, data checks, training, bundle, gates. Never imports pulumi.

A project is a folder with a `model.py` that ends in `spec = ModelSpec(...)`. The steps are plain functions that can be
called again after a crash: each finds what is already done by the digest of its inputs.
"""

from __future__ import annotations

from modelworks.lifecycle.spec import (
    BaselineGate,
    Card,
    ChampionGate,
    DataSource,
    DirectionGate,
    FairnessGate,
    Feature,
    Fitted,
    Group,
    InvarianceGate,
    LatencyGate,
    MetricGate,
    ModelSpec,
    Service,
    SizeGate,
    SliceGate,
    Split,
    TrainingData,
    load_spec,
)

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
    "TrainingData",
    "load_spec",
]
