"""A client of HTTP/2 that sends the frames it is given, whether or not they make sense."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from modelworks.runtime.server.http import PREFACE
from waiting import PATIENCE

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, HAS_PRIORITY = 4, 8, 32
NO_ERROR, PROTOCOL, INTERNAL, FLOW, SETTINGS_TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, _, CALM = range(12)
"""Codes of errors (RFC 9113, section 7)."""
EMPTY = b"\0\0\0\0\0"
"""A message without fields."""
LIVE = b"/inference.GRPCInferenceService/ServerLive"
INFER = b"/inference.GRPCInferenceService/ModelInfer"
WATCH = b"/grpc.health.v1.Health/Watch"


class Frame(NamedTuple):
    """A frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of an error."""
        return int.from_bytes(self.payload[:4] if self.kind == RESET else self.payload[4:8])


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def text(value: bytes) -> bytes:
    """A string of HPACK, shorter than 127 bytes."""
    return bytes([len(value)]) + value


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is in no table (RFC 7541, section 6.2.2)."""
    return b"\0" + text(name) + text(value)


def headers(more: bytes = b"", path: bytes = INFER) -> bytes:
    """The headers of a call, none of them in the table: POST and http, and those of gRPC."""
    fields = {b":path": path, b":authority": b"x", b"content-type": b"application/grpc", b"te": b"trailers"}
    return b"\x83\x86" + b"".join(literal(name, value) for name, value in fields.items()) + more


def begun(stream: int, path: bytes = LIVE, more: bytes = b"") -> bytes:
    """A call whose message is yet to come."""
    return frame(HEADERS, END_HEADERS, stream, headers(more, path))


def message(stream: int, content: bytes = b"") -> bytes:
    """The message of a call, and its end."""
    return frame(DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(content)) + content)


def call(stream: int, path: bytes = LIVE, content: bytes = b"") -> bytes:
    """All of a call."""
    return begun(stream, path) + message(stream, content)


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


def word(value: int) -> bytes:
    return struct.pack(">I", value)


def parsed(data: bytes) -> Iterator[Frame]:
    """The frames that are complete."""
    while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3])):
        yield Frame(data[3], data[4], int.from_bytes(data[5:9]), data[9 : 9 + size])
        data = data[9 + size :]


class Wire:
    """A connection; it has sent the preface and settings, and acknowledges those of the server."""

    def __init__(self, port: int, settings: bytes = b"", *, acknowledges: bool = True) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))
        if acknowledges:
            self.until(lambda each: each.kind == SETTINGS and not each.flags & ACK)
            self.send(frame(SETTINGS, ACK, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        """Send them, unless the server has ended the connection."""
        with contextlib.suppress(OSError):
            self._socket.sendall(b"".join(frames))

    def abort(self) -> None:
        """End it at once, as the death of its process may."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def frames(self) -> Iterator[Frame]:
        """What comes, to the end."""
        while True:
            for each in parsed(self.rest):
                self.rest = self.rest[9 + len(each.payload) :]
                yield each
            try:
                more = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return
            if not more:
                return
            self.rest += more

    def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The first frame that is wanted."""
        for each in self.frames():
            if wanted(each):
                return each
        raise AssertionError("the connection ended before")

    def until_each(self, wanted: Callable[[Frame], bool]) -> Iterator[Frame]:
        """What comes before the first frame that is wanted."""
        for each in self.frames():
            if wanted(each):
                return
            yield each
        raise AssertionError("the connection ended before")

    def told(self) -> Frame:
        """The first frame that is not about windows and settings."""
        return self.until(lambda each: each.kind not in {SETTINGS, WINDOW})

    def answer(self, stream: int) -> tuple[bytes, bytes]:
        """The message of an answer and its trailers, packed."""
        found = b""
        for each in self.frames():
            if each.stream == stream and each.kind == RESET:
                raise AssertionError(f"reset with {each.code}")
            if each.stream == stream and each.kind == DATA:
                found += each.payload
            if each.stream == stream and each.kind == HEADERS and each.flags & END_STREAM:
                return found, each.payload
        raise AssertionError("the connection ended before")
