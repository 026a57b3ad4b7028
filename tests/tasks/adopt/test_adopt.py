"""A deployed model becomes the first champion, and what is judged against it is approved: real models, git and DVC."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from flows.publishing import held as held_runs
from flows.publishing import run_records
from flows.publishing.adopt import adopt
from flows.publishing.judge_run import judge_run
from flows.publishing.outcomes import Ending
from flows.repo import workspace
from flows.repo.git import git
from flows.repo.pipeline import open_repo, record_data, restore_data
from flows.versions.diff import diff
from serving.predictor import Predictor
from tasks.adopt.build import build, read_classes
from tasks.adopt.deployed import Deployed
from tasks.adopt.onnx import AdoptedOnnx
from tasks.backbones import timm_models
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.params import load_params
from tasks.gate.verdict import GateVerdict
from tasks.models import stage1
from tasks.releases import bundle
from tasks.releases.store import open_store
from tasks.scoring.targets import encode
from tasks.stages.bundle import stage
from tasks.stages.evaluate import figures
from tasks.stages.evaluate import stage as evaluate_stage
from tasks.stages.runner import STAGES
from tests.support.checkout import ROOT
from tests.support.small_project import BACKBONE, CLASSES, SIZE, finished_project, image_bytes

HALF = (0.5, 0.5, 0.5)


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


def to_onnx(path: Path, net: torch.nn.Module, batch=True, side=SIZE, **options) -> Path:
    torch.onnx.export(
        net,
        (torch.zeros(2 if batch else 1, 3, side, side),),
        str(path),
        input_names=["pixel_values"],
        output_names=["scores"],
        dynamic_axes={"pixel_values": {0: "batch"}, "scores": {0: "batch"}} if batch else None,
        dynamo=False,
        **options,
    )
    return path


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory) -> Path:
    return to_onnx(tmp_path_factory.mktemp("onnx") / "deployed.onnx", net)


def deployed(path: Path, **changes) -> Deployed:
    return replace(Deployed(path=path, classes=CLASSES, size=SIZE, mean=HALF, std=HALF), **changes)


def wrap(path: Path, **changes) -> AdoptedOnnx:
    return AdoptedOnnx(deployed(path, **changes), "multiclass")


def pixels(n: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)


def expected(net, images: np.ndarray, mean=HALF, std=HALF) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        x = timm_models.to_input(images, mean, std, torch.device("cpu"))
        return net(x).numpy(), timm_models.features(net, x).numpy()


# --- the wrapped graph -----------------------------------------------------------------------------------------


def test_logits_and_features_are_those_of_the_deployed_model(net, exported):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    source = wrap(exported, mean=mean, std=std)
    for n in (1, 5, 70):
        logits, features = source.outputs(pixels(n))
        for found, wanted in zip((logits, features), expected(net, pixels(n), mean, std), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_model_that_ends_in_a_softmax_gives_the_same_logits_and_probabilities(net, tmp_path, exported):
    path = to_onnx(tmp_path / "soft.onnx", torch.nn.Sequential(net, torch.nn.Softmax(dim=1)).eval())
    np.testing.assert_allclose(wrap(path).outputs(pixels())[0], wrap(exported).outputs(pixels())[0], atol=1e-4)
    assert wrap(path).write(tmp_path / "model.onnx", 2.0, pixels()) < 1e-5


class ChannelsLast(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.permute(0, 3, 1, 2))


def test_channels_last_input_is_recognised(net, tmp_path):
    path = tmp_path / "last.onnx"
    torch.onnx.export(
        ChannelsLast(net).eval(), (torch.zeros(2, SIZE, SIZE, 3),), str(path), dynamic_axes={"x": {0: "n"}},
        input_names=["x"], dynamo=False,
    )  # fmt: skip
    np.testing.assert_allclose(wrap(path).outputs(pixels())[0], expected(net, pixels())[0], rtol=1e-3, atol=1e-3)


def graph(path: Path, nodes: list, shape: list, out: list, weights: dict | None = None, kind=TensorProto.FLOAT) -> Path:
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def test_what_does_not_fit_is_said_with_both_sides(exported, tmp_path):
    with pytest.raises(EvergreenError, match=r"reads batch x 3 x 32 x 32, --size 64 means N x 3 x 64 x 64"):
        wrap(exported, size=64)
    with pytest.raises(EvergreenError, match=r"answers with 3 values an image, but 2 classes are given \(a, b\)"):
        wrap(exported, classes=["a", "b"])
    with pytest.raises(EvergreenError, match=r"has no tensor 'pooled'"):
        wrap(exported, features="pooled")
    (tmp_path / "junk.onnx").write_bytes(b"no model")
    with pytest.raises(EvergreenError, match="not a readable ONNX model"):
        wrap(tmp_path / "junk.onnx")
    grey = graph(
        tmp_path / "grey.onnx", [helper.make_node("Identity", ["x"], ["y"])], ["N", 1, 32, 32], ["N", 1, 32, 32]
    )
    with pytest.raises(EvergreenError, match=r"reads N x 1 x 32 x 32"):
        wrap(grey)
    raw = graph(tmp_path / "raw.onnx", [helper.make_node("Cast", ["x"], ["y"], to=1)], ["N", 3, 32, 32],
                ["N", 3, 32, 32], kind=TensorProto.UINT8)  # fmt: skip
    with pytest.raises(EvergreenError, match="expected floats"):
        wrap(raw)


def test_no_features_is_an_error_until_their_tensor_is_named(tmp_path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "w"], ["scores"]),
        helper.make_node("Flatten", ["scores"], ["y"], axis=1),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    path = graph(tmp_path / "conv.onnx", nodes, ["N", 3, SIZE, SIZE], ["N", 3], {"w": weight})
    with pytest.raises(EvergreenError, match=r"does not end in a linear layer.*--features.*Flatten -> y"):
        wrap(path)
    source = wrap(path, features="pooled")
    logits, features = source.outputs(pixels())
    assert (source.feature_dim, logits.shape, features.shape) == (3, (5, 3), (5, 3))
    np.testing.assert_allclose(logits, features @ weight[:, :, 0, 0].T, atol=1e-5)


def test_a_fixed_batch_is_made_free_or_refused(net, tmp_path):
    assert wrap(to_onnx(tmp_path / "one.onnx", net, batch=False)).outputs(pixels())[0].shape == (5, 3)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {"shape": np.array([1, 3 * SIZE * SIZE]), "w": np.ones((3 * SIZE * SIZE, 3), np.float32)}
    fixed = graph(tmp_path / "fixed.onnx", nodes, [1, 3, SIZE, SIZE], [1, 3], weights)
    with pytest.raises(EvergreenError, match=r"fails on a batch of 3 images .*free first dimension"):
        wrap(fixed)


def test_class_names_come_from_a_file_or_a_list(tmp_path):
    (tmp_path / "classes.txt").write_text("Ankle boot\n\nBag\n")
    assert read_classes(str(tmp_path / "classes.txt")) == read_classes("Ankle boot, Bag") == ["Ankle boot", "Bag"]
    for text in ("no-such-file.txt", "a,b,a"):
        with pytest.raises(EvergreenError, match=r"is not a file|'a' more than once"):
            read_classes(text)


# --- weights ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path) -> Path:
    """The small project as `validate` leaves it: no model."""
    root = tmp_path / "small"
    shutil.copytree(finished_project(), root)
    for name in ("train_backbone", "train_head", "calibrate", "bundle", "clean"):
        shutil.rmtree(root / "artifacts" / name)
    write_json(root / "metrics/evaluate.json", {})
    return root


def fast(root: Path):
    params = load_params(root / "params.yaml")
    quick = {"corruptions": ["dark"], "corruption_images": 20, "latency_runs": 5}
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=quick)})


def test_weights_in_a_trainers_wrapper_are_adopted(net, small, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({f"module.{name}": value.contiguous() for name, value in net.state_dict().items()}, path)
    assert build(small, deployed(path, backbone=BACKBONE), fast(small)) == {}
    predictor = Predictor(small / "artifacts/bundle")
    images = [data for name in CLASSES for data in image_bytes(name, 4)]
    answers = [answer.label for answer in predictor.predict(images)]
    assert sum(a == name for a, name in zip(answers, [n for n in CLASSES for _ in range(4)], strict=True)) >= 10
    assert read_json(small / "metrics/evaluate.json")["parity"]["max_difference"] < 1e-3
    assert predictor.about["adopted"]["file"] == "net.safetensors"

    with pytest.raises(EvergreenError, match="--backbone says which"):
        build(small, deployed(path), fast(small))
    with pytest.raises(EvergreenError, match=r"answers with 3 values an image, but 4 classes"):
        build(small, deployed(path, backbone=BACKBONE, classes=[*CLASSES, "Coat"]), fast(small))
    with pytest.raises(EvergreenError, match="does not hold weights of resnet10t"):
        build(small, deployed(path, backbone="resnet10t"), fast(small))
    for wrong, says in (({"fit": "stretch"}, "--fit 'stretch'"), ({"std": (0.5, 0, 0.5)}, "three numbers above 0")):
        with pytest.raises(EvergreenError, match=says):
            build(small, deployed(path, backbone=BACKBONE, **wrong), fast(small))


def test_labels_must_be_the_models_or_are_left_out(exported, small):
    with pytest.raises(EvergreenError, match=r"split has no image labelled with one of the model's.*spelt alike"):
        build(small, deployed(exported, classes=["x", "y", "z"]), fast(small))
    assert build(small, deployed(exported, classes=["Ankle boot", "Bag", "Coat"]), fast(small)) == {"Trouser": 48}
    assert read_json(small / "metrics/evaluate.json")["test"]["n"] == 24


# --- the flow --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A git and DVC project with the small project's data and this checkout's pipeline; nothing has run."""
    root = tmp_path_factory.mktemp("adopt") / "project"
    for name in ("tasks", "flows", "serving", "monitoring"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    write_json(root / "tombstones.json", {})
    values = yaml.safe_load((finished_project() / "params.yaml").read_text())
    values["evaluate"] |= {"corruptions": ["dark"], "corruption_images": 20, "latency_runs": 5}
    values["gate"] |= {"resamples": 200, "max_ece": 1.0}
    values["validate"]["min_rows"] = 20
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(finished_project() / "data", root / "data")
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "a tester")
    git(root, "config", "user.email", "tester@localhost")
    git(root, "add", "-A")
    record_data(root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a project")
    return root


def store(root: Path):
    return open_store(load_params(root / "params.yaml").store, root)


def tool(folder: Path, name: str, *arguments: str) -> str:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([name, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_that_does_not_fit_leaves_nothing_behind(project, exported):
    before = git(project, "status", "--porcelain")
    for wrong, says in (({"size": 48}, "reads batch x 3 x 32 x 32"), ({"classes": ["x", "y", "z"]}, "spelt alike")):
        with pytest.raises(EvergreenError, match=says):
            adopt(project, deployed(exported, **wrong), by="ann", why="-", say=str)
    command = [sys.executable, "-m", "flows.cli", "adopt", str(exported), "--classes", "a,b", "--size", str(SIZE)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--mean", "0.5", "0.5", "0.5"], cwd=project, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "answers with 3 values an image, but 2 classes are given (a, b)" in done.stderr
    assert store(project).live() is None
    assert not any((project / ".evergreen/runs").iterdir())
    assert git(project, "worktree", "list").count("\n") == 0
    assert git(project, "status", "--porcelain") == before


def test_an_adopted_model_is_the_first_version(project, exported, tmp_path):
    live = adopt(project, deployed(exported), by="ann", why="it serves line 3", say=str)
    assert (live.version, live.seq, live.by) == ("v0.1.0", 1, "ann")
    assert "adopted from deployed.onnx; balanced accuracy on test" in live.why
    folder = store(project).get_bundle(live.bundle, tmp_path / "bundle")
    predictor = Predictor(folder)
    assert predictor.classes == CLASSES
    assert predictor.predict(image_bytes("Bag"))[0].label == "Bag"
    assert len(pq.read_table(folder / "reference.parquet")) == 40
    assert "Adopted by Evergreen from deployed" in (folder / "card.md").read_text()
    assert json.loads(tool(project, "gto", "show", "--json"))["classifier"]["stage"]["prod"] == "v0.1.0"
    tree = project / ".evergreen/runs" / live.run_id / "tree"
    assert "up to date" in tool(tree, "dvc", "status")
    with pytest.raises(EvergreenError, match=r"v0\.1\.0 is live"):
        adopt(project, deployed(exported), by="ann", why="-", say=str)

    git(tmp_path, "clone", "--quiet", "--no-local", "-b", "classifier@v0.1.0", str(project), "clone")
    remote = project / ".evergreen/remote"
    (tmp_path / "clone/.dvc/config.local").write_text(f"['remote \"store\"']\n    url = {remote}\n")
    tool(tmp_path / "clone", "dvc", "pull")
    assert bundle.digest(tmp_path / "clone/artifacts/bundle") == live.bundle


@pytest.fixture(scope="module")
def challenger(tmp_path_factory, project) -> Path:
    """The small project after `evaluate` and `bundle`: the network that was adopted, trained no further."""
    root = tmp_path_factory.mktemp("challenger") / "project"
    shutil.copytree(finished_project(), root)
    shutil.copyfile(project / "params.yaml", root / "params.yaml")
    params = load_params(root / "params.yaml")
    evaluate_stage.run(root, images=params.images, evaluate=params.evaluate)
    shutil.rmtree(root / "artifacts/bundle")
    stage.run(root, images=params.images, bundle=params.bundle)
    return root


def finished_run(project: Path, challenger: Path, run_id: str) -> tuple[Path, int]:
    """(worktree of a run that has made `challenger`, its lock)."""
    tree, lock = workspace.create(project, run_id, {})
    repo = open_repo(tree)
    restore_data(repo)
    shutil.copytree(challenger / "artifacts", tree / "artifacts")
    shutil.copytree(challenger / "metrics", tree / "metrics", dirs_exist_ok=True)
    write_json(tree / "artifacts/embed/index.json", {})
    for name in ("inspect", "validate", "embed", "train_backbone", "train_head"):
        write_json(tree / f"metrics/{name}.json", {})
    with chdir(tree):
        for stage in STAGES:
            repo.commit(stage, force=True)
    repo.close()
    return tree, lock


def hold(project: Path, tree: Path, lock: int, verdict: GateVerdict) -> None:
    """What the flow does for a held run."""
    run_id = tree.parent.name
    rev = run_records.preserve_held(tree, store(project), "classifier", run_id, verdict.sentence)
    ending = Ending(outcome="held", sentence=verdict.sentence, verdict=verdict)
    run_records.record(store(project), tree, run_id, ending, rev)
    write_json(tree.parent / "ended.json", ending.model_dump())
    os.close(lock)


def judged(project: Path, tree: Path) -> GateVerdict:
    return judge_run(tree, load_params(tree / "params.yaml"), store(project), store(project).live())


def test_the_next_challenger_is_judged_against_it_and_a_held_one_can_be_approved(project, challenger):
    tree, lock = finished_run(project, challenger, "run-2")
    verdict = judged(project, tree)
    assert (verdict.outcome, verdict.champion) == ("hold", "v0.1.0"), verdict.sentence
    hold(project, tree, lock, verdict)
    shutil.rmtree(tree.parent)  # the workspace is long gone
    git(project, "worktree", "prune")
    live = held_runs.approve(project, "run-2", by="bob", why="looked at by hand")
    assert (live.version, live.prev, live.by) == ("v0.2.0", "v0.1.0", "bob")
    assert live.why.startswith("approved by bob: looked at by hand; the gate: hold:")
    run = store(project).run("run-2")
    assert run["decisions"][0]["verdict"]["champion"] == "v0.1.0"
    assert (run["outcome"], run["version"]) == ("promoted", "v0.2.0")
    assert git(project, "for-each-ref", "refs/evergreen/held") == ""
    assert [folder.name for folder in (project / ".evergreen/runs").iterdir()] == [store(project).history()[0].run_id]


def test_approval_of_what_the_gate_rejects_today_is_refused(project, challenger, tmp_path):
    """Held once; but its predictions are worse than those of what is live now."""
    worse = tmp_path / "worse"
    shutil.copytree(challenger, worse)
    file = worse / "artifacts/evaluate/predictions.parquet"
    table = pq.read_table(file)
    probabilities = np.roll(np.array(table["probabilities"].to_pylist()), 1, axis=1)
    column = table.schema.get_field_index("probabilities")
    table = table.set_column(column, table.schema.field(column), pa.array(list(probabilities), pa.list_(pa.float32())))
    file.unlink()
    pq.write_table(table, file)
    found = read_json(worse / "metrics/evaluate.json")
    targets = encode(table["label"], CLASSES, "multiclass")
    found["test"] = figures.overall(targets, probabilities, np.full(3, 0.5), "multiclass")
    write_json(worse / "metrics/evaluate.json", found)
    shutil.rmtree(worse / "artifacts/bundle")
    params = load_params(worse / "params.yaml")
    stage.run(worse, images=params.images, bundle=params.bundle)

    tree, lock = finished_run(project, worse, "run-3")
    assert judged(project, tree).outcome == "reject"
    held = GateVerdict(outcome="hold", sentence="hold: of old", checks=[], challenger="", champion=None, hard_set=None)
    hold(project, tree, lock, held)
    before = store(project).live()
    with pytest.raises(EvergreenError, match=r"run run-3 was held, but against v0\.2\.0.*reject.*--override"):
        held_runs.approve(project, "run-3", by="bob")
    assert store(project).live() == before
    assert store(project).run("run-3")["outcome"] == "held"
    live = held_runs.override(project, "run-3", by="bob", why="the test images are wrong")
    assert live.version == "v0.3.0"
    found = diff(project, "v0.1.0", "v0.3.0")  # of the adopted model nothing was cleaned
    assert found.images == {}
    assert found.metrics["test.balanced_accuracy"][2] == "worse"
    assert "the test images are wrong; the gate had said: hold: of old" in live.why
