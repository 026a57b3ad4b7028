"""Losses of stage 1 against values computed by hand, and against timm where it has them."""

import math

import numpy as np
import pytest
import torch

from tasks.backbones.torchvision_ops import make_timm_importable
from tasks.common.errors import ParamsError
from tasks.stages.train_backbone import losses

CPU = torch.device("cpu")
COUNTS = np.array([8, 2])  # images of two classes
LOGITS = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])  # probabilities .75 and .25
TARGETS = torch.tensor([0, 1])
PLAIN = [-math.log(0.75), -math.log(0.25)]


def loss(name: str, logits=LOGITS, targets=TARGETS, counts=COUNTS, smoothing=0.0, progress=0.0) -> list[float]:
    return losses.epoch_loss(name, counts, smoothing, progress, CPU)(logits, targets).tolist()


def test_cross_entropy_and_its_smoothing():
    assert loss("cross_entropy") == pytest.approx(PLAIN)
    smooth = [0.8 * own + 0.2 * sum(PLAIN) / 2 for own in PLAIN]
    assert loss("cross_entropy", smoothing=0.2) == pytest.approx(smooth)


def test_class_weights_give_every_class_the_same_total_and_images_a_mean_of_one():
    assert losses.inverse_frequency(COUNTS) == pytest.approx([10 / 16, 10 / 4])
    assert loss("class_weighted") == pytest.approx([0.625 * PLAIN[0], 2.5 * PLAIN[1]])


def test_class_balanced_weights_follow_the_effective_number_of_images():
    found = losses.effective_number(COUNTS, beta=0.5)  # effective numbers: 2 - 2^-7, 1.5
    assert found[1] / found[0] == pytest.approx((2 - 2**-7) / 1.5)
    assert (found * COUNTS).sum() == pytest.approx(10)
    weights = losses.effective_number(COUNTS)
    assert loss("class_balanced") == pytest.approx([weights[0] * PLAIN[0], weights[1] * PLAIN[1]])
    assert np.isfinite(losses.effective_number(np.array([10, 0]))).all()  # a class without images


def test_the_focal_loss_fades_what_is_easy():
    assert loss("focal") == pytest.approx([0.25**2 * PLAIN[0], 0.75**2 * PLAIN[1]])


def test_logit_adjustment_and_balanced_softmax_learn_without_the_prior():
    """The softmax is of probability times share: .75 * .8 against .25 * .2."""
    own = [-math.log(0.6 / 0.65), -math.log(0.05 / 0.65)]
    assert loss("logit_adjusted") == pytest.approx(own)
    assert loss("balanced_softmax") == pytest.approx(own)


def test_ldam_takes_a_margin_from_the_own_class_and_reweights_late():
    margins = losses.ldam_margins(COUNTS)
    assert margins.tolist() == pytest.approx([5 * (2 / 8) ** 0.25, 5])
    odds = [3 * math.exp(-margins[0]), math.exp(-margins[1]) / 3]  # of the own class against the other
    own = [-math.log(odd / (1 + odd)) for odd in odds]
    assert loss("ldam_drw") == pytest.approx(own)
    weights = losses.effective_number(COUNTS)
    assert loss("ldam_drw", progress=0.75) == pytest.approx(own)
    assert loss("ldam_drw", progress=0.8) == pytest.approx([weights[0] * own[0], weights[1] * own[1]])


BOTH = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_multi_label_losses_weigh_labels_that_are_there():
    there, absent = -math.log(0.75), -math.log(1 - 0.75)  # of logit log 3
    zero = math.log(2)
    assert loss("cross_entropy", targets=BOTH) == pytest.approx([(there + zero) / 2, (absent + zero) / 2])
    smooth = [0.9 * there + 0.1 * absent, 0.1 * there + 0.9 * absent]
    assert loss("cross_entropy", targets=BOTH, smoothing=0.2) == pytest.approx([(one + zero) / 2 for one in smooth])
    assert loss("class_weighted", targets=BOTH) == pytest.approx(
        [(0.625 * there + zero) / 2, (absent + 2.5 * zero) / 2]
    )
    assert loss("focal", targets=BOTH) == pytest.approx(
        [(0.25**2 * there + 0.25 * zero) / 2, (0.75**2 * absent + 0.25 * zero) / 2]
    )


def test_the_asymmetric_loss_is_timms():
    make_timm_importable()
    from timm.loss import AsymmetricLossMultiLabel

    logits, targets = torch.randn(5, 4), (torch.rand(5, 4) > 0.7).float()
    theirs = AsymmetricLossMultiLabel(gamma_neg=losses.NEGATIVE, gamma_pos=losses.POSITIVE, clip=losses.CLIP)
    assert np.mean(loss("asymmetric", logits, targets, np.ones(4))) * 4 == pytest.approx(float(theirs(logits, targets)))
    easy = loss("asymmetric", torch.full((1, 4), -3.0), torch.zeros(1, 4), np.ones(4))
    assert easy == [0.0]  # probability below the clip


@pytest.mark.parametrize(("name", "task"), [("asymmetric", "multiclass"), ("ldam_drw", "multilabel")])
def test_a_loss_that_the_task_does_not_have_is_refused(name, task):
    with pytest.raises(ParamsError, match=rf"train_backbone.loss: {name} .*data.task: {task}"):
        losses.check_loss(name, task)
    losses.check_loss("focal", task)
