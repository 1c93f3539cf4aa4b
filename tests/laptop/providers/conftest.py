"""An AWS emulator in this process, the provider in front of it, and an engine's connection to that."""

from __future__ import annotations

import urllib.request

import boto3
import pytest
from moto.server import ThreadedMotoServer

from laptop.providers.engine import Engine
from modelworks.laptop.aws_credentials import AwsCredentials
from modelworks.laptop.providers.aws import plugin_at

REGION = "eu-central-1"
ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def port(moto):
    server, port = plugin_at(moto, REGION, AwsCredentials("a", "b")).serve()
    yield port
    server.stop(None)


@pytest.fixture
def aws(moto):
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name=REGION)
    urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST")).close()  # a new account
    return lambda service: session.client(service, endpoint_url=moto)


@pytest.fixture
def engine(port, aws):
    engine = Engine(port, {"region": REGION, "defaultTags": '{"tags": {"owner": "tests"}}'})
    yield engine
    engine.close()
