"""Gates, run: verdicts on a bundle, what an environment makes of them, and the report kept with the run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks._files import digest_of_file, read_json, write_json, write_whole
from modelworks.contract import Digest
from modelworks.lifecycle.child_process import Progress, work
from modelworks.lifecycle.gates import SOURCE, GateReport, GateResult, Override, policy_of
from modelworks.lifecycle.html_report import gates_page
from modelworks.lifecycle.identity import person
from modelworks.lifecycle.runs import Home, TrainedModel

if TYPE_CHECKING:
    from modelworks.lifecycle.bundle import Bundle


def run_gates(
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
        run: The run it was bundled from, whose own project states the gates.
        bundle: The bundle that would serve.
        home: Where runs are kept.
        target: The environment it is meant for.
        champion: The bundle that serves there now, if any.
        override: A reason to go on in spite of what is refused.
        progress: Called at every step.

    Raises:
        ModelworksError: A gate cannot be evaluated. The report contains the gates that failed: see
            `GateReport.require`.
    """
    found = judge(run, home, bundle.path, bundle.digest, champion=champion, progress=progress)
    against = digest_of_file(champion) if champion else ""
    report = decide(run, bundle, target, found, champion=against, override=override)
    write_json(run.folder / f"gates-{target}.json", report.to_facts())
    write_whole(run.folder / f"gates-{target}.html", gates_page(report))
    return report


def judge(
    run: TrainedModel,
    home: Home,
    bundle: Path,
    digest: Digest,
    *,
    champion: Path | None = None,
    only: str = "",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Verdicts on a bundle, without any environment's opinion of them.

    Args:
        run: The run it was bundled from: its gates, its rows, and which of them it has not seen.
        home: Where the rows are kept.
        bundle: The `.bento` file.
        digest: Of that file.
        champion: A bundle to be compared with.
        only: Name of the one kind of gate to evaluate, such as `ChampionGate`. Default: all that the spec states.
        progress: Called at every step.

    Raises:
        ModelworksError: A gate cannot be evaluated.
    """
    job = {
        "verb": "gates", "folder": str(run.folder), "inputs": run.inputs, "bundle": str(bundle), "digest": digest,
        "only": only, "champion": str(champion or ""), "champion_digest": digest_of_file(champion) if champion else "",
    }  # fmt: skip
    return list(work(run.project(), run.model, home, job, progress)["results"])


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
                "gate": SOURCE, "subject": "source", "verdict": "fail", "number": None,
                "interval": None, "limit": None,
                "message": f"trained from a tree that differs from {commit[:12]}: nobody can train it again",
                "source": "modelworks.lifecycle.gates",
                "because": "every version in an environment is reproduced from git",
            },
        ]  # fmt: skip
    results = tuple(
        GateResult(
            **{**each, "interval": tuple(each["interval"]) if each["interval"] else None},
            action=policy.action(each["gate"], each["verdict"]),
        )
        for each in found
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    refused = tuple(each.subject for each in results if each.action == "refuse")
    decision = None
    if override and refused:
        decision = Override(override, person(), now, refused)
    return GateReport(run.model, run.run, bundle.digest, target, now, results, champion, decision)


def read_gates(run: TrainedModel, target: str) -> GateReport | None:
    """The report for a target that was kept with a run, if any."""
    path = run.folder / f"gates-{target}.json"
    return GateReport.from_facts(read_json(path)) if path.is_file() else None
