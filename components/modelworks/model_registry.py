"""Where models are kept: the bundle store, and MLflow for experiments and versions."""

import hashlib
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict
from urllib.parse import parse_qs, urlsplit

import pulumi
import pulumi_aws as aws

from modelworks import _workload_rules as rules
from modelworks import contract
from modelworks._manifests import RESTRICTED_CONTAINER, SCRATCH_VOLUME, with_additions
from modelworks._resources.alarm import paging_alarm
from modelworks._resources.arguments import checked
from modelworks._resources.bucket import secure_bucket
from modelworks._resources.iam import publish_metrics, statement
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject, Manifest
from modelworks._resources.network import (
    AT_ONCE,
    EgressArgs,
    IngressArgs,
    ingress,
    load_balancer,
    network_policy,
    require_sound_egress,
    require_sound_ingress,
    service,
    url,
)
from modelworks._resources.pod import (
    SCRATCH,
    PodArgs,
    environment_variables,
    http_probe,
    require_sound_pod,
    restricted_pod,
)
from modelworks._resources.pod_identity import PermissionArgs, PodIdentity, pod_identity, require_sound_permissions
from modelworks._resources.registry_backup import backup_alarm, backup_containers, backup_permissions
from modelworks._resources.uptime import Uptime, uptime

_PORT = 5000
_SERVER = "server"
"""The suffix of the server's objects, after the registry's name."""
_DATA = "/data"
_CONFIG = "/etc/modelworks/registry"
_DRIVER = "postgresql+psycopg"
_POSTGRES = ("postgresql", "postgres", _DRIVER)
"""Schemes of a PostgreSQL: the first two are of libpq, the last is of SQLAlchemy."""
_KEEP_ALIVE_SECONDS = 75
"""The load balancer keeps an unused connection for 60 s. A server that closes it before then loses the request that is
on its way."""


class ModelRegistryArgs(TypedDict):
    """Arguments of a `ModelRegistry`."""

    host: str
    """Host name of the page and the API."""

    admin_password: pulumi.Input[str]
    """Password of the user `admin`, at least 12 characters. A secret."""

    postgres_uri: NotRequired[pulumi.Input[str] | None]
    """An existing PostgreSQL, as `postgresql://user:password@host/database`, with special characters of the password
    percent-encoded and parameters of libpq behind a `?`, such as `sslmode=require`. A secret. Default: none, and SQLite
    on a volume of the server, for environments that can be created again."""

    ingress: NotRequired[IngressArgs]
    """The load balancer before it: who may reach it, and TLS."""

    volume_gib: NotRequired[int]
    """Size of the volume of the embedded database, in GiB. Default 5."""

    backup_hours: NotRequired[int | None]
    """Hours between two dumps of the embedded database into the artifact bucket, None for none. A lost volume is
    restored from the newest. Backups of a PostgreSQL are up to whoever runs it. Default 24."""

    backup_days: NotRequired[int]
    """Days that a dump is kept, for twice `backup_hours` at least; then it is a deleted object, for
    `noncurrent_days`. Default 30."""

    alerts_topic_arn: NotRequired[pulumi.Input[str] | None]
    """SNS topic that is alerted when the host does not answer, and when the newest dump is older than twice
    `backup_hours`. Default: none, and neither alarms nor an uptime check."""

    storage_class: NotRequired[pulumi.Input[str] | None]
    """StorageClass of that volume. Default: none, and the cluster's default class."""

    noncurrent_days: NotRequired[int]
    """Days a superseded or deleted bundle or artifact is kept. Default 90."""

    protect: NotRequired[bool]
    """Refuse to delete the buckets, their settings and the volume until this is false. Default true."""

    pod: NotRequired[PodArgs]
    """Additions to the server's pod: a GPU, a node pool, pull secrets, labels."""

    permissions: NotRequired[list[PermissionArgs]]
    """Further permissions of the role of the server, such as reading another bucket. Default: none."""

    egress: NotRequired[list[EgressArgs]]
    """Networks that the server may connect to, besides name servers and port 443 anywhere. Default: none."""

    image: pulumi.Input[str]
    """Image of the server by digest: `…@sha256:…`. See `images/registry`; MLflow's own lacks modelworks, boto3, users
    and a driver of PostgreSQL."""

    namespace: pulumi.Input[str]
    """Kubernetes namespace of the server."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it the server assumes its role."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the buckets."""


class ModelRegistry(KubernetesComponent):
    """A store of bundles and an MLflow server with authentication on, whose artifacts are encrypted and versioned.

    Raises:
        ValueError: An argument is unknown, missing, of the wrong type or out of its range, the password is short or has
            several lines, or the database is not a PostgreSQL that the server has a driver of.
    """

    bundle_bucket: pulumi.Output[str]
    """Bucket of the bundles and their signatures."""

    artifact_bucket: pulumi.Output[str]
    """Bucket of what runs leave behind: reports, plots, data snapshots."""

    role_arn: pulumi.Output[str]
    """The role of the server."""

    url: pulumi.Output[str]
    """Where MLflow answers."""

    def __init__(self, name: str, args: ModelRegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, ModelRegistryArgs, args)
        rules.backup(args["backup_hours"], args["backup_days"])
        require_sound_ingress(args["ingress"])
        require_sound_pod(args["pod"])
        require_sound_permissions(args["permissions"])
        require_sound_egress(args["egress"])
        if isinstance(password := args["admin_password"], str):
            _check_password(password)  # one that is known now is refused now
        if isinstance(database := args["postgres_uri"], str):
            _with_driver(database)
        super().__init__(
            "modelworks:index:ModelRegistry", name, part="registry", namespace=args["namespace"], opts=opts
        )
        self._args = args
        self._protect_data = args["protect"] or None  # None: whatever the program states for the component itself
        self._backup_hours = None if args["postgres_uri"] else args["backup_hours"]
        dumps = {f"{contract.BACKUPS_PREFIX}/": args["backup_days"]} if self._backup_hours else {}
        self.bundles, self.artifacts = self._bucket("bundles"), self._bucket("artifacts", dumps)
        self.identity = self._identity()
        self.secret = self._secret()
        self.volume = None if args["postgres_uri"] else self._volume()
        self.server = self._server()
        self.service = self._service()
        self.ingress = self._ingress()
        self.network_policy = self._network_policy()
        self.alarm = self._alarm()
        self.uptime = self._uptime()
        self.bundle_bucket, self.artifact_bucket = self.bundles.bucket, self.artifacts.bucket
        self.role_arn = self.identity.role.arn
        self.url = url(args["ingress"], args["host"])
        self.register_outputs(
            {
                "bundle_bucket": self.bundle_bucket,
                "artifact_bucket": self.artifact_bucket,
                "role_arn": self.role_arn,
                "url": self.url,
            }
        )

    def _bucket(self, kept: str, expiration_days: Mapping[str, int] | None = None) -> "aws.s3.Bucket":
        return secure_bucket(
            self.child_name(kept),
            parent=self,
            key_arn=self._args["key_arn"],
            noncurrent_days=self._args["noncurrent_days"],
            expiration_days=expiration_days,
            protect=self._protect_data,
        )

    def _identity(self) -> PodIdentity:
        return pod_identity(
            self,
            _SERVER,
            self._args,
            bucket=self.artifacts.bucket,
            permissions=lambda *arns: _permissions(*arns, backups=self._backup_hours is not None),
            description="Keeps what experiments leave behind",
        )

    def _secret(self) -> KubernetesObject:
        """The server's own configuration: who may enter, and where it keeps its records."""
        password, postgres = self._args["admin_password"], self._args["postgres_uri"]
        existing = None if postgres is None else pulumi.Output.secret(postgres).apply(_with_driver)
        database = existing or pulumi.Output.secret("sqlite:///mlflow.db")
        users = existing or pulumi.Output.secret("sqlite:///users.db")
        config = pulumi.Output.all(pulumi.Output.secret(password), users).apply(lambda v: _auth_config(*v))
        return self.object(
            "v1",
            "Secret",
            _SERVER,
            stringData={
                "auth.ini": config,
                "database": database,
                # Signs the sessions of the page; anything that is secret and stays the same will do.
                "session-key": pulumi.Output.secret(password).apply(_session_key),
            },
        )

    def _volume(self) -> KubernetesObject:
        storage_class = self._args["storage_class"]
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{self._args['volume_gib']}Gi"}},
            **({"storageClassName": storage_class} if storage_class is not None else {}),
        }
        return self.object(
            "v1",
            "PersistentVolumeClaim",
            _SERVER,
            annotations=AT_ONCE,
            protect=self._protect_data,
            spec=spec,
        )

    def _server(self) -> KubernetesObject:
        spec = {
            "replicas": 1,
            # Two servers on one SQLite file would corrupt it.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": self.selector},
            "template": with_additions({"metadata": {"labels": self.labels}, "spec": self._pod()}, self._args["pod"]),
        }
        return self.object("apps/v1", "Deployment", _SERVER, after=[self.identity.policy], spec=spec)

    def _pod(self) -> Manifest:
        claim = {"persistentVolumeClaim": {"claimName": self.volume.name}} if self.volume else {"emptyDir": {}}
        config = {"secretName": self.secret.name, "items": [{"key": "auth.ini", "path": "auth.ini"}]}
        server = self._container()
        restore, sidecars = self._backup(server)
        return restricted_pod(
            self.identity.account.name,
            container=server,
            sidecars=sidecars,
            volumes=[
                {"name": "data", **claim},
                {"name": SCRATCH_VOLUME, "emptyDir": {}},
                {"name": "config", "secret": config},
            ],
            **restore,
        )

    def _backup(self, server: Manifest) -> tuple[Manifest, list[Manifest]]:
        """The container before the server, and the one beside it, if the database is dumped."""
        if self._backup_hours is None:
            return {}, []
        restore, backup = backup_containers(
            bucket=self.artifacts.bucket,
            hours=self._backup_hours,
            like=server,
            mounts=["data", SCRATCH_VOLUME],
            variables=environment_variables({"HOME": SCRATCH, "TMPDIR": SCRATCH}),
        )
        return {"initContainers": [restore]}, [backup]

    def _container(self) -> Manifest:
        return {
            "name": "mlflow",
            "image": self._args["image"],
            "command": ["python", "-m", "modelworks.runtime.registry_server"],
            "args": self._arguments(),
            # The paths of its SQLite files are relative: one of them is in a file, which no laptop can translate.
            "workingDir": _DATA,
            "env": self._variables(),
            "ports": [{"name": "http", "containerPort": _PORT, "protocol": "TCP"}],
            "startupProbe": http_probe("/health", period_seconds=1, failures=120),
            "readinessProbe": http_probe("/health", period_seconds=5, failures=3),
            "livenessProbe": http_probe("/health", period_seconds=20, failures=3),
            "resources": {
                "requests": {"cpu": "250m", "memory": "1Gi"},
                "limits": {"cpu": "1", "memory": "1Gi"},
            },
            "securityContext": RESTRICTED_CONTAINER,
            "volumeMounts": [
                {"name": "data", "mountPath": _DATA},
                {"name": SCRATCH_VOLUME, "mountPath": SCRATCH},
                {"name": "config", "mountPath": _CONFIG, "readOnly": True},
            ],
        }

    def _arguments(self) -> list[pulumi.Input[str]]:
        host = self._args["host"]
        return [
            "--host=$(POD_IP)",
            f"--port={_PORT}",
            "--workers=1",
            f"--uvicorn-opts=--timeout-keep-alive {_KEEP_ALIVE_SECONDS}",
            "--app-name=basic-auth",
            pulumi.Output.concat(
                "--artifacts-destination=s3://", self.artifacts.bucket, "/", contract.ARTIFACTS_PREFIX
            ),
            # Probes ask by address, which the pod knows only when it runs.
            f"--allowed-hosts={host},{host}:*,$(POD_IP):{_PORT}",
        ]

    def _variables(self) -> list[Manifest]:
        plain: dict[str, pulumi.Input[str]] = {
            "MLFLOW_AUTH_CONFIG_PATH": f"{_CONFIG}/auth.ini",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # The root cannot be written; and /tmp may be where a laptop's checkout lies, not to be hidden.
            "HOME": SCRATCH,
            "TMPDIR": SCRATCH,
        }
        return [
            *environment_variables(plain),
            _from_secret("MLFLOW_BACKEND_STORE_URI", self.secret.name, "database"),
            _from_secret("MLFLOW_FLASK_SERVER_SECRET_KEY", self.secret.name, "session-key"),
        ]

    def _service(self) -> KubernetesObject:
        return self.object("v1", "Service", _SERVER, annotations=AT_ONCE, spec=service(self.selector))

    def _ingress(self) -> KubernetesObject:
        return self.object(
            "networking.k8s.io/v1",
            "Ingress",
            _SERVER,
            annotations={**AT_ONCE, **load_balancer(self._args["ingress"], health="/health")},
            spec=ingress(self._args["host"], self.service.name),
        )

    def _network_policy(self) -> KubernetesObject:
        uri = self._args["postgres_uri"]
        # Where the database listens is no secret, as the URI is: a masked port would hide what a policy opens.
        port = pulumi.Output.unsecret(pulumi.Output.from_input(uri).apply(_port)) if uri else None
        out = (443, port) if port is not None else (443,)
        spec = network_policy(self.selector, egress=self._args["egress"], out=out)
        return self.object("networking.k8s.io/v1", "NetworkPolicy", _SERVER, spec=spec)

    def _alarm(self) -> "aws.cloudwatch.MetricAlarm | None":
        topic = self._args["alerts_topic_arn"]
        if topic is None or self._backup_hours is None:
            return None
        return paging_alarm(
            self.child_name("stale-backup"),
            parent=self,
            topic=topic,
            **backup_alarm(self.artifacts.bucket, self._backup_hours),
        )

    def _uptime(self) -> Uptime | None:
        if (topic := self._args["alerts_topic_arn"]) is None:
            return None
        return uptime(
            self,
            host=self._args["host"],
            ingress=self._args["ingress"],
            path="/health",
            image=self._args["image"],
            identity=self.identity,
            namespace=contract.REGISTRY_METRIC_NAMESPACE,
            dimensions={contract.DIMENSION_BUCKET: self.artifacts.bucket},
            period_seconds=60,
            topic=topic,
            additions=self._args["pod"],
        )


def _permissions(artifacts: str, key: str, *, backups: bool) -> list[dict[str, Any]]:
    return [
        statement(["s3:ListBucket"], [artifacts]),
        statement(["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], [f"{artifacts}/{contract.ARTIFACTS_PREFIX}/*"]),
        *(backup_permissions(artifacts) if backups else []),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key]),
        publish_metrics(contract.REGISTRY_METRIC_NAMESPACE),
    ]


def _check_password(password: str) -> None:
    if len(password) < 12:
        raise ValueError(f"admin_password must have at least 12 characters, got {len(password)}")
    if "\n" in password:
        raise ValueError("admin_password must be one line")


def _with_driver(uri: str) -> str:
    """The same database, with the driver of the image: SQLAlchemy before 2.1 looks for another if none is named."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _POSTGRES:
        found = f"{scheme}://…" if separator else "a text without ://"  # the rest of it is a secret
        raise ValueError(f"postgres_uri must begin with {_POSTGRES[0]}://, got {found}")
    if any(character.isspace() for character in uri):
        raise ValueError("postgres_uri must be one line without blanks: percent-encode those of the password (%20)")
    return f"{_DRIVER}://{rest}"


def _port(uri: str) -> int:
    """Where a database listens: as its URI states it, or PostgreSQL's own port."""
    parts = urlsplit(uri)
    try:
        return parts.port or int(parse_qs(parts.query).get("port", [5432])[0])
    except ValueError:
        raise ValueError("postgres_uri has a port that is none: after the host's name stands a number") from None


def _auth_config(password: str, database: str) -> str:
    _check_password(password)
    # In an INI file a % starts an interpolation.
    quoted = [text.replace("%", "%%") for text in (database, password)]
    return "\n".join(
        [
            "[mlflow]",
            "default_permission = READ",
            f"database_uri = {quoted[0]}",
            f"admin_username = {contract.REGISTRY_USER}",
            f"admin_password = {quoted[1]}",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
            "",
        ]
    )


def _session_key(password: str) -> str:
    return hashlib.sha256(f"session of {password}".encode()).hexdigest()


def _from_secret(variable: str, secret: pulumi.Input[str], key: str) -> Manifest:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
