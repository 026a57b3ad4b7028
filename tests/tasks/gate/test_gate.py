"""The gate's one rule, judged on small tables of predictions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import balanced_accuracy_score

from tasks.common.checks import Check
from tasks.common.params import GateParams
from tasks.common.schemas import predictions_schema
from tasks.gate.against import _levels
from tasks.gate.evidence import named_sets, newest
from tasks.gate.paired import Difference
from tasks.gate.sentence import verdict_sentence
from tasks.gate.verdict import Finding
from tasks.scoring.skill import measure_skill
from tests.support.predictions import CLASSES, NEW, OLD, TARGETS, K, checks, measured, table, verdict, wrong


def test_a_better_model_is_promoted_with_figures():
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, NEW))
    assert found.outcome == "promote"
    assert {check.status for check in found.checks} == {"pass"}
    main = checks(found)["test.balanced_accuracy"]
    assert main.value == pytest.approx(0.1233, abs=1e-3)
    assert main.low > 0.05
    assert "McNemar" in main.detail
    assert found.sentence.startswith("promote: balanced accuracy on test 0.8")
    for part in (
        "+12.3 points against v3",
        "98 % interval +",
        "other seeds alone ±",
        "nothing is worse",
        "no hard set",
    ):
        assert part in found.sentence
    assert {f"class.{name}.recall" for name in CLASSES} <= set(checks(found))
    assert checks(found)["hard_set"].status == "pass"


def test_the_verdict_says_that_the_test_is_later_than_training_where_all_of_it_is():
    said = "test is later than train: trained until 2026-10-01, tested on 2026-10-02 to 2026-11-01"
    for all_later in (True, False):
        metrics = measured(TARGETS, NEW, later={"all_later": all_later, "sentence": said})
        assert (said in verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics).sentence) == all_later
    assert said not in verdict(table(TARGETS, NEW), None, measured(TARGETS, NEW, later=None)).sentence


def test_the_verdict_names_the_seed_noise_where_several_seeds_were_trained():
    def said(seeds: dict | None) -> str:
        return verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, NEW), seeds=seeds).sentence

    several = said({"scores": [0.81, 0.82, 0.83], "mean": 0.82, "spread": 0.01, "combine": "ensemble"})
    assert "calibration scores of 3 trainings that differ only in their seed lie 1.0 points apart" in several
    assert "seed noise" not in said(None)


def test_the_same_model_again_is_held_and_the_same_input_gives_the_same_verdict():
    found = [verdict(table(TARGETS, OLD), table(TARGETS, OLD), measured(TARGETS, OLD)) for _ in range(2)]
    assert found[0].outcome == "hold"
    assert "not shown to be better" in found[0].sentence
    assert found[0] == found[1]


def test_a_gain_on_too_few_images_says_why_it_is_not_shown():
    found = Difference(n=9, new=1.0, old=0.1, low=0.5, high=1.0, p_better=0.08, p_worse=1.0)
    finding = Finding(Check(name="test.balanced_accuracy", status="fail"), "equal")
    sentence = verdict_sentence("hold", [finding], GateParams(), {"test": found}, "v1", None)
    assert "not shown to be better: on only 9 images luck gives such a gain 8.0% of the time, which is too" in sentence
    plain = verdict_sentence("hold", [finding], GateParams(), {"test": replace(found, low=-0.1)}, "v1", None)
    assert "not shown to be better;" in plain


def test_order_of_rows_does_not_matter():
    shuffled = table(TARGETS, OLD).take(np.random.default_rng(0).permutation(len(TARGETS)))
    metrics = measured(TARGETS, NEW)
    assert verdict(table(TARGETS, NEW), shuffled, metrics) == verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics)


@pytest.mark.parametrize("when_equal", ["promote", "hold", "reject"])
def test_when_equal_decides_about_equal_models(when_equal):
    policy = GateParams(resamples=400, when_equal=when_equal)
    same = verdict(table(TARGETS, OLD), table(TARGETS, OLD), measured(TARGETS, OLD), policy)
    assert same.outcome == when_equal


def test_promotion_of_equals_needs_proof_that_they_are():
    """Six errors elsewhere on 20 images: the interval reaches far below the margin."""
    few = TARGETS[::15]
    policy = GateParams(resamples=400, when_equal="promote", min_class_support=4)
    old, new = wrong(few, [0, 5, 10]), wrong(few, [1, 6, 11])
    assert verdict(table(few, new), table(few, old), measured(few, new), policy).outcome == "hold"


def test_a_much_worse_model_is_rejected():
    found = verdict(table(TARGETS, OLD), table(TARGETS, NEW), measured(TARGETS, OLD))
    assert found.outcome == "reject"
    assert "-12.3 points" in found.sentence


def test_one_class_that_falls_hidden_by_the_mean_is_caught():
    old = wrong(TARGETS, np.arange(0, 300, 3))
    new = wrong(TARGETS, np.arange(0, 20))  # class 0 loses a third; the others become perfect
    new[20:40] = wrong(TARGETS, np.arange(20, 40), 2)[20:40]
    found = verdict(table(TARGETS, new), table(TARGETS, old), measured(TARGETS, new))
    assert checks(found)["test.balanced_accuracy"].status == "pass"
    assert checks(found)["class.Bag.recall"].status == "fail"
    assert found.outcome == "reject"
    assert "class.Bag.recall" in found.sentence


def test_a_suspicion_holds_and_says_so():
    """Class 0 loses 10 of 60 and gains 3: stands out alone, not among all that is looked at."""
    old = wrong(TARGETS, np.arange(60, 300, 2))
    old[:3] = 1
    new = TARGETS.copy()
    new[3:13] = 1
    found = verdict(table(TARGETS, new), table(TARGETS, old), measured(TARGETS, new))
    assert found.outcome == "hold"
    assert "perhaps worse" in checks(found)["class.Bag.recall"].detail
    assert "forbids promotion: class.Bag.recall -11.7 points" in found.sentence


def test_a_class_given_up_is_rejected_even_with_three_images():
    targets = np.concatenate([np.repeat(np.arange(4), 100), [4, 4, 4]])
    old, new = wrong(targets, np.arange(0, 400, 3)), targets.copy()
    new[-3:] = 0
    found = verdict(table(targets, new), table(targets, old), measured(targets, new))
    assert checks(found)["class_collapse"].status == "fail"
    assert "Boot" in found.sentence
    assert found.outcome == "reject"


def test_rare_classes_are_judged_together():
    """Three classes of 10 images lose half each: none shows it alone, all together do."""
    targets = np.concatenate([np.repeat([0, 1], 200), np.repeat([2, 3, 4], 10)])
    old, new = targets.copy(), targets.copy()
    old[:400:2] = (old[:400:2] + 1) % 2
    for start in (400, 410, 420):
        new[start : start + 5] = 0
    found = verdict(table(targets, new), table(targets, old), measured(targets, new))
    assert "class.Shirt.recall" not in checks(found)
    assert checks(found)["few_shot.recall"].status == "fail"
    assert found.outcome == "reject"


def test_classes_of_few_training_images_are_pooled_too():
    counts = dict.fromkeys(CLASSES, 100) | {"Boot": 3, "Sandal": 3}
    names = checks(
        verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, NEW), train_counts=counts)
    ).keys()
    assert "few_shot.recall" in names
    assert "class.Bag.recall" in names
    assert not {"class.Boot.recall", "class.Sandal.recall"} & names


def test_a_few_lucky_rare_images_are_no_win():
    """Balanced accuracy over classes of one image jumps by 50 points for two lucky guesses: luck, not skill."""
    targets = np.concatenate([np.repeat([0, 1, 2], 100), [3, 4]])
    old, new = targets.copy(), targets.copy()
    old[-2:] = 0
    found = verdict(table(targets, new), table(targets, old), measured(targets, new))
    assert checks(found)["test.balanced_accuracy"].value == pytest.approx(0.4)
    assert found.outcome == "hold"


def test_a_worse_slice_is_caught():
    night = np.arange(300) % 3 == 0
    light = np.where(night, "night", "day")
    old, new = OLD.copy(), NEW.copy()
    old[night] = TARGETS[night]
    new[night] = wrong(TARGETS, np.arange(0, 300, 6))[night]
    found = verdict(table(TARGETS, new, slices=light), table(TARGETS, old, slices=light), measured(TARGETS, new))
    assert checks(found)["slice:light=night.balanced_accuracy"].status == "fail"
    assert checks(found)["slice:light=day.balanced_accuracy"].status == "pass"
    assert found.outcome == "reject"


def test_a_gain_on_one_of_the_named_sets_suffices():
    policy = GateParams(resamples=400, superior_on=["test", "newest"])
    assert verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, NEW), policy).outcome == "promote"
    old = OLD.copy()
    old[150:] = NEW[150:]  # rows 150.. are batch b-2, the newest: nothing gained there
    found = verdict(table(TARGETS, NEW), table(TARGETS, old), measured(TARGETS, NEW), policy)
    assert checks(found)["test.balanced_accuracy"].detail.startswith("better")
    assert checks(found)["newest.balanced_accuracy"].detail.startswith("not worse")
    assert found.outcome == "promote"
    nothing = verdict(table(TARGETS, OLD), table(TARGETS, OLD), measured(TARGETS, OLD), policy)
    assert nothing.outcome == "hold"


def test_a_gain_on_one_set_does_not_pay_for_a_loss_on_another():
    policy = GateParams(resamples=400, superior_on=["test", "newest"])
    new, old = NEW.copy(), OLD.copy()
    new[150:], old[150:] = wrong(TARGETS, np.arange(150, 300, 3))[150:], TARGETS[150:]
    new[:150], old[:150] = TARGETS[:150], wrong(TARGETS, np.arange(150))[:150]
    found = verdict(table(TARGETS, new), table(TARGETS, old), measured(TARGETS, new), policy)
    assert checks(found)["test.balanced_accuracy"].status == "pass"
    assert checks(found)["newest.balanced_accuracy"].status == "fail"
    assert found.outcome == "reject"


def test_the_hard_set_must_not_be_worse():
    hard = np.repeat(np.arange(K), 20)

    def both(test_answers, hard_answers):
        return pa.concat_tables([table(TARGETS, test_answers), table(hard, hard_answers, split="hard")])

    metrics = measured(TARGETS, NEW)
    worse = verdict(both(NEW, wrong(hard, np.arange(0, 100, 2))), both(OLD, hard), metrics, hard_set="hard-1")
    assert worse.outcome == "reject"
    assert "hard.balanced_accuracy" in worse.sentence
    fine = verdict(both(NEW, hard), both(OLD, hard), metrics, hard_set="hard-1")
    assert fine.outcome == "promote"
    assert fine.hard_set == "hard-1"
    assert "no hard set" not in fine.sentence
    assert verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics, hard_set="hard-1").outcome == "reject"


def test_the_first_model_needs_its_bounds_only():
    metrics = measured(TARGETS, NEW)
    found = verdict(table(TARGETS, NEW), None, metrics)
    assert found.outcome == "promote"
    assert "first model" in found.sentence
    policy = GateParams(first_model={"test.balanced_accuracy": 0.9})
    assert verdict(table(TARGETS, NEW), None, metrics, policy).outcome == "reject"
    policy = GateParams(first_model={"hard.balanced_accuracy": 0.5})
    assert verdict(table(TARGETS, NEW), None, metrics, policy).outcome == "reject"  # there is none: no pass
    never = np.where(TARGETS == 4, 0, TARGETS)
    assert verdict(table(TARGETS, never), None, measured(TARGETS, never)).outcome == "reject"


WEAK = wrong(TARGETS, np.flatnonzero(np.arange(300) % 5 > 1))  # 40 % right in each class; chance is 20 %
LUCK = wrong(TARGETS, np.flatnonzero(np.arange(300) % 13 > 2))  # 23 %


def test_a_weak_first_model_that_beats_chance_is_provisional():
    found = verdict(table(TARGETS, WEAK), None, measured(TARGETS, WEAK))
    assert (found.outcome, found.provisional) == ("promote", True)
    assert checks(found)["test.skill"].value == pytest.approx(0.4)
    assert checks(found)["test.skill"].bound == pytest.approx(0.2)
    assert checks(found)["test.skill"].low > 0.3
    assert "provisional: balanced accuracy 0.400 on 300 test images" in found.sentence
    assert "below 0.5, the floor of a first model" in found.sentence
    good = verdict(table(TARGETS, NEW), None, measured(TARGETS, NEW))
    assert (good.outcome, good.provisional) == ("promote", False)
    assert "provisional" not in good.sentence


def test_a_first_model_that_may_be_luck_is_rejected():
    found = verdict(table(TARGETS, LUCK), None, measured(TARGETS, LUCK))
    assert (found.outcome, found.provisional) == ("reject", False)
    assert "test.skill (not shown to be better than chance: balanced accuracy 0.233" in found.sentence
    assert "+23.3 points" not in found.sentence


def test_a_first_model_is_judged_by_groups_not_by_images():
    """Answers of one group are alike: 15 groups of 20 images prove less than 300 images."""
    alike = np.where(
        np.arange(300) // 20 % 3 == 0, TARGETS, (TARGETS + 1) % K
    )  # one of three groups of a class is right
    names = [str(row // 20) for row in range(300)]
    assert verdict(table(TARGETS, alike), None, measured(TARGETS, alike)).outcome == "promote"
    assert verdict(table(TARGETS, alike, groups=names), None, measured(TARGETS, alike)).outcome == "reject"


def test_calibration_images_that_show_nothing_speak_against_a_first_model():
    seen = measure_skill(TARGETS, WEAK, K, [None] * 300)
    found = verdict(table(TARGETS, WEAK), None, measured(TARGETS, WEAK), calibration=seen)
    assert found.outcome == "promote"
    unseen = measure_skill(TARGETS, wrong(TARGETS, np.flatnonzero(np.arange(300) % 5 > 0)), K, [None] * 300)
    found = verdict(table(TARGETS, WEAK), None, measured(TARGETS, WEAK), calibration=unseen)
    assert found.outcome == "reject"
    assert checks(found)["calibration.skill"].status == "fail"


def test_a_calibration_error_that_few_images_give_by_luck_rejects_nothing():
    metrics = measured(TARGETS, NEW)
    metrics["test"] |= {"debiased_ece": 0.14}
    assert verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics).outcome == "reject"
    metrics["test"]["ece_noise"] = 0.12  # 0.1 and this together: 0.156
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics)
    assert found.outcome == "promote"
    assert "luck on few images" in checks(found)["test.debiased_ece"].detail
    metrics["test"]["debiased_ece"] = 0.17
    assert verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics).outcome == "reject"


def test_default_bounds_of_calibration_and_corruptions_only_warn_about_a_first_model():
    bad = measured(TARGETS, NEW, corruptions={"dark": {"accuracy": 0.1, "n": 300, "kept": 0.12}})
    bad["test"] |= {"debiased_ece": 0.4}
    found = verdict(table(TARGETS, NEW), None, bad)
    assert (found.outcome, found.provisional) == ("promote", False)
    assert "warning: calibration error: 0.4, at most 0.1; label more images" in found.sentence
    assert (
        "warning: share of accuracy kept: 0.12, at least 0.3; label images taken in such conditions" in found.sentence
    )
    assert "every other bound holds" in found.sentence
    for own in (GateParams(max_ece=0.2), GateParams(min_corruption_kept=0.5), GateParams(first_model={"size_mb": 0.1})):
        assert verdict(table(TARGETS, NEW), None, bad, own).outcome == "reject"  # what the user wrote stays a bound
    assert verdict(table(TARGETS, NEW), None, bad | {"size_mb": 900.0}).outcome == "reject"


def test_a_champion_that_misses_the_default_calibration_bound_can_be_replaced_by_a_better_model():
    metrics = measured(TARGETS, NEW)
    metrics["test"] |= {"debiased_ece": 0.3}
    for error, outcome in ((0.35, "promote"), (0.25, "reject"), (0.05, "reject")):
        live = {"test": {"debiased_ece": error}}
        found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics, champion_metrics=live)
        assert (error, found.outcome) == (error, outcome)


def test_a_floor_that_the_user_wrote_stays_a_floor():
    floor = GateParams(first_model={"test.balanced_accuracy": 0.5})
    found = verdict(table(TARGETS, WEAK), None, measured(TARGETS, WEAK), floor)
    assert (found.outcome, found.provisional) == ("reject", False)
    low = GateParams(first_model={"test.balanced_accuracy": 0.3})  # what the user says is enough is not provisional
    found = verdict(table(TARGETS, WEAK), None, measured(TARGETS, WEAK), low)
    assert (found.outcome, found.provisional) == ("promote", False)


def test_a_provisional_champion_is_replaced_by_the_ordinary_rule():
    better = verdict(table(TARGETS, NEW), table(TARGETS, WEAK), measured(TARGETS, NEW))
    assert (better.outcome, better.provisional) == ("promote", False)
    less_weak = WEAK.copy()
    less_weak[2::20] = TARGETS[2::20]  # 45 %: better, and still below the floor
    found = verdict(table(TARGETS, less_weak), table(TARGETS, WEAK), measured(TARGETS, less_weak))
    assert (found.outcome, found.provisional) == ("promote", True)
    same = verdict(table(TARGETS, WEAK), table(TARGETS, WEAK), measured(TARGETS, WEAK))
    assert same.outcome == "hold"
    worse = verdict(table(TARGETS, LUCK), table(TARGETS, WEAK), measured(TARGETS, LUCK))
    assert (worse.outcome, worse.provisional) == ("reject", False)


def test_corruptions_are_held_against_the_champion_where_known():
    metrics = measured(TARGETS, NEW)
    blurred = {"blur": {"accuracy": 0.95, "n": 300, "kept": 1.0}}
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics, champion_metrics={"corruptions": blurred})
    assert checks(found)["corruptions.blur.accuracy"].status == "fail"
    assert found.outcome == "reject"
    lost = measured(TARGETS, NEW, corruptions={"dark": {"accuracy": 0.1, "n": 300, "kept": 0.12}})
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), lost)
    assert checks(found)["corruptions.dark.kept"].status == "fail"


def test_hostile_names_stay_in_one_bounded_sentence():
    names = ["a\nb", "<script>", "$x^", "z" * 200, "ü"]
    targets, answers = table(TARGETS, OLD), table(TARGETS, NEW)
    renamed = [
        part.set_column(3, "label", pa.array([names[CLASSES.index(label)] for label in part["label"].to_pylist()]))
        for part in (targets, answers)
    ]
    worse, better = renamed
    counts = dict.fromkeys(names, 100)
    found = verdict(worse, better, measured(TARGETS, OLD), classes=names, train_counts=counts)
    assert found.outcome == "reject"
    assert "\n" not in found.sentence
    assert len(found.sentence) < 1000


# --- multi-label -----------------------------------------------------------------------------------------------


def multilabel(truth, scores) -> pa.Table:
    n = len(truth)
    return pa.table(
        {
            "id": [f"{row:05d}" for row in range(n)],
            "key": [None] * n,
            "split": ["test"] * n,
            "batch": ["b-1"] * n,
            "label": [[CLASSES[k] for k in np.flatnonzero(row)] for row in truth],
            "source": [None] * n,
            "group": [None] * n,
            "slice": [[]] * n,
            "picked": ["representative"] * n,
            "sampling_probability": [None] * n,
            "probabilities": list(scores),
            "ood": [0.0] * n,
        }
    ).cast(predictions_schema("multilabel"))


def test_multilabel_answers_follow_each_models_own_thresholds():
    rng = np.random.default_rng(3)
    truth = rng.random((300, K)) < 0.3
    scores = np.where(truth, 0.6, 0.2)
    scores[rng.random(scores.shape) < 0.02] = 0.4
    low = scores / 2  # the same answers at half the threshold, wrong ones at its own
    metrics = measured(TARGETS, NEW, thresholds=dict.fromkeys(CLASSES, 0.25))
    answers = low >= 0.25
    metrics["test"]["balanced_accuracy"] = float(
        np.mean([balanced_accuracy_score(truth[:, k], answers[:, k]) for k in range(K)])
    )
    same = {"thresholds": dict.fromkeys(CLASSES, 0.5)}

    def against(champion_metrics):
        return verdict(
            multilabel(truth, low),
            multilabel(truth, scores),
            metrics,
            task="multilabel",
            champion_metrics=champion_metrics,
        )

    assert against(same).outcome == "hold"
    worse = against({"thresholds": dict.fromkeys(CLASSES, 0.65)})  # a champion that never answers anything
    assert worse.outcome == "promote"
    assert against(None).outcome == "reject"  # its thresholds unknown: an error, not a guess


# --- costs move answers ----------------------------------------------------------------------------------------


def test_multi_class_answers_are_those_that_weights_give():
    """.8 for class k, .05 for the others: with weight 20 for Boot, every answer is Boot."""
    boots = {"weights": dict.fromkeys(CLASSES, 1.0) | {"Boot": 20.0}}
    served = np.full_like(TARGETS, CLASSES.index("Boot"))
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, served, **boots))
    assert found.outcome == "reject"
    assert checks(found)["test.balanced_accuracy"].value == pytest.approx(0.2 - 0.75, abs=0.01)
    against = verdict(table(TARGETS, OLD), table(TARGETS, OLD), measured(TARGETS, OLD), champion_metrics=boots)
    assert checks(against)["test.balanced_accuracy"].value == pytest.approx(0.75 - 0.2, abs=0.01)
    even = {"weights": dict.fromkeys(CLASSES, 20.0)}
    same = verdict(table(TARGETS, OLD), table(TARGETS, OLD), measured(TARGETS, OLD, **even), champion_metrics=None)
    assert checks(same)["test.balanced_accuracy"].value == 0.0


@pytest.mark.parametrize(
    "weights", [{"Bag": 0}, {"Bag": float("nan")}, {"Bag": "9"}, {"Bag": float("inf")}, [1, 2], "x"]
)
def test_weights_that_are_not_positive_numbers_are_an_error_not_a_guess(weights):
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, NEW, weights=weights))
    assert found.outcome == "reject"
    assert "weights" in checks(found)["challenger"].detail


# --- how the images were picked --------------------------------------------------------------------------------


def test_newest_holds_fair_samples_only_and_adds_earlier_audits_until_there_are_enough():
    batch = np.array(["b-1"] * 100 + ["b-2"] * 40 + ["b-3"] * 40 + ["b-4"] * 10, object)
    test = np.ones(190, bool)
    picked = np.array(["representative"] * 100 + ["audit"] * 40 + ["audit"] * 40 + ["queue"] * 10, object)
    assert newest(batch, test, picked).nonzero()[0].tolist() == list(range(100, 180))  # the queue's batch is left out
    assert newest(batch, test, np.where(picked == "audit", "unknown", picked)).nonzero()[0].tolist() == list(range(100))
    several = np.where(batch == "b-3", "representative", picked)
    assert newest(batch, test, several).nonzero()[0].tolist() == list(range(140, 180))  # a fair import stands alone
    assert newest(batch, test, np.full(190, "unknown", object)).all()


def test_predictions_without_the_column_count_as_fair():
    rows = table(TARGETS, NEW)
    assert named_sets(rows)["newest"].sum() == named_sets(rows.drop_columns(["picked"]))["newest"].sum() > 0


def test_a_source_is_a_slice_and_all_sources_share_the_level_of_a_suspicion():
    """Five more mistakes at one camera: luck gives them 3 % of the time, in one of eight cameras far more often."""
    sources = np.array([f"cam-{row % 8}" for row in range(len(TARGETS))], object)
    answers = TARGETS.copy()
    answers[np.flatnonzero(sources == "cam-0")[:5]] = (TARGETS[sources == "cam-0"][:5] + 1) % K

    def words(named) -> str:
        new, old = (with_source(table(TARGETS, given), named) for given in (answers, TARGETS))
        found = verdict(new, old, measured(TARGETS, answers))
        return checks(found)["slice:source=cam-0.balanced_accuracy"].detail.split(":")[0]

    assert words(np.where(sources == "cam-0", "cam-0", None)) == "perhaps worse"
    assert words(sources) == "not worse"


def with_source(rows: pa.Table, sources) -> pa.Table:
    column = rows.schema.get_field_index("source")
    return rows.set_column(column, "source", pa.array(list(sources), pa.string()))


def _gain(p: float) -> Difference:
    return Difference(n=300, new=0.9, old=0.85, low=0.01, high=0.1, p_better=p, p_worse=1 - p)


@pytest.mark.parametrize(
    ("test", "newest", "shown"),
    [
        (0.008, 0.5, {"test"}),
        (0.0085, 0.5, set()),
        (0.5, 0.002, {"newest"}),
        (0.5, 0.0025, set()),
        (0.0095, 0.0095, {"test", "newest"}),  # both show a gain, so alpha suffices for each
        (0.0095, 0.011, set()),
        (0.0095, None, {"test"}),  # one set has all of alpha
    ],
)
def test_the_sets_that_may_show_a_gain_share_the_level(test, newest, shown):
    found = {"test": _gain(test)} | ({} if newest is None else {"newest": _gain(newest)})
    levels = _levels(found, GateParams(confidence=0.98))
    assert {name for name, one in found.items() if one.p_better <= levels[name]} == shown
