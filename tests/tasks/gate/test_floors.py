"""Floors: bounds of any figure that the first model and every later one must keep."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from tasks.common.floors import Floor
from tasks.common.params import GateParams
from tasks.gate.power import POWER, images_to_prove
from tasks.scoring.metrics import balanced_accuracy
from tests.support.predictions import CLASSES, NEW, OLD, TARGETS, K, checks, measured, table, verdict, wrong
from tests.tasks.gate.test_gate import multilabel, with_source

HIGH = wrong(TARGETS, [0])  # one mistake, in class Bag


def judged(floors, new=NEW, old=OLD, *, rows=None, champion=None, unproven="warn", when_equal="hold", **more):
    """The verdict on answers `new` against `old` (None: the first model) under `floors`."""
    policy = GateParams(resamples=400, floors=floors, unproven=unproven, when_equal=when_equal)
    rows = table(TARGETS, new) if rows is None else rows
    if champion is None and old is not None:
        champion = table(TARGETS, old)
    return verdict(rows, champion, measured(TARGETS, new), policy, **more)


def state(found, code: str) -> str:
    return checks(found)[code].detail.partition(":")[0]


# --- met, unproven, below, missed ------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, OLD], ids=["first model", "later model"])
@pytest.mark.parametrize(
    ("bound", "word", "outcome"),
    [(0.7, "met", "promote"), (0.86, "unproven", "promote"), (0.9, "below", "hold"), (0.96, "missed", "reject")],
)
def test_a_floor_is_met_unproven_below_or_missed(bound, word, outcome, old):
    """52 of 60 images of Bag are right."""
    found = judged([Floor(class_="Bag", recall=bound)], old=old)
    assert state(found, "floor.class.Bag.recall") == word
    assert found.outcome == outcome
    assert f"floors: 1 {word}" in found.sentence
    check = checks(found)["floor.class.Bag.recall"]
    assert (check.value, check.bound) == (pytest.approx(52 / 60), bound)
    assert check.low == pytest.approx(binom_limit(52, 60), abs=1e-6)


def binom_limit(count: int, n: int) -> float:
    """The share that gives `count` of `n` or more 1 % of the time, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binom.sf(count - 1, n, middle) < 0.01 else (low, middle)
    return low


def test_an_unproven_floor_holds_where_it_says_so_and_names_the_images_that_would_prove_it():
    floor = Floor(class_="Boot", recall=0.98)
    found = judged([floor], new=HIGH)
    detail = checks(found)["floor.class.Boot.recall"].detail
    assert "228 such images would prove it, 168 more" in detail  # 0.98 ** 228 < 0.01 < 0.98 ** 227
    assert "228 such images" in found.sentence
    assert found.outcome == "promote"
    assert judged([floor], new=HIGH, unproven="hold").outcome == "hold"
    assert judged([floor.model_copy(update={"unproven": "hold"})], new=HIGH).outcome == "hold"
    assert judged([floor.model_copy(update={"unproven": "warn"})], new=HIGH, unproven="hold").outcome == "promote"
    held = judged([floor], new=HIGH, old=None, unproven="hold")
    assert held.outcome == "hold"
    assert "a floor forbids promotion: floor.class.Boot.recall (unproven:" in held.sentence


@pytest.mark.parametrize(
    ("share", "bound", "alpha"), [(1.0, 0.98, 0.01), (0.95, 0.9, 0.01), (0.97, 0.95, 0.05), (0.6, 0.5, 0.01)]
)
def test_the_number_of_images_is_the_least_with_enough_power(share, bound, alpha):
    n = images_to_prove(share, bound, alpha)

    images = np.arange(1, n + 1)
    power = binom.sf(binom.isf(alpha, images, bound), images, share)  # the chance to be above what luck gives
    assert power[-1] >= POWER
    assert (power[:-1] < POWER).all()


def test_far_from_the_floor_few_images_suffice_and_at_the_floor_none_do():
    assert images_to_prove(0.9, 0.9, 0.01) is None
    assert images_to_prove(0.8, 0.9, 0.01) is None
    exact, beyond = images_to_prove(0.9, 0.875, 0.01), images_to_prove(0.9, 0.887, 0.01)
    assert exact < 5_000 < beyond
    assert beyond == pytest.approx(exact * (0.025 / 0.013) ** 2, rel=0.1)


def test_equal_models_are_not_promoted_below_a_floor():
    fine = judged([Floor(accuracy=0.6)], new=OLD, when_equal="promote")
    assert fine.outcome == "promote"
    assert judged([Floor(accuracy=0.76)], new=OLD, when_equal="promote").outcome == "hold"
    assert judged([Floor(accuracy=0.9)], new=OLD, when_equal="promote").outcome == "reject"


def test_a_floor_holds_for_a_better_model_too():
    found = judged([Floor(class_="Bag", recall=0.98)])
    assert checks(found)["test.balanced_accuracy"].detail.startswith("better")
    assert found.outcome == "reject"
    assert "the live model has 0.750" in checks(found)["floor.class.Bag.recall"].detail


# --- never worse than the champion -----------------------------------------------------------------------------


def test_a_figure_with_a_floor_may_not_fall_even_within_the_class_margin():
    """Six of 60 images of Bag are lost: within the margin of ten points, but beyond luck."""
    old = wrong(TARGETS, np.arange(60, 300, 3))
    new = wrong(TARGETS, np.arange(0, 60, 10))
    free = judged([], new, old)
    assert free.outcome == "promote"
    assert checks(free)["class.Bag.recall"].detail.startswith("not worse")
    found = judged([Floor(class_="Bag", recall=0.7)], new, old)
    assert found.outcome == "hold"
    assert checks(found)["floor.class.Bag.recall.kept"].detail.startswith("perhaps worse")
    assert state(found, "floor.class.Bag.recall") == "met"


@pytest.mark.parametrize(
    "floor",
    [
        Floor(class_="Bag", precision=0.3),
        Floor(accuracy=0.3),
        Floor(balanced_accuracy=0.3),
        Floor(macro_f1=0.3),
        Floor(cost=0.9),
        Floor(set="newest", accuracy=0.3),
    ],
    ids=lambda floor: floor.code,
)
def test_every_figure_is_compared_with_the_champions(floor):
    name = f"{floor.code}.kept"
    worse, better = judged([floor], OLD, NEW), judged([floor], NEW, OLD)
    assert state(worse, floor.code) == state(better, floor.code) == "met"
    assert checks(worse)[name].detail.startswith("worse")
    assert checks(worse)[name].value == pytest.approx(-checks(better)[name].value)
    assert checks(better)[name].detail.startswith("not worse")
    assert judged([floor], OLD, OLD).outcome == "hold"  # equal models lose nothing


# --- places ----------------------------------------------------------------------------------------------------


def lit(answers, **more) -> pa.Table:
    return table(TARGETS, answers, slices=np.where(np.arange(300) % 3 == 0, "night", "day"), **more)


def test_floors_of_a_named_slice_and_of_the_worst_one():
    """At night 60 of 100 images are right, by day all are."""
    night = np.arange(300) % 3 == 0
    new = TARGETS.copy()
    new[np.flatnonzero(night)[::5]] = (new[np.flatnonzero(night)[::5]] + 1) % K
    new[np.flatnonzero(night)[1::5]] = (new[np.flatnonzero(night)[1::5]] + 1) % K
    floors = [
        Floor(slice="light=night", accuracy=0.45),
        Floor(slice="light=day", accuracy=0.9),
        Floor(slice="worst", accuracy=0.8),
    ]
    found = judged(floors, new, None, rows=lit(new))
    assert [state(found, floor.code) for floor in floors] == ["met", "met", "missed"]
    check = checks(found)["floor.worst_slice.accuracy"]
    assert check.value == pytest.approx(0.6)
    assert "100 images of light=night" in check.detail
    assert found.outcome == "reject"


def test_the_worst_of_many_places_allows_for_the_choice():
    """Of 15 equal sources one has 16 of 20 right by luck: alone that misses 0.97, as the worst of 15 it does not."""
    sources = np.array([f"cam-{row % 15}" for row in range(300)], object)
    new = TARGETS.copy()
    rows = np.flatnonzero(sources == "cam-3")[:4]
    new[rows] = (new[rows] + 1) % K
    alone = [Floor(source="cam-3", accuracy=0.97)]
    worst = [Floor(source="worst", accuracy=0.97)]
    table_ = with_source(table(TARGETS, new), sources)
    assert state(judged(alone, new, None, rows=table_), alone[0].code) == "missed"
    found = judged(worst, new, None, rows=table_)
    assert state(found, worst[0].code) == "below"
    assert "source=cam-3" in checks(found)[worst[0].code].detail
    assert found.outcome == "hold"


def test_the_worst_place_is_proven_only_if_every_place_is():
    sources = np.array(["a"] * 25 + ["b"] * 275, object)
    perfect = TARGETS.copy()
    found = judged(
        [Floor(source="worst", accuracy=0.9)], perfect, None, rows=with_source(table(TARGETS, perfect), sources)
    )
    check = checks(found)["floor.worst_source.accuracy"]
    assert check.detail.startswith("unproven: accuracy 1.000, at least 0.9, on 25 images of source=a")
    assert "44 such images would prove it, 19 more" in check.detail  # 0.9 ** 44 < 0.01


def test_a_class_at_the_worst_source():
    sources = np.where(np.arange(300) % 2, "left", "right").astype(object)
    new = TARGETS.copy()
    new[np.arange(0, 60, 2)[:15]] = 1
    floor = Floor(class_="Bag", source="worst", recall=0.9)
    found = judged([floor], new, None, rows=with_source(table(TARGETS, new), sources))
    check = checks(found)["floor.worst_source.class.Bag.recall"]
    assert check.value == pytest.approx(0.5)
    assert "30 images of class Bag on source=right" in check.detail


def test_images_of_one_group_are_one_observation():
    perfect = TARGETS.copy()
    groups = [str(row // 10) for row in range(300)]
    floor = [Floor(accuracy=0.95)]
    assert state(judged(floor, perfect, None), "floor.test.accuracy") == "met"
    grouped = judged(floor, perfect, None, rows=table(TARGETS, perfect, groups=groups))
    assert state(grouped, "floor.test.accuracy") == "unproven"
    assert checks(grouped)["floor.test.accuracy"].low < 0.9


def test_macro_f1_of_few_images_or_groups_proves_little():
    few = TARGETS[::12]  # 25 images, all answered correctly: a bootstrap sees no spread
    policy = GateParams(resamples=400, floors=[Floor(macro_f1=0.95)])
    found = verdict(table(few, few), None, measured(few, few), policy)
    assert state(found, "floor.test.macro_f1") == "unproven"
    assert checks(found)["floor.test.macro_f1"].low < 0.9
    mistaken = wrong(TARGETS, np.arange(0, 300, 10))
    alone = judged([Floor(macro_f1=0.8)], mistaken, None)
    assert state(alone, "floor.test.macro_f1") == "met"
    rows = table(TARGETS, mistaken, groups=[str(row // 60) for row in range(300)])
    assert state(judged([Floor(macro_f1=0.8)], mistaken, None, rows=rows), "floor.test.macro_f1") == "unproven"


@pytest.mark.parametrize("floor", [Floor(class_="Bag", precision=0.3), Floor(cost=0.9), Floor(accuracy=0.3)])
def test_images_of_one_group_count_once_against_the_champion_too(floor):
    """A loss of 30 images in three groups says less than one in 30 groups."""
    new = wrong(TARGETS, np.arange(60, 90), K - 1)  # Coats that are taken for Bags
    alone = judged([floor], new, TARGETS)
    groups = [str(row // 10) for row in range(300)]
    rows = [table(TARGETS, answers, groups=groups) for answers in (new, TARGETS)]
    together = judged([floor], new, TARGETS, rows=rows[0], champion=rows[1])
    assert checks(alone)[f"{floor.code}.kept"].detail.startswith("worse:")
    assert checks(together)[f"{floor.code}.kept"].detail.startswith("not worse:")


def test_what_is_not_there_is_an_error_that_says_what_is():
    for floor, said in (
        (Floor(class_="crack", recall=0.9), "names the class 'crack', there are Bag, Coat"),
        (Floor(slice="light=dim", accuracy=0.9), "names light=dim, there are test, newest"),
        (Floor(set="hard", accuracy=0.9), "names hard, there are test, newest"),
        (Floor(slice="worst", accuracy=0.9), "worst of the slices, and no test image has one"),
        (Floor(source="worst", accuracy=0.9), "worst of the sources, and no test image has one"),
        (Floor(image="nowhere"), "names the image 'nowhere', which is not in the test or hard set"),
        (Floor(image="test"), "'test', which is the beginning of 300 ids"),
    ):
        found = judged([floor])
        assert found.outcome == "reject"
        check = checks(found)[floor.code]
        assert check.status == "error"
        assert said in check.detail
        assert "test.balanced_accuracy" in checks(found)  # everything else is judged all the same


def test_a_class_without_test_images_is_unproven():
    targets = np.where(TARGETS == 4, 0, TARGETS)
    policy = GateParams(resamples=400, floors=[Floor(class_="Boot", recall=0.9)])
    found = verdict(table(targets, targets), None, measured(targets, targets), policy)
    assert state(found, "floor.class.Boot.recall") == "unproven"
    assert "there are no images of class Boot on the test set" in found.sentence


# --- the hard set and single images ----------------------------------------------------------------------------

HARD = np.repeat(np.arange(K), 20)


def with_hard(answers, hard_answers) -> pa.Table:
    return pa.concat_tables([table(TARGETS, answers), table(HARD, hard_answers, split="hard")])


def test_by_default_no_image_of_the_hard_set_may_be_lost_beyond_luck():
    """Two of 100 images: within the margin of the mean. Seven: beyond luck, though the margin is not proven."""
    old = with_hard(OLD, wrong(HARD, np.arange(0, 100, 10)))
    for lost, outcome in ((0, "promote"), (2, "promote"), (5, "hold"), (14, "reject")):
        rows = np.concatenate([np.arange(0, 100, 10), np.arange(1, 1 + 5 * lost, 5)])
        found = verdict(with_hard(NEW, wrong(HARD, rows)), old, measured(TARGETS, NEW), hard_set="hard-1")
        assert (lost, found.outcome) == (lost, outcome)
        assert checks(found)["hard.images"].value == pytest.approx(-lost / 100)
        assert checks(found)["hard.images"].bound == 0
    assert "hard set: 100 images, 76 answered correctly" in found.sentence


def test_a_floor_of_the_hard_set_and_of_its_classes():
    hard = wrong(HARD, np.arange(0, 100, 4))
    floors = [Floor(set="hard", accuracy=0.9), Floor(set="hard", class_="Bag", recall=0.5)]
    found = judged(floors, NEW, None, rows=with_hard(NEW, hard), hard_set="hard-1")
    assert state(found, "floor.hard.accuracy") == "missed"
    assert state(found, "floor.hard.class.Bag.recall") == "unproven"
    assert found.outcome == "reject"


def test_an_image_that_must_never_be_wrong_again():
    new = with_hard(NEW, wrong(HARD, [3]))
    policy = GateParams(resamples=400, floors=[Floor(image="hard00003"), Floor(image="part 7")])
    keys = [None] * 300 + ["part 7" if row == 7 else None for row in range(100)]
    new, old = (part.set_column(1, "key", pa.array(keys, pa.string())) for part in (new, with_hard(OLD, HARD)))
    found = verdict(new, old, measured(TARGETS, NEW), policy, hard_set="hard-1")
    assert checks(found)["floor.image.hard00003"].detail == (
        "missed: answered wrongly: this image must be right; the live model is right"
    )
    assert state(found, "floor.image.part 7") == "met"
    assert found.outcome == "reject"
    assert "fails floor.image.hard00003 (missed" in found.sentence
    other = policy.model_copy(update={"floors": [Floor(image="part 7")]})
    assert verdict(new, old, measured(TARGETS, NEW), other, hard_set="hard-1").outcome == "promote"


# --- costs and multi-label -------------------------------------------------------------------------------------


def test_a_floor_of_the_mean_cost_counts_what_a_missed_class_costs():
    """38 wrong answers of 300: 8 of them miss a Bag."""
    floor = Floor(cost=0.5)
    plain = judged([floor])
    assert checks(plain)["floor.test.cost"].value == pytest.approx(38 / 300)
    assert state(plain, "floor.test.cost") == "met"
    dear = judged([floor], costs={"Bag": 20.0})
    assert checks(dear)["floor.test.cost"].value == pytest.approx((30 + 8 * 20) / 300)
    assert state(dear, "floor.test.cost") == "below"
    assert dear.outcome == "hold"
    assert state(judged([floor], costs={"Bag": 60.0}), "floor.test.cost") == "missed"


def test_multilabel_models_have_floors_too():
    rng = np.random.default_rng(3)
    truth = rng.random((300, K)) < 0.3
    scores = np.where(truth, 0.9, 0.1)
    scores[np.flatnonzero(truth[:, 0])[::4], 0] = 0.1  # a quarter of the bags is missed
    answers = scores >= 0.5
    metrics = measured(TARGETS, NEW, thresholds=dict.fromkeys(CLASSES, 0.5))
    metrics["test"]["balanced_accuracy"] = balanced_accuracy(truth.astype(int), answers, K)
    floors = [
        Floor(class_="Bag", recall=0.9),
        Floor(class_="Bag", precision=0.9),
        Floor(class_="Coat", recall=0.9),
        Floor(balanced_accuracy=0.9),
        Floor(cost=0.2),
    ]
    policy = GateParams(resamples=400, floors=floors)
    found = verdict(
        multilabel(truth, scores),
        multilabel(truth, scores),
        metrics,
        policy,
        task="multilabel",
        champion_metrics={"thresholds": dict.fromkeys(CLASSES, 0.5)},
    )
    said = [state(found, floor.code) for floor in floors]
    assert said == ["missed", "met", "met", "met", "met"]
    assert checks(found)["floor.test.cost"].value == pytest.approx((~answers & truth).sum() / 300)


# --- the worst source, and what a comparison shows -------------------------------------------------------------


def test_the_worst_source_is_shown_and_may_not_be_below_guessing():
    sources = np.array([("left", "right")[row % 2] for row in range(300)], object)
    left = np.flatnonzero(sources == "left")

    def found(new, old):
        champion = None if old is None else with_source(table(TARGETS, old), sources)
        return verdict(with_source(table(TARGETS, new), sources), champion, measured(TARGETS, new))

    good = found(NEW, OLD)
    check = checks(good)["worst_source.balanced_accuracy"]
    assert check.detail.startswith("met: balanced accuracy 0.747 on 150 images of the worst source, left")
    assert "balanced accuracy 0.747 on 150 images of the worst source, left" in good.sentence
    broken = wrong(TARGETS, left[5:])
    assert checks(found(broken, None))["worst_source.balanced_accuracy"].detail.startswith("missed:")
    assert found(broken, None).outcome == "reject"
    better = wrong(TARGETS, left)  # the champion is as bad there, and worse elsewhere
    better[1::8] = (better[1::8] + 1) % K
    same = found(broken, better)
    assert checks(same)["worst_source.balanced_accuracy"].status == "pass"
    assert "warning: the worst source is below guessing" in same.sentence
    assert "worst_source.balanced_accuracy" not in checks(judged([]))  # no sources, nothing to say


def test_a_comparison_says_what_it_rules_out_or_how_many_images_are_missing():
    many = judged([], NEW, OLD)
    assert "shown to be at most 0.0 points worse" in checks(many)["class.Bag.recall"].detail
    assert "nothing is worse beyond its margin (shown for 5 of 5 comparisons)" in many.sentence
    few = np.repeat(np.arange(K), 25)
    old, new = wrong(few, np.arange(0, 125, 3)), wrong(few, [])
    new[:25] = old[:25]  # the same answers for one class: that they are equal is not shown
    found = verdict(table(few, new), table(few, old), measured(few, new), GateParams(resamples=400, class_margin=0.02))
    assert found.outcome == "promote"
    detail = checks(found)["class.Bag.recall"].detail
    assert "is not ruled out: about" in detail
    assert "more images would show it" in detail
    assert "more images would show the rest: class." in found.sentence
