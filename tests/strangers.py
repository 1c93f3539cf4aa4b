"""Another user of this machine, who tries what any user may."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

UID = 61_234
"""A user id that nobody has."""

only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")


def as_stranger(work: Callable[[], Any]) -> Any:
    """What `work` returns when another user does it.

    It runs in a copy of this process, for the other user may not read the files of this Python: what it imports must
    have been imported before.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(UID, UID, UID)
            os.setresuid(UID, UID, UID)
            answer = (True, work())
        except BaseException:  # noqa: BLE001 - the process that runs the test raises it
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        good, answer = pickle.load(file)
    os.waitpid(child, 0)
    assert good, answer
    return answer
