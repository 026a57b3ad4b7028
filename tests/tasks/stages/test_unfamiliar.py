"""The choice of an out-of-distribution score: what is measured of each, and which one a model gets."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.common.params import CalibrateParams
from tasks.inference.onnx_model import Outputs
from tasks.inference.ood.scores import METHODS, Training
from tasks.scoring.corruptions import corrupt
from tasks.stages.calibrate import choice, probes
from tasks.stages.calibrate.choice import Finding, Seen
from tasks.stages.calibrate.unfamiliar import Probed, fit_score, sentence

RNG = np.random.default_rng(0)
SIZE, CLASSES = 16, 4
IDS = [f"{n:064x}" for n in range(400)]


def network(pixels: np.ndarray) -> Outputs:
    """Features of 4 x 4 patches' mean colours, logits of the four quarters' brightness."""
    x = pixels.reshape(len(pixels), 4, 4, 4, 4, 3).mean(axis=(2, 4)).reshape(len(pixels), -1).astype(np.float32) / 255
    quarters = pixels.reshape(len(pixels), 2, 8, 2, 8, 3).mean(axis=(2, 4, 5)).reshape(len(pixels), 4) / 16
    return Outputs(quarters.astype(np.float32), quarters.astype(np.float32), x)


def images(each: int) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, targets): class k is bright in quarter k."""
    y = np.tile(np.arange(CLASSES), each)
    pixels = RNG.normal(90, 12, (len(y), SIZE, SIZE, 3))
    for row, k in enumerate(y):
        pixels[row, 8 * (k // 2) : 8 * (k // 2) + 8, 8 * (k % 2) : 8 * (k % 2) + 8] += 100
    return np.clip(pixels, 0, 255).astype(np.uint8), y


def fitted(method: str, share: float = 0.05, task: str = "multiclass"):
    pixels, y = images(40)
    held, of_held = images(20)
    known, out = network(held), network(pixels)
    if task == "multilabel":
        y, of_held = np.eye(CLASSES)[y], np.eye(CLASSES)[of_held]
    params = CalibrateParams(ood_method=method, ood_false_rejection=share)
    probed = Probed(held[:24], IDS[:24], np.arange(24) % CLASSES)
    training = Training(out.features, out.logits, y)
    return fit_score(network, probed, Seen(known.features, known.logits), of_held, training, params, task)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_auto_compares_every_score_and_takes_one_that_finds_more(task):
    found = fitted("auto", task=task).measured
    assert set(found["scores"]) == set(METHODS)
    best = found["scores"][found["method"]]
    assert best["value"] >= found["scores"]["knn"]["value"]
    assert all(0 <= one[key] <= 100 for one in found["scores"].values() for key in ("near", "far", "shifted"))
    assert set(found["flagged"]) == {"noise", "flat", "texture", "mixed", "cut", "shuffled"}
    assert set(found["shifted"]) == set(probes.SHIFTS)


@pytest.mark.parametrize("method", METHODS)
def test_the_score_that_params_name_is_fitted_and_measured_alone(method):
    found = fitted(method)
    assert found.about["method"] == found.measured["method"] == method
    assert list(found.measured["scores"]) == [method]


def test_the_share_of_familiar_images_that_params_name_is_flagged():
    few, many = (fitted("knn", share).about["false_rejection"] for share in (0.02, 0.3))
    assert few <= 0.02
    assert 0.2 < many <= 0.3


def test_near_weighs_most_then_far_and_wrong_alarms_count_against():
    same = Finding(70, 90, 5)
    assert choice.choose({"knn": same, "vim": Finding(75, 90, 5)}) == "vim"
    assert choice.choose({"knn": same, "vim": Finding(70.5, 90, 5)}) == "knn", "less than a point is luck"
    assert choice.choose({"knn": same, "vim": Finding(75, 40, 5)}) == "knn", "far images are lost"
    assert choice.choose({"knn": same, "vim": Finding(75, 90, 40)}) == "knn", "another camera would be unknown"
    assert choice.choose({"energy": same}) == "energy"


def test_an_unknown_class_is_left_out_of_score_and_classifier():
    pixels, y = images(30)
    out, known = network(pixels), network(images(30)[0])
    found = choice._left_out(
        ["knn"], Training(out.features, out.logits, y), Seen(known.features, known.logits), y, "multiclass"
    )
    assert len(found["knn"]) == CLASSES
    assert min(found["knn"]) > 95, "a bright quarter of which no training image is left"


def test_groups_cover_all_classes_and_leave_two():
    for classes in (3, 4, 5, 53):
        groups = choice.class_groups(classes)
        assert sorted(np.concatenate(groups).tolist()) == list(range(classes))
        assert all(classes - len(group) >= 2 for group in groups)
    assert choice.class_groups(2) == []


def test_targets_without_a_class_keep_their_order():
    gone, rest = choice.without(np.array([0, 1, 2, 3, 2]), np.array([1]), 4)
    assert gone.tolist() == [False, True, False, False, False]
    assert rest[~gone].tolist() == [0, 1, 2, 1]
    gone, rest = choice.without(np.array([[1, 0, 0], [0, 1, 1]]), np.array([2]), 3)
    assert gone.tolist() == [False, True]
    assert rest.tolist() == [[1, 0], [0, 1]]


def test_auroc_is_that_of_scikit_learn():
    known, unknown = RNG.integers(0, 20, 300).astype(float), RNG.integers(5, 25, 200).astype(float)
    expected = 100 * roc_auc_score(np.repeat([0, 1], [300, 200]), np.concatenate([known, unknown]))
    assert choice.auroc(known, unknown) == pytest.approx(expected)


def test_near_probes_are_of_two_classes_and_shifted_ones_of_the_same_image():
    pixels, y = images(3)
    near = probes.near(pixels, y)
    for row in range(len(pixels)):
        assert (near["cut"][row, :, :8] == pixels[row, :, :8]).all()
        (other,) = np.flatnonzero([(near["cut"][row, :, 8:] == image[:, 8:]).all() for image in pixels])
        assert y[other] != y[row]
    assert sorted(near["shuffled"][0].ravel().tolist()) == sorted(pixels[0].ravel().tolist())
    assert (probes.near(pixels, y)["mixed"] == near["mixed"]).all()
    assert list(probes.near(pixels, np.zeros(len(pixels)))) == ["shuffled"]
    dark = probes.shifted(pixels, IDS[: len(pixels)])["dark"]
    assert (dark[2] == corrupt("dark", pixels[2], IDS[2])).all()


def test_the_sentence_says_what_is_found_and_what_knn_finds():
    told = sentence("vim", {"vim": Finding(74.2, 98, 3), "knn": Finding(63.8, 100, 9)}, 5)
    assert told.startswith("vim scores an image of a left-out class above a known image in 74 %")
    assert told.endswith("With kNN these are 64, 100 and 9 %.")
    assert "kNN" not in sentence("energy", {"energy": Finding(60, 98, 3)}, 5)
    assert "between the classes" in sentence("knn", {"knn": Finding(60, 98, 3)}, 2)
