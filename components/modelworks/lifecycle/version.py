"""A version of a model in an environment: its lineage, and how MLflow keeps it."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from typing import Any

from modelworks._files import plain
from modelworks.contract import Digest, RunId
from modelworks.lifecycle.bundle import Bundle
from modelworks.lifecycle.gates import GateReport, lineage_verdict
from modelworks.lifecycle.runs import TrainedModel

CHAMPION = "champion"
"""Alias of the version that an environment's traffic is on."""
CHALLENGER = "challenger"
"""Alias of the version that was released last and has not taken all traffic yet."""
TAG = "modelworks."
"""Before the name of a fact, in the tags of MLflow."""
COMPLETE = f"{TAG}complete"
"""Tag of a version that is complete with its lineage."""
_LONGEST_TAG = 90_000
"""Characters; MLflow takes 100,000."""
_COMPRESSED = "zlib:"


@dataclass(frozen=True)
class Version:
    """One version of a model in one environment, with its lineage."""

    model: str
    version: int
    facts: dict[str, Any]
    """`bundle`, `data`, `code`, `lock`, `project`, `commit`, `dirty`, `run`, `metrics`, `gates`, `champion`,
    `overrides`, `registered_by`, `registered_at`; for one with stored features also `features`, for a promoted one
    `promoted_from`."""
    aliases: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """The bundle: what a release names."""
        return Digest(self.facts["bundle"])

    @property
    def data(self) -> Digest:
        """The rows it was trained on."""
        return Digest(self.facts["data"])

    @property
    def project(self) -> Digest:
        """Its packed project: files, lock, inputs and split of its run."""
        return Digest(self.facts["project"])

    @property
    def run(self) -> RunId:
        """The run it was bundled from."""
        return RunId(self.facts["run"])


def lineage_of(
    run: TrainedModel, bundle: Bundle, gates: GateReport, *, project: Digest, mlflow_run: str = ""
) -> dict[str, Any]:
    """The facts that a version carries: what went in, what came out, what it proved, and who did it."""
    return {
        "model": run.model,
        "bundle": bundle.digest,
        "served": bundle.served,
        "run": run.run,
        "mlflow_run": mlflow_run,
        "data": run.inputs["data"],
        "code": run.inputs["code"],
        "lock": run.inputs["lock"],
        "project": project,
        "parameters": run.inputs["parameters"],
        "seed": run.inputs["seed"],
        "commit": run.origin.get("commit", ""),
        "dirty": bool(run.origin.get("dirty", True)),
        "metrics": run.metrics,
        "gates": [lineage_verdict(asdict(item)) for item in gates.results],
        "champion": gates.champion,
        "overrides": [{"environment": gates.target, **plain(asdict(gates.override))}] if gates.override else [],
        "registered_by": run.origin.get("by", ""),
    }


def tags_of(facts: dict[str, Any]) -> dict[str, str]:
    """A version's lineage as tags of MLflow."""
    return {f"{TAG}{name}": tag_of(value) for name, value in facts.items()}


def tag_of(value: Any) -> str:
    """A fact as JSON; compressed where MLflow refuses it as too long, such as the verdicts on hundreds of slices."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST_TAG else _COMPRESSED + b64encode(zlib.compress(text.encode(), 9)).decode()


def _fact(tag: str) -> Any:
    packed = tag.startswith(_COMPRESSED)
    return json.loads(zlib.decompress(b64decode(tag.removeprefix(_COMPRESSED))) if packed else tag)


def facts_of(tags: dict[str, str]) -> dict[str, Any]:
    """The lineage in the tags of a version."""
    return {
        name.removeprefix(TAG): _fact(value)
        for name, value in tags.items()
        if name.startswith(TAG) and name != COMPLETE
    }
