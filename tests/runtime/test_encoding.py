"""A row becomes the same input alone, among others, and in the table that a model is trained on."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.lifecycle.rows import encode_table, rows_of
from modelworks.runtime.encoding import frame_encoder, matrix_encoder, text_encoder
from modelworks.runtime.manifest import FLOAT32_MAX, INTEGER_MAX, Feature

FEATURES = (
    Feature(name="price", type="number", nullable=True),
    Feature(name="day", type="integer"),
    Feature(name="seats", type="integer", required=False),
    Feature(name="paid", type="boolean", nullable=True),
    Feature(name="kind", type="string", categories=("a", "b"), nullable=True),
)
TEXT = Feature(name="note", type="string", nullable=True)
ROWS = st.lists(
    st.tuples(
        st.none() | st.floats(-FLOAT32_MAX, FLOAT32_MAX),
        st.integers(-INTEGER_MAX, INTEGER_MAX),
        st.none() | st.integers(-INTEGER_MAX, INTEGER_MAX),
        st.none() | st.booleans(),
        st.none() | st.sampled_from(("a", "b")),
        st.none() | st.text(max_size=3),
    ),
    min_size=1,
    max_size=5,
)
NAMES = [feature.name for feature in FEATURES]


def table_of(rows) -> pd.DataFrame:
    """As a data source returns it: each column with a dtype of its own choice."""
    columns = dict(zip([*NAMES, "note"], zip(*rows, strict=True), strict=True))
    return pd.DataFrame({name: pd.Series(list(values), dtype=object) for name, values in columns.items()})


@given(ROWS)
def test_a_matrix_is_the_same_row_by_row_and_from_a_table(rows):
    rows = [row[:5] for row in rows]
    encode = matrix_encoder(FEATURES, NAMES)
    together = encode(rows)
    np.testing.assert_array_equal(together, np.concatenate([encode([row]) for row in rows]))
    np.testing.assert_array_equal(together, encode_table(table_of([(*row, None) for row in rows]), FEATURES, "matrix"))
    assert (together.dtype, together.shape) == (np.float64, (len(rows), 5))


@given(ROWS)
def test_a_frame_has_the_dtypes_of_its_features_whatever_the_rows_hold(rows):
    features = (*FEATURES, TEXT)
    encode = frame_encoder(features, [*NAMES, "note"])
    dtypes = ["float64", "int64", "float64", "float64", pd.CategoricalDtype(["a", "b"]), "object"]
    for row in rows:
        assert list(encode([row]).dtypes) == dtypes
    together = encode(rows)
    pd.testing.assert_frame_equal(together, pd.concat([encode([row]) for row in rows], ignore_index=True))
    pd.testing.assert_frame_equal(together, encode_table(table_of(rows), features, "frame"))


@given(ROWS)
def test_a_table_says_the_rows_that_it_was_made_of(rows):
    assert rows_of(table_of(rows), (*FEATURES, TEXT)) == rows


def test_integers_beyond_float32_stay_what_they_are():
    [[day]] = matrix_encoder(FEATURES, ["day"])([(None, 20240131, None, None, None)])
    assert day == 20240131


def test_a_matrix_knows_a_category_by_its_position_and_a_missing_one_as_nan():
    encode = matrix_encoder(FEATURES, ["kind"])
    assert encode([(None, 1, None, None, "b")]).tolist() == [[1.0]]
    assert math.isnan(encode([(None, 1, None, None, None)])[0, 0])


def test_a_text_tensor_has_its_own_word_for_a_missing_text():
    assert text_encoder((TEXT,), ["note"], "?")([("x",), (None,)]).tolist() == [["x"], ["?"]]


@pytest.mark.parametrize("dtype", ["float32", "Float64", "object"])
def test_numbers_of_any_dtype_are_exact(dtype):
    column = pd.Series([0.5, None], dtype=dtype)
    assert rows_of(pd.DataFrame({"price": column}), FEATURES[:1]) == [(0.5,), (None,)]


@pytest.mark.parametrize("dtype", ["int32", "Int64", "float64", "object", "uint8"])
def test_integers_of_any_dtype_are_integers(dtype):
    [[value]] = rows_of(pd.DataFrame({"day": pd.Series([7], dtype=dtype)}), FEATURES[1:2])
    assert (value, type(value)) == (7, int)


@pytest.mark.parametrize("dtype", ["bool", "boolean", "object", "float64", "int8"])
def test_booleans_of_any_dtype_are_booleans(dtype):
    [[value]] = rows_of(pd.DataFrame({"paid": pd.Series([True], dtype=dtype)}), FEATURES[3:4])
    assert value is True


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("day", 7.5, "7.5 is not a whole number"),
        ("paid", 2, "2 is neither true nor false"),
        ("price", "cheap", "cheap"),
    ],
)
def test_a_value_of_another_type_names_its_feature(name, value, said):
    feature = next(each for each in FEATURES if each.name == name)
    with pytest.raises(ModelworksError, match=f"feature '{name}' is a {feature.type}, .*{said}"):
        rows_of(pd.DataFrame({name: [value]}), [feature])


def test_the_index_of_a_table_stays_that_of_its_frame():
    table = pd.DataFrame({"price": [1.0, 2.0]}, index=[7, 3])
    assert list(encode_table(table, FEATURES[:1], "frame").index) == [7, 3]
    assert len(encode_table(table.iloc[:0], FEATURES[:1], "frame")) == 0
