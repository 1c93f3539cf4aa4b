"""The needs of an account before the first `up`: state bucket, key of secrets, roles of CI.

No program can declare them, since a program needs them to run. Each part is planned with calls that change nothing, and
made so that it may be interrupted and repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from modelworks.deploy.account import Account, session_of
from modelworks.deploy.ci_roles import (
    deploy_policy,
    preview_policy,
    promote_policy,
    shared_state,
    trust_policy,
    trusted_role,
)
from modelworks.deploy.requirements import SecretsProvider, secrets_key
from modelworks.errors import ModelworksError

GITHUB_ISSUER: Final = "token.actions.githubusercontent.com"
"""The issuer of the identity tokens of GitHub Actions:
https://docs.github.com/actions/security-for-github-actions/security-hardening-your-deployments/configuring-openid-connect-in-amazon-web-services"""

AUDIENCE: Final = "sts.amazonaws.com"

_PRIVATE: Final = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}


@dataclass(frozen=True)
class Step:
    """A part of what an environment needs before its first `up`."""

    name: str
    action: Literal["none", "create", "update", "skip"]
    """`none`: it exists. `skip`: it is not for this command to make; the message has the reason."""
    message: str
    apply: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class StateBucket:
    """The bucket of a backend, as its URL names it: `s3://BUCKET/PREFIX?region=…&profile=…`."""

    name: str
    region: str
    profile: str

    @classmethod
    def of(cls, url: str) -> Self | None:
        """The bucket of that URL; None for a backend of another kind."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            return None
        options = dict(parse_qsl(parts.query))
        return cls(parts.netloc, options.get("region", ""), options.get("profile", ""))


def state_bucket(url: str, variables: Mapping[str, str], region: str, *, account: str) -> Step:
    """The bucket that keeps the state of every stack: private, versioned, and closed to plain HTTP.

    One of another account lets in the roles of CI of the stack's.

    Args:
        url: The backend's; empty where the shell's own login decides.
        variables: The environment of the engine, whose credentials are used, as the engine does.
        region: The stack's, for a URL that names none.
        account: The stack's, 12 digits.

    Raises:
        ModelworksError: The bucket is somebody else's, or AWS refuses a call.
    """
    name = "state bucket"
    if (bucket := StateBucket.of(url)) is None:
        return Step(name, "skip", f"the state is kept by {url or 'the login of this shell'}, which is no bucket of S3")
    region = bucket.region or region
    session = session_of(variables, region=region, profile=bucket.profile)
    s3 = session.client("s3")
    exists = _exists(s3, bucket.name)
    owner = _read(lambda: session.client("sts").get_caller_identity()["Account"])
    there = [_tls_only(s3.meta.partition, bucket.name)]
    if owner != account:
        there.append(shared_state(s3.meta.partition, account, bucket.name))
    properties = ", ".join(["private", "versioned", *map(_property, there)])
    secure = _calls(name, lambda: _secure_bucket(s3, bucket.name, there))
    if not exists:
        make = _calls(name, lambda: _create_bucket(s3, bucket.name, region), secure)
        return Step(name, "create", f"s3://{bucket.name} in {region}: {properties}", make)
    if lacks := _lacks(s3, bucket.name, there):
        return Step(name, "update", f"s3://{bucket.name} is not {', '.join(lacks)}", secure)
    return Step(name, "none", f"s3://{bucket.name} is {properties}")


def _exists(s3: Any, bucket: str) -> bool:
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        code = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code == 404:
            return False
        where = error.response["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
        reason = f"it is in {where}" if code == 301 and where else f"S3 answers {code} to these credentials"
        raise ModelworksError(
            f"the bucket {bucket} exists, and cannot be used: {reason}",
            fix="Names of buckets are worldwide: choose another one, or correct `region` and `profile` of its URL.",
        ) from error
    except BotoCoreError as error:
        raise ModelworksError(f"S3 cannot be reached: {error}", fix="Sign in to the account of the state.") from error
    return True


def _lacks(s3: Any, bucket: str, there: list[dict[str, Any]]) -> list[str]:
    """The properties that a bucket of states lacks."""
    private = _read(lambda: s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]) == _PRIVATE
    versioned = _read(lambda: s3.get_bucket_versioning(Bucket=bucket).get("Status")) == "Enabled"
    missing = _missing(_policy_of(s3, bucket), there)
    facts = {"private": private, "versioned": versioned, **{_property(each): each not in missing for each in there}}
    return [name for name, holds in facts.items() if not holds]


def _policy_of(s3: Any, bucket: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_read(lambda: s3.get_bucket_policy(Bucket=bucket)["Policy"]) or "{}")
    return {"Version": "2012-10-17", "Statement": [], **found}


def _missing(policy: Mapping[str, Any], wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The statements that a policy lacks. One that refuses plain HTTP in other words is as good."""
    found = policy["Statement"]
    closed = any(_refuses_plain_http(each) for each in found)
    return [each for each in wanted if each not in found and not (closed and _refuses_plain_http(each))]


def _property(statement: Mapping[str, Any]) -> str:
    """A statement of a bucket's policy in words."""
    if _refuses_plain_http(statement):
        return "TLS only"
    return f"open to the roles of {statement['Sid'].removeprefix('RolesOf')}"


def _tls_only(partition: str, bucket: str) -> dict[str, Any]:
    arns = [f"arn:{partition}:s3:::{bucket}", f"arn:{partition}:s3:::{bucket}/*"]
    condition = {"Bool": {"aws:SecureTransport": "false"}}
    refuse = {"Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": arns}
    return refuse | {"Condition": condition}


def _refuses_plain_http(statement: Mapping[str, Any]) -> bool:
    condition = (statement.get("Condition") or {}).get("Bool") or {}
    return statement.get("Effect") == "Deny" and str(condition.get("aws:SecureTransport")).lower() == "false"


def _create_bucket(s3: Any, bucket: str, region: str) -> None:
    # S3 refuses to name its first region.
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, **where)


def _secure_bucket(s3: Any, bucket: str, there: list[dict[str, Any]]) -> None:
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=_PRIVATE)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    policy = _policy_of(s3, bucket)
    if missing := _missing(policy, there):
        # A statement of that name which differs is an older one of this command.
        ours = {each["Sid"] for each in missing}
        kept = [each for each in policy["Statement"] if each.get("Sid") not in ours]
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({**policy, "Statement": [*kept, *missing]}))


def config_key(environment: str, url: str, variables: Mapping[str, str], region: str) -> Step:
    """The key that encrypts the stack's secrets in its file and in its state.

    Args:
        environment: The stack's name.
        url: Its `secretsprovider`.
        variables: The environment of the engine.
        region: The stack's.

    Raises:
        ModelworksError: The provider is no key of KMS, the key cannot be used, or AWS refuses a call.
    """
    name = "secrets key"
    provider = SecretsProvider.of(url)
    found = secrets_key(url, variables, region)
    if provider is None:
        raise ModelworksError(found.message, fix=found.fix)
    if found.status == "ok":
        return Step(name, "none", found.message)
    if not provider.is_absent(variables, region):
        raise ModelworksError(found.message, fix=found.fix)
    if not provider.key.startswith("alias/"):
        raise ModelworksError(
            f"there is no key {provider.key}, and a new key gets an id of its own",
            fix=f"Name it by an alias: secretsprovider: {provider_of(environment, region)}",
        )
    kms = provider.client(variables, region)
    make = _calls(name, lambda: _create_key(kms, provider.key, environment))
    return Step(name, "create", f"a key of KMS that rotates every year, as {provider.key}", make)


def provider_of(environment: str, region: str) -> str:
    """The `secretsprovider` of a stack whose file names none."""
    return f"awskms://alias/modelworks-{environment}-config?region={region}"


def _create_key(kms: Any, alias: str, environment: str) -> None:
    key = kms.create_key(
        Description=f"Secrets of the stack {environment}",
        Tags=[{"TagKey": "environment", "TagValue": environment}, {"TagKey": "managed-by", "TagValue": "modelworks"}],
    )["KeyMetadata"]["KeyId"]
    try:
        kms.enable_key_rotation(KeyId=key)
        kms.create_alias(AliasName=alias, TargetKeyId=key)
    except BaseException:
        # Without its alias nobody finds it again, and it costs a dollar a month.
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        raise


@dataclass(frozen=True)
class Role:
    """A role that jobs in one environment on GitHub may assume."""

    kind: str
    """Its purpose, and the end of its name: `deploy`, `preview` or `promote`."""
    environment: str
    """The stack's name."""
    github_environment: str
    policy: Mapping[str, Any]
    trusted: str = ""
    """ARN of a role that may assume it, too."""

    @property
    def name(self) -> str:
        """Its name in the account."""
        return role_name(self.environment, self.kind)


def role_name(environment: str, kind: str) -> str:
    """The name of a role of CI for an environment."""
    return f"modelworks-{environment}-{kind}"


@dataclass(frozen=True)
class Neighbour:
    """The environment that versions come from, or go to."""

    environment: str
    account: str
    """12 digits."""


def ci_roles(
    environment: str,
    account: Account,
    repository: str,
    *,
    state: str,
    key: str,
    cluster: bool = False,
    source: Neighbour | None = None,
    target: Neighbour | None = None,
) -> Iterator[Step]:
    """The roles that GitHub Actions of one repository assume: to deploy, preview and promote to an environment.

    Args:
        environment: The stack's name. Jobs that deploy are in the environment of that name on GitHub, those that
            preview in another one, which runs what nobody has read yet, those that promote in a third.
        account: The environment's.
        repository: `OWNER/NAME` or, with immutable subjects, `OWNER@ID/NAME@ID`.
        state: The bucket of the state; empty for a backend of another kind.
        key: The key of the stack's secrets: alias, id or ARN.
        cluster: Whether the stack makes its cluster.
        source: The environment that versions come from. The role that promotes may assume its like there.
        target: The environment that versions go to.

    Raises:
        ModelworksError: AWS refuses a call.
    """
    place = (account.session.get_partition_for_region(account.region), account.id, account.region)
    own = role_name(environment, "deploy")
    deploys = deploy_policy(*place, role=own, state=state, key=key, cluster=cluster)
    yield _role(account, repository, Role("deploy", environment, environment, deploys))
    previews = preview_policy(*place, environment=environment, state=state, key=key)
    yield _role(account, repository, Role("preview", environment, f"{environment}-preview", previews))

    def promoting(neighbour: Neighbour | None) -> str:
        name = neighbour and role_name(neighbour.environment, "promote")
        return f"arn:{place[0]}:iam::{neighbour.account}:role/{name}" if neighbour else ""

    promotes = promote_policy(*place, state=state, key=key, source_role=promoting(source))
    promotion = Role("promote", environment, f"{environment}-promote", promotes, promoting(target))
    yield _role(account, repository, promotion)


def _role(account: Account, repository: str, role: Role) -> Step:
    name, iam = f"{role.kind} role", account.session.client("iam")
    arn = f"arn:{account.session.get_partition_for_region(account.region)}:iam::{account.id}"
    provider = f"{arn}:oidc-provider/{GITHUB_ISSUER}"
    trust = trust_policy(provider, GITHUB_ISSUER, AUDIENCE, repository, role.github_environment)
    if role.trusted:
        trust["Statement"].append(trusted_role(role.trusted))

    def make() -> None:
        _have_provider(iam, provider)
        _have_role(iam, role, trust)

    found = _read(lambda: iam.get_role(RoleName=role.name)["Role"])
    described = f"{arn}:role/{role.name}, for jobs of {repository} in the GitHub environment {role.github_environment}"
    if found is None:
        return Step(name, "create", described, _calls(name, make))
    inline = _read(lambda: iam.get_role_policy(RoleName=role.name, PolicyName=role.kind)["PolicyDocument"])
    if found["AssumeRolePolicyDocument"] == trust and inline == role.policy and _audience(iam, provider):
        return Step(name, "none", described)
    return Step(name, "update", f"{described}: its trust or its permissions differ", _calls(name, make))


def _audience(iam: Any, provider: str) -> bool:
    found = _read(lambda: iam.get_open_id_connect_provider(OpenIDConnectProviderArn=provider))
    return found is not None and AUDIENCE in found["ClientIDList"]


def _have_provider(iam: Any, provider: str) -> None:
    found = _read(lambda: iam.get_open_id_connect_provider(OpenIDConnectProviderArn=provider))
    if found is None:
        iam.create_open_id_connect_provider(Url=f"https://{GITHUB_ISSUER}", ClientIDList=[AUDIENCE])
    elif AUDIENCE not in found["ClientIDList"]:
        iam.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=provider, ClientID=AUDIENCE)


def _have_role(iam: Any, role: Role, trust: Any) -> None:
    if _read(lambda: iam.get_role(RoleName=role.name)) is None:
        iam.create_role(
            RoleName=role.name,
            AssumeRolePolicyDocument=json.dumps(trust),
            Description=f"GitHub Actions, environment {role.github_environment}",
            Tags=[{"Key": "environment", "Value": role.environment}, {"Key": "managed-by", "Value": "modelworks"}],
        )
    else:
        iam.update_assume_role_policy(RoleName=role.name, PolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName=role.name, PolicyName=role.kind, PolicyDocument=json.dumps(role.policy))


def _read(call: Callable[[], Any]) -> Any:
    """The answer of AWS; None where the resource is not there.

    Raises:
        ModelworksError: AWS refuses, or cannot be reached.
    """
    try:
        return call()
    except ClientError as error:
        if error.response["Error"]["Code"].startswith("NoSuch"):
            return None
        raise _refused("the plan", error) from error
    except BotoCoreError as error:
        raise ModelworksError(f"AWS cannot be reached: {error}") from error


def _calls(name: str, *calls: Callable[[], None]) -> Callable[[], None]:
    """One function that makes the calls, and whose error names the part that they make."""

    def apply() -> None:
        try:
            for call in calls:
                call()
        except ClientError as error:
            raise _refused(f"the {name}", error) from error
        except BotoCoreError as error:
            raise ModelworksError(f"AWS cannot be reached: {error}") from error

    return apply


def _refused(what: str, error: ClientError) -> ModelworksError:
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    return ModelworksError(
        f"AWS refuses {error.operation_name} for {what}: {code}: {message}",
        fix="Use credentials that may call it, then run the command again: it continues.",
    )
