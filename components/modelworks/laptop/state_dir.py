"""The laptop cloud's folders on disk, and the facts that its parts share.

Every path below the place is private to the user (mode 0700) and removed by `modelworks laptop down`, which deletes no
folder that `modelworks laptop up` did not claim.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.project import project_root

AUTHORITY = "laptop"
"""The gateway's name for the authority that signs its certificates."""
_ANOTHER_FOLDER = "Set MODELWORKS_HOME to an empty folder of yours, or to one that does not exist yet."


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
        return cls((project_root(start) / ".modelworks").resolve())

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

    @property
    def gateway_authority(self) -> Path:
        """The certificate to trust: the gateway makes it, with its key, when it first starts here."""
        return self.gateway / "caddy" / "pki" / "authorities" / AUTHORITY / "root.crt"

    @property
    def mark(self) -> Path:
        """The file that marks the folder as a laptop cloud's."""
        return self.root / "LAPTOP_CLOUD"

    @property
    def claimed(self) -> bool:
        """Whether the folder is a laptop cloud's, so that everything in it may be deleted with the cloud."""
        return self.mark.is_file() or (self.root / "laptop.json").is_file()

    @property
    def bare(self) -> bool:
        """Whether the folder, which exists, holds nothing but its mark: an `up` ended before it made anything."""
        return not any(path != self.mark for path in self.root.iterdir())

    def claim(self) -> None:
        """Make the folder, which exists, a laptop cloud's: private to this user, and marked.

        Raises:
            ModelworksError: It belongs to another user, or has files that no laptop cloud made.
        """
        found = self.root.stat()
        if found.st_uid != os.getuid():
            raise ModelworksError(f"{self.root} belongs to another user (id {found.st_uid})", fix=_ANOTHER_FOLDER)
        # Commands that reach a real account write their logs here before there is any laptop cloud.
        foreign = sorted(path.name for path in self.root.iterdir() if path != self.logs)
        if foreign and not self.claimed:
            raise ModelworksError(
                f"{self.root} holds files that are not a laptop cloud's ({', '.join(foreign[:3])}), and "
                "`modelworks laptop down` would delete them",
                fix=_ANOTHER_FOLDER,
            )
        self.root.chmod(0o700)
        write_whole(self.mark, "`modelworks laptop down` deletes this folder.\n")

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
