"""The online features of a model in a process of their own, for its local server.

The process holds an emulated AWS account with DynamoDB, as the laptop cloud does, and the code that fills the tables of
an environment fills its tables, from the same history. A server reads the same bytes from both.

python -m modelworks.cli.local_features MODEL HISTORY
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelworks import contract
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import ModelSpec

_ACCOUNT: Final = "000000000000"
_REGION: Final = "us-east-1"
_TABLE: Final = "features.{table_name}"


class LocalFeatures:
    """Fills tables for a model's local server, which are gone when it is closed.

    Args:
        log: File for what the process writes.
        failed: Called with one sentence if there are no tables.
    """

    def __init__(self, log: Path, failed: Callable[[str], None]) -> None:
        self._log, self._failed = log, failed
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._over = False

    def begin(self, model: Path, history: Path, variables: Future[dict[str, str]]) -> None:
        """Fill the tables in the background.

        Args:
            model: Folder of the model.
            history: Folder with the history of its features.
            variables: Gets the variables by which a server reads the tables, unless it has others by then.
        """
        with self._lock:
            if self._over:
                return
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                # It ends at the end of its input: when this command is gone, even one that was killed.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "modelworks.cli.local_features", str(model), str(history)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the command, which ends it
                )
        threading.Thread(
            target=self._await, args=(self._process, variables), name="local-features", daemon=True
        ).start()

    def close(self) -> None:
        """End the process, and with it the tables."""
        with self._lock:
            self._over = True
            process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _await(self, process: subprocess.Popen[bytes], variables: Future[dict[str, str]]) -> None:
        with process.stdout or nullcontext() as output:
            line = output.readline() if output else b""
        if line.endswith(b"\n"):
            provide(variables, json.loads(line))
        elif not self._over:
            self._failed(f"features are read when the environment has them: no local process has; log: {self._log}")


def provide(variables: Future[dict[str, str]], value: dict[str, str]) -> None:
    """Give a future its value, unless somebody else was first."""
    with _FIRST:
        if not variables.done():
            variables.set_result(value)


_FIRST = threading.Lock()


def main(arguments: list[str]) -> int:
    """Fill the tables, print the variables that name them as a line of JSON, and serve until the input ends."""
    parser = argparse.ArgumentParser(description="Online features of one model, in emulated tables on loopback.")
    parser.add_argument("model", help="name or folder of the model")
    parser.add_argument("history", help="folder with the history of its features")
    given = parser.parse_args(arguments)
    from modelworks.lifecycle import load_spec

    with tempfile.TemporaryDirectory(prefix="modelworks-features-") as folder:
        print(json.dumps(_filled(load_spec(given.model), given.history, Path(folder))), flush=True)
    sys.stdin.buffer.read()
    return 0


def _filled(spec: ModelSpec, history: str, folder: Path) -> dict[str, str]:
    """Serve tables with the newest values of a model's history; returns the variables by which they are read.

    The registry of features is kept in `folder`.
    """
    from modelworks.features import environment
    from modelworks.features.definitions import read_definitions
    from modelworks.features.materialization import materialize
    from modelworks.lifecycle.stored_features import stored_of

    stored = stored_of(spec)
    if stored is None:
        raise ModelworksError(f"{spec.name} reads no features")
    account = _account()
    os.environ.update(account)  # Feast, pyarrow and Polars take the account from the process's own variables
    views = [view.name for view in stored.views]
    store = environment.open_store(_feature_store_yaml(folder, history))
    environment.apply(store, read_definitions(spec.folder.parents[1]))
    for _ in materialize(store, views):
        pass
    tables = {view: _TABLE.format(table_name=view) for view in views}
    return {**account, contract.ENV_FEATURE_TABLES: json.dumps(tables)}


def _feature_store_yaml(folder: Path, history: str) -> str:
    """As a `FeatureStore` states its own, but for the places."""
    facts = {
        "project": "local",
        "provider": "local",
        "registry": {"registry_type": "file", "path": str(folder / "registry.db")},
        "offline_store": {"type": "modelworks.features.offline.PolarsOfflineStore", "location": history},
        "online_store": {
            "type": "modelworks.features.online.DynamoDBOnlineStore",
            "region": _REGION,
            "table_name_template": _TABLE,
            "timeout_seconds": 30,  # on a machine that builds tools meanwhile
        },
        "entity_key_serialization_version": 3,
    }
    return json.dumps(facts)  # which is YAML


def _account() -> dict[str, str]:
    """Start an emulated account on loopback; returns the variables that mean it."""
    from modelworks.laptop import aws
    from modelworks.laptop.authentication import Authenticated
    from modelworks.laptop.aws_credentials import new_credentials
    from modelworks.laptop.environments import past_proxies

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each of thousands of requests
    own, listener = new_credentials(), socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def secret(key: str, token: str) -> str | None:
        return own.secret if key == own.key and not token else None

    hint = "These tables are for the local process of one `modelworks quickstart`."
    server = aws.serving(listener, Authenticated(aws.emulate(_ACCOUNT, port, own), secret, hint))
    threading.Thread(target=server.serve_forever, name="dynamodb", daemon=True).start()
    return {
        **past_proxies(),
        "AWS_ACCESS_KEY_ID": own.key,
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{port}",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        "AWS_REGION": _REGION,
        "AWS_SECRET_ACCESS_KEY": own.secret,
        "AWS_SESSION_TOKEN": "",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
