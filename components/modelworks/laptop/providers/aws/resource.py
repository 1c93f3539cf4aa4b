"""One resource type: its calls, and the few facts that its schema lacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from botocore.exceptions import ClientError

from modelworks.laptop.providers.aws.account import Account, error_code
from modelworks.laptop.providers.aws.schema import ResourceType, resource_type
from modelworks.laptop.providers.property_values import UNKNOWN


def names(text: str) -> frozenset[str]:
    """The words of `text`, for the lists of properties below."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Name:
    """How a type is named where the program does not: `<resource name>-<7 hexadecimal digits>`."""

    property: str = "name"
    prefix_property: str = "namePrefix"
    limit: int = 255
    """Longest name that AWS takes, in characters."""
    lower: bool = False
    before: str = ""
    """The prefix that AWS expects, such as `alias/`."""
    after: Callable[[Mapping[str, Any]], str] = lambda inputs: ""  # noqa: ARG005
    """The suffix that AWS expects, such as `.fifo`."""


# Its methods have one signature; few kinds need all of it.
# ruff: noqa: ARG002


class Resource:
    """One resource type. Subclasses make the calls; everything else is `AwsProvider`'s.

    A kind's methods see plain, known values. They may raise boto3's own errors.
    """

    pulumi_type: ClassVar[str]
    handles: ClassVar[frozenset[str]]
    """Inputs that it does something with. Any other is refused at check, not ignored."""
    recorded: ClassVar[frozenset[str]] = frozenset()
    """Of these, the ones that the emulator does not give back: kept as the program has them."""
    name: ClassVar[Name | None] = None
    computed: ClassVar[frozenset[str]] = frozenset()
    """Inputs that AWS chooses where the program does not: no difference then."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of inputs."""
    filled: ClassVar[frozenset[str]] = frozenset()
    """Names inside of objects that AWS adds on its own."""
    sets: ClassVar[frozenset[str]] = frozenset()
    """Lists in which order means nothing."""
    documents: ClassVar[frozenset[str]] = frozenset()
    """Texts that hold JSON, besides those that the schema declares as policies."""
    changing: ClassVar[frozenset[str]] = frozenset()
    """Outputs that an update changes."""
    regional: ClassVar[bool] = True

    def __init__(self, account: Account, region: str) -> None:
        self.account = account
        self.region = region

    # ---- the calls, in the order of a life

    def create(self, inputs: dict[str, Any]) -> str:
        """Make it with the fewest calls; its id. `inputs["tagsAll"]` are all of its tags."""
        raise NotImplementedError

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        """Bring the inputs named in `changed` into force: after `create` (with `after_create`), and for each update."""

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        """Which inputs `create` leaves to `settle`."""
        return ()

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        """All properties as AWS has them, `None` in place of what is absent; `None` when the resource is gone.

        `known` has the inputs and the state; empty for an import.
        """
        raise NotImplementedError

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        """Remove it. A missing one may raise the error of its absence."""
        raise NotImplementedError

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        """Change tags."""
        raise NotImplementedError

    # ---- what subclasses use

    def client(self, service: str) -> Any:
        """The boto3 client of a service in this resource's region."""
        return self.account.client(service, self.region)

    def arn(self, service: str, rest: str, *, region: bool = True, account: bool = True) -> str:
        """An ARN in this account and region."""
        place = (self.region if region else "", self.account.id if account else "")
        return ":".join(["arn", self.account.partition, service, *place, rest])

    # ---- comparing

    @property
    def type(self) -> ResourceType:
        found = resource_type(self.pulumi_type)
        if found is None:
            raise KeyError(f"{self.pulumi_type} is not in schema.json: run `python -m {__package__}.installed`")
        return found

    def normal(self, key: str, value: Any) -> Any:
        """`value` of the input `key` in the one form in which equal things are equal."""
        if value is UNKNOWN:
            return value
        if key in self.documents or "oneOf" in self.type.inputs.get(key, {}):
            return document(value)
        if isinstance(value, list):
            listed = [_lean(each, self.filled) for each in value]
            return (
                sorted(listed, key=lambda each: json.dumps(each, sort_keys=True, default=repr))
                if (key in self.sets)
                else listed
            )
        return _lean(value, self.filled)

    def same(self, key: str, one: Any, other: Any) -> bool:
        """Whether two values of the input `key` mean the same; absence means the default."""
        default = self.defaults.get(key)
        first, second = (self.normal(key, default if value is None else value) for value in (one, other))
        return first is second or bool(_empty(first) and _empty(second)) or _equal(first, second)


def document(value: Any) -> Any:
    """A JSON text as what it means to AWS: a list of one is its element, and order of lists means nothing."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            return value
        return _policy(parsed)
    return _policy(value)


def _policy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _policy(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        inner = [_policy(each) for each in value]
        if len(inner) == 1:
            return inner[0]
        return sorted(inner, key=lambda each: json.dumps(each, sort_keys=True, default=repr))
    if isinstance(value, bool):
        return "true" if value else "false"  # IAM's conditions take both
    return value


def _lean(value: Any, filled: frozenset[str]) -> Any:
    """An object without what is empty and what AWS adds on its own."""
    if isinstance(value, dict):
        lean = {key: _lean(each, filled) for key, each in value.items() if key not in filled}
        return {key: each for key, each in lean.items() if not _empty(each)}
    if isinstance(value, list):
        return [_lean(each, filled) for each in value]
    return value


def _empty(value: Any) -> bool:
    return value is None or (not isinstance(value, bool | int | float) and value is not UNKNOWN and not value)


def _equal(one: Any, other: Any) -> bool:
    if UNKNOWN in (one, other):
        return one is other
    return bool(one == other)


@contextmanager
def absent(*codes: str) -> Iterator[list[str]]:
    """A block in which errors with these codes mean absence; yields a list that then has the code."""
    seen: list[str] = []
    try:
        yield seen
    except ClientError as error:
        if error_code(error) not in codes:
            raise
        seen.append(error_code(error))
