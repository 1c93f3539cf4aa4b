"""Dumps of the registry's database: whole, whatever is written meanwhile, and a way back that overwrites nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto import mock_aws

from emulated import emulator
from modelworks.errors import ModelworksError
from modelworks.runtime.registry_backup import DATABASES, Dumps, keep, main, restore_what_is_lost, set_aside
from waiting import PATIENCE, eventually

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PLACE = "s3://artifacts/backups"


@pytest.fixture
def dumps(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="artifacts")
        yield Dumps(client, "artifacts", "backups")


def filled(folder):
    """A folder with the databases of a server that has one version."""
    folder.mkdir()
    for name, table in DATABASES.items():
        with closing(sqlite3.connect(folder / name)) as connection, connection:
            connection.execute("PRAGMA journal_mode=WAL")
            for each in (table, "versions"):
                connection.execute(f"CREATE TABLE {each} (name TEXT)")
                connection.execute(f"INSERT INTO {each} VALUES ('first')")
    return folder


@pytest.fixture
def live(tmp_path):
    return filled(tmp_path / "live")


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def names(database) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM versions")]


def register(folder, name: str) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("INSERT INTO versions VALUES (?)", [name])


def objects(dumps) -> list[str]:
    return [each["Key"] for each in dumps.s3.list_objects_v2(Bucket="artifacts").get("Contents", [])]


def test_a_dump_has_what_was_committed_and_nothing_of_an_open_transaction(dumps, live, empty):
    with closing(sqlite3.connect(live / "mlflow.db")) as writer:
        writer.execute("INSERT INTO versions VALUES ('second')")
        writer.commit()  # it is in the log beside the file, not in the file
        writer.execute("INSERT INTO versions VALUES ('third')")
        dumps.restore(empty, dumps.add(live, NOON))
        writer.rollback()
    assert names(empty / "mlflow.db") == ["first", "second"]
    assert names(empty / "users.db") == ["first"]
    assert sorted(path.name for path in empty.iterdir()) == sorted(DATABASES)


def test_the_newest_dump_is_found_by_its_time_and_nothing_else_is_one(dumps, live):
    first, second = dumps.add(live, NOON), dumps.add(live, NOON + DAY)
    dumps.s3.put_object(Bucket="artifacts", Key="backups/zzz.tar.gz", Body=b"somebody's")
    assert first == "backups/2026-03-01T12-00-00Z.tar.gz"
    assert dumps.newest() == (second, NOON + DAY)


def test_a_restore_overwrites_nothing(dumps, live):
    key = dumps.add(live, NOON)
    with pytest.raises(ModelworksError, match=r"has mlflow\.db, users\.db, which a restore would overwrite"):
        dumps.restore(live, key)
    assert names(live / "mlflow.db") == ["first"]


@pytest.mark.parametrize("body", [b"", b"no archive"])
def test_a_damaged_dump_restores_nothing(dumps, empty, body):
    dumps.s3.put_object(Bucket="artifacts", Key="backups/x.tar.gz", Body=body)
    with pytest.raises(ModelworksError, match=r"s3://artifacts/backups/x\.tar\.gz is no whole dump"):
        dumps.restore(empty, "backups/x.tar.gz")
    assert list(empty.iterdir()) == []


def test_a_half_dump_restores_nothing(dumps, live, empty):
    whole = dumps.add(live, NOON)
    body = dumps.s3.get_object(Bucket="artifacts", Key=whole)["Body"].read()
    dumps.s3.put_object(Bucket="artifacts", Key="backups/x.tar.gz", Body=body[: len(body) // 2])
    with pytest.raises(ModelworksError, match="is no whole dump"):
        dumps.restore(empty, "backups/x.tar.gz")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"there is no database .*users\.db"),
        (b"no database" * 500, r"users\.db cannot be copied"),
        (b"", r"users\.db is empty"),
    ],
)
def test_a_missing_damaged_or_empty_database_leaves_no_dump(dumps, live, content, problem):
    for path in live.glob("users.db*"):
        path.unlink()
    if content is not None:
        (live / "users.db").write_bytes(content)
    with pytest.raises(ModelworksError, match=problem):
        dumps.add(live, NOON)
    assert objects(dumps) == []


@pytest.mark.parametrize("change", ["DELETE FROM", "DROP TABLE"])
@pytest.mark.parametrize(("database", "table"), DATABASES.items())
def test_a_database_whose_server_starts_for_the_first_time_is_not_dumped_yet(dumps, live, database, table, change):
    with closing(sqlite3.connect(live / database)) as server, server:
        server.execute(f"{change} {table}")
    with pytest.raises(ModelworksError, match=rf"{database} is empty: .* has made no {table} yet"):
        dumps.add(live, NOON)
    assert objects(dumps) == []


def test_mlflow_fills_the_tables_that_a_dump_must_have_when_its_migrations_are_over(dumps, empty):
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore as Users
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine_with_retry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Experiments

    users, database = Users(), f"sqlite:///{empty / 'mlflow.db'}"
    users.init_db(f"sqlite:///{empty / 'users.db'}")
    _initialize_tables(create_sqlalchemy_engine_with_retry(database))
    with pytest.raises(ModelworksError, match=r"mlflow\.db is empty"):
        dumps.add(empty, NOON)
    Experiments(database, str(empty / "artifacts"))
    with pytest.raises(ModelworksError, match=r"users\.db is empty"):
        dumps.add(empty, NOON)
    users.create_user("admin", "correct horse 100%", is_admin=True)
    assert dumps.add(empty, NOON) == objects(dumps)[0]


class Account:
    """What is published, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.time, self.ages = NOON, []

    def keep(self, folder, dumps) -> str | None:
        return keep(folder, dumps, DAY, self.ages.append, now=lambda: self.time)


def test_a_dump_is_made_when_the_newest_is_old_however_often_the_pod_starts(dumps, live):
    account = Account()
    made = [account.keep(live, dumps)]
    account.time = NOON + DAY - timedelta(seconds=1)
    made += [account.keep(live, dumps), account.keep(live, dumps)]
    account.time = NOON + DAY
    made += [account.keep(live, dumps)]
    first, second = "backups/2026-03-01T12-00-00Z.tar.gz", "backups/2026-03-02T12-00-00Z.tar.gz"
    assert made == [first, None, None, second]
    assert account.ages == [0, 86_399, 86_399, 0]


def test_the_age_grows_while_no_dump_succeeds_and_is_unknown_before_the_first(dumps, live):
    account = Account()
    away = live.with_name("away")
    live.rename(away)
    with pytest.raises(ModelworksError, match="there is no database"):
        account.keep(live, dumps)
    assert account.ages == []
    away.rename(live)
    account.keep(live, dumps)
    (live / "mlflow.db").unlink()
    account.time = NOON + 3 * DAY
    with pytest.raises(ModelworksError, match="there is no database"):
        account.keep(live, dumps)
    assert account.ages == [0, 3 * 86_400]


def test_a_lost_registry_is_brought_back_on_an_empty_volume_and_its_dumps_go_on(dumps, live, empty):
    account = Account()
    account.keep(live, dumps)
    register(live, "second")
    account.time = NOON + DAY
    key = account.keep(live, dumps)
    shutil.rmtree(live)
    assert restore_what_is_lost(empty, dumps, NOON) == f"restored s3://artifacts/{key}"
    assert names(empty / "mlflow.db") == ["first", "second"]
    register(empty, "third")
    assert restore_what_is_lost(empty, dumps, NOON) == "nothing to restore: the databases are there"
    assert names(empty / "mlflow.db") == ["first", "second", "third"]
    account.time = NOON + 2 * DAY
    assert account.keep(empty, dumps)


def test_a_new_registry_begins_empty(dumps, empty):
    assert restore_what_is_lost(empty, dumps, NOON) == "nothing to restore: there is no dump"
    (empty / "users.db").write_bytes(b"of a first start that was cut short")
    assert restore_what_is_lost(empty, dumps, NOON) == "nothing to restore: there is no dump"


def test_one_database_without_the_other_is_set_aside_and_both_restored(dumps, live):
    dumps.add(live, NOON)
    (live / "mlflow.db").unlink()
    restore_what_is_lost(live, dumps, NOON)
    assert names(live / "mlflow.db") == names(live / "users.db") == ["first"]
    assert names(live / "aside-2026-03-01T12-00-00Z" / "users.db") == ["first"]


def test_databases_that_were_set_aside_are_kept_and_make_room_for_the_newest_dump(dumps, live):
    dumps.add(live, NOON)
    register(live, "mistaken")
    set_aside(live)
    assert names(live / "mlflow.db") == ["first", "mistaken"]  # the server that runs has them still
    restore_what_is_lost(live, dumps, NOON + DAY)
    assert names(live / "mlflow.db") == ["first"]
    assert names(live / "aside-2026-03-02T12-00-00Z" / "mlflow.db") == ["first", "mistaken"]
    register(live, "second")
    assert restore_what_is_lost(live, dumps, NOON + DAY) == "nothing to restore: the databases are there"


def test_nothing_is_set_aside_for_a_dump_that_is_missing_or_damaged(dumps, live):
    set_aside(live)
    assert restore_what_is_lost(live, dumps, NOON) == "nothing to restore: there is no dump"
    set_aside(live)
    dumps.s3.put_object(Bucket="artifacts", Key="backups/2026-03-01T12-00-00Z.tar.gz", Body=b"no archive")
    with pytest.raises(ModelworksError, match="is no whole dump"):
        restore_what_is_lost(live, dumps, NOON)
    assert names(live / "mlflow.db") == ["first"]


@pytest.fixture
def own_signals():
    """The signals of this process, which a program that runs within it takes over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
def test_each_verb_of_the_program_prints_what_it_did_or_why_not(dumps, live, empty, monkeypatch, capsys):
    monkeypatch.chdir(live)
    assert main(["dump", PLACE]) == 0
    (key,) = objects(dumps)
    assert main(["restore", PLACE, "--key", key]) == 1
    monkeypatch.chdir(empty)
    assert main(["restore", PLACE, "--key", "backups/none.tar.gz"]) == 1
    assert main(["restore", PLACE, "--key", key]) == 0
    assert main(["restore", PLACE]) == 0
    assert main(["set-aside"]) == 0
    dumped, refused, unknown, restored, present, marked = capsys.readouterr().out.splitlines()
    assert (dumped, restored) == (f"dumped to s3://artifacts/{key}", f"restored s3://artifacts/{key}")
    assert "which a restore would overwrite. Set them aside first" in refused
    assert "NoSuchKey" in unknown
    assert present == "nothing to restore: the databases are there"
    assert marked == "the next start of the pod sets the databases aside and restores the newest dump"


@pytest.fixture
def account(monkeypatch):
    """An emulated account with the bucket, for another process."""
    with emulator() as url:
        variables = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(
            Bucket="artifacts", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        yield


@pytest.mark.parametrize("order", [["dump", PLACE], ["restore", PLACE, "--key", "backups/x.tar.gz"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_dump_and_a_restore_without_a_trace(live, empty, tmp_path, order, number):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder, written = (live, scratch) if order[0] == "dump" else (empty, empty)
    before = sorted(folder.iterdir())
    with socket.create_server(("127.0.0.1", 0)) as bucket:
        bucket.settimeout(PATIENCE)
        env = {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "TMPDIR": str(scratch),
        }
        program = [sys.executable, "-m", "modelworks.runtime.registry_backup", *order]
        with subprocess.Popen(program, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
            connection, _ = bucket.accept()
            with connection:
                connection.recv(1)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
                )  # of the dump, or of the answer to it
                eventually(lambda: [*written.iterdir()])
                process.send_signal(number)
                assert process.communicate(timeout=PATIENCE) == ("error: a signal came before it was done\n", None)
    assert process.returncode == 1
    assert [*scratch.iterdir()] == []
    assert sorted(folder.iterdir()) == before


def test_the_sidecar_dumps_at_its_start_goes_on_after_a_failure_and_ends_when_it_is_told(account, live, tmp_path):
    sidecar = [sys.executable, "-m", "modelworks.runtime.registry_backup", "keep", PLACE, "--hours", "24"]

    def first_line(folder) -> str:
        with subprocess.Popen(sidecar, cwd=folder, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            return line

    assert "error: there is no database" in first_line(tmp_path)
    assert first_line(live).startswith(f"dumped to {PLACE}/")
    metrics = boto3.client("cloudwatch").list_metrics(Namespace="modelworks/registry")["Metrics"]
    assert [(each["MetricName"], each["Dimensions"]) for each in metrics] == [
        ("backup_age", [{"Name": "bucket", "Value": "artifacts"}])
    ]
