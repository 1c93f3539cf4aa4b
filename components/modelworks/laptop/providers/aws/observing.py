"""CloudWatch alarms and dashboards, log groups, and budgets."""

# A kind's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from modelworks.laptop.providers.aws.resource import Kind, Name, names
from modelworks.laptop.providers.aws.shapes import camel, pairs, pascal, tags_of
from modelworks.laptop.providers.plugin import ProviderError


class MetricAlarm(Kind):
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
        arn = self.arn("cloudwatch", f"alarm:{id_}")
        if remove:
            self.client("cloudwatch").untag_resource(ResourceARN=arn, TagKeys=remove)
        if add:
            self.client("cloudwatch").tag_resource(ResourceARN=arn, Tags=pairs(add))


def _query(said: dict[str, Any]) -> dict[str, Any]:
    query: dict[str, Any] = pascal({key: value for key, value in said.items() if key != "metric"})
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


class Dashboard(Kind):
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


class LogGroup(Kind):
    pulumi_type = "aws:cloudwatch/logGroup:LogGroup"
    handles = names("kmsKeyId logGroupClass name namePrefix retentionInDays skipDestroy region tags")
    recorded = names("skipDestroy namePrefix")
    name = Name(limit=512)
    computed = names("name namePrefix logGroupClass")
    defaults: ClassVar = {"retentionInDays": 0, "skipDestroy": False}

    @property
    def logs(self) -> Any:
        return self.client("logs")

    def create(self, inputs: dict[str, Any]) -> str:
        more = {
            "kmsKeyId": inputs.get("kmsKeyId"),
            "logGroupClass": inputs.get("logGroupClass"),
            "tags": inputs.get("tagsAll"),
        }
        self.logs.create_log_group(logGroupName=inputs["name"], **{key: each for key, each in more.items() if each})
        return str(inputs["name"])

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        return ["retentionInDays"] if inputs.get("retentionInDays") else []

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "retentionInDays" in changed:
            if days := inputs.get("retentionInDays"):
                self.logs.put_retention_policy(logGroupName=id_, retentionInDays=days)
            else:
                self.logs.delete_retention_policy(logGroupName=id_)
        if "kmsKeyId" in changed:
            if inputs.get("kmsKeyId"):
                self.logs.associate_kms_key(logGroupName=id_, kmsKeyId=inputs["kmsKeyId"])
            else:
                self.logs.disassociate_kms_key(logGroupName=id_)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        groups = self.logs.describe_log_groups(logGroupNamePrefix=id_)["logGroups"]
        group = next((each for each in groups if each["logGroupName"] == id_), None)
        if group is None:
            return None
        arn = group["arn"].removesuffix(":*")
        return {
            "arn": arn,
            "kmsKeyId": group.get("kmsKeyId"),
            "logGroupClass": group.get("logGroupClass") or "STANDARD",
            "name": id_,
            "retentionInDays": group.get("retentionInDays") or 0,
            "tagsAll": self.logs.list_tags_for_resource(resourceArn=arn).get("tags") or {},
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        if not state.get("skipDestroy"):
            self.logs.delete_log_group(logGroupName=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        arn = self.arn("logs", f"log-group:{id_}")
        if remove:
            self.logs.untag_resource(resourceArn=arn, tagKeys=remove)
        if add:
            self.logs.tag_resource(resourceArn=arn, tags=add)


class Budget(Kind):
    pulumi_type = "aws:budgets/budget:Budget"
    regional = False
    handles = names(
        "accountId budgetType costFilters limitAmount limitUnit name namePrefix notifications tags timeUnit "
        "timePeriodStart timePeriodEnd"
    )
    # moto stores a budget's own fields; what it does not answer is kept as the program says it.
    recorded = names("namePrefix notifications costFilters timePeriodStart timePeriodEnd tags")
    name = Name(limit=100)
    computed = names("accountId costFilters name namePrefix timePeriodStart timePeriodEnd limitUnit limitAmount")
    sets = names("notifications costFilters")

    @property
    def budgets(self) -> Any:
        return self.client("budgets")

    def create(self, inputs: dict[str, Any]) -> str:
        account = inputs.get("accountId") or self.account.id
        notifications = [
            {
                "Notification": _notification(each),
                "Subscribers": [
                    {"SubscriptionType": kind, "Address": address}
                    for kind, property_ in (("EMAIL", "subscriberEmailAddresses"), ("SNS", "subscriberSnsTopicArns"))
                    for address in each.get(property_) or ()
                ],
            }
            for each in inputs.get("notifications") or ()
        ]
        self.budgets.create_budget(
            AccountId=account, Budget=_budget(inputs), NotificationsWithSubscribers=notifications
        )
        return f"{account}:{inputs['name']}"

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        account, _, name = id_.partition(":")
        if "notifications" in changed or {"limitAmount", "limitUnit", "budgetType", "timeUnit"} & set(changed):
            # moto can neither update a budget nor list its subscribers: it is made again under its name.
            self.budgets.delete_budget(AccountId=account, BudgetName=name)
            self.create({**inputs, "accountId": account, "name": name})

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        account, _, name = id_.partition(":")
        found = self.budgets.describe_budget(AccountId=account, BudgetName=name)["Budget"]
        limit = found.get("BudgetLimit") or {}
        state = {
            "accountId": account,
            "arn": f"arn:{self.account.partition}:budgets::{account}:budget/{name}",
            "budgetType": found["BudgetType"],
            "limitAmount": limit.get("Amount"),
            "limitUnit": limit.get("Unit"),
            "name": name,
            "timeUnit": found["TimeUnit"],
            "tagsAll": known.get("tagsAll") or {},  # moto keeps no tags of budgets
        }
        listed = self.budgets.describe_notifications_for_budget(AccountId=account, BudgetName=name)
        there = sorted(map(_key, listed.get("Notifications") or ()))
        said = known.get("notifications") or []
        if there != sorted(_key(_notification(each)) for each in said):
            state["notifications"] = [camel(each) for each in listed.get("Notifications") or ()]
        return state

    def normal(self, key: str, value: Any) -> Any:
        if key == "limitAmount" and isinstance(value, str):
            try:
                return Decimal(value)  # AWS answers "100.0" to "100"
            except InvalidOperation:
                return value
        return super().normal(key, value)

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        account, _, name = id_.partition(":")
        self.budgets.delete_budget(AccountId=account, BudgetName=name)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        """Nothing: moto keeps no tags of budgets, so they are recorded in the state only."""


def _budget(inputs: dict[str, Any]) -> dict[str, Any]:
    limit = {"Amount": inputs.get("limitAmount"), "Unit": inputs.get("limitUnit")}
    filters = {each["name"]: each["values"] for each in inputs.get("costFilters") or ()}
    return {
        "BudgetName": inputs["name"],
        "BudgetType": inputs["budgetType"],
        "TimeUnit": inputs["timeUnit"],
        **({"BudgetLimit": limit} if all(limit.values()) else {}),
        **({"CostFilters": filters} if filters else {}),
    }


def _notification(said: dict[str, Any]) -> dict[str, Any]:
    return {
        "NotificationType": said["notificationType"],
        "ComparisonOperator": said["comparisonOperator"],
        "Threshold": said["threshold"],
        "ThresholdType": said["thresholdType"],
    }


def _key(notification: dict[str, Any]) -> tuple[str, ...]:
    kind = notification.get("ThresholdType") or "PERCENTAGE"
    parts = (notification["NotificationType"], notification["ComparisonOperator"], kind)
    return (*parts, f"{float(notification['Threshold']):g}")
