"""How much of the network trains is chosen from short trainings, not from the number of images."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.common.sections.training import UnfreezePhases
from tasks.models.choice import Advantage
from tasks.stages.train_backbone import tuning
from tests.support.small_training import STAGED, examples, setting, small

HOW = setting(STAGED, epochs=UnfreezePhases(frozen=0, last=0, all=1))


def test_only_a_clear_lead_over_full_fine_tuning_counts():
    scores = {"linear": 0.8, "norm": 0.85, "full": 0.7}
    clear, luck = Advantage(0.1, 0.02), Advantage(0.15, 0.2)
    assert tuning.decide(scores, {"linear": clear, "norm": luck}) == "linear"
    assert tuning.decide(scores, {"linear": clear, "norm": clear}) == "norm"
    assert tuning.decide(scores, {"linear": luck, "norm": luck}) == "full"
    assert tuning.decide(scores, {"linear": Advantage(-0.1, 0.02), "norm": luck}) == "full"


def test_where_the_probe_hardly_errs_nothing_is_trained():
    made = examples()
    train = replace(made, features=np.eye(3, 256, dtype=np.float16)[made.targets])  # they tell the classes

    def make():
        raise AssertionError("a network was made")

    choice = tuning.choose_tuning(make, train, train.pixels, [None] * 36, HOW)
    assert (choice.tuning, choice.scores, choice.images) == ("linear", {"linear": 1.0}, 36)
    assert choice.sentence().endswith("linear 100.0 -> linear")


def test_light_and_full_tuning_are_tried_where_the_probe_errs():
    made = examples()
    train = replace(made, features=np.random.default_rng(1).normal(size=(36, 256)).astype(np.float16))
    choice = tuning.choose_tuning(small, train, train.pixels, [None] * 36, HOW)
    assert choice.scores.keys() == {"linear", "lora", "full"}
    assert choice.leads.keys() == {"linear", "lora"}
    assert choice.leads["lora"][0] == pytest.approx(choice.scores["lora"] - choice.scores["full"])
    again = tuning.choose_tuning(small, train, train.pixels, [None] * 36, HOW)
    assert again == choice, "a training that resumes chooses the same"


def test_the_parts_keep_groups_whole_and_are_as_large_as_the_steps():
    targets = np.tile(np.arange(3), 4000)
    groups = np.arange(12000) // 6
    learnt, held = tuning.parts(targets, groups, setting(STAGED, batch_size=16))
    assert not set(groups[learnt]) & set(groups[held])
    assert len(learnt) == pytest.approx(tuning.STEPS * 16 / 4, rel=0.1)  # two phases of two epochs each
    assert len(held) == pytest.approx(len(learnt) / 2, rel=0.15)
