"""Batches that are answered elsewhere: the same rows in the same order, however far ahead they are read."""

from datetime import UTC, datetime

import pytest

from flows.production.answering import Answered, Asked, answered_batches
from tasks.sources.fields import Unusable
from tasks.sources.offered import Offered

AT = datetime(2026, 5, 3, tzinfo=UTC)


def ask(one: Offered) -> Asked:
    return Asked(one.read(), AT, one.source, None, None, ())


def answer(batch) -> list[Answered]:
    return [Answered({"id": one.image.decode()}, one.image.decode(), False, False, None, "") for one in batch]


def one_by_one(batches):
    return (answer(batch) for batch in batches)


def all_at_once(batches):
    return [answer(batch) for batch in list(batches)]


@pytest.mark.parametrize("how", [one_by_one, all_at_once])
def test_each_row_gets_its_own_answer_and_unreadable_rows_none(how):
    batches = [
        [Offered("1", image=b"a"), Offered("2", refused=Unusable("missing_file", "gone")), Offered("3", image=b"b")]
    ]
    batches += [[Offered("4", refused=Unusable("missing_file", "gone"))], [Offered("5", image=b"c")]]
    found = list(answered_batches(iter(batches), ask, how))
    assert [[(one.where, said and said.label) for one, _, said in batch] for batch in found] == [
        [("1", "a"), ("2", None), ("3", "b")],
        [("4", None)],
        [("5", "c")],
    ]
    assert found[1][0][1].reason == "missing_file"


def test_a_batch_is_read_when_it_is_answered():
    read = []

    def batches():
        for name in "ab":
            read.append(name)
            yield [Offered(name, image=name.encode())]

    found = answered_batches(batches(), ask, one_by_one)
    next(found)
    assert read == ["a"]
