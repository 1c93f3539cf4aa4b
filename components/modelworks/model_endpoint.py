"""One model, served: pods under Argo Rollouts, an address, an identity, and the alarms that judge it."""

from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import alarms, contract
from modelworks._manifests import RESTRICTED_CONTAINER, RESTRICTED_POD, cores, mebibytes
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

_PORT = contract.DEFAULT_PORT
_SERVICE_PORT = 80
_COMPONENT = "endpoint"
_DRAIN_SECONDS = 15
"""How long a pod serves on after it was told to end. Ending is a race: a load balancer learns of it at the same moment,
and one of AWS goes on sending new requests for some seconds, until the target is deregistered everywhere. The laptop's
gateway needs less than one; this is a margin for the slower, and costs nothing but memory."""
_END_SECONDS = 50
"""A pod is killed after this: the drain, what requests in flight may still take (20 s), the last metrics (12 s)."""
_LOOK_SECONDS = 10
"""Time between two publications of metrics by a pod, and between two measurements of a canary: at most this."""


class ReleaseArgs(TypedDict):
    """The bundle that serves."""

    digest: str
    """`sha256:` and 64 hex digits: the release itself."""

    version: NotRequired[int | None]
    """Version in the registry: a label for people."""

    override: NotRequired[str | None]
    """Why it is released in spite of gates that do not hold, and who decided so; every preview warns of it."""


class CanaryArgs(TypedDict):
    """How a new release takes over, and when it is turned back."""

    steps: NotRequired[list[int]]
    """Share of traffic after each step, in per cent, growing. Default 5, 25, 50."""

    step_seconds: NotRequired[int]
    """How long each step lasts. Default 300."""

    bake_seconds: NotRequired[int]
    """How long the last good version stays warm after the new one took all traffic. Default 600."""

    ready_deadline_seconds: NotRequired[int]
    """A version that is not ready by then is given up. Default 600."""

    minimum_requests: NotRequired[int]
    """Fewer requests than this in the first step are no evidence: back to the stable version. Default 100."""


class LimitsArgs(TypedDict):
    """Shares of requests, 0 to 1, beyond which alarms fire and a canary is turned back."""

    error_ratio: NotRequired[float]
    """Requests that fail for a reason that is ours. Default 0.01."""

    slow_ratio: NotRequired[float]
    """Requests that miss the latency objective. Default 0.05."""

    rejected_ratio: NotRequired[float]
    """Requests turned away because the endpoint is full. Default 0.05."""

    period_seconds: NotRequired[int]
    """Length of one datapoint: 10, 60 or 300. Default 60."""


class ModelEndpointArgs(TypedDict):
    """What a model needs to be served."""

    environment: str
    """Name of the environment: a dimension of every metric."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    namespace: pulumi.Input[str]
    """Kubernetes namespace of the pods."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it pods assume their role."""

    bundle_bucket: pulumi.Input[str]
    """Bucket that holds the bundles, and the prediction log."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the bucket."""

    alerts_topic_arn: pulumi.Input[str]
    """SNS topic that alarms are sent to."""

    image: pulumi.Input[str]
    """Runtime image by digest: `…@sha256:…`."""

    host: pulumi.Input[str]
    """Host name of the endpoint."""

    release: NotRequired[ReleaseArgs | None]
    """The bundle that serves. Default: none yet, and no pods."""

    tokens: NotRequired[pulumi.Input[str] | None]
    """Bearer tokens that are let in, one a line. A secret. Required unless `allow_anonymous`."""

    allow_anonymous: NotRequired[bool]
    """Answer without a token. Default false."""

    trusted_keys: NotRequired[dict[str, str]]
    """Public keys in PEM, by file name. When there are any, a bundle not signed by one of them is refused."""

    certificate_arn: NotRequired[str | None]
    """TLS certificate of the load balancer. Default: none, and the endpoint is internal."""

    minimum_replicas: NotRequired[int]
    """Fewest pods. Default 2."""

    maximum_replicas: NotRequired[int]
    """Most pods. Default 6."""

    cpu_millicores: NotRequired[int]
    """CPU that one pod requests, in thousandths of a core; it may use twice as much. Default 500."""

    memory_mib: NotRequired[int]
    """Memory that one pod requests, and its limit. Default 512."""

    latency_objective_ms: NotRequired[float]
    """A request that takes longer is slow. Default 100."""

    log_sample_ratio: NotRequired[float]
    """Share of predictions kept in the prediction log, 0 to 1. Default 1."""

    limits: NotRequired[LimitsArgs]
    """When alarms fire and a canary is turned back."""

    canary: NotRequired[CanaryArgs]
    """How a new release takes over."""


class ModelEndpoint(pulumi.ComponentResource):
    """A model behind an address, with canaries that undo themselves.

    A new release takes traffic in steps, judged by the same alarms that page people; a bad one goes back by itself. The
    name of the component is the name of the model.

    Raises:
        ValueError: An argument is out of its range, or the endpoint is neither closed by tokens nor said to be open.
    """

    url: pulumi.Output[str]
    """Where the endpoint answers; empty without a release."""

    role_arn: pulumi.Output[str]
    """The role of its pods."""

    def __init__(self, name: str, args: ModelEndpointArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        _check(args)
        super().__init__("modelworks:index:ModelEndpoint", name, {}, opts)
        self._name, self._args = name, args
        self.identity = self._identity()
        self.role_arn = self.identity.role.arn
        self.url = pulumi.Output.from_input("")
        if release := args.get("release"):
            if override := release.get("override"):
                pulumi.log.warn(f"{name} {contract.OVERRIDDEN}: {override}", self)
            self.alarms = self._alarms()
            self.ping, self.pong = self._service("ping"), self._service("pong")
            self.ingress = self._ingress()
            self.rollout = self._rollout(release, self._analysis("alarms"), self._analysis("traffic"))
            self._autoscaler()
            self._disruption_budget()
            self._network_policy()
            scheme = "https" if args.get("certificate_arn") else "http"
            self.url = pulumi.Output.concat(scheme, "://", args["host"])
        self.register_outputs({"url": self.url, "role_arn": self.role_arn})

    # -- Identity ----------------------------------------------------------------------------------------------------
    def _identity(self) -> PodIdentity:
        args = self._args
        policy = pulumi.Output.all(bucket_arn(args["bundle_bucket"]), args["key_arn"]).apply(
            lambda v: policy_document(_permissions(self._name, v[0], v[1]))
        )
        return pod_identity(
            f"{self._name}-endpoint",
            parent=self,
            metadata=self._metadata(),
            account_id=args["account_id"],
            oidc_issuer=args["oidc_issuer"],
            policy=policy,
            description=f"Serves {self._name}",
        )

    # -- Alarms and analysis -----------------------------------------------------------------------------------------
    def _definitions(self) -> tuple[alarms.Alarm, ...]:
        return alarms.endpoint_alarms(**self._args.get("limits", {}))

    def _look_seconds(self) -> int:
        # Twice a datapoint at least: one that nobody wrote into, or read, would look like no traffic.
        period: int = self._definitions()[0].period_seconds
        return min(_LOOK_SECONDS, period // 2)

    def _dimensions(self) -> dict[str, str]:
        return {
            contract.DIMENSION_ENVIRONMENT: self._args["environment"],
            contract.DIMENSION_MODEL: self._name,
        }

    def _alarms(self) -> list[aws.cloudwatch.MetricAlarm]:
        topic = self._args["alerts_topic_arn"]
        return [
            aws.cloudwatch.MetricAlarm(
                f"{self._name}-{alarm.name}",
                **alarms.cloudwatch_alarm(alarm, self._dimensions()),
                alarm_actions=[topic],
                ok_actions=[topic],
                opts=pulumi.ResourceOptions(parent=self),
            )
            for alarm in self._definitions()
        ]

    def _analysis(self, kind: str) -> KubernetesObject:
        """`alarms` runs for as long as the canary does; `traffic` decides whether its first step is evidence."""
        dimensions = {**self._dimensions(), contract.DIMENSION_VERSION: "{{args.version}}"}
        definitions, canary, interval = self._definitions(), self._args.get("canary", {}), self._look_seconds()
        if kind == "alarms":
            metrics = [alarms.analysis_metric(alarm, dimensions, interval_seconds=interval) for alarm in definitions]
        else:
            metrics = [
                alarms.traffic_metric(
                    definitions[0],
                    dimensions,
                    requests=canary.get("minimum_requests", 100),
                    deadline_seconds=canary.get("step_seconds", 300),
                    interval_seconds=interval,
                )
            ]
        return KubernetesObject(
            f"{self._name}-{kind}",
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "AnalysisTemplate",
                "metadata": self._metadata(),
                "spec": {"args": [{"name": "version"}], "metrics": metrics},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    # -- Address -----------------------------------------------------------------------------------------------------
    def _service(self, kind: str) -> KubernetesObject:
        return KubernetesObject(
            f"{self._name}-{kind}",
            # Its pods come with the Rollout, which needs it first: waiting for them here would never end.
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": self._metadata(annotations={"pulumi.com/skipAwait": "true"}),
                "spec": {
                    "selector": selector(self._name, _COMPONENT),
                    "ports": [{"name": "http", "port": _SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}],
                },
            },
            # Argo adds the hash of the pods it means; taking it away would mix stable and canary.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["spec.selector"]),
        )

    def _ingress(self) -> KubernetesObject:
        certificate = self._args.get("certificate_arn")
        annotations = {
            "alb.ingress.kubernetes.io/target-type": "ip",
            "alb.ingress.kubernetes.io/scheme": "internet-facing" if certificate else "internal",
            "alb.ingress.kubernetes.io/healthcheck-path": "/readyz",
            "alb.ingress.kubernetes.io/listen-ports": '[{"HTTPS":443}]' if certificate else '[{"HTTP":80}]',
        }
        if certificate:
            annotations["alb.ingress.kubernetes.io/certificate-arn"] = certificate
        return KubernetesObject(
            self._name,
            # Argo writes the weights into an annotation of ours, which a server-side apply leaves alone.
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "Ingress",
                "metadata": self._metadata(annotations={**annotations, "pulumi.com/skipAwait": "true"}),
                "spec": {
                    "ingressClassName": "alb",
                    "rules": [
                        {
                            "host": self._args["host"],
                            "http": {
                                "paths": [
                                    {
                                        "path": "/",
                                        "pathType": "Prefix",
                                        "backend": {
                                            "service": {
                                                "name": self.ping.name,
                                                "port": {"name": "use-annotation"},
                                            }
                                        },
                                    }
                                ]
                            },
                        }
                    ],
                },
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    # -- Pods --------------------------------------------------------------------------------------------------------
    def _rollout(
        self,
        release: ReleaseArgs,
        judged_by: KubernetesObject,
        evidence: KubernetesObject,
    ) -> KubernetesObject:
        canary = self._args.get("canary", {})
        first, *rest = canary.get("steps", [5, 25, 50])
        step_seconds = canary.get("step_seconds", 300)
        steps: list[Manifest] = [
            {"setWeight": first},
            {"analysis": _judged_by(evidence, release)},
        ]
        for weight in rest:
            steps += [{"pause": {"duration": f"{step_seconds}s"}}, {"setWeight": weight}]
        steps.append({"pause": {"duration": f"{step_seconds}s"}})
        return KubernetesObject(
            self._name,
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Rollout",
                # Argo's controller writes the whole object back as it defaults it, and so counts as an owner of
                # fields that are ours: the next release would end in a conflict over its own pods.
                "metadata": self._metadata(
                    annotations={**_release_annotations(release), "pulumi.com/patchForce": "true"}
                ),
                "spec": {
                    "replicas": self._args.get("minimum_replicas", 2),
                    # Git knows what to go back to. And Argo holds no release to its deadline as long as it keeps the
                    # ReplicaSet of an earlier one that it gave up and scaled down: its scale-down deadline stays on it.
                    "revisionHistoryLimit": 0,
                    "progressDeadlineSeconds": canary.get("ready_deadline_seconds", 600),
                    "progressDeadlineAbort": True,
                    "selector": {"matchLabels": selector(self._name, _COMPONENT)},
                    "template": self._pod(release),
                    "strategy": {
                        "canary": {
                            # The two take turns at being stable: no Service changes its pods while it has traffic. A
                            # load balancer that had to exchange the targets behind the stable one would lose requests.
                            "pingPong": {
                                "pingService": self.ping.name,
                                "pongService": self.pong.name,
                            },
                            "trafficRouting": {
                                "alb": {
                                    "ingress": self.ingress.name,
                                    "rootService": self.ping.name,
                                    "servicePort": _SERVICE_PORT,
                                }
                            },
                            "analysis": _judged_by(judged_by, release),
                            "steps": steps,
                            "maxSurge": "100%",
                            "maxUnavailable": 0,
                            "scaleDownDelaySeconds": canary.get("bake_seconds", 600),
                            "abortScaleDownDelaySeconds": 30,
                        }
                    },
                },
            },
            # The autoscaler decides how many from then on.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["spec.replicas"]),
        )

    def _pod(self, release: ReleaseArgs) -> Manifest:
        volumes: list[Manifest] = [{"name": "scratch", "emptyDir": {"sizeLimit": "2Gi"}}]
        mounts: list[Manifest] = [{"name": "scratch", "mountPath": "/scratch"}]
        variables = self._variables(release)
        if not self._args.get("allow_anonymous"):
            variables[contract.ENV_TOKEN_FILE] = "/var/run/modelworks/tokens/tokens"
            volumes.append({"name": "tokens", "secret": {"secretName": self._token_secret().name}})
            mounts.append({"name": "tokens", "mountPath": "/var/run/modelworks/tokens", "readOnly": True})
        if keys := self._args.get("trusted_keys"):
            variables[contract.ENV_TRUSTED_KEYS] = "/etc/modelworks/keys"
            volumes.append({"name": "keys", "configMap": {"name": self._trusted_keys(keys).name}})
            mounts.append({"name": "keys", "mountPath": "/etc/modelworks/keys", "readOnly": True})
        cpu, memory = self._args.get("cpu_millicores", 500), mebibytes(self._args.get("memory_mib", 512))
        container = {
            "name": "serve",
            "image": self._args["image"],
            "command": ["python", "-m", "modelworks.runtime.serve"],
            "env": environment_variables(variables),
            "ports": [{"name": "http", "containerPort": _PORT, "protocol": "TCP"}],
            "startupProbe": http_probe("/readyz", period_seconds=1, failures=120),
            "readinessProbe": http_probe("/readyz", period_seconds=2, failures=2),
            "livenessProbe": http_probe("/livez", period_seconds=10, failures=3),
            "resources": {
                "requests": {"cpu": cores(cpu), "memory": memory},
                "limits": {"cpu": cores(2 * cpu), "memory": memory},
            },
            # Why a bundle was refused is in the last line that it logged: it becomes part of the pod's status.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": RESTRICTED_CONTAINER,
            "volumeMounts": mounts,
        }
        return {
            "metadata": {"labels": labels(self._name, _COMPONENT), "annotations": _release_annotations(release)},
            "spec": {
                "serviceAccountName": self.identity.account.name,
                "automountServiceAccountToken": False,
                "securityContext": RESTRICTED_POD,
                "terminationGracePeriodSeconds": _END_SECONDS,
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "topology.kubernetes.io/zone",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": selector(self._name, _COMPONENT)},
                    }
                ],
                "containers": [container],
                "volumes": volumes,
            },
        }

    def _variables(self, release: ReleaseArgs) -> dict[str, pulumi.Input[str]]:
        args, bucket = self._args, self._args["bundle_bucket"]
        version = release.get("version")
        return {
            contract.ENV_BUNDLE_URI: pulumi.Output.concat(
                "s3://", bucket, "/", contract.bundle_key(self._name, release["digest"])
            ),
            contract.ENV_BUNDLE_DIGEST: release["digest"],
            contract.ENV_MODEL: self._name,
            contract.ENV_VERSION: "" if version is None else str(version),
            contract.ENV_ENVIRONMENT: args["environment"],
            contract.ENV_PORT: str(_PORT),
            contract.ENV_METRICS_SECONDS: str(self._look_seconds()),
            contract.ENV_DRAIN_SECONDS: str(_DRAIN_SECONDS),
            contract.ENV_PREDICTION_LOG: pulumi.Output.concat("s3://", bucket, "/", _log_prefix(self._name)),
            contract.ENV_PREDICTION_LOG_SAMPLE: str(args.get("log_sample_ratio", 1.0)),
            contract.ENV_LATENCY_OBJECTIVE_MS: str(args.get("latency_objective_ms", 100)),
            contract.ENV_SCRATCH: "/scratch",
            **({contract.ENV_ALLOW_ANONYMOUS: "true"} if args.get("allow_anonymous") else {}),
        }

    def _token_secret(self) -> KubernetesObject:
        return KubernetesObject(
            f"{self._name}-tokens",
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": self._metadata(),
                "stringData": {"tokens": pulumi.Output.secret(self._args["tokens"] or "")},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _trusted_keys(self, keys: dict[str, str]) -> KubernetesObject:
        return KubernetesObject(
            f"{self._name}-trusted-keys",
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": self._metadata(),
                "data": keys,
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    # -- Around the pods ---------------------------------------------------------------------------------------------
    def _autoscaler(self) -> KubernetesObject:
        return KubernetesObject(
            self._name,
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": self._metadata(),
                "spec": {
                    "scaleTargetRef": {
                        "apiVersion": "argoproj.io/v1alpha1",
                        "kind": "Rollout",
                        "name": self.rollout.name,
                    },
                    "minReplicas": self._args.get("minimum_replicas", 2),
                    "maxReplicas": self._args.get("maximum_replicas", 6),
                    "metrics": [
                        {
                            "type": "Resource",
                            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
                        }
                    ],
                },
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _disruption_budget(self) -> KubernetesObject:
        return KubernetesObject(
            self._name,
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": self._metadata(),
                "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(self._name, _COMPONENT)}},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _network_policy(self) -> KubernetesObject:
        pods = {"podSelector": {"matchLabels": selector(self._name, _COMPONENT)}}
        return KubernetesObject(
            self._name,
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": self._metadata(),
                "spec": {**pods, **one_port_in("http")},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _metadata(self, **more: Any) -> Manifest:
        return {"namespace": self._args["namespace"], "labels": labels(self._name, _COMPONENT), **more}


def _log_prefix(model: str) -> str:
    return f"predictions/{model}"


def _permissions(model: str, bucket_arn: str, key_arn: str) -> list[dict[str, Any]]:
    return [
        statement(["s3:GetObject"], [f"{bucket_arn}/bundles/{model}/*"]),
        statement(["s3:PutObject"], [f"{bucket_arn}/{_log_prefix(model)}/*"]),
        statement(["kms:Decrypt", "kms:GenerateDataKey"], [key_arn]),
        statement(
            ["cloudwatch:PutMetricData"],
            ["*"],  # the action knows no resources; the namespace is what narrows it
            condition={"StringEquals": {"cloudwatch:namespace": contract.METRIC_NAMESPACE}},
        ),
    ]


def _release_annotations(release: ReleaseArgs) -> dict[str, str]:
    version = release.get("version")
    return {
        contract.ANNOTATION_DIGEST: release["digest"],
        **({contract.ANNOTATION_VERSION: str(version)} if version is not None else {}),
    }


def _judged_by(template: KubernetesObject, release: ReleaseArgs) -> Manifest:
    """An analysis of what this release does."""
    return {
        "templates": [{"templateName": template.name}],
        "args": [{"name": "version", "value": contract.short_digest(release["digest"])}],
        # What Argo's controller adds when it writes a Rollout back: said here too, nothing differs from the program.
        "analysisRunMetadata": {},
    }


def _check(args: ModelEndpointArgs) -> None:
    release = args.get("release")
    if release:
        contract.short_digest(release["digest"])
        if not args.get("allow_anonymous") and args.get("tokens") is None:
            raise ValueError("an endpoint needs tokens, or allow_anonymous=True to be open to everyone")
    if isinstance(image := args["image"], str) and "@sha256:" not in image:
        raise ValueError(f"image must be given by digest (…@sha256:…), got {image!r}")
    fewest, most = args.get("minimum_replicas", 2), args.get("maximum_replicas", 6)
    if not 1 <= fewest <= most:
        raise ValueError(f"minimum_replicas must be from 1 to maximum_replicas ({most}), got {fewest}")
    steps = args.get("canary", {}).get("steps", [5, 25, 50])
    if not steps or steps != sorted(set(steps)) or not 0 < steps[0] <= steps[-1] < 100:
        raise ValueError(f"canary.steps must grow and lie between 1 and 99 per cent, got {steps}")
