"""The standard service of a bundle, for `bentoml serve`: its manifest, behind one call.

This file is copied into every bundle, with the modules that it imports, so that the bundle is served by whoever has
BentoML, and answers as it does in an environment of modelworks, where `modelworks.runtime.serve` is faster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bentoml
import msgspec
from bentoml.exceptions import InternalServerError, InvalidArgument

from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import decode
from modelworks.runtime.online import from_environment
from modelworks.runtime.predictions import json_encoder
from modelworks.runtime.predictor import Predictor
from modelworks.runtime.schema import Rows, explain
from modelworks.runtime.stored import Inputs

SOURCE = Path(__file__).parent
MANIFEST = decode((SOURCE / "modelworks.json").read_bytes())


@bentoml.service(name=MANIFEST.model, description=MANIFEST.task)
class Endpoint:
    """Predictions of the bundled model."""

    def __init__(self) -> None:
        """Load the model once a worker."""
        self.predictor, self.rows, self.encode = (
            Predictor(SOURCE.parent, MANIFEST),
            Rows(MANIFEST),
            json_encoder(MANIFEST),
        )
        self.inputs, self.online = Inputs(MANIFEST), from_environment(MANIFEST)

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Predictions for one or more rows, in order."""
        try:
            asked = self.rows.decode(msgspec.json.encode({"rows": rows}))
        except msgspec.ValidationError as error:
            raise InvalidArgument(": ".join(filter(None, explain(error)))) from error
        try:
            values, _ = self.inputs.compute(
                asked, self.online.read(asked)[0].values if self.online else [()] * len(asked)
            )
            predictions = self.predictor.predict(self.inputs.complete(asked, values))
            return [json.loads(text) for text in self.encode(predictions)]
        except ModelworksError as error:
            raise InternalServerError(error.message) from error
