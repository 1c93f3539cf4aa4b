"""A runtime class for MLServer around ONNX Runtime: it has none of its own. Runs in an environment of its own."""

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """Probabilities of rows, as the open inference protocol has it."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        path = self.settings.parameters.uri
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        table = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        [probabilities] = self._session.run(["probabilities"], {"X": table})
        output = NumpyCodec.encode_output("score", probabilities[:, 1])
        return InferenceResponse(model_name=self.name, outputs=[output])
