"""The AWS account of one environment: a moto server that requires signatures and replays its journal after a crash.

python -m modelworks.laptop.aws --place ROOT --environment ENV
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.laptop.aws_credentials import AwsCredentials, read_credentials
from modelworks.laptop.state_dir import StateDir, read_facts
from modelworks.laptop.supervisor import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from werkzeug.serving import BaseWSGIServer

    from modelworks.laptop.request_journal import Journal

    WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def program(place: StateDir, environment: str, facts: Mapping[str, Any]) -> Program:
    """The process that is an environment's AWS account."""
    argv: list[str | Path] = [
        sys.executable,
        "-m",
        "modelworks.laptop.aws",
        "--place",
        place.root,
        "--environment",
        environment,
    ]
    return Program(f"aws-{environment}", argv, {"MOTO_ACCOUNT_ID": str(facts["account"])}, stop_seconds=2)


def memory(place: StateDir, environment: str) -> str:
    """The restored part of an account, in a sentence; empty if there was nothing to restore."""
    facts = read_facts(_memory(place, environment))
    restore = f"`modelworks up {environment}` restores what is declared, running the pipelines again the data"
    if why := facts.get("empty"):
        return f"AWS of {environment} is empty, for {why}: {restore}"
    if not facts.get("requests"):
        return ""
    again = f"{facts['requests']} requests were replayed in {facts['seconds']} s"
    if refused := facts["refused"]:
        return f"AWS of {environment} holds most of what it held: {again}, and {refused} refused; {restore}"
    return f"AWS of {environment} holds what it held: {again}"


def _memory(place: StateDir, environment: str) -> Path:
    return place.environment(environment) / "aws-memory.json"


def denials(place: StateDir, environment: str) -> Path:
    """The log of the requests that IAM refused: `modelworks laptop logs denied-ENV`."""
    return place.logs / f"denied-{environment}.log"


def serve(place: StateDir, environment: str) -> None:
    """Serve the account until the process ends."""
    facts = read_facts(place.environment(environment) / "environment.json")
    laptop = read_facts(place.root / "laptop.json")
    port, own = int(facts["aws_port"]), read_credentials(place, environment)
    emulator = emulate(str(facts["account"]), port, own)
    # They work on the data of the emulator above.
    from modelworks.laptop import alarms, metric_data

    _store_bucket_policies()
    metric_data.serve_expressions()
    if seconds := laptop.get("metrics_delay"):
        metric_data.delay(seconds)
    remembering = _replayed(place, environment, emulator)
    alarms.start()
    guarded = _guarded(place, environment, own, remembering, strict=bool(laptop.get("strict")))
    serving(socket.create_server(("127.0.0.1", port)), guarded).serve_forever()


def emulate(account: str, port: int, own: AwsCredentials) -> WSGIApplication:
    """An empty emulated account in this process, with its port and its own key. It requires no signature."""
    os.environ |= {
        "MOTO_ACCOUNT_ID": account,
        "MOTO_DISABLE_GLOBAL_CORS": "true",
        "MOTO_PORT": str(port),
        "TEST_SERVER_MODE": "true",
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
        "AWS_ACCESS_KEY_ID": own.key,
        "AWS_SECRET_ACCESS_KEY": own.secret,
    }
    from moto.moto_server.werkzeug_app import (  # reads the settings above when it is imported
        DomainDispatcherApplication,
        create_backend_app,
    )

    application: WSGIApplication = DomainDispatcherApplication(create_backend_app)
    return application


def serving(listener: socket.socket, application: WSGIApplication) -> BaseWSGIServer:
    """A server of this application, which is yet to serve. It takes over the listener."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler  # reads the settings of `emulate`
    from werkzeug.serving import make_server

    with listener:  # the server has a descriptor of its own
        host, port = listener.getsockname()
        at = listener.fileno()
        return make_server(host, port, application, threaded=True, request_handler=MotoRequestHandler, fd=at)


def _replayed(place: StateDir, environment: str, emulator: WSGIApplication) -> Journal:
    """The emulator with a journal, after it has repeated the requests of its last process."""
    from modelworks.laptop.request_journal import Journal

    lost = place.environment(environment) / "aws-lost"

    def note(why: str) -> None:
        with contextlib.suppress(ModelworksError):  # a disk so full that it takes no line: the log has it
            write_whole(lost, why)

    application = Journal(emulator, place.environment(environment) / "aws-journal.jsonl", note)
    replayed = application.replay()
    empty = lost.read_text("utf-8") if lost.exists() and not replayed.requests else None
    facts = {"requests": replayed.requests, "refused": replayed.refused, "seconds": round(replayed.seconds, 1)}
    write_whole(_memory(place, environment), json.dumps({**facts, "empty": empty}) + "\n")
    lost.unlink(missing_ok=True)
    return application


def _guarded(
    place: StateDir, environment: str, own: AwsCredentials, application: Journal, *, strict: bool
) -> WSGIApplication:
    """The application behind signatures and, if `strict`, behind policies as well."""
    from modelworks.laptop.authentication import Authenticated, emulated_secret, never

    def secret(key: str, token: str) -> str | None:
        return own.secret if key == own.key and not token else emulated_secret(key, token)

    enforced: WSGIApplication = application
    without_signature: Callable[[dict[str, Any]], bool] = never
    if strict:
        from modelworks.laptop.authorization.enforcement import Denials, Enforced, asks_for_a_session

        tokens = place.cluster / "pki" / "service-accounts.pub"
        listed = Denials(denials(place, environment))
        enforced = Enforced(application, os.environ["MOTO_ACCOUNT_ID"], own.key, tokens, listed)
        without_signature = asks_for_a_session
    hint = (
        f'In a shell, `eval "$(modelworks env {environment})"` sets the keys of this account, which is on your laptop.'
    )
    return Authenticated(enforced, secret, hint, unsigned=without_signature)


def _store_bucket_policies() -> None:
    """Keep bucket policies without judging by them: moto reads no conditions, so "deny what is not TLS" denies all."""
    from moto.iam.access_control import PermissionResult  # only where moto runs
    from moto.s3.models import FakeBucket  # only where moto runs

    FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL  # type: ignore[method-assign]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The AWS account of one environment of a laptop cloud.")
    parser.add_argument("--place", required=True, type=Path)
    parser.add_argument("--environment", required=True)
    options = parser.parse_args()
    serve(StateDir(options.place), options.environment)
