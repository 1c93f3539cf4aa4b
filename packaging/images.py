"""Build and push the images of pods, and write their digests into the stack files: `make images REGISTRY=HOST/PREFIX`.

Each image is built from a committed tree, and its tag is the commit. The stack files name images by their digests, and
change only after every image was pushed.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from modelworks._files import locked, write_whole
from modelworks._git import git
from modelworks.errors import ModelworksError
from modelworks.lifecycle.release import read_order
from modelworks.settings import SETTINGS_KEY

IMAGES = ("runtime", "registry", "training", "features")
"""Folders of `images/`; the setting of each is `cluster.NAME_image`."""
SOURCES = (".dockerignore", "LICENSE", "README.md", "components", "images", "pyproject.toml", "uv.lock")
"""The files that the Dockerfiles copy, and these themselves."""
_REGISTRY = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SECONDS = 3600
"""How long one image may take to build and push."""


def main(arguments: Sequence[str], root: Path) -> None:
    """Build and push every image, then write their digests into the stack files.

    Args:
        arguments: Of the command line.
        root: The checkout.

    Raises:
        ModelworksError: An argument is malformed, the tree has uncommitted changes, an image cannot be built or pushed,
            or a stack file cannot be edited safely.
    """
    options = _options(arguments)
    if not _REGISTRY.fullmatch(options.registry):
        raise ModelworksError(
            f"REGISTRY must be a registry's host and a prefix, without a scheme, got {options.registry!r}",
            fix="Write it as in make images REGISTRY=111111111111.dkr.ecr.eu-central-1.amazonaws.com/modelworks.",
        )
    files = stack_files(root, options.stacks)
    commit = committed(root)
    images = {
        name: push(root, name, f"{options.registry}/{name}", commit, options.platform, options.extras)
        for name in IMAGES
    }
    for path in files:
        changed = set_images(path, images)
        print(f"{path.relative_to(root)}: {'written' if changed else 'unchanged'}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("registry", help="host and prefix, such as registry.example.com/modelworks")
    parser.add_argument("--stacks", nargs="*", default=[], help="default: every environment that has a stack file")
    parser.add_argument("--platform", default="linux/amd64", help="of the nodes, separated by commas")
    parser.add_argument("--extras", default="", help="of the runtime image, such as `runtime grpc`")
    return parser.parse_args(arguments)


def stack_files(root: Path, stacks: Sequence[str]) -> list[Path]:
    """The files of the named stacks; by default those of every environment that versions come up through.

    Raises:
        ModelworksError: A named one is not there, or there is none at all.
    """
    paths = [root / "stacks" / f"Pulumi.{name}.yaml" for name in stacks or read_order(root)]
    missing = [str(path.relative_to(root)) for path in paths if not path.is_file()]
    if missing and (stacks or len(missing) == len(paths)):
        raise ModelworksError(
            f"not there: {', '.join(missing)}", fix="Name stacks that have a file: STACKS='dev prod'."
        )
    return [path for path in paths if path.is_file()]


def committed(root: Path) -> str:
    """The commit of the tree, shortened.

    Raises:
        ModelworksError: A file that an image is built from differs from it.
    """
    changed = git(root, "status", "--porcelain", "--", *SOURCES).decode().splitlines()
    if changed:
        raise ModelworksError(
            f"images are built from committed files, and {len(changed)} differ: {', '.join(changed[:3])}",
            fix="Commit or stash them: the tag of an image is its commit.",
        )
    return git(root, "rev-parse", "--short=12", "HEAD").decode().strip()


def push(root: Path, name: str, repository: str, tag: str, platform: str, extras: str) -> str:
    """Build and push one image. Returns its name by digest: `REPOSITORY@sha256:…`.

    Raises:
        ModelworksError: Docker is not installed, fails, or states no digest.
    """
    with tempfile.TemporaryDirectory(prefix="modelworks-images-") as folder:
        metadata = Path(folder) / "metadata.json"
        command = build_command(name, f"{repository}:{tag}", platform, extras, metadata)
        try:
            subprocess.run(command, cwd=root, check=True, timeout=_SECONDS)
        except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise ModelworksError(
                f"the image {name} was not pushed to {repository}: {error}",
                fix="Docker with buildx must run here, signed in to the registry (`docker login`), and the repository "
                "must exist. No stack file was changed.",
            ) from error
        return f"{repository}@{_digest(name, metadata)}"


def build_command(name: str, image: str, platform: str, extras: str, metadata: Path) -> list[str]:
    """The command that builds and pushes one image; its digest is in `metadata` afterwards.

    `docker buildx build` writes `containerimage.digest` there: the digest of what was pushed, of the index if there are
    several platforms or attestations.
    """
    arguments = ["--build-arg", f"EXTRAS={extras}"] if extras and name == "runtime" else []
    return [
        "docker", "buildx", "build", "--push", "--platform", platform, "--file", f"images/{name}/Dockerfile",
        "--tag", image, *arguments, "--metadata-file", str(metadata), ".",
    ]  # fmt: skip


def _digest(name: str, metadata: Path) -> str:
    try:
        digest = json.loads(metadata.read_text(encoding="utf-8"))["containerimage.digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelworksError(f"docker stated no digest of the image {name}: {error!r}") from error
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ModelworksError(f"docker stated {digest!r} as the digest of the image {name}, expected sha256:…")
    return digest


# -- Stack files -----------------------------------------------------------------------------------------------------
def set_images(path: Path, images: Mapping[str, str]) -> bool:
    """Write images into a stack file, and change nothing else in it. Returns whether the file changed.

    Raises:
        ModelworksError: The file cannot be read, edited safely or written; it is unchanged then.
    """
    path = path.resolve()  # a link stays one
    with locked(path.parent):
        try:
            before = path.read_bytes().decode("utf-8")  # with its own line endings
        except UnicodeDecodeError as error:
            raise ModelworksError(f"{path} is not YAML: {error}") from error
        edited = with_images(before, images, source=str(path))
        if edited == before:
            return False
        write_whole(path, edited, mode=path.stat().st_mode & 0o777)
    return True


def with_images(text: str, images: Mapping[str, str], *, source: str) -> str:
    """The text of a stack file, with `images` as its `cluster.NAME_image`. Every other byte stays.

    Args:
        text: The file's.
        images: Names by digest, by the name of the image.
        source: Where the text comes from, for messages.

    Raises:
        ModelworksError: `cluster` is not a block of its own lines, or the images cannot be written without a change to
            another value.
    """
    try:
        before, cluster = _parse(text), _cluster(YAML(typ="safe", pure=True).compose(text))
    except YAMLError as error:
        raise ModelworksError(f"{source} is not YAML: {error}") from error
    edited = "" if cluster is None else _edited(text, cluster, images)
    if cluster is None or not _is(edited, _with_settings(before, images)):
        lines = "\n".join(f"    {name}_image: {image}" for name, image in images.items())
        raise ModelworksError(
            f"{source}: the images cannot be written without a change to another value; the file is unchanged",
            fix=f"Write them under config, {SETTINGS_KEY}, cluster by hand:\n{lines}",
        )
    return edited


def _parse(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def _is(text: str, wanted: Any) -> bool:
    try:
        return bool(_parse(text) == wanted)
    except YAMLError:  # such as an alias whose anchor was in what is replaced
        return False


def _with_settings(document: Any, images: Mapping[str, str]) -> Any:
    changed = copy.deepcopy(document)  # parts that are shared by an anchor are one object, and would change together
    cluster = changed["config"][SETTINGS_KEY].get("cluster") or {}
    stated = {f"{name}_image": image for name, image in images.items()}
    changed["config"][SETTINGS_KEY] = {**changed["config"][SETTINGS_KEY], "cluster": {**cluster, **stated}}
    return changed


def _cluster(root: Node) -> MappingNode | None:
    """The block of the cluster's settings; None if there is none, or in flow style."""
    node: Node | None = root
    for key in ("config", SETTINGS_KEY, "cluster"):
        node = _pairs(node).get(key) if isinstance(node, MappingNode) else None
    return node if isinstance(node, MappingNode) and not node.flow_style and node.value else None


def _pairs(mapping: MappingNode) -> dict[str, Node]:
    return {key.value: value for key, value in mapping.value if isinstance(key, ScalarNode)}


def _edited(text: str, cluster: MappingNode, images: Mapping[str, str]) -> str:
    there, first = _pairs(cluster), cluster.value[0][0]
    at, indent = first.start_mark.index, " " * first.start_mark.column
    newline = "\r\n" if "\r\n" in text else "\n"
    edits = []
    for name, image in images.items():
        if (value := there.get(f"{name}_image")) is not None:
            edits.append((value.start_mark.index, value.end_mark.index, image))
        else:
            edits.append((at, at, f"{name}_image: {image}{newline}{indent}"))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


if __name__ == "__main__":
    try:
        main(sys.argv[1:], Path(__file__).resolve().parents[1])
    except ModelworksError as failure:
        sys.exit(f"error: {failure.message}" + (f"\nfix: {failure.fix}" if failure.fix else ""))
