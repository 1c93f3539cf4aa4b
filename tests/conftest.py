from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

import modelworks.features  # noqa: F401 - before Feast, whose import then takes a quarter of the time

# Hypothesis fails a test whose examples take long, which says how busy the machine is and nothing of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure():
    # A shell ignores Ctrl-C for what it runs in the background, and children inherit that: tests of Ctrl-C would lie.
    signal.signal(signal.SIGINT, signal.default_int_handler)
