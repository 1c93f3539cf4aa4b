"""Dumps of the registry's embedded database, and the way back: `python -m modelworks.runtime.registry_backup`.

A dump is one object, `<prefix>/<time>.tar.gz`, with a copy of each SQLite file. Each copy is a transaction's state,
whatever the server writes meanwhile, and is checked before it leaves. An upload is there whole or not at all.

`keep` is the sidecar of the server, and `restore` its first container, as Litestream has it: a server on an empty
volume begins with the newest dump (https://litestream.io/guides/kubernetes/).
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.runtime.server.ends import Ended, Ends

DATABASES = {"mlflow.db": "experiments", "users.db": "users"}
"""Experiments and versions; and who may enter. Each with a table that has a row once a server has started with it: the
first start makes the tables one by one, and then the default experiment and the administrator."""
_TICK_SECONDS = 300
"""Between two looks at the newest dump."""
_RETRY_SECONDS = 30
"""Between a dump that failed and the next try: a new server needs about as long to make its databases."""
_MARK = "set-aside"
"""A file beside the databases: the next start is to move them aside."""
_TIME = "%Y-%m-%dT%H-%M-%SZ"
_SUFFIX = ".tar.gz"


@dataclass(frozen=True)
class Dumps:
    """The dumps of a registry, below a prefix of a bucket."""

    s3: Any
    """Client of boto3."""
    bucket: str
    prefix: str

    def newest(self) -> tuple[str, datetime] | None:
        """Key and time of the newest one; None if there is none."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        keys = [each["Key"] for page in pages for each in page.get("Contents") or []]
        return max(((key, time) for key in keys if (time := _time_of(key))), key=lambda dump: dump[1], default=None)

    def add(self, folder: Path, now: datetime) -> str:
        """Copy the databases of a folder into the bucket, and return the key.

        Raises:
            ModelworksError: A database is missing or empty, cannot be read, or its copy is damaged.
        """
        key = f"{self.prefix}/{now.astimezone(UTC).strftime(_TIME)}{_SUFFIX}"
        with tempfile.TemporaryDirectory() as scratch:
            packed = Path(scratch) / "dump"
            with tarfile.open(packed, mode="w:gz") as archive:
                for name in DATABASES:
                    copy = Path(scratch) / name
                    _copy(folder / name, copy)
                    archive.add(copy, arcname=name)
                    copy.unlink()
            with packed.open("rb") as body:
                self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, ChecksumAlgorithm="SHA256")
        return key

    def restore(self, folder: Path, key: str) -> None:
        """Put the databases of a dump into a folder that has none.

        Raises:
            ModelworksError: The folder has one, or the dump is incomplete or damaged.
        """
        if found := present(folder):
            raise ModelworksError(
                f"{folder} has {', '.join(found)}, which a restore would overwrite",
                fix="Set them aside first, with their -wal and -shm files.",
            )
        with self.unpacked(folder, key) as databases:
            try:
                for database in databases:
                    database.rename(folder / database.name)
            except BaseException:
                for name in present(folder):
                    (folder / name).unlink()
                raise

    @contextmanager
    def unpacked(self, folder: Path, key: str) -> Iterator[list[Path]]:
        """The databases of a dump, in a temporary folder below this one.

        Raises:
            ModelworksError: The dump is incomplete or damaged.
        """
        body = self.s3.get_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")["Body"]
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            packed = Path(scratch) / "dump"
            with packed.open("wb") as file:
                shutil.copyfileobj(body, file)
            try:
                with tarfile.open(packed) as archive:
                    for name in DATABASES:
                        archive.extract(name, scratch, filter="data")
                        _check(Path(scratch) / name)
            except (tarfile.TarError, KeyError, EOFError, OSError) as error:
                raise ModelworksError(
                    f"s3://{self.bucket}/{key} is no whole dump: {error}",
                    fix="Delete it, and the one before it is the newest.",
                ) from error
            yield [Path(scratch) / name for name in DATABASES]


def present(folder: Path) -> list[str]:
    """The databases that a folder has."""
    return [name for name in DATABASES if (folder / name).exists()]


def restore_what_is_lost(folder: Path, dumps: Dumps, now: datetime) -> str:
    """Put the newest dump into a folder without databases, and return what was done. A new registry has no dump.

    Databases that `set_aside` was called for, and one without the other, are moved into a folder below it first, once
    the dump is known to be whole.

    Raises:
        ModelworksError: The newest dump is damaged.
    """
    mark = folder / _MARK
    if present(folder) == [*DATABASES] and not mark.exists():
        return "nothing to restore: the databases are there"
    if (found := dumps.newest()) is None:
        mark.unlink(missing_ok=True)
        return "nothing to restore: there is no dump"
    if present(folder):
        with dumps.unpacked(folder, found[0]):
            _move_aside(folder, folder / f"aside-{now.astimezone(UTC).strftime(_TIME)}")
    dumps.restore(folder, found[0])
    mark.unlink(missing_ok=True)
    return f"restored s3://{dumps.bucket}/{found[0]}"


def keep(
    folder: Path, dumps: Dumps, every: timedelta, publish: Callable[[float], None], *, now: Callable[[], datetime]
) -> str | None:
    """Dump the databases if the newest dump is `every` old, and publish the age of the newest one, in seconds.

    Returns:
        The key of the dump; None if none was due.

    Raises:
        ModelworksError: The databases cannot be dumped. The age is published nevertheless, if there is a dump.
    """
    found = dumps.newest()
    made, time = None, found[1] if found else None
    try:
        if time is None or now() - time >= every:
            began = now()
            made = dumps.add(folder, began)
            time = began
    finally:
        if time is not None:
            publish((now() - time).total_seconds())
    return made


def set_aside(folder: Path) -> None:
    """Let the next start move the databases aside and restore the newest dump.

    Not at once: a server that runs would make new ones with its next connection.
    """
    (folder / _MARK).touch()


def _move_aside(folder: Path, aside: Path) -> None:
    aside.mkdir(exist_ok=True)
    for name in DATABASES:
        for path in sorted(folder.glob(f"{name}*")):  # with its -wal and -shm
            path.rename(aside / path.name)


def _time_of(key: str) -> datetime | None:
    try:
        return datetime.strptime(key.rpartition("/")[2], f"{_TIME}{_SUFFIX}").replace(tzinfo=UTC)
    except ValueError:  # something else, which somebody put there
        return None


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ModelworksError(f"there is no database {source}")
    # The path as a URI: without `rw`, SQLite would make a database where there is none.
    live = sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
    with closing(live), closing(sqlite3.connect(target)) as copy:
        try:
            live.backup(copy)
        except sqlite3.DatabaseError as error:
            raise ModelworksError(f"{source} cannot be copied: {error}") from error
    _check(target)


def _check(database: Path) -> None:
    try:
        with closing(sqlite3.connect(database)) as connection:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            table = DATABASES[database.name]
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchone()
            used = made and connection.execute(f"SELECT 1 FROM {table}").fetchone()  # noqa: S608 - a name of ours
    except sqlite3.DatabaseError as error:
        raise ModelworksError(f"{database.name} is damaged: {error}") from error
    if found != ["ok"]:
        raise ModelworksError(f"{database.name} is damaged: {'; '.join(found)}")
    if not used:
        raise ModelworksError(f"{database.name} is empty: the first start of its server has made no {table} yet")


def main(arguments: Sequence[str]) -> int:
    """Dump, restore or set aside the databases of the working directory, and return the exit code."""
    # A container's first process ignores a signal that it does not handle.
    ends = Ends()
    try:
        return _run(_parser().parse_args(arguments), ends)
    except Ended:
        return _failed("a signal came before it was done")


def _run(order: argparse.Namespace, ends: Ends) -> int:
    from botocore.exceptions import BotoCoreError, ClientError  # seconds to import, with what needs it

    try:
        done = _do(order, Path.cwd(), ends)
    except ModelworksError as error:
        return _failed(f"{error.message}. {error.fix}" if error.fix else error.message)
    except (BotoCoreError, ClientError) as error:
        return _failed(str(error))
    _say(done)
    return 0


def _do(order: argparse.Namespace, folder: Path, ends: Ends) -> str:
    if order.verb == "set-aside":
        set_aside(folder)
        return "the next start of the pod sets the databases aside and restores the newest dump"
    import boto3

    place = urlsplit(order.dumps)
    dumps = Dumps(boto3.client("s3"), place.netloc, place.path.strip("/"))
    if order.verb == "keep":
        return _keep_on(folder, dumps, timedelta(hours=order.hours), boto3.client("cloudwatch"), ends)
    if order.verb == "dump":
        return f"dumped to s3://{dumps.bucket}/{dumps.add(folder, datetime.now(UTC))}"
    if order.key is None:
        return restore_what_is_lost(folder, dumps, datetime.now(UTC))
    dumps.restore(folder, order.key)
    return f"restored s3://{dumps.bucket}/{order.key}"


def _keep_on(folder: Path, dumps: Dumps, every: timedelta, cloudwatch: Any, ends: Ends) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    def publish(age: float) -> None:
        cloudwatch.put_metric_data(
            Namespace=contract.REGISTRY_METRIC_NAMESPACE,
            MetricData=[
                {
                    "MetricName": contract.METRIC_BACKUP_AGE,
                    "Dimensions": [{"Name": contract.DIMENSION_BUCKET, "Value": dumps.bucket}],
                    "Value": age,
                    "Unit": "Seconds",
                }
            ],
        )

    ended = Event()
    ends.deliver(lambda _: ended.set())  # a dump that has begun is finished
    while not ended.is_set():
        pause = _TICK_SECONDS
        try:
            if made := keep(folder, dumps, every, publish, now=lambda: datetime.now(UTC)):
                _say(f"dumped to s3://{dumps.bucket}/{made}")
        # It never ends by itself: with a container that ended, the pod would not be ready, and nobody reach the server.
        except (ModelworksError, BotoCoreError, ClientError, OSError) as error:
            pause = _RETRY_SECONDS
            _failed(f"{error}; the next try is in {pause} s")
        ended.wait(pause)
    return "ended"


def _failed(why: str) -> int:
    _say(f"error: {why}")
    return 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelworks.runtime.registry_backup", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("set-aside", help="let the next start move the databases aside and restore the newest dump")
    for verb, meaning in (
        ("keep", "dump the databases whenever the newest dump is old"),
        ("dump", "dump the databases now"),
        ("restore", "restore a dump into a folder without databases"),
    ):
        found = verbs.add_parser(verb, help=meaning)
        found.add_argument("dumps", help="s3://BUCKET/PREFIX of the dumps")
        if verb == "keep":
            found.add_argument("--hours", type=int, required=True, help="age at which the newest dump is old")
        if verb == "restore":
            found.add_argument("--key", help="key of the dump; without it the newest, if databases are lost")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
