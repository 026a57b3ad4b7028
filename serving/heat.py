"""Which regions of an image speak for a class, from the exported model alone: no torch, no gradients.

Two methods:

- "cam": where the features are the mean over places of a map A and the classes a linear function of them, Grad-CAM
  (Selvaraju et al. 2017) of that map needs no gradient: the weight of a channel is the class's own weight of the
  feature (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization"). One run of the model.
- "occlusion", for every other network and for maps of fewer than PLACES places a side: cover one window after the other
  with grey and see how much the class loses (Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional
  Networks"). WINDOWS^2 runs of the model.

S the side of the model's input in pixels, K classes, D feature dimensions, h x w the places of a map.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from serving.predictor import Predictor
from tasks.dataset.decode import GREY

PLACES = 4  # smallest width and height of a map that is used, as in tasks.models.grad_cam
WINDOWS = 7  # a side; each is a quarter of the image wide, so neighbours overlap by half
MEANS = ("GlobalAveragePool", "ReduceMean")
SHAPES = ("Flatten", "Squeeze", "Reshape", "Identity")  # operations that only change the features' shape


class Heat:
    """Makes heat for one bundle. Not for several threads at once. Holds a second copy of the network."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor
        self._cut = _cut(predictor.folder / "model.onnx")

    def __call__(self, pixels: np.ndarray, k: int) -> tuple[np.ndarray, str]:
        """((S, S) float32 heat in 0..1 for class number `k` on (S, S, 3) uint8 `pixels`, name of the method)."""
        heat, method = self._cam(pixels, k), "cam"
        if heat is None:
            heat, method = occlusion(self._predictor, pixels, k), "occlusion"
        large = np.asarray(Image.fromarray(heat).resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))
        large = np.maximum(large, 0)
        return large / max(float(large.max()), 1e-12), method

    def _cam(self, pixels: np.ndarray, k: int) -> np.ndarray | None:
        """(h, w) float32, or None where this method does not fit the network."""
        if self._cut is None:
            return None
        session, weight = self._cut
        maps, features = session.run(None, {"images": pixels[None]})
        if maps.ndim != 4 or min(maps.shape[2:]) < PLACES or weight.shape[1] != maps.shape[1]:
            return None
        if not np.allclose(maps.mean(axis=(2, 3)), features, rtol=1e-3, atol=1e-4):  # several looks, another pooling
            return None
        return np.maximum(np.tensordot(weight[k], maps[0], 1), 0).astype(np.float32)


def occlusion(predictor: Predictor, pixels: np.ndarray, k: int) -> np.ndarray:
    """(WINDOWS + 1, WINDOWS + 1) float32: what the logit of class `k` loses while a place is covered, at least 0."""
    edges = np.linspace(0, len(pixels), WINDOWS + 2).round().astype(int)
    covered = np.repeat(pixels[None], WINDOWS**2 + 1, axis=0)
    places = [(row, column) for row in range(WINDOWS) for column in range(WINDOWS)]
    for image, (row, column) in zip(covered, places, strict=False):  # the last one stays whole
        image[edges[row] : edges[row + 2], edges[column] : edges[column + 2]] = GREY
    logits = predictor.predict_pixels(covered).logits[:, k]
    lost, times = np.zeros((2, WINDOWS + 1, WINDOWS + 1), np.float32)
    for logit, (row, column) in zip(logits[:-1], places, strict=True):
        lost[row : row + 2, column : column + 2] += logits[-1] - logit
        times[row : row + 2, column : column + 2] += 1
    return np.maximum(lost / times, 0)


def _cut(path: Path):
    """(session with the outputs (map before the pooling, features), classifier (K, D)), or None without such a map."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    model = onnx.load(str(path))
    made_by = {output: node for node in model.graph.node for output in node.output}
    held = {one.name: one for one in model.graph.initializer}
    node = made_by.get("features")
    while node is not None and node.op_type in SHAPES:
        node = made_by.get(node.input[0])
    heads = [one for one in model.graph.node if one.op_type == "Gemm" and one.input[0] == "features"]
    if node is None or node.op_type not in MEANS or len(heads) != 1 or heads[0].input[1] not in held:
        return None
    weight = numpy_helper.to_array(held[heads[0].input[1]])
    turned = any(one.name == "transB" and one.i for one in heads[0].attribute)
    features = next(one for one in model.graph.output if one.name == "features")
    del model.graph.output[:]
    model.graph.output.extend([onnx.ValueInfoProto(name=node.input[0]), features])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, weight if turned else weight.T
