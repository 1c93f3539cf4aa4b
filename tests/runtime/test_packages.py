"""What a bundle was judged with, and what the environment of its server has."""

from __future__ import annotations

import importlib.metadata

import msgspec
import pytest

from modelworks.errors import ModelworksError
from modelworks.runtime.packages import other_versions
from runtime import example_bundle

NUMPY = importlib.metadata.version("numpy")


def of(example, **packages):
    return msgspec.structs.replace(example.manifest, packages=packages)


def test_the_same_versions_are_no_others(example):
    assert other_versions(of(example, numpy=NUMPY)) == {}
    assert other_versions(example.manifest) == {}, "a bundle of before does not name them"


def test_another_version_is_named_with_both(example):
    assert other_versions(of(example, numpy="0.1")) == {"numpy": f"{NUMPY}, judged with 0.1"}


def test_every_package_that_is_missing_is_named(example):
    with pytest.raises(ModelworksError, match=r"of delays is served with left-pad 1\.3 and right-pad 2, which this"):
        other_versions(of(example, **{"left-pad": "1.3", "numpy": NUMPY, "right-pad": "2"}))


def test_a_server_with_another_version_serves_and_says_so(serve, tmp_path):
    server = serve(example_bundle.build(tmp_path, packages={"numpy": "0.1"})).ready()
    (line,) = [line for line in server.lines() if line["level"] == "warning"]
    assert "other versions of packages than the bundle was judged with" in line["message"]
    assert line["packages"] == {"numpy": f"{NUMPY}, judged with 0.1"}


def test_a_server_without_a_package_serves_nothing_and_says_so(serve, tmp_path):
    server = serve(example_bundle.build(tmp_path, packages={"left-pad": "1.3"}))
    assert server.ended() == 1
    assert "is served with left-pad 1.3, which this image does not have" in server.messages()[-1]
