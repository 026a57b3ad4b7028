"""A run that cannot get its pretrained weights says so before its first stage, unless DVC may restore the training."""

import pytest
import yaml

from flows.repo.pipeline import bring_up_to_date, open_repo
from flows.runs.weights import check_training_weights
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.models import pretrained


@pytest.fixture
def workspace(toy, tmp_path, monkeypatch):
    """A project whose only stage is a training with a backbone from the hub, which does not answer."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    stage = {"cmd": "true", "params": ["train_backbone"], "deps": ["data"], "outs": ["artifacts/out"]}
    (toy / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train_backbone": stage}}))
    change(toy, backbone="test_resnet")
    return toy


def change(root, **values) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["train_backbone"] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def check(root) -> None:
    check_training_weights(root, load_params(root / "params.yaml"))


def train(name, root) -> None:
    (root / "artifacts").mkdir(exist_ok=True)
    (root / "artifacts" / "out").write_text("weights")


def test_weights_that_cannot_be_had_are_said_before_any_stage(workspace):
    with pytest.raises(EvergreenError, match=r"test_resnet .*could not be downloaded.*Nothing has run yet: change"):
        check(workspace)
    params = load_params(workspace / "params.yaml")
    with pytest.raises(EvergreenError, match=r"^embed.backbone: .*test_resnet .*could not be downloaded") as refused:
        pretrained._created("test_resnet", params.images.resolution)
    assert "none" not in str(refused.value), "embed has no setting `pretrained`"
    change(workspace, backbone="tf_efficientnet_lite0")
    check(workspace)  # its weights are installed with Evergreen
    change(workspace, backbone="test_resnet", pretrained="none")
    check(workspace)
    change(workspace, backbone="test_resnett", pretrained="auto")
    with pytest.raises(EvergreenError, match="did you mean test_resnet"):
        check(workspace)


def test_a_training_that_may_be_restored_is_never_refused(workspace):
    assert bring_up_to_date(open_repo(workspace), "train_backbone", train) == "ran"
    check(workspace)
    (workspace / "dvc.lock").unlink()
    check(workspace)  # the run cache has it
    change(workspace, seed=7)
    with pytest.raises(EvergreenError, match="could not be downloaded"):
        check(workspace)
