"""The file for a device answers as the predictor does, in a process that can import only what a device has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.predictor import Predictor
from tasks.export import edge
from tasks.export.source import Source
from tasks.releases import bundle
from tests.support.small_project import finished_project, image_bytes

DEVICE = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "pyarrow", "torch", "scipy", "safetensors", "pandas", "sklearn", "onnx"}:
            raise ImportError(f"a device has no {name}")
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = finished_project() / "artifacts/bundle"
    to = tmp_path_factory.mktemp("edge")
    edge.write(Source(folder, bundle.read(folder), "v0.1.0"), to)
    return to / edge.NAME


def run(file: Path, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-I", "-c", DEVICE, str(file), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd or file.parent, capture_output=True, text=True)


def test_a_device_answers_as_the_predictor_and_keeps_what_it_answered(file, tmp_path):
    images = [*image_bytes("Bag", 2), b"not an image"]
    for number, data in enumerate(images):
        (tmp_path / f"{number}.png").write_bytes(data)
    photos = [*sorted(tmp_path.glob("*.png")), "missing.png"]
    done = run(file, *photos, "--capture", "kept", "--source", "line-3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    expected = Predictor(finished_project() / "artifacts/bundle").predict(images)
    for one, answer in zip(said[:2], expected[:2], strict=True):
        assert (one["label"], one["needs_review"], one["is_ood"]) == (answer.label, answer.needs_review, answer.is_ood)
        assert one["probabilities"] == pytest.approx(answer.probabilities, abs=1e-5)
        assert (one["version"], one["coarse"]) == ("v0.1.0", answer.coarse)
        assert tuple(one["plausible"]) == answer.plausible
    assert said[2]["reason"] == expected[2].reason
    assert said[3]["reason"] == "unreadable"
    kept = sorted((tmp_path / "kept").rglob("*.json"))
    assert len(kept) == 3
    about = json.loads(kept[0].read_text())
    assert (kept[0].parent / about["image"]).read_bytes() == images[0]
    assert (about["source"], about["answer"]["label"]) == ("line-3", said[0]["label"])
    assert not list((tmp_path / "kept").rglob("*.part"))


def test_the_same_bundle_gives_the_same_bytes(file, tmp_path):
    folder = finished_project() / "artifacts/bundle"
    edge.write(Source(folder, bundle.read(folder), "v0.1.0"), tmp_path)
    assert (tmp_path / edge.NAME).read_bytes() == file.read_bytes()
