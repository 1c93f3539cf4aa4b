"""A server on a port of its own, an AWS on another, and bundles to serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

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

    def start(bundle: Any, **more: str) -> Server:
        server = Server(settings(bundle, **more), tmp_path / f"log-{len(started)}")
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
