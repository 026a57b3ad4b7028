"""The trials of `evergreen init`: a probe on a sample decides about mirroring and resolution."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.metrics import balanced_accuracy_score

from flows.project.create import init_project
from flows.project.source_profile import profile_source
from flows.project.suggest import suggest_params
from flows.project.trials.compare import Gain, credits, out_of_fold, paired_gain
from flows.project.trials.run import choose_resolution, mirroring_is_safe, run_trials, with_values
from flows.project.trials.sample import choose_rows, draw_sample
from flows.project.trials.training import Candidate, best_candidate, candidates, parts, too_slow, try_trainings
from tasks.common.params import TrainBackboneParams
from tasks.common.sections.training import UnfreezePhases
from tasks.sources.source import open_source
from tests.support.photos import encode

TUNINGS = ["only the classifier", "changes of low rank"]


def arrow(direction: int, number: int) -> Image.Image:
    """An arrow to the left (-1) or right (1), each a little elsewhere and of another colour."""
    rng = np.random.default_rng([number, direction + 1])
    image = Image.fromarray(rng.integers(0, 60, (48, 48, 3), np.uint8))
    x, y = 24 + rng.integers(-3, 4), 24 + rng.integers(-3, 4)
    points = [(x + direction * 14, y), (x - direction * 8, y - 12), (x - direction * 8, y + 12)]
    ImageDraw.Draw(image).polygon(points, fill=tuple(rng.integers(150, 255, 3).tolist()))
    return image


@pytest.fixture(scope="module")
def arrows(tmp_path_factory):
    """70 arrows to the left and 70 to the right; the names of the classes do not tell."""
    root = tmp_path_factory.mktemp("arrows")
    for name, direction in (("kind-a", -1), ("kind-b", 1)):
        (root / name).mkdir()
        for number in range(70):
            (root / name / f"{number}.png").write_bytes(encode(arrow(direction, number)))
    return root


def test_credits_add_up_to_the_balanced_accuracy():
    y = np.array([0, 0, 0, 1, 2, 2])
    predicted = np.array([0, 1, 0, 1, 1, 2])
    assert credits(predicted, y).sum() == pytest.approx(balanced_accuracy_score(y, predicted))
    several = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0]], np.float32)
    guess = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]], np.float32)
    expected = np.mean([balanced_accuracy_score(several[:, k], guess[:, k]) for k in (0, 2)])
    assert credits(guess, several).sum() == pytest.approx(expected)


def test_a_gain_is_as_certain_as_its_groups_are_many():
    before, after = np.zeros(40), np.r_[np.full(30, 1 / 40), np.zeros(10)]
    alone = paired_gain(before, after, np.arange(40))
    assert (alone.points, alone.low > 50, alone.high < 95) == (pytest.approx(75), True, True)
    four = paired_gain(before, after, np.repeat(np.arange(4), 10))
    assert four.points == pytest.approx(75)
    assert four.high - four.low > alone.high - alone.low
    assert str(alone).startswith("+75.0 points (+")


def test_a_group_is_never_in_training_and_held_out():
    y = np.tile([0, 1], 30)
    groups = np.repeat(np.arange(15), 4)
    x = np.eye(15, dtype=np.float32)[groups]  # only the group can be learnt: no better than guessing
    x = np.c_[x, np.random.default_rng(0).normal(size=(60, 2))].astype(np.float32)
    assert credits(out_of_fold(x, y, groups), y).sum() < 0.7


def test_mirroring_goes_only_if_the_whole_interval_is_a_loss():
    assert mirroring_is_safe(Gain(-3, -7, 0.5))
    assert not mirroring_is_safe(Gain(-3, -5, -1))


def test_a_larger_resolution_must_be_worth_its_time():
    groups = np.arange(200)
    right = np.zeros((4, 200))
    right[0, :100] = right[1, :101] = right[2, :140] = right[3, :141] = 1 / 200
    chosen, steps = choose_resolution(dict(zip((64, 96, 128, 224), right, strict=True)), groups)
    assert chosen == 128
    assert [(size, round(gain.points, 1)) for size, gain in steps] == [(96, 0.5), (128, 20.0), (224, 0.5)]


def test_the_sample_has_every_class_and_many_groups():
    labels = ["common"] * 900 + ["rare"] * 5 + [None] * 95
    groups = ["one track"] * 450 + [f"track {number}" for number in range(45) for _ in range(10)] + [None] * 100
    rows = choose_rows(labels, groups, 100)
    assert rows == choose_rows(labels, groups, 100)
    assert sum(labels[row] == "rare" for row in rows) == 5
    assert all(labels[row] for row in rows)
    common = [groups[row] for row in rows if labels[row] == "common"]
    assert 98 <= len(common) <= 100
    assert len(set(common)) == 46
    assert common.count("one track") <= 3


@pytest.mark.long
def test_arrows_are_not_mirrored_and_each_trial_is_said(arrows, tmp_path):
    params, _ = suggest_params(profile_source(arrows))
    assert "flip" in params.train_backbone.augment
    sample = draw_sample(open_source(arrows), "multiclass", None)
    assert (len(sample.targets), sample.classes) == (140, ["kind-a", "kind-b"])
    said = []
    short = with_values(params, {"train_backbone.epochs": {"frozen": 1, "last": 0, "all": 1}})
    tried = run_trials(sample, short, (32, 64), said.append)
    assert tried.values["train_backbone.augment"] == ["crop", "colour"]
    assert tried.values["images.resolution"] in (32, 64)
    assert [line.split(":")[0] for line in tried.lines] == ["mirroring", "resolution", "training"]
    assert "train with no mirrored images" in tried.lines[0]
    assert said[:3] == [
        "trying settings on 140 of your images (--fast skips this)",
        "  resolution 32 (1 of 2)",
        "  resolution 64 (2 of 2)",
    ]
    assert [line.partition(", ")[2] for line in said[3:]] == [
        "as suggested",
        "learning rate 0.015",
        "learning rate 0.0017",
        "without colour",
        "without crop",
        "only the last 2 blocks",
        *TUNINGS,
        "4 epochs",
    ]
    fitted = with_values(params, tried.values)
    assert fitted.train_backbone.augment == ["crop", "colour"]
    assert fitted.decide == params.decide


def test_a_training_wins_only_with_its_whole_interval():
    groups = np.arange(100)
    right = {"as suggested": 50, "a little better": 55, "better": 80, "best": 90, "never run": 100}
    found = [Candidate(name, {}) for name in right]

    def train(one: Candidate) -> np.ndarray:
        return (groups < right[one.name]) / 100

    done = try_trainings(found[:4], train, groups)
    assert [gain and round(gain.points) for _, _, gain in done] == [None, 5, 30, 40]
    assert best_candidate(done).name == "best"
    assert best_candidate(done[:2]).name == "a little better"  # 5 of 100 are gained and none lost
    worse = try_trainings([found[2], found[0]], train, groups)
    assert best_candidate(worse).name == "better"
    assert [one.name for one, _, _ in try_trainings(found, train, groups, seconds=0)] == ["as suggested"]


def test_more_epochs_are_tried_on_small_sets_only_and_must_be_worth_their_time():
    params = TrainBackboneParams(epochs=UnfreezePhases(frozen=0, last=0, all=7), augment=["crop"])
    names = [one.name for one in candidates(params, 900)]
    assert names[3:] == ["with colour", "without crop", "only the last 2 blocks", *TUNINGS, "14 epochs"]
    assert [one.name for one in candidates(params, 901)] == names[:-1]
    longer = candidates(params, 900)[-1]
    assert longer.values == {"epochs": {"frozen": 0, "last": 0, "all": 14}}
    groups = np.arange(1000)
    for gained, chosen in ((15, "as suggested"), (25, "14 epochs")):  # of 1000: 1.5 and 2.5 points, none lost
        scores = [(groups < 500 + more) / 1000 for more in (0, gained)]
        first = candidates(params, 900)[0]
        done = [(first, scores[0], None), (longer, scores[1], paired_gain(*scores, groups))]
        assert best_candidate(done).name == chosen


def test_no_training_is_tried_where_two_take_too_long():
    params = TrainBackboneParams(epochs=UnfreezePhases(frozen=2, last=0, all=10))
    assert too_slow(600, params, per_image=0.004) is None  # 72 s
    assert (
        too_slow(600, params, per_image=0.02) == "not tried: one on 600 images would take about 6 min on this machine"
    )


def test_the_interval_is_wider_where_many_are_compared():
    rng = np.random.default_rng(0)
    before, after = (rng.random(200) < share for share in (0.5, 0.6))
    one, six = (paired_gain(before / 200, after / 200, np.arange(200), number) for number in (1, 6))
    assert one.points == six.points
    assert six.low < one.low - 1
    assert six.high > one.high + 1


def test_the_parts_divide_no_group_and_hold_out_only_taught_classes():
    targets = np.r_[np.repeat([0, 1], 300), 2, 2]
    groups = np.r_[np.repeat(np.arange(60), 10), 99, 99]  # class 2 has one group
    train, held = parts(targets, groups)
    assert not set(groups[train][targets[train] < 2]) & set(groups[held][targets[held] < 2])
    assert set(targets[held]) <= set(targets[train])
    assert 150 < len(held) < 260


def test_with_few_images_nothing_is_tried(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "s" / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "s" / name / f"{number}.png").write_bytes(encode(arrow(1, number)))
    said = []
    notes = init_project(tmp_path / "mine", tmp_path / "s", Path(__file__).parents[3], say=said.append).notes
    assert "fewer than 60 labelled images of two classes: no settings were tried" in notes
    assert said == ["understood: 2 classes from folder names (a, b)"], "before anything is tried"
    assert not set(said) & set(notes)
