"""A server on a port of its own, an AWS on another, and bundles to serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from modelworks import contract
from runtime import custom_bundle, example_bundle
from runtime.running import Server, settings
from waiting import PATIENCE


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    return example_bundle.build(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def scikit_example(tmp_path_factory):
    return example_bundle.build(tmp_path_factory.mktemp("bundle"), onnx=False)


@pytest.fixture(scope="session")
def custom_example(example, tmp_path_factory):
    return custom_bundle.build(tmp_path_factory.mktemp("bundle") / "custom", example.manifest)


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(bundle: Any, *, out: int | None = None, within: Sequence[str] = (), **more: str) -> Server:
        server = Server(settings(bundle, **more), tmp_path / f"log-{len(started)}", out, within)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module")
def server(example, tmp_path_factory) -> Iterator[Server]:
    """One server for tests that do not change it."""
    running = Server(settings(example), tmp_path_factory.mktemp("server") / "log").ready()
    yield running
    running.stop()


@pytest.fixture
def aws(monkeypatch):
    """An AWS emulator; its endpoint is where clients of this test go by themselves."""
    from moto.server import ThreadedMotoServer

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    endpoint = "http://{}:{}".format(*moto.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    import boto3

    s3 = boto3.client("s3", config=__import__("botocore.config").config.Config(s3={"addressing_style": "path"}))
    s3.create_bucket(Bucket="store", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield s3
    import requests

    requests.post(f"{endpoint}/moto-api/reset", timeout=PATIENCE)
    moto.stop()


@pytest.fixture
def published(example, aws, tmp_path):
    """Settings of a server that publishes quickly."""
    aws.upload_file(str(example.archive), "store", "bundles/delays/x.bento")
    return {
        contract.ENV_BUNDLE_URI: "s3://store/bundles/delays/x.bento",
        contract.ENV_METRICS: "cloudwatch",
        contract.ENV_METRICS_SECONDS: "0.3",
        contract.ENV_PREDICTION_LOG: "s3://store/predictions",
        contract.ENV_PREDICTION_LOG_SECONDS: "0.3",
        contract.ENV_SCRATCH: str(tmp_path / "scratch"),
    }
