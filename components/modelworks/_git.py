"""git, called in a folder of the working tree that it is to speak of."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from modelworks.errors import ModelworksError

_SECONDS: Final = 120
"""How long git may take, a project's own commit hooks included."""


class GitError(ModelworksError):
    """Git ran and failed: the folder, the commit or the branch is not as its caller took it to be."""

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"`git {command}` failed: {said}")
        self.said = said
        """Its own words."""


def git(folder: Path, *arguments: str) -> bytes:
    """The output of git.

    Args:
        folder: Where it is called.
        arguments: Its command and that command's arguments.

    Raises:
        GitError: It fails.
        ModelworksError: It is not installed, or takes too long.
    """
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS).stdout
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip()).decode(errors="replace").removeprefix("fatal: ")
        raise GitError(arguments[0], said) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelworksError(
            f"git cannot be run: {error}", fix="Install git, or see what keeps it waiting."
        ) from error


def git_succeeds(folder: Path, *arguments: str) -> bool:
    """Whether git ends with exit code 0, which is how it answers a question.

    Raises:
        ModelworksError: It is not installed, or takes too long.
    """
    try:
        git(folder, *arguments)
    except GitError:
        return False
    return True
