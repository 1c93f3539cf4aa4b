"""What the function of an on-demand view may return."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import OnDemand, Stored, StoredView
from modelworks.runtime.on_demand import OnDemandViews, UncomputableError, typed


@pytest.fixture
def computed(monkeypatch):
    """Compute `x`, of this type, by a function for one row with the stored value 3 and the value 2 of the request."""

    def compute(function, kind: str = "Float64", *, singleton: bool = False):
        package, module = ModuleType("modelworks_test_code"), ModuleType("modelworks_test_code.code")
        package.__path__ = []
        module.made = function
        for each in (package, module):
            monkeypatch.setitem(sys.modules, each.__name__, each)
        view = OnDemand(
            name="made", function="code:made", inputs={"asked": "Int64", "delays:late": "Int64"}, features={"x": kind},
            digest="", singleton=singleton,
        )  # fmt: skip
        delays = StoredView(name="delays", keys={"tail": "String"}, features={"late": "Int64"}, digest="")
        views = OnDemandViews(Stored(service="s", views=(delays,), on_demand=(view,)), {"asked": 0}, package.__name__)
        return views.compute((2,), (3,))

    return compute


def test_a_function_takes_lists_of_one_value_by_both_names_of_a_stored_feature(computed):
    given = []
    assert computed(lambda inputs: given.append(inputs) or {"x": [1.5]}) == (1.5,)
    assert given == [{"asked": [2], "late": [3], "delays__late": [3]}]
    assert computed(lambda inputs: {"x": inputs["late"] / inputs["asked"]}, singleton=True) == (1.5,)


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [
        (0.1, "Float32", float(np.float32(0.1))),
        (np.float64(0.1), "Float64", 0.1),
        (np.array([2]), "Int64", 2),
        (2, "Float64", 2.0),
        (float("nan"), "Float64", None),
        (None, "Int32", None),
        ("a", "String", "a"),
        (np.bool_(True), "Bool", True),
    ],
)
def test_a_value_is_kept_as_its_type_has_it(computed, value, kind, kept):
    [found] = computed(lambda _: {"x": value if isinstance(value, np.ndarray) else [value]}, kind)
    assert repr(found) == repr(kept)


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        (None, "Float64", "returned no 'x'"),
        ({"y": [1.0]}, "Float64", "returned no 'x'"),
        ({"x": []}, "Float64", "returned 0 values of 'x' for one row"),
        ({"x": [1.0, 2.0]}, "Float64", "returned 2 values of 'x' for one row"),
        ({"x": np.array([1.0, 2.0])}, "Float64", "returned 2 values of 'x' for one row"),
        ({"x": ["1"]}, "Float64", "returned 'x' as str, which is no Float64"),
        ({"x": [1.5]}, "Int64", "returned 'x' as float, which is no Int64"),
        ({"x": [2**31]}, "Int32", "returned 'x' as int, which is no Int32"),
        ({"x": [True]}, "Int64", "returned 'x' as bool, which is no Int64"),
        ({"x": [1e39]}, "Float32", "returned 'x' as float, which is no Float32"),
        ({"x": [10**400]}, "Float64", "returned 'x' as int, which is no Float64"),
    ],
)
def test_what_a_view_does_not_declare_is_refused(computed, returned, kind, message):
    with pytest.raises(UncomputableError, match=f"on-demand view 'made': code:made {message}"):
        computed(lambda _: returned, kind)


def test_an_error_of_the_function_names_the_view(computed):
    with pytest.raises(UncomputableError, match="'made': code:made raised ZeroDivisionError"):
        computed(lambda inputs: {"x": [inputs["late"][0] / 0]})


def test_a_function_that_is_not_there_is_refused():
    view = OnDemand(name="made", function="code:made", inputs={"a": "Int64"}, features={"x": "Int64"}, digest="")
    delays = StoredView(name="delays", keys={}, features={"late": "Int64"}, digest="")
    with pytest.raises(ModelworksError, match="No module named"):
        OnDemandViews(Stored(service="s", views=(delays,), on_demand=(view,)), {"a": 0}, "modelworks_no_such")


def test_numbers_that_have_no_place_in_a_type_are_none_of_it():
    assert typed("Int64", 2**63) is None
    assert typed("Int64", -(2**63)) == -(2**63)
