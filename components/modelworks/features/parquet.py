"""Parquet behind Feast's file sources: a file or a folder of files, local or in S3.

S3 is reached as the AWS variables of the environment describe (`AWS_ENDPOINT_URL` included), or at the source's own
`s3_endpoint_override`.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from pyarrow import fs

from modelworks.errors import ModelworksError
from modelworks.features import sources
from modelworks.features.sources import HIDDEN, Base, is_folder


def scan(source: DataSource, base: Base) -> pl.LazyFrame:
    """The content of a file source, unread.

    Raises:
        ModelworksError: The source is no Parquet, or is not there.
    """
    file = parquet_source(source)
    return sources.scan(
        file.name, _uri(file, base), endpoint=file.s3_endpoint_override, credentials=file.resolve_credentials()
    )


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
    if is_folder(uri):
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
    if is_folder(uri):
        _write(table, system, f"{path.rstrip('/')}/{_part_name()}")
    elif system.get_file_info(path).type == fs.FileType.NotFound:
        _write(table, system, path)
    else:
        _write(pa.concat_tables([pq.read_table(path, filesystem=system), table]), system, path)


def delete_rows(source: FileSource, base: Base, values: Mapping[str, Any]) -> pa.Table:
    """Delete the rows whose columns have these values, file by file; returns the deleted ones.

    Where a bucket keeps earlier versions of a file, those are deleted with them: they hold the rows still.

    Raises:
        OSError, botocore.exceptions.ClientError: A file cannot be read or written.
    """
    uri = _uri(source, base)
    system, path = _file_system(source, uri)
    gone = []
    for file in _files(system, path, uri):
        table = pq.read_table(file, filesystem=system, partitioning=None)
        matches = [pc.fill_null(pc.equal(table[name], value), False) for name, value in values.items()]
        found = functools.reduce(pc.and_, matches)
        gone.append(table.filter(found))
        if gone[-1].num_rows:
            _write(table.filter(pc.invert(found)), system, file)
        if uri.startswith("s3://"):
            _delete_earlier_versions(file, source.s3_endpoint_override)
    return pa.concat_tables(gone, promote_options="permissive") if gone else pa.table({})


def _files(system: fs.FileSystem, path: str, uri: str) -> list[str]:
    """The files of a source, without those that a reader skips."""
    if "*" in uri:
        raise ModelworksError(f"rows cannot be deleted from {uri}: a source must name a file or a folder for that")
    if not is_folder(uri):
        return [path]
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    files = [each for each in found if each.type == fs.FileType.File]
    return sorted(each.path for each in files if not each.base_name.startswith(HIDDEN))


def _delete_earlier_versions(path: str, endpoint: str | None) -> None:
    bucket, _, key = path.partition("/")
    client = boto3.client("s3", endpoint_url=endpoint or sources.s3_endpoint())
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key):
        for version in page.get("Versions", ()):
            if version["Key"] == key and not version["IsLatest"]:
                client.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])


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
    return sources.uri_of(source.path, base)


def _file_system(source: FileSource, uri: str) -> tuple[fs.FileSystem, str]:
    if not uri.startswith("s3://"):
        return fs.LocalFileSystem(), str(Path(uri).resolve())
    endpoint, credentials = source.s3_endpoint_override or sources.s3_endpoint(), source.resolve_credentials()
    system, path = FileSource.create_filesystem_and_path(uri, endpoint or "", credentials)
    return system, path
