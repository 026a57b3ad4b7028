"""The same model behind BentoML with its adaptive batching.

bentoml serve bento_peer:Classifier --working-dir benchmarks/serving
"""

import os

import bentoml
import numpy as np
from PIL import Image, ImageOps


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1000})
class Classifier:
    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.side = self.session.get_inputs()[0].shape[1]

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)
    def predict(self, images: list[Image.Image]) -> list[dict]:
        size = (self.side, self.side)
        pixels = [
            np.asarray(ImageOps.exif_transpose(image).convert("RGB").resize(size, Image.Resampling.BICUBIC))
            for image in images
        ]
        (probabilities,) = self.session.run(["probabilities"], {"images": np.stack(pixels)})
        return [{"class": int(row.argmax()), "probabilities": row.tolist()} for row in probabilities]
