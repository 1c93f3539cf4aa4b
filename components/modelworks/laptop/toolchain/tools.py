"""The programs of the laptop cloud: which, in which version, from which Go module, and how each prints its version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MODULES: Final = Path(__file__).parent
"""Holds one folder a module, each with the `go.mod` and `go.sum` that its tools are built from."""

GENERATOR: Final = "pulumi-generate-python"
"""Writes code for `pulumi import`, where Pulumi's official Python host does not."""

PROVIDER: Final = "pulumi-resource-kubernetes"
"""Pulumi's own provider of Kubernetes, which the engine starts."""

_KUBERNETES: Final = "1.35.0"

_SDK: Final = "github.com/pulumi/pulumi-kubernetes/sdk/v4"
_SOURCES: Final = "github.com/pulumi/pulumi-kubernetes/provider/v4"


class Unavailable(Exception):  # noqa: N818 (an answer that the next way follows, not an error)
    """A way to get a tool that cannot be taken, and why."""


class Tampered(Unavailable):
    """A delivered file is not the pinned one."""


@dataclass(frozen=True)
class Staged:
    """Files that are copied out of a required module, in the version that `go.mod` states and `go.sum` verifies."""

    module: str
    files: str
    """A pattern of paths in the module."""
    into: str = ""
    """The folder, below that of the tool's own module."""


@dataclass(frozen=True)
class Tool:
    """One program, and what it takes to have it."""

    name: str
    """Its executable's name."""

    version: str
    """The pinned version, without a leading `v`."""

    module: str
    """The folder of its `go.mod` and `go.sum`."""

    package: str
    """The Go package that is built."""

    seconds: int
    """How long a cold build takes, measured on two cores in the order of `TOOLS` (module downloads included)."""

    ldflags: str = ""
    """Stamps the version, which Go would otherwise leave at v0.0.0."""

    ask: tuple[str, ...] = ("--version",)
    """Arguments that make the program print its version."""

    same: int = 2
    """How many leading parts of a version must match the pinned one: 2 is major and minor. The rest may be newer."""

    ours: str = ""
    """The folder of the package, if it is our own, below that of the modules."""

    irreplaceable: str = ""
    """Why none on PATH can replace it; empty where one can."""

    family: str = ""
    """The one executable that is built for this tool and others, and decides by its name which of them it is."""

    staged: tuple[Staged, ...] = field(default=())
    """Files of other modules that belong beside the package when it is built."""

    plugin: str = ""
    """The name under which the engine downloads it itself; empty if it is no provider plugin."""

    companions: tuple[str, ...] = field(default=())
    """Executables that must be found beside one on PATH, or it is passed over."""

    along: tuple[str, ...] = field(default=())
    """Tools that are needed too where this one is built, because the official one brings what they do."""

    megabytes: int = 500
    """Disk that a cold build takes until it is done: sources and what is compiled of them."""

    kept: str = ""
    """A folder of YAML in the sources that is kept beside the executable, under its last name."""

    @property
    def program(self) -> str:
        """The file name of what is built."""
        return self.family or self.name

    def fits(self, found: str) -> bool:
        """Whether version `found` can replace the pinned one."""
        have, want = _numbers(found), _numbers(self.version)
        return have[: self.same] == want[: self.same] and have >= want


@dataclass(frozen=True)
class State:
    """The state of one tool."""

    name: str
    version: str
    source: str
    """Where it was taken from: `PATH (1.2.3)`, `wheel`, `download`, `built`; `-` while it is missing."""
    state: str
    """`ready`, `missing` or `damaged`."""
    path: Path | None
    note: str
    """Why the one on PATH was passed over, and how a missing one will be had."""

    def facts(self) -> dict[str, str | None]:
        """The same for `--json`."""
        return {
            "name": self.name,
            "version": self.version,
            "from": self.source,
            "state": self.state,
            "path": str(self.path) if self.path else None,
            "note": self.note,
        }


def _part_of_kubernetes(name: str, ask: tuple[str, ...] = ("--version",)) -> Tool:
    """A part of Kubernetes. Most of what one is compiled of are all: one executable has two fifths of their size."""
    return Tool(
        name,
        _KUBERNETES,
        "kubernetes",
        "modelworks.dev/toolchain/kubernetes/kube",
        270,
        f"-X k8s.io/component-base/version.gitVersion=v{_KUBERNETES}"
        f" -X k8s.io/client-go/pkg/version.gitVersion=v{_KUBERNETES}",
        ask,
        ours="kubernetes/kube",
        family="kube",
        megabytes=3300,
    )


_ALL: Final = (
    Tool(
        "pulumi",
        "3.259.0",
        "pulumi",
        "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        190,
        "-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v3.259.0",
        ("version",),
        same=1,
        companions=("pulumi-language-python",),
        along=(GENERATOR,),
        megabytes=3300,
    ),
    Tool("etcd", "3.6.5", "etcd", "go.etcd.io/etcd/server/v3", 37, megabytes=900),
    _part_of_kubernetes("kube-apiserver"),
    _part_of_kubernetes("kube-controller-manager"),
    _part_of_kubernetes("kube-scheduler"),
    _part_of_kubernetes("kubectl", ("version", "--client")),
    Tool(
        "rollouts-controller",
        "1.8.3",
        "argo-rollouts",
        "github.com/argoproj/argo-rollouts/cmd/rollouts-controller",
        147,
        "-X github.com/argoproj/argo-rollouts/utils/version.version=1.8.3",
        # It logs its version before it looks for a cluster; this one is never there.
        ("--kubeconfig", "/nonexistent"),
        kept="manifests/crds",
        megabytes=1500,
    ),
    Tool(
        "caddy",
        "2.10.0",
        "caddy",
        "modelworks.dev/toolchain/caddy",
        50,
        "-X github.com/caddyserver/caddy/v2.CustomVersion=v2.10.0",
        ("version",),
        ours="caddy",
        irreplaceable="it carries the gateway's own module",
    ),
    Tool(
        PROVIDER,
        "4.34.2",
        "pulumi-kubernetes",
        "modelworks.dev/toolchain/pulumi-kubernetes",
        330,
        # What it stands in for, and what it is: the newest sources that are published as a Go module.
        "-X main.version=4.34.2+20260115.f47bc2d6f199",
        ours="pulumi-kubernetes",
        irreplaceable="it does not print its version",
        plugin="kubernetes",
        staged=(
            Staged(_SOURCES, "cmd/pulumi-resource-kubernetes/schema.json"),
            Staged(_SOURCES, "cmd/pulumi-resource-kubernetes/terraform-mapping.json"),
            Staged(_SDK, "go.mod", "sdk"),
            Staged(_SDK, "go/kubernetes/*.go", "sdk/go/kubernetes"),
            Staged(_SDK, "go/kubernetes/utilities/*.go", "sdk/go/kubernetes/utilities"),
            Staged(_SDK, "go/kubernetes/helm/v4/*.go", "sdk/go/kubernetes/helm/v4"),
        ),
        megabytes=2500,
    ),
    Tool(
        GENERATOR,
        "3.259.0",
        "pulumi",
        "modelworks.dev/toolchain/pulumi/generate",
        15,
        "-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v3.259.0",
        ours="pulumi/generate",
        irreplaceable="it is a program of our own",
    ),
)

TOOLS: Final[dict[str, Tool]] = {tool.name: tool for tool in _ALL}
"""Every tool by name, in the order in which a cold build should go."""

WANTED: Final = tuple(name for name in TOOLS if not any(name in tool.along for tool in _ALL))
"""Tools that are always needed; the others come along with a build."""


def on_path(tool: Tool, *, besides: Path) -> tuple[Path | None, str]:
    """The tool of the user's own PATH if its version fits, and one phrase on what was found.

    The first program of that name counts, because that is the one a shell would run, but folders of the cache
    `besides` (which `modelworks env` puts first) do not. It prints its version within a bound of ten seconds; a
    wrong version, or none, is passed over.
    """
    if tool.irreplaceable:
        return None, f"none on PATH will do: {tool.irreplaceable}"
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    theirs = os.pathsep.join(folder for folder in folders if not Path(folder).is_relative_to(besides))
    if (found := shutil.which(tool.name, path=theirs)) is None:
        return None, "not on PATH"
    path = Path(found)
    version = version_of(path, tool)
    if version is None:
        return None, f"{path} did not print its version"
    if not tool.fits(version):
        return None, f"{path} is {version}, wanted {tool.version}"
    for companion in tool.companions:
        if not (path.resolve().parent / companion).exists() and shutil.which(companion, path=theirs) is None:
            return None, f"{path} has no {companion}"
    return path, f"PATH ({version})"


def version_of(path: Path, tool: Tool) -> str | None:
    """The version that the program at `path` prints, or None."""
    try:
        answer = subprocess.run(
            [path, *tool.ask],
            capture_output=True,
            text=True,
            timeout=60,  # it prints one line; a busy machine takes its time
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv?(\d+\.\d+\.\d+)", answer.stdout + answer.stderr)
    return match.group(1) if match else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
