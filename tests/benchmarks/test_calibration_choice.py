"""The benchmark of the chosen calibration counts what it says, on drawn images."""

import numpy as np

from benchmarks import calibration_choice as benchmark
from tasks.inference.temperature import probabilities


def drawn(sharpness: float, count: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (count, 3))
    p = probabilities(z * sharpness, 1.0, "multiclass")
    return z, (p.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)


def test_calibrated_models_lose_nothing_and_others_gain():
    found = {f"model{place} 200": benchmark.measure(*drawn(sharp), 200, 4) for place, sharp in enumerate((1.0, 0.3))}
    assert np.mean(found["model1 200"]["chosen"]) < np.mean(found["model1 200"]["none"]) - 0.1
    figures = {one.name: one for one in benchmark.figures_of(found, None)}
    assert figures["calibration_worse_than_none"].value == figures["answers_moved"].value == 0
    found["model0 200"]["chosen"] = [one + 0.1 + place / 100 for place, one in enumerate(found["model0 200"]["none"])]
    worse = benchmark.figures_of(found, None)[0]
    assert (worse.value, worse.spread) == (1, "model0 200")
