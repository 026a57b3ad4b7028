"""A BentoML service that answers as Evergreen's predictor does, from encoded images.

    service.py          POST /predict with images; label, confidence, plausible classes, out of distribution, review
    bentofile.yaml      for `bentoml build` and `bentoml containerize`
    requirements.txt    what it needs, in the versions that were installed here
    bundle/             model.onnx, bundle.json and ood.safetensors, with a manifest of their own
    serving/, tasks/    the predictor's own source files: the same decoding as in training

The service needs neither torch nor a project. N images.
"""

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from tasks.common.code import ROOT, import_closure, module_file
from tasks.common.errors import EvergreenError
from tasks.common.version import VERSION
from tasks.export.source import Source, Written
from tasks.inference.onnx_model import Outputs
from tasks.releases import bundle

ENTRY = "serving.predictor"
FILES = ("model.onnx", "bundle.json", "ood.safetensors")
OPTIONAL = frozenset({"pi_heif"})  # the predictor works without it
WHY = "BentoML was not started. Checked was the predictor that service.py calls, from this folder's own source files"
CHECK = """
import sys
folder, pixels, found = sys.argv[1:]
sys.path.insert(0, folder)
import numpy
import serving.predictor
assert serving.predictor.__file__.startswith(folder), serving.predictor.__file__
outputs = serving.predictor.Predictor(folder + "/bundle").predict_pixels(numpy.load(pixels))
numpy.savez(found, **outputs._asdict())
"""
SERVICE = '''"""Serve {name} {version}, exported by Evergreen {evergreen}. Start: bentoml serve service:Classifier"""

from __future__ import annotations

from pathlib import Path

import bentoml

from serving.predictor import Predictor

HERE = Path(__file__).resolve().parent
SHOWN = ("label", "coarse", "plausible", "confidence", "probabilities", "ood", "is_ood", "needs_review", "reason")


@bentoml.service(name={service!r}, traffic={{"timeout": 30}})
class Classifier:
    def __init__(self) -> None:
        self.predictor = Predictor(HERE / "bundle")

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, images: list[Path]) -> list[dict]:
        """One answer per encoded image. One that cannot be decoded has a `reason` and no label."""
        answers = self.predictor.predict([Path(image).read_bytes() for image in images])
        return [{{"version": {version!r}}} | {{key: getattr(one, key) for key in SHOWN}} for one in answers]
'''
BENTOFILE = """service: "service:Classifier"
include:
  - "*.py"
  - "bundle/*"
  - "serving/**"
  - "tasks/**"
python:
  requirements_txt: "./requirements.txt"
"""


def write(source: Source, folder: Path) -> Written:
    """The service's folder."""
    from tasks.export.kserve import service_name

    inner = folder / "bundle"
    inner.mkdir()
    for name in FILES:
        shutil.copyfile(source.bundle / name, inner / name)
    bundle.write_manifest(inner)
    libraries = copy_code(folder)
    about = {"name": source.name, "version": source.version, "evergreen": VERSION}
    service = SERVICE.format(**about, service=service_name(source.name))
    (folder / "service.py").write_text(service, encoding="utf-8")
    (folder / "bentofile.yaml").write_text(BENTOFILE, encoding="utf-8")
    lines = ["bentoml>=1.4", *(f"{name}=={importlib.metadata.version(name)}" for name in libraries)]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    checked = "the predictor in its folder, in a process of its own,"
    return Written(partial(answers, folder), checked, tools=("onnxruntime",), not_run=WHY, sizes=(64,))


def answers(folder: Path, pixels: np.ndarray) -> Outputs:
    """What the service's predictor answers to (N, S, S, 3) uint8, with the folder's source files and bundle only."""
    with tempfile.TemporaryDirectory() as scratch:
        given, found = Path(scratch, "pixels.npy"), Path(scratch, "found.npz")
        np.save(given, pixels)
        command = [sys.executable, "-B", "-c", CHECK, str(folder.resolve()), str(given), str(found)]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            raise EvergreenError(f"the predictor in {folder} does not start: {done.stderr.strip()[-500:]}")
        with np.load(found) as values:
            return Outputs(*(values[name] for name in Outputs._fields))


def copy_code(folder: Path) -> list[str]:
    """Copy the predictor's source files under `folder`; returns the distributions that they import, sorted."""
    needed = set()
    for name in import_closure(ENTRY, skip=()):
        file = module_file(name)
        place = folder / file.relative_to(ROOT)
        for package in [place.parent, *place.parent.parents]:
            if package == folder:
                break
            package.mkdir(parents=True, exist_ok=True)
            if not (package / "__init__.py").exists():
                shutil.copyfile(ROOT / package.relative_to(folder) / "__init__.py", package / "__init__.py")
        shutil.copyfile(file, place)
        needed |= third_party(file.read_text(encoding="utf-8"))
    found = importlib.metadata.packages_distributions()
    return sorted({min(found[name], key=len) for name in needed - OPTIONAL}, key=str.lower)


def third_party(text: str) -> set[str]:
    """Top-level modules of other projects that the source `text` imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"tasks", "serving"}
