"""What a row must be, said three times: by the decoder, as JSON Schema and as OpenAPI."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import FLOAT32_MAX, INTEGER_MAX, Feature, Manifest, bounds
from modelworks.runtime.schema import (
    Rows,
    check_examples,
    explain,
    openapi,
    prediction_schema,
    row_schema,
    shown_examples,
)

FEATURES = (
    Feature(name="size", type="number", minimum=-1, maximum=2.5, description="How large", unit="m", example=0.5),
    Feature(name="free", type="number", nullable=True),
    Feature(name="count", type="integer", minimum=0, maximum=9),
    Feature(name="long", type="integer", required=False),
    Feature(name="on", type="boolean", unit="flag"),
    Feature(name="kind", type="string", categories=("a", "b"), nullable=True),
    Feature(name="text", type="string", max_length=3),
    Feature(name="side", type="string", categories=("left", "right")),
)
GOOD = {"size": 0.5, "free": None, "count": 3, "on": True, "kind": "a", "text": "abc", "side": "left"}


def manifest(**more):
    given = {"model": "m", "kind": "regression", "task": "Guess.", "features": FEATURES, "examples": (GOOD,)}
    return Manifest(**{**given, "max_rows": 2, **more})


def decode(body, **more):
    return Rows(manifest(**more)).decode(body if isinstance(body, bytes) else msgspec.json.encode(body))


def problem(body, **more):
    with pytest.raises(msgspec.ValidationError) as caught:
        decode(body, **more)
    return explain(caught.value)


# -- The decoder -----------------------------------------------------------------------------------------------------
def test_a_row_is_a_tuple_in_the_order_of_the_features_and_absent_is_none():
    assert decode(GOOD) == [(0.5, None, 3, None, True, "a", "abc", "left")]
    assert decode({**GOOD, "long": 7, "free": 1e10, "kind": None}) == [(0.5, 1e10, 3, 7, True, None, "abc", "left")]


@pytest.mark.parametrize("head", [b'{"rows":', b'{"rows" :', b' \n{ "rows" :', b'{\t"rows":'])
def test_rows_come_in_an_envelope_however_it_is_written(head):
    two = msgspec.json.encode([GOOD, {**GOOD, "count": 4}])
    assert [row[2] for row in decode(head + two + b"}")] == [3, 4]


@pytest.mark.parametrize("head", [b'{"columns":', b' \n{\t"columns" : '])
def test_columns_are_rows_however_they_are_written(head):
    two = [GOOD, {**GOOD, "count": 4, "kind": None}]
    columns = {name: [row[name] for row in two] for name in GOOD}
    assert decode(head + msgspec.json.encode(columns) + b"}") == decode({"rows": two})


def test_an_optional_column_may_be_absent_and_is_no_null():
    columns = {name: [value] for name, value in GOOD.items()}
    assert decode({"columns": {**columns, "long": [7]}})[0][3] == 7
    assert decode({"columns": columns})[0][3] is None
    assert problem({"columns": {**columns, "long": None}})[0] == "columns.long"


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        ({"count": [3, 4]}, "columns.count", "Expected 1 values, as size has; got 2"),
        ({"count": [3.5]}, "columns.count[0]", "multiple of 1.0"),
        ({"count": []}, "columns.count", "length >= 1"),
        ({"count": [3] * 3}, "columns.count", "length <= 2"),
        ({"kind": ["z"]}, "columns.kind[0]", "not one of its categories"),
        ({"other": [1]}, "columns.other", "unknown field"),
    ],
)
def test_columns_that_are_no_rows_are_refused(change, where, said):
    field, what = problem({"columns": {**{name: [value] for name, value in GOOD.items()}, **change}})
    assert (field, said in what) == (where, True)


def test_columns_without_any_have_no_number_of_rows():
    optional = tuple(feature for feature in FEATURES if not feature.required)
    assert problem({"columns": {}}, features=optional, examples=({},)) == (
        "columns",
        "There is no column, so the number of rows is unknown",
    )


def test_a_feature_may_be_called_columns():
    known = {"features": (Feature(name="columns", type="number"),), "examples": ({"columns": 1},)}
    assert decode({"columns": 1.5}, **known) == [(1.5,)]
    assert decode({"columns": {"columns": [1.5, 2]}}, **known) == [(1.5,), (2.0,)]


@pytest.mark.parametrize(("rows", "where"), [([], "rows"), ([GOOD] * 3, "rows")])
def test_there_is_at_least_one_row_and_at_most_as_many_as_the_manifest_says(rows, where):
    assert problem({"rows": rows})[0] == where


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": -1.01}, "Expected `float` >= -1.0"),
        ({"size": 2.51}, "Expected `float` <= 2.5"),
        ({"size": None}, "Expected `float`, got `null`"),
        ({"size": "1"}, "Expected `float`, got `str`"),
        ({"free": FLOAT32_MAX * 1.01}, "Expected `float"),
        ({"free": -FLOAT32_MAX * 1.01}, "Expected `float"),
        ({"count": -1}, "Expected `int` >= 0"),
        ({"count": 10}, "Expected `int` <= 9"),
        ({"count": 1.5}, "Expected `float` that's a multiple of 1.0"),
        ({"long": 2**53}, "Expected `int"),
        ({"on": 1}, "Expected `bool`, got `int`"),
        ({"kind": "c"}, "not one of its categories"),
        ({"text": "abcd"}, "Expected `str` of length <= 3"),
        ({"text": None}, "Expected `str`, got `null`"),
        ({"side": None}, "Expected `str`, got `null`"),
        ({"more": 1}, "Object contains unknown field `more`"),
    ],
)
def test_what_breaks_a_rule_names_its_field_and_the_rule(change, said):
    [name] = change
    where, what = problem({"rows": [GOOD, {**GOOD, **change}]})
    assert where == f"rows[1].{name}"
    assert what.startswith(said.replace("`", ""))
    assert "`" not in what
    assert problem({**GOOD, **change})[0] == name


def test_the_limits_themselves_are_allowed():
    edges = {"size": -1, "count": 0, "free": FLOAT32_MAX, "long": 2**53 - 1}
    others = {"size": 2.5, "count": 9, "free": -FLOAT32_MAX, "long": -(2**53) + 1}
    assert [row[:4] for row in decode({"rows": [{**GOOD, **edges}, {**GOOD, **others}]})] == [
        (-1.0, FLOAT32_MAX, 0, 2**53 - 1),
        (2.5, -FLOAT32_MAX, 9, -(2**53) + 1),
    ]


@pytest.mark.parametrize("name", [feature.name for feature in FEATURES if feature.required])
def test_a_required_feature_may_not_be_absent(name):
    row = {key: value for key, value in GOOD.items() if key != name}
    assert problem(row) == (name, f"Object missing required field {name}")


def test_an_envelope_holds_rows_and_nothing_else():
    assert problem({"rows": [GOOD], "more": 1})[0] == "more"


def test_an_example_that_is_no_row_is_named_with_its_field():
    check_examples(manifest())
    with pytest.raises(
        ModelworksError, match=r"^example 1 of the manifest is not a valid row: count: Expected int <= 9"
    ):
        check_examples(manifest(examples=(GOOD, {**GOOD, "count": 10})))


# -- JSON Schema -----------------------------------------------------------------------------------------------------
def test_the_schema_of_a_row_states_every_rule():
    assert row_schema(manifest()) == {
        "title": "A row for m",
        "type": "object",
        "properties": {
            "size": {
                "type": "number",
                "description": "How large Unit: m.",
                "minimum": -1,
                "maximum": 2.5,
                "examples": [0.5],
            },
            "free": {"type": ["number", "null"], "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX},
            "count": {"type": "integer", "minimum": 0, "maximum": 9},
            "long": {"type": ["integer", "null"], "minimum": -INTEGER_MAX, "maximum": INTEGER_MAX},
            "on": {"type": "boolean", "description": "Unit: flag."},
            "kind": {"type": ["string", "null"], "enum": ["a", "b", None]},
            "text": {"type": "string", "maxLength": 3},
            "side": {"type": "string", "enum": ["left", "right"]},
        },
        "required": ["size", "free", "count", "on", "kind", "text", "side"],
        "additionalProperties": False,
        "examples": [GOOD],
    }


@pytest.mark.parametrize(("unit", "said"), [("", "Guess."), ("min", "Guess. Unit: min.")])
def test_a_regression_answers_a_value_with_its_unit(unit, said):
    assert prediction_schema(manifest(unit=unit)) == {
        "type": "object",
        "properties": {"value": {"type": "number", "description": said}},
        "required": ["value"],
    }


def test_a_binary_model_answers_a_label_and_the_probability_it_is_about():
    assert prediction_schema(manifest(kind="binary", classes=(False, True), threshold=0.25)) == {
        "type": "object",
        "properties": {
            "label": {"enum": [False, True], "description": "Guess."},
            "score": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": "Probability of true, which is the label from 0.25 on.",
            },
        },
        "required": ["label", "score"],
    }


def test_a_multiclass_model_answers_every_probability():
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    assert prediction_schema(manifest(kind="multiclass", classes=("Low", 2, "top"))) == {
        "type": "object",
        "properties": {
            "label": {"enum": ["Low", 2, "top"], "description": "Guess."},
            "score": {**probability, "description": "Probability of the label."},
            "probabilities": {
                "type": "object",
                "description": "Probability of each class.",
                "properties": {"Low": probability, "2": probability, "top": probability},
            },
        },
        "required": ["label", "score", "probabilities"],
    }


# -- The two agree ---------------------------------------------------------------------------------------------------
EDGES = [
    0,
    1,
    -1,
    0.5,
    2.5,
    1.0,
    -0.0,
    9,
    9.0,
    10,
    FLOAT32_MAX,
    1e39,
    -1e39,
    2**24 + 1,
    INTEGER_MAX,
    2**53,
    2**63,
    1e300,
]
VALUES = st.one_of(
    st.sampled_from(EDGES), st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6), st.sampled_from(["a", "b", "left"]), st.lists(st.integers(), max_size=1),
)  # fmt: skip
LIMITS = st.one_of(st.none(), st.sampled_from([-1.5, -1, 0, 0.5, 1, 9, 1e39, -1e39]))


@st.composite
def _features(draw):
    kind = draw(st.sampled_from(["number", "integer", "string", "boolean"]))
    more = {}
    if kind in {"number", "integer"}:
        more = {"minimum": draw(LIMITS), "maximum": draw(LIMITS)}
    elif kind == "string":
        more = {"categories": draw(st.sampled_from([(), ("a", "b")])), "max_length": draw(st.integers(1, 4))}
    return Feature(name="x", type=kind, nullable=draw(st.booleans()), required=draw(st.booleans()), **more)


@given(feature=_features(), row=st.one_of(VALUES.map(lambda value: {"x": value}), st.just({}), st.just({"y": 1})))
def test_a_row_that_the_schema_admits_is_one_that_the_decoder_takes(feature, row):
    low, high = bounds(feature)
    assume(low <= high)
    stated = manifest(features=(feature,), examples=({"x": 1},))
    body = msgspec.json.encode(row)
    admitted = jsonschema.Draft202012Validator(row_schema(stated)).is_valid(json.loads(body))
    try:
        Rows(stated).decode(body)
    except msgspec.ValidationError:
        assert not admitted
    else:
        assert admitted


# -- OpenAPI ---------------------------------------------------------------------------------------------------------
def test_the_description_holds_these_schemas_and_every_answer():
    api = openapi(manifest(), "12")
    assert (api["openapi"], api["info"]) == ("3.1.0", {"title": "m", "description": "Guess.", "version": "12"})
    schemas = api["components"]["schemas"]
    assert schemas["Row"] == row_schema(manifest())
    assert schemas["Prediction"] == prediction_schema(manifest())
    assert set(schemas["Problem"]["properties"]) == {"title", "status", "detail", "field", "request_id"}
    post = api["paths"]["/v1/predict"]["post"]
    assert set(post["responses"]) == {"200", "400", "401", "413", "422", "429", "500"}
    many, columns, one = post["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert columns["properties"] == {"columns": {"$ref": "#/components/schemas/Columns"}}
    assert one == {"$ref": "#/components/schemas/Row"}
    assert many["properties"]["rows"] == {"type": "array", "items": one, "minItems": 1, "maxItems": 2}
    assert (many["required"], many["additionalProperties"]) == (["rows"], False)
    arrow = "application/vnd.apache.arrow.stream"
    assert post["requestBody"]["content"][arrow] == post["responses"]["200"]["content"][arrow]
    answer = post["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["properties"]["model"] == {"const": "m"}
    assert answer["properties"]["predictions"]["items"] == {"$ref": "#/components/schemas/Prediction"}
    assert set(api["paths"]) == {"/v1/predict", "/v1/schema", "/v1/version", "/v1/card"}
    assert api["security"] == [{"token": []}]


def test_the_description_is_what_clients_were_made_from():
    """It may change, and whoever changes it sees here what clients will see: every word of it."""
    kept = json.loads(Path(__file__).with_name("openapi.json").read_text(encoding="utf-8"))
    assert json.loads(msgspec.json.encode(openapi(manifest(), "12"))) == kept


def test_its_examples_are_rows_that_the_decoder_takes():
    post = openapi(manifest(), "12")["paths"]["/v1/predict"]["post"]
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    assert [decode(each["value"]) for each in examples.values()] == [decode(GOOD)] * 3


def test_every_reference_leads_somewhere():
    api = openapi(manifest(), "12")
    references = set(_references(api))
    assert references == {f"#/components/schemas/{name}" for name in api["components"]["schemas"]}


def _references(part):
    if isinstance(part, dict):
        yield from [part["$ref"]] if "$ref" in part else []
        for value in part.values():
            yield from _references(value)
    if isinstance(part, list):
        for value in part:
            yield from _references(value)


def test_examples_have_made_up_values_of_private_features_and_stay_valid():
    features = tuple(msgspec.structs.replace(feature, private=True) for feature in FEATURES)
    private = manifest(features=features)
    [shown] = shown_examples(private)
    Rows(private).decode(msgspec.json.encode(shown))
    assert b"abc" not in msgspec.json.encode(openapi(private, "1"))
