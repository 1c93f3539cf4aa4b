"""Projects of strangers (`tests/projects`), adopted, trained and bundled, with nothing edited."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from modelworks.lifecycle import load_spec
from modelworks.lifecycle.adopt import adopt
from modelworks.lifecycle.bundle import Bundle, build_bundle
from modelworks.lifecycle.runs import Home
from modelworks.lifecycle.training import train

ROOT = Path(__file__).parents[1]
PROJECTS = ROOT / "tests" / "projects"
STRANGERS = {
    "churn": ("churn_sklearn", "", "skops"),
    "energy": ("energy_xgboost", "", "skops"),
    "wine": ("wine_lightgbm", "", "skops"),
    "digits": ("digits_onnx", "", "own"),
    "quotes": ("quotes_function", "paid", "own"),
}
"""By the name of the model: the folder, the target where the code does not tell it, and what answers."""


@dataclass(frozen=True)
class Brought:
    folder: Path
    bundle: Bundle
    served: str


def bring(model: str, root: Path) -> Brought:
    """A stranger's model in a project of its own below `root`."""
    project, target, served = STRANGERS[model]
    shutil.copyfile(ROOT / "uv.lock", root / "uv.lock")
    made = adopt(PROJECTS / project, model, root / "models", target=target)
    home = Home(root / "home")
    return Brought(made.folder, build_bundle(train(load_spec(made.folder), home), home), served)
