"""modelworks: every machine-learning environment, reproduced from code.

Names are loaded when they are first used (PEP 562): a served model or a training job that imports
`modelworks.runtime` never pays for Pulumi's resource classes, nor a Pulumi program for an ML library.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelworks.cluster_addons import ClusterAddons as ClusterAddons
    from modelworks.eks_cluster import Cluster as Cluster
    from modelworks.environment import Environment as Environment
    from modelworks.feature_store import FeatureStore as FeatureStore
    from modelworks.model_endpoint import ModelEndpoint as ModelEndpoint
    from modelworks.model_registry import ModelRegistry as ModelRegistry
    from modelworks.prediction_store import PredictionStore as PredictionStore
    from modelworks.training_compute import TrainingCompute as TrainingCompute

_HOMES = {
    "Cluster": "modelworks.eks_cluster",
    "ClusterAddons": "modelworks.cluster_addons",
    "Environment": "modelworks.environment",
    "FeatureStore": "modelworks.feature_store",
    "ModelEndpoint": "modelworks.model_endpoint",
    "ModelRegistry": "modelworks.model_registry",
    "PredictionStore": "modelworks.prediction_store",
    "TrainingCompute": "modelworks.training_compute",
}

__all__ = [
    "Cluster",
    "ClusterAddons",
    "Environment",
    "FeatureStore",
    "ModelEndpoint",
    "ModelRegistry",
    "PredictionStore",
    "TrainingCompute",
]

try:
    __version__ = version("modelworks")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'modelworks' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
