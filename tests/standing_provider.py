"""Pulumi providers of the tests, in a process of their own, and the real engine led to them."""
# ruff: noqa: N802 (the methods of the plugin protocol are named by it)

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc


class StandingProvider(provider_pb2_grpc.ResourceProviderServicer):
    """A provider without configuration."""

    def GetPluginInfo(self, request, context):
        return plugin_pb2.PluginInfo(version="1.0.0")

    def Attach(self, request, context):
        return empty_pb2.Empty()

    def CheckConfig(self, request, context):
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request, context):
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)


def serve(provider: StandingProvider, port: int | str = 0) -> None:
    """Print the port and serve until the process ends."""
    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(bound, flush=True)
    server.wait_for_termination()


@contextmanager
def standing(program: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """The id and the port of a provider's process, for the time of the block."""
    process = subprocess.Popen([sys.executable, program, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def engine_variables(folder: Path, pulumi: Path, providers: str) -> dict[str, str]:
    """The environment of an engine with a backend and a home below `folder`.

    Args:
        folder: An empty folder.
        pulumi: The executable.
        providers: `NAME:PORT` of each, with commas.
    """
    (folder / "backend").mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PULUMI_", "MODELWORKS_", "AWS_"))}
    return {
        **kept,
        "PATH": os.pathsep.join([str(pulumi.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PULUMI_BACKEND_URL": f"file://{folder / 'backend'}",
        "PULUMI_CONFIG_PASSPHRASE": "a passphrase",
        "PULUMI_HOME": str(folder / "home"),
        "PULUMI_DEBUG_PROVIDERS": providers,
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }
