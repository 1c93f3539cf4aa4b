"""The server's side of SPDY/3.1, as far as the API server speaks it with a kubelet: streams over one connection.

Frames are those of https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/. Windows are not kept, nor does
the API server keep them: a stream that nobody reads holds up the others, and TCP the sender.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Mapping

PROTOCOL = "SPDY/3.1"
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN = 1
_PROTOCOL_ERROR = 1
_LONGEST_HEADERS = 65536
_MOST_STREAMS = 1000
_FRAMES_WAITING = 16
"""Of a stream that nobody reads, before the connection is read no further."""

# Both sides compress headers with what the standard guesses that they are.
_WORDS = """
    options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
    authorization cache-control connection content-base content-encoding content-language content-length
    content-location content-md5 content-range content-type date etag expect expires from host if-match
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie
    keep-alive origin
"""
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
)


def _with_length(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode("latin-1")


DICTIONARY = b"".join(_with_length(word.replace("_", " ")) for word in _WORDS.split()) + "".join(_TEXT).encode()
"""The dictionary of header compression (section 2.6.10.1 of the standard)."""


class Stream:
    """One stream, opened by the other side."""

    def __init__(self, connection: Connection, number: int, headers: Mapping[str, str]) -> None:
        self.number = number
        self.headers = headers
        self._connection = connection
        self._received: asyncio.Queue[bytes] = asyncio.Queue(_FRAMES_WAITING)
        self._unread = True
        self._open = True

    async def read(self) -> bytes:
        """The next bytes; empty when the other side has ended the stream."""
        return await self._received.get() if self._unread else b""

    async def discard(self) -> None:
        """Read nothing more of it: what comes is dropped, and holds up nothing."""
        self._unread = False
        while not self._received.empty():
            self._received.get_nowait()

    async def write(self, data: bytes) -> None:
        """Send data."""
        if data and self._open:
            await self._connection.send(self.number, data)

    async def end(self) -> None:
        """Send nothing more."""
        if self._open:
            self._open = False
            await self._connection.send(self.number, b"", _FIN)

    async def received(self, data: bytes) -> None:
        """Take what came; empty at the end."""
        if self._unread:
            await self._received.put(data)


class Connection:
    """One connection after its upgrade; `run` reads it, and the streams that it opens are iterated over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._compressor, self._decompressor = zlib.compressobj(zdict=DICTIONARY), zlib.decompressobj(zdict=DICTIONARY)
        self._streams: dict[int, Stream] = {}
        self._opened: asyncio.Queue[Stream] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[Stream]:
        """The streams that the other side opens, for ever."""
        while True:
            yield await self._opened.get()

    async def run(self) -> None:
        """Read until the other side ends the connection.

        Raises:
            ValueError: It does not keep to the protocol.
            OSError: The connection broke.
        """
        try:
            while True:
                head = await self._reader.readexactly(8)
                flags, length = head[4], int.from_bytes(head[5:])
                body = await self._reader.readexactly(length)
                if not head[0] & 0x80:
                    await self._data(int.from_bytes(head[:4]), flags, body)
                elif await self._control(int.from_bytes(head[2:4]), flags, body):
                    return
        except asyncio.IncompleteReadError:
            return
        except (struct.error, zlib.error) as error:
            raise ValueError(f"no {PROTOCOL}: {error}") from error

    async def send(self, number: int, data: bytes, flags: int = 0) -> None:
        """Send a frame of data."""
        self._writer.write(struct.pack(">IB", number, flags) + len(data).to_bytes(3) + data)
        await self._writer.drain()

    async def refuse(self, stream: Stream) -> None:
        """End a stream that makes no sense, both ways."""
        self._streams.pop(stream.number, None)
        await self._send_control(_RST_STREAM, struct.pack(">II", stream.number, _PROTOCOL_ERROR))

    async def _data(self, number: int, flags: int, body: bytes) -> None:
        if (stream := self._streams.get(number)) is None:
            return
        if body:
            await stream.received(body)
        if flags & _FIN:
            del self._streams[number]
            await stream.received(b"")

    async def _control(self, kind: int, flags: int, body: bytes) -> bool:
        """Act on a control frame; true if it ends the connection."""
        if kind == _SYN_STREAM:
            await self._syn_stream(flags, body)
        elif kind == _RST_STREAM:
            if stream := self._streams.pop(struct.unpack_from(">I", body)[0], None):
                await stream.received(b"")
        elif kind == _PING and len(body) == 4:
            await self._send_control(_PING, body)
        return kind == _GOAWAY

    async def _syn_stream(self, flags: int, body: bytes) -> None:
        (number,) = struct.unpack_from(">I", body)
        stream = Stream(self, number, self._headers(body[10:]))
        if len(self._streams) >= _MOST_STREAMS:
            return await self.refuse(stream)
        self._streams[number] = stream
        none = self._compressor.compress(struct.pack(">I", 0)) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        await self._send_control(_SYN_REPLY, struct.pack(">I", number) + none)
        if flags & _FIN:
            del self._streams[number]
            await stream.received(b"")
        self._opened.put_nowait(stream)
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        raw = self._decompressor.decompress(block, _LONGEST_HEADERS)
        if self._decompressor.unconsumed_tail:
            raise ValueError(f"headers are longer than {_LONGEST_HEADERS} bytes")
        (count,) = struct.unpack_from(">I", raw)
        words, at = [], 4
        for _ in range(2 * count):
            (length,) = struct.unpack_from(">I", raw, at)
            words.append(raw[at + 4 : at + 4 + length].decode("latin-1"))
            at += 4 + length
        return dict(zip(words[::2], words[1::2], strict=True))

    async def _send_control(self, kind: int, body: bytes) -> None:
        self._writer.write(struct.pack(">HHB", 0x8003, kind, 0) + len(body).to_bytes(3) + body)
        await self._writer.drain()
