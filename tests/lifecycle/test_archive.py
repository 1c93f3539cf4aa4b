"""Canonical bytes, and no pickle in them."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import canonical_skops, is_pickle, pack, refuse_pickles

names = st.text("abcdefgh", min_size=1, max_size=5)


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


def write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(names, st.binary(max_size=70_000), min_size=1, max_size=4))
def test_archive_depends_on_names_and_contents_alone(tmp_path_factory, files):
    one = write(tmp_path_factory.mktemp("a") / "x", files)
    two = write(tmp_path_factory.mktemp("b") / "y", dict(reversed(files.items())))
    for path in two.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    assert pack(one) == pack(two)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(names, st.binary(max_size=70_000), min_size=1, max_size=4))
def test_archive_unpacks_to_what_went_in(tmp_path_factory, files):
    data = pack(write(tmp_path_factory.mktemp("a") / "x", files))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        found = {each.name: archive.extractfile(each).read() for each in archive.getmembers()}
    assert found == files


def test_archive_refuses_a_link(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ModelworksError, match="neither a file nor a folder"):
        pack(tmp_path)


def test_skops_of_equal_models_is_equal_after_rewriting():
    x, y = np.random.default_rng(0).normal(size=(200, 3)), np.arange(200) % 2
    models = [HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(x, y) for _ in range(2)]
    one, two = (skops.io.dumps(model) for model in models)
    assert one != two
    assert canonical_skops(one) == canonical_skops(two)


def test_rewritten_skops_predicts_as_before():
    x, y = np.random.default_rng(0).normal(size=(200, 3)), np.arange(200) % 2
    model = HistGradientBoostingClassifier(max_iter=3, random_state=0).fit(x, y)
    data = canonical_skops(skops.io.dumps(model))
    again = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_is_found_whatever_its_name_and_protocol(tmp_path, protocol):
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(Evil(), protocol=protocol))
    with pytest.raises(ModelworksError, match=r"holds a pickle: weights\.bin"):
        refuse_pickles(tmp_path)


@pytest.mark.parametrize("disguise", [b"I1\n0", b"N0", b"("])
def test_pickle_behind_harmless_opcodes_and_before_other_bytes_is_found(tmp_path, disguise):
    (tmp_path / "weights.bin").write_bytes(disguise + pickle.dumps(Evil(), protocol=0) + b"more")
    with pytest.raises(ModelworksError, match="holds a pickle"):
        refuse_pickles(tmp_path)


def test_pickle_inside_a_zip_is_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.skops", "w") as archive:
        archive.writestr("inner.npy", pickle.dumps(Evil()))
    with pytest.raises(ModelworksError, match=r"model\.skops!inner\.npy"):
        refuse_pickles(tmp_path)


def test_array_of_objects_is_found(tmp_path):
    np.save(tmp_path / "array.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(ModelworksError, match="array of Python objects"):
        refuse_pickles(tmp_path)


def test_plain_array_and_text_pass(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "card.md").write_text("(see the list.")
    refuse_pickles(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_text_is_no_pickle(text):
    assert not is_pickle(text.encode())
