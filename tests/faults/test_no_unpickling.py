"""Model files are data: no code in them is ever run."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.small_project import finished_project, image_bytes

CALL = """
import sys
from pathlib import Path

def forbid(event, arguments):
    if event == "pickle.find_class":
        print("unpickles", *arguments, flush=True)

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
from serving.predictor import Predictor
from tasks.adopt.build import open_model
from tasks.adopt.deployed import Deployed
from tasks.backbones.timm_models import packaged_weights
from tasks.common.errors import EvergreenError
from tasks.models.head import read_head
from tasks.models.stage1 import load
from tasks.stages.train_backbone import checkpoint
import onnxruntime, torch
sys.addaudithook(forbid)
(answer,) = Predictor(root / "artifacts/bundle").predict([(folder / "image.png").read_bytes()])
assert answer.label, answer
read_head(root), load(root), packaged_weights()
for name in ("model.onnx", "model.safetensors", "model.pt"):
    try:
        open_model(Deployed(folder / name, ["a", "b"], 32, [0.5] * 3, [0.5] * 3, backbone="resnet18"), "multiclass")
        sys.exit(f"{name} was adopted")
    except EvergreenError as error:
        pass
assert checkpoint.load(folder / "model.safetensors") is None
import numpy
try:
    numpy.load(folder / "features.npy", mmap_mode="r")
except ValueError:
    print("done")
"""


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_nothing_is_unpickled_while_models_load(tmp_path: Path):
    """Neither files of our own nor a pickle under any name."""
    for name in ("model.onnx", "model.safetensors", "model.pt", "features.npy"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    (tmp_path / "image.png").write_bytes(image_bytes("Bag")[0])
    command = [sys.executable, "-c", CALL, str(finished_project()), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert not (tmp_path / "ran").exists()
