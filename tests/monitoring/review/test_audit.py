"""The audit sample: drawn at random with a known probability, whatever happens around it."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from monitoring.log.production_log import Log
from monitoring.log.schema import late_labels_schema
from monitoring.review import audit
from monitoring.review.queue import asked, asked_by_drift, enqueue, enqueue_audit, waiting
from tasks.common.files import sha256_bytes
from tasks.common.params import ReviewParams
from tasks.storage.local import LocalStore
from tests.support.review_samples import NOON, answers

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BUNDLE = "b" * 64


def params(per_day: float, per_source: float = 0.0) -> ReviewParams:
    return ReviewParams(audit_per_day=per_day, audit_per_source=per_source)


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(LocalStore(tmp_path / "log"), "multiclass")


def of_bundle(count: int, **more) -> pa.Table:
    """`count` answers with ids that are hashes, as real ones are."""
    table = answers(count, **more)
    ids = pa.array([sha256_bytes(name.encode()) for name in table["id"].to_pylist()])
    table = table.set_column(table.schema.get_field_index("id"), table.schema.field("id"), ids)
    return table.set_column(table.schema.get_field_index("bundle"), "bundle", pa.array([BUNDLE] * count))


def test_the_rate_follows_from_counts_and_time_alone():
    rate, raised = audit.rates({"a": 900, "b": 100}, {}, 1.0, params(20))
    assert (rate, raised) == (0.02, {})
    assert audit.rates({"a": 900, "b": 100}, {}, 0.25, params(20))[0] == 0.005
    assert audit.rates({"a": 900, "b": 100}, {}, 0.0, params(20), extra=30)[0] == 0.03
    assert audit.rates({"a": 5}, {}, 1.0, params(20)) == (1.0, {})
    assert audit.rates({}, {}, 1.0, params(20)) == (0.0, {})


def test_each_source_gets_its_least_number_a_day_once():
    counts = {"busy": 9_900, "rare": 4, "rarer": 1}
    rate, raised = audit.rates(counts, {}, 1.0, params(10, 2))
    assert raised == {"rare": 0.5, "rarer": 1.0}  # the busy one reaches it by the common rate
    assert rate == pytest.approx(10 / 9_905)
    assert audit.rates(counts, {"rare": 2.0, "rarer": 1.0}, 1.0, params(10, 2))[1] == {"rarer": 1.0}
    many = {f"s{number}": 10 for number in range(200)}
    assert len(audit.rates(many, {}, 0.0, params(0, 1))[1]) == audit.SOURCES
    spent = dict.fromkeys(list(many)[: audit.SOURCES], 1.0)
    assert audit.rates(many, spent, 0.0, params(0, 1))[1] == {}  # sessions as sources must not flood people


def test_the_numbers_of_ids_are_uniform_and_independent_of_capture_sample():
    ids = [sha256_bytes(str(number).encode()) for number in range(4_000)]
    numbers = audit.uniform(ids)
    assert np.histogram(numbers, 4, (0, 1))[0].min() > 900
    sampled = np.array([int(name[:12], 16) < 0.2 * 16**12 for name in ids])
    assert abs(numbers[sampled].mean() - 0.5) < 0.05


def test_repeated_runs_over_a_growing_log_keep_the_draw_and_its_probability(log):
    log.append(of_bundle(60))
    first = audit.draw(log, params(30), NOON, NOON + HOUR, BUNDLE, NOON + HOUR)
    assert set(first.values()) == {0.5}
    late = of_bundle(90).slice(60)  # thirty more answers of the same hour reach the log later
    log.append(late.set_column(1, late.schema.field("at"), pa.array([NOON + HOUR / 2] * 30, late["at"].type)))
    again = audit.draw(log, params(30), NOON, NOON + HOUR, BUNDLE, NOON + HOUR)
    assert first.items() <= again.items()
    assert set(again.values()) == {0.5}
    ids = of_bundle(90)["id"].to_pylist()
    expected = {name for name, number in zip(ids, audit.uniform(ids), strict=True) if number < 0.5}
    assert again.keys() == expected
    assert audit.draw(log, params(30), NOON, NOON + HOUR, "another model", NOON + HOUR) == {}


def test_the_share_drawn_is_unbiased_for_a_wrong_answer(log):
    """Weighted by 1 / probability, the drawn answers estimate a total over all answers."""
    rng = np.random.default_rng(0)
    totals = []
    for _ in range(400):
        ids = [sha256_bytes(rng.bytes(8)) for _ in range(80)]
        sources = ["rare" if number < 8 else "busy" for number in range(80)]
        wrong = np.array([number % 5 == 0 or number < 8 for number in range(80)])
        rate, raised = audit.rates({"rare": 8, "busy": 72}, {}, 1.0, params(8, 4))
        chance = np.array([raised.get(source, rate) for source in sources])
        drawn = audit.uniform(ids) < chance
        totals.append((wrong[drawn] / chance[drawn]).sum())
    assert abs(np.mean(totals) - 23) < 3 * np.std(totals) / 20


def test_the_queue_says_that_a_sample_is_an_audit_and_keeps_it_one(log):
    log.append(of_bundle(60))
    review = params(15)
    (drawn, *_) = found = enqueue_audit(log, review, NOON, NOON + HOUR, BUNDLE, "window 1", now=NOON + HOUR)
    assert {(entry.picked, entry.why, entry.sampling_probability) for entry in found} == {("audit", "audit", 0.25)}
    assert enqueue_audit(log, review, NOON, NOON + HOUR, BUNDLE, "window 1", now=NOON + HOUR) == []
    picks = enqueue(log, ReviewParams(budget=40, max_source_share=1.0), NOON, NOON + HOUR, "drift")
    assert {entry.picked for entry in picks} == {"queue"}
    assert not {entry.id for entry in picks} & {entry.id for entry in found}
    more = enqueue_audit(log, review, NOON, NOON + HOUR, BUNDLE, "drift", now=NOON + HOUR, extra=45.0)
    assert {entry.sampling_probability for entry in more} == {0.75}
    assert {entry.id for entry in more} & {entry.id for entry in picks}, "a pick of the queue is drawn, too"
    assert {entry.why for entry in more} == {"audit of drift"}
    assert {entry.id for entry in asked_by_drift(log)} == {entry.id for entry in (*picks, *more)}
    kept = asked(log)
    assert {kept[entry.id].picked for entry in more} == {"audit"}
    assert kept[drawn.id].sampling_probability == 0.75
    assert len(waiting(log)) == len(kept)
    given = {"id": drawn.id, "at": NOON, "annotator": "ann", "label": "Bag"}
    log.add_labels(pa.Table.from_pylist([given], schema=late_labels_schema("multiclass")))
    assert drawn.id not in {entry.id for entry in waiting(log)}


def test_a_damaged_plan_is_skipped(log, caplog):
    log.append(of_bundle(20))
    log.store.create("audit/20260101T000000Z-x.json", b"{")
    assert audit.draw(log, params(20), NOON, NOON + HOUR, BUNDLE, NOON + HOUR)
    assert "audit/20260101T000000Z-x.json" in caplog.text
    assert len(audit.plans(log)) == 1
