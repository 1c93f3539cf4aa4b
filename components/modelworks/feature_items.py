"""Features as items of DynamoDB: the key of an entity, the age of its values, and what they are.

The items are those of Feast's own DynamoDB store, read without Feast or protobuf: one code for Feast's API, for a
server, which has neither, and for its tests against both. A client is passed in.
"""

from __future__ import annotations

import ipaddress
import random
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from modelworks.errors import ModelworksError

KEYS_PER_READ = 100
"""DynamoDB's limit for BatchGetItem."""
NO_ENTITY: Mapping[str, tuple[str, str]] = {"__dummy_id": ("String", "")}
"""The key that Feast gives a view without an entity."""

Key = tuple[str, str]
"""Table and id of an entity."""
Item = Mapping[str, Any]

_KEY_TYPES = {"String": (2, None), "Int32": (3, "<i"), "Int64": (4, "<q")}
"""Number of the type in Feast's `ValueType`, and how it is packed."""
_MASK = (1 << 64) - 1
_PASSING = frozenset(
    {"LimitExceededException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "RequestTimeout",
     "RequestTimeoutException", "ThrottlingException", "TransactionInProgressException"}
)  # fmt: skip
_PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
"""Errors that end by themselves, as botocore's standard mode of retries has them for DynamoDB."""


class UnprocessedKeysError(Exception):
    """DynamoDB answered, but left keys unread at every attempt."""


# -- Reading ---------------------------------------------------------------------------------------------------------
def read_items(
    client: Any,
    keys: Iterable[Key],
    *,
    attempts: int,
    consistent: bool = False,
    again: Callable[[], None] = lambda: None,
) -> dict[Key, Item]:
    """The items that are stored, by table and id: one request for each 100 keys, whatever their tables.

    Args:
        client: A botocore client of DynamoDB with one attempt: its own would multiply with these.
        keys: Those to read.
        attempts: How often a request is sent at most, whether it failed, was throttled, or left keys unread.
        consistent: Whether a read sees every write that ended before it.
        again: Called before each further attempt.

    Raises:
        BotoCoreError, ClientError, UnprocessedKeysError: A read failed for good.
    """
    items: dict[Key, Item] = {}
    once = list(dict.fromkeys(keys))
    for start in range(0, len(once), KEYS_PER_READ):
        items |= _read(client, once[start : start + KEYS_PER_READ], attempts, consistent, again)
    return items


def _read(client: Any, keys: list[Key], attempts: int, consistent: bool, again: Callable[[], None]) -> dict[Key, Item]:
    wanted: dict[str, Any] = {}
    for table, entity in keys:
        wanted.setdefault(table, {"Keys": [], "ConsistentRead": consistent})["Keys"].append(
            {"entity_id": {"S": entity}}
        )
    items: dict[Key, Item] = {}
    for attempt in range(attempts):
        if attempt:
            again()
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - spreads retries, guards nothing
        try:
            answer = client.batch_get_item(RequestItems=wanted)
        except Exception as error:
            if attempt + 1 < attempts and _passes(error):
                continue
            raise
        for table, found in answer["Responses"].items():
            items |= {(table, item["entity_id"]["S"]): item for item in found}
        wanted = answer.get("UnprocessedKeys") or {}
        if not wanted:
            return items
    raise UnprocessedKeysError(f"DynamoDB left keys unread at {attempts} attempts")


def _passes(error: Exception) -> bool:
    """Whether a request that failed in this way may succeed when it is sent again."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError  # noqa: A004 - only after a failure

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return error.response["Error"].get("Code") in _PASSING or status in _PASSING_STATUSES
    return isinstance(error, ConnectionError | HTTPClientError)


# -- An item ---------------------------------------------------------------------------------------------------------
def live_values(item: Item | None, ttl: timedelta | None, now: datetime) -> tuple[datetime, Mapping[str, Any]] | None:
    """The event time of an item and its encoded values; None without an item, or if it is older than `ttl`.

    An age of exactly `ttl` is not too old, as in the point-in-time join. DynamoDB deletes items some time later.
    """
    if item is None:
        return None
    event = datetime.fromisoformat(item["event_ts"]["S"])
    if ttl and now - event > ttl:
        return None
    return event, {name: value["B"] for name, value in item.get("values", {}).get("M", {}).items()}


def decode(value: bytes) -> str | bool | int | float | None:
    """The value in a message of Feast's type `Value`, as far as it is a scalar; None in an empty one.

    Raises:
        ValueError: It holds something else.
    """
    if not value:
        return None
    field, wire, rest = value[0] >> 3, value[0] & 7, value[1:]
    try:
        if (field, wire) == (2, 2):
            length, start = _varint(rest)
            text = bytes(rest[start : start + length])
            if len(text) == length == len(rest) - start:
                return text.decode()
        elif (field, wire) in {(3, 0), (4, 0), (7, 0)}:
            number, end = _varint(rest)
            if end == len(rest):
                return bool(number) if field == 7 else _signed(number, 32 if field == 3 else 64)
        elif (field, wire) == (5, 1):
            return float(struct.unpack("<d", rest)[0])
        elif (field, wire) == (6, 5):
            return float(struct.unpack("<f", rest)[0])
    except (IndexError, struct.error) as error:
        raise ValueError(f"no value of Feast's: {bytes(value[:16]).hex()}") from error
    raise ValueError(f"no scalar of Feast's: {bytes(value[:16]).hex()}")


def _varint(data: bytes) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for position in range(10):
        number |= (data[position] & 0x7F) << (7 * position)
        if data[position] < 0x80:
            return number & _MASK, position + 1
    raise IndexError


def _signed(number: int, bits: int) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


# -- The id of an entity ---------------------------------------------------------------------------------------------
def entity_id(keys: Mapping[str, tuple[str, str | int]]) -> str:
    """The id of an entity, as Feast computes it (serialization of keys, version 3).

    Args:
        keys: Feast's type (`String`, `Int32` or `Int64`) and value of each join key.
    """
    names = sorted(keys)
    parts = [struct.pack("<I", len(names))]
    for name in names:
        text = name.encode()
        parts += [struct.pack("<II", 2, len(text)), text]
    for name in names:
        kind, value = keys[name]
        number, packing = _KEY_TYPES[kind]
        packed = str(value).encode() if packing is None else struct.pack(packing, value)
        parts += [struct.pack("<II", number, len(packed)), packed]
    return _murmur3(b"".join(parts)).hex()


def _murmur3(data: bytes) -> bytes:
    """MurmurHash3 for 64-bit machines, 128 bits, seed 0."""
    one = two = 0
    whole = len(data) // 16 * 16
    for first, second in struct.iter_unpack("<QQ", data[:whole]):
        one = (_rotated(one ^ _mixed_one(first), 27) + two) & _MASK
        one = (one * 5 + 0x52DCE729) & _MASK
        two = (_rotated(two ^ _mixed_two(second), 31) + one) & _MASK
        two = (two * 5 + 0x38495AB5) & _MASK
    rest = data[whole:]
    two ^= _mixed_two(int.from_bytes(rest[8:], "little"))
    one ^= _mixed_one(int.from_bytes(rest[:8], "little"))
    one, two = one ^ len(data), two ^ len(data)
    one = (one + two) & _MASK
    two = (two + one) & _MASK
    one, two = _avalanche(one), _avalanche(two)
    one = (one + two) & _MASK
    two = (two + one) & _MASK
    return struct.pack("<QQ", one, two)


_ONE, _TWO = 0x87C37B91114253D5, 0x4CF5AD432745937F


def _mixed_one(block: int) -> int:
    return _rotated(block * _ONE & _MASK, 31) * _TWO & _MASK


def _mixed_two(block: int) -> int:
    return _rotated(block * _TWO & _MASK, 33) * _ONE & _MASK


def _rotated(number: int, bits: int) -> int:
    return (number << bits | number >> (64 - bits)) & _MASK


def _avalanche(number: int) -> int:
    number = (number ^ number >> 33) * 0xFF51AFD7ED558CCD & _MASK
    number = (number ^ number >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return number ^ number >> 33


# -- Vendors -----------------------------------------------------------------------------------------
def qualified(service: str, view: str) -> str:
    """The name of a vendor's view in a manifest. Services share views there, each with features of its own."""
    return f"{service}__{view}"


def unqualified(service: str, view: str) -> str:
    """The vendor's name of a view of a manifest."""
    return view.removeprefix(qualified(service, ""))


def require_encrypted(url: str) -> None:
    """Require an address that an API key may be sent to: over TLS, or to this machine.

    Raises:
        ModelworksError: It is another.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    encrypted = parts.scheme == "https" or (parts.scheme == "http" and local)
    if not host or not encrypted or parts.query or parts.username:
        raise ModelworksError(
            f"the address of the feature store must be https://HOST, got {url!r}",
            fix="Without TLS anybody on the way could read the API key. Plain http is for this machine alone.",
        )
