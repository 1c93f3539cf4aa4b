"""Feast's own type checks: made at a method's first call, and the same."""

import inspect

import pytest
import typeguard
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_source import DataSource
from feast.types import Float64

AIRCRAFT = Entity(name="aircraft", join_keys=["tail"], value_type=ValueType.STRING)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Field(name=3, dtype=Float64), r'argument "name" \(int\) is not an instance of str'),
        (lambda: Entity(name="a", join_keys="tail"), r'argument "join_keys" \(str\) did not match any element'),
        (lambda: FeatureView(name="d", entities=[AIRCRAFT], source=3), r'argument "source" \(int\) did not match any'),
        (lambda: FileSource(name="x", path=3), r'argument "path" \(int\) is not an instance of str'),
        (lambda: Field.from_proto("f"), r'argument "field_proto" \(str\) is not an instance of'),
    ],
)
def test_a_definition_of_a_wrong_type_is_refused(wrong, message):
    for _ in range(2):
        with pytest.raises(typeguard.TypeCheckError, match=message):
            wrong()


def test_no_method_is_instrumented_before_it_is_called():
    assert inspect.unwrap(FileSource.__init__) is not FileSource.__init__
    assert list(inspect.signature(Field).parameters)[:2] == ["name", "dtype"]


def test_what_must_be_implemented_still_must():
    assert "from_proto" in DataSource.__abstractmethods__
    with pytest.raises(TypeError, match="abstract"):
        DataSource(name="x")


def test_the_classes_of_others_are_checked_as_they_were():
    @typeguard.typechecked
    class Other:
        def length(self, of: str) -> int:
            return len(of)

    assert not hasattr(Other.length, "__wrapped__")
    assert Other().length("ab") == 2
    with pytest.raises(typeguard.TypeCheckError, match='argument "of"'):
        Other().length(3)
