"""How the command line reaches an environment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from modelworks.cli.context import Target


@pytest.mark.parametrize(
    ("declared", "reached"),
    [
        ("http://churn.local.localhost", "http://churn.local.localhost:21212"),
        ("https://churn.ml.example.com", "http://churn.ml.example.com.localhost:21212"),
    ],
)
def test_on_the_laptop_every_url_is_at_the_gateways_plain_port(monkeypatch, tmp_path, declared, reached):
    (tmp_path / "laptop.json").write_text('{"ports": {"gateway": 21212}}')
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    assert Target("prod", SimpleNamespace(on_laptop=True)).address(declared) == reached


def test_in_the_cloud_a_url_is_what_the_stack_says():
    url = "https://churn.ml.example.com"
    assert Target("prod", SimpleNamespace(on_laptop=False)).address(url) == url
