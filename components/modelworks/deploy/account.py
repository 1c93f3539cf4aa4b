"""The AWS account of a stack, by the stack's own config: the settings that Pulumi's provider of AWS reads.

Every session of the command line is made here, so that `up` and what runs after it mean the same account and region.
Two stacks of one command have two sessions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import boto3  # no dependency of the core, and slow: this module is imported where a session is needed
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from modelworks._endpoints import aws_endpoint
from modelworks.errors import ModelworksError

_UNREAD: Final = ("aws:assumeRoleWithWebIdentity", "aws:sharedConfigFiles", "aws:sharedCredentialsFiles")
"""Settings that decide about credentials and that nothing here reads."""

_ROLE: Final[Mapping[str, str]] = {
    "roleArn": "RoleArn",
    "sessionName": "RoleSessionName",
    "externalId": "ExternalId",
    "policy": "Policy",
    "policyArns": "PolicyArns",
    "sourceIdentity": "SourceIdentity",
    "tags": "Tags",
    "transitiveTagKeys": "TransitiveTagKeys",
}
"""Arguments of sts:AssumeRole, by the provider's names. `duration` is a text there, and read apart."""

_SECONDS: Final = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Account:
    """An AWS account, as one stack reaches it."""

    id: str
    """12 digits: whose credentials they are."""
    region: str
    session: Any
    """A boto3 session: its clients, of any service, use the stack's credentials, region and endpoints."""

    @property
    def variables(self) -> dict[str, str]:
        """The same for a program that takes AWS from its environment; credentials of a role last for an hour or so."""
        credentials = self.session.get_credentials().get_frozen_credentials()
        return {
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            **({"AWS_SESSION_TOKEN": credentials.token} if credentials.token else {}),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }


class Session(boto3.Session):  # type: ignore[misc]  # boto3 has no types
    """A boto3 session with addresses of services; boto3's own takes them by the client, or from the process."""

    def __init__(self, endpoint: Callable[[str], str | None], **how: Any) -> None:
        super().__init__(**how)
        self.endpoint = endpoint

    def client(self, service_name: str, *arguments: Any, **more: Any) -> Any:
        """A client of a service, at the address that the stack names for it."""
        url = more.pop("endpoint_url", None) or self.endpoint(service_name)
        return super().client(service_name, *arguments, endpoint_url=url, **more)


def account_of(stack: str, config: Mapping[str, Any], variables: Mapping[str, str]) -> Account:
    """The account of a stack, if it is one that the stack allows.

    Credentials are those of `aws:accessKey` or `aws:profile`, else those of the variables and of the machine, as for
    Pulumi's provider; with them, each of `aws:assumeRoles` is assumed in turn.

    Args:
        stack: Its name.
        config: Its config by full key.
        variables: The environment of its engine.

    Raises:
        ModelworksError: There are no credentials, a role cannot be assumed, or the account is another one.
    """
    if unread := [key for key in _UNREAD if config.get(key)]:
        raise ModelworksError(
            f"stack {stack} has {unread[0]}, which modelworks does not read",
            fix="Name a profile of your AWS configuration instead (aws:profile): it can hold the same.",
        )
    roles = _roles(stack, config)
    try:
        session = _started(config, variables)
        for role in roles:
            session = _assuming(session, role)
        if not session.region_name:
            raise ModelworksError(
                f"stack {stack} names no AWS region",
                fix=f"Run `pulumi config set aws:region REGION --stack {stack}`.",
            )
        account = _account_id(session)
    except (BotoCoreError, ClientError) as error:
        raise ModelworksError(
            f"the AWS account of the stack {stack} cannot be reached: {error}",
            fix="Sign in to it, or name credentials in the stack's file: aws:profile, aws:assumeRoles.",
        ) from error
    _refuse_other(stack, config, account)
    return Account(account, session.region_name, session)


def session_of(variables: Mapping[str, str], *, region: str, profile: str = "") -> Session:
    """A session with the credentials of the shell, or of a profile: for what a stack's own settings do not cover.

    Args:
        variables: The environment of the engine.
        region: Its region.
        profile: Default: whatever the shell has.
    """
    return _started({"aws:region": region, "aws:profile": profile}, variables)


def variables_of_role(arn: str, variables: Mapping[str, str], *, region: str) -> dict[str, str]:
    """Variables by which a program, such as the engine, is in a role, for an hour.

    Args:
        arn: The role's.
        variables: The environment whose credentials may assume it.
        region: Of the STS that answers.

    Raises:
        ModelworksError: It cannot be assumed.
    """
    try:
        session = _assuming(_started({"aws:region": region}, variables), {"RoleArn": arn})
        of_role = Account("", session.region_name, session).variables
    except (BotoCoreError, ClientError) as error:
        raise ModelworksError(
            f"the role {arn} cannot be assumed: {error}",
            fix="Check its name, and that it trusts whoever runs the command.",
        ) from error
    return {**{name: value for name, value in variables.items() if name != "AWS_PROFILE"}, **of_role}


def _started(config: Mapping[str, Any], variables: Mapping[str, str]) -> Session:
    """A session with the credentials that the stack starts from, before any role."""
    endpoint = partial(aws_endpoint, named=config.get("aws:endpoints"), variables=variables)
    region = config.get("aws:region") or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    if key := config.get("aws:accessKey"):
        how = _keys(key, config.get("aws:secretKey"), config.get("aws:token"))
    elif profile := config.get("aws:profile"):
        how = {"profile_name": profile}
    elif key := variables.get("AWS_ACCESS_KEY_ID"):
        how = _keys(key, variables.get("AWS_SECRET_ACCESS_KEY"), variables.get("AWS_SESSION_TOKEN"))
    else:
        how = {"profile_name": variables.get("AWS_PROFILE")}
    return Session(endpoint, region_name=region, **how)


def _keys(key: str, secret: str | None, token: str | None) -> dict[str, str | None]:
    return {"aws_access_key_id": key, "aws_secret_access_key": secret, "aws_session_token": token}


def _account_id(session: Session) -> str:
    # An account that cannot be reached is reported within seconds.
    client = session.client("sts", config=Config(connect_timeout=5, retries={"total_max_attempts": 3}))
    return str(client.get_caller_identity()["Account"])


def _refuse_other(stack: str, config: Mapping[str, Any], account: str) -> None:
    allowed, forbidden = (_texts(config.get(f"aws:{kind}AccountIds")) for kind in ("allowed", "forbidden"))
    if account in forbidden:
        rule = f"forbids account {account} (aws:forbiddenAccountIds)"
    elif allowed and account not in allowed:
        rule = f"is pinned to account {' or '.join(allowed)} (aws:allowedAccountIds)"
    else:
        return
    raise ModelworksError(
        f"stack {stack} {rule}, and the credentials are of account {account}",
        fix="Sign in to its account, or name its credentials in the stack's file: aws:profile, aws:assumeRoles.",
    )


def _texts(found: Any) -> list[str]:
    """A list of texts: a number is what YAML makes of an account id without quotes."""
    return [str(each) for each in (found if isinstance(found, list) else [found] if found else [])]


# -- Roles -----------------------------------------------------------------------------------------------------------
def _roles(stack: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arguments of the calls that assume the stack's roles, in their order."""
    # `assumeRole` is what the provider read before its version 7.
    named = config.get("aws:assumeRoles") or config.get("aws:assumeRole") or []
    return [_role(stack, role) for role in (named if isinstance(named, list) else [named])]


def _role(stack: str, role: Any) -> dict[str, Any]:
    known = [*_ROLE, "duration"]
    if not isinstance(role, Mapping) or not role.get("roleArn") or not role.keys() <= set(known):
        raise ModelworksError(
            f"stack {stack}: a role of aws:assumeRoles must be a mapping with roleArn, and at most "
            f"{', '.join(known[1:])}, got {json.dumps(role)}",
            fix="Write it as `- roleArn: arn:aws:iam::ACCOUNT:role/NAME`.",
        )
    found = {_ROLE[key]: value for key, value in role.items() if value and key != "duration"}
    if arns := found.get("PolicyArns"):
        found["PolicyArns"] = [{"arn": arn} for arn in arns]
    if tags := found.get("Tags"):
        found["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
    if duration := role.get("duration"):
        found["DurationSeconds"] = _seconds(stack, str(duration))
    return found


def _seconds(stack: str, duration: str) -> int:
    """A duration as Go writes it, such as `1h30m`."""
    parts = re.findall(r"(\d+)([hms])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ModelworksError(
            f"stack {stack}: the duration of a role of aws:assumeRoles must be such as 45m or 1h30m, got {duration!r}"
        )
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


class _Role(CredentialProvider):  # type: ignore[misc]  # botocore has no types
    """Credentials of a role, which is assumed again before they end: a run may be watched for longer than an hour."""

    METHOD = CANONICAL_NAME = "assume-role"

    def __init__(self, fetcher: AssumeRoleCredentialFetcher) -> None:
        super().__init__()
        self._fetcher = fetcher

    def load(self) -> Any:
        return DeferredRefreshableCredentials(self._fetcher.fetch_credentials, self.METHOD)


def _assuming(session: Session, role: Mapping[str, Any]) -> Session:
    """A session of a role that `session` may assume."""
    if (source := session.get_credentials()) is None:
        raise NoCredentialsError
    sts = partial(session.client, region_name=session.region_name)
    more = {key: value for key, value in role.items() if key != "RoleArn"}
    fetcher = AssumeRoleCredentialFetcher(sts, source, role["RoleArn"], extra_args=more)
    bare = botocore.session.Session()
    bare.register_component("credential_provider", CredentialResolver([_Role(fetcher)]))
    return Session(session.endpoint, botocore_session=bare, region_name=session.region_name)
