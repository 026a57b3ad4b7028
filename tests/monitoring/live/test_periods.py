"""A model's week: recall per class, sources and confusion, with weights; and the labels it is made of."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from monitoring.live.estimate import interval
from monitoring.live.labels import common_reading, in_common_names, truths, with_truth
from monitoring.live.periods import confusion, is_right, measure_period, period_id, recalls, rights, week_of
from monitoring.log.schema import log_schema
from tasks.labels.changes import Change
from tasks.labels.taxonomy import compose
from tests.support.late_labels import late_labels

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
CHANCE = 0.1


def answers(rows: int, seed: int = 0) -> tuple[pa.Table, list[str]]:
    """Answers of two cameras, and their true labels: camera b is wrong more often, cats are taken for dogs."""
    rng = np.random.default_rng(seed)
    source = np.where(np.arange(rows) % 4 == 0, "b", "a")
    truth = np.where(rng.random(rows) < 0.5, "cat", "dog")
    wrong = rng.random(rows) < np.where(source == "b", 0.5, 0.05) * np.where(truth == "cat", 1.5, 0.5)
    prediction = np.where(wrong, np.where(truth == "cat", "dog", "cat"), truth)
    confidence = np.where(source == "b", 0.6, 0.95)
    columns = {
        "id": [f"{n:064x}" for n in range(rows)],
        "at": [MONDAY + timedelta(minutes=n) for n in range(rows)],
        "source": source.tolist(),
        "version": ["v0.1.0"] * rows,
        "bundle": ["b" * 64] * rows,
        "prediction": prediction.tolist(),
        "confidence": confidence.tolist(),
    }
    schema = pa.schema([field for field in log_schema("multiclass") if field.name in columns])
    return pa.table([columns[name] for name in schema.names], schema=schema), truth.tolist()


def given(table: pa.Table, truth: list[str], rows, **columns) -> dict:
    """The labels of `rows`."""
    at = table["at"].to_pylist()
    found = {
        "id": [table["id"][int(row)].as_py() for row in rows],
        "at": [at[row] + timedelta(days=3) for row in rows],
        "annotator": ["ann"] * len(rows),
        "label": [truth[row] for row in rows],
        "role": ["annotator"] * len(rows),
    }
    return truths(late_labels(found | columns))


def test_a_week_tells_accuracy_per_source_and_class_and_what_was_confused():
    table, truth = answers(2000)
    rows = np.random.default_rng(1).permutation(2000)[:200]
    known = given(table, truth, rows, picked=["audit"] * 200, sampling_probability=[CHANCE] * 200)
    week = measure_period(MONDAY, "v0.1.0", "b" * 64, table, with_truth(table, known))
    right = np.array(table["prediction"].to_pylist()) == np.array(truth)
    source = np.array(table["source"].to_pylist())
    assert (week.answers, week.labels, week.right) == (2000, 200, int(right[rows].sum()))
    assert week.accuracy.low <= right.mean() <= week.accuracy.high
    for name in ("a", "b"):
        assert week.sources[name].low <= right[source == name].mean() <= week.sources[name].high
    assert week.sources["b"].high < week.sources["a"].low
    cats = np.array(truth) == "cat"
    assert week.recalls["cat"].low <= right[cats].mean() <= week.recalls["cat"].high
    assert week.recalls["cat"].value < week.recalls["dog"].value
    taken = {(one.label, one.prediction): one for one in week.confused}
    assert taken["cat", "dog"].value == pytest.approx(1 - week.recalls["cat"].value)
    assert taken["cat", "cat"].low == week.recalls["cat"].low
    assert sum(one.labels for one in week.confused) == 200


def test_labels_picked_for_being_hard_are_counted_and_change_no_estimate():
    table, truth = answers(2000)
    rows, hard = np.arange(0, 2000, 20), np.arange(4, 2000, 40)
    audit = {"picked": ["audit"] * len(rows), "sampling_probability": [0.05] * len(rows)}
    known = given(table, truth, rows, **audit)
    alone = measure_period(MONDAY, "v0.1.0", "b" * 64, table, with_truth(table, known))
    known |= given(table, truth, hard, picked=["queue"] * len(hard))
    both = measure_period(MONDAY, "v0.1.0", "b" * 64, table, with_truth(table, known))
    assert both.labels == alone.labels + len(hard)
    assert both.accuracy.value == alone.accuracy.value
    assert both.recalls == alone.recalls
    assert both.given == alone.given


def test_without_random_labels_there_is_no_estimate_and_shares_have_no_interval():
    table, truth = answers(400)
    known = given(table, truth, np.arange(40), picked=["queue"] * 40)
    week = measure_period(MONDAY, "v0.1.0", "b" * 64, table, with_truth(table, known))
    assert week.accuracy is None
    assert week.given is None
    assert week.sources == {}
    assert week.recalls["cat"].low is None
    fed_back = measure_period(MONDAY, "v0.1.0", "b" * 64, table, with_truth(table, given(table, truth, np.arange(40))))
    assert fed_back.given.labels == 40
    assert fed_back.given.low < fed_back.given.value < fed_back.given.high


def test_recall_weighs_labels_and_is_worth_fewer_then():
    pairs = [("a", "a")] * 10 + [("b", "a")] * 10
    equal = recalls(pairs, np.ones(20))["a"]
    assert (equal.value, equal.low, equal.high) == (0.5, *interval(10, 20))
    uneven = recalls(pairs, np.r_[np.full(10, 9.0), np.ones(10)])["a"]
    assert uneven.value == pytest.approx(0.9)
    assert uneven.high - uneven.low > 0.25
    left_out = recalls(pairs, np.r_[np.ones(10), np.zeros(10)])["a"]
    assert (left_out.value, left_out.labels) == (1, 10)
    multi = recalls([(["a", "b"], ["a"]), (["b"], ["a", "b"])], np.ones(2))
    assert (multi["a"].value, multi["b"].value) == (0.5, 1)
    assert confusion([(["a"], ["a"])], np.ones(1)) == []
    assert is_right(["a", "b"], ["b", "a"])
    assert not is_right(None, "a")


def test_a_sample_of_the_answers_stands_for_all():
    table, truth = answers(2000)
    rows = np.arange(0, 2000, 10)
    known = given(table, truth, rows, picked=["audit"] * 200, sampling_probability=[CHANCE] * 200)
    labelled = with_truth(table, known)
    part = measure_period(MONDAY, "v0.1.0", "b" * 64, table.slice(0, 500), labelled, total=2000)
    assert part.answers == 2000
    assert part.sources["b"].answers == pytest.approx(500, abs=20)


def test_weeks_begin_on_monday_and_name_their_model():
    assert week_of(MONDAY) == MONDAY
    assert week_of(MONDAY + timedelta(days=6, hours=23)) == MONDAY
    assert week_of(MONDAY - timedelta(seconds=1)) == MONDAY - timedelta(days=7)
    assert period_id(MONDAY, "c" * 64) == "2026-11-23-cccccccccccc"


def test_how_an_answer_was_picked_comes_from_label_and_queue():
    table, truth = answers(4)
    labels = {
        "id": table["id"],
        "at": table["at"],
        "annotator": ["ann"] * 4,
        "label": truth,
        "role": ["annotator"] * 4,
        "picked": ["audit", "queue", "unknown", "feedback"],
        "sampling_probability": [0.25, None, None, None],
    }
    names = table["id"].to_pylist()
    found = truths(late_labels(labels))
    assert [(found[name].chance, found[name].hard) for name in names] == [
        (0.25, False), (None, True), (None, False), (None, False),
    ]  # fmt: skip
    asked = [
        SimpleNamespace(id=names[1], picked="audit", sampling_probability=0.5),
        SimpleNamespace(id=names[2], picked="queue", sampling_probability=None),
    ]
    both = truths(late_labels(labels), asked)
    assert (both[names[1]].chance, both[names[1]].hard) == (0.5, False)
    assert both[names[2]].hard


def test_each_image_counts_once_and_answers_without_a_prediction_do_not():
    table, truth = answers(4)
    known = given(table, truth, range(4))
    twice = pa.concat_tables([table, table])
    assert len(with_truth(twice, known)) == 4
    column = table.schema.get_field_index("prediction")
    unread = table.set_column(column, table.schema.field(column), pa.array([None, *truth[1:]], pa.string()))
    assert len(with_truth(unread, known)) == 3


def test_answers_and_labels_are_compared_through_changed_classes():
    changed = {"number": 1, "kind": "rename", "old": ("cat",), "new": ("kitty",), "at": MONDAY.isoformat()}
    taxonomy = compose([Change(**changed, by="ann", why="clearer", state="s")])
    table, truth = answers(40)
    known = given(table, ["kitty" if name == "cat" else name for name in truth], range(40))
    labelled = with_truth(table, known)
    assert rights(labelled).sum() < rights(in_common_names(labelled, taxonomy)).sum()
    assert rights(in_common_names(labelled, taxonomy)).tolist() == [
        float(one == label) for one, label in zip(table["prediction"].to_pylist(), truth, strict=True)
    ]
    read = common_reading(taxonomy, ["cat"], [["kitty", "dog"]], [None])
    assert read("cat") == read("kitty") == "kitty"
    assert read(["cat", "dog"]) == ["dog", "kitty"]
    assert read(None) is None
