"""The engine's protocol, with a provider that keeps its resources in a dictionary."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime.proto import provider_pb2, status_pb2

from laptop.providers.engine import Engine
from modelworks.laptop.providers.plugin import Plugin
from modelworks.laptop.providers.property_values import (
    UNKNOWN,
    Asset,
    Secret,
    decoded,
    from_wire,
    keep_secret,
    path_text,
    to_wire,
)
from modelworks.laptop.providers.provider import (
    Change,
    Diff,
    Found,
    Incomplete,
    InvalidInputs,
    Provider,
    ProviderError,
)

NOTE = "test:index:Note"


class Notes(Provider):
    """Keeps notes; a note called `half` is made but not finished, one called `secretive` fails with its text."""

    def __init__(self, config):
        self.config = config
        self.notes = {}

    def check(self, call, old, inputs, naming):
        if "wrong" in inputs:
            raise InvalidInputs([(("wrong",), "is not a property")])
        return {"title": naming.proposed or naming.name, **inputs}

    def diff(self, call, id_, old, state, inputs):
        changed = {(key,): Change("update", replaces=key == "title") for key in inputs if old.get(key) != inputs[key]}
        return Diff(changed, delete_before_replace=True, stable=["title"])

    def create(self, call, inputs):
        if call.preview:
            return "", inputs
        if inputs["title"] == "secretive":
            raise RuntimeError(f"cannot store {inputs['text']}")
        self.notes[inputs["title"]] = inputs
        if inputs["title"] == "half":
            raise Incomplete("half", inputs, ["only half of it was written"])
        return inputs["title"], {**inputs, "configured": self.config.get("prefix")}

    def read(self, call, id_, inputs, state):
        found = self.notes.get(id_)
        return Found(id_, found, found) if found else None

    def update(self, call, id_, old, state, inputs):
        self.notes[id_] = inputs
        return inputs

    def delete(self, call, id_, inputs, state):
        if self.notes.pop(id_, None) is None:
            raise ProviderError("it is locked", fix="Unlock it.", code=grpc.StatusCode.ABORTED, path=("title",))

    def invoke(self, call, args):
        return {"token": call.type, **args}


@pytest.fixture
def port():
    server, port = Plugin("test", "1.2.3", Notes, replaces_provider=["prefix"]).serve()
    yield port
    server.stop(None)


@pytest.fixture
def engine(port):
    engine = Engine(port, {"prefix": "a"})
    yield engine
    engine.close()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.just(UNKNOWN) | st.builds(Asset, text=st.text(min_size=1)) | st.builds(Secret, st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(min_size=1), plain, max_size=4))
def test_values_survive_the_wire(values):
    assert from_wire(to_wire(values)) == values


@given(st.dictionaries(st.text(min_size=1), plain, max_size=4))
def test_a_secret_marked_again_is_the_same_secret(values):
    marked = {"top": Secret("x"), **{key: value for key, value in values.items() if not isinstance(value, list)}}
    assert keep_secret({"top": "x"}, marked) == {"top": Secret("x")}


def test_output_values_and_resources_are_read_as_what_they_hold():
    signature = "4dabf18193072939515e22adb298388d"
    output = {signature: "d0e6a833031e9bbcd3f4e8bde6ca49a4", "value": "v", "secret": True, "dependencies": ["urn"]}
    resource = {signature: "5cf8f73096256a8f31e491e813e4eb8e", "urn": "urn:x", "id": "i-1"}
    struct = struct_pb2.Struct()
    struct.update({"output": output, "resource": resource})
    assert from_wire(struct) == {"output": Secret("v"), "resource": "i-1"}


def test_a_list_with_a_secret_becomes_secret_as_a_whole_because_order_may_change():
    assert keep_secret({"a": ["y", "x"]}, {"a": ["x", Secret("y")]}) == {"a": Secret(["y", "x"])}


def test_paths_read_as_the_engine_writes_them():
    assert path_text(("rules", 0, "tags", "cost.centre")) == 'rules[0].tags["cost.centre"]'


def test_configuration_of_sdks_is_decoded():
    assert [decoded(value) for value in ("true", '["1"]', "eu-west-1", 3)] == [True, ["1"], "eu-west-1", 3]


def test_each_connection_keeps_its_own_configuration(port, engine):
    other = Engine(port, {"prefix": "b"})
    created = [each.create(NOTE, {"title": "t"})[1]["configured"] for each in (engine, other, engine)]
    other.close()
    assert created == ["a", "b", "a"]


def test_a_connection_that_was_never_configured_is_told_to_run_again(port):
    engine = Engine(port)
    with pytest.raises(grpc.RpcError, match="Run the command again") as caught:
        engine.create(NOTE, {"title": "t"})
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_broken_rule_is_a_check_failure_with_its_path(engine):
    assert engine.check(NOTE, {"wrong": 1})[1] == {"wrong": "is not a property"}


def test_naming_is_handed_on(engine):
    options = provider_pb2.CheckRequest.AutonamingOptions(proposed_name="proposed", mode=0)
    assert engine.check(NOTE, {}, name="n")[0] == {"title": "n"}
    assert engine.check(NOTE, {}, name="n", autonaming=options)[0] == {"title": "proposed"}


def test_a_secret_input_is_a_secret_of_the_state(engine):
    assert engine.check(NOTE, {"text": Secret("s3cret")})[0]["text"] == Secret("s3cret")
    assert engine.create(NOTE, {"title": "t", "text": Secret("s3cret")})[1]["text"] == Secret("s3cret")
    assert engine.read(NOTE, "t", {"text": Secret("old")})[1]["text"] == Secret("s3cret")


def test_unknowns_stay_unknown_in_preview(engine):
    assert engine.create(NOTE, {"title": UNKNOWN, "text": Secret(UNKNOWN)}, preview=True) == (
        "",
        {"title": UNKNOWN, "text": Secret(UNKNOWN)},
    )


def test_a_diff_says_what_changes_and_what_replaces(engine):
    diff = engine.diff(NOTE, "t", {"title": "t", "text": "a"}, {}, {"title": "u", "text": "b"})
    assert (list(diff.diffs), list(diff.replaces), list(diff.stables)) == (["text", "title"], ["title"], ["title"])
    assert diff.changes == diff.DIFF_SOME
    assert diff.deleteBeforeReplace
    assert {path: each.kind for path, each in diff.detailedDiff.items()} == {"title": 5, "text": 4}


def test_no_difference_is_said_so(engine):
    diff = engine.diff(NOTE, "t", {"title": "t"}, {"title": "t"}, {"title": "t"})
    assert diff.changes == diff.DIFF_NONE


def test_what_is_gone_reads_as_nothing(engine):
    assert engine.read(NOTE, "never-there")[0] == ""


def test_a_half_made_resource_is_recorded_with_its_state(engine):
    with pytest.raises(grpc.RpcError) as caught:
        engine.create(NOTE, {"title": "half", "text": Secret("s3cret")})
    packed = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    detail = provider_pb2.ErrorResourceInitFailed()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(detail)
    assert (detail.id, list(detail.reasons)) == ("half", ["only half of it was written"])
    assert from_wire(detail.properties)["text"] == Secret("s3cret")


def test_a_refusal_names_path_message_and_fix(engine):
    with pytest.raises(grpc.RpcError) as caught:
        engine.delete(NOTE, "none", {}, {})
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "title: it is locked\nUnlock it.")


def test_an_unexpected_failure_does_not_tell_secrets(engine, caplog):
    with pytest.raises(grpc.RpcError) as caught:
        engine.create(NOTE, {"title": "secretive", "text": Secret("hunter2")})
    assert "cannot store [secret]" in caught.value.details()
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text


def test_functions_answer(engine):
    assert engine.invoke("test:index:ask", {"a": 1}) == {"token": "test:index:ask", "a": 1}
