"""Assignments of samples to people: the newest counts, and what is overdue is said."""

from datetime import UTC, date, datetime, timedelta

import pytest

from monitoring.review.assignments import assign, assignments, select, workloads
from tasks.common.errors import DataError
from tasks.storage.local import LocalStore

TODAY = datetime.now(UTC).date()
LATER = TODAY + timedelta(days=3)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def test_what_is_assigned_and_still_waits_is_said_by_person_and_date(store):
    assign(store, "ann", LATER, ["a", "b", "c"], "boss")
    assign(store, "bob", None, ["c", "d"], "boss")
    found = workloads(assignments(store), ["a", "c", "d", "e"], TODAY)
    assert [(one.person, one.ids, one.overdue) for one in found] == [("ann", ("a",), False), ("bob", ("c", "d"), False)]
    late = workloads(assignments(store), ["a"], LATER + timedelta(days=1))
    assert late[0].sentence() == f"ann: 1 sample OVERDUE since {LATER.isoformat()}"
    assert workloads(assignments(store), [], TODAY) == []


def test_a_person_gets_their_own_samples_and_new_ones_are_nobodys(store):
    assign(store, "ann", LATER, ["a", "b"], "boss")
    found = assignments(store)
    waiting = ["d", "b", "a", "c"]
    assert select(found, waiting, "ann", new=False) == ["b", "a"]
    assert select(found, waiting, "ann", new=True, most=1) == ["d"]
    assert select(found, waiting, None, new=False) == waiting


@pytest.mark.parametrize(
    ("person", "due", "message"), [(" ", LATER, "expected a name"), ("ann", date(2020, 1, 1), "has passed")]
)
def test_an_unusable_name_or_date_is_refused(store, person, due, message):
    with pytest.raises(DataError, match=message):
        assign(store, person, due, ["a"], "boss")
    assert assignments(store) == []


def test_a_damaged_file_is_skipped(store):
    store.create("assignments/torn.json", b'{"person"')
    assign(store, "ann", None, ["a"], "boss")
    assert [one.person for one in assignments(store)] == ["ann"]
