"""The rows a model is trained on, kept by the digest of their bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from modelworks._files import digest_of_file, put_whole
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.project_errors import project_error
from modelworks.lifecycle.spec_gates import SliceGate
from modelworks.runtime.manifest import request_features

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec
    from modelworks.runtime.manifest import Stored


GROUP_ROWS = 1 << 20
"""Rows of a group in a snapshot: Parquet's own default."""


class StoreError(ModelworksError):
    """A bucket does not answer, or refuses: the same may work a little later."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: a Job retries a run that exits with it."""


@dataclass(frozen=True)
class Snapshot:
    """Rows of one moment, in the store."""

    digest: Digest
    """sha256 of the Parquet file."""
    path: Path
    """Its path on this machine."""
    rows: int


class SnapshotStore:
    """Snapshots by digest: a local folder, with an optional S3 bucket behind it that outlives the machine.

    Args:
        folder: The local folder.
        remote: `s3://bucket/prefix`, or empty.
        session: A boto3 session for it. Default: by the process's own variables.
    """

    def __init__(self, folder: Path, remote: str = "", session: Any = None) -> None:
        if remote and not remote.startswith("s3://"):
            raise ModelworksError(f"a data store is s3://bucket/prefix, got {remote!r}")
        self._folder, self._remote, self._session = folder, remote.rstrip("/"), session

    def put(self, frame: pd.DataFrame) -> Snapshot:
        """Keep `frame`; the same rows give the same digest and are kept once.

        Raises:
            ModelworksError: A column cannot be kept as Parquet, the disk is full, or the bucket does not answer.
        """
        with put_whole(self._folder, "rows.parquet") as (file, place):
            _write_parquet(frame, file)
            digest = _digest_of_written(file)
            path = self._path(digest)
            if not (path.is_file() and digest_of_file(path) == digest):
                place(path)
        if self._remote:
            self._upload(digest)
        return Snapshot(digest, path, len(frame))

    def share(self, digest: Digest) -> None:
        """Copy a local snapshot to the bucket too; without a local one, the bucket may have it.

        Raises:
            ModelworksError: It was changed, or the bucket does not answer.
        """
        if self._path(digest).is_file():
            self.get(digest)
            self._upload(digest)

    def get(self, digest: Digest) -> Snapshot:
        """The snapshot with `digest`, verified.

        A file that was changed is replaced by the bucket's, or left where it is.

        Raises:
            ModelworksError: It is nowhere, or its bytes are not those of its digest.
        """
        import pyarrow.parquet as pq  # only where data is at hand

        path = self._path(digest)
        if not (path.is_file() and digest_of_file(path) == digest):
            if not self._remote:
                raise self._missing(path, digest)
            self._download(digest)
        return Snapshot(digest, path, pq.read_metadata(path).num_rows)

    def _missing(self, path: Path, digest: Digest) -> ModelworksError:
        if path.is_file():
            return ModelworksError(
                f"{path} was changed: its bytes are not those of its digest",
                fix="Put back what it was. If it cannot be had, train without --data, which loads the rows again.",
            )
        return ModelworksError(
            f"no data with digest {digest} in {self._folder}", fix="Name a data store that has it, or load it again."
        )

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest.hex}.parquet"

    def _upload(self, digest: Digest) -> None:
        client, bucket, key, trouble = self._s3(digest)
        try:
            if not client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("KeyCount"):
                client.upload_file(str(self._path(digest)), bucket, key)  # in parts, whatever its size
        except trouble as error:
            raise StoreError(
                f"cannot keep the data at {self._remote}: {error}", fix="Check that the bucket is there and answers."
            ) from error

    def _download(self, digest: Digest) -> None:
        client, bucket, key, trouble = self._s3(digest)
        with put_whole(self._folder, f"{digest.hex}.parquet") as (file, place):
            try:
                client.download_fileobj(bucket, key, file)
            except trouble as error:
                raise StoreError(f"no data with digest {digest} at {self._remote}: {error}") from error
            if (found := _digest_of_written(file)) != digest:
                raise ModelworksError(
                    f"{self._remote}/{digest.hex}.parquet was changed: its bytes are {found}, not {digest}",
                    fix="Find out who may write there, then load the rows again.",
                )
            place(self._path(digest))

    def _s3(self, digest: Digest) -> tuple[Any, str, str, tuple[type[Exception], ...]]:
        import boto3  # only where there is a bucket
        from boto3.exceptions import Boto3Error
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, prefix = self._remote.removeprefix("s3://").partition("/")
        config = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 2})
        client = (self._session or boto3).client("s3", config=config)
        key = "/".join(filter(None, [prefix, f"{digest.hex}.parquet"]))
        return client, bucket, key, (Boto3Error, BotoCoreError, ClientError)


def load_rows(spec: ModelSpec, stored: Stored | None = None) -> pd.DataFrame:
    """The result of the spec's `data.load`.

    Args:
        spec: The model.
        stored: Features that another reads: `data.load` returns their keys instead.

    Raises:
        ModelworksError: It raises, returns something else than a DataFrame, nothing, or not the columns the spec names.
    """
    import pandas as pd  # only where data is at hand

    try:
        frame = spec.data.load()
    except ModelworksError:
        raise
    except (Exception, SystemExit) as error:
        raise project_error(error, spec.folder, "loads its data") from error
    if not isinstance(frame, pd.DataFrame):
        raise ModelworksError(f"{spec.data.where}: data.load must return a DataFrame, got {type(frame).__name__}")
    if frame.empty:
        raise ModelworksError(f"{spec.data.where}: data.load returned no rows", fix="Check the source it reads.")
    twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
    if twice:
        raise ModelworksError(
            f"{spec.data.where}: data.load returned the column {', '.join(map(repr, twice))} more than once",
            fix="Rename one of each in data.load, or drop it: frame.loc[:, ~frame.columns.duplicated()].",
        )
    wanted = _wanted(spec, stored)
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise ModelworksError(
            f"{wanted[missing[0]]}: data.load returned no column {', '.join(map(repr, missing))}; "
            f"it returned {', '.join(map(str, frame.columns))}",
            fix="Name them in data.load, or take them out of the spec.",
        )
    return frame.reset_index(drop=True)


def read_rows(snapshot: Snapshot) -> pd.DataFrame:
    """The rows of a snapshot, as training sees them."""
    import pandas as pd  # only where data is at hand

    return pd.read_parquet(snapshot.path)


def _wanted(spec: ModelSpec, stored: Stored | None) -> dict[str, str]:
    """The columns that `data.load` must return, each with the file and line that names it."""
    stated = {feature.name: feature.where for feature in (*spec.features, *(spec.stored.keys if spec.stored else ()))}
    taken = request_features(spec.served_features, stored) if stored else spec.served_features
    if spec.stored:  # values of the request that on-demand views alone take are in no list of the spec
        stated = {feature.name: spec.stored.where for feature in taken} | stated
    optional = [spec.data.prediction_time, *spec.data.clusters]
    named = [
        *((feature.name, stated[feature.name]) for feature in taken),
        (spec.target, spec.where),
        *((feature.known_at, feature.where) for feature in spec.features if feature.known_at),
        *((name, spec.data.where) for name in optional if name),
        *((name, spec.data.split.where) for name in (spec.data.split.time, *spec.data.split.keys) if name),
        *((group.column, group.where) for group in spec.groups),
        *((gate.by, gate.where) for gate in spec.gates if isinstance(gate, SliceGate)),
    ]
    read = set(stored.names) if stored else set()
    found: dict[str, str] = {}
    for name, where in named:
        if name not in read:
            found.setdefault(name, where)
    return found


def _write_parquet(frame: pd.DataFrame, file: IO[bytes]) -> None:
    """Rows as Parquet, a group of them at a time, so that no second copy of all of them is made."""
    import pyarrow as pa  # only where data is at hand
    import pyarrow.parquet as pq

    try:
        schema = pa.Schema.from_pandas(frame, preserve_index=False)
        # What pandas notes about itself would change the digest with its version.
        with pq.ParquetWriter(file, schema.remove_metadata(), compression="zstd") as writer:
            for start in range(0, len(frame), GROUP_ROWS):
                part = frame.iloc[start : start + GROUP_ROWS]
                table = pa.Table.from_pandas(part, schema=schema, preserve_index=False, nthreads=1)
                writer.write_table(table.replace_schema_metadata(None), row_group_size=GROUP_ROWS)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ModelworksError(
            f"the data cannot be kept: {error.args[0] if error.args else error}",
            fix="Give every column one type in data.load, for instance with astype.",
        ) from error


def _digest_of_written(file: IO[bytes]) -> Digest:
    """The digest of a file that is being written."""
    file.flush()
    file.seek(0)
    return Digest(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")  # type: ignore[arg-type]
