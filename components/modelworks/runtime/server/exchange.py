"""A request over HTTP whose body is taken in pieces, and whose answer begins before the body has ended.

Its memory is bounded however long it is. The connection is read only while whoever takes the body needs more of it, and
nothing more is answered while the client leaves too much unread. The answer is in chunks, and the last chunk is sent
only if all of it is there: a client cannot mistake a part for the whole (RFC 9112, section 8). It is the last answer of
its connection.
"""

from __future__ import annotations

from typing import Any, Protocol

Broken = tuple[int, str]
"""The status and the reason of a refusal, as HTTP has them."""

_LEAST_READ = 16 << 10
"""Bytes of an answer that a client reads in the time that it may leave one unread, unless it is done with it."""


class Taker(Protocol):
    """Takes the body and answers."""

    def more(self) -> None:
        """There is more of the body, or it is complete, or the client has read what it left unread."""

    def broken(self, refusal: Broken | None) -> None:
        """There will be no more of the body: the client broke a rule, or has gone (None)."""


class Wire(Protocol):
    """The connection, as far as an exchange needs it; see `http.Connection`."""

    def begin(self, status: int, content_type: bytes, headers: bytes) -> int: ...
    def write_on(self, data: bytes) -> int: ...
    def unread(self) -> int: ...
    def is_full(self) -> bool: ...
    def hold(self) -> None: ...
    def read_on(self) -> None: ...
    def drop_rest(self) -> None: ...
    def leave(self) -> None: ...
    def respond(self, request: Any, status: int, body: bytes, content_type: bytes, headers: bytes) -> None: ...


class Exchange:
    """One such request.

    Args:
        connection: Of the client.
        request: Its head.
    """

    def __init__(self, connection: Wire, request: object) -> None:
        self._connection, self.request = connection, request
        self._taker: Taker | None = None
        self._refusal: Broken | None = None
        self._broken = False
        self._sent = self._taken = 0
        """Bytes of the answer, and those of them that had left when somebody looked."""
        self.data = bytearray()
        """The part of the body that came and was not taken."""
        self.complete = False
        """Whether the body has ended."""

    # -- From the connection -------------------------------------------------------------------------------------
    def feed(self, data: bytes) -> None:
        """More of the body."""
        self.data += data
        self.notify()

    def end_body(self) -> None:
        """The body is complete."""
        self.complete = True
        self.notify()

    def notify(self) -> None:
        """Something has changed for the taker; without one yet, the connection is not read."""
        if self._taker is None:
            self.hold()
        else:
            self._taker.more()

    def break_off(self, refusal: Broken | None) -> None:
        """There will be no more of the body."""
        self._broken, self._refusal = True, refusal
        if self._taker is not None:
            self._taker.broken(refusal)

    def has_progress(self) -> bool:
        """Whether the client has read some of the answer since this returned last."""
        left = self._sent - self._connection.unread()
        moved, self._taken = left >= self._taken + _LEAST_READ, left
        return moved

    # -- From the taker ------------------------------------------------------------------------------------------
    def take(self, taker: Taker) -> None:
        """Hand the body to `taker`."""
        self._taker = taker
        if self._broken:
            taker.broken(self._refusal)
        else:
            taker.more()

    def want(self) -> None:
        """Read on; the client has the time of a whole request for what is wanted."""
        self._connection.read_on()

    def hold(self) -> None:
        """Read no more for now; it is not the client that is slow."""
        self._connection.hold()

    @property
    def waits(self) -> bool:
        """Whether the client has left so much of the answer unread that there should be no more."""
        return self._connection.is_full()

    def respond(
        self,
        request: Any,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        headers: bytes = b"",
    ) -> None:
        """Answer at once and whole, without the rest of the body; see `Connection.respond`."""
        self._leave()
        self._connection.respond(request, status, body, content_type, headers)

    def back_off(self) -> None:
        """Nothing: its connection ends."""

    def begin(self, status: int, content_type: bytes, headers: bytes) -> None:
        """Begin the answer; its pieces follow."""
        self._sent += self._connection.begin(status, content_type, headers)

    def write(self, data: bytes) -> None:
        """A piece of the answer; not empty."""
        self._sent += self._connection.write_on(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """The answer is whole."""
        self._sent += self._connection.write_on(b"0\r\n\r\n")
        self._taker = _NOBODY
        self._connection.leave()

    def cut(self) -> None:
        """End the connection after what was written, which is not the whole answer."""
        self._leave()
        self._connection.leave()

    def _leave(self) -> None:
        self._taker = _NOBODY
        self.data.clear()
        self._connection.drop_rest()


class _Nobody:
    """Takes a body that nobody wants."""

    def more(self) -> None:
        """Nothing."""

    def broken(self, refusal: Broken | None) -> None:
        """Nothing."""


_NOBODY = _Nobody()
