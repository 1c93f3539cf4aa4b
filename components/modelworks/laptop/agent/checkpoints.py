"""The state of a pod on disk, so that a restarted agent continues the work of the last one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelworks._files import write_whole
from modelworks.laptop.agent import volumes
from modelworks.laptop.agent.api import Object
from modelworks.laptop.agent.reconcile import Ending, PodView, Run
from modelworks.laptop.state_dir import read_facts


class Records:
    """The folder of one pod.

        pod.json               what is known of the pod as a whole
        hosts                  its /etc/hosts
        volumes/NAME           one folder a volume
        work/CONTAINER         where a container's commands start
        runs/CONTAINER/NUMBER  one run of a container: `run.json`, and what its process needs

    Args:
        folder: Where; made by `make`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volumes = folder / "volumes"

    def make(self) -> None:
        """Make the folder, private to the user."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def clear(self) -> None:
        """Remove all of it, volumes in memory included."""
        volumes.unmount(self.volumes)
        shutil.rmtree(self.folder, ignore_errors=True)

    # The pod

    def save(self, pod: Object, view: PodView) -> None:
        """Keep the facts that the machine itself does not show."""
        facts: dict[str, Any] = {
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "ip": view.ip,
            "started": view.started,
            "ending": asdict(view.ending) if view.ending else None,
        }
        write_whole(self.folder / "pod.json", json.dumps(facts))

    def restored(self) -> PodView | None:
        """The saved state, without containers; None if there is none."""
        facts = read_facts(self.folder / "pod.json")
        if not facts:
            return None
        ending = Ending(**facts["ending"]) if facts.get("ending") else None
        return PodView(ip=facts["ip"], started=facts["started"], ending=ending)

    def hosts(self, spec: Object, lines: Sequence[str], *, begin: bool) -> Path:
        """The pod's /etc/hosts: this machine's, then `lines`, then the pod's host aliases. Only `begin` makes it."""
        path = self.folder / "hosts"
        if not begin and not path.exists():
            return path
        aliases = [
            f"{alias['ip']}\t{' '.join(alias.get('hostnames') or [])}" for alias in spec.get("hostAliases") or []
        ]
        machine = Path("/etc/hosts")
        own = [machine.read_text(encoding="utf-8").rstrip()] if machine.is_file() else []
        text = ("\n".join([*own, *lines, *aliases]) + "\n").encode()
        if begin and not path.exists():
            path.touch()
            path.chmod(0o644)
        if path.read_bytes() != text:
            # Containers have this very file mounted: another one in its place would not be seen.
            with path.open("r+b") as file:
                file.write(text)
                file.truncate()
        return path

    # Runs of its containers

    def work(self, container: str) -> Path:
        """The folder that a container's commands start in."""
        return self.folder / "work" / container

    def run_folder(self, container: str, number: int) -> Path:
        """The folder of one run."""
        return self.folder / "runs" / container / str(number)

    def fresh_run_folder(self, container: str, number: int) -> Path:
        """The same, empty."""
        folder = self.run_folder(container, number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def keep(self, container: str, run: Run) -> None:
        """Write down how a run goes."""
        write_whole(self.run_folder(container, run.number) / "run.json", json.dumps(asdict(run)))

    def runs(self, container: str) -> list[Run]:
        """The runs that are written down, oldest first."""
        numbers = sorted(int(path.name) for path in (self.folder / "runs" / container).glob("[0-9]*"))
        kept = (read_facts(self.run_folder(container, number) / "run.json") for number in numbers)
        return [Run(**facts) for facts in kept if facts]

    def forget(self, container: str, number: int) -> None:
        """Remove the folder of a run, if there was one of that number."""
        shutil.rmtree(self.run_folder(container, number), ignore_errors=True)

    @staticmethod
    def tidy(folder: Path) -> None:
        """Remove from a run's folder what only its process needed."""
        for entry in ("layer", "root"):
            shutil.rmtree(folder / entry, ignore_errors=True)
