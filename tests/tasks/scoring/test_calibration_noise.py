"""The calibration error that luck gives: large on few images and alike groups, small on many."""

import numpy as np

from tasks.scoring.calibration_noise import calibration_noise
from tasks.scoring.metrics import debiased_ece


def calibrated(rng, images: int) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities (images, 3), targets that come true as often as they say)."""
    probabilities = rng.dirichlet(np.ones(3), images)
    return probabilities, np.array([rng.choice(3, p=row) for row in probabilities])


def test_a_calibrated_model_stays_below_it_nearly_always():
    rng = np.random.default_rng(0)
    above = []
    for _ in range(40):
        probabilities, targets = calibrated(rng, 40)
        noise = calibration_noise(probabilities, "multiclass", [None] * 40, 15)
        above.append(debiased_ece(probabilities, targets, 15) > noise)
    assert 0 <= np.mean(above) <= 0.15  # 5 % expected


def test_many_images_leave_little_to_luck_and_alike_groups_much():
    rng = np.random.default_rng(1)
    few, many = (calibrated(rng, images)[0] for images in (30, 3000))
    assert calibration_noise(few, "multiclass", [None] * 30, 15) > 0.1
    assert calibration_noise(many, "multiclass", [None] * 3000, 15) < 0.03
    alike = [str(row % 10) for row in range(3000)]
    assert calibration_noise(many, "multiclass", alike, 15) > 0.1


def test_labels_of_one_image_are_lucky_one_by_one():
    rng = np.random.default_rng(2)
    many = rng.random((2000, 4))
    assert calibration_noise(many, "multilabel", [None] * 2000, 15) < 0.03
    assert calibration_noise(many[:10], "multilabel", [None] * 10, 15) > calibration_noise(
        many[:1000], "multilabel", [None] * 1000, 15
    )
