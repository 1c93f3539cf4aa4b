"""The differences between environments: the models of a stack's config, checked before anything is declared.

A stack's config file holds three keys of modelworks. `modelworks:settings` describes how an environment is set up,
`modelworks:releases` names the bundle of each model that serves in it, and nothing else decides that;
`modelworks:secrets` holds what only the engine may decrypt.

    config:
      aws:region: eu-central-1
      aws:allowedAccountIds: ["111122223333"]
      modelworks:settings:
        owner: ml-platform
        cost_centre: "4711"
      modelworks:releases:
        flight-delay: {digest: "sha256:…", version: 12}

`stack_config.py` reads a file or the engine's config into these models. Pure: no cloud, no clock, and no Pulumi.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from modelworks import _bounds as bounds
from modelworks import _workload_rules, defaults
from modelworks._forms import EMAIL, HOST
from modelworks.cluster_settings import Cluster
from modelworks.contract import MODEL_NAME
from modelworks.feature_settings import Features, Materialization
from modelworks.workload_settings import AccountId, Ingress, Strict, Workload

SETTINGS_KEY = "modelworks:settings"
RELEASES_KEY = "modelworks:releases"
SECRETS_KEY = "modelworks:secrets"
ACCOUNTS_KEY = "aws:allowedAccountIds"

Email = Annotated[str, StringConstraints(pattern=EMAIL.whole, max_length=254)]
ModelName = Annotated[str, StringConstraints(pattern=f"^{MODEL_NAME.pattern}$")]
"""A model's name: 1 to 40 lower-case letters, digits and hyphens, so that it fits a DNS label with our suffixes."""
TagValue = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[\w .:/=+@-]+$")]
"""The characters that AWS accepts in the value of a tag."""
PublicKey = Annotated[
    str, StringConstraints(pattern=r"^-----BEGIN PUBLIC KEY-----\n[\w+/=\n]+\n-----END PUBLIC KEY-----\s*$")
]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Tokens = Annotated[str, StringConstraints(pattern=r"\S")]
"""Bearer tokens, one a line, and one at least."""


class Alerts(Strict):
    """Who hears of alarms."""

    emails: list[Email] = []
    """Addresses subscribed to the environment's alerts topic. Each must confirm once, by a link that AWS sends."""


class Budget(Strict):
    """A monthly limit on what the account costs. It alerts; it stops nothing."""

    monthly_usd: Annotated[float, Field(**bounds.BUDGET["monthly_usd"])]
    """The amount, in US dollars a month."""
    forecast_percent: Annotated[float, Field(**bounds.BUDGET["forecast_percent"])] = defaults.BUDGET["forecast_percent"]
    """Alert when the month's forecast exceeds this share of the amount, in per cent."""
    actual_percent: Annotated[float, Field(**bounds.BUDGET["actual_percent"])] = defaults.BUDGET["actual_percent"]
    """Alert when what was spent exceeds this share of the amount, in per cent."""


class Registry(Workload):
    """The MLflow server of the environment."""

    ingress: Ingress = Ingress()
    """The load balancer before it."""
    database: Literal["embedded", "postgres"] = "embedded"
    """`embedded` is SQLite on a volume, for environments that can be rebuilt; `postgres` is an existing server, whose
    URI is the secret `registry_database`."""
    volume_gib: Annotated[int, Field(**bounds.REGISTRY["volume_gib"])] = defaults.REGISTRY["volume_gib"]
    """Size of the embedded database's volume, in GiB."""
    backup_hours: Annotated[int, Field(**bounds.REGISTRY["backup_hours"])] | None = defaults.REGISTRY["backup_hours"]
    """Hours between two dumps of the embedded database into the artifact bucket. Null for none. Backups of a PostgreSQL
    are up to whoever runs it, such as the snapshots of RDS."""
    backup_days: Annotated[int, Field(**bounds.REGISTRY["backup_days"])] = defaults.REGISTRY["backup_days"]
    """Days that a dump is kept, for twice `backup_hours` at least; then it is a deleted object, for
    `noncurrent_days`."""
    noncurrent_days: Annotated[int, Field(**bounds.REGISTRY["noncurrent_days"])] = defaults.REGISTRY["noncurrent_days"]
    """How long a superseded or deleted bundle is kept, in days."""

    @model_validator(mode="after")
    def _backups(self) -> Self:
        if self.database == "postgres" and self.backup_hours is not None and "backup_hours" in self.model_fields_set:
            raise ValueError(
                "backup_hours is for database: embedded; backups of a PostgreSQL are up to whoever runs it, such as "
                "the snapshots of RDS"
            )
        _workload_rules.backup(self.backup_hours, self.backup_days)
        return self


class Training(Workload):
    """Resources that training runs of the environment may use, all together and each."""

    cpu_millicores: Annotated[int, Field(**bounds.TRAINING["cpu_millicores"])] = defaults.TRAINING["cpu_millicores"]
    """CPU of all runs together, in thousandths of a core."""
    memory_mib: Annotated[int, Field(**bounds.TRAINING["memory_mib"])] = defaults.TRAINING["memory_mib"]
    """Memory of all runs together, in MiB."""
    max_jobs: Annotated[int, Field(**bounds.TRAINING["max_jobs"])] = defaults.TRAINING["max_jobs"]
    """Most runs that exist at a time, finished ones that are still kept included."""
    run_cpu_millicores: Annotated[int, Field(**bounds.TRAINING["run_cpu_millicores"])] = defaults.TRAINING[
        "run_cpu_millicores"
    ]
    """CPU of one run, in thousandths of a core."""
    run_memory_mib: Annotated[int, Field(**bounds.TRAINING["run_memory_mib"])] = defaults.TRAINING["run_memory_mib"]
    """Memory that one run requests and may use at most, in MiB."""
    active_deadline_seconds: Annotated[int, Field(**bounds.TRAINING["active_deadline_seconds"])] = defaults.TRAINING[
        "active_deadline_seconds"
    ]
    """A run that takes longer is ended, its retries included, in seconds."""
    retries: Annotated[int, Field(**bounds.TRAINING["retries"])] = defaults.TRAINING["retries"]
    """How often a run that was killed is tried again. One that failed by itself would fail again, and never is."""
    ttl_seconds_after_finished: Annotated[int, Field(**bounds.TRAINING["ttl_seconds_after_finished"])] = (
        defaults.TRAINING["ttl_seconds_after_finished"]
    )
    """How long a finished run stays in the cluster with its log, in seconds."""

    @model_validator(mode="after")
    def _room_for_one(self) -> Self:
        for run, quota in (("run_cpu_millicores", "cpu_millicores"), ("run_memory_mib", "memory_mib")):
            if getattr(self, run) > getattr(self, quota):
                raise ValueError(f"{run} must be at most {quota} ({getattr(self, quota)}), got {getattr(self, run)}")
        return self


class Predictions(Strict):
    """The prediction log of the environment's endpoints."""

    days: Annotated[int, Field(**bounds.PREDICTIONS["days"])] = defaults.PREDICTIONS["days"]
    """Days that predictions are kept; up to 7 more until the last copy is gone. The default is a quarter: one month can
    be compared with the one before it, and with true values that arrive weeks late. Personal data may be kept for no
    longer than it is needed (GDPR, article 5)."""


class Canary(Strict):
    """How a new release takes over, and when it is aborted."""

    steps: Annotated[
        list[Annotated[int, Field(**bounds.CANARY["steps"])]], Field(min_length=1, max_length=bounds.MOST_STEPS)
    ] = defaults.CANARY["steps"]
    """Share of traffic after each step, in per cent, growing; 100 follows by itself."""
    step_seconds: Annotated[int, Field(**bounds.CANARY["step_seconds"])] = defaults.CANARY["step_seconds"]
    """How long each step lasts, in seconds. Its measurements are taken meanwhile. Below 180 is for laptops, and refused
    elsewhere: CloudWatch may take two minutes to show a new series, and each release has its own."""
    bake_seconds: Annotated[int, Field(**bounds.CANARY["bake_seconds"])] = defaults.CANARY["bake_seconds"]
    """How long the last good version stays warm after the new one took all traffic, in seconds."""
    progress_deadline_seconds: Annotated[int, Field(**bounds.CANARY["progress_deadline_seconds"])] = defaults.CANARY[
        "progress_deadline_seconds"
    ]
    """A version that is not ready by then is given up."""
    minimum_requests: Annotated[int, Field(**bounds.CANARY["minimum_requests"])] = defaults.CANARY["minimum_requests"]
    """Fewer requests than this in the first step, or in the last, are no evidence: back to the stable version. The
    endpoint needs `minimum_requests / (first share * step_seconds)` requests per second for it: by default 100 / (5 % *
    300 s) = 6.7. For an endpoint that has fewer, there are `probes`."""
    probes: bool = defaults.CANARY["probes"]
    """Send a canary the examples of its own bundle, `4 * minimum_requests / step_seconds` times a second, by default
    1.3, for as long as it is analysed. They are evidence enough by themselves, and in no prediction log."""

    @model_validator(mode="after")
    def _few_probes(self) -> Self:
        if self.probes:
            _workload_rules.probes_per_second(self.minimum_requests, self.step_seconds)
        return self

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if self.steps != sorted(set(self.steps)):
            raise ValueError(f"steps must grow, got {self.steps}")
        return self


class Limits(Strict):
    """Shares of requests, 0 to 1, beyond which an endpoint's alarms fire and a canary is aborted."""

    error_ratio: Annotated[float, Field(**bounds.LIMITS["error_ratio"])] = defaults.LIMITS["error_ratio"]
    """Requests that fail for a reason that is ours."""
    slow_ratio: Annotated[float, Field(**bounds.LIMITS["slow_ratio"])] = defaults.LIMITS["slow_ratio"]
    """Requests that miss the latency objective."""
    rejected_ratio: Annotated[float, Field(**bounds.LIMITS["rejected_ratio"])] = defaults.LIMITS["rejected_ratio"]
    """Requests turned away because the endpoint is full."""
    period_seconds: Literal[10, 60, 300] = defaults.LIMITS["period_seconds"]
    """Length of one datapoint, in seconds. 10 is for laptops, and refused elsewhere: CloudWatch may take two minutes to
    show a new series, and a canary is judged by three datapoints."""


class Endpoint(Workload):
    """How one model is served."""

    host: Annotated[str, StringConstraints(pattern=HOST.whole)] | None = None
    """Host name of the endpoint. Default: the model's name under `cluster.domain`."""
    ingress: Ingress = Ingress()
    """The load balancer before it."""
    allow_anonymous: bool = defaults.ENDPOINT["allow_anonymous"]
    """Answer without a bearer token."""
    grpc: bool = defaults.ENDPOINT["grpc"]
    """Answer the Open Inference Protocol over gRPC too, on the same host. The image needs the extra `grpc`, and a load
    balancer of AWS the certificate; EKS Auto Mode cannot. Changing it replaces the load balancer, and so its
    address."""
    minimum_replicas: Annotated[int, Field(**bounds.ENDPOINT["minimum_replicas"])] = defaults.ENDPOINT[
        "minimum_replicas"
    ]
    """Fewest pods."""
    maximum_replicas: Annotated[int, Field(**bounds.ENDPOINT["maximum_replicas"])] = defaults.ENDPOINT[
        "maximum_replicas"
    ]
    """Most pods, when the autoscaler finds the load too high."""
    cpu_millicores: Annotated[int, Field(**bounds.ENDPOINT["cpu_millicores"])] = defaults.ENDPOINT["cpu_millicores"]
    """CPU that one pod requests, in thousandths of a core."""
    memory_mib: Annotated[int, Field(**bounds.ENDPOINT["memory_mib"])] = defaults.ENDPOINT["memory_mib"]
    """Memory that one pod requests and may use at most, in MiB."""
    latency_objective_ms: Annotated[float, Field(**bounds.ENDPOINT["latency_objective_ms"])] = defaults.ENDPOINT[
        "latency_objective_ms"
    ]
    """A request that takes longer is `slow`."""
    log_sample_ratio: Annotated[float, Field(**bounds.ENDPOINT["log_sample_ratio"])] = defaults.ENDPOINT[
        "log_sample_ratio"
    ]
    """Share of predictions kept in the prediction log, 0 to 1."""
    feature_services: list[str] = []
    """Feature services that the model's releases read, as `models/features.json` names them. Its pods may read the
    online tables of their views, and no others. It needs `features`. Default: none."""
    limits: Limits = Limits()
    """Beyond these the endpoint's alarms fire."""
    canary: Canary = Canary()
    """How a release takes over."""

    @model_validator(mode="after")
    def _room_to_scale(self) -> Self:
        if self.maximum_replicas < self.minimum_replicas:
            raise ValueError(
                f"maximum_replicas must be at least minimum_replicas ({self.minimum_replicas}), "
                f"got {self.maximum_replicas}"
            )
        return self


class Release(Strict):
    """The bundle of a model that serves in an environment. Changing it is what a rollout is."""

    digest: Digest
    """sha256 of the bundle: the release itself."""
    version: Annotated[int, Field(**bounds.RELEASE["version"])] | None = None
    """Version in the environment's registry; a label for people."""
    override: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = None
    """Why it is released in spite of gates that do not hold, and who decided so; shown by every preview and update."""


class Settings(Strict):
    """How an environment is set up. Every default is a safe one."""

    owner: TagValue
    """The team that answers for the environment; a tag of every resource."""
    cost_centre: TagValue
    """Who pays; a tag of every resource."""
    alerts: Alerts = Alerts()
    """Who is told when an alarm fires or the budget runs out."""
    budget: Budget | None = None
    """Monthly limit on the account's cost. Default: none."""
    key_deletion_days: Annotated[int, Field(**bounds.ENVIRONMENT["key_deletion_days"])] = defaults.ENVIRONMENT[
        "key_deletion_days"
    ]
    """How long a deleted encryption key can still be brought back, in days."""
    protect: bool = defaults.ENVIRONMENT["protect"]
    """Refuse to delete what holds data: the key, the buckets and their settings, the registry's volume, the namespace.
    To delete them too: set this to false, `modelworks up`, then `modelworks destroy`."""
    cluster: Cluster = Cluster()
    """The Kubernetes cluster, and what is installed in it."""
    registry: Registry | None = None
    """The model registry; `{}` for its defaults. It needs the secret `registry_password`. Default: none."""
    training: Training | None = None
    """A namespace for training runs; `{}` for its defaults. It needs the registry. Default: none."""
    features: Features | None = None
    """A feature store; `{}` for its defaults. Default: none."""
    predictions: Predictions = Predictions()
    """The prediction log, a bucket of its own, declared as soon as there is an endpoint."""
    trusted_keys: dict[Annotated[str, AfterValidator(_workload_rules.file_name)], PublicKey] = {}
    """Public keys in PEM (Ed25519 or P-256), by file name. When there are any, pods and `register`, `promote` and
    `release` refuse a bundle that none of them signed."""
    endpoints: dict[ModelName, Endpoint] = {}
    """How each model is served, by the model's name."""

    @property
    def materialization(self) -> Materialization | None:
        """The job that materializes; None where Feast keeps no features, or there is no namespace for it."""
        of_feast = self.features and self.features.engine == "feast"
        return self.features.materialization if of_feast and self.features and self.registry else None

    @property
    def images(self) -> dict[str, str | None]:
        """The image of each kind of pod that is declared, by its setting in `cluster`."""
        users = {
            "registry": self.registry,
            "training": self.training,
            "features": self.materialization,
            "runtime": self.endpoints,
        }
        return {f"{name}_image": getattr(self.cluster, f"{name}_image") for name, user in users.items() if user}

    @property
    def ingresses(self) -> dict[str, Ingress]:
        """The load balancer before each host, complete, by the path of the setting: `registry`, `endpoints.MODEL`."""
        own = {"registry": self.registry.ingress} if self.registry else {}
        own |= {f"endpoints.{name}": endpoint.ingress for name, endpoint in self.endpoints.items()}
        shared = self.cluster.ingress.model_dump()
        return {
            path: each.model_copy(update={k: v for k, v in shared.items() if k not in each.model_fields_set})
            for path, each in own.items()
        }

    @model_validator(mode="after")
    def _public_hosts_have_certificates(self) -> Self:
        for path, each in self.ingresses.items():
            if each.visibility == "public" and each.certificate_arn is None:
                raise ValueError(
                    f"{path}.ingress is public and has no certificate_arn, so that anybody could read along: state one "
                    "there, or in cluster.ingress for all hosts"
                )
        return self

    @model_validator(mode="after")
    def _groups_agree(self) -> Self:
        first: dict[str, str] = {}
        for path, each in self.ingresses.items():
            if each.group is not None and (of := first.setdefault(each.group, path)) != path:
                for shared in ("visibility", "inbound_cidrs"):
                    if getattr(each, shared) != getattr(self.ingresses[of], shared):
                        raise ValueError(
                            f"{path}.ingress and {of}.ingress share the load balancer of group {each.group!r}, and so "
                            f"need the same {shared}: state it alike, or put one of them into another group"
                        )
        return self

    @model_validator(mode="after")
    def _groups_are_of_a_class_on_auto_mode(self) -> Self:
        """Source: https://docs.aws.amazon.com/eks/latest/userguide/auto-configure-alb.html, "Ingress annotations"."""
        if not self.cluster.auto_mode:
            return self
        for path, each in self.ingresses.items():
            if each.group is not None:
                raise ValueError(
                    f"{path}.ingress is in group {each.group!r}, and EKS Auto Mode takes groups from an IngressClass "
                    "alone: leave it out, and each host has a load balancer of its own"
                )
        for name, endpoint in self.endpoints.items():
            if endpoint.grpc:
                raise ValueError(
                    f"endpoints.{name}.grpc takes a group of two Ingresses, and EKS Auto Mode takes groups from an "
                    "IngressClass alone: leave grpc out, or serve from a cluster with the AWS load balancer controller "
                    "(cluster.auto_mode: false)"
                )
        return self

    @model_validator(mode="after")
    def _features_first(self) -> Self:
        reading = [name for name, endpoint in self.endpoints.items() if endpoint.feature_services]
        if reading and self.features is None:
            raise ValueError(
                f"endpoints.{reading[0]}.feature_services needs a feature store (features: {{}} for its defaults)"
            )
        return self

    @model_validator(mode="after")
    def _registry_first(self) -> Self:
        if self.registry is None and (self.training or self.endpoints):
            raise ValueError("training and endpoints need a registry (registry: {} for its defaults)")
        return self


class Secrets(Strict):
    """Secrets of the stack, each set with `pulumi config set --secret --path modelworks:secrets.<name>`."""

    registry_password: Annotated[str, StringConstraints(min_length=12)] | None = None
    """Password of the registry's user `admin`, at least 12 characters."""
    registry_database: str | None = None
    """URI of the registry's PostgreSQL, for `registry.database: postgres`: `postgresql://user:password@host/database`."""
    feature_api_key: Annotated[str, StringConstraints(min_length=8)] | None = None
    """API key of Hopsworks or Tecton with which pods read features. Without it, the secret in Secrets Manager is
    declared empty, for somebody to fill in."""
    tokens: dict[ModelName, Tokens] = {}
    """Bearer tokens that an endpoint lets in, one a line and one at least, by the model's name."""


class StackConfig(Strict):
    """All of a stack's config that modelworks reads: the settings, the releases and the account pin."""

    settings: Settings
    """How the environment is set up."""
    releases: dict[ModelName, Release] = {}
    """The endpoints in it, by the model's name. A model without a release has an endpoint that is not declared yet."""
    account_ids: list[AccountId]
    """Accounts this stack may be deployed to."""
    secrets: Secrets = Secrets()
    """Passwords and tokens."""

    @model_validator(mode="after")
    def _secrets_are_there(self) -> Self:
        needed = []
        if registry := self.settings.registry:
            needed += ["registry_password"] if self.secrets.registry_password is None else []
            if registry.database == "postgres" and self.secrets.registry_database is None:
                needed.append("registry_database")
        for model in self.releases:
            endpoint = self.settings.endpoints.get(model)
            if endpoint and not endpoint.allow_anonymous and model not in self.secrets.tokens:
                needed.append(f"tokens.{model}")
        if needed:
            commands = "; ".join(f"pulumi config set --secret --path '{SECRETS_KEY}.{name}' …" for name in needed)
            raise ValueError(f"{SECRETS_KEY} lacks {', '.join(needed)}: {commands}")
        return self

    @model_validator(mode="after")
    def _released_models_have_endpoints(self) -> Self:
        for model in self.releases:
            if model not in self.settings.endpoints:
                raise ValueError(
                    f"{RELEASES_KEY} names {model!r}, which {SETTINGS_KEY}.endpoints does not: "
                    f"it has {', '.join(self.settings.endpoints) or 'none'}"
                )
        return self
