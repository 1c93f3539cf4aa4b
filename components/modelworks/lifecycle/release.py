"""A release is a line in a stack's config file, in git; this edits that line and leaves all others as they are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from modelworks._files import locked, write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle.release_line import with_release
from modelworks.settings import Release
from modelworks.stack_config import load, parse_yaml, read_config

ORDER = ("dev", "staging", "prod")
LOCAL = "local"


def read_releases(path: Path) -> dict[str, Release]:
    """The releases of a stack's config file, by the model's name.

    Raises:
        ModelworksError: The file is missing or breaks a rule.
    """
    return load(path).releases


def released_models(path: Path) -> list[str]:
    """Names of the models that a stack's config file releases, also where it lacks something else, such as a secret.

    Raises:
        ModelworksError: It is not YAML.
    """
    return sorted(read_config(path).get("modelworks:releases") or {})


def set_release(path: Path, model: str, release: Release) -> bool:
    """Make `release` what `model` serves in a stack, and change nothing else in its file: see `release_line`.

    Two who edit the same file at once come one after the other; the result is checked before it replaces the file.

    Args:
        path: The stack's config file.
        model: The model's name.
        release: The release that serves.

    Returns:
        Whether the file changed.

    Raises:
        ModelworksError: The file cannot be read, edited safely or written, or would break a rule afterwards; it is
            untouched then.
    """
    path = path.resolve()  # a link stays one
    with locked(path.parent):  # not the file, which is replaced
        before = _read(path)
        edited = with_release(before, model, release, source=str(path))
        if edited == before:
            return False
        parse_yaml(edited, source=str(path))  # a release that breaks a rule never reaches the file
        write_whole(path, edited, mode=path.stat().st_mode & 0o777)
    return True


def read_order(project: Path) -> tuple[str, ...]:
    """The environments that a version comes up through, one after the other: `tool.modelworks.order` of pyproject.toml.

    Args:
        project: The folder of `Pulumi.yaml`.

    Returns:
        Their names; `dev`, `staging` and `prod` by default.

    Raises:
        ModelworksError: The project's file breaks a rule.
    """
    file = project / "pyproject.toml"
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("modelworks", {})
    except FileNotFoundError:
        return ORDER
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelworksError(f"{file} is not TOML: {error}") from error
    if strangers := sorted(said.keys() - {"order"}):
        raise ModelworksError(f"{file}: tool.modelworks.{strangers[0]}: unknown key", fix="The only key is `order`.")
    order = said.get("order", list(ORDER))
    if problem := _problem_of(order):
        raise ModelworksError(
            f"{file}: tool.modelworks.order: {problem}",
            fix='Name each environment once, as in order = ["dev", "staging", "prod"].',
        )
    return tuple(order)


def require_next(order: Sequence[str], source: str, target: str) -> None:
    """Refuse a promotion that skips an environment or goes backwards.

    Args:
        order: The environments that a version comes up through.
        source: Where it serves.
        target: Where it is to serve.

    Raises:
        ModelworksError: `target` does not come right after `source`.
    """
    if (source, target) in pairwise(order):
        return
    raise ModelworksError(
        f"a version is not promoted from {source} to {target}: it comes up through {' → '.join(order)}",
        fix="Promote one step at a time; what was tried in `local` is trained again in the first environment. "
        "Another order is stated in pyproject.toml: [tool.modelworks] order = [...].",
    )


def _problem_of(order: Any) -> str:
    if not isinstance(order, list) or not order:
        return f"expected a list of environments, found {order!r}"
    for name in order:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name):
            return f"expected names of stacks, found {name!r}"
        if name == LOCAL:
            return f"{LOCAL!r} is where things are tried: nothing is promoted from or to it"
        if order.count(name) > 1:
            return f"{name!r} is there twice"
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # with its own line endings
    except FileNotFoundError as error:
        raise ModelworksError(f"{path} does not exist", fix="Check the environment's name.") from error
    except UnicodeDecodeError as error:
        raise ModelworksError(f"{path} is not YAML: {error}") from error
