"""The finder of a learning rate: rates rise, the loss tells where to stop, the suggestion lies below."""

from dataclasses import replace

import numpy as np
import pytest

from flows.project.trials import rate_finder
from tests.support.small_training import SCRATCH, STAGED, examples, setting, small


def test_losses_are_smoothed_without_a_bias_at_their_start():
    assert rate_finder.smooth(np.array([4.0, 4.0, 4.0])) == pytest.approx([4, 4, 4])
    assert rate_finder.smooth(np.array([1.0, 2.0])) == pytest.approx([1, (0.9 * 0.1 * 1 + 0.1 * 2) / (1 - 0.81)])


def test_the_suggestion_is_the_highest_rate_that_still_trains():
    lucky = np.linspace(0.1, 2.0, rate_finder.START)  # the first batches; after them, the loss is at its start
    rates = np.r_[np.full(rate_finder.START, 1e-5), [1e-4, 1e-3, 1.234e-2, 0.1, 1.0]]
    found = [
        rate_finder.RateCurve(rates, np.r_[lucky, later]).suggestion
        for later in ([2.0, 1.5, 1.9, 2.1, 9.0], [2.0, 1.99, 2.1, 3.0, 9.0])
    ]
    assert found == [0.012, None]


def test_rates_rise_by_the_same_factor_until_the_loss_explodes():
    seen: list[int] = []
    curve = rate_finder.find_rate(small(), examples(), setting(SCRATCH), 30, seen.append)
    factors = curve.rates[1:] / curve.rates[:-1]
    assert factors == pytest.approx(factors[0])
    assert curve.rates[0] == pytest.approx(SCRATCH.learning_rate * rate_finder.LOWEST)
    assert seen == list(range(1, len(seen) + 1))
    assert len(curve.rates) < 30  # a rate a thousand times as high as the usual one cannot train
    assert curve.losses[-1] > curve.losses.min()
    other = rate_finder.find_rate(small(), examples(), setting(SCRATCH, optimizer="sgd"), 30)
    assert not np.array_equal(other.losses[:10], curve.losses[:10])


def test_pretrained_layers_are_tried_at_a_fifth_as_they_train():
    """One step of plain gradient descent moves a weight by its rate times its gradient."""
    moved = []
    for params in (SCRATCH, STAGED):  # the second as if it were pretrained
        how = setting(
            params, optimizer="sgd", weight_decay=0.0, learning_rate=1e5, augment=[], batch_size=36, batch_norm="train"
        )
        model = small()
        before = model.conv_stem.weight.detach().clone()
        rate_finder.find_rate(model, replace(examples(), features=None), how, 1)
        moved.append(float((model.conv_stem.weight.detach() - before).abs().sum()))
    assert moved[0] > 1e-4
    assert moved[1] == pytest.approx(0.2 * moved[0], rel=0.01)
