"""Mutation testing: `make mutants`, or `make mutants ONLY="contract lifecycle/metrics"`.

Each module is mutated by itself, and only its own tests are run: one module takes minutes. A mutant that survives
is a change of behaviour that no test notices: write the test, or know why the change makes no difference.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".mutants"
TESTS = {
    "alarms": ["components/test_alarms.py"],
    "contract": ["test_contract.py"],
    "_workload_rules": ["test_workload_rules.py"],
    "cluster/training_job": ["cluster/test_training_job.py"],
    "laptop/metric_math": ["laptop/test_metric_math.py"],
    "laptop/network_policies": ["laptop/test_network_policies.py"],
    "lifecycle/aliases": ["lifecycle/test_aliases.py"],
    "cluster/aborted_releases": ["cluster/test_aborted_releases.py"],
    "cluster/rollout": ["cluster/test_rollout.py"],
    "cluster/rollout_failure": ["cluster/test_rollout.py"],
    "cluster/rollout_objects": ["cluster/test_rollout.py", "cluster/test_aborted_releases.py"],
    "cluster/rollout_patches": ["cluster/test_rollout_patches.py"],
    "lifecycle/archive": ["lifecycle/test_archive.py"],
    "lifecycle/checks": ["lifecycle/test_checks.py"],
    "lifecycle/drift": ["lifecycle/test_drift.py"],
    "lifecycle/gates": ["lifecycle/test_gates.py"],
    "lifecycle/history": ["lifecycle/test_history.py"],
    "lifecycle/intervals": ["lifecycle/test_intervals.py", "lifecycle/test_gates.py"],
    "lifecycle/leakage": ["lifecycle/test_checks.py"],
    "lifecycle/promotion": ["cli/test_promote.py"],
    "lifecycle/provenance": ["lifecycle/test_provenance.py"],
    "lifecycle/registration": ["cli/test_release.py"],
    "lifecycle/registry": ["lifecycle/test_registry.py"],
    "lifecycle/release": ["lifecycle/test_release.py"],
    "lifecycle/release_line": ["lifecycle/test_release_line.py"],
    "lifecycle/scores": ["lifecycle/test_scores.py", "lifecycle/test_gates.py"],
    "lifecycle/signing": ["lifecycle/test_signing.py"],
    "lifecycle/splits": ["lifecycle/test_splits.py"],
    "lifecycle/store": ["lifecycle/test_registry.py", "lifecycle/test_signing.py"],
    "lifecycle/version": ["lifecycle/test_registry.py"],
    "lifecycle/metrics": ["lifecycle/test_metrics.py"],
    "runtime/encoding": ["runtime/test_encoding.py"],
    "runtime/predictor": ["runtime/test_model.py"],
    "runtime/server/admission": ["runtime/test_admission.py"],
    "runtime/server/budget": ["runtime/test_budget.py"],
    "runtime/server/app": ["runtime/test_admission.py"],
    "runtime/server/http2": ["runtime/test_http2.py"],
    "runtime/server/http2_calls": ["runtime/test_http2.py"],
    "runtime/server/http2_fields": ["runtime/test_http2.py"],
    "runtime/server/http2_frames": ["runtime/test_http2.py"],
    "runtime/server/http2_reading": ["runtime/test_http2.py"],
    "runtime/server/http2_sending": ["runtime/test_http2.py"],
    "runtime/server/http2_streams": ["runtime/test_http2.py"],
    "runtime/manifest": ["runtime/test_model.py"],
    "runtime/schema": ["runtime/test_schema.py"],
    "runtime/signature": ["runtime/test_signature.py"],
}
"""Modules of the package that decide without touching anything, and the tests that hold them."""


def main(only: list[str]) -> int:
    """Mutate these modules, or all; returns how many have survivors."""
    unknown = [name for name in only if name not in TESTS]
    if unknown:
        sys.exit(f"no tests are named for {', '.join(unknown)}; there are {', '.join(TESTS)}")
    return sum([_mutate(name) for name in only or TESTS])


def _mutate(name: str) -> bool:
    """Whether a mutant of this module survives, after showing each that does."""
    folder = WORK / name.replace("/", "-")
    _stage(folder, name)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    # Before the checkout's own sources, in every process that a test starts.
    environment["PYTHONPATH"] = str(folder / "mutants" / "src")
    print(f"== {name}", flush=True)
    with (folder / "log").open("wb") as log:  # of a spinner, mostly
        done = subprocess.run([_mutmut(), "run"], cwd=folder, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        sys.exit(f"mutmut failed: see {folder / 'log'}")
    results = subprocess.run(
        [_mutmut(), "results", "--all", "true"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    survivors = re.findall(r"^\s*(\S+): (?:survived|no tests)$", results, re.MULTILINE)
    for mutant in survivors:
        subprocess.run([_mutmut(), "show", mutant], cwd=folder, check=True)
    print(f"== {name}: {len(survivors)} of {results.count(': ')} survive", flush=True)
    return bool(survivors)


def _stage(folder: Path, name: str) -> None:
    """A checkout as mutmut wants one: it knows a source root by the name `src`, and ours is `components`."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "mutants" / "src").mkdir(parents=True)  # a path that is not there as Python starts is never looked at
    (folder / "src").symlink_to(ROOT / "components")
    for each in ("tests", "stacks", "models", "policy", "uv.lock"):
        (folder / each).symlink_to(ROOT / each)
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    chosen = f"only_mutate = {[f'src/modelworks/{name}.py']!r}\n"
    chosen += f"pytest_add_cli_args_test_selection = {[f'tests/{path}' for path in TESTS[name]]!r}\n"
    (folder / "pyproject.toml").write_text(
        settings.replace("[tool.mutmut]\n", f"[tool.mutmut]\n{chosen}"), encoding="utf-8"
    )


def _mutmut() -> str:
    return str(Path(sys.executable).with_name("mutmut"))


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
