"""The names that infrastructure and runtime share: metrics, dimensions, variables and paths.

Pure, and importable from a Pulumi program as from a served pod: nothing but names.
"""

from __future__ import annotations

import re
from typing import Self

from modelworks.errors import ModelworksError

# -- Metrics ---------------------------------------------------------------------------------------------------------
METRIC_NAMESPACE = "modelworks"
"""CloudWatch namespace of everything that endpoints publish; the only one that a served pod's role may write to."""
TRAINING_METRIC_NAMESPACE = "modelworks/training"
"""CloudWatch namespace of training runs. A run's code is anybody's: it must not publish an endpoint's metrics."""
FEATURE_METRIC_NAMESPACE = "modelworks/features"
"""CloudWatch namespace of the materialization of features."""
REGISTRY_METRIC_NAMESPACE = "modelworks/registry"
"""CloudWatch namespace of the registry's server."""
METRIC_ERROR = "error"
"""1 for a request that failed for a reason that is ours, else 0. Its Average is the error ratio."""
METRIC_SLOW = "slow"
"""1 for a request beyond the model's latency objective, else 0."""
METRIC_REJECTED = "rejected"
"""1 for a request turned away because the endpoint was full (429), else 0."""
METRIC_FEATURES_UNREAD = "features_unread"
"""1 for a request whose stored features could not be read, whatever its fallback made of it, else 0."""
METRIC_LATENCY = "latency"
"""Time to answer a request, in milliseconds."""
METRIC_SATURATION = "saturation"
"""Share of the admission limit in use, 0 to 1."""
METRIC_PREDICTION = "prediction"
"""The prediction itself (a score or a value), for its distribution."""
METRIC_ANSWERED = "answered"
"""1 for a request of the uptime check that a host answered, 0 for one that it did not."""
METRIC_RUN_FAILED = "run_failed"
"""1 for a training run that failed, 0 for one that did not."""
METRIC_FEATURE_LAG = "feature_lag"
"""Seconds from the end of the history that a feature view's online values cover to now."""
METRIC_FEATURE_SKEW = "feature_skew"
"""Share of a feature view's compared values that differ from its history, or are missing, 0 to 1: of those that are
online, and of those that were served."""
METRIC_BACKUP_AGE = "backup_age"
"""Seconds since the newest dump of the registry's embedded database."""

DIMENSION_ENVIRONMENT = "environment"
DIMENSION_MODEL = "model"
DIMENSION_VERSION = "version"
"""The release's digest, shortened by `short_digest`. Every metric is published with and without it."""
DIMENSION_VIEW = "view"
"""Name of a feature view."""
DIMENSION_BUCKET = "bucket"
"""Name of the artifact bucket that dumps of a registry are in."""


# -- Identities ------------------------------------------------------------------------------------------------------
class MalformedError(ModelworksError, ValueError):
    """A text is not the identity that it was given as."""


class Digest(str):
    """`sha256:` and 64 hex digits: what bytes are known by. Every one was parsed, and is safe in a path and a key.

    Raises:
        MalformedError: The text is none.
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Parse a text."""
        if not (isinstance(text, str) and _DIGEST.fullmatch(text)):
            raise MalformedError(f"a digest must be sha256: and 64 hex digits, got {text!r}")
        return super().__new__(cls, text)

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self.removeprefix("sha256:")

    @property
    def short(self) -> str:
        """The first 12 hex digits: what labels, dimensions and people use."""
        return self.hex[:12]


class RunId(str):
    """16 hex digits: the name of a run, and of its folder.

    Raises:
        MalformedError: The text is none.
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Parse a text."""
        if not (isinstance(text, str) and _RUN.fullmatch(text)):
            raise MalformedError(f"a run is called by 16 hex digits, got {text!r}")
        return super().__new__(cls, text)


MODEL_NAME = re.compile("[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
"""The name of a model, in stacks, stores, folders and URLs, and of a stack: with our suffixes, a DNS label."""
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_RUN = re.compile("[0-9a-f]{16}")


def short_digest(digest: str) -> str:
    """The first 12 hex digits of a digest.

    Raises:
        MalformedError: `digest` is none.
    """
    return Digest(digest).short


LABEL_MODEL = "modelworks.dev/model"
"""On Jobs of training runs and their pods: the model that is trained."""
ANNOTATION_COMMIT = "modelworks.dev/commit"
"""On Jobs of training runs: what they were sent from, with `-dirty` behind it where files differed."""
ANNOTATION_BY = "modelworks.dev/by"
"""On Jobs of training runs: who sent them."""
ANNOTATION_DIGEST = "modelworks.dev/digest"
"""On a Rollout and its pods: the release they are of."""
ANNOTATION_VERSION = "modelworks.dev/version"
"""On a Rollout and its pods: the release's version label."""

OVERRIDDEN = "is released in spite of gates that do not hold"
"""The program's warning for a release with an override; a preview shows it first."""


# -- Paths in a bundle store -----------------------------------------------------------------------------------------
def bundle_key(model: str, digest: Digest) -> str:
    """Object key of a model's bundle: `bundles/<model>/<hex>.bento`."""
    return f"bundles/{model}/{Digest(digest).hex}.bento"


def signature_key(model: str, digest: Digest) -> str:
    """Object key of the detached signature beside a bundle."""
    return f"{bundle_key(model, digest)}.sig"


LINEAGE_PREFIX = "lineage"
"""Under it: what the registry keeps of each version and of its aliases, so that a lost registry can be rebuilt. Pods do
not read it."""


def lineage_key(model: str, digest: Digest) -> str:
    """Object key of the lineage of a model's bundle: `lineage/<model>/<hex>.json`."""
    return f"{LINEAGE_PREFIX}/{model}/{Digest(digest).hex}.json"


def aliases_key(model: str) -> str:
    """Object key of a model's aliases: `lineage/<model>/aliases.json`."""
    return f"{LINEAGE_PREFIX}/{model}/aliases.json"


# -- Paths in a prediction store -------------------------------------------------------------------------------------
PREDICTIONS_PREFIX = "predictions"
"""Under it: the prediction log of each model, by its name and the day."""


def predictions_prefix(model: str) -> str:
    """Prefix of a model's prediction log: `predictions/<model>`."""
    return f"{PREDICTIONS_PREFIX}/{model}"


# -- Paths in an artifact bucket, as the registry uses it ------------------------------------------------------------
ARTIFACTS_PREFIX = "artifacts"
"""Under it: what MLflow's clients keep."""
BACKUPS_PREFIX = "backups"
"""Under it: dumps of the registry's embedded database, by their time."""

# -- Paths in an artifact bucket, as training runs use it --------------------------------------------------------------
DATA_PREFIX = "data"
"""Under it: snapshots of rows, by digest."""
SOURCES_PREFIX = "sources"
"""Under it: what runs are made from, by digest. Runs read it and cannot change it."""
RUNS_PREFIX = "runs"
"""Under it: finished runs, by model, run and digest. Runs read it and cannot change it: callers write there."""
PROJECTS_PREFIX = "projects"
"""Under it: the projects of registered versions, by digest, each with its run's inputs and split."""
JOBS_PREFIX = "jobs"
"""Under it: what each Job made and, written last, what it notes of itself. A Job's name cannot be guessed, and runs
cannot list this prefix: each writes under its own name alone."""


def source_key(digest: Digest) -> str:
    """Object key of a model project as a run gets it: `sources/<hex>.tar.gz`."""
    return f"{SOURCES_PREFIX}/{Digest(digest).hex}.tar.gz"


def run_key(model: str, run: RunId, digest: Digest | None = None) -> str:
    """Object key of a finished run: `runs/<model>/<run>/<hex>.tar.gz`; without a digest, the prefix of all of them."""
    prefix = f"{RUNS_PREFIX}/{model}/{RunId(run)}/"
    return f"{prefix}{Digest(digest).hex}.tar.gz" if digest else prefix


def job_key(job: str) -> str:
    """Object key of what a Job notes of itself: `jobs/<job>/note.json`."""
    return f"{JOBS_PREFIX}/{job}/note.json"


def job_run_key(job: str) -> str:
    """Object key of the run that a Job made: `jobs/<job>/run.tar.gz`."""
    return f"{JOBS_PREFIX}/{job}/run.tar.gz"


def data_key(digest: Digest) -> str:
    """Object key of a data snapshot in an environment's artifact bucket: `data/<hex>.parquet`."""
    return f"{DATA_PREFIX}/{Digest(digest).hex}.parquet"


def project_key(digest: Digest) -> str:
    """Object key of what a registered version was made from, in an artifact bucket: `projects/<hex>.tar.gz`."""
    return f"{PROJECTS_PREFIX}/{Digest(digest).hex}.tar.gz"


REGISTRY_USER = "admin"
"""The registry's first user; its password is a secret of the stack."""
MLFLOW_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Where MLflow's own client looks for a registry, and as whom: address, user, password."""

# -- Environment variables of a served pod (`python -m modelworks.runtime.serve`) ------------------------------------
ENV_BUNDLE_URI = "MODELWORKS_BUNDLE_URI"
"""Where the bundle is: `s3://bucket/key`, or a path. Its signature has the same path, with `.sig` appended."""
ENV_BUNDLE_DIGEST = "MODELWORKS_BUNDLE_DIGEST"
"""`sha256:…` of the bundle's bytes. Nothing is loaded before it is verified."""
ENV_MODEL = "MODELWORKS_MODEL"
"""Name of the model. Must be the one in the bundle's manifest."""
ENV_VERSION = "MODELWORKS_VERSION"
"""The release's version label, such as `12`. A label only; optional."""
ENV_ENVIRONMENT = "MODELWORKS_ENVIRONMENT"
"""Name of the environment, such as `local`: a dimension of every metric."""
ENV_POD_IP = "POD_IP"
"""Address to listen on (a `fieldRef` to status.podIP)."""
ENV_POD_NAME = "POD_NAME"
"""Name of the pod, for logs and file names (a `fieldRef` to metadata.name). Optional."""
ENV_PORT = "MODELWORKS_PORT"
"""Port to listen on. Default 8080; with 0 it is a free one, which the log names as `address`."""
ENV_GRPC_PORT = "MODELWORKS_GRPC_PORT"
"""Port of the Open Inference Protocol over gRPC: one of its own, or the same as `MODELWORKS_PORT`. Unset: no gRPC."""
ENV_TOKEN_FILE = "MODELWORKS_TOKEN_FILE"  # noqa: S105 - the name of a variable, not a token
"""File with the bearer tokens that are let in, one a line. Read again when it changes: emptied, it locks everyone out;
a file that cannot be read leaves the last tokens valid."""
ENV_ALLOW_ANONYMOUS = "MODELWORKS_ALLOW_ANONYMOUS"
"""`true` lets everyone in, and nothing else does. Required when there is no token file."""
ENV_TRUSTED_KEYS = "MODELWORKS_TRUSTED_KEYS"
"""Folder of public keys (`*.pem`). When set, a bundle without a signature by one of them is refused."""
ENV_PREDICTION_LOG = "MODELWORKS_PREDICTION_LOG"
"""`s3://bucket/prefix` under which predictions are kept as Parquet, `dt=YYYY-MM-DD/`. Unset: no prediction log."""
ENV_PREDICTION_LOG_SAMPLE = "MODELWORKS_PREDICTION_LOG_SAMPLE"
"""Share of requests that are logged, 0 to 1. Default 1."""
ENV_PREDICTION_LOG_SECONDS = "MODELWORKS_PREDICTION_LOG_SECONDS"
"""Seconds between two Parquet files; one is written sooner when 8 MiB have gathered. Default 60."""
ENV_METRICS = "MODELWORKS_METRICS"
"""`cloudwatch` publishes metrics there; `none` leaves only `/metrics`. Default `cloudwatch`."""
ENV_METRICS_SECONDS = "MODELWORKS_METRICS_SECONDS"
"""Seconds between two publications. Default 10."""
ENV_WORKERS = "MODELWORKS_WORKERS"
"""Processes that run a custom service. A standard model has one server; pods are how it scales. Default 1."""
ENV_SCRATCH = "MODELWORKS_SCRATCH"
"""Writable folder for the unpacked bundle and for predictions on their way to S3. Default: a temporary one. To lose
nothing when a container restarts, mount an `emptyDir` here."""
ENV_DRAIN_SECONDS = "MODELWORKS_DRAIN_SECONDS"
"""After SIGTERM: seconds of serving on while load balancers learn that the pod is not ready. Default 5."""
ENV_MAX_BODY_BYTES = "MODELWORKS_MAX_BODY_BYTES"
"""Largest request body. Default 1048576."""
ENV_LATENCY_OBJECTIVE_MS = "MODELWORKS_LATENCY_OBJECTIVE_MS"
"""Requests that take longer count as slow, and those that would have to wait longer are refused with 429. Default: the
limit in the bundle's manifest."""
ENV_ACCESS_LOG = "MODELWORKS_ACCESS_LOG"
"""Share of good requests that get a log line, 0 to 1; failed and slow ones always do, and of refused ones at most one a
second and status. Default 0.01."""
ENV_FEATURE_TABLES = "MODELWORKS_FEATURE_TABLES"
"""Name of the DynamoDB table of each feature view that the model reads, as a JSON object. Needed by models with stored
features."""

ENV_FEATURE_URL = "MODELWORKS_FEATURE_URL"
"""Address of the online API of Hopsworks or Tecton, such as `https://acme.tecton.ai`. Needed by models whose features
are there."""
ENV_FEATURE_KEY_SECRET = "MODELWORKS_FEATURE_KEY_SECRET"  # noqa: S105 - the name of a variable, not a secret
"""ARN of the secret in Secrets Manager that holds the API key for it. Unset: the variable of `FEATURE_KEY_VARIABLES`
has the key itself, for a laptop."""
FEATURE_KEY_VARIABLES = {"hopsworks": "HOPSWORKS_API_KEY", "tecton": "TECTON_API_KEY"}
"""Where each vendor's own SDK looks for the API key, and so where training does."""

# -- Uptime checks (`python -m modelworks.runtime.uptime`) ------------------------------------------------------------
ENV_GATEWAY = "MODELWORKS_GATEWAY"
"""Where hosts are reached that are in no name server, as a JSON object: the addresses `http` and `https`, and the file
of the `authority` to trust. A laptop's node sets it."""

# -- Training with stored features -----------------------------------------------------------------------------------
FEATURE_HISTORY_VARIABLE = "MODELWORKS_FEATURE_HISTORY"
"""Where the history of features lies, below which the relative paths of sources are: a folder, or `s3://bucket/data`."""

FEATURE_PYTHON_VARIABLE = "MODELWORKS_FEATURE_PYTHON"
"""Interpreter of a virtual environment with the SDK of Hopsworks or Tecton. Unset: the one that trains."""

# -- Jobs of a feature store -----------------------------------------------------------------------------------------
FEATURE_STORE_VARIABLE = "MODELWORKS_FEATURE_STORE"
"""The text of the `feature_store.yaml` that a job works on."""

HEADER_PROBE = "x-modelworks-probe"
"""Header of a canary's probes. A request with it whose rows are the bundle's own examples counts as traffic, and is
neither in the prediction log nor in the distribution of predictions."""

DEFAULT_PORT = 8080

GRPC_SERVICE = "inference.GRPCInferenceService"
"""The Open Inference Protocol over gRPC."""
GRPC_HEALTH = "grpc.health.v1.Health"
"""The health of a server, as clients and load balancers of gRPC check it."""
