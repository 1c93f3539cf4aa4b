"""Headers of HTTP/2: packed and unpacked (RFC 7541), and checks of a request by them (RFC 9113, section 8)."""

from __future__ import annotations

import itertools
import re

import hpack

from modelworks.runtime.server.http2_frames import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    PROTOCOL_ERROR,
    Http2Error,
    StreamError,
)

MAX_HEADER_BYTES = 16 << 10
"""Of the headers of a call, packed and unpacked."""
MAX_FIELDS = 100
"""Most headers of a call."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)
_NO_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]\Z")
_OF_CONNECTION = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})

Fields = list[tuple[bytes, bytes]]


def field(name: bytes, value: bytes) -> bytes:
    """A header as it is sent: not in a table (RFC 7541, section 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(value: bytes) -> bytes:
    size = len(value)
    if size < 0x7F:
        return b"%c%b" % (size, value)
    left, length = size - 0x7F, bytearray(b"\x7f")
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return bytes(length) + value


class Unpacker:
    """Unpacks the headers of a connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MAX_HEADER_BYTES)
        self.forbids_table = self.stateless = False
        """Whether the client has acknowledged that it may have no table; whether equal bytes are equal headers."""

    def forbid_table(self) -> None:
        """The client has acknowledged that it may have no table."""
        if self.forbids_table:
            return
        self.forbids_table = True
        self._decoder.max_allowed_table_size = 0
        if not self._decoder.header_table.dynamic_entries:
            self._decoder.header_table_size = 0
            self.stateless = True

    def unpack(self, block: bytes) -> Fields:
        """The headers in a block."""
        try:
            fields: Fields = list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError as error:
            raise Http2Error(ENHANCE_YOUR_CALM, f"headers of more than {MAX_HEADER_BYTES} bytes") from error
        except hpack.HPACKError as error:
            raise Http2Error(COMPRESSION_ERROR, "the headers cannot be unpacked") from error
        if len(fields) > MAX_FIELDS:
            raise Http2Error(ENHANCE_YOUR_CALM, f"more than {MAX_FIELDS} headers")
        self.stateless = self.forbids_table and self._decoder.header_table_size == 0
        return fields


def check_request(fields: Fields) -> int | None:
    """The announced bytes of the body of a request whose headers are well-formed (sections 8.2 and 8.3)."""
    first = [name for name, _ in itertools.takewhile(lambda each: each[0][:1] == b":", fields)]
    known = set(first)
    if len(known) != len(first) or not known <= _PSEUDO or not {b":method", b":scheme", b":path"} <= known:
        raise StreamError(PROTOCOL_ERROR)
    if not dict(fields)[b":path"]:
        raise StreamError(PROTOCOL_ERROR)
    check_fields(fields[len(first) :])
    lengths = {value for name, value in fields if name == b"content-length"}
    if not lengths:
        return None
    [length] = lengths if len(lengths) == 1 else {b""}
    if not length.isdigit() or len(length) > 18:
        raise StreamError(PROTOCOL_ERROR)
    return int(length)


def check_fields(fields: Fields) -> None:
    """Refuse headers or trailers that are not well-formed."""
    for name, value in fields:
        if _NAME.fullmatch(name) is None or _NO_VALUE.search(value) or name in _OF_CONNECTION:
            raise StreamError(PROTOCOL_ERROR)
        if name == b"te" and value != b"trailers":
            raise StreamError(PROTOCOL_ERROR)
