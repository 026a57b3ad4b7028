"""The benchmark of unfamiliar images: what it leaves out, what it finds, what it counts."""

import numpy as np
import pytest

from benchmarks.ood import Photos, figures, main, make_case


def test_unknown_classes_and_domains_are_in_no_training_image():
    rng = np.random.default_rng(0)
    labels, domains = rng.choice(list("abcd"), 200), rng.choice(["art", "photo", "sketch"], 200)
    case = make_case(Photos("x", np.arange(200), labels, domains), np.array(["b"]))
    known = [case.train, case.calibration, case.test]
    assert all("b" not in part.labels and "sketch" not in part.domains for part in known)
    assert set(case.near.labels) == {"b"}
    assert set(case.moved.domains) == {"sketch"}
    rows = np.concatenate([part.pixels for part in (*known, case.near, case.moved)])
    assert len(set(rows.tolist())) == len(rows), "no image is in two parts"
    assert case.targets(case.test).max() == 2


def test_the_gain_is_that_of_the_chosen_score_over_knn():
    one = {"near": 60.0, "far": 90.0, "shifted": 5.0, "clean": 2.0}
    better = one | {"near": 70.0}
    case = dict.fromkeys(("knn", "energy", "energy+knn", "mahalanobis", "rmds", "rmds++", "vim"), one)
    found = {row.name: row.value for row in figures({"a-0-frozen": case | {"vim++": better, "auto": better}})}
    assert found["ood_near_gain_points"] == pytest.approx(10)
    assert found["ood_near_regret_points"] == 0
    assert "moved.auto" not in found


def test_a_quick_pass_of_unfamiliar_images(tmp_path):
    found = {row.name: row.value for row in main(["--quick", "--kept", str(tmp_path)])}
    assert 0 <= found["far.knn"] <= 100
    assert found["near.auto"] <= 100
    assert len(list(tmp_path.glob("*.json"))) == 3, "frozen, tuned, cost"
    assert found["megabytes.rmds++"] < found["megabytes.knn"]
    assert main(["--quick", "--kept", str(tmp_path)])[0].value == found["ood_near_gain_points"], "kept cases are read"
