"""Inputs and results of a training run in an environment: by digest, through its artifact bucket.

Everything is written before what names it, and verified before it is used. Nothing is overwritten by other content, so
that two runs of the same inputs at once are harmless.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modelworks import contract
from modelworks._files import digest_of, read_json
from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.data import SnapshotStore, StoreError
from modelworks.lifecycle.lockfile import find_lock
from modelworks.lifecycle.provenance import source_files
from modelworks.lifecycle.runs import run_id
from modelworks.lifecycle.spec import ModelSpec
from modelworks.runtime.bundle import unpack

MAX_SOURCE_BYTES = 100_000_000
"""A model project is code and small files beside it; what is larger is data, which has a store of its own."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Artifacts:
    """An environment's artifact bucket, as training uses it."""

    bucket: str
    session: Any
    """A boto3 session of the environment's account."""

    # -- What goes there ---------------------------------------------------------------------------------------------
    def send_source(self, spec: ModelSpec) -> str:
        """Keep a model project with its lock, and return the digest of the archive.

        Raises:
            ModelworksError: There is no lock, the project is too large, or holds links.
            StoreError: The bucket does not take it.
        """
        data = pack_source(spec)
        digest = digest_of(data)
        self._put(contract.source_key(digest), data)
        return digest

    def fetch_source(self, digest: str, into: Path) -> Path:
        """Unpack a project into a folder, verified before anything of it is read. Returns its `model.py`.

        Raises:
            ModelworksError: Its bytes are not those of its digest, or it is no project.
            StoreError: The bucket does not answer, or has none.
        """
        data = self._get(contract.source_key(digest))
        if (found := digest_of(data)) != digest:
            raise ModelworksError(
                f"the source archive is not what was sent: its bytes are {found}, not {digest}; nothing of it was run",
                fix="Somebody or something changed it in the bucket. Find out who may write there, then train again.",
            )
        _unpack(data, "the source archive", into)
        models = sorted(into.glob("models/*/model.py"))
        if len(models) != 1:
            raise ModelworksError(f"the source archive holds {len(models)} models, not one")
        return models[0]

    def snapshots(self, folder: Path) -> SnapshotStore:
        """Data snapshots: a local folder with the bucket behind it."""
        return SnapshotStore(folder, f"s3://{self.bucket}/{contract.DATA_PREFIX}", self.session)

    # -- What comes back ---------------------------------------------------------------------------------------------
    def keep_run(self, folder: Path, model: str) -> str:
        """Keep a finished run, and return the digest of its archive.

        Raises:
            StoreError: The bucket does not take it.
        """
        data = pack(folder)
        digest = digest_of(data)
        self._put(contract.run_key(model, folder.name, digest), data)
        return digest

    def fetch_run(self, model: str, run: str, digest: str, folder: Path) -> None:
        """Bring a finished run to `folder`, whole or not at all; one that is finished there is left as it is.

        Raises:
            ModelworksError: Its bytes are not those of its digest, or it is another run.
            StoreError: The bucket does not answer.
        """
        if (folder / "metrics.json").is_file():
            return
        data = self._get(contract.run_key(model, run, digest))
        if (found := digest_of(data)) != digest:
            raise ModelworksError(
                f"the run {run} of {model} in s3://{self.bucket} was changed: its bytes are {found}, not {digest}",
                fix="Find out who may write there, then train again.",
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{run}.", dir=folder.parent) as scratch:
                fetched = Path(scratch) / run
                _unpack(data, f"the run {run}", fetched)
                inputs = read_json(fetched / "inputs.json")
                if run_id(inputs) != run or not (fetched / "metrics.json").is_file():
                    raise ModelworksError(
                        f"the object in s3://{self.bucket} as the run {run} of {model} is not that run"
                    )
                shutil.rmtree(folder, ignore_errors=True)
                fetched.rename(folder)
        except OSError as error:
            raise ModelworksError(
                f"cannot keep the run in {folder}: {error.strerror or error}",
                fix="Free space or fix its permissions, and run this again: the run itself is kept in the bucket.",
            ) from error

    def find_run(self, model: str, run: str, folder: Path) -> bool:
        """Bring a finished run to `folder` if the bucket holds it.

        Raises:
            ModelworksError: The bucket holds another run.
            StoreError: The bucket does not answer.
        """
        prefix = contract.run_key(model, run)
        listed = self._ask(prefix, lambda s3: s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1))
        for item in listed.get("Contents", []):
            digest = f"sha256:{Path(item['Key']).name.removesuffix('.tar.gz')}"
            self.fetch_run(model, run, digest, folder)
        return (folder / "metrics.json").is_file()

    def tell(self, job: str, facts: dict[str, Any]) -> None:
        """Note what a Job came to.

        Raises:
            StoreError: The bucket does not take it.
        """
        self._put(contract.job_key(job), json.dumps(facts, sort_keys=True).encode())

    def job_result(self, job: str) -> dict[str, Any]:
        """The result that a Job recorded; empty if it recorded none.

        Raises:
            StoreError: The bucket does not answer.
        """
        key = contract.job_key(job)
        listed = self._ask(key, lambda s3: s3.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1))
        facts: dict[str, Any] = json.loads(self._get(key)) if listed.get("Contents") else {}
        return facts

    # -- The bucket --------------------------------------------------------------------------------------------------
    def _put(self, key: str, data: bytes) -> None:
        self._ask(key, lambda s3: s3.put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256"))

    def _get(self, key: str) -> bytes:
        return bytes(self._ask(key, lambda s3: s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()))

    def _ask(self, key: str, call: Callable[[Any], _T]) -> _T:
        from botocore.config import Config  # only where there is a bucket
        from botocore.exceptions import BotoCoreError, ClientError

        config = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 3})
        try:
            return call(self.session.client("s3", config=config))
        except (BotoCoreError, ClientError) as error:
            raise StoreError(
                f"s3://{self.bucket}/{key}: {error}",
                fix="Check that the bucket is there, answers, and lets you in; then run this again.",
            ) from error


def pack_source(spec: ModelSpec) -> bytes:
    """A model project with its lock, as bytes that depend on nothing but their content.

    All files of the project's folder are sent, except hidden files and `__pycache__`.

    Raises:
        ModelworksError: There is no lock, the project is too large, or holds links.
    """
    files = source_files(spec.folder)
    size = sum(path.stat().st_size for path in files)
    if size > MAX_SOURCE_BYTES:
        raise ModelworksError(
            f"{spec.folder} holds {size / 1e6:.0f} MB, and a project is sent to an environment up to "
            f"{MAX_SOURCE_BYTES / 1e6:.0f} MB",
            fix="Keep data out of it: let data.load fetch it.",
        )
    with tempfile.TemporaryDirectory(prefix="modelworks-source-") as scratch:
        folder = Path(scratch) / "models" / spec.name.replace("-", "_")
        for path in files:
            copy = folder / path.relative_to(spec.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy, follow_symlinks=False)
        shutil.copyfile(find_lock(spec.folder).file, Path(scratch) / "uv.lock")
        return pack(Path(scratch))


def _unpack(data: bytes, what: str, into: Path) -> None:
    with tempfile.NamedTemporaryFile(prefix="modelworks-", suffix=".tar.gz") as archive:
        archive.write(data)
        archive.flush()
        unpack(Path(archive.name), into, what)
