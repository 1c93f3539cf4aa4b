"""The scores of a bundle, as it answers where it serves: of the one that is judged, and of the champion."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle import scores
from modelworks.lifecycle.metrics import Outcome
from modelworks.lifecycle.rows import request_rows
from modelworks.lifecycle.spec import ModelSpec
from modelworks.lifecycle.splits import unseen
from modelworks.runtime.bundle import open_bundle
from modelworks.runtime.manifest import Manifest
from modelworks.runtime.predictions import Predictions
from modelworks.runtime.predictor import Predictor
from modelworks.runtime.server.custom_service import Service
from modelworks.runtime.stored import stored_columns

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 500
"""Maximum rows of one request to a bundle."""


class Champion(NamedTuple):
    """The bundle that serves now, on the hold-out rows that it was not trained on either."""

    rows: np.ndarray
    """Their positions in the hold-out."""
    outcome: Outcome


def load_model(bento: Path, manifest: Manifest, services: ExitStack) -> Predictor | Service:
    """The bundle as an environment serves it: the server's own predictor, or BentoML around a custom service."""
    if manifest.service == "standard":
        return Predictor(bento, manifest)
    scratch = bento.with_name(f"{bento.name}-service")
    scratch.mkdir()
    service = Service(manifest, bento, scratch)
    services.callback(service.stop)
    return service


def score_bundle(spec: ModelSpec, model: Predictor | Service, table: pd.DataFrame) -> np.ndarray:
    """A bundle's scores for the rows of a table, read from its answers as callers read them."""
    manifest = model.manifest
    answers = [model.predict(rows) for rows in request_rows(table, manifest, CHUNK_ROWS)]
    return scores.validate(spec, _stated(manifest, answers), len(table))


def _stated(manifest: Manifest, answers: list[Predictions]) -> np.ndarray:
    """The scores in some answers, whose labels must be those of the scores."""
    values = np.array([value for each in answers for value in each.values])  # noqa: PD011 - no table, a list
    if manifest.kind == "regression":
        return values
    labels = np.array([label for each in answers for label in each.labels])
    if manifest.kind == "binary":
        answer, expected = np.column_stack([1 - values, values]), (values >= manifest.threshold).astype(int)
    else:
        answer = np.array([shares for each in answers for shares in each.probabilities])
        expected = answer.argmax(axis=1)
    if different := int((labels != expected).sum()):
        raise ModelworksError(
            f"{different} of {len(labels)} labels of {manifest.model} are not those of the scores its service answers",
            fix="Binary: the second class from the manifest's threshold on. Many classes: the most probable one.",
        )
    return answer


def score_champion(spec: ModelSpec, job: dict[str, Any], folder: Path, outcome: Outcome) -> Champion | str | None:
    """The champion of a job, on the rows of an outcome; or why it cannot be compared; None if nothing serves."""
    if not job["champion"]:
        return None
    manifest = open_bundle(Path(job["champion"]), Digest(job["champion_digest"]), spec.name, folder)
    read = stored_columns(manifest.stored, {each.name: each for each in manifest.features}) if manifest.stored else ()
    taken = dict.fromkeys(feature.name for feature in (*manifest.features, *manifest.request_features, *read))
    absent = [name for name in taken if name not in outcome.rows.columns]
    if absent:
        return f"the champion takes {', '.join(absent)}, which this data has not"
    if (manifest.kind, manifest.classes) != (spec.kind, spec.classes):
        return "the champion answers another question: its classes differ"
    rows = unseen(manifest.holdout, outcome.rows)
    if isinstance(rows, str):
        return f"the champion cannot be compared: {rows}"
    part = outcome.take(rows)
    if not len(rows):
        return Champion(rows, part)
    with ExitStack() as services:
        answer = score_bundle(spec, load_model(folder, manifest, services), part.rows)
    return Champion(rows, Outcome(spec.kind, part.truth, answer, part.rows, manifest.threshold))
