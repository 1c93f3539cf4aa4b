"""What Checkov, parliament and the published schemas of Kubernetes find in a folder of files; JSON lines to stdout.

Run in the environment of this folder: `uv run --frozen --project tests/second_opinion python opinions.py FOLDER`.
`FOLDER` has `aws/main.tf.json` (AWS resources in Terraform's words), `kubernetes/*.json` and `policies/*.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

import kubernetes_validate  # noqa: E402
import parliament  # noqa: E402

KUBERNETES = ("1.31.0", "1.32.0", "1.33.0", "1.34.0", "1.35.0")
Finding = tuple[str, str, str]
"""The rule, the resource, and what is wrong with it."""


def checkov(folder: Path, framework: str) -> Iterator[Finding]:
    command = [
        *(sys.executable, str(Path(sys.executable).with_name("checkov")), "--directory", str(folder)),
        *("--framework", framework, "--output", "json", "--quiet", "--compact", "--skip-download", "--soft-fail"),
    ]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if report["summary"]["parsing_errors"] or not report["summary"]["passed"]:
        raise SystemExit(f"Checkov read nothing of {folder}: {report['summary']}")
    for check in report["results"]["failed_checks"]:
        yield check["check_id"], _resource(check, framework), check["check_name"]


def _resource(check: dict[str, str], framework: str) -> str:
    # Checkov names a manifest by its labels; the file is named after the resource.
    return Path(check["file_path"]).stem if framework == "kubernetes" else check["resource"].rpartition(".")[2]


def policies(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob("*.json")):
        text = path.read_text(encoding="utf-8")
        for finding in parliament.analyze_policy_string(text, ignore_private_auditors=True).findings:
            yield finding.issue, path.stem, f"{finding.detail}"


def schemas(folder: Path) -> Iterator[Finding]:
    for path in sorted(folder.glob("*.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["apiVersion"].startswith(("argoproj.io/", "eks.amazonaws.com/")):
            continue  # a custom resource: its definition is the schema, and EKS Auto Mode publishes none
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"kubernetes-{version}", path.stem, f"{'.'.join(map(str, error.path))}: {error.message}"


def _all(folder: Path) -> Iterator[Finding]:
    if (folder / "aws").exists():
        yield from checkov(folder / "aws", "terraform_json")
    if (folder / "kubernetes").exists():
        yield from checkov(folder / "kubernetes", "kubernetes")
    yield from policies(folder / "policies")
    yield from schemas(folder / "kubernetes")


if __name__ == "__main__":
    for found in _all(Path(sys.argv[1])):
        print(json.dumps(found))
