"""Valid Arrow IPC streams with bytes changed, and what the decoder makes of them: run as a process, for it may crash.

python arrow_fuzz.py SEED COUNT
"""

from __future__ import annotations

import collections
import json
import random
import sys
from typing import Any

import pyarrow as pa

from modelworks.runtime.manifest import Feature, Manifest
from modelworks.runtime.server.arrow_ipc import ArrowStreams
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.refusals import InvalidRequestError

FEATURES = (
    Feature(name="price", type="number", nullable=True),
    Feature(name="day", type="integer", required=False),
    Feature(name="paid", type="boolean", nullable=True),
    Feature(name="kind", type="string", categories=("a", "bé", "another category of it"), nullable=True),
    Feature(name="text", type="string", max_length=40, nullable=True),
)
MANIFEST = Manifest(
    model="tiny", kind="regression", task="Something", features=FEATURES, max_rows=100, examples=({"price": 1.5},)
)
KINDS = ("a", None, "bé", "another category of it", "a")
INTERESTING = (0, 1, 2, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
CONFIG = Config(bundle_uri="here", digest="sha256:" + "0" * 64, model="tiny")


def stream(*batches: pa.RecordBatch, **options: Any) -> bytes:
    """An IPC stream of these batches."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def seeds() -> list[bytes]:
    """Valid streams of every kind of column."""
    found = []
    for text in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        for number in (pa.float64(), pa.float16(), pa.dictionary(pa.uint16(), pa.float32())):
            batch = pa.record_batch(
                {
                    "price": pa.array([1.5, None, 2.0, 3.0, None], pa.float32()).cast(number)
                    if not pa.types.is_dictionary(number)
                    else pa.array([1.5, None, 2.0, 3.0, None], pa.float32()).dictionary_encode().cast(number),
                    "day": pa.array([1, 2, None, 4, 5], pa.int32()),
                    "paid": pa.array([True, None, False, True, True]),
                    "kind": pa.array(KINDS).dictionary_encode(),
                    "text": pa.array(KINDS, text) if not pa.types.is_dictionary(text) else pa.array(KINDS).cast(text),
                }
            )
            found.append(stream(batch, batch.slice(1, 3), batch.slice(0, 0), emit_dictionary_deltas=True))
    return found


def changed(body: bytes, chance: random.Random) -> bytes:
    """The same with some bytes changed, most of them in heads."""
    data = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data))
        what = chance.randrange(6)
        if what == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            data[at] = chance.randrange(256)
        elif what == 2:
            width = chance.choice((1, 2, 4, 8))
            at -= at % width
            value = chance.choice(INTERESTING) % (1 << (8 * width))
            data[at : at + width] = value.to_bytes(width, "little")
        elif what == 3:
            other = chance.randrange(len(data))
            length = chance.choice((4, 8, 16, 64))
            data[at : at + length] = data[other : other + length]
        elif what == 4:
            at -= at % 8
            del data[at : at + 8 * chance.randrange(1, 5)]
        else:
            del data[at:]
        if not data:
            return b""
    return bytes(data)


def main(seed: int, count: int) -> None:
    """Print how many streams were decoded, or refused with which status."""
    chance, decode, valid = random.Random(seed), ArrowStreams(CONFIG, MANIFEST).decode, seeds()
    said: collections.Counter[str] = collections.Counter()
    for body in valid:
        decode(body)
    for _ in range(count):
        try:
            decode(changed(chance.choice(valid), chance))
        except InvalidRequestError as error:
            said[str(error.status)] += 1
        else:
            said["decoded"] += 1
    print(json.dumps(said))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
