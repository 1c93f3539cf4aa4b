"""Private: how a new release takes over in steps, judged by the same alarms that page people."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import pulumi

from modelworks import _workload_rules as rules
from modelworks import contract
from modelworks._bounds import MOST_STEPS
from modelworks._resources.kubernetes import Manifest
from modelworks._resources.network import SERVICE_PORT
from modelworks.alarms import Alarm, analysis_metric, traffic_metric
from modelworks.defaults import CLOUD_STEP_SECONDS

_LOOK_SECONDS = 10
"""Time between two publications of metrics by a pod, and between two measurements of a canary: at most this."""


class CanaryArgs(TypedDict):
    """How a new release takes over, and when it is aborted."""

    steps: NotRequired[list[int]]
    """Share of traffic after each step, in per cent, growing. Default 5, 25, 50."""

    step_seconds: NotRequired[int]
    """How long each step lasts. With datapoints of a minute or more, at least 180. Default 300."""

    bake_seconds: NotRequired[int]
    """How long the last good version stays warm after the new one took all traffic. Default 600."""

    progress_deadline_seconds: NotRequired[int]
    """A version that is not ready by then is given up. Default 600."""

    minimum_requests: NotRequired[int]
    """Fewer requests than this in the first step, or in the last, are no evidence: back to the stable version. The
    endpoint needs `minimum_requests / (first share * step_seconds)` requests per second for it: by default 100 / (5 % *
    300 s) = 6.7. For one that has fewer, there are `probes`. Default 100."""

    probes: NotRequired[bool]
    """Send a canary the examples of its own bundle, `4 * minimum_requests / step_seconds` times a second, by default
    1.3, for as long as it is analysed. They are evidence enough by themselves, and in no prediction log. Default
    false."""


class LimitsArgs(TypedDict):
    """Shares of requests, 0 to 1, beyond which alarms fire and a canary is aborted."""

    error_ratio: NotRequired[float]
    """Requests that fail for a reason that is ours. Default 0.01."""

    slow_ratio: NotRequired[float]
    """Requests that miss the latency objective. Default 0.05."""

    rejected_ratio: NotRequired[float]
    """Requests turned away because the endpoint is full. Default 0.05."""

    period_seconds: NotRequired[int]
    """Length of one datapoint: 10, 60 or 300. Default 60."""


@dataclass(frozen=True)
class Routing:
    """The traffic of an endpoint: Services of the stable and the new version, which swap, and Ingresses."""

    ping: pulumi.Input[str]
    pong: pulumi.Input[str]
    ingresses: tuple[pulumi.Input[str], ...]
    """Those that were added last come first: Argo writes no weight after one that has it already."""


@dataclass(frozen=True)
class Canary:
    """How releases of one model take over.

    Raises:
        ValueError: The steps do not grow, are too many, or end before CloudWatch shows their metrics; or there would
            be too many probes.
    """

    args: CanaryArgs
    """Complete: with every default."""
    alarms: tuple[Alarm, ...]
    """Conditions of failure. The metric of the first one counts the traffic."""
    dimensions: Mapping[str, str]
    """The series of the model: that of a version is among them."""

    def __post_init__(self) -> None:
        steps = self.args["steps"]
        if not 1 <= len(steps) <= MOST_STEPS or steps != sorted(set(steps)):
            raise ValueError(f"canary.steps must grow and be 1 to {MOST_STEPS}, got {steps}")
        seconds, least, period = self.args["step_seconds"], CLOUD_STEP_SECONDS, self.alarms[0].period_seconds
        if period >= 60 and seconds < least:  # shorter datapoints are a laptop's, whose CloudWatch has no delay
            raise ValueError(
                f"canary.step_seconds must be at least {least} with datapoints of {period} s, got {seconds}: "
                "CloudWatch may take two minutes to show the series of a new release"
            )
        if self.args["probes"]:
            rules.probes_per_second(self.args["minimum_requests"], seconds)

    @property
    def probes_per_second(self) -> float:
        """Probes that are evidence enough by themselves."""
        return rules.probes_per_second(self.args["minimum_requests"], self.args["step_seconds"])

    @property
    def look_seconds(self) -> int:
        """Time between two measurements, and between two publications of what is measured."""
        # Twice a datapoint at least: one that nobody wrote into, or read, would look like no traffic.
        return min(_LOOK_SECONDS, self.alarms[0].period_seconds // 2)

    def alarm_analysis(self, *more: Manifest) -> Manifest:
        """Spec of the analysis that runs for as long as the canary does: it fails where an alarm would fire.

        Args:
            more: Further metrics of it.
        """
        metrics = [
            analysis_metric(alarm, self._of_version(), interval_seconds=self.look_seconds) for alarm in self.alarms
        ]
        return {"args": [{"name": "version"}], "metrics": [*metrics, *more]}

    def traffic_analysis(self) -> Manifest:
        """Spec of the analysis that decides whether the first step, and again the last, is evidence."""
        metric = traffic_metric(
            self.alarms[0],
            self._of_version(),
            requests=self.args["minimum_requests"],
            deadline_seconds=self.args["step_seconds"],
            interval_seconds=self.look_seconds,
        )
        return {"args": [{"name": "version"}], "metrics": [metric]}

    def rollout(
        self,
        digest: str,
        template: Manifest,
        routing: Routing,
        *,
        selector: Mapping[str, str],
        replicas: int,
        alarms: pulumi.Input[str],
        traffic: pulumi.Input[str],
    ) -> Manifest:
        """Spec of the Rollout of a release.

        Args:
            digest: The release.
            template: Its pods.
            routing: The source of its traffic.
            selector: Labels that find its pods.
            replicas: Pods that the endpoint has at least.
            alarms: Name of the `alarm_analysis`.
            traffic: Name of the `traffic_analysis`.
        """
        return {
            "replicas": replicas,
            # Git knows what to go back to. And Argo holds no release to its deadline as long as it keeps the
            # ReplicaSet of an earlier one that it gave up and scaled down: its scale-down deadline stays on it.
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": self.args["progress_deadline_seconds"],
            "progressDeadlineAbort": True,
            "selector": {"matchLabels": dict(selector)},
            "template": template,
            "strategy": {"canary": self._strategy(digest, routing, replicas, alarms, traffic)},
        }

    def _strategy(
        self, digest: str, routing: Routing, replicas: int, alarms: pulumi.Input[str], traffic: pulumi.Input[str]
    ) -> Manifest:
        return {
            # The two take turns at being stable: no Service changes its pods while it has traffic. A load balancer
            # that had to exchange the targets behind the stable one would lose requests.
            "pingPong": {"pingService": routing.ping, "pongService": routing.pong},
            "trafficRouting": {
                "alb": {**_of_ingresses(routing), "rootService": routing.ping, "servicePort": SERVICE_PORT}
            },
            "analysis": _analysis_of(digest, alarms),
            "steps": self._steps(_analysis_of(digest, traffic)),
            "maxSurge": "100%",
            "maxUnavailable": 0,
            # The disruption budget is that of both versions, so a drained node may take a canary's only pod. A load
            # balancer then answers the canary's share with 503.
            "minPodsPerReplicaSet": min(replicas, 2),
            "scaleDownDelaySeconds": self.args["bake_seconds"],
            "abortScaleDownDelaySeconds": 30,
        }

    def _steps(self, evidence: Manifest) -> list[Manifest]:
        first, *rest = self.args["steps"]
        pause = {"pause": {"duration": f"{self.args['step_seconds']}s"}}
        later = [step for weight in rest for step in (pause, {"setWeight": weight})]
        # The alarms pass where nothing was measured. So the last step must have requests of its own, too: by now every
        # series of the release can be read, and one that is silent has lost its traffic or its publisher.
        return [{"setWeight": first}, {"analysis": evidence}, *later, pause, {"analysis": evidence}]

    def _of_version(self) -> dict[str, str]:
        return {**self.dimensions, contract.DIMENSION_VERSION: "{{args.version}}"}


def _of_ingresses(routing: Routing) -> Manifest:
    first, *more = routing.ingresses
    return {"ingresses": [first, *more]} if more else {"ingress": first}


def _analysis_of(digest: str, template: pulumi.Input[str]) -> Manifest:
    """An analysis of what one release does."""
    return {
        "templates": [{"templateName": template}],
        "args": [{"name": "version", "value": contract.short_digest(digest)}],
        # What Argo's controller adds when it writes a Rollout back: said here too, nothing differs from the program.
        "analysisRunMetadata": {},
    }
