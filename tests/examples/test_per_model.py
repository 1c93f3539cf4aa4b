"""The layout of docs/guides/splitting-stacks.md, evaluated: what the platform exports is what a model's stack reads."""

from __future__ import annotations

import json
import os
import runpy
from dataclasses import dataclass, field
from typing import Any

import pytest

from mocks import ACCOUNT, ROOT, Declared, declare

EXAMPLE = ROOT / "examples/per-model"
IMAGE = "registry.example.com/image@sha256:" + "0" * 64
PLATFORM = {
    "account": ACCOUNT,
    "oidc_issuer": "oidc.eks.eu-central-1.amazonaws.com/id/1",
    "domain": "dev.example.com",
    "key_arn": f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1",
    "alerts_topic_arn": f"arn:aws:sns:eu-central-1:{ACCOUNT}:alerts",
    "namespace": "modelworks-dev",
    "bundle_bucket": "bundles",
    "prediction_bucket": "predictions",
}
ACCOUNTS = {"aws:region": "eu-central-1", "aws:allowedAccountIds": json.dumps([ACCOUNT])}


@dataclass
class OnPlatform(Declared):
    """With the platform's stack to refer to; stack references that were asked for, and outputs that were exported."""

    referred: list[str] = field(default_factory=list)

    def new_resource(self, args: Any) -> tuple[str, dict[Any, Any]]:
        if args.typ != "pulumi:pulumi:StackReference":
            return super().new_resource(args)
        self.referred.append(args.name)
        return args.name, {**args.inputs, "outputs": PLATFORM}


@pytest.fixture(autouse=True)
def _no_laptop(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PULUMI_", "AWS_"))]:
        monkeypatch.delenv(name)


def evaluated(folder: str, config: dict[str, str], monkeypatch) -> tuple[OnPlatform, dict[str, Any]]:
    exported: dict[str, Any] = {}
    monkeypatch.setattr("pulumi.export", exported.__setitem__)
    mocks = OnPlatform()
    declare(
        lambda: runpy.run_path(str(EXAMPLE / folder), run_name="__main__"),
        stack="dev",
        config=ACCOUNTS | config,
        mocks=mocks,
    )
    return mocks, exported


def test_the_platform_exports_what_a_models_stack_reads(monkeypatch):
    config = {
        "modelworks:oidc_issuer": PLATFORM["oidc_issuer"],
        "modelworks:domain": "dev.example.com",
        "modelworks:registry_password": "of the test alone",
        "modelworks:registry_image": IMAGE,
    }
    declared, exported = evaluated("platform", config, monkeypatch)
    assert set(exported) == set(PLATFORM)
    assert len(declared.all("aws:kms/key:Key")) == 1


def test_a_models_stack_stands_on_the_platform_of_its_own_environment(monkeypatch):
    config = {
        "modelworks:host": "flight-delay.dev.example.com",
        "modelworks:release": json.dumps({"digest": f"sha256:{'a' * 64}", "version": 12}),
        "modelworks:allow_anonymous": "true",
        "modelworks:image": IMAGE,
    }
    declared, exported = evaluated("flight-delay", config, monkeypatch)
    assert declared.referred == ["organization/platform/dev"]
    assert set(exported) == {"url"}
    rollouts = declared.all("kubernetes:argoproj.io/v1alpha1:Rollout")
    assert [rollout["metadata"]["namespace"] for rollout in rollouts.values()] == ["modelworks-dev"]
    assert declared.all("aws:kms/key:Key") == {}
