"""The `aws:*` functions that programs here call."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from modelworks.laptop.providers.aws.account import Account, identity
from modelworks.laptop.providers.property_values import UNKNOWN, has_unknowns


def caller_identity(account: Account, _: dict[str, Any]) -> dict[str, Any]:
    """Who we are."""
    found = identity(account.endpoint, account.region)
    return {"accountId": found["Account"], "arn": found["Arn"], "id": found["Account"], "userId": found["UserId"]}


def region(account: Account, args: dict[str, Any]) -> dict[str, Any]:
    """A region: the requested one, else the provider's."""
    name = args.get("region") or args.get("name") or account.region
    described = f"{name} (as the laptop has it)"
    return {"id": name, "name": name, "region": name, "description": described, "endpoint": f"ec2.{name}.amazonaws.com"}


def partition(account: Account, _: dict[str, Any]) -> dict[str, Any]:
    """The partition: always that of AWS's public regions."""
    return {
        "id": account.partition,
        "partition": account.partition,
        "dnsSuffix": "amazonaws.com",
        "reverseDnsPrefix": "com.amazonaws",
    }


def policy_document(_: Account, args: dict[str, Any]) -> dict[str, Any]:
    """A policy document as JSON text, from statements."""
    if has_unknowns(args):
        return {"id": UNKNOWN, "json": UNKNOWN, "minifiedJson": UNKNOWN}
    sources = [json.loads(text) for text in args.get("sourcePolicyDocuments") or []]
    overrides = [json.loads(text) for text in args.get("overridePolicyDocuments") or []]
    statements = [each for source in sources for each in _list(source.get("Statement"))]
    statements += [_statement(each) for each in args.get("statements") or []]
    for override in (each for source in overrides for each in _list(source.get("Statement"))):
        sid = override.get("Sid")
        statements = [each for each in statements if not sid or each.get("Sid") != sid] + [override]
    policy = {"Version": args.get("version") or "2012-10-17"}
    if args.get("policyId"):
        policy["Id"] = args["policyId"]
    text = json.dumps({**policy, "Statement": statements}, indent=2)
    return {**args, "id": str(zlib.crc32(text.encode())), "json": text, "minifiedJson": json.dumps(json.loads(text))}


def _statement(given: Mapping[str, Any]) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": given["sid"]} if given.get("sid") else {}
    statement["Effect"] = given.get("effect") or "Allow"
    for key, name in (
        ("actions", "Action"),
        ("notActions", "NotAction"),
        ("resources", "Resource"),
        ("notResources", "NotResource"),
    ):
        if given.get(key):
            statement[name] = _one(sorted(given[key], reverse=True))
    for key, name in (("principals", "Principal"), ("notPrincipals", "NotPrincipal")):
        if given.get(key):
            statement[name] = _principals(given[key])
    conditions: dict[str, dict[str, Any]] = {}
    for condition in given.get("conditions") or []:
        conditions.setdefault(condition["test"], {})[condition["variable"]] = _one(condition["values"])
    if conditions:
        statement["Condition"] = conditions
    return statement


def _principals(given: list[Mapping[str, Any]]) -> Any:
    if any(each["type"] == "*" and "*" in each["identifiers"] for each in given):
        return "*"
    kinds: dict[str, list[str]] = {}
    for each in given:
        kinds.setdefault(each["type"], []).extend(each["identifiers"])
    return {kind: _one(sorted(identifiers, reverse=True)) for kind, identifiers in kinds.items()}


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


FUNCTIONS: Mapping[str, Callable[[Account, dict[str, Any]], Mapping[str, Any]]] = {
    "aws:index/getCallerIdentity:getCallerIdentity": caller_identity,
    "aws:index/getRegion:getRegion": region,
    "aws:index/getPartition:getPartition": partition,
    "aws:iam/getPolicyDocument:getPolicyDocument": policy_document,
}
