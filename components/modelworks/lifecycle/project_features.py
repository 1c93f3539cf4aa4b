"""The definitions that a project's code makes, and the history that a model writes itself.

That code runs in the child process (`modelworks.lifecycle.child`), as a model's does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest, parse
from modelworks.lifecycle.child_process import work, work_on_features
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import Described


def read_features(project: Path, home: Home, store: str = "") -> tuple[FeatureManifest, FeatureManifest]:
    """The features that a project's files define, and those that an environment's registry has.

    Args:
        project: The folder that has `models/`.
        home: Where the log is kept.
        store: Text of a `feature_store.yaml`. Empty: no registry is read.

    Raises:
        ModelworksError: A file cannot be run, or a definition is incomplete.
    """
    found = work_on_features(project, home, {"verb": "read", "store": store})
    return parse(found["defined"]), parse(found["registered"]) if store else FeatureManifest()


def apply_features(
    project: Path,
    home: Home,
    store: str,
    tables: Mapping[str, str] | None,
    *,
    judged: FeatureManifest | None = None,
) -> None:
    """Make a registry hold exactly what a project defines.

    Args:
        project: The folder that has `models/`.
        home: Where the log is kept.
        store: Text of a `feature_store.yaml`.
        tables: ARN of each declared table, by its view; None where the store creates its own.
        judged: The definitions as somebody read and judged them. None: nobody did.

    Raises:
        ModelworksError: The files define something else than was judged, or an online view has no table yet.
    """
    job = {"verb": "apply", "store": store, "tables": tables, "judged": judged.to_json() if judged else ""}
    work_on_features(project, home, job)


def write_history(model: Described, home: Home, folder: Path) -> None:
    """Write the history that a model's project makes below a folder.

    Raises:
        ModelworksError: The project makes no history or fails to.
    """
    work(model.folder, model.name, home, {"verb": "history", "folder": str(folder)})


def ingest_history(model: str, folder: Path, location: str, session: Any) -> list[str]:
    """Write a model's history into an environment's offline store.

    A file of the same name is replaced, so that a second run changes nothing; other files stay.

    Args:
        model: The model.
        folder: The history, as `write_history` writes it.
        location: `s3://bucket/prefix`, below which the relative paths of sources are.
        session: A boto3 session of the environment's account.

    Returns:
        The files, by their path below `location`.

    Raises:
        ModelworksError: S3 refuses a file.
    """
    from boto3.exceptions import Boto3Error  # only where there is a bucket
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3})
    client = session.client("s3", config=config)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    try:
        for file, name in zip(files, names, strict=True):
            client.upload_file(str(file), bucket, f"{prefix}/{name}" if prefix else name)
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise ModelworksError(
            f"the history of {model} is in {location} in part: {error}",
            fix="Run the same again: what is there is replaced by the same.",
        ) from error
    return names
