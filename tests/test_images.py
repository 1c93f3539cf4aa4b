"""The images: their Dockerfiles, and the command that builds, pushes and pins them.

Docker is a stand-in that records its arguments and answers as `docker buildx build` does; no image is built here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mocks import ROOT
from modelworks._git import git
from modelworks.errors import ModelworksError

REGISTRY = "111111111111.dkr.ecr.eu-central-1.amazonaws.com/modelworks"
STAND_IN = """#!{python}
import hashlib, json, sys
from pathlib import Path
arguments = sys.argv[1:]
with Path({record!r}).open("a") as record:
    record.write(json.dumps(arguments) + "\\n")
if {failing!r} in arguments:
    sys.exit(1)
image = arguments[arguments.index("--tag") + 1]
digest = "sha256:" + hashlib.sha256(image.encode()).hexdigest()
metadata = {{"containerimage.digest": digest, "image.name": image}}
Path(arguments[arguments.index("--metadata-file") + 1]).write_text(json.dumps(metadata))
"""


def script():
    spec = importlib.util.spec_from_file_location("images", ROOT / "packaging" / "images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


images = script()


class Checkout:
    """A committed checkout whose `docker` is the stand-in."""

    def __init__(self, folder: Path, failing: str) -> None:
        self.root, self.record = folder / "checkout", folder / "asked.jsonl"
        shutil.copytree(ROOT / "images", self.root / "images")
        shutil.copytree(ROOT / "stacks", self.root / "stacks", ignore=shutil.ignore_patterns("*.py", "Pulumi.local*"))
        git(folder, "init", "-q", str(self.root))
        git(self.root, "add", ".")
        git(self.root, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "All of it")
        engine = folder / "bin" / "docker"
        engine.parent.mkdir()
        engine.write_text(STAND_IN.format(python=sys.executable, record=str(self.record), failing=failing))
        engine.chmod(0o755)

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    @property
    def diff(self) -> list[str]:
        """Lines of the stack files that differ from the commit."""
        text = git(self.root, "diff", "--unified=0").decode()
        return re.findall(r"^[-+](?![-+]).*", text, re.MULTILINE)


@pytest.fixture
def checkout(request, tmp_path, monkeypatch) -> Checkout:
    made = Checkout(tmp_path, getattr(request, "param", "nothing fails"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path('/usr/bin')}:{Path('/bin')}")
    return made


def test_every_image_is_built_for_the_nodes_and_pushed_under_its_commit(checkout):
    images.main([REGISTRY], checkout.root)
    commit = git(checkout.root, "rev-parse", "--short=12", "HEAD").decode().strip()
    assert [asked[: asked.index("--metadata-file")] + asked[-1:] for asked in checkout.asked] == [
        [
            "buildx", "build", "--push", "--platform", "linux/amd64", "--file", f"images/{name}/Dockerfile",
            "--tag", f"{REGISTRY}/{name}:{commit}", ".",
        ]
        for name in ("runtime", "registry", "training", "features")
    ]  # fmt: skip


def test_the_stack_files_name_what_was_pushed_and_change_in_nothing_else(checkout):
    images.main([REGISTRY, "--stacks", "dev"], checkout.root)
    pushed = {asked[asked.index("--tag") + 1] for asked in checkout.asked}
    digests = {image.rpartition(":")[0]: f"sha256:{hashlib.sha256(image.encode()).hexdigest()}" for image in pushed}
    assert [line for line in checkout.diff if line.startswith("+")] == [
        f"+      {name}_image: {REGISTRY}/{name}@{digests[f'{REGISTRY}/{name}']}"
        for name in ("runtime", "registry", "training", "features")
    ]
    assert len(checkout.diff) == 8


def test_every_environment_is_pinned_unless_some_are_named(checkout):
    images.main([REGISTRY], checkout.root)
    changed = git(checkout.root, "diff", "--name-only").decode().split()
    assert changed == ["stacks/Pulumi.dev.yaml", "stacks/Pulumi.prod.yaml", "stacks/Pulumi.staging.yaml"]


def test_the_extras_are_those_of_the_runtime_image(checkout):
    images.main([REGISTRY, "--stacks", "dev", "--extras", "runtime grpc"], checkout.root)
    assert ["EXTRAS=runtime grpc" in asked for asked in checkout.asked] == [True, False, False, False]


@pytest.mark.parametrize("checkout", ["images/training/Dockerfile"], indirect=True)
def test_where_one_image_fails_no_stack_file_changes(checkout):
    with pytest.raises(ModelworksError, match=f"the image training was not pushed to {REGISTRY}/training"):
        images.main([REGISTRY], checkout.root)
    assert (len(checkout.asked), checkout.diff) == (3, [])


def test_files_that_are_not_committed_are_refused_before_anything_is_built(checkout):
    (checkout.root / "images" / "runtime" / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(ModelworksError, match=r"1 differ:  M images/runtime/Dockerfile"):
        images.main([REGISTRY], checkout.root)
    assert checkout.asked == []


@pytest.mark.parametrize(
    "registry", ["", "https://registry.example.com/a", "registry.example.com/", "A/b", "a b", "--x"]
)
def test_a_registry_that_is_none_is_refused_before_anything_is_built(checkout, registry):
    with pytest.raises(ModelworksError, match="REGISTRY must be a registry's host and a prefix"):
        images.main(["--", registry], checkout.root)
    assert checkout.asked == []


def test_a_stack_without_a_file_is_refused(checkout):
    with pytest.raises(ModelworksError, match=r"not there: stacks/Pulumi\.qa\.yaml"):
        images.main([REGISTRY, "--stacks", "dev", "qa"], checkout.root)
    assert checkout.asked == []


def stack(cluster: str) -> str:
    return (
        'config:\n  aws:allowedAccountIds: ["111111111111"]\n  modelworks:settings:\n'
        f"    owner: a\n    cost_centre: b\n{cluster}"
    )


IMAGE = {"registry": f"{REGISTRY}/registry@sha256:{'1' * 64}"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "    cluster:\n      domain: a.example # ours\n",
            "    cluster:\n      {new}\n      domain: a.example # ours\n",
        ),
        ("    cluster:\n        registry_image: x.y/r@{old} # r\n", "    cluster:\n        {new} # r\n"),
        ('    cluster:\n      registry_image: "x.y/r@{old}"\n', "    cluster:\n      {new}\n"),
        (
            "    cluster:\n      registry_image:\n        x.y/r@{old}\n",
            "    cluster:\n      registry_image:\n        {image}\n",
        ),
    ],
    ids=["missing", "plain", "quoted", "folded"],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_an_image_is_written_where_the_file_has_it_or_first_in_the_cluster(before, after, newline):
    words = {"old": f"sha256:{'0' * 64}", "image": IMAGE["registry"], "new": f"registry_image: {IMAGE['registry']}"}
    text, wanted = (stack(each.format(**words)).replace("\n", newline) for each in (before, after))
    assert images.with_images(text, IMAGE, source="f") == wanted
    assert images.with_images(wanted, IMAGE, source="f") == wanted


@pytest.mark.parametrize(
    "cluster",
    [
        "",
        "    cluster: {domain: a.example}\n",
        "    cluster: {}\n",
        "    cluster:\n      registry_image: &r x.y/r@OLD\n      runtime_image: *r\n",
    ],
    ids=["none", "flow", "empty", "anchor"],
)
def test_a_file_that_cannot_be_edited_safely_is_refused_with_the_lines_to_write(cluster):
    with pytest.raises(ModelworksError, match="without a change to another value") as refused:
        images.with_images(stack(cluster.replace("OLD", f"sha256:{'0' * 64}")), IMAGE, source="f")
    assert f"registry_image: {IMAGE['registry']}" in refused.value.fix


@pytest.mark.parametrize("text", ["a: [", "config:\n  a: 1\n  a: 2\n", "\t:"])
def test_a_file_that_is_not_yaml_is_refused(text):
    with pytest.raises(ModelworksError, match="f is not YAML"):
        images.with_images(text, IMAGE, source="f")


@pytest.mark.parametrize(
    "said", ["{}", "[]", "no JSON", '{"containerimage.digest": "latest"}', '{"containerimage.digest": 1}']
)
def test_an_answer_without_a_digest_is_refused(tmp_path, said):
    (tmp_path / "metadata.json").write_text(said)
    with pytest.raises(ModelworksError, match="docker stated"):
        images._digest("runtime", tmp_path / "metadata.json")


# -- Dockerfiles -----------------------------------------------------------------------------------------------------
def test_every_image_of_the_repository_is_built():
    assert {*images.IMAGES} == {path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")}


def dockerfile(name: str) -> str:
    return (ROOT / "images" / name / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.mark.parametrize("name", images.IMAGES)
def test_an_image_is_what_is_locked_and_runs_as_an_ordinary_user(name):
    text = dockerfile(name)
    assert re.search(r"uv export --locked .*--no-emit-project", text)
    # Settings of pyproject.toml are no hashed requirements: uv refuses both together.
    assert re.search(r"uv pip install --no-config .*--require-hashes", text)
    assert text.rindex("USER 65532:65532") > text.rindex("FROM ")


@pytest.mark.parametrize("name", images.IMAGES)
def test_what_an_image_copies_reaches_the_builder_and_counts_for_its_commit(name):
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile(name), re.MULTILINE)
    copied = {source for line in lines for source in line.split()}
    assert copied <= {*images.SOURCES}
    assert {f"!{source}" for source in copied} <= {*(ROOT / ".dockerignore").read_text().splitlines()}


@pytest.mark.skipif(not (ROOT / ".uv" / "bin" / "uv").exists(), reason="uv is not in .uv/: `make setup` puts it there")
def test_the_registry_s_image_has_users_artifacts_and_a_driver_of_postgresql_and_no_engine():
    command = re.search(r"uv (export .*?) -o ", dockerfile("registry")).group(1)
    told = subprocess.run(
        [ROOT / ".uv" / "bin" / "uv", *command.split(), "--quiet", "--offline", "--no-hashes"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    packages = {*re.findall(r"^([a-z0-9-]+)==", told.stdout, re.MULTILINE)}
    assert {"mlflow", "flask-wtf", "boto3", "psycopg", "psycopg-binary", "uvicorn"} <= packages
    assert {"pulumi", "pulumi-aws", "pulumi-kubernetes", "typer"} & packages == set()
