"""Gates: what a model must prove before it is registered as promotable, and what each environment does about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from modelworks._files import plain
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    pass

Verdict = Literal["pass", "fail", "inconclusive"]
Action = Literal["warn", "refuse"]

SOURCE = "SourceGate"
"""Name of the gate that every model has: that it was trained from a commit."""


@dataclass(frozen=True)
class Policy:
    """The action of an environment on a gate that does not pass."""

    fail: Action
    inconclusive: Action
    dirty: Action
    """About a model trained from a tree that differs from its commit."""

    def action(self, gate: str, verdict: str) -> Literal["", "warn", "refuse"]:
        """The action on a verdict; none if it passes.

        Args:
            gate: Name of the gate's class, or `SOURCE`.
            verdict: Its verdict.
        """
        if verdict == "pass":
            return ""
        if gate == SOURCE:
            return self.dirty
        return self.fail if verdict == "fail" else self.inconclusive


STRICT = Policy(fail="refuse", inconclusive="refuse", dirty="refuse")
POLICIES = {
    "local": Policy(fail="warn", inconclusive="warn", dirty="warn"),
    "dev": Policy(fail="refuse", inconclusive="warn", dirty="refuse"),
    "staging": STRICT,
    "prod": STRICT,
}


def policy_of(target: str) -> Policy:
    """The policy of an environment; one that is not known by name is treated as `prod`."""
    return POLICIES.get(target, STRICT)


@dataclass(frozen=True)
class GateResult:
    """One gate's verdict."""

    gate: str
    subject: str
    verdict: Verdict
    message: str
    number: float | None
    interval: tuple[float, float] | None
    """95 % confidence interval."""
    limit: float | None
    source: str
    """File and line that states the limit."""
    because: str
    action: Literal["", "warn", "refuse"]
    """The action of the target."""
    assumes: str = ""
    """Assumption of the interval: which rows or clusters are independent."""


@dataclass(frozen=True)
class Override:
    """A person's decision to go on in spite of gates, with their reason. It is shown wherever the version is."""

    reason: str
    by: str
    at: str
    gates: tuple[str, ...]
    """The overridden gates."""


@dataclass(frozen=True)
class GateReport:
    """All verdicts on one bundle for one target."""

    model: str
    run: RunId
    digest: Digest
    target: str
    at: str
    results: tuple[GateResult, ...]
    champion: str = ""
    """Digest of the bundle it was compared with."""
    override: Override | None = None

    @property
    def refused(self) -> tuple[GateResult, ...]:
        """Results the target does not accept."""
        return tuple(result for result in self.results if result.action == "refuse")

    @property
    def allowed(self) -> bool:
        """Whether the model may be registered as promotable to the target: nothing is refused, or it is overridden."""
        return not self.refused or self.override is not None

    def require(self) -> None:
        """Stop where the target refuses.

        Raises:
            ModelworksError: It does; the message names each gate with number and limit.
        """
        if not self.allowed:
            lines = "\n".join(
                f"  {each.verdict}: {each.subject}: {_number(each.number)}; {each.message} ({each.source})"
                for each in self.refused
            )
            raise ModelworksError(
                f"{self.target} refuses {self.model} {self.digest[:19]}: "
                f"{len(self.refused)} gates do not hold:\n{lines}",
                fix="Improve the model, or take responsibility with --override REASON, which is recorded and shown.",
            )

    def to_facts(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {**plain(asdict(self)), "allowed": self.allowed}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> GateReport:
        """The report that `to_facts` gave."""
        results = tuple(
            GateResult(**{**each, "interval": tuple(each["interval"]) if each["interval"] else None})
            for each in facts["results"]
        )
        override = (
            Override(**{**facts["override"], "gates": tuple(facts["override"]["gates"])}) if facts["override"] else None
        )
        return cls(
            facts["model"],
            RunId(facts["run"]),
            Digest(facts["digest"]),
            facts["target"],
            facts["at"],
            results,
            facts["champion"],
            override,
        )


def lineage_verdict(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a verdict that a version's lineage keeps."""
    return {name: result[name] for name in ("gate", "subject", "verdict", "number", "limit", "message")}


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"
