"""The AWS account of one environment: a moto server.

python -m modelworks.laptop.aws --place ROOT --environment ENV
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modelworks.laptop.place import Place, read_facts
from modelworks.laptop.supervision import Program

EMPTY = (
    "AWS accounts of the laptop are kept in memory and start empty: `modelworks up ENV` restores what is declared, "
    "running the pipelines again the data"
)
"""What is told when an account has lost what it held. moto's recorder is no way back:
identifiers depend on the order in which concurrent requests were served, and keys that encrypt are random."""

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def program(place: Place, environment: str, facts: Mapping[str, Any]) -> Program:
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


def serve(place: Place, environment: str) -> None:
    """Serve the account until the process ends."""
    facts = read_facts(place.environment(environment) / "environment.json")
    port = int(facts["aws_port"])
    os.environ |= {
        "MOTO_ACCOUNT_ID": str(facts["account"]),
        "MOTO_PORT": str(port),
        "TEST_SERVER_MODE": "true",
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
        "AWS_ACCESS_KEY_ID": "laptop",
        "AWS_SECRET_ACCESS_KEY": "laptop",
    }
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415 - reads the settings above when it is imported
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server  # noqa: PLC0415

    from modelworks.laptop import alarms  # noqa: PLC0415 - works on the data of the moto above

    alarms.start()
    _store_bucket_policies()
    application = DomainDispatcherApplication(create_backend_app)
    make_server("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler).serve_forever()


def _store_bucket_policies() -> None:
    """Keep bucket policies without judging by them: moto reads no conditions, so "deny what is not TLS" denies all."""
    from moto.iam.access_control import PermissionResult  # noqa: PLC0415 - only where moto runs
    from moto.s3.models import FakeBucket  # noqa: PLC0415 - only where moto runs

    FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL  # type: ignore[method-assign]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The AWS account of one environment of a laptop cloud.")
    parser.add_argument("--place", required=True, type=Path)
    parser.add_argument("--environment", required=True)
    options = parser.parse_args()
    serve(Place(options.place), options.environment)
