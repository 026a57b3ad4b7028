"""Does every export answer as its model, each under its real tool?

    python -m benchmarks.exports [--python FORMAT=PYTHON ...] [--quick]

Exports the bundle of the tests' small project in every format and checks it on the 64 odd images. Tools that are not in
the project's environment are taken from others: `--python litert=/envs/litert/bin/python`; an environment needs the
tool, and borrows all it lacks from this one. `--python bentoml=...` also starts the exported service there and asks it
over HTTP; `--python triton=...` (with tritonclient[grpc]) reads config.pbtxt into Triton's own message; `--python
kserve=...` compares the manifest's fields with KServe's own classes.
`export_parity_max` is the largest difference in probability. `export_formats` counts formats whose model was run; of
`triton` and `kserve` that is model.onnx, under ONNX Runtime and without the server.
Core ML and TensorRT are converted and checked before the last step, which needs macOS or a GPU.
Expected: 1e-4 or less; some minutes, most of them in the converters.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import numpy as np

from benchmarks.record import Figure, report
from tasks.export.formats import FORMATS, missing
from tasks.export.images import odd_images
from tasks.export.parity import odd_pixels
from tasks.export.source import Source
from tasks.inference.onnx_model import OnnxModel
from tasks.releases import bundle
from tests.support.checkout import ROOT
from tests.support.small_project import finished_project

URI = "s3://models/parts"
QUICK = ("triton", "kserve", "openvino")
START_SECONDS = 120
CHILD = """
import json, sys
sys.path[:0] = [sys.argv[1]]
sys.path += json.loads(sys.argv[2])
from pathlib import Path
from tasks.export.run import export
print(json.dumps(export(Path(sys.argv[3]), "v0.1.0", sys.argv[4], Path(sys.argv[5]), sys.argv[6]).record))
"""
TRITON = """
import sys
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
found = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
assert found.dynamic_batching.preferred_batch_size and found.input[0].name == "images", found
"""
KSERVE = """
import sys, yaml
from kserve import V1beta1InferenceService, V1beta1ModelFormat, V1beta1ModelSpec, V1beta1PredictorSpec
found = yaml.safe_load(open(sys.argv[1]))
predictor = found["spec"]["predictor"]
levels = [(V1beta1InferenceService, found), (V1beta1PredictorSpec, predictor), (V1beta1ModelSpec, predictor["model"])]
levels.append((V1beta1ModelFormat, predictor["model"]["modelFormat"]))
for kind, given in levels:
    unknown = set(given) - set(kind.attribute_map.values())
    assert given and not unknown, (kind, unknown)
"""


def exported(python: str, folder: Path, name: str, out: Path) -> dict:
    """export.json of the format `name`, made by the interpreter `python`, which borrows libraries from this one."""
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    arguments = [str(ROOT), json.dumps(borrowed), str(folder), name, str(out), URI]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", CHILD, *arguments], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} under {python}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ask_bentoml(python: str, folder: Path, source: Source) -> float:
    """Start the exported service and ask it about all odd images: the largest difference in probability."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(python).parent / "bentoml"), "serve", "service:Classifier", "--port", str(port)]
    env = os.environ | {"BENTOML_DO_NOT_TRACK": "True", "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("PYTHONPATH", None)  # the service must find all it needs in its folder
    with tempfile.TemporaryFile() as log:
        service = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            answers = _ask(port, service)
        finally:
            os.killpg(service.pid, signal.SIGTERM)
            service.wait(30)
    expected = OnnxModel(source.model)(odd_pixels(source)[1]).probabilities
    return float(np.abs(np.array([one["probabilities"] for one in answers]) - expected).max())


def _ask(port: int, service: subprocess.Popen) -> list[dict]:
    border = uuid.uuid4().hex
    head = '--{}\r\nContent-Disposition: form-data; name="images"; filename="{}.bin"\r\n\r\n'
    parts = [head.format(border, place).encode() + data + b"\r\n" for place, (_, data) in enumerate(odd_images())]
    body = b"".join(parts) + f"--{border}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={border}"}
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, kind), timeout=60
            ) as reply:
                return json.load(reply)
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline or service.poll() is not None:
                raise SystemExit(f"the BentoML service does not answer: {error}") from None
            time.sleep(0.5)


def read_by(python: str, code: str, file: Path) -> None:
    """Let the tool's own library read `file`."""
    done = subprocess.run([python, "-c", code, str(file)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{file.name} under {python}: {done.stderr[-2000:]}")


def figures(records: dict[str, dict], over_http: float | None, read: list[str]) -> list[Figure]:
    """`export_parity_max` and `export_formats`."""
    found = {name: record["parity"]["probabilities"] for name, record in records.items()}
    found |= {} if over_http is None else {"bentoml over HTTP": over_http}
    real = [name for name, record in records.items() if not record["not_run"]]
    real += [] if over_http is None else ["bentoml"]
    rest = [name for name in FORMATS if name not in real]
    listed = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
    said = f"not run: {', '.join(rest)}; read by their own libraries: {', '.join(read) or 'none'}"
    return [
        Figure(
            name="export_parity_max",
            value=max(found.values()),
            unit="probability",
            goal=1e-4,
            better="lower",
            peer="model.onnx under ONNX Runtime, 64 odd images",
            spread=listed,
        ),
        Figure(name="export_formats", value=len(real), unit="formats", goal=None, better="higher", spread=said),
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", default=[], metavar="FORMAT=PYTHON")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    pythons = dict(one.split("=", 1) for one in given.python)
    folder = finished_project() / "artifacts/bundle"
    source = Source(folder, bundle.read(folder), "v0.1.0", URI)
    records, over_http, read = {}, None, []
    with tempfile.TemporaryDirectory() as scratch:
        for name, one in FORMATS.items():
            own = name in pythons and bool(one.needs)
            if (given.quick and name not in QUICK) or (missing(one) and not own):
                continue
            out = Path(scratch, name)
            records[name] = exported(pythons[name] if own else sys.executable, folder, name, out)
            print(name, records[name]["parity"], records[name]["tools"], flush=True)
            if name == "bentoml" and name in pythons:
                over_http = ask_bentoml(pythons[name], out, source)
            if name == "triton" and name in pythons:
                read_by(pythons[name], TRITON, out / "model_repository" / source.name / "config.pbtxt")
                read.append("config.pbtxt")
            if name == "kserve" and name in pythons:
                read_by(pythons[name], KSERVE, out / "inferenceservice.yaml")
                read.append("inferenceservice.yaml")
    report(
        "exports",
        "python -m benchmarks.exports --python FORMAT=PYTHON ...",
        figures(records, over_http, read),
        given.quick,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
