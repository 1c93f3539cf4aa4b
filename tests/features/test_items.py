"""Items as a server reads them, without Feast: the very ids and values that Feast writes."""

from __future__ import annotations

import math

import mmh3
import pytest
from feast.infra.online_stores.helpers import compute_entity_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from modelworks import feature_items

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text()
FIELDS = {"String": "string_val", "Int32": "int32_val", "Int64": "int64_val"}
KEYS = st.dictionaries(
    st.text(min_size=1),
    st.one_of(
        st.tuples(st.just("String"), TEXT), st.tuples(st.just("Int32"), INT32), st.tuples(st.just("Int64"), INT64)
    ),
    min_size=1,
    max_size=4,
)
VALUES = st.one_of(
    st.builds(Value, string_val=TEXT),
    st.builds(Value, int32_val=INT32),
    st.builds(Value, int64_val=INT64),
    st.builds(Value, double_val=st.floats()),
    st.builds(Value, float_val=st.floats(width=32)),
    st.builds(Value, bool_val=st.booleans()),
    st.just(Value()),
)


@given(KEYS)
def test_an_entity_has_the_id_that_feast_gives_it(keys):
    message = EntityKey(join_keys=list(keys))
    message.entity_values.extend(Value(**{FIELDS[kind]: value}) for kind, value in keys.values())
    assert feature_items.entity_id(keys) == compute_entity_id(message, 3)


def test_a_view_without_an_entity_has_the_id_that_feast_gives_it():
    message = EntityKey(join_keys=["__dummy_id"])
    message.entity_values.append(Value(string_val=""))
    assert feature_items.entity_id(feature_items.NO_ENTITY) == compute_entity_id(message, 3)


@given(st.binary(max_size=70))
def test_the_hash_is_murmur3(data):
    assert feature_items._murmur3(data) == mmh3.hash_bytes(data)


@given(VALUES)
def test_a_scalar_is_what_feast_wrote(value):
    field = value.WhichOneof("val")
    expected = getattr(value, field) if field else None
    decoded = feature_items.decode(value.SerializeToString())
    assert type(decoded) is type(expected)
    assert decoded == expected or (math.isnan(decoded) and math.isnan(expected))


@given(st.binary(max_size=24))
def test_bytes_that_are_no_scalar_are_refused_and_never_a_wrong_value(data):
    try:
        decoded = feature_items.decode(data)
    except ValueError:
        return
    if decoded is None:
        assert data == b""
    else:
        message = Value.FromString(data)
        expected = getattr(message, message.WhichOneof("val"))
        assert decoded == expected or math.isnan(expected)


@pytest.mark.parametrize(
    "value", [Value(bytes_val=b"x"), Value(unix_timestamp_val=1), Value(string_list_val={"val": ["a"]})]
)
def test_what_is_no_scalar_is_refused(value):
    with pytest.raises(ValueError, match="scalar"):
        feature_items.decode(value.SerializeToString())
