"""Encoded bytes to the pixels that a model reads, or to the reason why not."""

import numpy as np

from serving.live import Model
from serving.predictor import Prediction
from tasks.dataset.decode import PREPROCESS, Undecodable, preprocess


def read_pixels(image: bytes, model: Model) -> np.ndarray | Prediction:
    """(S, S, 3) uint8 as `model` reads them, or the Prediction that says why the bytes are not a usable image."""
    try:
        return preprocess(image, *spec_of(model))
    except Undecodable as error:
        return Prediction(reason=error.reason, detail=error.detail)
    except Exception as error:  # other errors of a decoder on hostile bytes, as in Predictor
        return Prediction(reason="undecodable", detail=f"{type(error).__name__}: {error}")


def spec_of(model: Model) -> tuple:
    """The arguments of `preprocess` after the bytes: two models with equal ones read the same pixels."""
    spec = model.predictor.about["preprocess"]
    return tuple(spec.get(key) for key in PREPROCESS)
