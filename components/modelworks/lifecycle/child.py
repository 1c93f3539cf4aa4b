"""The child process of a model's own code: `python -m modelworks.lifecycle.child JOB_FILE EVENTS_FD VALUES_FD`.

It writes to its parent through a pipe, one JSON object a line: steps as they start and end, then a result or an error.
Through the other it reads the variables that the spec names, so that they are in no file and no command line.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from modelworks import contract
from modelworks._files import plain, write_json, write_whole
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError
from modelworks.lifecycle import checks, data, drift, fitted, scores, splits
from modelworks.lifecycle.child_process import FIXED
from modelworks.lifecycle.lockfile import Lockfile, loaded_packages, read_lock, run_packages, serving_packages
from modelworks.lifecycle.metrics import Outcome
from modelworks.lifecycle.model_project import (
    LOCK,
    code_digest,
    keep_project,
    model_file,
    refuse_imports_from_outside,
)
from modelworks.lifecycle.project_errors import project_error
from modelworks.lifecycle.provenance import engine_digest
from modelworks.lifecycle.rows import encode_table
from modelworks.lifecycle.runs import PROJECT, SPLIT, Home, run_id
from modelworks.lifecycle.spec import Fitted, ModelSpec, TrainingData
from modelworks.lifecycle.spec_loader import load_spec
from modelworks.lifecycle.stored_features import stated_inputs, stored_of, with_history, write_history
from modelworks.runtime.project_code import PACKAGE


class Steps:
    """Reports each step and its duration to the parent."""

    def __init__(self, events: IO[str]) -> None:
        self._events = events

    def tell(self, **event: Any) -> None:
        """One line to the parent."""
        self._events.write(json.dumps(event) + "\n")
        self._events.flush()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Everything inside is the step `name`."""
        self.tell(step=name, state="start", seconds=0.0)
        start = time.monotonic()
        yield
        self.tell(step=name, state="done", seconds=time.monotonic() - start)

    def kept(self, name: str) -> None:
        """The step `name` was found done."""
        self.tell(step=name, state="kept", seconds=0.0)


def main(job: dict[str, Any], events: IO[str], values: IO[str]) -> None:
    """Do one job."""
    steps = Steps(events)
    try:
        result = _on_features(job) if "definitions" in job else _on_model(job, steps, values)
    except ModelworksError as error:
        steps.tell(error=error.message, fix=error.fix, code=error.exit_code)
    except OSError as error:
        traceback.print_exc()
        steps.tell(error=f"cannot go on: {error}", fix=_fix_of(error), code=1)
    else:
        steps.tell(result=plain(result))


def _on_model(job: dict[str, Any], steps: Steps, values: IO[str]) -> dict[str, Any]:
    verbs: dict[str, Callable[[ModelSpec, Home, dict[str, Any], Steps], dict[str, Any]]] = {
        "describe": _describe, "check": _check, "train": _train, "bundle": _bundle, "gates": _gates,
        "history": _history,
    }  # fmt: skip
    job["imported"] = frozenset(sys.modules)
    with steps.step("load spec"):
        spec = _load(job)
        _take_variables(spec, steps, values)
    home = Home(Path(job["home"]), job["data_store"], job["artifact_bucket"])
    return {"model": spec.name, **verbs[job["verb"]](spec, home, job, steps)}


def _on_features(job: dict[str, Any]) -> dict[str, Any]:
    try:
        from modelworks.features.definitions import read_definitions  # Feast is for projects with features only
        from modelworks.features.environment import apply, open_store, registered_manifest
    except ImportError as error:
        raise ModelworksError(
            f"the features of a project are read with {error.name}, which is not installed",
            fix="Install `modelworks[features]`.",
        ) from error

    definitions = read_definitions(Path(job["definitions"]))
    defined = definitions.manifest.to_json()
    if job["verb"] == "read":
        registered = registered_manifest(open_store(job["store"])).to_json() if job["store"] else ""
        return {"defined": defined, "registered": registered}
    if job["judged"] and job["judged"] != defined:
        raise ModelworksError("the definitions of features were changed meanwhile", fix="Run it again.")
    apply(open_store(job["store"]), definitions, job["tables"])
    return {}


def _fix_of(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "Free space, then run it again: finished steps are kept."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "Fix the permissions of what it names, or set MODELWORKS_HOME to a folder that can be written."
    return "Look at what it names; the log has the whole traceback."


def _load(job: dict[str, Any]) -> ModelSpec:
    """The spec, which must be of the model that was named, and for a run that is there, the one it was made by."""
    folder = Path(job["spec"]).parent
    # Called after its content: two versions of a model may be in one process, and a bundle says which code it needs.
    spec = load_spec(job["spec"], f"{PACKAGE}{code_digest(folder).hex[:16]}")
    refuse_imports_from_outside(spec.folder, job["imported"])
    if job["model"] and spec.name != job["model"]:
        raise ModelworksError(f"{spec.where}: the spec is of {spec.name}, not of {job['model']}")
    made_by = job.get("inputs")
    if made_by is None:
        return spec
    if other := [name for name, value in plain(stated_inputs(spec)).items() if made_by.get(name) != value]:
        raise ModelworksError(
            f"{spec.where}: the spec has another {' and another '.join(other)} than when the run was made: it depends "
            "on more than the files of its project",
            fix="State in model.py what it takes from the environment, the clock or other files; then train again.",
        )
    return spec


def _take_variables(spec: ModelSpec, steps: Steps, values: IO[str]) -> None:
    """Have the variables that the spec names, as the parent has them.

    Raises:
        ModelworksError: One could change the bytes of a model.
    """
    if not spec.data.environment:
        return
    if fixed := sorted(name for name in spec.data.environment if name in FIXED or name.startswith(("PYTHON", "LD_"))):
        raise ModelworksError(
            f"{spec.data.where}: data.environment names {', '.join(fixed)}, which modelworks sets for every run",
            fix="Leave it out: the same inputs would not give the same run.",
        )
    steps.tell(environment=list(spec.data.environment))
    os.environ.update(json.loads(values.readline()))


def _describe(spec: ModelSpec, _home: Home, _job: dict[str, Any], _steps: Steps) -> dict[str, Any]:
    stored = spec.stored
    return {
        "packages": run_packages(spec), "inputs": stated_inputs(spec),
        "reads_features": stored is not None, "makes_history": stored is not None and stored.history is not None,
    }  # fmt: skip


def _history(spec: ModelSpec, _home: Home, job: dict[str, Any], _steps: Steps) -> dict[str, Any]:
    write_history(spec, Path(job["folder"]))
    return {}


def _lock(spec: ModelSpec) -> Lockfile:
    return read_lock(spec.folder.parents[1] / LOCK)


def _check(spec: ModelSpec, home: Home, job: dict[str, Any], steps: Steps) -> dict[str, Any]:
    snapshot = _snapshot(spec, home, None, steps)
    frame = data.read_rows(snapshot)
    if job["save_baseline"]:
        facts = drift.profile(spec, frame)
        for folder in (spec.folder, Path(job["save_baseline"])):
            write_json(folder / spec.data.baseline, facts)
    folder = home.checks(spec.name)
    with steps.step("check data"):
        _write_checks(folder, checks.check_rows(spec, frame, snapshot.digest))
    return {"data": snapshot.digest}


def _train(spec: ModelSpec, home: Home, job: dict[str, Any], steps: Steps) -> dict[str, Any]:
    lock, packages = _lock(spec), run_packages(spec)
    lock.refuse_other_versions(packages)
    if job["history"]:
        _keep_history(spec, job["history"], steps)
    snapshot = _snapshot(spec, home, Digest(job["data"]) if job["data"] else None, steps)
    project = Path(job["project"])
    inputs = {
        "model": spec.name, "data": snapshot.digest, "code": code_digest(model_file(project).parent),
        "engine": engine_digest(), "lock": lock.digest(packages), **stated_inputs(spec),
    }  # fmt: skip
    name = run_id(inputs)
    folder = home.runs(spec.name) / name
    if home.artifact_bucket:
        _look_for(spec, home, folder)
    write_json(folder / "inputs.json", inputs)
    keep_project(project, folder / PROJECT)
    frame = data.read_rows(snapshot)
    with steps.step("check data"):
        # Freshness depends on the day, so that this is looked at anew even when the rest is kept.
        report = checks.check_rows(spec, frame, snapshot.digest)
        _write_checks(folder, report)
        report.require()
    if (folder / "metrics.json").is_file():
        steps.kept("train")
        return {"run": name}
    parts = splits.split_rows(spec, frame)
    splits.write_split(folder / SPLIT, parts, len(frame))
    with steps.step("train"):
        made = _fit(spec, frame, parts)
        answer = fitted.keep(spec, folder, made)
    with steps.step("evaluate"):
        found = _evaluate(spec, folder, answer, frame, parts, dict(made.curves))
    refuse_imports_from_outside(spec.folder, job["imported"])  # functions import too
    # Written last: a run with metrics is a finished run.
    write_json(folder / "metrics.json", found)
    return {"run": name}


def _bundle(spec: ModelSpec, home: Home, job: dict[str, Any], steps: Steps) -> dict[str, Any]:
    from modelworks.lifecycle.build_bundle import build  # BentoML and ONNX are for bundling only

    folder, lock = Path(job["folder"]), _lock(spec)
    packages = run_packages(spec)
    if lock.digest(packages) != job["inputs"]["lock"]:
        raise ModelworksError(
            f"the run {folder.name} was made with another Python, or with packages that are not installed here",
            fix="Bundle it in an environment like the one that it was trained in, or train again.",
        )
    lock.refuse_other_versions(packages)
    frame, parts = _rows(home, Digest(job["inputs"]["data"]), folder / SPLIT)
    return build(
        spec, folder, frame, parts, steps.step, requirements=lock.requirements(serving_packages(spec)),
        packages=lock.versions(loaded_packages(spec)), builder=job["builder"],
    )  # fmt: skip


def _gates(spec: ModelSpec, home: Home, job: dict[str, Any], steps: Steps) -> dict[str, Any]:
    from modelworks.lifecycle.evaluate_gates import judge  # Fairlearn and ONNX Runtime are for judging only

    frame, parts = _rows(home, Digest(job["inputs"]["data"]), Path(job["folder"]) / SPLIT)
    return {"results": judge(spec, frame, parts, job, steps.step)}


def _rows(home: Home, digest: Digest, split: Path) -> tuple[Any, dict[str, Any]]:
    """The rows of a run, and which of them it was trained on."""
    frame = data.read_rows(data.SnapshotStore(home.data, home.data_store).get(digest))
    return frame, splits.read_split(split, len(frame))


def _snapshot(spec: ModelSpec, home: Home, digest: Digest | None, steps: Steps) -> data.Snapshot:
    store = data.SnapshotStore(home.data, home.data_store)
    if digest:
        steps.kept("load data")
        return store.get(digest)
    with steps.step("load data"):
        stored = stored_of(spec)
        return store.put(with_history(spec, data.load_rows(spec, stored), stored))


def _keep_history(spec: ModelSpec, folder: str, steps: Steps) -> None:
    """Write the history that the project makes where others read it too, and read it there."""
    with steps.step("write history"):
        write_history(spec, Path(folder))
    os.environ.setdefault(contract.FEATURE_HISTORY_VARIABLE, folder)  # a stated one goes first


def _look_for(spec: ModelSpec, home: Home, folder: Path) -> None:
    """Bring a run that was finished elsewhere, so that it is found here and not trained again."""
    import boto3  # only where there is a bucket

    from modelworks.lifecycle.artifacts import Artifacts

    Artifacts(home.artifact_bucket, boto3.Session()).find_run(spec.name, RunId(folder.name), folder)


def _write_checks(folder: Path, report: checks.CheckReport) -> None:
    from modelworks.lifecycle.html_report import checks_page  # beside its one use

    write_json(folder / "checks.json", report.to_facts())
    write_whole(folder / "checks.html", checks_page(report))


def _fit(spec: ModelSpec, frame: Any, parts: dict[str, Any]) -> Fitted:
    import numpy as np  # the parent imports this module's types too

    random.seed(spec.seed)
    np.random.seed(spec.seed)  # noqa: NPY002 - for libraries that still draw from it
    target = scores.encode_target(spec, frame)
    rows, validation = frame.iloc[parts["train"]], frame.iloc[parts["validation"]]
    given = TrainingData(
        x=encode_table(rows, spec.served_features, spec.input),
        y=target[parts["train"]],
        x_validation=encode_table(validation, spec.served_features, spec.input),
        y_validation=target[parts["validation"]],
        columns=spec.feature_names,
        rows=rows,
        parameters=spec.parameters,
        seed=spec.seed,
    )
    try:
        made = spec.train(given)
    except ModelworksError:
        raise
    except (Exception, SystemExit) as error:
        raise project_error(error, spec.folder, "is trained") from error
    return made if isinstance(made, Fitted) else Fitted(made)


def _evaluate(
    spec: ModelSpec, folder: Path, answer: fitted.Answer, frame: Any, parts: dict[str, Any], curves: Any
) -> dict[str, Any]:
    from modelworks.lifecycle.html_report import plots  # Matplotlib is slow to import

    target = scores.encode_target(spec, frame)
    found: dict[str, Any] = {
        "metric": spec.metric,
        "curves": curves,
        "rows": {name: len(index) for name, index in parts.items()},
    }
    for part in splits.PARTS:
        rows = frame.iloc[parts[part]]
        try:
            predicted = scores.validate(spec, answer(rows), len(rows))
            outcome = Outcome(spec.kind, target[parts[part]], predicted, rows, spec.service.threshold)
            found[part] = scores.all_metrics(spec, outcome)
        except ModelworksError:
            raise
        except (Exception, SystemExit) as error:
            raise project_error(error, spec.folder, "is evaluated") from error
    for name, picture in plots(spec, outcome).items():
        write_whole(folder / "plots" / f"{name}.svg", picture)
    write_json(folder / "slices.json", scores.slices_of(spec, outcome))
    return found


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent is gone, even one that was killed."""
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    with (
        os.fdopen(int(sys.argv[2]), "w", encoding="utf-8") as events_pipe,
        os.fdopen(int(sys.argv[3]), encoding="utf-8") as values_pipe,
    ):
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), events_pipe, values_pipe)
