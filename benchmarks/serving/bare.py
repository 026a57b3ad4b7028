"""The bare loop: decode, resize and ONNX Runtime on one core, nothing else.

python -m benchmarks.serving.bare BUNDLE IMAGES SECONDS      prints images per CPU second, best batch size
"""

import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.dataset.decode import PREPROCESS, preprocess
from tasks.inference.onnx_model import OnnxModel
from tasks.releases import bundle

BATCHES = (1, 8, 32)


def main(folder: Path, file: Path, seconds: float) -> None:
    spec, model = bundle.read(folder)["preprocess"], OnnxModel(folder / "model.onnx")
    images = pq.read_table(file)["image"].to_pylist()
    best = 0.0
    for batch in BATCHES:
        done, began, end = 0, time.process_time(), time.perf_counter() + seconds / len(BATCHES)
        while time.perf_counter() < end:
            chosen = [images[(done + n) % len(images)] for n in range(batch)]
            model(np.array([preprocess(one, *(spec.get(key) for key in PREPROCESS)) for one in chosen]))
            done += batch
        best = max(best, done / (time.process_time() - began))
    print(best)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
