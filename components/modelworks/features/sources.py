"""Parquet as history is kept: a file or a folder of files, local or in S3. Needs no Feast: its import takes seconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import polars as pl

from modelworks.errors import ModelworksError

Base: TypeAlias = Path | str | None
"""Where relative paths begin: a folder, or `s3://bucket/prefix`."""

HIDDEN = (".", "_")
"""Beginnings of names that pyarrow and Spark skip in a folder; a file that is being written has one."""


def scan(
    name: str, uri: str, *, endpoint: str | None = None, credentials: Mapping[str, str] | None = None
) -> pl.LazyFrame:
    """The content of a source, unread.

    Args:
        name: Of the source, for messages.
        uri: Where it is: see `uri_of`.
        endpoint: Where S3 is. Default: where the AWS variables of the environment have it.
        credentials: For S3, by AWS's names of variables. Default: those of the environment.

    Raises:
        ModelworksError: It is not there, or no Parquet.
    """
    options = {key.lower(): value for key, value in (credentials or {}).items()}
    if endpoint := endpoint or s3_endpoint():
        options |= {"aws_endpoint_url": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    try:
        frame = pl.scan_parquet(
            f"{uri.rstrip('/')}/" if is_folder(uri) else uri,
            hidden_file_prefix=HIDDEN,
            storage_options=options if uri.startswith("s3://") else None,
        )
        frame.collect_schema()
    except (FileNotFoundError, pl.exceptions.ComputeError) as error:
        raise ModelworksError(
            f"feature source {name!r} cannot be read from {uri}: {str(error).splitlines()[0]}",
            fix="Write the data there first, or correct the source's path.",
        ) from error
    return frame


def uri_of(path: str, base: Base) -> str:
    """Where a source is: a relative path is below `base`."""
    if "://" in path or path.startswith("/") or base is None:
        return path
    if isinstance(base, str) and "://" in base:
        return f"{base.rstrip('/')}/{path}"  # a path of this machine would lose a slash
    return str(Path(base) / path)


def is_folder(uri: str) -> bool:
    """Whether a source is a folder of files, and not one file or a pattern."""
    if "*" in uri:
        return False
    return (
        not uri.endswith((".parquet", ".pq")) if uri.startswith("s3://") else Path(uri).is_dir() or not Path(uri).suffix
    )


def s3_endpoint() -> str | None:
    """Where S3 is by the AWS variables of the environment; None for AWS's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
