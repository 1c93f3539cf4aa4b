"""Frames of HTTP/2, as far as they cost a server more than its client (RFC 9113 and RFC 7541).

gRPC bounds the size of headers after it has unpacked them, and calls of one connection but not of all of them. A header
takes a byte on the wire and about a hundred in memory, so a client may fill a gigabyte in seconds. Here headers are
counted before they are passed on: that needs the lengths of their parts, and not their values.
"""

from __future__ import annotations

_HEAD = 9
"""Bytes of the head of a frame (RFC 9113, section 4.1)."""
_DATA, _HEADERS, _RESET, _CONTINUATION = 0, 1, 3, 9
_END_STREAM, _PADDED, _PRIORITY = 1, 8, 32
_MOST_BYTES = 16 << 10
"""Of a frame of headers: the largest that any client may send, unless the server admits more (section 4.2)."""
_MOST_HEADERS = 100
"""Of a call."""


class FrameError(Exception):
    """A client sends frames that no call needs; its connection is to be closed."""


class Frames:
    """Frames of one direction of a connection, in pieces of any size.

    Args:
        skip: Bytes before the first one.
        checked: Whether headers are counted: those of a client.
    """

    def __init__(self, skip: int = 0, *, checked: bool) -> None:
        self._skip, self._checked, self._rest = skip, checked, b""
        self.begun: set[int] = set()
        """Streams with headers, since it was emptied."""
        self.ended: set[int] = set()
        """Streams that are over, since it was emptied: by a reset, or by the end of what a server sends."""
        self.idle = 0
        """Frames without headers or data: those of calls are few."""

    def take(self, data: bytes) -> bytes:
        """The bytes that may be passed on: all, but for headers that are not complete.

        Raises:
            FrameError: There are too many headers, or they are in more than one frame.
        """
        data, size = self._rest + data, len(self._rest) + len(data)
        at = min(self._skip, size)
        self._skip -= at
        while size - at >= _HEAD:
            length = int.from_bytes(data[at : at + 3])
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + _HEAD]) & 0x7FFFFFFF
            if kind == _HEADERS:
                if self._checked:
                    if length > _MOST_BYTES:
                        raise FrameError(f"headers of {length} bytes")
                    if size - at - _HEAD < length:
                        break
                    _check_headers(data[at + _HEAD : at + _HEAD + length], flags)
                    self.begun.add(stream)
                elif flags & _END_STREAM:
                    self.ended.add(stream)
            elif kind != _DATA or not (length or flags & _END_STREAM):
                self.idle += 1
            if kind == _RESET:
                self.ended.add(stream)
            elif kind == _CONTINUATION and self._checked:
                # Headers that fill more than a frame are larger than gRPC admits.
                raise FrameError("headers in more than one frame")
            at += _HEAD + length
        self._skip += max(0, at - size)
        self._rest = data[at:]
        return data[:at]


def _check_headers(payload: bytes, flags: int) -> None:
    """Refuse more headers than a call has."""
    at, end = 0, len(payload)
    if flags & _PADDED and payload:
        at, end = 1, end - payload[0]
    if flags & _PRIORITY:
        at += 5
    count = 0
    while at < end:
        count += 1
        if count > _MOST_HEADERS:
            raise FrameError(f"more than {_MOST_HEADERS} headers")
        at = _after_field(payload, at)


def _after_field(block: bytes, at: int) -> int:
    """Where the next field begins (RFC 7541, section 6)."""
    first = block[at]
    if first & 0x80:  # from the table
        return _integer(block, at, 7)[1]
    if first & 0xE0 == 0x20:  # the size of the table
        return _integer(block, at, 5)[1]
    name, at = _integer(block, at, 6 if first & 0x40 else 4)
    for _ in range(1 if name else 2):
        length, at = _integer(block, at, 7)
        at += length
    return at


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """A number, and where it ends (RFC 7541, section 5.1)."""
    most = (1 << bits) - 1
    if at >= len(block):
        raise FrameError("headers that end within a field")
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 35, 7):
        if at >= len(block):
            break
        value += (block[at] & 0x7F) << shift
        at += 1
        if block[at - 1] < 0x80:
            return value, at
    raise FrameError("headers with a length that has no end")
