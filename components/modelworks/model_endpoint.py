"""One model, served: pods under Argo Rollouts, an address, an identity, and the alarms that judge it."""

from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import alarms, contract
from modelworks._resources.alarm import paging_alarm
from modelworks._resources.arguments import checked, require_image_digest, require_token
from modelworks._resources.canary import Canary, CanaryArgs, LimitsArgs, Routing
from modelworks._resources.iam import bucket_arn
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject, Manifest
from modelworks._resources.network import (
    AT_ONCE,
    EgressArgs,
    IngressArgs,
    grpc_targets,
    ingress,
    load_balancer,
    network_policy,
    require_sound_egress,
    require_sound_ingress,
    service,
    shared_load_balancer,
    url,
)
from modelworks._resources.pod import SCRATCH, PodArgs, require_sound_pod
from modelworks._resources.pod_identity import PermissionArgs, PodIdentity, pod_identity, require_sound_permissions
from modelworks._resources.probes import probe_metric, probe_network_policy
from modelworks._resources.serving_pod import (
    DRAIN_SECONDS,
    Files,
    ReleaseArgs,
    api_variables,
    bundle_variables,
    key_folder,
    log_variables,
    release_annotations,
    serving_permissions,
    serving_pod,
    table_variables,
    token_file,
)
from modelworks._resources.vendor_features import FeatureApiArgs, require_url


class ModelEndpointArgs(TypedDict):
    """Arguments of a `ModelEndpoint`."""

    release: NotRequired[ReleaseArgs | None]
    """The bundle that serves. Default: none, and no pods."""

    canary: NotRequired[CanaryArgs]
    """How a new release takes over."""

    limits: NotRequired[LimitsArgs]
    """When alarms fire and a canary is aborted."""

    tokens: NotRequired[pulumi.Input[str] | None]
    """Bearer tokens that are let in, one a line and one at least. A secret. Required unless `allow_anonymous`.
    Default: none."""

    allow_anonymous: NotRequired[bool]
    """Answer without a token. This alone opens an endpoint. Default false."""

    trusted_keys: NotRequired[dict[str, str]]
    """Public keys in PEM, by file name. When there are any, a bundle not signed by one of them is refused. Default:
    none."""

    host: pulumi.Input[str]
    """Host name of the endpoint."""

    ingress: NotRequired[IngressArgs]
    """The load balancer before it: who may reach it, and TLS."""

    grpc: NotRequired[bool]
    """Answer the Open Inference Protocol over gRPC too, on the same host. The image needs the extra `grpc`, and a load
    balancer of AWS the certificate. Changing it replaces the load balancer, and so its address. Default false."""

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

    feature_tables: NotRequired[dict[str, pulumi.Input[str]]]
    """ARN of the online table of each feature view that its releases read, by the view's name, as
    `FeatureStore.tables_of` has them. Pods may read these tables and no others. Default: none."""

    feature_api: NotRequired[FeatureApiArgs | None]
    """Online API of Hopsworks or Tecton, as `FeatureStore.api` has it, where its releases read features there. Pods may
    read the secret of its key. Default: none."""

    pod: NotRequired[PodArgs]
    """Additions to its pods: a GPU, a node pool, pull secrets, labels."""

    permissions: NotRequired[list[PermissionArgs]]
    """Further permissions of the role of its pods, such as reading another bucket. Default: none."""

    egress: NotRequired[list[EgressArgs]]
    """Networks that its pods may connect to, besides name servers and port 443 anywhere. Default: none."""

    image: pulumi.Input[str]
    """Runtime image by digest: `…@sha256:…`."""

    environment: str
    """Name of the environment: a dimension of every metric."""

    namespace: pulumi.Input[str]
    """Kubernetes namespace of the pods."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it pods assume their role."""

    bundle_bucket: pulumi.Input[str]
    """Bucket that holds the bundles. Pods read those of this model."""

    prediction_bucket: NotRequired[pulumi.Input[str] | None]
    """Bucket of the prediction log, as a `PredictionStore` has it. Pods write below the model's name alone, and read
    nothing. Default: none, and no prediction log."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the buckets and the feature tables."""

    alerts_topic_arn: pulumi.Input[str]
    """SNS topic that alarms are sent to."""


class ModelEndpoint(KubernetesComponent):
    """A model behind an address, with canaries that undo themselves.

    A new release takes traffic in steps. The alarms that page people also abort a bad release. The name of the
    component is the name of the model.

    Raises:
        ValueError: An argument is unknown, missing, of the wrong type or out of its range, or the endpoint has neither
            tokens nor `allow_anonymous`.
    """

    url: pulumi.Output[str]
    """Where the endpoint answers; empty without a release."""

    role_arn: pulumi.Output[str]
    """The role of its pods."""

    def __init__(self, name: str, args: ModelEndpointArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, ModelEndpointArgs, args)
        _refuse_contradictions(args)
        series = {contract.DIMENSION_ENVIRONMENT: args["environment"], contract.DIMENSION_MODEL: name}
        canary = Canary(args["canary"], alarms.endpoint_alarms(**args["limits"]), series)
        super().__init__(
            "modelworks:index:ModelEndpoint", name, part="endpoint", namespace=args["namespace"], opts=opts
        )
        self._model, self._args, self._canary = name, args, canary
        self.identity = self._identity()
        self.role_arn = self.identity.role.arn
        self.url = pulumi.Output.from_input("")
        if release := args["release"]:
            self._serve(release)
        self.register_outputs({"url": self.url, "role_arn": self.role_arn})

    def _serve(self, release: ReleaseArgs) -> None:
        if override := release["override"]:
            pulumi.log.warn(f"{self._model} {contract.OVERRIDDEN}: {override}", self)
        self.alarms = self._alarms()
        self.ping, self.pong = self._service("ping"), self._service("pong")
        self.ingress = self._ingress()
        self.grpc_ingress = self._grpc_ingress()
        self.token_secret = self._token_secret()
        self.trusted_keys = self._trusted_keys()
        self.alarm_analysis = self._analysis("alarms", self._canary.alarm_analysis(*self._probes()))
        self.traffic_analysis = self._analysis("traffic", self._canary.traffic_analysis())
        self.rollout = self._rollout(release)
        self.autoscaler = self._autoscaler()
        self.disruption_budget = self._disruption_budget()
        self.network_policy = self._network_policy()
        self.probe_network_policy = self._probe_network_policy()
        self.url = url(self._args["ingress"], self._args["host"])

    # -- Identity and alarms -----------------------------------------------------------------------------------------
    def _identity(self) -> PodIdentity:
        log, tables = self._args["prediction_bucket"], self._args["feature_tables"]
        logs = [] if log is None else [bucket_arn(log)]
        api = self._args["feature_api"]
        secrets = [] if api is None else [api["key_secret_arn"]]

        def permissions(bundles: str, key: str, *others: str) -> list[dict[str, Any]]:
            first, last = len(logs), len(logs) + len(tables)
            return serving_permissions(
                self._model,
                bundles,
                key,
                log_arns=others[:first],
                table_arns=others[first:last],
                secret_arns=others[last:],
            )

        return pod_identity(
            self,
            "endpoint",
            self._args,
            bucket=self._args["bundle_bucket"],
            permissions=permissions,
            description=f"Serves {self._model}",
            others=[*logs, *tables.values(), *secrets],
        )

    def _alarms(self) -> list["aws.cloudwatch.MetricAlarm"]:
        return [
            paging_alarm(
                self.child_name(alarm.name),
                parent=self,
                topic=self._args["alerts_topic_arn"],
                **alarms.cloudwatch_alarm(alarm, self._canary.dimensions),
            )
            for alarm in (*self._canary.alarms, alarms.heartbeat_alarm(self._args["limits"]["period_seconds"]))
        ]

    def _probes(self) -> list[Manifest]:
        if not self._args["canary"]["probes"]:
            return []
        return [
            probe_metric(
                self,
                image=self._args["image"],
                services=[self.ping.name, self.pong.name],
                files=[token_file(self.token_secret.name)] if self.token_secret else [],
                per_second=self._canary.probes_per_second,
                # The rollout has its own deadline, and says better why no pod is ready.
                within_seconds=2 * self._args["canary"]["progress_deadline_seconds"],
                additions=self._args["pod"],
            )
        ]

    def _analysis(self, suffix: str, spec: Manifest) -> KubernetesObject:
        return self.object("argoproj.io/v1alpha1", "AnalysisTemplate", suffix, spec=spec)

    # -- Address -----------------------------------------------------------------------------------------------------
    def _service(self, suffix: str) -> KubernetesObject:
        # Argo adds the hash of the pods it means; taking it away would mix stable and canary.
        return self.object(
            "v1", "Service", suffix, annotations=AT_ONCE, ignore_changes=["spec.selector"], spec=service(self.selector)
        )

    def _ingress(self) -> KubernetesObject:
        # Argo writes the weights into an annotation of ours, which a server-side apply leaves alone.
        return self.object(
            "networking.k8s.io/v1",
            "Ingress",
            annotations={
                **AT_ONCE,
                **load_balancer(self._args["ingress"], health="/readyz"),
                **(self._shared() if self._args["grpc"] else {}),
            },
            spec=ingress(self._args["host"], self.ping.name, port="use-annotation"),
        )

    def _grpc_ingress(self) -> KubernetesObject | None:
        # Of its own, because the protocol of its targets is one for the whole of an Ingress.
        if not self._args["grpc"]:
            return None
        return self.object(
            "networking.k8s.io/v1",
            "Ingress",
            "grpc",
            annotations={
                **AT_ONCE,
                **load_balancer(self._args["ingress"], health=f"/{contract.GRPC_HEALTH}/Check"),
                **self._shared(order=-1),
                **grpc_targets(),
            },
            spec=ingress(
                self._args["host"],
                self.ping.name,
                port="use-annotation",
                below=(f"/{contract.GRPC_SERVICE}", f"/{contract.GRPC_HEALTH}"),
            ),
        )

    def _shared(self, order: int = 0) -> Manifest:
        return shared_load_balancer(self._args["ingress"], self._model, namespace=self._args["namespace"], order=order)

    # -- Pods --------------------------------------------------------------------------------------------------------
    def _token_secret(self) -> KubernetesObject | None:
        if self._args["allow_anonymous"]:
            return None
        tokens = pulumi.Output.secret(self._args["tokens"]).apply(require_token)
        # Servers read it again when it changes: a rotation needs no rollout.
        return self.object("v1", "Secret", "tokens", fixed_name=True, stringData={"tokens": tokens})

    def _trusted_keys(self) -> KubernetesObject | None:
        keys = self._args["trusted_keys"]
        return self.object("v1", "ConfigMap", "trusted-keys", fixed_name=True, data=keys) if keys else None

    def _rollout(self, release: ReleaseArgs) -> KubernetesObject:
        strategy = self._canary.strategy(
            release["digest"],
            Routing(self.ping.name, self.pong.name, self._ingresses()),
            alarms=self.alarm_analysis.name,
            traffic=self.traffic_analysis.name,
        )
        return self.object(
            "argoproj.io/v1alpha1",
            "Rollout",
            # Argo's controller writes the whole object back as it defaults it, and so counts as an owner of fields
            # that are ours: the next release would end in a conflict over its own pods.
            annotations={**release_annotations(release), "pulumi.com/patchForce": "true"},
            # The autoscaler decides how many from then on.
            ignore_changes=["spec.replicas"],
            after=[self.identity.policy],
            spec={
                "replicas": self._args["minimum_replicas"],
                # Git knows what to go back to. And Argo holds no release to its deadline as long as it keeps the
                # ReplicaSet of an earlier one that it gave up and scaled down: its scale-down deadline stays on it.
                "revisionHistoryLimit": 0,
                "progressDeadlineSeconds": self._args["canary"]["progress_deadline_seconds"],
                "progressDeadlineAbort": True,
                "selector": {"matchLabels": self.selector},
                "template": self._pod(release),
                "strategy": {"canary": strategy},
            },
        )

    def _ingresses(self) -> tuple[pulumi.Input[str], ...]:
        return (*([self.grpc_ingress.name] if self.grpc_ingress else []), self.ingress.name)

    def _pod(self, release: ReleaseArgs) -> Manifest:
        return serving_pod(
            self,
            release,
            account=self.identity.account.name,
            image=self._args["image"],
            variables=self._variables(release),
            files=self._files(),
            cpu_millicores=self._args["cpu_millicores"],
            memory_mib=self._args["memory_mib"],
            additions=self._args["pod"],
        )

    def _files(self) -> list[Files]:
        tokens = [token_file(self.token_secret.name)] if self.token_secret else []
        return [*tokens, *([key_folder(self.trusted_keys.name)] if self.trusted_keys else [])]

    def _variables(self, release: ReleaseArgs) -> dict[str, pulumi.Input[str]]:
        args, bucket = self._args, self._args["bundle_bucket"]
        return {
            **bundle_variables(self._model, release, environment=args["environment"], bucket=bucket),
            contract.ENV_PORT: str(contract.DEFAULT_PORT),
            # The same port: Argo writes the weights of all Ingresses for one port of the Services.
            **({contract.ENV_GRPC_PORT: str(contract.DEFAULT_PORT)} if args["grpc"] else {}),
            contract.ENV_METRICS_SECONDS: str(self._canary.look_seconds),
            contract.ENV_DRAIN_SECONDS: str(DRAIN_SECONDS),
            **log_variables(self._model, args["prediction_bucket"], args["log_sample_ratio"]),
            contract.ENV_LATENCY_OBJECTIVE_MS: str(args["latency_objective_ms"]),
            contract.ENV_SCRATCH: SCRATCH,
            **({contract.ENV_ALLOW_ANONYMOUS: "true"} if args["allow_anonymous"] else {}),
            **table_variables(args["feature_tables"]),
            **api_variables(args["feature_api"]),
        }

    # -- Around the pods ---------------------------------------------------------------------------------------------
    def _autoscaler(self) -> KubernetesObject:
        cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
        spec = {
            "scaleTargetRef": {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": self.rollout.name},
            "minReplicas": self._args["minimum_replicas"],
            "maxReplicas": self._args["maximum_replicas"],
            "metrics": [{"type": "Resource", "resource": cpu}],
        }
        return self.object("autoscaling/v2", "HorizontalPodAutoscaler", spec=spec)

    def _disruption_budget(self) -> KubernetesObject:
        spec = {"maxUnavailable": 1, "selector": {"matchLabels": self.selector}}
        return self.object("policy/v1", "PodDisruptionBudget", spec=spec)

    def _network_policy(self) -> KubernetesObject:
        return self.object(
            "networking.k8s.io/v1", "NetworkPolicy", spec=network_policy(self.selector, egress=self._args["egress"])
        )

    def _probe_network_policy(self) -> KubernetesObject | None:
        if not self._args["canary"]["probes"]:
            return None
        return self.object("networking.k8s.io/v1", "NetworkPolicy", "probes", spec=probe_network_policy(self))


def _refuse_contradictions(args: ModelEndpointArgs) -> None:
    if release := args["release"]:
        contract.short_digest(release["digest"])
        if not args["allow_anonymous"] and args["tokens"] is None:
            raise ValueError("an endpoint needs tokens, or allow_anonymous=True to be open to everyone")
    if isinstance(tokens := args["tokens"], str) and not args["allow_anonymous"]:
        require_token(tokens)
    require_image_digest(args["image"])
    require_sound_ingress(args["ingress"])
    require_sound_pod(args["pod"])
    require_sound_permissions(args["permissions"])
    require_sound_egress(args["egress"])
    if api := args["feature_api"]:
        require_url("feature_api.url", api["url"])
    for view, arn in args["feature_tables"].items():
        if isinstance(arn, str) and ":table/" not in arn:
            raise ValueError(
                f"feature_tables[{view!r}] must be the ARN of a DynamoDB table (…:table/NAME), got {arn!r}"
            )
    fewest, most = args["minimum_replicas"], args["maximum_replicas"]
    if not 1 <= fewest <= most:
        raise ValueError(f"minimum_replicas must be from 1 to maximum_replicas ({most}), got {fewest}")
