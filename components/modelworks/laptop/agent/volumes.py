"""Volumes of pods as folders of this machine."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelworks.laptop.agent.env import Surroundings, UnresolvedError, expand, field_value, resource_value
from modelworks.laptop.agent.isolation import Mount
from modelworks.laptop.agent.quantity import parse
from modelworks.laptop.agent.reconcile import Spec, inits, mains

Files = dict[str, tuple[bytes, int]]
"""Content and mode by relative path."""

_RENDERED = ("configMap", "secret", "projected", "downwardAPI")
SUPPORTED = (*_RENDERED, "emptyDir", "persistentVolumeClaim", "ephemeral")


@dataclass(frozen=True)
class Sources:
    """The sources of a pod's volumes."""

    around: Surroundings
    tokens: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """Service-account tokens by audience and lifetime in seconds."""
    claims: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the pod's persistent volume claims."""


def check(pod: Spec) -> None:
    """Refuse volumes that cannot be had here.

    Raises:
        UnresolvedError: There is one; the message names it, and the supported ones.
    """
    for volume in pod["spec"].get("volumes") or []:
        if not any(kind in SUPPORTED for kind in volume):
            kind = ", ".join(kind for kind in volume if kind != "name") or "nothing"
            there = ", ".join(SUPPORTED)
            raise UnresolvedError(
                f'volume "{volume["name"]}": {kind} is not available on the laptop (there is {there})'
            )


def config_maps_and_secrets(pod: Spec) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and Secrets that a pod's volumes show."""
    found: tuple[set[str], set[str]] = (set(), set())
    for volume in pod["spec"].get("volumes") or []:
        for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
            if reference := source.get("configMap"):
                found[0].add(reference["name"])
            if reference := source.get("secret"):
                found[1].add(reference.get("secretName") or reference["name"])
    return found


def token_requests(pod: Spec) -> set[tuple[str, int]]:
    """Audience (empty for the API server's own) and lifetime in seconds of each projected service-account token."""
    return {
        (token.get("audience", ""), int(token.get("expirationSeconds", 3600)))
        for volume in pod["spec"].get("volumes") or []
        for source in (volume.get("projected") or {}).get("sources") or []
        if (token := source.get("serviceAccountToken"))
    }


def claims(pod: Spec) -> dict[str, str]:
    """The claim behind each volume that has one."""
    found = {}
    for volume in pod["spec"].get("volumes") or []:
        if reference := volume.get("persistentVolumeClaim"):
            found[volume["name"]] = reference["claimName"]
        elif "ephemeral" in volume:
            found[volume["name"]] = f"{pod['metadata']['name']}-{volume['name']}"
    return found


def rendered(pod: Spec, volume: Mapping[str, Any], sources: Sources) -> Files:
    """The files of a ConfigMap, Secret, projected or downward-API volume.

    Raises:
        UnresolvedError: Something it shows is not there and not optional.
    """
    if projected := volume.get("projected"):
        files: Files = {}
        mode = projected.get("defaultMode", 0o644)
        for source in projected.get("sources") or []:
            if token := source.get("serviceAccountToken"):
                key = (token.get("audience", ""), int(token.get("expirationSeconds", 3600)))
                files[token["path"]] = (sources.tokens[key].encode(), 0o600)
            else:
                files |= _one(pod, source, mode, sources)
        return files
    kind = next(kind for kind in _RENDERED if kind in volume)
    return _one(pod, volume, volume[kind].get("defaultMode", 0o644), sources)


def _one(pod: Spec, source: Mapping[str, Any], mode: int, sources: Sources) -> Files:
    around = sources.around
    if reference := source.get("configMap"):
        found = around.config_maps.get(reference["name"])
        data = {key: value.encode() for key, value in ((found or {}).get("data") or {}).items()}
        data |= {key: base64.b64decode(value) for key, value in ((found or {}).get("binaryData") or {}).items()}
        return _items(data, reference, mode, f'configmap "{reference["name"]}"', there=found is not None)
    if reference := source.get("secret"):
        name = reference.get("secretName") or reference["name"]
        found = around.secrets.get(name)
        data = {key: base64.b64decode(value) for key, value in ((found or {}).get("data") or {}).items()}
        return _items(data, reference, mode, f'secret "{name}"', there=found is not None)
    if downward := source.get("downwardAPI"):
        files: Files = {}
        for item in downward.get("items") or []:
            if reference := item.get("fieldRef"):
                text = field_value(pod, reference["fieldPath"], around.ip)
            else:
                text = resource_value(pod, pod["spec"]["containers"][0], item["resourceFieldRef"], around)
            files[item["path"]] = (text.encode(), item.get("mode", mode))
        return files
    raise UnresolvedError(f"unsupported source of a projected volume: {', '.join(source)}")


def _items(data: Mapping[str, bytes], reference: Mapping[str, Any], mode: int, word: str, *, there: bool) -> Files:
    if not there:
        if reference.get("optional"):
            return {}
        raise UnresolvedError(f"{word} not found")
    if not (items := reference.get("items")):
        return {key: (value, mode) for key, value in data.items()}
    files: Files = {}
    for item in items:
        if item["key"] in data:
            files[item["path"]] = (data[item["key"]], item.get("mode", mode))
        elif not reference.get("optional"):
            raise UnresolvedError(f"{word} references non-existent config key: {item['key']}")
    return files


def write(folder: Path, files: Files) -> bool:
    """Make `folder` show exactly `files`; whether that changed anything.

    As the kubelet does, all change at once: they are in a separate folder, `..data` is a link to it, and every name is
    a link through `..data`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = folder / "..data"
    if shown.is_symlink() and _read(shown) == files:
        return False
    old = folder / os.readlink(shown) if shown.is_symlink() else None  # noqa: PTH115 - the link itself, not its target
    new = Path(tempfile.mkdtemp(dir=folder, prefix=".."))
    new.chmod(0o755)
    for name, (content, mode) in files.items():
        path = new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    link = folder / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(new.name)
    link.replace(shown)
    tops = {name.split("/")[0] for name in files}
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    for top in tops:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(f"..data/{top}")
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return True


def _read(shown: Path) -> Files:
    folder = shown.resolve()
    return {
        str(path.relative_to(folder)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in folder.rglob("*")
        if path.is_file()
    }


def prepare(pod: Spec, folder: Path, sources: Sources) -> list[str]:
    """Make or refresh all volumes of a pod in `folder`, one folder a volume.

    Returns:
        Unmet requests: volumes in memory that this kernel lets the agent only keep on disk.

    Raises:
        UnresolvedError: Something a volume shows is not there and not optional.
        OSError: The disk is full or the folder cannot be written.
    """
    said = []
    for volume in pod["spec"].get("volumes") or []:
        path = folder / volume["name"]
        if any(kind in volume for kind in _RENDERED):
            write(path, rendered(pod, volume, sources))
        elif "emptyDir" in volume and not path.is_dir():
            path.mkdir(parents=True)
            path.chmod(0o777)
            wanted = volume["emptyDir"] or {}
            if wanted.get("medium") == "Memory" and (why := _mount_memory(path, wanted.get("sizeLimit"))):
                said.append(f'volume "{volume["name"]}" is kept on disk, not in memory: {why}')
    return said


def _mount_memory(path: Path, limit: str | None) -> str:
    """Keep writes below `path` in memory, no more than `limit`; returns the obstacle, if any."""
    # Outside of the containers' namespaces, for all of the pod's containers share it.
    options = "mode=0777" + (f",size={int(parse(limit))}" if limit else "")
    argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    return done.stderr.strip() if done.returncode else ""


def beyond_limit(pod: Spec, folder: Path) -> str:
    """The kubelet's message about an `emptyDir` on disk that holds more than its `sizeLimit`; empty if none does."""
    for volume in pod["spec"].get("volumes") or []:
        limit, path = (volume.get("emptyDir") or {}).get("sizeLimit"), folder / volume["name"]
        # The kernel bounds those in memory. A limit of nothing is none.
        if limit and parse(limit) > 0 and not path.is_mount() and _bytes_in(path) > parse(limit):
            return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
    return ""


def _bytes_in(folder: Path) -> int:
    """Bytes of disk below `folder`, each file once; what vanishes meanwhile does not count."""
    seen: dict[tuple[int, int], int] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = (Path(where) / name).lstat()
                seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def unmount(folder: Path) -> None:
    """Give up the volumes in `folder` that are kept in memory."""
    for path in folder.glob("*"):
        if path.is_mount():
            subprocess.run(["umount", "-l", str(path)], capture_output=True, timeout=20, check=False)


def mounts(
    pod: Spec, container: Spec, folder: Path, claimed: Mapping[str, Path], variables: Mapping[str, str]
) -> list[Mount]:
    """The mounts of a container: its `volumeMounts`.

    Raises:
        UnresolvedError: A `subPath` leaves its volume.
    """
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    found = []
    for entry in container.get("volumeMounts") or []:
        volume = volumes[entry["name"]]
        source = claimed.get(entry["name"], folder / entry["name"])
        read_only = bool(entry.get("readOnly")) or any(kind in volume for kind in _RENDERED)
        read_only = read_only or bool((volume.get("persistentVolumeClaim") or {}).get("readOnly"))
        if sub := entry.get("subPath") or expand(entry.get("subPathExpr", ""), variables):
            if sub.startswith("/") or ".." in sub.split("/"):
                raise UnresolvedError(
                    f"subPath {sub!r} of volume {entry['name']!r} must be relative and must not contain '..'"
                )
            source = source / sub
            if not source.exists():
                source.mkdir(parents=True)
            # What is bound stays the old one when the link changes; so it does in Kubernetes.
            source = source.resolve()
        found.append(Mount(source, entry["mountPath"], read_only))
    return found


def containers(pod: Spec) -> list[Spec]:
    """All containers of a pod."""
    return [*inits(pod), *mains(pod)]
