"""A provider behind `Plugin`: its requests, its results and its errors, in plain values."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from modelworks.errors import ModelworksError
from modelworks.laptop.providers.property_values import Path, path_text

# ---------------------------------------------------------------------------------------------- what a provider raises


class ProviderError(ModelworksError):
    """The cloud, or the provider, refuses a request.

    Args:
        message: The problem.
        fix: The remedy.
        code: The gRPC status that the engine sees.
        path: The property at fault, where one is.
    """

    def __init__(
        self,
        message: str,
        *,
        fix: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        path: Path = (),
    ) -> None:
        super().__init__(f"{path_text(path)}: {message}" if path else message, fix=fix)
        self.code = code


class InvalidInputs(ModelworksError):  # noqa: N818  it reads as what it is, where it is raised
    """Inputs that break a rule; each failure is a property path and a reason."""

    def __init__(self, failures: Sequence[tuple[Path, str]]) -> None:
        super().__init__("; ".join(f"{path_text(path)}: {reason}" if path else reason for path, reason in failures))
        self.failures = failures


class Incomplete(ModelworksError):  # noqa: N818  it reads as what it is, where it is raised
    """The resource exists but is not as wanted. The engine records it as it is, and tries an update next time."""

    def __init__(
        self, id_: str, state: Mapping[str, Any], reasons: Sequence[str], *, inputs: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__("; ".join(reasons))
        self.id = id_
        self.state = state
        self.reasons = reasons
        self.inputs = inputs
        """Where they are not those of the request: a refresh that finds other ones."""


# ------------------------------------------------------------------------------------------ what a provider is told


@dataclass(frozen=True)
class Naming:
    """The engine's rule for a name that the program does not give."""

    name: str
    """The resource's name in the program."""
    seed: bytes = b""
    """Makes random parts repeatable between preview and update of one run."""
    proposed: str = ""
    """A name proposed (or, with `enforced`, demanded) by the program's `pulumi:autonaming` configuration."""
    enforced: bool = False
    disabled: bool = False
    """The program's configuration forbids auto-naming."""


@dataclass(frozen=True)
class Call:
    """One request of the engine, besides the values it carries."""

    type: str
    """Type token of the resource, or token of the invoke."""
    name: str = ""
    urn: str = ""
    preview: bool = False
    timeout: float | None = None
    """Seconds, from the resource's `custom_timeouts`; `None` where the program leaves it to the provider."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the engine cancels its providers (Ctrl-C). Every wait must check it."""
    ignored: Sequence[Path] = ()
    """Properties in the program's `ignore_changes`, in an update. Their inputs are the old ones already."""
    show: Callable[[str, str, bool], None] | None = None
    """Where `say` goes."""

    def say(self, message: str, *, severity: str = "info", passing: bool = False) -> None:
        """Show `message` at the resource in the engine's output.

        Args:
            message: The text to show.
            severity: `debug`, `info`, `warning` or `error`.
            passing: Only as the resource's status line, replaced by the next one.
        """
        if self.show:
            self.show(message, severity, passing)


@dataclass(frozen=True)
class Change:
    """How one property differs."""

    kind: str
    """`add`, `delete` or `update`."""
    replaces: bool = False
    """The resource cannot be changed in place."""


@dataclass(frozen=True)
class Diff:
    """How wanted inputs differ from what was applied last. Empty `changes` mean that nothing is to be done."""

    changes: Mapping[Path, Change] = field(default_factory=dict)
    delete_before_replace: bool = False
    stable: Sequence[str] = ()
    """Outputs that an update cannot change, so that what depends on them need not be recomputed in preview."""


@dataclass(frozen=True)
class Found:
    """A resource as it really is."""

    id: str
    inputs: Mapping[str, Any]
    """The inputs that would declare it."""
    state: Mapping[str, Any]


class Provider(ABC):
    """One cloud under one configuration.

    Values are plain: secrets come unwrapped and are marked again by `Plugin` wherever the inputs had them (a provider
    may mark more with `Secret`). `UNKNOWN` occurs in `check`, `diff`, `invoke` and in calls with `preview` set.
    Any method may raise `ProviderError`; `check` and `invoke` also `InvalidInputs`.
    """

    @abstractmethod
    def check(self, call: Call, old: dict[str, Any], inputs: dict[str, Any], naming: Naming) -> Mapping[str, Any]:
        """`inputs` with defaults and names filled in; `old` are the last checked ones, empty for a new resource."""

    @abstractmethod
    def diff(
        self,
        call: Call,
        id_: str,
        old: dict[str, Any],
        state: dict[str, Any],
        inputs: dict[str, Any],
    ) -> Diff:
        """How `inputs` differ from the `old` inputs and the `state` they led to."""

    @abstractmethod
    def create(self, call: Call, inputs: dict[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Id and state of a new resource. May raise `Incomplete`. In preview: an empty id and what is known."""

    @abstractmethod
    def read(self, call: Call, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> Found | None:
        """The resource as it is; `None` when it is gone. An import has only the id: the rest is empty then."""

    @abstractmethod
    def update(
        self,
        call: Call,
        id_: str,
        old: dict[str, Any],
        state: dict[str, Any],
        inputs: dict[str, Any],
    ) -> Mapping[str, Any]:
        """The state after `inputs` took the place of `old` ones. May raise `Incomplete`."""

    @abstractmethod
    def delete(self, call: Call, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> None:
        """Remove it, and return when it is gone. Being gone already is success."""

    @abstractmethod
    def invoke(self, call: Call, args: dict[str, Any]) -> Mapping[str, Any]:
        """The answer of the function `call.type`."""

    def construct(self, type_: str) -> NoReturn:
        """Refuse a component that the real provider builds in its own process: no provider of the laptop builds one."""
        raise ProviderError(
            f"{type_} is a component that the real provider builds, and the laptop's does not",
            fix="Declare the resources that it is made of.",
            code=grpc.StatusCode.UNIMPLEMENTED,
        )
