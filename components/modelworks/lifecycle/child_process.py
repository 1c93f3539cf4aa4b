"""The child process in which a model's own code runs: one thread, a fixed hash seed, and a chosen environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH as FEATURES
from modelworks.lifecycle.model_project import LOCK, copy_project, lock_file
from modelworks.lifecycle.runs import Home

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
    *contract.FEATURE_KEY_VARIABLES.values(),
)
PASSED_ON_PREFIXES = ("AWS_", "MODELWORKS_")
PROXIES = tuple(
    name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (upper, upper.lower())
)
"""Passed on where a child reads a registry in S3. A model's own code has them only if its spec names them."""
FIXED = {
    "PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8", "MPLBACKEND": "svg", "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "BENTOML_DO_NOT_TRACK": "True",
}  # fmt: skip
"""Variables that could change the bytes of a model, or make it wait for a network."""


def work(
    folder: Path,
    model: str,
    home: Home,
    job: dict[str, Any],
    progress: Progress | None = None,
    *,
    shown: bool = False,
) -> dict[str, Any]:
    """Run one job in a child process and return its result.

    The project's code runs from a copy, so that neither an edit of the folder meanwhile nor what the code writes beside
    itself changes what a run is made of. Messages name the folder.

    Args:
        folder: The model project's.
        model: Its name. Empty: the one that its spec states.
        home: Where things are kept.
        job: The job, as JSON for the child.
        progress: Called at every step.
        shown: Let the child print where this process does; else into a log file.

    Raises:
        ModelworksError: The child raised this, or was killed; the message names its log.
    """
    where = {"home": str(home.root), "data_store": home.data_store, "artifact_bucket": home.artifact_bucket}
    log = None if shown else home.root / "logs" / f"{model or folder.name}-{job['verb']}.log"
    try:
        with tempfile.TemporaryDirectory(prefix="modelworks-") as scratch, ExitStack() as files:
            # The second copy stays as it is: it is what a run keeps.
            project, untouched = Path(scratch) / "project", Path(scratch) / "untouched"
            file = copy_project(folder, untouched)
            shutil.copytree(untouched, project)
            copy = project / file.relative_to(untouched)
            job = {"spec": str(copy), "model": model, "project": str(untouched), **where, **job}
            real = {
                copy.parent: folder,
                project / LOCK: lock_file(folder) or folder / LOCK,
                copy.parent.with_name(FEATURES.name): folder.with_name(FEATURES.name),
            }
            output = files.enter_context(_opened(log)).fileno() if log else sys.stdout.fileno()
            return _converse(job, log, output, Path(scratch), progress, real)
    except OSError as error:
        raise _cannot_work(home, error) from error


def work_on_features(project: Path, home: Home, job: dict[str, Any]) -> dict[str, Any]:
    """Run one job on the definitions of a project's features in a child process, and return its result.

    They are read where they are: a `features.py` may import another model's. The child has this process's proxies,
    because it reads and writes the registry of an environment.

    Args:
        project: The folder that has `models/`.
        home: Where the log is kept.
        job: The job, as JSON for the child.

    Raises:
        ModelworksError: As `work`.
    """
    log = home.root / "logs" / f"features-{job['verb']}.log"
    try:
        with tempfile.TemporaryDirectory(prefix="modelworks-") as scratch, _opened(log) as output:
            job = {"definitions": str(project), **job}
            return _converse(job, log, output.fileno(), Path(scratch), None, {}, PROXIES)
    except OSError as error:
        raise _cannot_work(home, error) from error


def _opened(log: Path) -> IO[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("wb")


def _cannot_work(home: Home, error: OSError) -> ModelworksError:
    return ModelworksError(
        f"cannot work in {home.root}: {error.strerror or error}",
        fix="Free space, fix its permissions, or set MODELWORKS_HOME to a folder that can be written.",
    )


def _converse(
    job: dict[str, Any],
    log: Path | None,
    output: int,
    scratch: Path,
    progress: Progress | None,
    real: Mapping[Path, Path],
    passed_on: Sequence[str] = (),
) -> dict[str, Any]:
    environment = environment_of_child(scratch) | {name: os.environ[name] for name in passed_on if name in os.environ}
    if log is None:
        environment["PYTHONUNBUFFERED"] = "1"  # somebody is reading
    file = scratch / "job.json"  # Linux takes at most 128 KiB in one argument, and a run's inputs may be longer
    file.write_text(json.dumps(job), encoding="utf-8")
    reader, writer = os.pipe()
    values, given = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "modelworks.lifecycle.child", str(file), str(writer), str(values)],
        cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[writer, values],
    )  # fmt: skip
    os.close(writer)
    os.close(values)
    try:
        with os.fdopen(reader, encoding="utf-8") as events, os.fdopen(given, "w", encoding="utf-8") as answers:
            result = _result(events, answers, progress, real)
        code = process.wait()
    finally:
        # An interrupted parent leaves no trainer behind.
        _end(process)
    if code or result is None:
        how, fix = _ended(code)
        where = f"; its log: {log}\n{_last_lines(log)}" if log else ""
        raise ModelworksError(f"the process that does `{job['verb']}` {how}{where}", fix=fix)
    return result


def _result(
    events: Iterable[str], answers: IO[str], progress: Progress | None, real: Mapping[Path, Path]
) -> dict[str, Any] | None:
    """Follow a child until it falls silent, and give it the variables that it names; None if it gave no result."""
    result: dict[str, Any] | None = None
    for line in events:
        event = json.loads(_with_real_paths(line, real))
        if "error" in event:
            error = ModelworksError(event["error"], fix=event["fix"])
            error.exit_code = event["code"]
            raise error
        if "environment" in event:
            named = {name: os.environ[name] for name in event["environment"] if name in os.environ}
            print(json.dumps(named), file=answers, flush=True)
        elif "result" in event:
            result = event["result"]
        elif progress:
            progress(event["step"], event["state"], event["seconds"])
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment_of_child(scratch: Path) -> dict[str, str]:
    """The variables that a model's code sees: chosen ones of this process, and fixed ones.

    Args:
        scratch: A folder for what libraries write.
    """
    chosen = {name: value for name, value in os.environ.items() if _passed_on(name)}
    return chosen | FIXED | {"BENTOML_HOME": str(scratch / "bentoml"), "MPLCONFIGDIR": str(scratch / "matplotlib")}


def _ended(code: int) -> tuple[str, str]:
    """How a child ended that gave no result, and what to do about it."""
    if code >= 0:
        return f"exited with code {code}", (
            "Correct what its log names: run again as it is, it ends the same way. If the model's code calls sys.exit, "
            "raise an exception there instead."
        )
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    if -code == signal.SIGKILL:
        return f"was killed ({name}), by the kernel if memory ran out", (
            "Free memory, load fewer rows or columns, or train in an environment with more "
            "(`modelworks train MODEL --env ENV`)."
        )
    if -code in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
        return f"was ended by {name}", "Run it again: finished steps are kept."
    return f"crashed with {name} in a compiled package", (
        "Look at its log for the package, and try another version of it in uv.lock."
    )


def _with_real_paths(line: str, real: Mapping[Path, Path]) -> str:
    """A line of JSON that names files where the user has them."""
    for copy, original in real.items():
        line = line.replace(json.dumps(str(copy))[1:-1], json.dumps(str(original))[1:-1])
    return line


def _passed_on(name: str) -> bool:
    return name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    return "\n".join(f"  {line}" for line in lines)
