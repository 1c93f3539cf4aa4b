"""The reference program, evaluated with each stack's own config file."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from typing import Any

import pytest
from ruamel.yaml import YAML

from mocks import ROOT, Declared, declare, laptop_shell

FILES = {
    "local": ROOT / "stacks/local.template.yaml",
    "dev": ROOT / "stacks/Pulumi.dev.yaml",
    "staging": ROOT / "stacks/Pulumi.staging.yaml",
    "prod": ROOT / "stacks/Pulumi.prod.yaml",
}
SECRETS = {"registry_password": "correct horse", "registry_database": "postgresql://user:password@db/mlflow"}


def evaluated(
    stack: str, account: str | None = None, mocks: Callable[..., Declared] = Declared, **changes: Any
) -> Declared:
    """The reference program, evaluated with the stack's own config file."""
    config = YAML(typ="safe").load(FILES[stack].read_text())["config"]
    config |= {"modelworks:secrets": SECRETS, **changes}
    account = account or config["aws:allowedAccountIds"][0]
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    declared = mocks(caller_arn=f"arn:aws:iam::{account}:user/somebody")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in laptop_shell(stack).items() if stack == "local" else ():
            patch.setenv(name, value)
        return declare(
            lambda: runpy.run_path(str(ROOT / "stacks"), run_name="__main__"), stack=stack, config=text, mocks=declared
        )
