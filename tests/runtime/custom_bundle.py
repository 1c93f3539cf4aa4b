"""A real Bento with a service of its own, whose rows say how it should behave."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modelworks.runtime.manifest import Manifest, encode
from runtime.example_bundle import Example, pack

RAISES, DIES, LIES, REFUSES, BUSY, SHORT = range(1, 7)
"""What the service does when `x0` is this number."""
CONCURRENCY = 4
"""Requests that it takes at once."""

SERVICE = """
import asyncio
import os
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException, InvalidArgument


@bentoml.service(traffic={"concurrency": 4, "timeout": 600}, envs=[{"name": "GREETING", "value": "hello"}])
class Endpoint:
    def __init__(self):
        print("a line of its own")

    @bentoml.api
    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        behaviour = rows[0]["x0"]
        if behaviour == 1:
            raise ValueError("what it says stays in the log")
        if behaviour == 2:
            os._exit(3)
        if behaviour == 3:
            return [{"label": "perhaps", "score": 0.5} for row in rows]
        if behaviour == 4:
            raise InvalidArgument("the service knows better")
        if behaviour == 5:
            raise BentoMLException("not now", error_code=HTTPStatus.TOO_MANY_REQUESTS)
        if behaviour == 6:
            return []
        return [{"label": "late", "score": 0.75, "because": [row["carrier"], "pid", os.getpid()]} for row in rows]

    @bentoml.api(route="/v1/explain")
    async def explain(self, row: dict[str, Any], ctx: bentoml.Context, top: int = 3) -> dict[str, Any]:
        if top < 0:
            raise ValueError("top")
        got = {name: ctx.request.headers.get(name) for name in ("x-request-id", "traceparent", "authorization")}
        return {"top": top, "greeting": os.environ["GREETING"], **got}

    @bentoml.api
    async def hold(self, folder: str) -> str:
        (Path(folder) / f"held-{uuid.uuid4()}").touch()
        while not (Path(folder) / "open").exists():
            await asyncio.sleep(0.01)
        return "let go"

    @bentoml.api
    def shout(self, text: str) -> str:
        return text.upper()
"""

BUILD = """
import sys
from unittest.mock import patch
import bentoml
with patch("bentoml._internal.configuration.get_uv_command", return_value=["uv"]):
    built = bentoml.bentos.build(
        "service:Endpoint", name=sys.argv[1], version="1", build_ctx=".", python={"lock_packages": False},
        include=["service.py", "modelworks.json", "card.md"],
    )
print(built.path)
"""


def build(folder: Path, manifest: Manifest, code: str = SERVICE) -> Example:
    """Let BentoML build it around the rows of another bundle's manifest."""
    manifest = msgspec.structs.replace(manifest, service="custom", onnx=None, skops=None, parity=None)
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "service.py").write_text(code)
    (source / "card.md").write_text("# A card\n")
    (source / "modelworks.json").write_bytes(encode(manifest))
    environment = {**os.environ, "BENTOML_HOME": str(folder / "store"), "BENTOML_DO_NOT_TRACK": "True"}
    (folder / "store").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, manifest.model],
        cwd=source, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bento = Path(done.stdout.splitlines()[-1])
    return packed(
        folder, manifest, {str(p.relative_to(bento)): p.read_bytes() for p in bento.rglob("*") if p.is_file()}
    )


def packed(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> Example:
    archive = folder / f"{manifest.model}.bento"
    pack(archive, files)
    return Example(archive, "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest(), manifest, None, ())


def recoded(example: Example, folder: Path, code: str) -> Example:
    """The same Bento with other code behind the same APIs: what a bad release is made of."""
    folder.mkdir(parents=True, exist_ok=True)
    return packed(folder, example.manifest, {**_files(example), "src/service.py": code.encode()})


def hurried(example: Example, folder: Path, *, seconds: int) -> Example:
    """The same Bento with so little time for an answer."""
    files = _files(example)
    facts = yaml.safe_load(files["bento.yaml"])
    facts["services"][0]["config"]["traffic"]["timeout"] = seconds
    code = files["src/service.py"].replace(b'"timeout": 600', b'"timeout": %d' % seconds)
    folder.mkdir(parents=True, exist_ok=True)
    return packed(
        folder, example.manifest, {**files, "bento.yaml": yaml.safe_dump(facts).encode(), "src/service.py": code}
    )


def _files(example: Example) -> dict[str, bytes]:
    with tarfile.open(example.archive) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar.getmembers()}  # type: ignore[union-attr]


def held(folder: Path) -> list[Path]:
    """Requests to `/hold` that the service has begun to answer; it ends when `open` is in the folder."""
    return list(folder.glob("held-*"))


def row(behaviour: int = 0, **more: Any) -> dict[str, Any]:
    """A valid row."""
    return {**{f"x{number}": 0 for number in range(14)}, "x0": behaviour, "carrier": "UA", **more}
