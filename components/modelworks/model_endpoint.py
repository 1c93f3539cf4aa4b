"""One model, served: pods under Argo Rollouts, an address, an identity, and the alarms that judge it."""

from typing import NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import _workload_rules as rules
from modelworks import alarms, contract
from modelworks._bounds import PERIODS
from modelworks._resources.alarm import paging_alarm
from modelworks._resources.arguments import checked, require_each, require_token
from modelworks._resources.canary import Canary, CanaryArgs, LimitsArgs, Routing
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject, Manifest
from modelworks._resources.network import (
    EgressArgs,
    IngressArgs,
    network_policy,
    require_sound_egress,
    require_sound_ingress,
    url,
)
from modelworks._resources.pod import PodArgs, require_sound_pod
from modelworks._resources.pod_identity import PermissionArgs, require_sound_permissions
from modelworks._resources.probes import probe_metric, probe_network_policy
from modelworks._resources.scaling import autoscaler, disruption_budget
from modelworks._resources.serving_address import Address, serving_address
from modelworks._resources.serving_pod import (
    Files,
    ReleaseArgs,
    key_folder,
    release_annotations,
    require_tables,
    server_variables,
    serving_identity,
    serving_pod,
    token_file,
)
from modelworks._resources.uptime import Uptime, uptime
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
    balancer of AWS the certificate; EKS Auto Mode cannot. Changing it replaces the load balancer, and so its address.
    Default false."""

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
    component is the name of the model. Without a release, the children that serve it are None.

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
        if not contract.MODEL_NAME.fullmatch(name):
            raise ValueError(
                f"ModelEndpoint {name!r}: an endpoint is called as its model: 1 to 40 lower-case letters, digits and "
                "'-', beginning with a letter and not ending with '-'"
            )
        _refuse_contradictions(args)
        series = {contract.DIMENSION_ENVIRONMENT: args["environment"], contract.DIMENSION_MODEL: name}
        canary = Canary(args["canary"], alarms.endpoint_alarms(**args["limits"]), series)
        super().__init__(
            "modelworks:index:ModelEndpoint", name, part="endpoint", namespace=args["namespace"], opts=opts
        )
        self._model, self._args, self._canary = name, args, canary
        self.identity = serving_identity(self, name, args)
        self.role_arn = self.identity.role.arn
        self.url = pulumi.Output.from_input("")
        self.alarms: list[aws.cloudwatch.MetricAlarm] = []
        self.ping: KubernetesObject | None = None
        self.pong: KubernetesObject | None = None
        self.ingress: KubernetesObject | None = None
        self.grpc_ingress: KubernetesObject | None = None
        self.token_secret: KubernetesObject | None = None
        self.trusted_keys: KubernetesObject | None = None
        self.alarm_analysis: KubernetesObject | None = None
        self.traffic_analysis: KubernetesObject | None = None
        self.rollout: KubernetesObject | None = None
        self.autoscaler: KubernetesObject | None = None
        self.disruption_budget: KubernetesObject | None = None
        self.network_policy: KubernetesObject | None = None
        self.probe_network_policy: KubernetesObject | None = None
        self.uptime: Uptime | None = None
        if release := args["release"]:
            self._serve(release)
        self.register_outputs({"url": self.url, "role_arn": self.role_arn})

    def _serve(self, release: ReleaseArgs) -> None:
        if override := release["override"]:
            pulumi.log.warn(f"{self._model} {contract.OVERRIDDEN}: {override}", self)
        self.alarms = self._alarms()
        address = serving_address(self, self._model, self._args)
        self.ping, self.pong, self.ingress, self.grpc_ingress = address
        self.token_secret = self._token_secret()
        self.trusted_keys = self._trusted_keys()
        self.alarm_analysis = alarms = self._analysis("alarms", self._canary.alarm_analysis(*self._probes(address)))
        self.traffic_analysis = traffic = self._analysis("traffic", self._canary.traffic_analysis())
        self.rollout = rollout = self._rollout(release, address.routing, alarms.name, traffic.name)
        self.autoscaler = self._autoscaler(rollout.name)
        self.disruption_budget = self.object("policy/v1", "PodDisruptionBudget", spec=disruption_budget(self.selector))
        self.network_policy = self._network_policy()
        self.probe_network_policy = self._probe_network_policy()
        self.uptime = self._uptime()
        self.url = url(self._args["ingress"], self._args["host"])

    # -- Alarms and analyses -----------------------------------------------------------------------------------------
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

    def _probes(self, address: Address) -> list[Manifest]:
        if not self._args["canary"]["probes"]:
            return []
        return [
            probe_metric(
                self,
                image=self._args["image"],
                services=[address.ping.name, address.pong.name],
                files=self._tokens(),
                per_second=self._canary.probes_per_second,
                # The rollout has its own deadline, and says better why no pod is ready.
                within_seconds=2 * self._args["canary"]["progress_deadline_seconds"],
                additions=self._args["pod"],
            )
        ]

    def _analysis(self, suffix: str, spec: Manifest) -> KubernetesObject:
        return self.object("argoproj.io/v1alpha1", "AnalysisTemplate", suffix, spec=spec)

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

    def _rollout(
        self, release: ReleaseArgs, routing: Routing, alarms: pulumi.Input[str], traffic: pulumi.Input[str]
    ) -> KubernetesObject:
        return self.object(
            "argoproj.io/v1alpha1",
            "Rollout",
            # Argo's controller writes the whole object back as it defaults it, and so counts as an owner of fields
            # that are ours: the next release would end in a conflict over its own pods.
            annotations={**release_annotations(release), "pulumi.com/patchForce": "true"},
            # The autoscaler decides how many from then on.
            ignore_changes=["spec.replicas"],
            after=[self.identity.policy],
            spec=self._canary.rollout(
                release["digest"],
                self._pod(release),
                routing,
                selector=self.selector,
                replicas=self._args["minimum_replicas"],
                alarms=alarms,
                traffic=traffic,
            ),
        )

    def _pod(self, release: ReleaseArgs) -> Manifest:
        return serving_pod(
            self,
            release,
            account=self.identity.account.name,
            image=self._args["image"],
            variables=server_variables(self._model, release, self._args, look_seconds=self._canary.look_seconds),
            files=[*self._tokens(), *([key_folder(self.trusted_keys.name)] if self.trusted_keys else [])],
            cpu_millicores=self._args["cpu_millicores"],
            memory_mib=self._args["memory_mib"],
            additions=self._args["pod"],
        )

    def _tokens(self) -> list[Files]:
        return [token_file(self.token_secret.name)] if self.token_secret else []

    # -- Around the pods ---------------------------------------------------------------------------------------------
    def _autoscaler(self, rollout: pulumi.Input[str]) -> KubernetesObject:
        spec = autoscaler(rollout, self._args["minimum_replicas"], self._args["maximum_replicas"])
        return self.object("autoscaling/v2", "HorizontalPodAutoscaler", spec=spec)

    def _network_policy(self) -> KubernetesObject:
        return self.object(
            "networking.k8s.io/v1", "NetworkPolicy", spec=network_policy(self.selector, egress=self._args["egress"])
        )

    def _probe_network_policy(self) -> KubernetesObject | None:
        if not self._args["canary"]["probes"]:
            return None
        return self.object("networking.k8s.io/v1", "NetworkPolicy", "probes", spec=probe_network_policy(self))

    def _uptime(self) -> Uptime:
        return uptime(
            self,
            host=self._args["host"],
            ingress=self._args["ingress"],
            path="/readyz",
            image=self._args["image"],
            identity=self.identity,
            namespace=contract.METRIC_NAMESPACE,
            dimensions=self._canary.dimensions,
            period_seconds=self._args["limits"]["period_seconds"],
            topic=self._args["alerts_topic_arn"],
            additions=self._args["pod"],
        )


def _refuse_contradictions(args: ModelEndpointArgs) -> None:
    if release := args["release"]:
        contract.short_digest(release["digest"])
        if not args["allow_anonymous"] and args["tokens"] is None:
            raise ValueError("an endpoint needs tokens, or allow_anonymous=True to be open to everyone")
    if isinstance(tokens := args["tokens"], str) and not args["allow_anonymous"]:
        require_token(tokens)
    require_sound_ingress(args["ingress"])
    require_sound_pod(args["pod"])
    require_sound_permissions(args["permissions"])
    require_sound_egress(args["egress"])
    if api := args["feature_api"]:
        require_url("feature_api.url", api["url"])
    require_tables(args["feature_tables"])
    require_each("trusted_keys", args["trusted_keys"], rules.file_name)
    if (period := args["limits"]["period_seconds"]) not in PERIODS:
        raise ValueError(f"limits.period_seconds must be one of {', '.join(map(str, PERIODS))}, got {period}")
    fewest, most = args["minimum_replicas"], args["maximum_replicas"]
    if not 1 <= fewest <= most:
        raise ValueError(f"minimum_replicas must be from 1 to maximum_replicas ({most}), got {fewest}")
