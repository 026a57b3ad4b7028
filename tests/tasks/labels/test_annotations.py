"""Which label counts, of all that people said about a sample."""

from datetime import UTC, datetime

import pytest

from tasks.labels.annotations import decide_label


def at(day: int) -> datetime:
    return datetime(2025, 1, day, tzinfo=UTC)


def vote(label, why="import", annotator=None, day=1) -> dict:
    return {"label": label, "why": why, "annotator": annotator, "at": at(day)}


@pytest.mark.parametrize(
    ("original", "rows", "expected"),
    [
        ("a", [], "a"),
        ("a", [vote("b")], "a"),  # a tie keeps the original
        ("a", [vote("b"), vote("b")], "b"),
        ("a", [vote("b"), vote("c")], "a"),
        ("a", [vote("b", annotator="x"), vote("b", annotator="x", day=2)], "a"),  # one vote per annotator
        (
            "a",
            [vote("b", annotator="x", day=2), vote("a", annotator="x"), vote("b", annotator="y")],
            "b",
        ),  # their latest
        ("a", [vote("b", "review")], "b"),
        ("a", [vote("b", "review", day=3), vote("c", "review", day=2), vote("c"), vote("c")], "b"),  # the latest review
        ("a", [vote(None, "review")], None),
        ("a", [vote("b", "review") | {"at": None}, vote("c", "review")], "c"),  # no time: the oldest
        (None, [vote("b")], "b"),
        (None, [vote("c", day=2), vote("b", day=1)], "b"),  # no original: the first given
        (None, [vote(None)], None),
        (["x", "y"], [vote(["y", "x"]), vote(["x"]), vote(["x"])], ["x", "y"]),  # the order does not matter
        (["x"], [vote(["y", "x"]), vote(["x", "y"])], ["x", "y"]),
    ],
)
def test_the_label_that_counts(original, rows, expected):
    assert decide_label(original, rows) == expected
