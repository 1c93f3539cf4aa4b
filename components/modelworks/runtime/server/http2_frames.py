"""The frames of HTTP/2 (RFC 9113, sections 4, 6 and 7), and the errors by which a connection or a stream ends."""

from __future__ import annotations

import struct

MAX_FRAME = 16 << 10
"""Of a frame: the largest that anyone may send, unless the other end admits more (section 4.2)."""
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, HAS_PRIORITY = 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_LIST = range(1, 7)
MOST_WINDOW = (1 << 31) - 1

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)

frame_head = struct.Struct(">HBBBI")
setting = struct.Struct(">HI")
word = struct.Struct(">I")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    size = len(payload)
    return frame_head.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


class Http2Error(Exception):
    """An error that ends a connection.

    Args:
        code: Of RFC 9113, section 7.
        reason: In words.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class StreamError(Exception):
    """An error that ends a stream, with the code of it."""


def check_frame(good_stream: bool, good_size: bool) -> None:
    if not good_stream:
        raise Http2Error(PROTOCOL_ERROR, "a frame that belongs to a stream does not, or the reverse")
    if not good_size:
        raise Http2Error(FRAME_SIZE_ERROR, "a frame of a wrong size")


def unpadded(data: bytes) -> bytes:
    if not data:
        raise Http2Error(FRAME_SIZE_ERROR, "a padded frame has no padding")
    if data[0] >= len(data):
        raise Http2Error(PROTOCOL_ERROR, "a frame with more padding than bytes")
    return data[1 : len(data) - data[0]]
