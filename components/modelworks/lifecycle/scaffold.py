"""The start of a model project."""

from __future__ import annotations

from pathlib import Path

from modelworks._files import write_whole
from modelworks.contract import MODEL_NAME
from modelworks.errors import ModelworksError

TEMPLATES = Path(__file__).with_name("templates")


def scaffold(name: str, into: Path) -> Path:
    """Make a project called `name` in the folder `into` and return its folder.

    Raises:
        ModelworksError: The name is no model's name, or the project exists.
    """
    folder = new_folder(name, into)
    for template in sorted(TEMPLATES.glob("*.txt")):
        text = template.read_text(encoding="utf-8").replace("__NAME__", name)
        write_whole(folder / template.name.removesuffix(".txt"), text)
    return folder


def new_folder(name: str, into: Path) -> Path:
    """The folder of a project to be made.

    Raises:
        ModelworksError: The name is no model's name, or the project exists.
    """
    if not MODEL_NAME.fullmatch(name):
        raise ModelworksError(
            f"a model's name is 1 to 40 lower-case letters, digits and dashes, beginning with a letter, got {name!r}",
            fix="For instance: modelworks new churn-risk",
        )
    folder = into / name.replace("-", "_")
    if folder.exists():
        raise ModelworksError(f"{folder} already exists", fix="Choose another name, or edit what is there.")
    return folder
