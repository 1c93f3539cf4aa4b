"""CloudWatch alarms and dashboards."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import camel, change_tags, pairs, pascal, tags_of
from modelworks.laptop.providers.provider import ProviderError


class MetricAlarm(Resource):
    pulumi_type = "aws:cloudwatch/metricAlarm:MetricAlarm"
    _fields: ClassVar = {
        "actionsEnabled": "ActionsEnabled",
        "alarmActions": "AlarmActions",
        "alarmDescription": "AlarmDescription",
        "comparisonOperator": "ComparisonOperator",
        "datapointsToAlarm": "DatapointsToAlarm",
        "evaluateLowSampleCountPercentiles": "EvaluateLowSampleCountPercentile",
        "evaluationPeriods": "EvaluationPeriods",
        "extendedStatistic": "ExtendedStatistic",
        "insufficientDataActions": "InsufficientDataActions",
        "metricName": "MetricName",
        "namespace": "Namespace",
        "okActions": "OKActions",
        "period": "Period",
        "statistic": "Statistic",
        "threshold": "Threshold",
        "thresholdMetricId": "ThresholdMetricId",
        "treatMissingData": "TreatMissingData",
        "unit": "Unit",
    }
    handles = names("name dimensions metricQueries region tags") | _fields.keys()
    name = Name(limit=255)
    computed = names("name evaluateLowSampleCountPercentiles")
    sets = names("alarmActions okActions insufficientDataActions metricQueries")
    defaults: ClassVar = {"actionsEnabled": True, "treatMissingData": "missing"}
    filled = names("returnData")

    def create(self, inputs: dict[str, Any]) -> str:
        self._put(inputs, Tags=pairs(inputs.get("tagsAll") or {}))
        return str(inputs["name"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if set(changed) - {"tags", "tagsAll"}:
            self._put({**inputs, "name": id_})

    def _put(self, inputs: dict[str, Any], **more: Any) -> None:
        arguments = {name: inputs[key] for key, name in self._fields.items() if inputs.get(key) is not None}
        if inputs.get("dimensions"):
            arguments["Dimensions"] = pairs(inputs["dimensions"], key="Name")
        if inputs.get("metricQueries"):
            arguments["Metrics"] = [_query(each) for each in inputs["metricQueries"]]
        self.client("cloudwatch").put_metric_alarm(AlarmName=inputs["name"], **arguments, **more)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        cloudwatch = self.client("cloudwatch")
        found = cloudwatch.describe_alarms(AlarmNames=[id_])["MetricAlarms"]
        if not found:
            return None
        alarm = found[0]
        arn = alarm["AlarmArn"]
        return {
            **{key: alarm.get(name) for key, name in self._fields.items()},
            "arn": arn,
            "dimensions": tags_of(alarm.get("Dimensions") or [], key="Name"),
            "metricQueries": [_queried(each) for each in alarm.get("Metrics") or ()],
            "name": id_,
            "tagsAll": tags_of(cloudwatch.list_tags_for_resource(ResourceARN=arn)["Tags"]),
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("cloudwatch").delete_alarms(AlarmNames=[id_])

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        cloudwatch, arn = self.client("cloudwatch"), self.arn("cloudwatch", f"alarm:{id_}")
        change_tags(cloudwatch.untag_resource, cloudwatch.tag_resource, pairs(add), remove, ResourceARN=arn)


def _query(said: dict[str, Any]) -> dict[str, Any]:
    # The real provider always sends it; an alarm without it would return all of its queries.
    query: dict[str, Any] = {"ReturnData": False} | pascal(
        {key: value for key, value in said.items() if key != "metric"}
    )
    if metric := said.get("metric"):
        query["MetricStat"] = {
            "Metric": {
                "Namespace": metric.get("namespace"),
                "MetricName": metric["metricName"],
                "Dimensions": pairs(metric.get("dimensions") or {}, key="Name"),
            },
            "Period": metric["period"],
            "Stat": metric["stat"],
            **({"Unit": metric["unit"]} if metric.get("unit") else {}),
        }
    return query


def _queried(query: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = camel({key: value for key, value in query.items() if key != "MetricStat"})
    if stat := query.get("MetricStat"):
        metric = {
            "namespace": stat["Metric"].get("Namespace"),
            "metricName": stat["Metric"].get("MetricName"),
            "dimensions": tags_of(stat["Metric"].get("Dimensions") or [], key="Name"),
            "period": stat["Period"],
            "stat": stat["Stat"],
            "unit": stat.get("Unit"),
        }
        said["metric"] = metric
    return said


class Dashboard(Resource):
    pulumi_type = "aws:cloudwatch/dashboard:Dashboard"
    handles = names("dashboardBody dashboardName region")
    documents = names("dashboardBody")

    def create(self, inputs: dict[str, Any]) -> str:
        self._put(inputs)
        return str(inputs["dashboardName"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "dashboardBody" in changed:
            self._put(inputs)

    def _put(self, inputs: dict[str, Any]) -> None:
        answer = self.client("cloudwatch").put_dashboard(
            DashboardName=inputs["dashboardName"], DashboardBody=inputs["dashboardBody"]
        )
        if messages := answer.get("DashboardValidationMessages"):
            raise ProviderError(messages[0].get("Message", "is not a dashboard"), path=("dashboardBody",))

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        found = self.client("cloudwatch").get_dashboard(DashboardName=id_)
        return {
            "dashboardArn": found["DashboardArn"],
            "dashboardBody": found["DashboardBody"],
            "dashboardName": id_,
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("cloudwatch").delete_dashboards(DashboardNames=[id_])
