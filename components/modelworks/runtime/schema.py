"""A model's rows as a decoder that checks them, as JSON Schema, and as OpenAPI: three views of one manifest."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from modelworks.errors import ModelworksError
from modelworks.runtime.encoding import Row
from modelworks.runtime.manifest import Feature, Manifest, bounds, class_name

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?$", re.DOTALL)
_COLUMNS = re.compile(rb'\s*\{\s*"columns"\s*:\s*\{')
_KEY = re.compile(r"^Object (?:missing required|contains unknown) field `(?P<key>.*)`$", re.DOTALL)


class Rows:
    """Decodes the body of a predict request: `{"rows": [row, …]}`, `{"columns": {name: [value, …]}}`, or one row.

    A decoded row is a tuple of values in the order of what requests carry; null and absent are None. Without stored
    features that is a row of the model; `modelworks.runtime.stored` makes one of it otherwise.
    """

    def __init__(self, manifest: Manifest) -> None:
        row = _row_type(manifest)
        rows = Annotated[list[row], Meta(min_length=1, max_length=manifest.max_rows)]  # type: ignore[valid-type]
        many = msgspec.defstruct("Request", [("rows", rows)], forbid_unknown_fields=True, gc=False)
        columns = msgspec.defstruct(
            "Columns", [("columns", _columns_type(manifest))], forbid_unknown_fields=True, gc=False
        )
        self._names = [feature.name for feature in manifest.request_features]
        self._columns = msgspec.json.Decoder(columns).decode
        self._one = msgspec.json.Decoder(row).decode
        self._many = msgspec.json.Decoder(many).decode

    def decode(self, body: bytes) -> list[Row]:
        """The rows in `body`.

        Raises:
            msgspec.ValidationError: The value does not match the schema.
            msgspec.DecodeError: Not JSON.
            UnicodeDecodeError: Not UTF-8.
            RecursionError: Nested beyond reason.
        """
        # `rows` is the only key an envelope has, so it is the first.
        if body[:8] == b'{"rows":' or (inner := body.lstrip()[1:].lstrip())[:6] == b'"rows"':
            return [msgspec.structs.astuple(row) for row in self._many(body).rows]  # type: ignore[attr-defined]
        if inner[:9] == b'"columns"' and has_columns(body):
            return self._zipped(msgspec.structs.astuple(self._columns(body).columns))  # type: ignore[attr-defined]
        return [msgspec.structs.astuple(self._one(body))]

    def _zipped(self, columns: Row) -> list[Row]:
        """The rows of columns; None stands for one that is absent."""
        given = [(name, len(column)) for name, column in zip(self._names, columns, strict=True) if column is not None]
        if not given:
            raise msgspec.ValidationError("There is no column, so the number of rows is unknown - at `$.columns`")
        first, count = given[0]
        for name, size in given:
            if size != count:
                raise msgspec.ValidationError(
                    f"Expected {count} values, as {first} has; got {size} - at `$.columns.{name}`"
                )
        absent = [None] * count
        return list(zip(*(absent if column is None else column for column in columns), strict=True))


def has_columns(body: bytes) -> bool:
    """Whether a body has the form of columns: its first key is `columns` with an object, which no feature may be."""
    return _COLUMNS.match(body) is not None


def check_examples(manifest: Manifest) -> None:
    """Raises ModelworksError unless each example of the manifest is a valid row."""
    rows = Rows(manifest)
    for number, example in enumerate(manifest.examples):
        try:
            rows.decode(msgspec.json.encode(example))
        except msgspec.ValidationError as error:
            field, what = explain(error)
            raise ModelworksError(f"example {number} of the manifest is not a valid row: {field}: {what}") from error


def explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """Which field of the request breaks the schema, such as `rows[2].distance`, and in what way."""
    match = _AT.match(str(error))
    if match is None:
        return "", str(error)
    what, where = match["what"], match["where"] or ""
    if what.startswith("Invalid enum value"):
        what = "not one of its categories"  # and never which value: it may be private, and this text is logged
    key = _KEY.match(what)
    if key:
        where = f"{where}.{key['key']}" if where else key["key"]
    return where, what.replace("`", "")


def shown_examples(manifest: Manifest) -> list[dict[str, Any]]:
    """The examples of the manifest for anyone to read: valid rows, with made-up values of private features."""
    made_up = {feature.name: _made_up(feature) for feature in manifest.request_features if feature.private}
    return [{name: made_up.get(name, value) for name, value in example.items()} for example in manifest.examples]


def row_schema(manifest: Manifest) -> dict[str, Any]:
    """JSON Schema (2020-12) of one row."""
    return {
        "title": f"A row for {manifest.model}",
        "type": "object",
        "properties": {feature.name: _value_schema(feature) for feature in manifest.request_features},
        "required": [feature.name for feature in manifest.request_features if feature.required],
        "additionalProperties": False,
        "examples": shown_examples(manifest),
    }


def prediction_schema(manifest: Manifest) -> dict[str, Any]:
    """JSON Schema of one prediction."""
    if manifest.kind == "regression":
        value = {"type": "number", "description": manifest.task + (f" Unit: {manifest.unit}." if manifest.unit else "")}
        return {"type": "object", "properties": {"value": value}, "required": ["value"]}
    label = {"enum": list(manifest.classes), "description": manifest.task}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    if manifest.kind == "binary":
        score = {
            **probability,
            "description": f"Probability of {class_name(manifest.classes[1])}, which is the label from "
            f"{manifest.threshold:g} on.",
        }
        return {"type": "object", "properties": {"label": label, "score": score}, "required": ["label", "score"]}
    probabilities = {
        "type": "object",
        "description": "Probability of each class.",
        "properties": {class_name(each): probability for each in manifest.classes},
    }
    return {
        "type": "object",
        "properties": {
            "label": label,
            "score": {**probability, "description": "Probability of the label."},
            "probabilities": probabilities,
        },
        "required": ["label", "score", "probabilities"],
    }


def openapi(manifest: Manifest, release: str, *, needs_token: bool = True) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the model's service.

    Args:
        manifest: Of the bundle.
        release: The version of the description.
        needs_token: Whether callers need a bearer token.
    """
    token = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": manifest.model, "description": manifest.task, "version": release},
        "paths": {"/v1/predict": {"post": _predict_operation(manifest, needs_token=needs_token)}, **_DOCUMENTS},
        "components": {
            "schemas": {
                "Row": row_schema(manifest),
                "Columns": _columns_schema(manifest),
                "Prediction": prediction_schema(manifest),
                "Problem": _PROBLEM,
            },
            **(token if needs_token else {}),
        },
        **({"security": [{"token": []}]} if needs_token else {}),
    }


def _predict_operation(manifest: Manifest, *, needs_token: bool) -> dict[str, Any]:
    absent = {"401"} if not needs_token else set()
    if manifest.stored is None:
        absent |= {"503"}
    refusals = {status: told for status, told in _REFUSALS.items() if status not in absent}
    examples = {
        "many": {"summary": "Many rows", "value": {"rows": shown_examples(manifest)}},
        "columns": {"summary": "Many rows, by column", "value": {"columns": _shown_columns(manifest)}},
        "one": {"summary": "One row", "value": shown_examples(manifest)[0]},
    }
    columns = {
        "type": "object",
        "properties": {"columns": {"$ref": "#/components/schemas/Columns"}},
        "required": ["columns"],
        "additionalProperties": False,
    }
    forms = [_rows_schema(manifest), columns, _ROW]
    content = {"application/json": {"schema": {"oneOf": forms}, "examples": examples}, _ARROW: _ARROW_STREAM}
    answers = _gives("A prediction for each row, in order.", _answer_schema(manifest))
    answers["200"]["content"][_ARROW] = _ARROW_STREAM
    return {
        "summary": "Predict one row or many",
        "description": manifest.task,
        "requestBody": {"required": True, "content": content},
        "responses": {**answers, **refusals},
    }


def _rows_schema(manifest: Manifest) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"rows": {"type": "array", "items": _ROW, "minItems": 1, "maxItems": manifest.max_rows}},
        "required": ["rows"],
        "additionalProperties": False,
    }


def _columns_schema(manifest: Manifest) -> dict[str, Any]:
    length = {"minItems": 1, "maxItems": manifest.max_rows}
    features = manifest.request_features
    return {
        "title": f"Columns for {manifest.model}",
        "description": "The values of each feature, row by row. All columns have the same length.",
        "type": "object",
        "properties": {
            feature.name: {"type": "array", "items": _value_schema(feature), **length} for feature in features
        },
        "required": [feature.name for feature in features if feature.required],
        "additionalProperties": False,
    }


def _shown_columns(manifest: Manifest) -> dict[str, list[Any]]:
    rows = shown_examples(manifest)
    names = [feature.name for feature in manifest.request_features if any(feature.name in row for row in rows)]
    return {name: [row.get(name) for row in rows] for name in names}


def _answer_schema(manifest: Manifest) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            "model": {"const": manifest.model},
            "version": {"type": "string", "description": "The release that answered."},
        },
        "required": ["predictions", "model", "version"],
    }


def _gives(description: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"200": {"description": description, "content": {media: {"schema": schema}}}}


def _get(summary: str, description: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _gives(description, schema, media)}}


def _refused(description: str) -> dict[str, Any]:
    problem = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": problem}}}


_ROW = {"$ref": "#/components/schemas/Row"}
_ARROW = "application/vnd.apache.arrow.stream"
_ARROW_STREAM = {
    "schema": {
        "type": "string",
        "format": "binary",
        "description": "An Arrow IPC stream without compression: a column for each feature, or for each property of "
        "a prediction; model and version are in the metadata of its schema.",
    }
}
_REFUSALS = {
    "400": _refused("The body is not JSON, or no Arrow IPC stream."),
    "401": _refused("No bearer token, or a wrong one."),
    "413": _refused("The body is too large."),
    "422": _refused("A row breaks the schema; the field is named."),
    "429": _refused("The server is full; try again after Retry-After seconds."),
    "500": _refused("The model failed."),
    "503": _refused("The features of the row cannot be read; try again after Retry-After seconds."),
}
_DOCUMENTS = {
    "/v1/schema": _get("The schema of rows and predictions", "JSON Schemas", {"type": "object"}),
    "/v1/version": _get("What is served", "Release, artifact and objective", {"type": "object"}),
    "/v1/card": _get("The model card", "Markdown", {"type": "string"}, "text/markdown"),
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string", "description": "The field of the request that is wrong."},
        "request_id": {"type": "string"},
    },
    "required": ["title", "status"],
}


def _row_type(manifest: Manifest) -> type[msgspec.Struct]:
    """A struct type for one row. Its fields are called f0, f1, …, because not every feature has a name for Python."""
    fields = []
    for number, feature in enumerate(manifest.request_features):
        name = f"f{number}"
        if feature.required:
            fields.append((name, value_type(feature), msgspec.field(name=feature.name)))
        else:
            fields.append((name, value_type(feature), msgspec.field(name=feature.name, default=None)))
    return msgspec.defstruct("Row", fields, kw_only=True, forbid_unknown_fields=True, gc=False)


def _columns_type(manifest: Manifest) -> type[msgspec.Struct]:
    """A struct type for columns, named as the fields of a row are."""
    limits = Meta(min_length=1, max_length=manifest.max_rows)
    fields: list[Any] = []
    for number, feature in enumerate(manifest.request_features):
        value = value_type(feature)
        column = Annotated[list[value], limits]  # type: ignore[valid-type]
        if feature.required:
            fields.append((f"f{number}", column, msgspec.field(name=feature.name)))
        else:
            # No null stands for a column, so its type does not have it.
            fields.append((f"f{number}", column, msgspec.field(name=feature.name, default_factory=lambda: None)))
    return msgspec.defstruct("Columns", fields, kw_only=True, forbid_unknown_fields=True, gc=False)


def value_type(feature: Feature) -> Any:
    """The type of a feature's value, for msgspec: what it accepts is what a request may hold."""
    value = _present_type(feature)
    return value | None if feature.nullable or not feature.required else value


def _present_type(feature: Feature) -> Any:
    if feature.type in {"number", "integer"}:
        low, high = bounds(feature)
        number = Annotated[float, Meta(ge=low, le=high)]
        if feature.type == "number":
            return number
        # JSON knows one kind of number: 3.0 is an integer there, as in JSON Schema.
        return Annotated[int, Meta(ge=int(low), le=int(high))] | Annotated[number, Meta(multiple_of=1)]
    if feature.type == "boolean":
        return bool
    if feature.categories:
        return Literal[feature.categories]
    return Annotated[str, Meta(max_length=feature.max_length)]


def _value_schema(feature: Feature) -> dict[str, Any]:
    nullable = feature.nullable or not feature.required
    schema: dict[str, Any] = {"type": [feature.type, "null"] if nullable else feature.type}
    text = feature.description + (f" Unit: {feature.unit}." if feature.unit else "")
    if text:
        schema["description"] = text.strip()
    if feature.type in {"number", "integer"}:
        schema["minimum"], schema["maximum"] = bounds(feature)
    if feature.categories:
        schema["enum"] = [*feature.categories, *([None] if nullable else [])]
    elif feature.type == "string":
        schema["maxLength"] = feature.max_length
    if feature.example is not None and not feature.private:
        schema["examples"] = [feature.example]
    return schema


def _made_up(feature: Feature) -> Any:
    """A valid value that nobody has sent."""
    if feature.nullable or not feature.required:
        return None
    if feature.type == "boolean":
        return False
    if feature.type == "string":
        return feature.categories[0] if feature.categories else ""
    low, high = bounds(feature)
    return min(max(0, low), high)
