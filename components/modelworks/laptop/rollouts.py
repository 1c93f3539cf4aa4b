"""Argo Rollouts on the laptop: one controller an environment, and the custom resources of its own module.

A controller reads from one AWS account the metrics of an analysis, and environments must not see each other: so each
has its own, which looks at its own namespace and its own account.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.laptop import toolchain
from modelworks.laptop.aws_credentials import credentials_file
from modelworks.laptop.supervisor import Program
from modelworks.laptop.toolchain import golang

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from modelworks.laptop.state_dir import StateDir

MODULE = "github.com/argoproj/argo-rollouts"
TOOL = "rollouts-controller"


def program(place: StateDir, environment: str, facts: Mapping[str, Any], tools: Mapping[str, Path]) -> Program:
    """The controller of one environment, which sees that namespace and that AWS account only."""
    argv: list[str | Path] = [
        tools[TOOL],
        f"--kubeconfig={place.cluster / f'rollouts-{environment}.kubeconfig'}",
        "--namespaced",
        f"--namespace={facts['namespace']}",
        "--leader-elect=false",
        # It would serve health and metrics on every interface of the machine; there is no port of that number.
        "--healthzPort=65536",
        "--metricsport=65536",
        "--rollout-threads=2",
        "--analysis-threads=4",
        "--experiment-threads=1",
        "--service-threads=2",
        "--ingress-threads=2",
        "--logformat=json",
    ]
    environ = {
        "GOGC": "50",
        "POD_NAMESPACE": str(facts["namespace"]),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{facts['aws_port']}",
        "AWS_REGION": str(facts["region"]),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials_file(place, environment)),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return Program(f"rollouts-{environment}", argv, environ)


def custom_resources(report: toolchain.Report | None = None) -> Iterator[tuple[str, str]]:
    """Name and YAML of each custom resource definition that the pinned version of Argo Rollouts needs.

    They are kept beside the controller where it was built or came from the wheel. Else they are read from its Go
    module, whose checksum Go verifies against the committed `go.sum`, and kept in the cache of the toolchain.

    Raises:
        ModelworksError: They are not cached and the module cannot be had.
    """
    folder = toolchain.Toolchain().built(toolchain.TOOLS[TOOL]).parent / "crds"
    if not folder.is_dir():
        folder = toolchain.cache_folder() / "argo-rollouts-crds" / toolchain.TOOLS[TOOL].version
    if not folder.is_dir():
        _fetch(folder, report or (lambda _: None))
    for path in sorted(folder.glob("*-crd.yaml")):
        text = path.read_text("utf-8")
        if match := re.search(r"^  name: (\S+)$", text, re.MULTILINE):
            yield match[1], text


def _fetch(folder: Path, report: toolchain.Report) -> None:
    tool = toolchain.TOOLS[TOOL]
    module = Path(toolchain.__file__).parent / tool.module
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        work, whole = Path(temporary) / "work", Path(temporary) / "whole"
        go = golang.find(module, work, report, tool)
        argv = [str(go), "mod", "download", "-json", MODULE]
        try:
            ended = subprocess.run(
                argv,
                cwd=module,
                env=golang.environment(go, work),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            source = Path(json.loads(ended.stdout).get("Dir", "")) / "manifests" / "crds"
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise _unreachable(str(error)) from error
        if ended.returncode != 0 or not list(source.glob("*-crd.yaml")):
            raise _unreachable(ended.stderr.strip() or f"there are none in {source}")
        whole.mkdir()
        for path in source.glob("*-crd.yaml"):
            shutil.copyfile(path, whole / path.name)
        if not folder.is_dir():
            whole.rename(folder)


def _unreachable(why: str) -> ModelworksError:
    return ModelworksError(
        f"the custom resource definitions of Argo Rollouts cannot be had from its Go module: {why}",
        fix="Connect to a network that reaches your GOPROXY, and try again.",
    )
