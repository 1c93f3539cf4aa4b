"""Private: a pod that runs a released bundle: its variables, its permissions and its containers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pulumi

from modelworks import contract
from modelworks._manifests import RESTRICTED_CONTAINER, SCRATCH_VOLUME, cores, mebibytes, with_additions
from modelworks._resources.iam import bucket_arn, publish_metrics, statement
from modelworks._resources.kubernetes import KubernetesComponent, Manifest
from modelworks._resources.pod import SCRATCH, PodArgs, environment_variables, http_probe, restricted_pod
from modelworks._resources.pod_identity import PodIdentity, pod_identity
from modelworks._resources.vendor_features import FeatureApiArgs

DRAIN_SECONDS = 30
"""Seconds that a pod keeps serving after its termination began. The load balancer learns of it at the same moment, and
one of AWS continues to send requests until the target is deregistered everywhere: 5 s were too few, and 25 s enough,
where it was measured. The laptop's gateway needs less than one; the margin is for the slower, and costs only memory.

Source: https://github.com/kubernetes-sigs/aws-load-balancer-controller/issues/1064
"""
_END_SECONDS = 65
"""A pod is killed after this: the drain, what requests in flight may still take (20 s), the last metrics (12 s)."""


class ReleaseArgs(TypedDict):
    """The bundle that serves."""

    digest: str
    """`sha256:` and 64 hex digits: the release itself."""

    version: NotRequired[int | None]
    """Version in the registry: a label for people. Default: none."""

    override: NotRequired[str | None]
    """Why it is released in spite of gates that do not hold, and who decided so; every preview warns of it. Default:
    none."""


@dataclass(frozen=True)
class Files:
    """Files that the server reads, and the variable that holds their path."""

    name: str
    variable: str
    folder: str
    volume: Manifest
    """Their source: a Secret or a ConfigMap."""
    file: str = ""
    """The one that the variable names. Empty: it names the folder."""

    @property
    def path(self) -> str:
        """The value of the variable."""
        return f"{self.folder}/{self.file}" if self.file else self.folder


def token_file(secret: pulumi.Input[str]) -> Files:
    """The bearer tokens in a Secret."""
    volume = {"secret": {"secretName": secret}}
    return Files("tokens", contract.ENV_TOKEN_FILE, "/var/run/modelworks/tokens", volume, "tokens")


def key_folder(config_map: pulumi.Input[str]) -> Files:
    """The public keys in a ConfigMap."""
    return Files("keys", contract.ENV_TRUSTED_KEYS, "/etc/modelworks/keys", {"configMap": {"name": config_map}})


def serving_pod(
    component: KubernetesComponent,
    release: ReleaseArgs,
    *,
    account: pulumi.Input[str],
    image: pulumi.Input[str],
    variables: Mapping[str, pulumi.Input[str]],
    files: Sequence[Files],
    cpu_millicores: int,
    memory_mib: int,
    additions: PodArgs,
) -> Manifest:
    """Template of the pods that answer requests with a release.

    Args:
        component: Whose pods they are.
        release: The image and its command.
        account: Their service account.
        image: The runtime's, by digest.
        variables: Variables of the server, the `bundle_variables` among them.
        files: Files of the server.
        cpu_millicores: CPU that a pod requests; it may use twice as much.
        memory_mib: Memory that a pod requests, and its limit.
        additions: The environment's additions to it.
    """
    volumes = [
        {"name": SCRATCH_VOLUME, "emptyDir": {"sizeLimit": mebibytes(_scratch_mib(memory_mib))}},
        *({"name": item.name, **item.volume} for item in files),
    ]
    spread = {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": component.selector},
        # Of one version alone: pods of the version that is on its way out would count otherwise.
        "matchLabelKeys": ["rollouts-pod-template-hash"],
    }
    template = {
        "metadata": {"labels": component.labels, "annotations": release_annotations(release)},
        "spec": restricted_pod(
            account,
            container=_container(image, variables, files, cpu_millicores, mebibytes(memory_mib)),
            volumes=volumes,
            terminationGracePeriodSeconds=_END_SECONDS,
            topologySpreadConstraints=[spread],
        ),
    }
    return with_additions(template, additions)


def _scratch_mib(memory_mib: int) -> int:
    # The bundle as it came and unpacked, neither larger than the memory that its model needs; and room for the log.
    return 2 * memory_mib + 1024


def _container(
    image: pulumi.Input[str],
    variables: Mapping[str, pulumi.Input[str]],
    files: Sequence[Files],
    cpu_millicores: int,
    memory: str,
) -> Manifest:
    where = {item.variable: item.path for item in files}
    mounts = [{"name": item.name, "mountPath": item.folder, "readOnly": True} for item in files]
    return {
        "name": "serve",
        "image": image,
        "command": ["python", "-m", "modelworks.runtime.serve"],
        "env": environment_variables({**variables, **where}),
        "ports": [{"name": "http", "containerPort": contract.DEFAULT_PORT, "protocol": "TCP"}],
        "startupProbe": http_probe("/readyz", period_seconds=1, failures=120),
        "readinessProbe": http_probe("/readyz", period_seconds=2, failures=2),
        "livenessProbe": http_probe("/livez", period_seconds=10, failures=3),
        "resources": {
            "requests": {"cpu": cores(cpu_millicores), "memory": memory},
            "limits": {"cpu": cores(2 * cpu_millicores), "memory": memory},
        },
        # Why a bundle was refused is in the last line that it logged: it becomes part of the pod's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": SCRATCH_VOLUME, "mountPath": SCRATCH}, *mounts],
    }


def server_variables(
    model: str, release: ReleaseArgs, args: Mapping[str, Any], *, look_seconds: int
) -> dict[str, pulumi.Input[str]]:
    """Variables of the server of a release.

    Args:
        model: Name of the model.
        release: The bundle that serves.
        args: Arguments of the endpoint.
        look_seconds: Time between two publications of its metrics.
    """
    version = release["version"]
    bundle = contract.bundle_key(model, contract.Digest(release["digest"]))
    return {
        contract.ENV_BUNDLE_URI: pulumi.Output.concat("s3://", args["bundle_bucket"], "/", bundle),
        contract.ENV_BUNDLE_DIGEST: release["digest"],
        contract.ENV_MODEL: model,
        contract.ENV_VERSION: "" if version is None else str(version),
        contract.ENV_ENVIRONMENT: args["environment"],
        contract.ENV_PORT: str(contract.DEFAULT_PORT),
        # The same port: Argo writes the weights of all Ingresses for one port of the Services.
        **({contract.ENV_GRPC_PORT: str(contract.DEFAULT_PORT)} if args["grpc"] else {}),
        contract.ENV_METRICS_SECONDS: str(look_seconds),
        contract.ENV_DRAIN_SECONDS: str(DRAIN_SECONDS),
        **_log_variables(model, args["prediction_bucket"], args["log_sample_ratio"]),
        contract.ENV_LATENCY_OBJECTIVE_MS: str(args["latency_objective_ms"]),
        contract.ENV_SCRATCH: SCRATCH,
        **({contract.ENV_ALLOW_ANONYMOUS: "true"} if args["allow_anonymous"] else {}),
        **_table_variables(args["feature_tables"]),
        **_api_variables(args["feature_api"]),
    }


def release_annotations(release: ReleaseArgs) -> dict[str, str]:
    """Annotations that name the release of an object."""
    version = release["version"]
    return {
        contract.ANNOTATION_DIGEST: release["digest"],
        **({contract.ANNOTATION_VERSION: str(version)} if version is not None else {}),
    }


def _table_variables(arns: Mapping[str, pulumi.Input[str]]) -> dict[str, pulumi.Input[str]]:
    """The variable that names the table of each feature view; none where a model reads none."""
    if not arns:
        return {}
    # Sorted, so that the order in which a program names them rolls nothing out.
    tables = pulumi.Output.all(**arns).apply(
        lambda found: json.dumps({view: arn.rpartition("/")[2] for view, arn in found.items()}, sort_keys=True)
    )
    return {contract.ENV_FEATURE_TABLES: tables}


def _api_variables(api: FeatureApiArgs | None) -> dict[str, pulumi.Input[str]]:
    """The variables that name a vendor's online API; none where a model reads no features there."""
    if api is None:
        return {}
    return {contract.ENV_FEATURE_URL: api["url"], contract.ENV_FEATURE_KEY_SECRET: api["key_secret_arn"]}


def _log_variables(model: str, bucket: pulumi.Input[str] | None, sample_ratio: float) -> dict[str, pulumi.Input[str]]:
    """Variables of the prediction log; none without a bucket for it."""
    if bucket is None:
        return {}
    return {
        contract.ENV_PREDICTION_LOG: pulumi.Output.concat("s3://", bucket, "/", contract.predictions_prefix(model)),
        contract.ENV_PREDICTION_LOG_SAMPLE: str(sample_ratio),
    }


def require_tables(arns: Mapping[str, pulumi.Input[str]]) -> None:
    """Refuse tables of features that are named otherwise than by ARN.

    Raises:
        ValueError: One is no ARN of a DynamoDB table.
    """
    for view, arn in arns.items():
        if isinstance(arn, str) and ":table/" not in arn:
            raise ValueError(
                f"feature_tables[{view!r}] must be the ARN of a DynamoDB table (…:table/NAME), got {arn!r}"
            )


def serving_identity(component: KubernetesComponent, model: str, args: Mapping[str, Any]) -> PodIdentity:
    """Who the pods of a model are for AWS.

    Args:
        component: The endpoint.
        model: Name of the model.
        args: Arguments of the endpoint.
    """
    log, api = args["prediction_bucket"], args["feature_api"]
    logs = [] if log is None else [bucket_arn(log)]
    tables = list(args["feature_tables"].values())
    secrets = [] if api is None else [api["key_secret_arn"]]

    def permissions(bundles: str, key: str, *others: str) -> list[dict[str, Any]]:
        first, last = len(logs), len(logs) + len(tables)
        return serving_permissions(
            model,
            bundles,
            key,
            log_arns=others[:first],
            table_arns=others[first:last],
            secret_arns=others[last:],
        )

    return pod_identity(
        component,
        "endpoint",
        args,
        bucket=args["bundle_bucket"],
        permissions=permissions,
        description=f"Serves {model}",
        others=[*logs, *tables, *secrets],
    )


def serving_permissions(
    model: str,
    bundles_arn: str,
    key_arn: str,
    *,
    log_arns: Sequence[str],
    table_arns: Sequence[str],
    secret_arns: Sequence[str],
) -> list[dict[str, Any]]:
    """Permissions of a model's pods: read its bundles and features, write its log, publish metrics.

    Args:
        model: Name of the model.
        bundles_arn: The bucket of bundles.
        key_arn: The key of all that they read and write.
        log_arns: The bucket of the prediction log, if there is one.
        table_arns: Tables of stored features.
        secret_arns: The secret of a vendor's API key, if features are read there.
    """
    writes = [statement(["s3:PutObject"], [f"{each}/{contract.predictions_prefix(model)}/*"]) for each in log_arns]
    reads = [statement(["dynamodb:BatchGetItem"], sorted(table_arns))] if table_arns else []
    reads += [statement(["secretsmanager:GetSecretValue"], [each]) for each in secret_arns]
    return [
        statement(["s3:GetObject"], [f"{bundles_arn}/bundles/{model}/*"]),
        *writes,
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key_arn]),
        publish_metrics(contract.METRIC_NAMESPACE),
        *reads,
    ]
