"""What infrastructure and runtime must spell alike: names of metrics, dimensions, variables and paths.

Pure, and importable from a Pulumi program as from a served pod: nothing but names.
"""

from __future__ import annotations

# -- Metrics ---------------------------------------------------------------------------------------------------------
METRIC_NAMESPACE = "modelworks"
"""CloudWatch namespace of everything the runtime publishes; what a pod's role may write to."""
METRIC_ERROR = "error"
"""1 for a request that failed for a reason that is ours, else 0. Its Average is the error ratio."""
METRIC_SLOW = "slow"
"""1 for a request beyond the model's latency objective, else 0."""
METRIC_REJECTED = "rejected"
"""1 for a request turned away because the endpoint was full (429), else 0."""
METRIC_LATENCY = "latency"
"""Time to answer a request, in milliseconds."""
METRIC_SATURATION = "saturation"
"""Share of the admission limit in use, 0 to 1."""
METRIC_PREDICTION = "prediction"
"""The prediction itself (a score or a value), for its distribution."""

DIMENSION_ENVIRONMENT = "environment"
DIMENSION_MODEL = "model"
DIMENSION_VERSION = "version"
"""The release's digest, shortened by `short_digest`. Every metric is published with and without it."""


def short_digest(digest: str) -> str:
    """The first 12 hex digits of a `sha256:…` digest: what labels, dimensions and people use.

    Raises:
        ValueError: `digest` is not a sha256 digest.
    """
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64:
        raise ValueError(f"a digest must be sha256: and 64 hex digits, got {digest!r}")
    return value[:12]


# -- Paths in a bundle store -----------------------------------------------------------------------------------------
def bundle_key(model: str, digest: str) -> str:
    """Object key of a model's bundle: `bundles/<model>/<hex>.bento`."""
    return f"bundles/{model}/{digest.removeprefix('sha256:')}.bento"


def signature_key(model: str, digest: str) -> str:
    """Object key of the detached signature beside a bundle."""
    return f"{bundle_key(model, digest)}.sig"
