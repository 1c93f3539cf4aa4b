"""The AWS account that a provider talks to: always the emulator of its environment, never AWS itself."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3
import botocore
import grpc
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import OperationModel
from botocore.parsers import ResponseParserError

from modelworks.laptop.aws_credentials import AwsCredentials
from modelworks.laptop.providers.aws.service_model import violations
from modelworks.laptop.providers.property_values import UNKNOWN
from modelworks.laptop.providers.provider import ProviderError

# An emulator on loopback answers or it does not; waiting longer only hides that it is gone.
_CONFIG = Config(
    retries={"total_max_attempts": 2, "mode": "standard"},
    connect_timeout=5,
    read_timeout=60,
    max_pool_connections=32,
    s3={"addressing_style": "path"},
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


class Emulator:
    """Clients of one emulator, shared by all providers that are configured for it (each costs megabytes).

    Args:
        url: The emulator's address.
        credentials: The key of its account. A key that the user's shell has for a real account is never used.
        fault: A fault to inject, for tests; see `Fault`.
    """

    def __init__(self, url: str, credentials: AwsCredentials, fault: Fault | None = None) -> None:
        self.url = url
        self._credentials = credentials
        self._fault = fault
        self._lock = threading.Lock()  # making clients is not thread-safe, using them is
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str) -> Any:
        """The boto3 client of a service in a region."""
        with self._lock:
            if (client := self._clients.get((service, region))) is None:
                session = boto3.Session(
                    aws_access_key_id=self._credentials.key,
                    aws_secret_access_key=self._credentials.secret,
                    region_name=region,
                )
                client = session.client(service, endpoint_url=self.url, config=_CONFIG)
                client.meta.events.register("before-parameter-build", _refuse_as_aws_does)
                if self._fault and service != "sts":
                    self._fault.watch(client)
                self._clients[service, region] = client
        return client


def _refuse_as_aws_does(params: dict[str, Any], model: OperationModel, **_: Any) -> None:
    """Fail where the service's model refuses an argument: the emulator takes much that an account does not."""
    if model.input_shape and (problems := list(violations(params, model.input_shape))):
        raise ProviderError(
            f"{model.name} would be refused by AWS: {'; '.join(problems)}",
            fix=f"The rule is of botocore {botocore.__version__}'s model of {model.service_model.service_name}.",
            code=grpc.StatusCode.INVALID_ARGUMENT,
        )


@dataclass
class Fault:
    """Makes one call to the emulator go wrong, for tests of what a failure leaves behind.

    `kind` is `fail` (the call is refused), `die` (the process is killed before it), `die-after` (killed after it was
    answered: AWS has done what the engine never hears of) or `hang` (answered, and nobody hears more). `call` is which:
    a number, or the name of an operation, whose first call it is. From the environment:
    `MODELWORKS_PROVIDER_FAULT=die:3`, or `hang:CreateKey`.
    """

    kind: str
    call: str
    seen: int = 0
    done: bool = False

    @classmethod
    def from_environment(cls) -> Fault | None:
        """The fault in `MODELWORKS_PROVIDER_FAULT`."""
        kind, _, call = os.environ.get("MODELWORKS_PROVIDER_FAULT", "").partition(":")
        return cls(kind, call) if kind else None

    def watch(self, client: Any) -> None:
        """Count and spoil the calls of `client`."""
        client.meta.events.register("before-call", self._before)
        client.meta.events.register("after-call", self._after)

    def _before(self, model: Any, context: dict[str, Any], **_: Any) -> None:
        self.seen += 1
        if self.done or self.call not in (str(self.seen), model.name):
            return
        self.done = context["spoiled"] = True
        if self.kind == "fail":
            raise ProviderError(f"injected fault: call {self.seen}, {model.name}, was refused")
        if self.kind == "die":
            os._exit(137)

    def _after(self, context: dict[str, Any], **_: Any) -> None:
        if "spoiled" not in context:
            return
        if self.kind == "die-after":
            os._exit(137)
        if self.kind == "hang":
            threading.Event().wait()


@dataclass(frozen=True)
class Account:
    """An account as one provider configuration sees it."""

    endpoint: Emulator
    id: str
    region: str
    default_tags: Mapping[str, str]
    ignored_tags: frozenset[str] = frozenset()
    ignored_prefixes: tuple[str, ...] = ()
    partition: str = "aws"

    def client(self, service: str, region: str | None = None) -> Any:
        """The client of `service`, in the provider's region unless another is given."""
        return self.endpoint.client(service, region or self.region)

    def ignores(self, tag: str) -> bool:
        """Whether the provider's `ignoreTags` leaves this tag alone. AWS's own (`aws:…`) always are."""
        return tag in self.ignored_tags or tag.startswith(("aws:", *self.ignored_prefixes))


def account(endpoint: Emulator, configuration: Mapping[str, Any], fallback_region: str) -> Account:
    """The account that a checked provider configuration means.

    Raises:
        ProviderError: The emulator does not answer, or its account is not one that the configuration allows.
    """
    region = configuration.get("region") or fallback_region
    tags = configuration.get("defaultTags") or {}
    ignored = configuration.get("ignoreTags") or {}
    found = "" if configuration.get("skipRequestingAccountId") is True else identity(endpoint, region)["Account"]
    allowed = configuration.get("allowedAccountIds") or []
    forbidden = configuration.get("forbiddenAccountIds") or []
    if found and allowed and UNKNOWN not in allowed and found not in allowed:
        raise ProviderError(
            f"the AWS account is {found}, and aws:allowedAccountIds allows {', '.join(allowed)} only",
            fix="Use the credentials, or the laptop environment, of that account, or correct the stack's config.",
            code=grpc.StatusCode.FAILED_PRECONDITION,
        )
    if found in forbidden:
        raise ProviderError(
            f"the AWS account is {found}, which aws:forbiddenAccountIds forbids",
            fix="Use the credentials, or the laptop environment, of another account.",
            code=grpc.StatusCode.FAILED_PRECONDITION,
        )
    return Account(
        endpoint=endpoint,
        id=found,
        region=region,
        default_tags=tags.get("tags") or {},
        ignored_tags=frozenset(ignored.get("keys") or ()),
        ignored_prefixes=tuple(ignored.get("keyPrefixes") or ()),
    )


def identity(endpoint: Emulator, region: str) -> dict[str, str]:
    """Who the emulator takes us for: `Account`, `Arn`, `UserId`."""
    with translated("reading the account id"):
        answer: dict[str, str] = endpoint.client("sts", region).get_caller_identity()
    return answer


class translated:  # noqa: N801  it reads as a verb: `with translated("creating …"):`
    """Turns errors of boto3 inside its block into ones that name what was done."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, ClientError):
            raise _refusal(error, self._doing) from error
        if isinstance(error, ResponseParserError):
            raise ProviderError(
                f"{self._doing}: the laptop's AWS emulator does not support this call (it answered with a page)",
                fix="`modelworks laptop status` lists what is not emulated; see also `modelworks laptop logs`.",
                code=grpc.StatusCode.UNIMPLEMENTED,
            ) from error
        if isinstance(error, BotoCoreError):
            gone = "Could not connect" in str(error) or "Connection was closed" in str(error)
            raise ProviderError(
                f"{self._doing}: {error}",
                fix="The laptop's AWS emulator is not there: run `modelworks laptop up`." if gone else "",
                code=grpc.StatusCode.UNAVAILABLE if gone else grpc.StatusCode.INVALID_ARGUMENT,
            ) from error


def _refusal(error: ClientError, doing: str) -> ProviderError:
    code, message = error_code(error), error.response.get("Error", {}).get("Message", "")
    if code in {"500", "501"}:
        return ProviderError(
            f"{doing}: {error.operation_name} is not emulated on the laptop (the emulator answered {code})",
            fix="`modelworks laptop status` lists what is not emulated.",
            code=grpc.StatusCode.UNIMPLEMENTED,
        )
    return ProviderError(f"{doing}: {error.operation_name} was refused with {code}: {message}")


def error_code(error: ClientError) -> str:
    """AWS's code of an error, such as `NoSuchBucket`."""
    return str(error.response.get("Error", {}).get("Code", ""))


@functools.cache
def shared_endpoint(url: str, credentials: AwsCredentials) -> Emulator:
    """The one `Emulator` of this process for `url`."""
    return Emulator(url, credentials, Fault.from_environment())
