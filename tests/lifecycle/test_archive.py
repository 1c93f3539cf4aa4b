"""Canonical bytes: an archive, and a skops file."""

from __future__ import annotations

import io
import os
import tarfile

import numpy as np
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import canonical_skops, pack

names = st.text("abcdefgh", min_size=1, max_size=5)


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
