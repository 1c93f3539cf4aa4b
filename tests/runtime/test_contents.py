"""A bundle holds text and its artifacts, and nothing that runs code when it is read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.errors import ModelworksError
from modelworks.runtime.contents import _is_text_pickle, refuse_other_files
from modelworks.runtime.manifest import Feature, Manifest, Skops

MANIFEST = Manifest(
    model="m", kind="regression", task="", features=(Feature(name="x", type="number"),), examples=({"x": 1.0},),
    skops=Skops(path="model.skops", sha256="0" * 64, columns=("x",)),
)  # fmt: skip


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.fixture
def bento(tmp_path):
    """A bundle with a model, a card and a manifest."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "card.md").write_text("(see the list.")
    (tmp_path / "bento.yaml").write_text("service: standard\n")
    write_skops(tmp_path, {"1.npy": saved(np.zeros(3)), "2.npz": sparse(np.zeros(3)), "3.bin": b"\x00\xff"})
    return tmp_path


def saved(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def sparse(array) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, data=array)
    return stream.getvalue()


def write_skops(bento, entries):
    with zipfile.ZipFile(bento / "src" / "model.skops", "w") as archive:
        archive.writestr("schema.json", "{}")
        for name, content in entries.items():
            archive.writestr(name, content)


def refused(bento, pattern):
    with pytest.raises(ModelworksError, match=pattern):
        refuse_other_files(bento, MANIFEST)


def test_text_and_artifacts_pass(bento):
    refuse_other_files(bento, MANIFEST)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_whatever_its_name_and_protocol(bento, protocol):
    (bento / "src" / "weights.bin").write_bytes(pickle.dumps(Evil(), protocol=protocol))
    refused(bento, r"holds (a pickle: )?src/weights\.bin")


@pytest.mark.parametrize("disguise", [b"I1\n0", b"N0", b"("])
def test_a_pickle_behind_harmless_opcodes_and_before_other_bytes_is_refused(bento, disguise):
    (bento / "src" / "weights.txt").write_bytes(disguise + pickle.dumps(Evil(), protocol=0) + b"more")
    refused(bento, "holds a pickle")


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("protocol", [0, 5])
def test_a_compressed_pickle_is_refused(bento, compress, protocol):
    (bento / "src" / "notes.txt").write_bytes(compress(pickle.dumps(Evil(), protocol=protocol)))
    refused(bento, r"src/notes\.txt, which is neither text nor an artifact")


def test_numbers_whose_bytes_look_like_a_type_of_objects_are_numbers(bento):
    write_skops(bento, {"1.npy": saved(np.frombuffer(b"|O" * 512, dtype=np.int64))})
    refuse_other_files(bento, MANIFEST)


def test_an_archive_of_its_own_is_refused(bento):
    with zipfile.ZipFile(bento / "more.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    refused(bento, r"more\.zip, which is neither text nor an artifact")


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.PT"])
def test_the_name_of_a_pickle_is_refused_whatever_is_in_it(bento, name):
    (bento / "src" / name).write_text("text")
    refused(bento, "holds a pickle")


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("inner.npy", pickle.dumps(Evil()), r"a pickle: src/model\.skops!inner\.npy"),
        ("inner.npy", zlib.compress(pickle.dumps(Evil())), r"a pickle: src/model\.skops!inner\.npy"),
        ("inner.npy", saved(np.array([{}, []], dtype=object)), r"a pickle: src/model\.skops!inner\.npy"),
        ("inner.npz", sparse(np.array([{}], dtype=object)), r"a pickle: src/model\.skops!inner\.npz!data\.npy"),
        (
            "inner.npy",
            saved(np.zeros(2, dtype=[("x", float), ("y", object)])),
            r"a pickle: src/model\.skops!inner\.npy",
        ),
        ("inner.npy", saved(np.zeros(3))[:20], r"a pickle: src/model\.skops!inner\.npy"),
        ("inner.npy", b"\x93NUMPY\x09\x00" + saved(np.zeros(3))[8:], r"a pickle: src/model\.skops!inner\.npy"),
        ("inner.npz", b"no zip", "damaged archive"),
        ("inner.pkl", b"", r"src/model\.skops!inner\.pkl, which no skops file has"),
    ],
    ids=["pickle", "compressed", "objects", "sparse", "record", "cut off", "later format", "damaged", "other"],
)
def test_an_entry_of_a_skops_file_that_is_no_array_is_refused(bento, name, content, pattern):
    write_skops(bento, {name: content})
    refused(bento, pattern)


@settings(max_examples=200)
@given(st.text())
def test_text_is_no_pickle(text):
    assert not _is_text_pickle(text.encode())
