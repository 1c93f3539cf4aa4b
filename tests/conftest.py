from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

import modelworks.features  # noqa: F401 - before Feast, whose import then takes a quarter of the time

# Hypothesis fails a test whose examples take long, which says how busy the machine is and nothing of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure():
    # A shell ignores Ctrl-C for what it runs in the background, and children inherit that: tests of Ctrl-C would lie.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def aws_by_variables(monkeypatch):
    """An emulated account that is empty, whose address clients have by variables; the address."""
    from emulated import REGION, emulator

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with emulator() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield url
