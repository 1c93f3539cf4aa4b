"""Inputs and results of a training run in an environment: by digest, through its artifact bucket.

Everything is written before what names it, and verified before it is used: unpacked into a folder of its own, checked,
and then moved. A run's code is anybody's: a run leaves its result under the name of its Job, and the caller verifies
it and keeps it for others.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from modelworks import contract
from modelworks._files import digest_of, read_json
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.data import SnapshotStore, StoreError
from modelworks.lifecycle.model_project import model_file
from modelworks.lifecycle.runs import FILES, open_run, run_id
from modelworks.runtime.bundle import unpack

_T = TypeVar("_T")


class Made(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run that a Job made."""

    run: RunId
    archive: Digest
    """Of what it handed over."""


class JobNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last word of a Job about itself: the run that it made, or why it made none."""

    made: Made | None = None
    error: str = ""
    counted: bool = False
    """Whether it published that it failed, or did not."""


@dataclass(frozen=True)
class Artifacts:
    """An environment's artifact bucket, as training uses it."""

    bucket: str
    session: Any
    """A boto3 session of the environment's account."""

    # -- What goes there ---------------------------------------------------------------------------------------------
    def send_source(self, copy: Path) -> Digest:
        """Keep a copied model project, and return the digest of the archive.

        Raises:
            StoreError: The bucket does not take it.
        """
        data = pack(copy)
        digest = digest_of(data)
        self._put(contract.source_key(digest), data)
        return digest

    def fetch_source(self, digest: Digest, into: Path) -> Path:
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
        unpack_bytes(data, "the source archive", into)
        return model_file(into)

    def snapshots(self, folder: Path) -> SnapshotStore:
        """Data snapshots: a local folder with the bucket behind it."""
        return SnapshotStore(folder, f"s3://{self.bucket}/{contract.DATA_PREFIX}", self.session)

    # -- What comes back ---------------------------------------------------------------------------------------------
    def hand_over(self, job: str, folder: Path) -> Digest:
        """Leave a finished run for who sent the Job, and return the digest of its archive.

        Raises:
            StoreError: The bucket does not take it.
        """
        data = pack(folder, FILES)
        self._put(contract.job_run_key(job), data)
        return digest_of(data)

    def take_over(self, job: str, made: Made, model: str, folder: Path) -> None:
        """Bring what a Job handed over to `folder`, whole or not at all, and keep it for whoever needs that run next.

        One that is finished there is left as it is.

        Raises:
            ModelworksError: It is not what the Job noted, or another run.
            StoreError: The bucket does not answer.
        """
        data = self._get(contract.job_run_key(job))
        self._put_in_place(data, made.archive, model, made.run, folder)
        self._put(contract.run_key(model, made.run, made.archive), data)

    def find_run(self, model: str, run: RunId, folder: Path) -> bool:
        """Bring a finished run to `folder` if the bucket holds it.

        Raises:
            ModelworksError: The bucket holds another run.
            StoreError: The bucket does not answer.
        """
        prefix = contract.run_key(model, run)
        listed = self._ask(prefix, lambda s3: s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1))
        for item in listed.get("Contents", []):
            name = Path(item["Key"]).name.removesuffix(".tar.gz")
            self._put_in_place(self._get(item["Key"]), Digest(f"sha256:{name}"), model, run, folder)
        return (folder / "metrics.json").is_file()

    def _put_in_place(self, data: bytes, digest: Digest, model: str, run: RunId, folder: Path) -> None:
        """Unpack a run, verify it, and move it to `folder`."""
        if (folder / "metrics.json").is_file():
            return
        if (found := digest_of(data)) != digest:
            raise ModelworksError(
                f"the run {run} of {model} in s3://{self.bucket} was changed: its bytes are {found}, not {digest}",
                fix="Find out who may write there, then train again.",
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetched.", dir=folder.parent) as scratch:
                fetched = Path(scratch) / run
                unpack_bytes(data, f"the run {run}", fetched)
                self._verify(fetched, model, run)
                shutil.rmtree(folder, ignore_errors=True)
                fetched.rename(folder)
        except OSError as error:
            raise ModelworksError(
                f"cannot keep the run in {folder}: {error.strerror or error}",
                fix="Free space or fix its permissions, and run this again: the run itself is kept in the bucket.",
            ) from error

    def _verify(self, fetched: Path, model: str, run: RunId) -> None:
        what = f"the object in s3://{self.bucket} as the run {run} of {model}"
        if others := sorted({path.name for path in fetched.iterdir()} - FILES):
            raise ModelworksError(f"{what} holds {', '.join(others)}, which no training makes")
        inputs = read_json(fetched / "inputs.json")
        finished = (fetched / "metrics.json").is_file()
        if run_id(inputs) != run or inputs["model"] != model or not finished:
            raise ModelworksError(f"{what} is not that run")
        open_run(fetched).project()

    def note(self, job: str, note: JobNote) -> None:
        """Keep what a Job notes of itself.

        Raises:
            StoreError: The bucket does not take it.
        """
        self._put(contract.job_key(job), msgspec.json.encode(note, enc_hook=str))

    def read_note(self, job: str) -> JobNote:
        """The note of a Job; empty if it left none.

        Raises:
            ModelworksError: It is no such note.
            StoreError: The bucket does not answer.
        """
        key = contract.job_key(job)
        listed = self._ask(key, lambda s3: s3.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1))
        if not listed.get("Contents"):
            return JobNote()
        try:
            return msgspec.json.decode(self._get(key), type=JobNote, dec_hook=lambda kind, value: kind(value))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelworksError(f"s3://{self.bucket}/{key} is not what a Job notes of itself: {error}") from error

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


def unpack_bytes(data: bytes, what: str, into: Path) -> None:
    """Unpack an archive that was verified.

    Raises:
        ModelworksError: It is broken, or holds links, devices or too much: see `runtime.bundle.unpack`.
    """
    with tempfile.NamedTemporaryFile(prefix="modelworks-", suffix=".tar.gz") as archive:
        archive.write(data)
        archive.flush()
        unpack(Path(archive.name), into, what)
