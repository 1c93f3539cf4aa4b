"""The account that the tests of this folder ask."""

from __future__ import annotations

import pytest

from laptop.authorization.strict_account import Strict
from modelworks.laptop.state_dir import StateDir


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    account = Strict(StateDir(tmp_path_factory.mktemp("strict") / "place"))
    yield account
    account.kill()
