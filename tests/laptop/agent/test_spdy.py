"""The frames that the API server speaks with a kubelet, from the other side of a connection."""

import asyncio
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.laptop.agent.spdy import DICTIONARY, Connection
from waiting import PATIENCE

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7


class Written:
    """The side of a stream writer that a connection uses; keeps what it is given."""

    def __init__(self):
        self.data = bytearray()

    def write(self, data):
        self.data += data

    async def drain(self):
        pass

    def frames(self):
        """(kind, or 0 for data; first number; flags; body) of each frame."""
        found, data = [], bytes(self.data)
        while data:
            first, flags, length = struct.unpack(">I", data[:4])[0], data[4], int.from_bytes(data[5:8])
            body, data = data[8 : 8 + length], data[8 + length :]
            found.append((first & 0xFFFF if first >> 31 else 0, first, flags, body))
        return found


class Peer:
    """Makes the frames of a client."""

    def __init__(self):
        self._compressor = zlib.compressobj(zdict=DICTIONARY)

    def open(self, number, flags=0, **headers):
        block = struct.pack(">I", len(headers))
        for word in (word for pair in headers.items() for word in pair):
            block += struct.pack(">I", len(word)) + word.encode()
        packed = self._compressor.compress(block) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return control(SYN_STREAM, struct.pack(">IIH", number, 0, 0) + packed, flags)


def control(kind, body, flags=0):
    return struct.pack(">HHB", 0x8003, kind, flags) + len(body).to_bytes(3) + body


def data(number, body, flags=0):
    return struct.pack(">IB", number, flags) + len(body).to_bytes(3) + body


async def served(*frames):
    """A connection that read these frames and then its end; its writer; the streams that were opened."""
    reader, writer = asyncio.StreamReader(), Written()
    reader.feed_data(b"".join(frames))
    reader.feed_eof()
    connection = Connection(reader, writer)
    await asyncio.wait_for(connection.run(), PATIENCE)
    opened = []
    while not connection._opened.empty():
        opened.append(connection._opened.get_nowait())
    return connection, writer, opened


def test_the_dictionary_is_that_of_the_standard():
    """Its checksum is what every compressed block of SPDY/3 begins with, after the two bytes of zlib."""
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


async def test_streams_have_their_headers_and_are_accepted():
    peer = Peer()
    _, writer, opened = await served(peer.open(1, streamtype="stdin"), peer.open(3, streamtype="error", port="80"))
    assert [stream.headers for stream in opened] == [{"streamtype": "stdin"}, {"streamtype": "error", "port": "80"}]
    assert [(kind, body[:4]) for kind, _, _, body in writer.frames()] == [
        (SYN_REPLY, struct.pack(">I", 1)),
        (SYN_REPLY, struct.pack(">I", 3)),
    ]


@given(st.lists(st.tuples(st.sampled_from([1, 3]), st.binary(min_size=1)), max_size=12))
def test_each_stream_has_its_own_bytes_in_order_and_then_its_end(parts):
    async def read(stream):
        found = b""
        while piece := await stream.read():
            found += piece
        return found

    async def both():
        peer = Peer()
        frames = [data(number, part) for number, part in parts]
        ends = [data(1, b"", 1), data(3, b"", 1)]
        _, _, opened = await served(peer.open(1), peer.open(3), *frames, *ends)
        return {stream.number: await read(stream) for stream in opened}

    expected = {wanted: b"".join(part for number, part in parts if number == wanted) for wanted in (1, 3)}
    assert asyncio.run(both()) == expected


async def test_what_is_written_carries_its_stream_and_ends_once():
    _, writer, (stream,) = await served(Peer().open(5))
    await stream.write(b"out")
    await stream.end()
    await stream.end()
    await stream.write(b"too late")
    assert writer.frames()[1:] == [(0, 5, 0, b"out"), (0, 5, 1, b"")]


async def test_a_ping_is_answered_with_itself():
    _, writer, _ = await served(control(PING, b"\0\0\0\7"))
    assert [(kind, body) for kind, _, _, body in writer.frames()] == [(PING, b"\0\0\0\7")]


async def test_a_stream_that_is_reset_or_opened_to_its_end_has_ended():
    peer = Peer()
    _, _, opened = await served(peer.open(1), control(RST_STREAM, struct.pack(">II", 1, 5)), peer.open(3, flags=1))
    assert [await stream.read() for stream in opened] == [b"", b""]


async def test_a_stream_that_nobody_reads_holds_up_nothing_once_it_is_discarded():
    reader, peer = asyncio.StreamReader(), Peer()
    connection = Connection(reader, Written())
    reading = asyncio.create_task(connection.run())
    reader.feed_data(peer.open(1) + data(1, b"x") * 100)
    stream = await anext(aiter(connection))
    await stream.discard()
    reader.feed_data(control(GOAWAY, bytes(8)))
    await asyncio.wait_for(reading, PATIENCE)


@pytest.mark.parametrize(
    "wrong",
    [
        control(SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + b"not compressed"),
        control(SYN_STREAM, b"\0"),
        control(RST_STREAM, b""),
        Peer().open(1, long="x" * 70_000),
    ],
    ids=["not compressed", "too short", "empty", "too long"],
)
async def test_what_is_no_frame_ends_the_connection(wrong):
    with pytest.raises(ValueError):
        await served(wrong)


async def test_more_streams_than_anybody_needs_are_refused():
    peer = Peer()
    _, writer, opened = await served(*[peer.open(2 * n + 1) for n in range(1001)])
    assert len(opened) == 1000
    assert writer.frames()[-1][0] == RST_STREAM
