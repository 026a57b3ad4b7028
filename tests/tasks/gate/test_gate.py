"""The gate: one rule, judged on small tables of predictions, and how often it errs."""

import copy

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from tasks.common.params import GateParams
from tasks.common.schemas import predictions_schema
from tasks.gate.judge import judge
from tasks.gate.paired import compare, compare_hits
from tasks.scoring.metrics import macro_f1

CLASSES = ["Bag", "Coat", "Shirt", "Sandal", "Boot"]
K = len(CLASSES)
FAST = GateParams(resamples=400)


def table(targets, answers, *, split="test", slices=None, sure=0.8, prefix="") -> pa.Table:
    """predictions_schema rows whose most probable class is `answers`."""
    n = len(targets)
    probabilities = np.full((n, K), (1 - sure) / (K - 1))
    probabilities[np.arange(n), answers] = sure
    return pa.table(
        {
            "id": [f"{prefix}{split}{row:05d}" for row in range(n)],
            "split": [split] * n,
            "batch": ["b-1"] * (n // 2) + ["b-2"] * (n - n // 2),
            "label": [CLASSES[k] for k in targets],
            "source": [None] * n,
            "slice": [[]] * n if slices is None else [[{"name": "light", "value": value}] for value in slices],
            "probabilities": list(probabilities),
            "ood": [0.0] * n,
        }
    ).cast(predictions_schema("multiclass"))


def measured(targets, answers, **more) -> dict:
    recall = [(answers[targets == k] == k).mean() for k in range(K) if (targets == k).any()]
    right = float((targets == answers).mean())
    figures = {
        "balanced_accuracy": float(np.mean(recall)),
        "accuracy": right,
        "macro_f1": macro_f1(targets, answers, K),
        "debiased_ece": 0.02,
    }
    return {
        "test": figures,
        "hard": None,
        "corruptions": {"blur": {"accuracy": right * 0.9, "n": len(targets), "kept": 0.9}},
        "latency_ms": {"p50": 4.0, "p99": 6.0},
        "parity": {"max_difference": 1e-6},
        "size_mb": 14.0,
    } | more


def verdict(challenger, champion, metrics, policy=FAST, **more):
    known = {
        "classes": CLASSES,
        "task": "multiclass",
        "train_counts": dict.fromkeys(CLASSES, 100),
        "challenger_id": "c" * 64,
        "champion_version": None if champion is None else "v3",
        "hard_set": None,
    }
    return judge(challenger, champion, metrics=metrics, policy=policy, **known | more)


def wrong(targets, rows, step=1):
    """Right answers, but for `rows`."""
    answers = targets.copy()
    answers[rows] = (answers[rows] + step) % K
    return answers


TARGETS = np.repeat(np.arange(K), 60)  # class k is rows 60 k .. 60 k + 59
OLD = wrong(TARGETS, np.arange(0, 300, 4))  # 75 % right in each class
NEW = wrong(TARGETS, np.arange(0, 300, 8))  # 87 %, right wherever the old one is


def checks(found):
    return {check.name: check for check in found.checks}


def test_a_better_model_is_promoted_with_figures():
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), measured(TARGETS, NEW))
    assert found.outcome == "promote"
    assert {check.status for check in found.checks} == {"pass"}
    main = checks(found)["test.balanced_accuracy"]
    assert main.value == pytest.approx(0.1233, abs=1e-3)
    assert main.low > 0.05
    assert "McNemar" in main.detail
    assert found.sentence.startswith("promote: balanced accuracy on test 0.8")
    for part in ("+12.3 points against v3", "98 % interval +", "nothing is worse", "no hard set"):
        assert part in found.sentence
    assert {f"class.{name}.recall" for name in CLASSES} <= set(checks(found))
    assert checks(found)["hard_set"].status == "pass"


def test_the_same_model_again_is_held_and_the_same_input_gives_the_same_verdict():
    found = [verdict(table(TARGETS, OLD), table(TARGETS, OLD), measured(TARGETS, OLD)) for _ in range(2)]
    assert found[0].outcome == "hold"
    assert "not shown to be better" in found[0].sentence
    assert found[0] == found[1]


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


def test_corruptions_are_held_against_the_champion_where_known():
    metrics = measured(TARGETS, NEW)
    blurred = {"blur": {"accuracy": 0.95, "n": 300, "kept": 1.0}}
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics, champion_metrics={"corruptions": blurred})
    assert checks(found)["corruptions.blur.accuracy"].status == "fail"
    assert found.outcome == "reject"
    lost = measured(TARGETS, NEW, corruptions={"dark": {"accuracy": 0.1, "n": 300, "kept": 0.12}})
    found = verdict(table(TARGETS, NEW), table(TARGETS, OLD), lost)
    assert checks(found)["corruptions.dark.kept"].status == "fail"


# Each takes a challenger that would be promoted and spoils one thing.
def _metric(path, value):
    def spoil(challenger, metrics):
        *way, last = path.split(".")
        place = metrics
        for part in way:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return challenger, metrics

    return spoil


def _column(name, change):
    def spoil(challenger, metrics):
        field = challenger.schema.field(name)
        column = pa.array(change(challenger.column(name).to_pylist()), field.type)
        return challenger.set_column(challenger.schema.get_field_index(name), field, column), metrics

    return spoil


NAN, INF = float("nan"), float("inf")
SABOTAGE = {
    "nan_loss": _column("probabilities", lambda rows: [[NAN] * K for _ in rows]),
    "one_nan": _column("probabilities", lambda rows: [[NAN, *rows[0][1:]], *rows[1:]]),
    "one_inf": _column("probabilities", lambda rows: [[INF, *rows[0][1:]], *rows[1:]]),
    "logits_instead": _column("probabilities", lambda rows: [[10 * p for p in row] for row in rows]),
    "negative": _column("probabilities", lambda rows: [[-p for p in row] for row in rows]),
    "sums_to_half": _column("probabilities", lambda rows: [[p / 2 for p in row] for row in rows]),
    "a_class_short": _column("probabilities", lambda rows: [row[:-1] for row in rows]),
    "no_probabilities": _column("probabilities", lambda rows: [None, *rows[1:]]),
    "null_in_a_row": _column("probabilities", lambda rows: [[None, *rows[0][1:]], *rows[1:]]),
    "one_class_only": _column("probabilities", lambda rows: [[0.8, 0.05, 0.05, 0.05, 0.05] for _ in rows]),
    "classes_permuted": _column("probabilities", lambda rows: [row[1:] + row[:1] for row in rows]),
    "label_unknown": _column("label", lambda rows: ["Hat", *rows[1:]]),
    "label_missing": _column("label", lambda rows: [None, *rows[1:]]),
    "labels_changed": _column("label", lambda rows: ["Coat", *rows[1:]]),
    "id_twice": _column("id", lambda rows: [rows[1], *rows[1:]]),
    "id_missing": _column("id", lambda rows: [None, *rows[1:]]),
    "other_images": _column("id", lambda rows: [f"x{row}" for row in rows]),
    "no_test_rows": _column("split", lambda rows: ["hard"] * len(rows)),
    "training_rows": _column("split", lambda rows: ["train", *rows[1:]]),
    "no_rows": lambda challenger, metrics: (challenger.slice(0, 0), metrics),
    "fewer_rows": lambda challenger, metrics: (challenger.slice(10), metrics),
    "column_missing": lambda challenger, metrics: (challenger.drop_columns(["slice"]), metrics),
    "miscalibrated": _metric("test.debiased_ece", 0.3),
    "ece_nan": _metric("test.debiased_ece", NAN),
    "ece_missing": _metric("test.debiased_ece", None),
    "parity_broken": _metric("parity.max_difference", 0.2),
    "parity_missing": _metric("parity", None),
    "slow": _metric("latency_ms.p99", 900.0),
    "latency_missing": _metric("latency_ms", None),
    "latency_text": _metric("latency_ms.p99", "fast"),
    "huge": _metric("size_mb", 4000.0),
    "size_infinite": _metric("size_mb", INF),
    "nan_somewhere": _metric("test.anything", NAN),
    "metrics_of_another_run": _metric("test.balanced_accuracy", 0.99),
    "metric_missing": _metric("test.balanced_accuracy", None),
    "test_missing": _metric("test", None),
    "corruptions_missing": _metric("corruptions", None),
    "corruption_fatal": _metric("corruptions.blur.kept", 0.05),
    "metrics_empty": lambda challenger, metrics: (challenger, {}),
}


@pytest.mark.parametrize("name", SABOTAGE)
@pytest.mark.parametrize("first", [False, True], ids=["against", "first"])
def test_no_sabotaged_model_is_promoted(name, first):
    challenger, metrics = SABOTAGE[name](table(TARGETS, NEW), copy.deepcopy(measured(TARGETS, NEW)))
    if first and name in {"labels_changed", "other_images", "fewer_rows"}:
        return  # seen only beside a champion's table
    found = verdict(challenger, None if first else table(TARGETS, OLD), metrics)
    assert found.outcome == "reject"
    assert any(check.status != "pass" for check in found.checks)
    found.model_dump_json()  # no NaN in what is kept


@pytest.mark.parametrize(
    ("policy", "champion"),
    [
        (GateParams.model_construct(**GateParams().model_dump() | {"superior_on": []}), True),
        (GateParams.model_construct(**GateParams().model_dump() | {"first_model": {}}), False),
        (GateParams(superior_on=["slice:light=dusk"]), True),
        (GateParams(superior_on=["hard"]), True),
    ],
)
def test_an_empty_or_impossible_policy_is_an_error(policy, champion):
    against = table(TARGETS, OLD) if champion else None
    found = verdict(table(TARGETS, NEW), against, measured(TARGETS, NEW), policy)
    assert found.outcome == "reject"
    assert "error" in {check.status for check in found.checks}


def test_evidence_that_does_not_belong_together_is_an_error():
    metrics = measured(TARGETS, NEW)
    assert verdict(table(TARGETS, NEW), None, metrics, champion_version="v3").outcome == "reject"
    assert verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics, champion_version=None).outcome == "reject"
    assert verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics, classes=[]).outcome == "reject"
    assert verdict(table(TARGETS, NEW), table(TARGETS, OLD), metrics, train_counts={}).outcome == "reject"
    hidden = pa.concat_tables([table(TARGETS, NEW), table(TARGETS, NEW, split="hard")])
    assert verdict(hidden, None, metrics).outcome == "reject"  # hard rows, but no version of the hard set


def test_a_class_unknown_to_the_champion_can_be_won():
    """The champion's column of a new class is 0: its rows sum to 1 all the same, or to less when classes went."""
    old = table(TARGETS, np.where(TARGETS == 4, 0, OLD))
    probabilities = [[p if k < 4 else 0.0 for k, p in enumerate(row)] for row in old["probabilities"].to_pylist()]
    index = old.schema.get_field_index("probabilities")
    old = old.set_column(index, old.schema.field(index), pa.array(probabilities, old.schema.field(index).type))
    assert verdict(table(TARGETS, NEW), old, measured(TARGETS, NEW)).outcome == "promote"


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
            "split": ["test"] * n,
            "batch": ["b-1"] * n,
            "label": [[CLASSES[k] for k in np.flatnonzero(row)] for row in truth],
            "source": [None] * n,
            "slice": [[]] * n,
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


# --- the statistics --------------------------------------------------------------------------------------------


def test_differences_are_scikit_learns():
    rng = np.random.default_rng(0)
    targets = rng.choice(K, 300, p=[0.6, 0.2, 0.1, 0.07, 0.03])
    new, old = (np.where(rng.random(300) < share, targets, rng.integers(0, K, 300)) for share in (0.7, 0.5))
    settings = {"confidence": 0.9, "resamples": 200, "few": 20}
    found = compare("balanced_accuracy", targets, new, old, K, **settings)
    assert found.new == pytest.approx(balanced_accuracy_score(targets, new))
    assert found.old == pytest.approx(balanced_accuracy_score(targets, old))
    assert found.low < found.value < found.high
    found = compare("macro_f1", targets, new, old, K, **settings)
    assert found.value == pytest.approx(
        f1_score(targets, new, average="macro") - f1_score(targets, old, average="macro")
    )
    assert (found.gained, found.lost) == (
        ((new == targets) & (old != targets)).sum(),
        ((new != targets) & (old == targets)).sum(),
    )


def test_randomisation_agrees_with_the_exact_test():
    """For accuracy the randomisation test is McNemar's test by simulation."""
    new, old = wrong(TARGETS, np.arange(0, 12)), wrong(TARGETS, np.arange(8, 30))
    found = compare("accuracy", TARGETS, new, old, K, confidence=0.95, resamples=4000, few=20)
    exact = compare_hits(new == TARGETS, old == TARGETS, 0.95)
    assert found.p_better == pytest.approx(exact.p_better, abs=0.01)
    assert found.p_worse == pytest.approx(exact.p_worse, abs=0.01)
    assert found.low == pytest.approx(exact.low, abs=0.01)
    assert found.high == pytest.approx(exact.high, abs=0.01)


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], [120, 60, 30])
    inside = 0
    for _ in range(150):
        new = np.where(rng.random(210) < 0.8, targets, (targets + 1) % 3)
        old = np.where(rng.random(210) < 0.7, targets, (targets + 1) % 3)
        found = compare("balanced_accuracy", targets, new, old, 3, confidence=0.9, resamples=300, few=20)
        inside += found.low <= 0.1 <= found.high
    assert 0.82 <= inside / 150 <= 0.97


def simulated(rng, difficulty, change=None):
    """Answers of a model that has an image right with its own probability, `change`d in some classes."""
    chance = difficulty + (0 if change is None else change[TARGETS])
    return np.where(rng.random(len(TARGETS)) < chance, TARGETS, (TARGETS + rng.integers(1, K, len(TARGETS))) % K)


def test_of_500_equal_candidates_at_most_2_percent_are_promoted_and_as_few_rejected():
    """One test set, candidate after candidate, a winner becomes the champion: the way a test set is worn out."""
    rng = np.random.default_rng(11)
    outcomes = []
    for _ in range(5):
        difficulty = rng.beta(0.6, 0.12, len(TARGETS))  # most images easy, some hopeless: 11 % disagreement
        champion = simulated(rng, difficulty)
        for _ in range(100):
            candidate = simulated(rng, difficulty)
            policy = GateParams(resamples=300)
            outcome = verdict(
                table(TARGETS, candidate), table(TARGETS, champion), measured(TARGETS, candidate), policy
            ).outcome
            outcomes.append(outcome)
            if outcome == "promote":
                champion = candidate
    assert outcomes.count("promote") <= 10
    assert outcomes.count("reject") <= 10


def test_a_class_15_points_worse_is_not_promoted_and_a_better_model_is():
    rng = np.random.default_rng(12)
    one_worse, all_better = np.array([-0.15, 0, 0, 0, 0]), np.full(K, 0.1)
    promoted = {"worse": 0, "better": 0}
    for _ in range(30):
        difficulty = np.clip(rng.beta(0.6, 0.12, len(TARGETS)), 0.16, 0.9)
        champion = simulated(rng, difficulty)
        for name, change in (("worse", one_worse), ("better", all_better)):
            candidate = simulated(rng, difficulty, change)
            found = verdict(table(TARGETS, candidate), table(TARGETS, champion), measured(TARGETS, candidate))
            promoted[name] += found.outcome == "promote"
    assert promoted["worse"] == 0
    assert promoted["better"] >= 20
