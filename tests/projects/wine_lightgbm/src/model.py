from config import PARAMS
from lightgbm import LGBMClassifier


def make_model():
    return LGBMClassifier(**PARAMS)
