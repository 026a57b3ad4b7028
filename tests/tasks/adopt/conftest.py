"""The small project's network, as torch and as ONNX."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.backbones import timm_models
from tasks.models import stage1
from tests.support.deployed_models import to_onnx
from tests.support.small_project import finished_project


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    """The small project's network with its head as its classifier: what somebody has deployed."""
    root = finished_project()
    model, _ = stage1.load(root)
    head = load_file(root / "artifacts/train_head/head.safetensors")
    last = timm_models.classifier(model)
    with torch.no_grad():
        last.weight.copy_(head["weight"])
        last.bias.copy_(head["bias"])
    return model.eval()


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory) -> Path:
    return to_onnx(tmp_path_factory.mktemp("onnx") / "deployed.onnx", net)
