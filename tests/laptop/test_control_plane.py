"""What an API server is given when the laptop comes up."""

from __future__ import annotations

import json

import httpx
import pytest

from modelworks.laptop import control_plane, rollouts

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
CONFIG_MAP = f"/api/v1/namespaces/kube-system/configmaps/{control_plane.CUSTOM_RESOURCES}"


class ApiServer:
    """One that keeps what is applied, and serves the kinds of its definitions."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.applied: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "PATCH":
            self.objects[path] = request.content
            self.applied.append(path)
            return httpx.Response(200, json={})
        if path == "/apis/argoproj.io/v1alpha1":
            kinds = [path.removeprefix(DEFINITIONS) for path in self.objects if path.startswith(DEFINITIONS)]
            return httpx.Response(200, json={"resources": [{"name": kind} for kind in kinds]})
        if path in self.objects:
            return httpx.Response(200, json=json.loads(self.objects[path]))
        return httpx.Response(404, json={})


@pytest.fixture
def server():
    return ApiServer()


@pytest.fixture
def come_up(server, monkeypatch):
    """Bring up a laptop whose Argo Rollouts has these definitions; returns those that were applied."""

    def up(definitions: dict[str, str]) -> list[str]:
        monkeypatch.setattr(rollouts, "custom_resources", lambda: iter(definitions.items()))
        server.applied.clear()
        with httpx.Client(transport=httpx.MockTransport(server), base_url="https://cluster") as api:
            control_plane.set_up_cluster(api)
        return [path.removeprefix(DEFINITIONS) for path in server.applied if path.startswith(DEFINITIONS)]

    return up


def test_custom_resources_are_applied_again_only_when_they_are_others(come_up):
    old = {"rollouts": "version: 1", "analysisruns": "version: 1"}
    assert come_up(old) == list(old)
    assert come_up(old) == []
    assert come_up({**old, "rollouts": "version: 2"}) == list(old)


def test_custom_resources_of_a_start_that_was_cut_off_are_applied_again(server, come_up, monkeypatch):
    definitions = {"rollouts": "version: 1", "analysisruns": "version: 1"}
    with monkeypatch.context() as cut_off:
        cut_off.setattr(control_plane, "_served", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            come_up(definitions)
    assert CONFIG_MAP not in server.objects
    assert come_up(definitions) == list(definitions)
