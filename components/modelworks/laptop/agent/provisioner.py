"""Volume claims as local folders: the storage class `laptop`, and a provisioner for it."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from modelworks import defaults
from modelworks.laptop.agent.api import ApiClient, Object, RefusedError

log = logging.getLogger(__name__)

CLASS = defaults.LAPTOP_STORAGE_CLASS
PROVISIONER = "modelworks.dev/laptop"
_BY = "pv.kubernetes.io/provisioned-by"


async def provide(cluster: ApiClient, folder: Path, node: str, *, strict: bool) -> None:
    """Make the storage class, a volume for each claim of it, and away with volumes whose claim is gone; for ever."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # noqa: ASYNC240 - once, at the start
    await _until_done(cluster, "POST", "/apis/storage.k8s.io/v1/storageclasses", storage_class(default=not strict))
    async with asyncio.TaskGroup() as group:
        group.create_task(_bind(cluster, folder, node))
        group.create_task(_reclaim(cluster, folder))


def storage_class(*, default: bool) -> dict[str, Any]:
    """The laptop's class: for claims that name none, too, if it is the `default` one. EKS has no default."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": str(default).lower()},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


async def _bind(cluster: ApiClient, folder: Path, node: str) -> None:
    async for claim in _each(cluster, "/api/v1/persistentvolumeclaims"):
        if wanted(claim):
            path = folder / volume_name(claim)
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
            await _until_done(cluster, "POST", "/api/v1/persistentvolumes", volume(claim, path, node))


async def _reclaim(cluster: ApiClient, folder: Path) -> None:
    async for held in _each(cluster, "/api/v1/persistentvolumes"):
        mine = (held.get("metadata", {}).get("annotations") or {}).get(_BY) == PROVISIONER
        if not mine or held.get("status", {}).get("phase") != "Released":
            continue
        if held["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
            name = held["metadata"]["name"]
            await asyncio.to_thread(shutil.rmtree, folder / name, ignore_errors=True)
            await _until_done(cluster, "DELETE", f"/api/v1/persistentvolumes/{name}", None)


async def _each(cluster: ApiClient, path: str) -> AsyncIterator[Object]:
    """Each object at `path`, and again whenever it changed, for ever."""
    async for event, found in cluster.follow(path):
        for each in found if event == "LISTED" else [found]:
            if event != "DELETED":
                yield each


def wanted(claim: Object) -> bool:
    """Whether a claim waits for a volume of this provisioner."""
    spec = claim["spec"]
    pending = claim.get("status", {}).get("phase", "Pending") == "Pending"
    deleted = claim["metadata"].get("deletionTimestamp")
    return bool(pending and not deleted and spec.get("storageClassName") == CLASS and not spec.get("volumeName"))


def volume_name(claim: Object) -> str:
    """The name of a claim's volume, as other provisioners form it."""
    return f"pvc-{claim['metadata']['uid']}"


def volume(claim: Object, path: Path, node: str) -> dict[str, Any]:
    """The volume that a claim is bound to. Its size is the requested one; nothing enforces it."""
    meta, spec = claim["metadata"], claim["spec"]
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name(claim), "annotations": {_BY: PROVISIONER}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": CLASS,
            "volumeMode": "Filesystem",
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
        },
    }


async def _until_done(cluster: ApiClient, method: str, path: str, body: Any) -> None:
    """One call, repeated while the API server is away; that it was done before is fine."""
    for attempt in range(20):
        try:
            await cluster.call(method, path, body)
        except RefusedError as error:
            if error.status in (404, 409):
                return
            log.warning("%s %s was refused: %s", method, path, error.reason)
            if error.status in (400, 422):
                return
        except httpx.HTTPError as error:
            log.warning("%s %s: %s", method, path, error or type(error).__name__)
        else:
            return
        await asyncio.sleep(min(5, 0.2 * 2**attempt))
    log.error("%s %s: given up", method, path)
