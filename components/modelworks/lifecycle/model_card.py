"""The model card inside a bundle: what a reader must know before trusting the model.

Everything in it is a function of what the bundle is made of: no clock, no commit, no machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks._files import read_json

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import ModelSpec
    from modelworks.runtime.manifest import Manifest


def model_card(spec: ModelSpec, folder: Path, manifest: Manifest) -> str:
    """The card of a run, Markdown."""
    metrics, inputs = read_json(folder / "metrics.json"), read_json(folder / "inputs.json")
    card = spec.card
    parts = [
        f"# {spec.name}",
        spec.description,
        f"Owner: {spec.owner}.",
        "## Intended use\n\n" + card.intended_use,
        *(["## Out of scope\n\n" + card.out_of_scope] if card.out_of_scope else []),
        "## Data\n\n" + _data(spec, metrics["rows"]),
        "## Metrics\n\n" + _metrics(spec, metrics),
        *([_slices(folder)] if (folder / "slices.json").is_file() else []),
        "## Limits\n\n" + ("\n".join(f"- {each}" for each in card.limits) or "None are stated."),
        *(["## Ethics\n\n" + card.ethics] if card.ethics else []),
        "## Features\n\n" + _features(spec),
        "## How it is served\n\n" + _served(manifest, read_json(folder / "parity.json")),
        "## Made of\n\n"
        + _table(
            ["what", "digest or value"], [[name, f"`{inputs[name]}`"] for name in ("data", "code", "lock", "seed")]
        )
        + "\n\nParameters: "
        + (", ".join(f"`{name}={value}`" for name, value in sorted(inputs["parameters"].items())) or "none")
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _data(spec: ModelSpec, rows: dict[str, int]) -> str:
    how = _split(spec)
    counts = f"{rows['train']:,} rows to train, {rows['validation']:,} to validate, {rows['holdout']:,} held out"
    return f"{spec.data.description}\n\n{counts}; {how}."


def _split(spec: ModelSpec) -> str:
    split = spec.data.split
    embargo = f", {split.embargo} before each left out" if split.embargo else ""
    if split.holdout:
        return (
            f"split by `{split.time}`: the last {split.holdout} held out, {split.validation} before validate{embargo}"
        )
    if split.time:
        return (
            f"split by `{split.time}`: validation from {split.validation_from}, hold-out from "
            f"{split.holdout_from}{embargo}"
        )
    by = ", ".join(f"`{name}`" for name in split.keys) or "its features"
    return f"split by the hash of each row's {by.removeprefix('its ')}"


def _metrics(spec: ModelSpec, metrics: dict[str, Any]) -> str:
    rows = [
        [f"**{name}**" if name == spec.metric else name, *(_number(metrics[part][name]) for part in PARTS)]
        for name in sorted(metrics["holdout"])
    ]
    return _table(["metric", *PARTS], rows)


PARTS = ("train", "validation", "holdout")


def _slices(folder: Path) -> str:
    found = read_json(folder / "slices.json")
    parts = ["## Slices and groups of the hold-out"]
    for column, rows in sorted(found.items()):
        names = sorted({name for row in rows for name in row["metrics"]})
        lines = [
            [row["slice"], f"{row['rows']:,}", *(_number(row["metrics"].get(name)) for name in names)] for row in rows
        ]
        parts.append(f"### By {column}\n\n" + _table([column, "rows", *names], lines))
    return "\n\n".join(parts)


def _features(spec: ModelSpec) -> str:
    rows = [
        [
            f"`{each.name}`", each.type, each.unit, "yes" if each.nullable or not each.required else "no",
            each.description + (" (private)" if each.private else ""),
        ]
        for each in spec.features
    ]  # fmt: skip
    table = _table(["feature", "type", "unit", "may be missing", "meaning"], rows)
    known = [
        f"- `{each.name}` is known when predicting: {each.known_because}"
        for each in spec.features
        if each.known_because
    ]
    return "\n\n".join([table, *(["\n".join(known)] if known else [])])


def _served(manifest: Manifest, parity: dict[str, Any]) -> str:
    if manifest.served == "onnx" and not manifest.parity:
        return "As the ONNX graph that train returned."
    if manifest.served == "onnx":
        return (
            f"As ONNX. Over {parity['rows']:,} rows, of the hold-out and at the edges of the schema, it answers as "
            f"scikit-learn does: "
            f"{parity['different_labels']} other labels, "
            f"largest difference {parity['max_difference']:.1e} (tolerance {parity['tolerance']:.0e})."
        )
    if manifest.served == "custom":
        return "By a custom service, which BentoML runs."
    if manifest.served == "own":
        return "By code of the project, which the bundle holds, from files that train made."
    return f"By scikit-learn, from a skops file. No ONNX: {parity['reason']}."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
