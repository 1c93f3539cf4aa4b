"""A skops file is loaded by a table of classes: what is beyond it does not get in by anybody's word."""

from __future__ import annotations

import hashlib
import importlib
from functools import partial

import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from modelworks.errors import ModelworksError
from modelworks.lifecycle import Service
from modelworks.lifecycle.trust import trusted_types
from modelworks.runtime.manifest import Feature, Skops
from modelworks.runtime.predictor import skops_engine
from modelworks.runtime.trust import NAMED, OWN, STANDARD, TRUSTED

X = np.random.default_rng(0).random((60, 3))
Y = (X[:, 0] > 0.5).astype(int)
FEATURES = tuple(Feature(name=name, type="number") for name in "abc")
RAN = []


def runs(*_args):
    """What a file that is loaded or asked must never come to."""
    RAN.append(1)


def load(content: bytes, trusted):
    part = Skops(path="m", sha256=hashlib.sha256(content).hexdigest(), columns=tuple("abc"), trusted=tuple(trusted))
    return skops_engine(content, part, FEATURES, "binary")


@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=2),
        HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]),
        RandomForestClassifier(3),
        KNeighborsClassifier(algorithm="kd_tree"),
        KNeighborsClassifier(algorithm="ball_tree", p=1),
        MLPClassifier((2,), max_iter=2),
        GaussianProcessClassifier(1.0 * RBF() + WhiteKernel()),
        CalibratedClassifierCV(LogisticRegression(), cv=3),
        VotingClassifier([("a", LogisticRegression())], voting="soft"),
        make_pipeline(StandardScaler(), LogisticRegression(class_weight={0: 1, 1: 2})),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_estimators_of_scikit_learn_are_loaded_as_they_are(estimator):
    content = skops.io.dumps(estimator.fit(X, Y))
    answers = load(content, trusted_types(content, Service()))([tuple(row) for row in X.tolist()])
    assert np.array_equal(answers, estimator.predict_proba(X))


def test_columns_that_are_selected_by_their_type_are_loaded():
    import pandas as pd

    frame = pd.DataFrame(X, columns=list("abc"))
    model = make_pipeline(
        make_column_transformer((StandardScaler(), make_column_selector(dtype_include=float))), LogisticRegression()
    ).fit(frame, Y)
    assert set(trusted_types(skops.io.dumps(model), Service())) <= OWN


def test_categories_of_a_frame_are_boosted_as_they_are():
    import pandas as pd

    frame = pd.DataFrame({"a": X[:, 0], "kind": pd.Categorical(np.where(X[:, 1] > 0.5, "x", "y"))})
    model = HistGradientBoostingClassifier(max_iter=2, categorical_features="from_dtype").fit(frame, Y)
    assert set(trusted_types(skops.io.dumps(model), Service())) <= STANDARD


def test_the_table_holds_classes_alone():
    found = {}
    for name in sorted(OWN):
        module, _, attribute = name.rpartition(".")
        found[name] = getattr(importlib.import_module(module), attribute)
    assert [name for name, each in found.items() if not isinstance(each, type)] == []
    assert not [name for name in TRUSTED if name.startswith("builtins.")]


HOSTILE = {
    "eval of what a request carries": lambda: TfidfVectorizer(preprocessor=eval, vocabulary={"a": 0}),
    "exec": lambda: FunctionTransformer(exec),
    "eval with an argument": lambda: FunctionTransformer(partial(eval, "1")),
    "a function of ours": lambda: FunctionTransformer(runs),
    "a function of numpy": lambda: FunctionTransformer(np.load),
    "a function of scikit-learn": lambda: FunctionTransformer(importlib.import_module("sklearn.datasets").load_files),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_function_is_refused_whatever_the_bundle_or_the_spec_vouches_for(make):
    content = skops.io.dumps(make())
    vouched = tuple(skops.io.get_untrusted_types(data=content))
    assert vouched
    with pytest.raises(ModelworksError, match="types that this server does not load"):
        load(content, vouched)
    for service in (Service(), Service(trusted=vouched), Service(trusted=vouched, code="service.py")):
        with pytest.raises(ModelworksError, match=r"test_trust\.py:\d+: the model holds what has no place in a bundle"):
            trusted_types(content, service)
    assert RAN == []


class Own(LogisticRegression):
    """A class of a user's own."""


def test_a_trust_list_that_grew_opens_nothing():
    content = skops.io.dumps(Own().fit(X, Y))
    name = f"{Own.__module__}.Own"
    with pytest.raises(ModelworksError, match="types that this server does not load") as refused:
        load(content, [*TRUSTED, name])
    assert name in refused.value.message


def test_a_class_of_ones_own_is_for_a_service_of_ones_own():
    content = skops.io.dumps(Own().fit(X, Y))
    name = f"{Own.__module__}.Own"
    with pytest.raises(ModelworksError, match="has no place in a bundle"):
        trusted_types(content, Service(trusted=(name,)))
    assert name in trusted_types(content, Service(trusted=(name,), code="service.py"))


def test_what_the_manifest_does_not_name_is_not_loaded():
    content = skops.io.dumps(RandomForestClassifier(3).fit(X, Y))
    with pytest.raises(ModelworksError, match=r"does not load: sklearn\.tree\._tree\.Tree"):
        load(content, [])


def test_classes_of_other_libraries_need_to_be_named():
    assert NAMED
    assert not NAMED & OWN
