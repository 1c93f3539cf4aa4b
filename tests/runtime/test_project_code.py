"""A bundle with code of its project: run as far as its manifest vouches for it, and no further."""

from __future__ import annotations

import hashlib
import os
import py_compile
import sys

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from modelworks.errors import ModelworksError
from modelworks.runtime.contents import refuse_other_files
from modelworks.runtime.manifest import Manifest, Skops, encode
from modelworks.runtime.predictor import Predictor
from modelworks.runtime.project_code import find, import_code
from runtime.own_bundle import PACKAGE, manifest_of

CODE = b"""
from .other import twice

def load(folder):
    weight = float((folder / "w").read_text())
    return lambda x: twice(x) * weight
"""
FILES = {"project/mine.py": CODE, "project/other.py": b"def twice(x):\n    return 2 * x\n", "artifacts/w": b"3"}


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    for name in [each for each in sys.modules if each.startswith("modelworks_project_")]:
        del sys.modules[name]


def bundle(folder, files, **more) -> Manifest:
    for name, content in files.items():
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "src" / name).write_bytes(content)
    return manifest_of(files, "mine:load", **more)


def test_the_loader_answers_from_its_files(tmp_path):
    manifest = bundle(tmp_path, FILES)
    encode(manifest)  # sound
    refuse_other_files(tmp_path, manifest)
    assert Predictor(tmp_path, manifest).predict([(2.0,), (5.0,)]).values == [12.0, 30.0]


def test_no_bytecode_is_written_into_a_bundle_or_read_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    manifest = bundle(tmp_path, FILES)
    planted = tmp_path / "src" / "project" / "__pycache__" / f"mine.{sys.implementation.cache_tag}.pyc"
    (tmp_path / "planted.py").write_bytes(CODE.replace(b"* weight", b"*   1000"))
    source = (tmp_path / "src" / "project" / "mine.py").stat()
    os.utime(tmp_path / "planted.py", (source.st_atime, source.st_mtime))
    py_compile.compile(str(tmp_path / "planted.py"), cfile=str(planted))
    assert Predictor(tmp_path, manifest).predict([(2.0,)]).values == [12.0]
    assert [path.name for path in planted.parent.iterdir()] == [planted.name]


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_other_bytes_is_not_run_or_read(tmp_path, name):
    manifest = bundle(tmp_path, FILES)
    (tmp_path / "src" / name).write_bytes(FILES[name] + b" ")
    with pytest.raises(ModelworksError, match=f"{name} in the bundle has sha256"):
        Predictor(tmp_path, manifest)


def test_a_file_that_the_manifest_does_not_name_is_text_or_refused(tmp_path):
    manifest = bundle(tmp_path, FILES)
    (tmp_path / "src" / "artifacts" / "more").write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelworksError, match="neither text nor an artifact"):
        refuse_other_files(tmp_path, manifest)


def test_files_and_a_loader_without_code_contradict_each_other(tmp_path):
    with pytest.raises(ModelworksError, match="files need code of the project"):
        encode(bundle(tmp_path, FILES, code=None))


def test_code_that_does_not_load_is_named(tmp_path):
    files = {**FILES, "project/mine.py": b"import there_is_no_such_package\n"}
    with pytest.raises(ModelworksError, match=r"project/mine\.py in the bundle: ModuleNotFoundError"):
        Predictor(tmp_path, bundle(tmp_path, files))


def test_a_pipeline_holds_functions_of_the_bundles_own_code_and_of_no_other(tmp_path):
    files = {name: content for name, content in FILES.items() if name.startswith("project/")}
    manifest = bundle(tmp_path, files, own=None)
    import_code(tmp_path, manifest.code)
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    model = make_pipeline(FunctionTransformer(find(PACKAGE, "other:twice")), LogisticRegression()).fit(x, [0, 0, 1, 1])
    content = skops.io.dumps(model)
    named = tuple(skops.io.get_untrusted_types(data=content))
    assert named == (f"{PACKAGE}.other.twice",)
    (tmp_path / "src" / "model.skops").write_bytes(content)
    part = Skops(path="model.skops", sha256=hashlib.sha256(content).hexdigest(), columns=("x",), trusted=named)
    whole = {"kind": "binary", "classes": (False, True), "skops": part}
    served = Manifest(
        model="m", task="t", features=manifest.features, examples=manifest.examples, code=manifest.code, **whole
    )
    assert Predictor(tmp_path, served).predict([(3.0,)]).labels == [1]
    without = Manifest(model="m", task="t", features=manifest.features, examples=manifest.examples, **whole)
    with pytest.raises(ModelworksError, match="types that this server does not load"):
        Predictor(tmp_path, without)
