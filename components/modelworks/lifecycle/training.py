"""Training as a function of data, code, parameters, seed and lock.

Everything a user's code does happens in a child process with one thread, a fixed hash seed and no more of the
caller's environment than it needs (`modelworks.lifecycle.child`); this module starts it and reads what it left in the
run's folder. A run is called after the digest of its inputs: the same inputs find the same run again, and a run that
was killed goes on where it stopped.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelworks._files import digest_of, digest_of_facts, read_json, write_json
from modelworks.errors import ModelworksError
from modelworks.lifecycle.checks import CheckReport
from modelworks.lifecycle.lockfile import find_lock
from modelworks.lifecycle.spec import ModelSpec

Progress = Callable[[str, str, float], None]
"""Called with a step, its state (`start`, `done`, `kept`) and the seconds it took."""

PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PYTHONDONTWRITEBYTECODE",
)
PASSED_ON_PREFIXES = ("AWS_", "MODELWORKS_")
FIXED = {
    "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8", "MPLBACKEND": "svg", "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "BENTOML_DO_NOT_TRACK": "True",
}  # fmt: skip
"""What could otherwise reach into the bytes of a model, or wait for a network."""


@dataclass(frozen=True)
class Home:
    """Where runs and data are kept on this machine."""

    root: Path
    data_store: str = ""
    """`s3://bucket/prefix` behind the local folder, or empty."""
    artifact_bucket: str = ""
    """Bucket where finished runs are looked for that are not here, or empty."""

    @property
    def data(self) -> Path:
        """Snapshots by digest."""
        return self.root / "data"

    def runs(self, model: str) -> Path:
        """Runs of one model."""
        return self.root / "runs" / model

    def checks(self, model: str) -> Path:
        """The last check of a model's data outside of a run."""
        return self.root / "checks" / model


@dataclass(frozen=True)
class TrainedModel:
    """One run: what went in, and the folder with what came out."""

    model: str
    run: str
    """First 16 hex digits of the digest of its inputs."""
    folder: Path
    inputs: dict[str, Any]
    """Digests of `data`, `code`, `engine` and `lock`; `parameters` and `seed`."""
    metrics: dict[str, float]
    """On the hold-out."""
    origin: dict[str, Any]
    """`commit`, `dirty`, `by`, `at`: who trained it from what. Never part of a digest."""

    @property
    def checks(self) -> CheckReport:
        """The data checks this run passed."""
        return CheckReport.from_facts(read_json(self.folder / "checks.json"))


def check_data(
    spec: ModelSpec, home: Home, *, save_baseline: bool = False, progress: Progress | None = None
) -> CheckReport:
    """Load the model's data, keep it by digest, and look at it in every way the spec asks for.

    Args:
        spec: The model.
        home: Where data and reports are kept.
        save_baseline: Also write the distributions to the spec's baseline file, to be compared with from now on.
        progress: Called at every step.

    Raises:
        ModelworksError: The data cannot be loaded or kept. Findings are in the report: see `CheckReport.require`.
    """
    folder = home.checks(spec.name)
    work(spec, home, {"verb": "check", "folder": str(folder), "save_baseline": save_baseline}, progress)
    return CheckReport.from_facts(read_json(folder / "checks.json"))


def train(spec: ModelSpec, home: Home, *, data: str = "", progress: Progress | None = None) -> TrainedModel:
    """Check the data, train, and evaluate on the hold-out.

    Args:
        spec: The model.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        progress: Called at every step.

    Raises:
        ModelworksError: The environment is not the lock's, the data has errors, or the spec's code raises.
    """
    source = source_of(spec.folder, find_lock(spec.folder).file)
    return with_origin(make_run(spec, home, data=data, progress=progress), *source)


def make_run(
    spec: ModelSpec, home: Home, *, data: str = "", progress: Progress | None = None, shown: bool = False
) -> Path:
    """A finished run without its origin, which is its caller's: `train` on a machine that knows neither git nor user.

    Args:
        spec: The model.
        home: Where data and runs are kept.
        data: Digest of a snapshot to train on again, instead of loading.
        progress: Called at every step.
        shown: Let what the model's code prints appear where this process prints, and not in a log file.

    Returns:
        The run's folder.

    Raises:
        ModelworksError: As `train`.
    """
    lock = find_lock(spec.folder)
    lock.refuse_other_versions(roots(spec))
    job = {
        "verb": "train",
        "data": data,
        "lock": lock.digest,
        "code": code_digest(spec.folder),
        "engine": engine_digest(),
    }
    run: str = work(spec, home, job, progress, shown=shown)["run"]
    return home.runs(spec.name) / run


def with_origin(folder: Path, commit: str, dirty: bool) -> TrainedModel:
    """The finished run in `folder`, from now on known to be trained from that source, by this user.

    Args:
        folder: The run's.
        commit: See `source_of`.
        dirty: The same.

    Raises:
        ModelworksError: It was not finished.
    """
    path = folder / "origin.json"
    known = read_json(path) if path.is_file() else {}
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    # The same inputs found again in a clean tree are from then on known by that commit.
    if not known or (known["dirty"] and not dirty):
        known = {"commit": commit, "dirty": dirty, "by": getpass.getuser(), "at": now}
    write_json(path, {**known, "last": now})
    return open_run(folder)


def open_run(folder: Path) -> TrainedModel:
    """The finished run in `folder`.

    Raises:
        ModelworksError: It is not there or was not finished.
    """
    if not (folder / "metrics.json").is_file():
        raise ModelworksError(f"there is no finished run in {folder}", fix="Run `modelworks train` first.")
    inputs, metrics = read_json(folder / "inputs.json"), read_json(folder / "metrics.json")
    origin = read_json(folder / "origin.json") if (folder / "origin.json").is_file() else {}
    return TrainedModel(inputs["model"], folder.name, folder, inputs, metrics["holdout"], origin)


def latest_run(model: str, home: Home) -> TrainedModel:
    """The run of `model` that was trained last.

    Raises:
        ModelworksError: There is none.
    """
    finished = sorted(home.runs(model).glob("*/metrics.json"), key=_trained_at)
    if not finished:
        raise ModelworksError(f"{model} was never trained here", fix=f"Run `modelworks train {model}`.")
    return open_run(finished[-1].parent)


def _trained_at(path: Path) -> tuple[str, float]:
    origin = path.parent / "origin.json"
    return (read_json(origin).get("last", "") if origin.is_file() else "", path.stat().st_mtime)


def roots(spec: ModelSpec) -> tuple[str, ...]:
    """Packages that a bundle of this model is made of and served with."""
    from modelworks.lifecycle.lockfile import SERVING  # beside its one use

    onnx = ("onnxruntime",) if spec.service.onnx else ()
    standard = tuple(each for each in SERVING if each not in {"onnxruntime", "pandas"})
    frame = ("pandas",) if spec.input == "frame" else ()
    return tuple(sorted({*standard, *onnx, *frame, *spec.service.packages}))


def run_id(inputs: dict[str, Any]) -> str:
    """The name of a run with these inputs."""
    return digest_of_facts(inputs).removeprefix("sha256:")[:16]


def code_digest(folder: Path) -> str:
    """The digest of a project's Python files, tests aside."""
    files = [
        path
        for path in source_files(folder)
        if path.suffix == ".py" and not path.name.startswith("test_") and "tests" not in path.relative_to(folder).parts
    ]
    return digest_of_facts({path.relative_to(folder).as_posix(): digest_of(path.read_bytes()) for path in files})


def source_files(folder: Path) -> list[Path]:
    """What a model project consists of, sorted: every file in its folder that is neither hidden nor a cache."""
    return [
        path
        for path in sorted(folder.rglob("*"), key=lambda each: each.relative_to(folder).as_posix())
        if not path.is_dir()
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    ]


def engine_digest() -> str:
    """The digest of the code of modelworks that a model's bytes depend on."""
    package = Path(__file__).parent
    files = [*sorted(package.rglob("*.py")), package.parent / "runtime" / "manifest.py"]
    return digest_of_facts({path.name: digest_of(path.read_bytes()) for path in files})


def work(
    spec: ModelSpec, home: Home, job: dict[str, Any], progress: Progress | None = None, *, shown: bool = False
) -> dict[str, Any]:
    """Run one job in a child process and return its result.

    Args:
        spec: The model.
        home: Where things are kept.
        job: What to do, as the child understands it.
        progress: Called at every step.
        shown: Let the child print where this process does; else into a log file.

    Raises:
        ModelworksError: What the child raised, or that it was killed; its log is named.
    """
    where = {"home": str(home.root), "data_store": home.data_store, "artifact_bucket": home.artifact_bucket}
    job = {"spec": str(spec.file), **where, **job}
    log = None if shown else home.root / "logs" / f"{spec.name}-{job['verb']}.log"
    try:
        with tempfile.TemporaryDirectory(prefix="modelworks-") as scratch, ExitStack() as files:
            if log:
                log.parent.mkdir(parents=True, exist_ok=True)
            output = files.enter_context(log.open("wb")).fileno() if log else sys.stdout.fileno()
            return _converse(job, log, output, Path(scratch), progress)
    except OSError as error:
        raise ModelworksError(
            f"cannot work in {home.root}: {error.strerror or error}",
            fix="Free space, fix its permissions, or set MODELWORKS_HOME to a folder that can be written.",
        ) from error


def _converse(
    job: dict[str, Any], log: Path | None, output: int, scratch: Path, progress: Progress | None
) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if _passed_on(name)} | FIXED
    environment |= {"BENTOML_HOME": str(scratch / "bentoml"), "MPLCONFIGDIR": str(scratch / "matplotlib")}
    if log is None:
        environment["PYTHONUNBUFFERED"] = "1"  # somebody is reading
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "modelworks.lifecycle.child", json.dumps(job), str(writer)],
        cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[writer],
    )  # fmt: skip
    os.close(writer)
    result: dict[str, Any] | None = None
    try:
        with os.fdopen(reader, encoding="utf-8") as events:
            for line in events:
                event = json.loads(line)
                if "error" in event:
                    error = ModelworksError(event["error"], fix=event["fix"])
                    error.exit_code = event["code"]
                    raise error
                if "result" in event:
                    result = event["result"]
                elif progress:
                    progress(event["step"], event["state"], event["seconds"])
        code = process.wait()
    finally:
        # An interrupted parent leaves no trainer behind.
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if code or result is None:
        how = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with exit code {code}"
        where = f"; its log: {log}\n{_last_lines(log)}" if log else ""
        raise ModelworksError(
            f"the process that does `{job['verb']}` {how}{where}",
            fix="Run it again: finished steps are kept.",
        )
    return result


def _passed_on(name: str) -> bool:
    return name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    return "\n".join(f"  {line}" for line in lines)


def source_of(folder: Path, lock: Path) -> tuple[str, bool]:
    """The commit that `folder` is at, and whether project, lock or modelworks itself differ from it.

    Without git there is no commit, and the tree counts as dirty.
    """
    package = Path(__file__).parent.parent
    try:
        top = _git(folder, "rev-parse", "--show-toplevel").strip()
        commit = _git(folder, "rev-parse", "HEAD").strip()
        paths = [str(path) for path in (folder, lock, package) if path.is_relative_to(top)]
        return commit, bool(_git(folder, "status", "--porcelain", "--", *paths).strip())
    except (OSError, subprocess.SubprocessError):
        return "", True


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=30
    ).stdout
