"""Who calls, and which policies apply: read from the moto of this process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from modelworks.laptop.authorization.actions import Call
from modelworks.laptop.authorization.evaluation import Document, Principal


@dataclass(frozen=True)
class Caller:
    """Who calls, with the policies of its identity."""

    principal: Principal
    context: dict[str, list[str]] = field(default_factory=dict)
    """Condition keys about it."""
    identity: tuple[Document, ...] = ()
    boundary: Document | None = None
    session: Document | None = None


def caller(account: str, key: str, token: str) -> Caller:
    """The user or the session of a role that a verified key of the emulated account belongs to."""
    if token:
        sessions = (each for each in _sessions(account) if (each.access_key_id, each.session_token) == (key, token))
        found = next((_of_session(account, each) for each in sessions), None)
    else:
        users = list(_iam(account).users.values())
        owners = (each for each in users if any(one.access_key_id == key for one in each.access_keys))
        found = next((_of_user(account, each) for each in owners), None)
    # Who was deleted a moment ago may do nothing.
    return found or Caller(Principal(f"arn:aws:iam::{account}:user/{key}", account))


def _of_session(account: str, session: Any) -> Caller:
    principal = Principal(session.arn, account, session.role_arn)
    policy = _document(session.policy) if session.policy else None
    role = role_of(account, session.role_arn)
    if role is None:  # it was deleted, and its sessions may do nothing
        return Caller(principal, _known(principal, session.user_id), session=policy)
    return Caller(
        principal,
        {**_known(principal, session.user_id), **_tags(role.tags)},
        _documents(role),
        _boundary(account, role),
        policy,
    )


def _of_user(account: str, user: Any) -> Caller:
    principal = Principal(user.arn, account)
    groups = _iam(account).get_groups_for_user(user.name)
    documents = _documents(user) + tuple(document for group in groups for document in _documents(group))
    known = {**_known(principal, user.id), "aws:username": [user.name]}
    return Caller(principal, {**known, **_tags(user.tags)}, documents, _boundary(account, user))


def _known(principal: Principal, userid: str) -> dict[str, list[str]]:
    # A session is known by the ARN of its role.
    return {
        "aws:PrincipalArn": [principal.role or principal.arn],
        "aws:PrincipalAccount": [principal.account],
        "aws:PrincipalType": ["AssumedRole" if principal.role else "User"],
        "aws:userid": [userid],
    }


def _tags(tags: list[dict[str, str]] | None) -> dict[str, list[str]]:
    return {f"aws:PrincipalTag/{each['Key']}": [each["Value"]] for each in tags or ()}


def _documents(holder: Any) -> tuple[Document, ...]:
    attached = map(_current, holder.managed_policies.values())
    return tuple(_document(each) for each in (*holder.policies.values(), *attached))


def _boundary(account: str, holder: Any) -> Document | None:
    arn = getattr(holder, "permissions_boundary_arn", None)
    if not arn:
        return None
    managed = _iam(account).managed_policies.get(arn)
    # A boundary that does not exist allows nothing.
    return _document(_current(managed)) if managed else {"Statement": []}


def _current(managed: Any) -> str:
    return str(next(each.document for each in managed.versions if each.version_id == managed.default_version_id))


def role_of(account: str, arn: str) -> Any:
    """The role of that ARN; None if there is none."""
    return next((role for role in list(_iam(account).roles.values()) if role.arn == arn), None)


def trust(account: str, arn: str) -> Document | None:
    """Whom a role trusts; None if there is no such role."""
    role = role_of(account, arn)
    return _document(role.assume_role_policy_document) if role else None


def of_resource(call: Call, arn: str) -> tuple[Document | None, bool]:
    """The policy of a resource itself, and whether nothing is allowed without it."""
    if call.service == "sts":
        return trust(call.account, arn) or {"Statement": []}, True
    service = arn.split(":")[2] if arn.startswith("arn:") else ""
    if service == "s3":
        bucket = buckets(call.account).get(arn.split(":::")[1].partition("/")[0])
        return (_document(bucket.policy.decode()) if bucket is not None and bucket.policy else None), False
    if service == "kms":
        key = key_of(call.account, arn)
        return (_document(key.policy) if key is not None else None), key is not None
    if service == "sns":
        topic = backend("sns", call.account, call.region).topics.get(arn)
        return (_document(topic.policy) if topic else None), False
    if service == "sqs":
        queue = backend("sqs", call.account, call.region).queues.get(arn.rpartition(":")[2])
        return (_document(queue.policy) if queue is not None and queue.policy else None), False
    return None, False


def buckets(account: str) -> dict[str, Any]:
    """The buckets of an account, by name."""
    return dict(backend("s3", account, "aws").buckets)


def key_of(account: str, name: str) -> Any:
    """The KMS key that an ARN, id or alias means; None if there is none."""
    from moto.kms.models import kms_backends  # only where moto runs

    region = name.split(":")[3] if name.startswith("arn:") else ""
    for where, found in list(kms_backends[account].items()):
        if region in {"", where}:
            with suppress(Exception):  # moto raises whatever the API would answer: there is no such key
                return found.keys[found.any_id_to_key_id(name)]
    return None


def resolve(call: Call, name: str) -> str:
    """The ARN of a key or secret, and the workgroup of a query, by what a request calls it."""
    if call.service == "kms":
        blob = call.parameters.get("CiphertextBlob")
        if not name and isinstance(blob, str):
            import base64

            name = base64.b64decode(blob)[:36].decode("ascii", "replace")  # moto writes the key's id first
        key = key_of(call.account, name)
        return str(key.arn) if key is not None else (name if name.startswith("arn:") else call.arn(f"key/{name}"))
    if call.service == "secretsmanager":
        secrets = backend("secretsmanager", call.account, call.region).secrets
        found = next((each for each in secrets.values() if name in {each.arn, each.name}), None)
        return str(found.arn) if found else (name if name.startswith("arn:") else call.arn(f"secret:{name}-??????"))
    execution = backend("athena", call.account, call.region).executions.get(name)
    return str(execution.workgroup.name) if execution and execution.workgroup else ""


def _iam(account: str) -> Any:
    return backend("iam", account, "aws")


def _sessions(account: str) -> Iterator[Any]:
    from moto.sts.models import sts_backends  # only where moto runs

    for found in list(sts_backends[account].values()):
        yield from list(found.assumed_roles)


def backend(service: str, account: str, where: str) -> Any:
    """The part of moto that is one service in a region or partition."""
    from moto import backends  # only where moto runs

    find: Any = backends.get_backend  # its types know literal names alone
    return find(service)[account][where]


def _document(text: str) -> Document:
    found = json.loads(text)
    return found if isinstance(found, dict) else {"Statement": found if isinstance(found, Iterable) else []}
