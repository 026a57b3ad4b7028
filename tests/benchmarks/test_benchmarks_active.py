"""The benchmark of picks counts labels as it says, and a pick that helps shows."""

import numpy as np
import pytest

from benchmarks import active
from benchmarks.active import LabelledSet, labels_for, share_of_random


def test_labels_are_counted_where_the_curve_first_reaches_the_target():
    labels, scores = np.array([100, 200, 300, 400]), np.array([50.0, 60.0, 60.0, 70.0])
    assert labels_for(40, labels, scores) == 100
    assert labels_for(55, labels, scores) == 150
    assert labels_for(65, labels, scores) == 350
    assert labels_for(71, labels, scores) == np.inf


def test_the_share_is_that_of_the_budget_and_ends_where_it_is_not_reached():
    randoms = [{"labels": [100, 200], "balanced": [50.0, 60.0]}, {"labels": [100, 200], "balanced": [54.0, 64.0]}]
    better = [{"labels": [100, 200], "balanced": [60.0, 64.0]}, {"labels": [100, 200], "balanced": [60.0, 64.0]}]
    assert share_of_random(better, randoms, "balanced") == pytest.approx(0.75)
    assert share_of_random(randoms, randoms, "balanced") == 1
    assert share_of_random(randoms, better, "balanced") == 1.5


def test_margins_need_fewer_labels_where_few_images_matter(monkeypatch):
    monkeypatch.setattr(active, "BUDGET", 200)
    monkeypatch.setattr(active, "STEPS", 5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 16)).astype(np.float32)
    y = (x[:, 0] > 1.5).astype(int)  # one in 15, and a sharp border
    rare = LabelledSet("rare", x, y, np.arange(1500).astype(str))
    found = {method: active.simulate(rare, method, 0) for method in ("random", "class_margin")}
    assert found["random"]["labels"] == [40, 80, 120, 160, 200]
    assert found == {method: active.simulate(rare, method, 0) for method in found}
    assert share_of_random([found["class_margin"]], [found["random"]], "balanced") < 1
    results = {"rare": {method: [found.get(method, found["random"])] for method in active.METHODS}}
    figures = {one.name: one for one in active.figures_of(results, "class_margin")}
    assert figures["claim_active_label_share"].value < 1
    assert "margin 0." in figures["active_label_share_rare_balanced"].peer
