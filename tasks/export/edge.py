"""One file for an edge device: `model.pyz`, a Python zip archive with the model and a small runner.

The runner (tasks.export.edge_runner) needs onnxruntime, numpy and Pillow only. Decoding, resizing, thresholds and the
out-of-distribution score are this project's own modules, packed with it, so a device answers as the predictor does.
The archive is built without times of day: the same bundle gives the same bytes.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from tasks.export.source import Source, Written
from tasks.inference.onnx_model import Outputs
from tasks.inference.ood.scores import read_tensors
from tasks.releases import bundle

NAME = "model.pyz"
HERE = Path(__file__).resolve().parents[2]
MODULES = (
    *("tasks/__init__.py", "tasks/common/__init__.py", "tasks/common/errors.py", "tasks/common/written.py"),
    *("tasks/dataset/__init__.py", "tasks/dataset/decode.py", "tasks/inference/__init__.py"),
    *("tasks/inference/thresholds.py", "tasks/inference/coarse.py", "tasks/inference/conformal.py"),
    *("tasks/scoring/__init__.py", "tasks/scoring/metrics.py"),
    *("tasks/inference/ood/__init__.py", "tasks/inference/ood/scores.py"),
    *("tasks/inference/ood/energy.py", "tasks/inference/ood/features.py", "tasks/inference/ood/gaussian.py"),
    *("tasks/inference/ood/neighbours.py", "tasks/inference/ood/residual.py"),
)
WITHOUT_PYARROW = (
    '"""Only a name for annotations: the tables of shards need pyarrow."""\n\n\nclass ShardTable:\n    pass\n'
)
KEYS = (
    *("name", "task", "classes", "preprocess", "thresholds", "weights", "ood", "conformal", "hierarchy"),
    "provisional",
)
THEN = (1980, 1, 1, 0, 0, 0)  # of every file in the archive


def write(source: Source, folder: Path) -> Written:
    """Write model.pyz into `folder`."""
    tensors = io.BytesIO()
    np.savez(tensors, **read_tensors(source.bundle / "ood.safetensors"))
    about = {key: source.about.get(key) for key in KEYS}
    about |= {"version": source.version, "bundle": bundle.digest(source.bundle)}
    runner = (HERE / "tasks/export/edge_runner.py").read_bytes()
    files = {name: (HERE / name).read_bytes() for name in MODULES} | {
        "tasks/dataset/shard_table.py": WITHOUT_PYARROW.encode(),
        "edge.py": runner,
        "__main__.py": runner,
        "model.json": json.dumps(about, sort_keys=True).encode(),
        "ood.npz": _undated(tensors.getvalue()),
        "model.onnx": source.model.read_bytes(),
    }
    (folder / NAME).write_bytes(_zipped(files))

    def run(pixels: np.ndarray) -> Outputs:
        import onnxruntime

        with zipfile.ZipFile(folder / NAME) as inside:
            session = onnxruntime.InferenceSession(inside.read("model.onnx"), providers=["CPUExecutionProvider"])
        return Outputs(*session.run(Outputs._fields, {"images": np.ascontiguousarray(pixels)}))

    return Written(run, "the model in model.pyz", ("onnxruntime", "numpy", "pillow"))


def _zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, THEN)
            entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(".py") else zipfile.ZIP_STORED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return made.getvalue()


def _undated(archive: bytes) -> bytes:
    """The zip `archive` with the same times for every file."""
    with zipfile.ZipFile(io.BytesIO(archive)) as inside:
        return _zipped({name: inside.read(name) for name in inside.namelist()})
