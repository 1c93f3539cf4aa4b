"""Parquet behind Feast's file sources: a file or a folder of files, local or in S3.

S3 is reached as the AWS variables of the environment describe (`AWS_ENDPOINT_URL` included), or at the source's own
`s3_endpoint_override`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from pyarrow import fs

from modelworks.errors import ModelworksError

Base: TypeAlias = Path | str | None
"""Where relative paths begin: a folder, or `s3://bucket/prefix`."""

_HIDDEN = (".", "_")  # what pyarrow and Spark skip in a folder, and so what a file being written is called


def scan(source: DataSource, base: Base) -> pl.LazyFrame:
    """The content of a file source, unread.

    Raises:
        ModelworksError: The source is no Parquet, or is not there.
    """
    file = parquet_source(source)
    uri = _uri(file, base)
    try:
        frame = pl.scan_parquet(
            f"{uri.rstrip('/')}/" if _is_folder(uri) else uri,
            hidden_file_prefix=_HIDDEN,
            storage_options=_storage_options(file) if uri.startswith("s3://") else None,
        )
        frame.collect_schema()
    except (FileNotFoundError, pl.exceptions.ComputeError) as error:
        raise ModelworksError(
            f"feature source {file.name!r} cannot be read from {uri}: {str(error).splitlines()[0]}",
            fix="Write the data there first, or correct the source's path.",
        ) from error
    return frame


def parquet_source(source: DataSource | None) -> FileSource:
    """`source`, if it is a file source that holds Parquet.

    Raises:
        ModelworksError: It is another one.
    """
    if not isinstance(source, FileSource):
        raise ModelworksError(
            f"this offline store reads file sources, not {type(source).__name__}",
            fix="Use feast.FileSource with the path of a Parquet file or folder.",
        )
    if not isinstance(source.file_format, ParquetFormat | None):
        raise ModelworksError(
            f"this offline store reads Parquet, and source {source.name!r} is {type(source.file_format).__name__}"
        )
    return source


def replace(table: pa.Table, source: FileSource, base: Base) -> None:
    """Write `table` as the whole content of `source`."""
    uri = _uri(source, base)
    system, path = _file_system(source, uri)
    if _is_folder(uri):
        if system.get_file_info(path).type != fs.FileType.NotFound:
            system.delete_dir_contents(path)
        _write(table, system, f"{path.rstrip('/')}/{_part_name()}")
    else:
        _write(table, system, path)


def append(table: pa.Table, source: FileSource, base: Base) -> None:
    """Add the rows of `table` to `source`: a new file in a folder; a single file is rewritten with them at its end.

    Only a folder takes two writers at the same time.
    """
    uri = _uri(source, base)
    system, path = _file_system(source, uri)
    if system.get_file_info(path).type != fs.FileType.NotFound:
        stored = schema(source, base)
        table = table.select(stored.names).cast(stored)
    if _is_folder(uri):
        _write(table, system, f"{path.rstrip('/')}/{_part_name()}")
    elif system.get_file_info(path).type == fs.FileType.NotFound:
        _write(table, system, path)
    else:
        _write(pa.concat_tables([pq.read_table(path, filesystem=system), table]), system, path)


def schema(source: FileSource, base: Base) -> pa.Schema:
    """The columns of `source` as Arrow types them."""
    system, path = _file_system(source, _uri(source, base))
    return pq.ParquetDataset(path, filesystem=system).schema.remove_metadata()


def in_plain_types(table: pa.Table) -> pa.Table:
    """`table` without the large types of Polars: Feast takes a large string for JSON, and has no large list."""
    return table.cast(pa.schema([field.with_type(plain(field.type)) for field in table.schema]))


def plain(dtype: pa.DataType) -> pa.DataType:
    """The type that Feast has for the content of a `dtype`."""
    if pa.types.is_large_string(dtype):
        return pa.string()
    if pa.types.is_large_binary(dtype):
        return pa.binary()
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.list_(plain(dtype.value_type))
    if pa.types.is_dictionary(dtype):
        return plain(dtype.value_type)
    if pa.types.is_struct(dtype):
        return pa.struct([field.with_type(plain(field.type)) for field in dtype])
    return dtype


def write_partitions(table: pa.Table, path: str, endpoint: str, columns: Sequence[str], base: Base) -> None:
    """Add `table` to the folder `path` as files of their own, in sub-folders by the values of `columns`."""
    source = FileSource(path=path, s3_endpoint_override=endpoint or None)
    system, folder = _file_system(source, _uri(source, base))
    pq.write_to_dataset(
        table,
        folder,
        partition_cols=list(columns) or None,
        filesystem=system,
        basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
        existing_data_behavior="overwrite_or_ignore",
    )


def exists(source: FileSource, base: Base) -> bool:
    """Whether there is a file or folder where `source` points."""
    system, path = _file_system(source, _uri(source, base))
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def _write(table: pa.Table, system: fs.FileSystem, path: str) -> None:
    """Write one file, whole or not at all: an object of S3 appears when it is complete, a local file is renamed."""
    if isinstance(system, fs.S3FileSystem):
        pq.write_table(table, path, filesystem=system)
        return
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        pq.write_table(table, temporary, filesystem=system)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _part_name() -> str:
    return f"part-{uuid.uuid4().hex}.parquet"


def _uri(source: FileSource, base: Base) -> str:
    if isinstance(base, str) and "://" in base and "://" not in source.path and not source.path.startswith("/"):
        return f"{base.rstrip('/')}/{source.path}"  # a path of this machine would lose a slash
    return str(FileSource.get_uri_for_file_path(base, source.path))


def _is_folder(uri: str) -> bool:
    if "*" in uri:
        return False
    return (
        not uri.endswith((".parquet", ".pq")) if uri.startswith("s3://") else Path(uri).is_dir() or not Path(uri).suffix
    )


def _file_system(source: FileSource, uri: str) -> tuple[fs.FileSystem, str]:
    if not uri.startswith("s3://"):
        return fs.LocalFileSystem(), str(Path(uri).resolve())
    endpoint, credentials = _endpoint(source), source.resolve_credentials()
    system, path = FileSource.create_filesystem_and_path(uri, endpoint or "", credentials)
    return system, path


def _endpoint(source: FileSource) -> str | None:
    own = source.s3_endpoint_override
    return own or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _storage_options(source: FileSource) -> dict[str, str]:
    options = {name.lower(): value for name, value in (source.resolve_credentials() or {}).items()}
    if endpoint := _endpoint(source):
        options |= {"aws_endpoint_url": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    return options
