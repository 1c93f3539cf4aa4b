"""The keys of each command's `--json` output: the reference shows them, and tests compare them with the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_STATUS: Final[Mapping[str, str]] = {
    "environment": "name of the environment",
    "endpoints": "one object an endpoint, with the keys below",
}
_VERSION: Final[Mapping[str, str]] = {
    "model": "name of the model",
    "version": "number in the registry",
    "aliases": "`champion`, `challenger` or none",
    "bundle": "digest of the bundle, which is the release",
    "served": "`onnx`, `skops`, `own` or `custom`",
    "run": "the training run",
    "mlflow_run": "its id in MLflow; empty without one",
    "data": "digest of the data",
    "code": "digest of the model project's files",
    "lock": "digest of the locked packages that it needs",
    "project": "digest of the packed project, kept in the environment's bucket",
    "parameters": "parameters of the training",
    "seed": "seed of the training",
    "commit": "commit of the project; empty without git",
    "dirty": "whether the tree differed from its commit",
    "metrics": "metrics on the hold-out, by name",
    "gates": "verdicts of the gates",
    "champion": "digest of the bundle that the gates compared with",
    "overrides": "decisions to continue in spite of gates: environment, reason, person, time, gates",
    "registered_by": "who registered it",
    "registered_at": "when, ISO 8601 in UTC",
}
_MATERIALIZED: Final[Mapping[str, str]] = {
    "view": "name of the view",
    "start": "first event time of the window; null for the beginning of history",
    "end": "last event time of the window",
    "written": "entities whose newest value was written",
    "older": "entities of which the online store held a newer value",
    "present": "entities whose value an interrupted run had written",
    "lag_seconds": "from the end of what is materialized without a gap to now, or null",
}

JSON_OUTPUT: Final[Mapping[str, Mapping[str, str]]] = {
    "preview": {
        "environment": "name of the environment",
        "summary": "number of resources by action, and `unchanged`",
        "changes": "one object a changed resource: action, type, name, URN, differences",
        "overrides": "releases in spite of refused gates",
        "problems": "errors and policy violations",
        "failed": "whether the preview failed, so that the changes are incomplete",
    },
    "verify": {
        "environment": "name of the environment",
        "findings": "one object a finding: `check`, `subject`, `verdict`, `message`, `fix`",
    },
    "doctor": {
        "environment": "name of the environment",
        "checks": "one object a check: `name`, `status` (`ok`, `missing`, `unknown`, `skipped`), `message`, `fix`",
    },
    "bootstrap": {
        "environment": "name of the environment",
        "steps": "one object a part: `name`, `action` (`none`, `create`, `update`, `skip`), `message`",
    },
    "compare": {
        "declared": "whether the stack files declare the difference",
        "path": "path in the stack files, or a resource",
        "here": "value in the first environment",
        "there": "value in the second environment",
    },
    "check-data": {
        "model": "name of the model",
        "data": "digest of the snapshot",
        "rows": "number of rows",
        "at": "time of the check, ISO 8601 in UTC",
        "findings": "one object a finding: check, severity, subject, message, count, examples",
        "columns": "one object a feature: type, missing share, range or top values, shift",
        "checks": "names of the checks that ran",
        "passed": "whether training may continue",
    },
    "train": {
        "model": "name of the model",
        "run": "name of the run",
        "folder": "folder with the results",
        "inputs": "digests and parameters that decide the run",
        "metrics": "metrics by name, on the `train` and the `validation` rows",
        "origin": "commit, dirty tree, person and time",
        "mlflow_run": "id in MLflow; empty without one",
    },
    "bundle": {
        "model": "name of the model",
        "run": "name of the run",
        "digest": "digest of the bundle, which is the release",
        "path": "file of the bundle",
        "bytes": "its size",
        "served": "`onnx`, `skops`, `own` or `custom`",
        "parity": "comparison of ONNX with scikit-learn",
    },
    "gates": {
        "model": "name of the model",
        "run": "name of the run",
        "digest": "digest of the bundle",
        "target": "the environment whose policy decides",
        "at": "time of the evaluation, ISO 8601 in UTC",
        "results": "one object a gate: subject, verdict, number, interval, limit, action",
        "champion": "digest of the bundle that the gates compared with",
        "override": "the decision to continue in spite of gates, or null",
        "allowed": "whether the environment accepts the bundle",
    },
    "register": _VERSION,
    "models": _VERSION,
    "lineage": _VERSION,
    "registry rebuild": {
        "model": "name of the model",
        "state": "`rebuilt`, `present` (nothing was missing) or `refused` (nothing was changed)",
        "versions": "numbers of the versions that were restored, or whose aliases were",
        "problem": "why it was refused; empty if it was not",
        "fix": "the way to repair it",
    },
    "features list": {
        "name": "name of the view or service",
        "kind": "`view` or `service`",
        "model": "the model beside whose code it is defined",
        "features": "number of features",
        "used_by": "models whose services use it",
    },
    "features plan": {
        "action": "`add`, `change` or `remove`",
        "subject": "the view, feature or service",
        "detail": "the difference",
        "breaks": "models that use what is lost",
        "affects": "models whose values may differ from those that they were trained on",
    },
    "features materialize": _MATERIALIZED,
    "features backfill": _MATERIALIZED,
    "features verify": {
        "model": "with `--served` only: name of the model",
        "view": "name of the view",
        "feature": "name of the feature",
        "compared": "number of values compared",
        "different": "values that differ from history",
        "stale": "with `--served` only: values of which history had a newer one for longer than `--behind-seconds`",
        "missing": "values of history that the online store lacks, or that the model did not get",
        "examples": "some of these: entity, online or served value, value of history",
    },
    "status": _STATUS,
    "rollout watch": _STATUS,
    "quickstart": {
        "model": "name of the model",
        "url": "address of the endpoint",
        "seconds": "duration of the command",
        "first_answer_seconds": "time to the first prediction, of the local process or the endpoint",
        "steps": "duration of each step, by name",
        "asked": "row of the request",
        "answer": "the prediction",
    },
    "laptop status": {
        "place": "folder of the laptop cloud",
        "strict": "whether it refuses what AWS refuses",
        "up": "whether every process is running",
        "memory_mib": "memory of all processes",
        "processes": "one object a process: name, state, pid, seconds since the start, memory, restarts, log",
        "leftovers": "pids without a supervisor",
        "endpoints": "addresses of the API server and the gateway",
        "hosts": "hosts of the gateway and their addresses",
        "gateway_authority": "certificate of the gateway's authority, or null",
        "pod_network": "loopback network of the pods",
        "environments": "one object an environment: name, AWS address, account, region, namespace, backend",
        "tools": "versions of the tools",
        "not_enforced": "rules that the laptop does not enforce",
        "recorded_not_emulated": "resources that the emulator stores without acting on them",
        "notes": "further messages",
    },
    "laptop toolchain": {
        "name": "name of the tool",
        "version": "pinned version",
        "from": "its source: `PATH`, `wheel`, `download` or `built`",
        "state": "`ready`, `missing` or `damaged`",
        "path": "path of the executable, or null",
        "note": "reason of the source",
    },
}
"""By command: each key and its meaning. A command that prints a list has one object an item, with these keys."""

LISTS: Final = frozenset(
    {
        "compare",
        "features backfill",
        "features list",
        "features materialize",
        "features plan",
        "features verify",
        "lineage",
        "laptop toolchain",
        "models",
        "registry rebuild",
    }
)
"""Commands that print a list of such objects."""

ENDPOINT: Final[Mapping[str, str]] = {
    "model": "name of the model",
    "state": "`Healthy`, `Progressing`, `Degraded`, `Aborted`, `OutOfSync` or `NotReleased`",
    "desired": "digest of the release in the stack's file; empty without one",
    "desired_version": "its version in the registry",
    "shares": "shares of traffic, largest first: version, percent, time",
    "progress": "the step of a rollout in progress",
    "reason": "why a release was aborted or the endpoint is degraded",
    "measured": "measurements of the failed analysis",
    "fix": "the command that helps",
    "url": "address of the endpoint",
    "alarms": "the endpoint's alarms in CloudWatch: metric, state, time, meaning",
    "alarms_unknown": "why the alarms are unknown; empty if they are known",
    "overrides": "decisions to continue in spite of gates",
    "aliases": "aliases of the desired version",
    "registry": "error of the registry; empty without one",
    "champion_moved": "whether this run of the command moved the alias `champion`",
}
"""Keys of an item in `endpoints` of `status` and `rollout watch`."""

OPEN: Final[Mapping[str, str]] = {
    "up": "Pulumi's own JSON",
    "env": "the variables, by name",
    "predict": "the endpoint's response",
    "laptop up": "the facts of the laptop cloud and its ports",
}
"""Commands whose keys another program, the environment or the model decides."""
