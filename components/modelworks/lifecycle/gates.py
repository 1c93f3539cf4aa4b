"""Gates: what a model must prove before it is registered as promotable, and what each environment does about it."""

from __future__ import annotations

import getpass
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelworks._files import digest_of_file, plain, read_json, write_json, write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle.training import Home, Progress, TrainedModel, work

if TYPE_CHECKING:
    from modelworks.lifecycle.bundle import Bundle
    from modelworks.lifecycle.spec import ModelSpec

Verdict = Literal["pass", "fail", "inconclusive"]
Action = Literal["warn", "refuse"]


@dataclass(frozen=True)
class Policy:
    """What an environment does about a gate that does not pass."""

    fail: Action
    inconclusive: Action
    dirty: Action
    """About a model trained from a tree that differs from its commit."""


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
    """95 % bootstrap interval."""
    limit: float | None
    source: str
    """File and line that states the limit."""
    because: str
    action: Literal["", "warn", "refuse"]
    """What the target does about it."""


@dataclass(frozen=True)
class Override:
    """A person's decision to go on in spite of gates, with their reason. It is shown wherever the version is."""

    reason: str
    by: str
    at: str
    gates: tuple[str, ...]
    """What it overrides."""


@dataclass(frozen=True)
class GateReport:
    """All verdicts on one bundle for one target."""

    model: str
    run: str
    digest: str
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
            facts["run"],
            facts["digest"],
            facts["target"],
            facts["at"],
            results,
            facts["champion"],
            override,
        )


def run_gates(
    spec: ModelSpec,
    run: TrainedModel,
    bundle: Bundle,
    home: Home,
    target: str,
    *,
    champion: Path | None = None,
    override: str = "",
    progress: Progress | None = None,
) -> GateReport:
    """Judge a bundled run for a target environment and keep the report with the run, as JSON and HTML.

    Args:
        spec: The model.
        run: The run it was bundled from.
        bundle: What would serve.
        home: Where runs are kept.
        target: The environment it is meant for.
        champion: The bundle that serves there now, if any.
        override: A reason to go on in spite of what is refused.
        progress: Called at every step.

    Raises:
        ModelworksError: Something cannot be judged. What does not hold is in the report: see `GateReport.require`.
    """
    found = judge(spec, home, run.inputs["data"], bundle.path, bundle.digest, champion=champion, progress=progress)
    against = digest_of_file(champion) if champion else ""
    report = decide(run, bundle, target, found, champion=against, override=override)
    write_json(run.folder / f"gates-{target}.json", report.to_facts())
    from modelworks.lifecycle.html_report import gates_page  # circular otherwise

    write_whole(run.folder / f"gates-{target}.html", gates_page(report))
    return report


def judge(
    spec: ModelSpec,
    home: Home,
    data: str,
    bundle: Path,
    digest: str,
    *,
    champion: Path | None = None,
    only: str = "",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Verdicts on a bundle, without any environment's opinion of them.

    Args:
        spec: The model, as it was when the bundle was made.
        home: Where the rows are kept.
        data: Digest of the rows it was trained on, and of which it has not seen the hold-out.
        bundle: The `.bento` file.
        digest: Of that file.
        champion: A bundle to be compared with.
        only: Name of the one kind of gate that is asked, such as `ChampionGate`. Default: all that the spec states.
        progress: Called at every step.

    Raises:
        ModelworksError: Something cannot be judged.
    """
    job = {
        "verb": "gates", "data": data, "bundle": str(bundle), "digest": digest, "only": only,
        "champion": str(champion or ""), "champion_digest": digest_of_file(champion) if champion else "",
    }  # fmt: skip
    return list(work(spec, home, job, progress)["results"])


def carried(result: dict[str, Any]) -> dict[str, Any]:
    """What a version's lineage keeps of a verdict."""
    return {name: result[name] for name in ("gate", "subject", "verdict", "number", "limit", "message")}


def decide(
    run: TrainedModel,
    bundle: Bundle,
    target: str,
    found: list[dict[str, Any]],
    *,
    champion: str = "",
    override: str = "",
) -> GateReport:
    """Apply a target's policy to verdicts."""
    policy = policy_of(target)
    if run.origin.get("dirty", True):
        commit = run.origin.get("commit") or "no commit"
        found = [
            *found,
            {
                "gate": "SourceGate", "subject": "source", "verdict": "fail", "number": None,
                "interval": None, "limit": None,
                "message": f"trained from a tree that differs from {commit[:12]}: nobody can train it again",
                "source": "modelworks.lifecycle.gates",
                "because": "every version in an environment is reproduced from git",
            },
        ]  # fmt: skip
    results = tuple(
        GateResult(
            **{**each, "interval": tuple(each["interval"]) if each["interval"] else None}, action=_action(policy, each)
        )
        for each in found
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    refused = tuple(each.subject for each in results if each.action == "refuse")
    decision = None
    if override and refused:
        decision = Override(override, getpass.getuser(), now, refused)
    return GateReport(run.model, run.run, bundle.digest, target, now, results, champion, decision)


def read_gates(run: TrainedModel, target: str) -> GateReport | None:
    """The report for a target that was kept with a run, if any."""
    path = run.folder / f"gates-{target}.json"
    return GateReport.from_facts(read_json(path)) if path.is_file() else None


def _action(policy: Policy, result: dict[str, Any]) -> Literal["", "warn", "refuse"]:
    if result["verdict"] == "pass":
        return ""
    if result["gate"] == "SourceGate":
        return policy.dirty
    return policy.fail if result["verdict"] == "fail" else policy.inconclusive


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.4g}"
