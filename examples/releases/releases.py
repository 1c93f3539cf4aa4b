"""Steps of a pipeline that register, release, promote and roll back: docs/guides/releases.md, From Python."""

import json
import subprocess
from pathlib import Path

import boto3

from modelworks.lifecycle.promotion import promote
from modelworks.lifecycle.registration import register, release, roll_back
from modelworks.lifecycle.registry import Registry
from modelworks.lifecycle.runs import Home, latest_run
from modelworks.lifecycle.store import Store

HOME = Home(
    Path(".modelworks")
)  # where `modelworks train` kept the run: MODELWORKS_HOME, or this folder of the checkout


def stack_file(environment: str) -> Path:
    return Path(f"stacks/Pulumi.{environment}.yaml")


def pulumi(environment: str, *command: str) -> str:
    argv = ["pulumi", *command, "--stack", environment]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def registry_of(environment: str) -> Registry:
    outputs = json.loads(pulumi(environment, "stack", "output", "--json"))
    password = pulumi(environment, "config", "get", "--path", "modelworks:secrets.registry_password")
    store = Store(
        environment,
        bucket=outputs["bundle_bucket"],
        artifacts=outputs["artifact_bucket"],
        session=boto3.Session(profile_name=environment),
    )
    return Registry(outputs["registry_url"], password.strip(), store)


def release_latest(model: str, environment: str) -> None:
    """Gates, registration and one changed line; `modelworks up` rolls it out."""
    registry, file = registry_of(environment), stack_file(environment)
    version = register(latest_run(model, HOME), HOME, registry, file)
    release(registry, file, version)


def promote_what_serves(model: str, source: str, target: str) -> None:
    files = {"source_file": stack_file(source), "target_file": stack_file(target)}
    promote(model, registry_of(source), registry_of(target), **files, home=HOME)


def go_back(model: str, environment: str) -> None:
    roll_back(registry_of(environment), stack_file(environment), model)
