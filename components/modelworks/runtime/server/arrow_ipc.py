"""Arrow IPC streams as rows, and predictions as such streams: batches in the form that data frames have in memory.

Each feature is a column of its name. Its values pass the same checks as those of a row in JSON, and the same encoder
makes the model's input of them, so that a row has the same prediction in both. A missing value is null, or NaN in a
floating-point column. An optional feature without a column is missing in every row.

Nothing in a stream is believed. pyarrow checks that a message is well-formed when it reads it, but not what it costs,
and the contents of a batch only on request (arrow.apache.org/docs/format/Security.html). So the heads of all messages
are looked at before the first is read, and each batch is validated whole before a value of it is.

This module brings pyarrow, so it is imported for the first request that needs it.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc

from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Feature, FeatureType, Manifest, class_name
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.schema import value_type
from modelworks.runtime.server.config import Config
from modelworks.runtime.server.refusals import InvalidRequestError, undecodable
from modelworks.runtime.server.tensors import label_datatype

END = b"\xff\xff\xff\xff\0\0\0\0"
"""The last message of a stream."""
MOST_MESSAGES = 1024
"""Of a stream: schema, dictionaries and batches."""
_FILE = b"ARROW1"
"""The beginning of Arrow's file format."""
_SHORT, _INT, _UINT, _LONG = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<q")
_BUFFER = struct.Struct("<qq")
_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)
_LABELS = {"BOOL": pa.bool_(), "INT64": pa.int64(), "BYTES": pa.string()}
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating)
_ACCEPTED: dict[FeatureType, tuple[Callable[[Any], bool], ...]] = {
    "number": _NUMBERS,
    "integer": _NUMBERS,
    "boolean": (pa.types.is_boolean,),
    "string": _TEXTS,
}
_ENTRIES: dict[FeatureType, tuple[Callable[[Any], bool], ...]] = {**_ACCEPTED, "boolean": ()}
"""The same, of a dictionary."""
_SENT_AS: dict[FeatureType, str] = {
    "number": "int8 to uint64, or float16 to float64",
    "integer": "int8 to uint64, or float16 to float64 without fractions",
    "boolean": "bool",
    "string": "string, large_string or string_view, also dictionary-encoded",
}
_REASONS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (pa.types.is_decimal, "no model computes with decimals; cast it to float64"),
    (pa.types.is_temporal, "a time has no unit here; cast it to the number or text that the schema of rows describes"),
    (pa.types.is_nested, "a feature has one value in a row"),
)


class Batches(NamedTuple):
    """The rows of a stream."""

    rows: list[Row]
    sizes: list[int]
    """How many of them each batch had, in order."""


class ArrowStreams:
    """A model in terms of Arrow.

    Args:
        config: Names the release, and has the largest request.
        manifest: Of the bundle.
    """

    def __init__(self, config: Config, manifest: Manifest) -> None:
        self._features = {feature.name: feature for feature in manifest.request_features}
        self._types = {name: list[value_type(feature)] for name, feature in self._features.items()}  # type: ignore[misc]
        self._max_rows, self.max_bytes = manifest.max_rows, config.max_body_bytes
        self._schema, self._columns = _answers(config, manifest)

    # -- Requests ------------------------------------------------------------------------------------------------
    def decode(self, body: bytes) -> Batches:
        """The rows in `body`, checked as rows in JSON are. Raises InvalidRequestError."""
        if body.startswith(_FILE):
            raise InvalidRequestError("", "this is Arrow's file format; send the stream format", 400)
        _check_messages(body, self.max_bytes)
        with _well_formed():
            reader = pa.ipc.open_stream(pa.py_buffer(body), options=_OPTIONS)
        names = self.check_schema(reader.schema)
        columns: list[list[Any]] = [[] for _ in names]
        sizes: list[int] = []
        spent = 0
        for batch in _batches(reader):
            # Before it is validated: a batch may have any number of rows without a byte.
            self._check_rows(sum(sizes) + batch.num_rows)
            spent = self._gather(batch, columns, spent)
            sizes.append(batch.num_rows)
        if not sum(sizes):
            raise InvalidRequestError("", f"a request has 1 to {self._max_rows} rows; the stream has none")
        return Batches(self._rows(dict(zip(names, columns, strict=True)), sum(sizes)), sizes)

    def check_schema(self, schema: Any) -> list[str]:
        """The names of its columns, each a feature of a type that it accepts. Raises InvalidRequestError."""
        with _well_formed():
            names: list[str] = schema.names
            types = [field.type for field in schema]
        for name, kind in zip(names, types, strict=True):
            feature = self._features.get(name)
            if feature is None:
                raise InvalidRequestError(
                    f"columns.{name}", f"the model has no feature {name!r}; it has {', '.join(self._features)}"
                )
            if names.count(name) > 1:
                raise InvalidRequestError(f"columns.{name}", f"column {name!r} is there twice")
            _check_type(feature, kind)
        for name, feature in self._features.items():
            if feature.required and name not in names:
                raise InvalidRequestError(f"columns.{name}", f"there is no column {name!r}")
        return names

    def rows_of(self, batch: Any, names: list[str]) -> list[Row]:
        """The rows of one batch, by the names of its columns. Raises InvalidRequestError."""
        if batch.num_rows > self._max_rows:
            raise InvalidRequestError("", f"a batch has at most {self._max_rows} rows; this one has {batch.num_rows}")
        columns: list[list[Any]] = [[] for _ in names]
        self._gather(batch, columns, 0)
        return self._rows(dict(zip(names, columns, strict=True)), batch.num_rows)

    def _gather(self, batch: Any, columns: list[list[Any]], spent: int) -> int:
        """Add the values of a batch to `columns`; the bytes of texts so far, of which `spent` are from before it."""
        with _well_formed():
            batch.validate(full=True)
        for values, column in zip(columns, batch.columns, strict=True):
            spent += _text_bytes(column)
            _check_cost(spent, self.max_bytes)
            values.extend(_values(column))
        return spent

    def _check_rows(self, rows: int) -> None:
        if rows > self._max_rows:
            raise InvalidRequestError("", f"a request has 1 to {self._max_rows} rows; the stream has more")

    def _rows(self, columns: dict[str, list[Any]], count: int) -> list[Row]:
        checked = []
        for name, kind in self._types.items():
            values = columns.get(name)
            if values is None:
                checked.append([None] * count)
                continue
            try:
                checked.append(msgspec.convert(values, kind))
            except msgspec.ValidationError as error:
                raise undecodable(error, f"columns.{name}", name) from error
        return list(zip(*checked, strict=True))

    # -- Answers -------------------------------------------------------------------------------------------------
    def encode(self, predictions: Predictions, sizes: Sequence[int]) -> bytes:
        """The stream of an answer, with batches of these sizes."""
        batch = pa.RecordBatch.from_arrays(self._columns(predictions), schema=self._schema)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._schema) as writer:
            for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False):
                writer.write_batch(batch.slice(start, size))
        body: bytes = sink.getvalue().to_pybytes()
        return body

    def begin(self) -> bytes:
        """The first message of an answer whose batches follow one by one; `END` is the last."""
        message: bytes = self._schema.serialize().to_pybytes()
        return message

    def encode_batch(self, predictions: Predictions) -> bytes:
        """The message of one batch."""
        if predictions.values:
            batch = pa.RecordBatch.from_arrays(self._columns(predictions), schema=self._schema)
        else:
            batch = pa.RecordBatch.from_pylist([], schema=self._schema)
        message: bytes = batch.serialize().to_pybytes()
        return message

    # -- Requests that come in pieces ----------------------------------------------------------------------------
    def reading(self, data: bytearray) -> Reading:
        """A request whose bytes come one after another at the end of `data`, which takes them from its beginning."""
        return Reading(self, data)


class Reading:
    """A stream of which each batch is read when it is complete.

    A batch has as many rows and bytes as a whole request has otherwise, and is checked as one: with the dictionaries
    before it that are new, and all that it refers to. Of the stream nothing else is kept.

    Args:
        streams: The model.
        data: The part of the stream that came and is not read yet.
    """

    def __init__(self, streams: ArrowStreams, data: bytearray) -> None:
        self._streams, self._data = streams, data
        self._source = _Source()
        self._reader: Any = None
        self._names: list[str] = []
        self._dictionaries: dict[int, int] = {}
        self._at = self._spent = self._number = 0
        """Where in the data the next message begins, after dictionaries; what these cost; and its number."""
        self.ended = False
        """Whether the end of the stream has come."""

    def next(self, *, complete: bool) -> list[Row] | None:
        """The rows of the next batch; None if there is none, or none yet.

        Args:
            complete: Whether nothing follows the data.

        Raises:
            InvalidRequestError: The data is no batch of this model.
        """
        while not self.ended:
            size = self._size()
            if size is None or len(self._data) < self._at + size:
                break
            if not size:
                self._end()
            elif (rows := self._take(size)) is not None:
                return rows
        if self.ended and self._data:
            raise InvalidRequestError("", "bytes follow the end of the stream", 400)
        if complete and not self.ended:
            if self._data or self._reader is None:
                raise InvalidRequestError("", "the body ends within an Arrow IPC stream", 400)
            self.ended = True  # it may end without a message that says so
        return None

    def _size(self) -> int | None:
        """Bytes of the next message, 0 for that of the end; None while too little of it is there."""
        data, at = self._data, self._at
        if self._reader is None and data.startswith(_FILE):
            raise InvalidRequestError("", "this is Arrow's file format; send the stream format", 400)
        if len(data) < at + 8:
            # The oldest form of an end is half as long.
            return 0 if data[at:] == bytes(4) else None
        prefix = 8 if data[at : at + 4] == END[:4] else 4
        length: int = _INT.unpack_from(data, at + prefix - 4)[0]
        if length == 0:
            return 0
        if length < 0:
            raise InvalidRequestError("", f"message {self._number} has no readable head", 400)
        start = at + prefix
        self._check_size(start + length)
        if len(data) < start + length:
            return None
        with _well_formed(), _readable(), memoryview(data)[start : start + length] as head:
            body = _slot(head, _follow(head, 0), 3)
            size = _LONG.unpack_from(head, body)[0] if body else 0
        if size < 0:
            raise InvalidRequestError("", f"message {self._number} has a body of {size} bytes", 400)
        self._check_size(start + length + size)
        return prefix + length + size

    def _check_size(self, size: int) -> None:
        _check_cost(size, self._streams.max_bytes)

    def _end(self) -> None:
        if self._at or self._reader is None:
            raise InvalidRequestError("", "the stream ends before its schema, or between a dictionary and a batch", 400)
        del self._data[: 8 if self._data.startswith(END[:4]) else 4]
        self.ended = True

    def _take(self, size: int) -> list[Row] | None:
        """Read the next message, of this size; the rows if it is a batch."""
        with _well_formed():
            message = pa.ipc.read_message(pa.py_buffer(bytes(self._data[self._at : self._at + size])))
            kind, length = message.type, message.body.size if message.body is not None else 0
            head = memoryview(message.metadata)
        number, self._number = self._number, self._number + 1
        if (kind == "schema") != (self._reader is None) or kind not in {"schema", "dictionary", "record batch"}:
            raise InvalidRequestError("", f"message {number} is a {kind}, which has no place there", 400)
        self._at += size
        if kind != "schema":
            with _well_formed(), _readable():
                self._spent += _cost(number, kind, head, length, self._dictionaries)
            _check_cost(self._spent, self._streams.max_bytes)
        if kind == "dictionary":
            return None
        self._source.rest += self._data[: self._at]
        del self._data[: self._at]
        self._at = self._spent = 0
        if kind == "schema":
            with _well_formed():
                self._reader = pa.ipc.open_stream(pa.PythonFile(self._source, mode="r"), options=_OPTIONS)
            self._names = self._streams.check_schema(self._reader.schema)
            return None
        return self._rows()

    def _rows(self) -> list[Row]:
        batch = next(_batches(self._reader), None)
        if batch is None or self._source.rest:
            raise InvalidRequestError("", "the messages of the stream are in no order that Arrow has", 400)
        return self._streams.rows_of(batch, self._names)


class _Source(io.RawIOBase):
    """A file that has what is put into it."""

    def __init__(self) -> None:
        self.rest = bytearray()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = bytes(self.rest if size < 0 else self.rest[:size])
        del self.rest[: len(part)]
        return part


def _answers(config: Config, manifest: Manifest) -> tuple[Any, Callable[[Predictions], list[Any]]]:
    """The schema of answers, and a function from predictions to their columns. A row is what JSON has of it."""
    about = {"model": manifest.model, "version": config.release}
    if manifest.kind == "regression":
        return pa.schema([("value", pa.float64())], about), lambda predictions: [_numbers(predictions.values)]
    datatype = label_datatype(manifest.classes)
    kind = _LABELS[datatype]
    names = [class_name(label) for label in manifest.classes]
    labels = names if datatype == "BYTES" else manifest.classes
    fields = [("label", kind), ("score", pa.float64())]

    def label_and_score(predictions: Predictions) -> list[Any]:
        return [pa.array([labels[label] for label in predictions.labels], kind), _numbers(predictions.values)]

    if manifest.kind == "binary":
        return pa.schema(fields, about), label_and_score

    def and_probabilities(predictions: Predictions) -> list[Any]:
        shares = [_numbers(column) for column in zip(*predictions.probabilities, strict=True)]
        return [*label_and_score(predictions), pa.StructArray.from_arrays(shares, names)]

    probabilities = pa.struct([(name, pa.float64()) for name in names])
    return pa.schema([*fields, ("probabilities", probabilities)], about), and_probabilities


def _numbers(values: Sequence[float]) -> Any:
    return pa.array(values, pa.float64())


# -- Messages --------------------------------------------------------------------------------------------------------
@contextmanager
def _well_formed() -> Iterator[None]:
    """An error of pyarrow within is a fault of the stream."""
    try:
        yield
    except InvalidRequestError:
        raise
    except (pa.ArrowException, ArithmeticError, LookupError, MemoryError, OSError, TypeError, ValueError) as error:
        first = str(error).partition("\n")[0][:200]
        raise InvalidRequestError("", f"the body is no Arrow IPC stream: {first}", 400) from error


def _batches(reader: Any) -> Iterator[Any]:
    while True:
        with _well_formed():
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield batch


def _check_messages(body: bytes, most_bytes: int) -> None:
    """Refuse a stream whose reading would take more than its size lets one expect, by the heads of its messages."""
    source = pa.BufferReader(body)
    dictionaries: dict[int, int] = {}
    spent = 0
    with _well_formed():
        messages = pa.ipc.MessageReader.open_stream(source)
    for number in itertools.count():
        with _well_formed():
            try:
                message = messages.read_next_message()
            except StopIteration:
                break
            kind, size = message.type, message.body.size
            head = memoryview(message.metadata)
        if number == MOST_MESSAGES:
            raise InvalidRequestError("", f"a stream has at most {MOST_MESSAGES} messages", 400)
        if kind not in {"dictionary", "record batch"}:
            continue
        with _well_formed(), _readable():
            spent += _cost(number, kind, head, size, dictionaries)
        _check_cost(spent, most_bytes)
    if source.tell() != len(body):
        raise InvalidRequestError("", f"{len(body) - source.tell()} bytes follow the end of the stream", 400)


def _cost(number: int, kind: str, head: memoryview, size: int, dictionaries: dict[int, int]) -> int:
    """Bytes that are looked at for a message, with the dictionaries that it refers to.

    Args:
        number: Of the message.
        kind: Of the message.
        head: Its metadata, a flatbuffer whose layout pyarrow has verified (Message.fbs and Schema.fbs of Arrow).
        size: Of its body.
        dictionaries: The size of each dictionary so far, by its id; brought up to date.
    """
    table = _follow(head, _slot(head, _follow(head, 0), 2))
    if kind == "record batch":
        _check_buffers(number, head, table, size)
        return size + sum(dictionaries.values())
    key = _slot(head, table, 0)
    name = _LONG.unpack_from(head, key)[0] if key else 0
    delta = _slot(head, table, 2)
    before = dictionaries.get(name, 0) if delta and head[delta] else 0
    _check_buffers(number, head, _follow(head, _slot(head, table, 1)), size)
    dictionaries[name] = before + size
    return before + size  # a delta is appended to a copy


def _check_buffers(number: int, head: memoryview, batch: int, size: int) -> None:
    """Refuse buffers that are compressed, share bytes, or are fewer than a count of them."""
    if _slot(head, batch, 3):
        raise InvalidRequestError("", f"message {number} is compressed; write the stream without compression", 400)
    buffers = _vector(head, _slot(head, batch, 2), _BUFFER)
    if any(length < 0 for _, length in buffers) or sum(length for _, length in buffers) > size:
        raise InvalidRequestError("", f"message {number} has buffers beyond its {size} bytes", 400)
    counts = [count for [count] in _vector(head, _slot(head, batch, 4), _LONG)]
    # pyarrow before 24 makes room for as many as it is told (apache/arrow#48900).
    if any(count < 0 for count in counts) or sum(counts) > len(buffers):
        raise InvalidRequestError("", f"message {number} counts more buffers than it has", 400)


def _check_cost(spent: int, most: int) -> None:
    if spent > most:
        raise InvalidRequestError(
            "",
            f"the batches and their dictionaries take more than {most} bytes; send fewer, or smaller ones",
            413,
        )


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except struct.error as error:
        raise ValueError("a message has no readable head") from error


def _slot(head: memoryview, table: int, number: int) -> int:
    """Where a field of a flatbuffers table is; 0 if it is absent."""
    vtable = table - _INT.unpack_from(head, table)[0]
    at = 4 + 2 * number
    if at >= _SHORT.unpack_from(head, vtable)[0]:
        return 0
    offset: int = _SHORT.unpack_from(head, vtable + at)[0]
    return table + offset if offset else 0


def _follow(head: memoryview, at: int) -> int:
    """Where the offset at `at` leads."""
    target: int = at + _UINT.unpack_from(head, at)[0]
    return target


def _vector(head: memoryview, at: int, element: struct.Struct) -> list[Any]:
    if not at:
        return []
    start = _follow(head, at)
    count = _UINT.unpack_from(head, start)[0]
    return list(element.iter_unpack(head[start + 4 : start + 4 + count * element.size]))


# -- Columns ---------------------------------------------------------------------------------------------------------
def _check_type(feature: Feature, kind: Any) -> None:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    # A dictionary of nulls would have any number of entries without a byte, and of booleans eight in each.
    some = _ACCEPTED[feature.type] if plain is kind else _ENTRIES[feature.type]
    if pa.types.is_null(kind) or any(is_one(plain) for is_one in some):
        return
    reason = next((f": {reason}" for is_one, reason in _REASONS if is_one(plain)), "")
    raise InvalidRequestError(
        f"columns.{feature.name}", f"{feature.name} is sent as {_SENT_AS[feature.type]}, not as {kind}{reason}"
    )


def _text_bytes(column: Any) -> int:
    """Bytes of the texts of a valid column: many rows may refer to the same."""
    if pa.types.is_dictionary(column.type):
        return int(column.dictionary.nbytes) + _text_bytes(column.dictionary)
    if not pa.types.is_string_view(column.type) or not len(column):
        return 0
    views = np.frombuffer(column.buffers()[1], np.int32, 4 * len(column), 16 * column.offset)
    return int(np.maximum(views[::4], 0).sum(dtype=np.int64))  # what is missing has any length


def _values(column: Any) -> list[Any]:
    """The values of a valid column; None where one is missing."""
    kind = column.type
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_dictionary(kind):
        entries = _values(column.dictionary)
        return [None if index is None else entries[index] for index in _values(column.indices)]
    if not pa.types.is_integer(kind) and not pa.types.is_floating(kind):
        texts: list[Any] = column.to_pylist()
        return texts
    return _from_numbers(column)


def _from_numbers(column: Any) -> list[Any]:
    present, data = column.buffers()
    count, start = len(column), column.offset
    if not count:
        return []
    kind = np.dtype(column.type.to_pandas_dtype())
    numbers = np.frombuffer(data, kind, count, start * kind.itemsize)
    missing = np.isnan(numbers) if kind.kind == "f" else np.zeros(count, np.bool_)
    if column.null_count:
        bits = np.unpackbits(np.frombuffer(present, np.uint8), bitorder="little")
        missing |= bits[start : start + count] == 0
    values: list[Any] = numbers.tolist()
    for index in np.flatnonzero(missing).tolist():
        values[index] = None
    return values
