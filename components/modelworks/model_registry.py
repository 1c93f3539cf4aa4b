"""Where models are kept: the bundle store, and MLflow for experiments and versions."""

import hashlib
from typing import Any, NotRequired, TypedDict

import pulumi

from modelworks import contract
from modelworks._manifests import RESTRICTED_CONTAINER, RESTRICTED_POD
from modelworks._resources.bucket import secure_bucket
from modelworks._resources.iam import bucket_arn, policy_document, statement
from modelworks._resources.kubernetes import (
    KubernetesObject,
    Manifest,
    PodIdentity,
    environment_variables,
    http_probe,
    labels,
    one_port_in,
    pod_identity,
    selector,
)

_PORT = 5000
_COMPONENT = "registry"
_DATA = "/data"
_SCRATCH = "/scratch"


class ModelRegistryArgs(TypedDict):
    """What a registry needs."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    namespace: pulumi.Input[str]
    """Kubernetes namespace of the server."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it the server assumes its role."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the buckets."""

    image: pulumi.Input[str]
    """MLflow image by digest: `…@sha256:…`."""

    host: str
    """Host name of the page and the API."""

    admin_password: pulumi.Input[str]
    """Password of the user `admin`, at least 12 characters. A secret."""

    postgres_uri: NotRequired[pulumi.Input[str] | None]
    """An existing PostgreSQL, as `postgresql://user:password@host/database`. A secret. Default: SQLite on a volume of
    the server, for environments that can be made anew."""

    volume_gib: NotRequired[int]
    """Size of the volume of the embedded database, in GiB. Default 5."""

    superseded_days: NotRequired[int]
    """Days a superseded or deleted bundle or artifact is kept. Default 90."""


class ModelRegistry(pulumi.ComponentResource):
    """A store of bundles and an MLflow server with authentication on, whose artifacts are encrypted and versioned.

    Raises:
        ValueError: `volume_gib` or `superseded_days` is below 1, or the password is short or has several lines.
    """

    bundle_bucket: pulumi.Output[str]
    """Bucket of the bundles, their signatures and the prediction logs."""

    artifact_bucket: pulumi.Output[str]
    """Bucket of what runs leave behind: reports, plots, data snapshots."""

    url: pulumi.Output[str]
    """Where MLflow answers."""

    def __init__(self, name: str, args: ModelRegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        if args.get("volume_gib", 5) < 1:
            raise ValueError(f"volume_gib must be at least 1, got {args.get('volume_gib')}")
        if isinstance(password := args["admin_password"], str):
            _check_password(password)  # one that is known now is refused now
        super().__init__("modelworks:index:ModelRegistry", name, {}, opts)
        self._name, self._args = name, args
        days = args.get("superseded_days", 90)
        self.bundles = secure_bucket(f"{name}-bundles", parent=self, key_arn=args["key_arn"], superseded_days=days)
        self.artifacts = secure_bucket(f"{name}-artifacts", parent=self, key_arn=args["key_arn"], superseded_days=days)
        self.identity = self._identity()
        self.secret = self._secret()
        self.volume = None if args.get("postgres_uri") else self._volume()
        self.server = self._server()
        self.service = self._service()
        self._ingress()
        self._network_policy()
        self.bundle_bucket, self.artifact_bucket = self.bundles.bucket, self.artifacts.bucket
        self.url = pulumi.Output.from_input(f"http://{args['host']}")
        self.register_outputs(
            {"bundle_bucket": self.bundle_bucket, "artifact_bucket": self.artifact_bucket, "url": self.url}
        )

    def _identity(self) -> PodIdentity:
        args = self._args
        policy = pulumi.Output.all(bucket_arn(self.artifacts.bucket), args["key_arn"]).apply(
            lambda v: policy_document(
                [
                    statement(["s3:ListBucket"], [v[0]]),
                    statement(["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], [f"{v[0]}/*"]),
                    statement(["kms:Decrypt", "kms:GenerateDataKey"], [v[1]]),
                ]
            )
        )
        return pod_identity(
            f"{self._name}-server",
            parent=self,
            metadata=self._metadata(),
            account_id=args["account_id"],
            oidc_issuer=args["oidc_issuer"],
            policy=policy,
            description="Keeps what experiments leave behind",
        )

    def _secret(self) -> KubernetesObject:
        """The server's own configuration: who may enter, and where it keeps its records."""
        password, postgres = self._args["admin_password"], self._args.get("postgres_uri")
        database = pulumi.Output.secret(postgres or f"sqlite:///{_DATA}/mlflow.db")
        users = pulumi.Output.secret(postgres or f"sqlite:///{_DATA}/users.db")
        config = pulumi.Output.all(pulumi.Output.secret(password), users).apply(lambda v: _auth_config(*v))
        return KubernetesObject(
            f"{self._name}-server",
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": self._metadata(),
                "stringData": {
                    "auth.ini": config,
                    "database": database,
                    # Signs the sessions of the page; anything that is secret and stays the same will do.
                    "session-key": pulumi.Output.secret(password).apply(_session_key),
                },
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _volume(self) -> KubernetesObject:
        return KubernetesObject(
            f"{self._name}-server",
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": self._metadata(annotations={"pulumi.com/skipAwait": "true"}),
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": f"{self._args.get('volume_gib', 5)}Gi"}},
                },
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _server(self) -> KubernetesObject:
        return KubernetesObject(
            f"{self._name}-server",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": self._metadata(),
                "spec": {
                    "replicas": 1,
                    # Two servers on one SQLite file would corrupt it.
                    "strategy": {"type": "Recreate"},
                    "selector": {"matchLabels": selector(self._name, _COMPONENT)},
                    "template": self._pod(),
                },
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _pod(self) -> Manifest:
        claim = {"persistentVolumeClaim": {"claimName": self.volume.name}} if self.volume else {"emptyDir": {}}
        secret = self.secret.name
        container = {
            "name": "mlflow",
            "image": self._args["image"],
            "command": ["python", "-m", "mlflow", "server"],
            "args": [
                "--host=$(POD_IP)",
                f"--port={_PORT}",
                "--workers=1",
                "--app-name=basic-auth",
                pulumi.Output.concat("--artifacts-destination=s3://", self.artifacts.bucket, "/artifacts"),
                # Probes ask by address, which the pod knows only when it runs.
                f"--allowed-hosts={self._args['host']},{self._args['host']}:*,$(POD_IP):{_PORT}",
            ],
            "env": [
                *environment_variables(
                    {
                        "MLFLOW_AUTH_CONFIG_PATH": "/etc/modelworks/registry/auth.ini",
                        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                        "MLFLOW_DISABLE_TELEMETRY": "true",
                        # The root cannot be written; and /tmp may be where a laptop's checkout lies, not to be hidden.
                        "HOME": _SCRATCH,
                        "TMPDIR": _SCRATCH,
                    }
                ),
                _from_secret("MLFLOW_BACKEND_STORE_URI", secret, "database"),
                _from_secret("MLFLOW_FLASK_SERVER_SECRET_KEY", secret, "session-key"),
            ],
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
                {"name": "scratch", "mountPath": _SCRATCH},
                {"name": "config", "mountPath": "/etc/modelworks/registry", "readOnly": True},
            ],
        }
        return {
            "metadata": {"labels": labels(self._name, _COMPONENT)},
            "spec": {
                "serviceAccountName": self.identity.account.name,
                "automountServiceAccountToken": False,
                "securityContext": RESTRICTED_POD,
                "containers": [container],
                "volumes": [
                    {"name": "data", **claim},
                    {"name": "scratch", "emptyDir": {}},
                    {
                        "name": "config",
                        "secret": {"secretName": secret, "items": [{"key": "auth.ini", "path": "auth.ini"}]},
                    },
                ],
            },
        }

    def _service(self) -> KubernetesObject:
        return KubernetesObject(
            f"{self._name}-server",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": self._metadata(annotations={"pulumi.com/skipAwait": "true"}),
                "spec": {
                    "selector": selector(self._name, _COMPONENT),
                    "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
                },
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _ingress(self) -> KubernetesObject:
        backend = {"service": {"name": self.service.name, "port": {"name": "http"}}}
        return KubernetesObject(
            f"{self._name}-server",
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "Ingress",
                "metadata": self._metadata(
                    annotations={
                        "alb.ingress.kubernetes.io/target-type": "ip",
                        "alb.ingress.kubernetes.io/scheme": "internal",
                        "alb.ingress.kubernetes.io/healthcheck-path": "/health",
                        "pulumi.com/skipAwait": "true",
                    }
                ),
                "spec": {
                    "ingressClassName": "alb",
                    "rules": [
                        {
                            "host": self._args["host"],
                            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
                        }
                    ],
                },
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _network_policy(self) -> KubernetesObject:
        pods: dict[str, Any] = {"podSelector": {"matchLabels": selector(self._name, _COMPONENT)}}
        return KubernetesObject(
            f"{self._name}-server",
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": self._metadata(),
                "spec": {**pods, **one_port_in("http", out=(443, 5432) if self._args.get("postgres_uri") else (443,))},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _metadata(self, **more: Any) -> Manifest:
        return {"namespace": self._args["namespace"], "labels": labels(self._name, _COMPONENT), **more}


def _check_password(password: str) -> None:
    if len(password) < 12:
        raise ValueError(f"admin_password must have at least 12 characters, got {len(password)}")
    if "\n" in password:
        raise ValueError("admin_password must be one line")


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
