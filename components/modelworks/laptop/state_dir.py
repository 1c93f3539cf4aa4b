"""The laptop cloud's folders on disk, and the facts that its parts share.

Every path below the place is private to the user (mode 0700) and removed by `modelworks laptop down`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.errors import ModelworksError
from modelworks.project import project_root


@dataclass(frozen=True)
class StateDir:
    """One laptop cloud: the folder that holds all of its state."""

    root: Path
    """The state folder, `.modelworks/` of a checkout unless `MODELWORKS_HOME` names another."""

    @classmethod
    def here(cls, start: Path | None = None) -> StateDir:
        """The place that commands in `start` (default: the working directory) mean.

        It is `MODELWORKS_HOME` where that is set, else `.modelworks/` beside the nearest `Pulumi.yaml` upwards.

        Raises:
            ModelworksError: There is no `Pulumi.yaml` in `start` or above it.
        """
        if home := os.environ.get("MODELWORKS_HOME"):
            return cls(Path(home).resolve())
        return cls(project_root(start) / ".modelworks")

    @property
    def logs(self) -> Path:
        """One file a process of the laptop cloud: `<process>.log`."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Sockets, pid files and generated process configuration."""
        return self.root / "run"

    @property
    def cluster(self) -> Path:
        """The Kubernetes control plane: `pki/`, `etcd/`, `admin.kubeconfig`, one kubeconfig a component."""
        return self.root / "cluster"

    @property
    def node(self) -> Path:
        """The node agent: pods, volumes and container logs."""
        return self.root / "node"

    @property
    def gateway(self) -> Path:
        """The gateway's data and its last configuration."""
        return self.root / "gateway"

    def environment(self, name: str) -> Path:
        """Files of one environment: Pulumi backend, passphrase, AWS account, kubeconfig."""
        return self.root / "environments" / name

    def environments(self) -> list[str]:
        """Names of the environments this laptop holds, sorted."""
        return sorted(path.parent.name for path in self.root.glob("environments/*/environment.json"))

    def folder(self, path: Path) -> Path:
        """`path`, made with private permissions if it is not there.

        Raises:
            ModelworksError: It cannot be created; the message has the reason.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ModelworksError(
                f"cannot make the folder {path}: {error.strerror}",
                fix="Free space or fix its permissions, or set MODELWORKS_HOME to a folder that can be written.",
            ) from error
        return path


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty when the file is not there.

    Raises:
        ModelworksError: The file is not a JSON object.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelworksError(
            f"{path} is not JSON: {error}", fix="Run `modelworks laptop down` to start again."
        ) from error
    if not isinstance(facts, dict):
        raise ModelworksError(f"{path} does not hold a JSON object", fix="Run `modelworks laptop down` to start again.")
    return facts
