"""Every format that can be made here answers as its model; what cannot run here says so."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from tasks.common.errors import EvergreenError
from tasks.export import formats, kserve, network, tensorrt
from tasks.export.coreml import picture_model
from tasks.export.parity import odd_pixels
from tasks.export.run import export
from tasks.export.source import Source
from tasks.export.torch_files import runner
from tasks.inference.onnx_model import OnnxModel
from tasks.releases import bundle
from tests.support.small_project import finished_project


@pytest.fixture(scope="module")
def source() -> Source:
    folder = finished_project() / "artifacts/bundle"
    return Source(folder, bundle.read(folder), "v0.1.0", "s3://models/parts")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "made", "not_run"),
    [
        ("openvino", {"model.xml", "model.bin"}, False),
        ("torchscript", {"model.pt"}, False),
        ("kserve", {"inferenceservice.yaml", "model_repository/classifier/1/model.onnx"}, False),
        ("tensorrt", {"build.sh", "model.onnx", "model_repository/classifier/config.pbtxt"}, True),
        ("bentoml", {"service.py", "bentofile.yaml", "requirements.txt", "bundle/MANIFEST.json"}, True),
    ],
)
def test_a_format_answers_as_its_model(source, tmp_path, name, made, not_run):
    found = export(source.bundle, "v0.1.0", name, tmp_path / "out", source.uri)
    assert made <= files(tmp_path / "out")
    assert found.record["parity"]["probabilities"] <= 1e-4
    assert found.record["not_run"] is not_run
    assert ("NOT RUN" in found.sentence()) is not_run


def test_the_bentoml_folder_holds_all_that_its_service_imports_and_names_its_libraries(source, tmp_path):
    export(source.bundle, "v0.1.0", "bentoml", tmp_path / "out")
    assert not {"bundle/weights.safetensors", "bundle/reference.parquet"} & files(tmp_path / "out")
    libraries = {line.partition("=")[0] for line in (tmp_path / "out/requirements.txt").read_text().splitlines()}
    assert {"numpy", "onnxruntime", "pillow", "safetensors", "ruamel.yaml", "PyYAML"} <= libraries
    assert not {"torch", "timm", "prefect"} & libraries
    code = "import sys; sys.path.insert(0, '.'); import ast; ast.parse(open('service.py').read())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "out", check=True)


def test_the_tensorrt_model_casts_its_bytes_before_anything_else(source, tmp_path):
    model = onnx.load(source.model)
    tensorrt.cast_first(model)
    onnx.checker.check_model(model)
    readers = [node.op_type for node in model.graph.node if "images" in node.input]
    assert readers == ["Cast"]
    export(source.bundle, "v0.1.0", "tensorrt", tmp_path / "out")
    script = tmp_path / "out/build.sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)
    (tmp_path / "trtexec").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$SAID"\n')
    (tmp_path / "trtexec").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(tmp_path / "said")}
    subprocess.run([script, "--fp16"], check=True, env=env, capture_output=True)
    assert (tmp_path / "said").read_text().splitlines() == [
        "--onnx=model.onnx",
        "--saveEngine=model_repository/classifier/1/model.plan",
        *(f"--{name}Shapes=images:{count}x32x32x3" for name, count in (("min", 1), ("opt", 8), ("max", 64))),
        "--noTF32",
        "--fp16",
    ]


def test_the_manifest_of_kserve_names_the_place_and_the_protocol(source, tmp_path):
    export(source.bundle, "v0.1.0", "kserve", tmp_path / "out", source.uri)
    found = yaml.safe_load((tmp_path / "out/inferenceservice.yaml").read_text())
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = found["spec"]["predictor"]["model"]
    assert (model["storageUri"], model["protocolVersion"]) == ("s3://models/parts", "v2")
    with pytest.raises(EvergreenError, match=r"--uri is missing: the manifest names"):
        kserve.write(replace(source, uri=None), tmp_path)
    assert kserve.service_name("__9 Naïve Parts_") == "model-9-na-ve-parts"
    assert kserve.service_name("Über") == "ber"


def test_the_network_for_core_ml_answers_as_the_model(source):
    """The conversion itself needs coremltools: `python -m benchmarks.exports`."""
    import torch

    pixels = odd_pixels(source)[1][:4]
    picture = picture_model(network.load(source))
    found = runner(lambda given: picture(given.permute(0, 3, 1, 2).to(torch.float32)))(pixels)
    assert np.abs(found.probabilities - OnnxModel(source.model)(pixels).probabilities).max() < 1e-4


def test_an_adopted_onnx_file_has_no_network_of_torch(source):
    about = source.about | {"backbone": source.about["backbone"] | {"backbone": "onnx"}}
    with pytest.raises(EvergreenError, match=r"adopted as an ONNX file.*choose triton"):
        network.load(replace(source, about=about))


def test_every_format_has_a_function_that_writes_it():
    for one in formats.FORMATS.values():
        assert callable(formats.writer(replace(one, needs=())))
