"""Who runs this program."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def user_name() -> str:
    """The user's name, such as `alice`; `uid-1001` where the user id has none, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def user_home() -> Path | None:
    """The user's home; None where neither `HOME` nor the system's list of users names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None
