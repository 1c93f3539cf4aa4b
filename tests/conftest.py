from __future__ import annotations

import signal


def pytest_configure():
    # A shell ignores Ctrl-C for what it runs in the background, and children inherit that: tests of Ctrl-C would lie.
    signal.signal(signal.SIGINT, signal.default_int_handler)
