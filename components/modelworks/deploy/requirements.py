"""Needs of an environment that its AWS account meets or lacks, checked with calls that change nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import parse_qsl

from botocore.exceptions import BotoCoreError, ClientError

from modelworks._checks import Check
from modelworks.deploy.account import Account, session_of
from modelworks.errors import ModelworksError

_ECR: Final = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[\w-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^@:]+)(:[^@]*)?@(?P<digest>.+)"
)
_ABSENT: Final = ("NotFoundException", "NoSuchEntity", "ResourceNotFoundException", "RepositoryNotFoundException")
_AUDIENCE: Final = "sts.amazonaws.com"


@dataclass(frozen=True)
class SecretsProvider:
    """The key that encrypts a stack's secrets, as its file names it: `awskms://alias/NAME?region=…&profile=…`."""

    key: str
    """`alias/NAME`, an id or an ARN."""
    region: str
    profile: str

    @classmethod
    def of(cls, url: str) -> Self | None:
        """The provider of that URL; None for one that is no key of AWS."""
        scheme, _, rest = url.partition("://")
        if scheme != "awskms":
            return None
        key, _, query = rest.lstrip("/").partition("?")
        options = dict(parse_qsl(query))
        return cls(key, options.get("region", ""), options.get("profile") or options.get("awssdk_profile") or "")

    def is_absent(self, variables: Mapping[str, str], region: str) -> bool:
        """Whether there is no such key.

        Raises:
            ModelworksError: AWS refuses, or cannot be reached.
        """
        client = self.client(variables, region)
        return _called(lambda: client.describe_key(KeyId=self.key)) is None

    def client(self, variables: Mapping[str, str], region: str) -> Any:
        """A client of KMS with the credentials that the engine has for it: those of the shell, or of the profile."""
        return session_of(variables, region=self.region or region, profile=self.profile).client("kms")


def secrets_key(url: str, variables: Mapping[str, str], region: str) -> Check:
    """Whether the key of a stack's secrets is there and may be used.

    Args:
        url: The line `secretsprovider` of the stack's file; empty without one.
        variables: The environment of the engine.
        region: The stack's.
    """
    name = "secrets key"
    if (provider := SecretsProvider.of(url)) is None:
        return Check(
            name,
            "missing",
            f"secrets are encrypted by {url.partition(':')[0] or 'a passphrase of the shell'}, not by a key of KMS",
            "Write secretsprovider: awskms://alias/NAME?region=REGION into the stack's file, then `pulumi stack init`.",
        )
    client = provider.client(variables, region)
    found = _called(lambda: client.describe_key(KeyId=provider.key))
    if found is None:
        alias = f" && aws kms create-alias --alias-name {provider.key} --target-key-id KEY"
        create = "aws kms create-key" + (alias if provider.key.startswith("alias/") else "")
        return Check(name, "missing", f"there is no key {provider.key}", f"{create}; see docs/guides/aws.md")
    return _usable(name, provider.key, found)


def environment_key(account: Account, arn: str) -> Check:
    """Whether the key that the environment declares is usable."""
    name = "environment key"
    client = account.session.client("kms")
    found = _called(lambda: client.describe_key(KeyId=arn))
    if found is None:
        return Check(name, "missing", f"there is no key {arn}: what it encrypted cannot be read")
    return _usable(name, arn, found)


def _usable(name: str, key: str, found: Mapping[str, Any]) -> Check:
    state = found["KeyMetadata"]["KeyState"]
    if state == "Enabled":
        return Check(name, "ok", f"{key} is enabled")
    identity = found["KeyMetadata"]["KeyId"]
    fixes = {
        "PendingDeletion": f"aws kms cancel-key-deletion --key-id {identity} && aws kms enable-key --key-id {identity}",
        "Disabled": f"aws kms enable-key --key-id {identity}",
    }
    return Check(name, "missing", f"the key {key} is {state}: nothing can be decrypted", fixes.get(state, ""))


def oidc_provider(account: Account, issuer: str) -> Check:
    """Whether pods of the cluster can assume roles: the account trusts the cluster's issuer."""
    name = "oidc provider"
    iam = account.session.client("iam")
    partition = account.session.get_partition_for_region(account.region)
    arn = f"arn:{partition}:iam::{account.id}:oidc-provider/{issuer}"
    create = f"aws iam create-open-id-connect-provider --url https://{issuer} --client-id-list {_AUDIENCE}"
    found = _called(lambda: iam.get_open_id_connect_provider(OpenIDConnectProviderArn=arn))
    if found is None:
        return Check(name, "missing", f"the account has no identity provider {issuer} (cluster.oidc_issuer)", create)
    if _AUDIENCE not in (found.get("ClientIDList") or []):
        add = "aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn"
        return Check(name, "missing", f"{arn} has no audience {_AUDIENCE}", f"{add} {arn} --client-id {_AUDIENCE}")
    return Check(name, "ok", f"{issuer} is trusted")


def image(account: Account, setting: str, reference: str) -> Check:
    """Whether an image is there, by its digest.

    Args:
        account: The environment's.
        setting: Where it is stated, such as `cluster.runtime_image`.
        reference: The image.
    """
    if (parts := _ECR.fullmatch(reference)) is None:
        return Check(
            setting, "skipped", f"{reference.partition('@')[0]} is in no registry of AWS, and was not looked up"
        )
    ecr = account.session.client("ecr", region_name=parts["region"])
    found = _called(
        lambda: ecr.describe_images(
            registryId=parts["account"], repositoryName=parts["name"], imageIds=[{"imageDigest": parts["digest"]}]
        )
    )
    if found is None or not found["imageDetails"]:
        return Check(
            setting,
            "missing",
            f"ECR has no image {reference}",
            f"Build and push it, and write the digest that the push prints into {setting}.",
        )
    return Check(setting, "ok", reference)


def certificate(account: Account, setting: str, arn: str, host: str) -> Check:
    """Whether a load balancer of the environment can use a certificate for a host.

    Args:
        account: The environment's.
        setting: Where it is stated.
        arn: The certificate.
        host: The host that answers with it.
    """
    region = arn.split(":")[3]
    if region != account.region:
        return Check(
            setting,
            "missing",
            f"the certificate is of {region}, and load balancers of {account.region} cannot use it",
            f"aws acm request-certificate --region {account.region} --domain-name '*.{host.partition('.')[2]}' "
            "--validation-method DNS",
        )
    acm = account.session.client("acm")
    found = _called(lambda: acm.describe_certificate(CertificateArn=arn))
    if found is None:
        return Check(setting, "missing", f"ACM has no certificate {arn}", f"State one of this account in {setting}.")
    facts = found["Certificate"]
    names = {facts.get("DomainName"), *(facts.get("SubjectAlternativeNames") or [])}
    if facts.get("Status") != "ISSUED":
        why = f"the certificate of {host} is {facts.get('Status')}"
        return Check(
            setting, "missing", why, f"aws acm describe-certificate --certificate-arn {arn} shows what it waits for"
        )
    if not {host, f"*.{host.partition('.')[2]}"} & names:
        why = f"the certificate is for {', '.join(sorted(filter(None, names)))}, not for {host}"
        return Check(setting, "missing", why, f"State one that covers {host} in {setting}.")
    return Check(setting, "ok", f"issued, and covers {host}")


def _called(call: Any) -> Any:
    """The answer of AWS; None where the resource is not there.

    Raises:
        ModelworksError: AWS refuses, or cannot be reached.
    """
    try:
        return call()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _ABSENT or code.removesuffix("Exception").endswith("NotFound"):
            return None
        raise ModelworksError(
            f"AWS refuses {error.operation_name}: {code}", fix="Use credentials that may call it."
        ) from error
    except BotoCoreError as error:
        raise ModelworksError(f"AWS cannot be reached: {error}") from error
