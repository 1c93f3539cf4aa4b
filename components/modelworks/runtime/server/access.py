"""Who is let in: callers that send one of the tokens in a file.

A file without a token lets nobody in, and an endpoint never opens by itself: only `allow_anonymous` opens it, and then
nothing here runs. A file that cannot be read leaves the tokens as they were, because a Secret's volume replaces its
files while the server runs; to revoke all tokens, empty the file.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

from modelworks import contract
from modelworks.errors import ModelworksError


class TokenFile:
    """Bearer tokens, one a line, read from a file that may change.

    Args:
        path: The file.
        say: Logs: level, message and fields.

    Raises:
        ModelworksError: The file cannot be read, or has no token.
    """

    def __init__(self, path: Path, say: Callable[..., object]) -> None:
        self._path, self._say = path, say
        try:
            self._content = path.read_bytes()
        except OSError as error:
            raise ModelworksError(
                f"{contract.ENV_TOKEN_FILE}: {path} cannot be read: {error.strerror}",
                fix="Write one bearer token a line, readable by the server's user.",
            ) from error
        self._tokens = _tokens(self._content)
        self._trouble = ""
        if not self._tokens:
            raise ModelworksError(
                f"{contract.ENV_TOKEN_FILE}: {path} has no token",
                fix=f"Write one bearer token a line, or set {contract.ENV_ALLOW_ANONYMOUS}=true to let everyone in.",
            )

    def allows(self, authorization: bytes) -> bool:
        """Whether this value of an Authorization header carries one of the tokens."""
        given = authorization[7:] if authorization[:7].lower() == b"bearer " else b""
        # Every token is compared, in constant time: how long it takes tells nothing.
        return bool(sum([hmac.compare_digest(given, token) for token in self._tokens]))

    def refresh(self) -> None:
        """Read the file again, and log what changed. Never raises."""
        try:
            content = self._path.read_bytes()
        except OSError as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                self._say("error", "the token file cannot be read; the last tokens stay valid", error=self._trouble)
            return
        if self._trouble:
            self._trouble = ""
            self._say("info", "the token file can be read again", path=str(self._path))
        if content == self._content:
            return
        self._content, self._tokens = content, _tokens(content)
        if self._tokens:
            self._say("info", "tokens were read again", path=str(self._path), count=len(self._tokens))
        else:
            self._say("error", "the token file has no token; every request is refused", path=str(self._path))


def _tokens(content: bytes) -> list[bytes]:
    return [text for line in content.splitlines() if (text := line.strip())]
