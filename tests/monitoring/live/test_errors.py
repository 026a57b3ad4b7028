"""What production got wrong in a month, measured on tables."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from monitoring.live.errors import GIVEN, HARD, RANDOM, Line, months_around, review
from monitoring.live.periods import Share, measure_period

START = datetime(2026, 11, 1, tzinfo=UTC)
CLASSES = ["bag", "boot", "coat"]


def month(wrong_share: float, seed: int = 0, rows: int = 1200, random: int = 300, hard: int = 0):
    """(answers, labelled, true share of wrong answers): of source b twice as many answers are wrong.

    random: labels drawn at random; hard: more labels, all of them of wrong answers that somebody picked.
    """
    rng = np.random.default_rng(seed)
    source = np.where(np.arange(rows) % 3 == 0, "b", "a")
    wrong = rng.random(rows) < np.where(source == "b", 2 * wrong_share, wrong_share)
    truth = rng.integers(3, size=rows)
    said = np.where(wrong, (truth + 1) % 3, truth)
    sure = np.where(rng.random(rows) < 0.3, 0.95, 0.7)
    answers = pa.table({"source": source, "confidence": sure})
    chosen = [*rng.permutation(rows)[:random], *np.flatnonzero(wrong)[:hard]]
    chosen = list(dict.fromkeys(int(row) for row in chosen))
    drawn = set(chosen[:random])
    columns = {
        "id": [f"{row:064x}" for row in chosen],
        "at": [START] * len(chosen),
        "source": source[chosen].tolist(),
        "version": ["v0.1.0"] * len(chosen),
        "confidence": sure[chosen].tolist(),
        "prediction": [CLASSES[said[row]] for row in chosen],
        "label": [CLASSES[truth[row]] for row in chosen],
        "chance": [random / rows if row in drawn else None for row in chosen],
        "hard": [row not in drawn for row in chosen],
        "unfamiliar": [bool(row % 2) for row in chosen],
    }
    types = {"at": pa.timestamp("us", tz="UTC"), "chance": pa.float64()}
    labelled = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    return answers, labelled, float(wrong.mean())


def test_picked_images_do_not_bias_the_estimate():
    answers, labelled, true = month(0.1, hard=90)
    found = review("2026-11", answers, labelled, len(answers), None, {})
    assert found.accuracy.low <= 1 - true <= found.accuracy.high
    assert found.errors_known / found.labels > 2 * true, "the labels themselves say far more"
    about, least, most = found.estimated
    assert least <= about <= most
    assert least <= round(true * len(answers)) <= most
    assert found.labels == len(labelled)
    assert sum(one.picked == HARD for one in found.errors) > 50
    assert {one.picked for one in found.errors} == {HARD, RANDOM}


def test_the_worst_source_and_class_come_first():
    answers, labelled, _ = month(0.12, random=600)
    found = review("2026-11", answers, labelled, len(answers), None, {})
    assert [line.name for line in found.sources] == ["b", "a"]
    assert found.sources[0].wrong.low > found.sources[1].wrong.value
    assert [line.wrong.low for line in found.classes] == sorted(
        (line.wrong.low for line in found.classes), reverse=True
    )
    assert sum(line.errors for line in found.sources) == found.errors_known
    pairs = {(one.label, one.prediction): one.errors for one in found.confusions}
    assert sum(pairs.values()) == found.errors_known
    assert set(pairs) == {("bag", "boot"), ("boot", "coat"), ("coat", "bag")}
    assert all(len(one.examples) == 4 for one in found.confusions)


def test_what_changed_since_the_month_before_is_said_only_if_it_is_clear():
    answers, labelled, _ = month(0.05, random=600)
    earlier = measure_period(START, "", "", answers, labelled, len(answers))
    worse_answers, worse_labelled, _ = month(0.25, seed=1, random=600)
    found = review("2026-11", worse_answers, worse_labelled, 1200, earlier, {})
    assert "more than chance explains" in found.change()
    assert found.change().startswith("-")
    assert {line.change for line in found.sources} == {"worse"}
    same = review("2026-11", answers, labelled, 1200, earlier, {})
    assert same.change() == "+0.0 points right against the month before: chance alone may explain it."
    assert {line.change for line in same.sources + same.classes} == {""}
    assert review("2026-11", answers, labelled, 1200, None, {}).change() == ""


def test_errors_are_told_apart():
    answers, labelled, _ = month(0.2, hard=40)
    ids = labelled["id"].to_pylist()
    since = {name: ("train", place % 2 == 0) for place, name in enumerate(ids)}
    found = review("2026-11", answers, labelled, len(answers), None, since)
    assert found.confident == sum(one.confidence >= 0.9 for one in found.errors)
    assert 0 < found.confident < found.errors_known
    assert found.unfamiliar == sum(int(one.id, 16) % 2 for one in found.errors)
    assert found.in_data == found.errors_known
    assert found.learnt == sum(ids.index(one.id) % 2 == 0 for one in found.errors)
    sure = [one.confidence for one in found.errors]
    assert sure == sorted(sure, reverse=True)


def test_without_random_labels_there_is_no_estimate():
    answers, labelled, _ = month(0.2)
    at = labelled.schema.get_field_index("chance")
    picked = labelled.set_column(at, "chance", pa.nulls(len(labelled), pa.float64()))
    found = review("2026-11", answers, picked, len(answers), None, {})
    assert found.accuracy is None
    assert found.estimated is None
    assert all(line.wrong.low is None for line in found.sources)
    assert {one.picked for one in found.errors} == {GIVEN}


def test_multilabel_answers_are_wrong_for_the_labels_they_lack():
    table = pa.table({
        "id": ["a" * 64, "b" * 64], "at": pa.array([START] * 2, pa.timestamp("us", tz="UTC")), "source": [None, "x"],
        "version": ["v1"] * 2, "confidence": [0.9, 0.4], "prediction": [["bag"], ["bag"]],
        "label": [["bag"], ["bag", "coat"]],
        "chance": [1.0, 1.0], "hard": [False] * 2, "unfamiliar": pa.array([None, True], pa.bool_()),
    })  # fmt: skip
    found = review("2026-11", table.select(["source", "confidence"]), table, 2, None, {})
    (error,) = found.errors
    assert error.label == ["bag", "coat"]
    assert {line.name: line.errors for line in found.classes} == {"bag": 0, "coat": 1}
    assert (found.confusions[0].label, found.confusions[0].prediction) == (["bag", "coat"], ["bag"])


def test_months():
    before, start, end = months_around("2026-01")
    assert (before.year, before.month, start.month, end.month) == (2025, 12, 1, 2)
    assert [one.month for one in months_around("2026-12")] == [11, 12, 1]
    for text in ("2026-13", "2026-1", "november", "2026-11-01"):
        with pytest.raises(ValueError, match=r"month|time data|unconverted"):
            months_around(text)
    wide = Line(name="x", labels=3, errors=1, wrong=Share(labels=3, value=0.3, low=0.0, high=0.9))
    assert wide.change == ""
