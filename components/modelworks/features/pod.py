"""The program of a feature store's jobs: `python -m modelworks.features.pod`.

It does what `modelworks features` does by hand, in a pod that has neither Pulumi nor the project. Exit codes: 0 done;
1 failed: what is written stays, and the next run continues; 143 terminated.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from datetime import timedelta
from types import FrameType
from typing import NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from feast import FeatureStore
from feast.errors import FeastError

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.features.environment import open_store
from modelworks.features.materialization import cloudwatch, materialize


def main(arguments: list[str]) -> int:
    """Do what a job was made for, and return its exit code."""
    order = _parser().parse_args(arguments)
    try:
        _materialize(_store(), timedelta(seconds=order.lookback_seconds))
    except ModelworksError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _materialize(store: FeatureStore, lookback: timedelta) -> None:
    config = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 3})
    publish = cloudwatch(boto3.client("cloudwatch", config=config), os.environ[contract.ENV_ENVIRONMENT])
    for found in materialize(store, lookback=lookback, publish=publish):
        lag = "unknown" if found.lag_seconds is None else f"{found.lag_seconds:.0f} s"
        _say(
            f"{found.view}: {found.written} written, {found.older} older, {found.present} present, lag {lag}, "
            f"until {found.end.isoformat(timespec='seconds')}"
        )


def _store() -> FeatureStore:
    text = os.environ.get(contract.FEATURE_STORE_VARIABLE)
    if not text:
        raise ModelworksError(f"{contract.FEATURE_STORE_VARIABLE} is not set: it is the text of a feature_store.yaml")
    store = open_store(text)
    try:
        _ = store.registry  # Feast opens it at its first use, and makes one where there is none: a job may not
    except (BotoCoreError, ClientError, FeastError) as error:
        raise ModelworksError(
            f"the registry of features cannot be opened: {error}",
            fix="Apply the definitions first: `modelworks features apply --env ENV`.",
        ) from error
    return store


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelworks.features.pod", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser("materialize", help="write the newest values online, and publish the lag of each view")
    verb.add_argument("--lookback-seconds", type=int, default=0, help="how far before the last run's end to begin")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # who is the first process of a container is not ended by it otherwise
    sys.exit(main(sys.argv[1:]))
