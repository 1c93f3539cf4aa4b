"""The one family of errors that modelworks raises on purpose."""

from __future__ import annotations


class ModelworksError(Exception):
    """Something a user can act on.

    The command line prints `message` and `fix` without a traceback and exits with `exit_code`.

    Args:
        message: The problem: the input, the rule it breaks, the value found.
        fix: The remedy, as an imperative sentence. Empty if the message implies it.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n{self.fix}" if self.fix else self.message
