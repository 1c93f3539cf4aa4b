"""The program of a feature store's jobs: `python -m modelworks.features.pod`.

It does what `modelworks features` does by hand, in a pod that has neither Pulumi nor the project. Exit codes: 0 done;
1 a view failed: what is written stays, and the next run continues; 143 terminated.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from feast import FeatureStore, FeatureView
from feast.errors import FeastError

from modelworks import contract
from modelworks._container import end_on_sigterm
from modelworks.errors import ModelworksError
from modelworks.features.environment import open_store, verify, verify_log
from modelworks.features.materialization import Publish, cloudwatch, lag, materialize, views_of

_CONFIG = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 3})


def main(arguments: list[str]) -> int:
    """Do what a job was made for, view by view, and return its exit code. A view that fails stops no other."""
    order = _parser().parse_args(arguments)
    try:
        store = _store()
        views = views_of(store)
    except ModelworksError as error:
        _say(f"error: {error}")
        return 1
    done = [_succeeds(order, store, view) for view in views]
    return 0 if all(done) else 1


def _succeeds(order: argparse.Namespace, store: FeatureStore, view: FeatureView) -> bool:
    try:
        order.run(order, store, view)
    except (BotoCoreError, ClientError, ModelworksError) as error:
        _say(f"error: {view.name}: {error}")
        return False
    return True


def _materialize(order: argparse.Namespace, store: FeatureStore, view: FeatureView) -> None:
    lookback = timedelta(seconds=order.lookback_seconds)
    for found in materialize(store, [view.name], lookback=lookback, publish=_publisher()):
        age = "unknown" if found.lag_seconds is None else f"{found.lag_seconds:.0f} s"
        _say(
            f"{found.view}: {found.written} written, {found.older} older, {found.present} present, lag {age}, "
            f"until {found.end.isoformat(timespec='seconds')}"
        )


def _verify(order: argparse.Namespace, store: FeatureStore, view: FeatureView) -> None:
    """Publish the share of values that differ. Their examples are values of entities, and in no log."""
    _verify_online(order, store, view)
    if order.predictions:
        _verify_served(order, store, view)


def _verify_served(order: argparse.Namespace, store: FeatureStore, view: FeatureView) -> None:
    client = boto3.client("s3", config=_CONFIG)
    behind, seed = timedelta(seconds=order.behind_seconds), datetime.now(UTC).toordinal()
    found = list(verify_log(store, client, order.predictions, [view], sample=order.sample, behind=behind, seed=seed))
    for each in found:
        counts = f"{each.compared} served, {each.different} different, {each.stale} stale, {each.missing} missing"
        _say(f"{each.model} {view.name}:{each.feature}: {counts}")
    if compared := sum(each.compared for each in found):
        wrong = sum(each.different + each.stale + each.missing for each in found)
        _publisher(metric=contract.METRIC_FEATURE_SKEW, unit="None")(view.name, wrong / compared)


def _verify_online(order: argparse.Namespace, store: FeatureStore, view: FeatureView) -> None:
    if lag(store, view) is None:
        _say(f"{view.name}: never materialized without a gap, nothing to compare")
        return
    seed = datetime.now(UTC).toordinal()  # another sample every day
    found = list(verify(store, [view], order.sample, seed))
    for each in found:
        counts = f"{each.compared} compared, {each.different} different, {each.missing} missing"
        _say(f"{view.name}:{each.feature}: {counts}")
    if compared := sum(each.compared for each in found):
        publish = _publisher(metric=contract.METRIC_FEATURE_SKEW, unit="None")
        publish(view.name, sum(each.different + each.missing for each in found) / compared)


def _publisher(**metric: str) -> Publish:
    return cloudwatch(boto3.client("cloudwatch", config=_CONFIG), os.environ[contract.ENV_ENVIRONMENT], **metric)


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
    verb.set_defaults(run=_materialize)
    verb = verbs.add_parser("verify", help="compare online values with history, and publish the skew of each view")
    verb.add_argument("--sample", type=int, default=1000, help="entities of each view, and rows of each model's log")
    verb.add_argument("--predictions", default="", help="s3://bucket/prefix of the prediction logs. Default: none")
    verb.add_argument("--behind-seconds", type=int, default=86_400, help="how far online values may be behind history")
    verb.set_defaults(run=_verify)
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    end_on_sigterm()
    sys.exit(main(sys.argv[1:]))
