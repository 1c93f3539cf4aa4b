import json

import numpy as np
import onnxruntime as ort

session = ort.InferenceSession("export/net.onnx")
stats = json.load(open("export/stats.json"))


def preprocess(df):
    x = df[stats["columns"]].to_numpy(dtype=np.float32)
    return (x - np.float32(stats["mean"])) / np.float32(stats["std"])


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def predict(df):
    logits = session.run(["logits"], {"image": preprocess(df)})[0]
    return softmax(logits)
