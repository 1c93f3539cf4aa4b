"""Budgets of an account."""

# A resource's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal, InvalidOperation
from typing import Any

from modelworks.laptop.providers.aws.resource import Name, Resource, names
from modelworks.laptop.providers.aws.shapes import camel


class Budget(Resource):
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
