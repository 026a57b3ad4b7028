"""What the gate does with broken evidence: no spoiled model is promoted, and every fault is an error check."""

import copy

import numpy as np
import pyarrow as pa
import pytest

from tasks.common.params import GateParams
from tests.support.predictions import NEW, OLD, TARGETS, K, measured, table, verdict


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
        return  # only the comparison with a champion's table shows it
    if first and name in {"miscalibrated", "corruption_fatal"}:
        return  # warned of: test_default_bounds_of_calibration_and_corruptions_only_warn_about_a_first_model
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


@pytest.mark.parametrize(
    ("spoiled", "row"),
    [("one_nan", 0), ("label_missing", 0), ("id_twice", 1), ("fewer_rows", 0), ("labels_changed", 0)],
)
def test_an_error_about_images_shows_one_by_the_owners_name(spoiled, row):
    whole = table(TARGETS, NEW)
    if spoiled == "labels_changed":
        whole = whole.set_column(4, whole.schema.field("label"), pa.array(["Bag", *whole["label"].to_pylist()[1:]]))
    challenger, metrics = SABOTAGE[spoiled](whole, copy.deepcopy(measured(TARGETS, NEW)))
    asked = []
    found = verdict(challenger, whole, metrics, shown=lambda image: asked.append(image) or "0123 (part 7)")
    errors = [check.detail for check in found.checks if check.status == "error"]
    assert any(detail.endswith(", e.g. image 0123 (part 7)") for detail in errors)
    assert asked == [f"test{row:05d}"]
