"""Marks of what is expected: stored next to the log, pure in the decision, measured without the marked sources."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from monitoring.contracts import Expected
from monitoring.decide import decide
from monitoring.drift.elsewhere import drifts_elsewhere
from monitoring.drift.reference import from_table
from monitoring.drift.window import measure_window
from monitoring.expected import all_marks, explained, judged, mark_expected, marked_sources, marks, remove_mark
from tasks.common.errors import EvergreenError
from tasks.common.params import DriftParams
from tasks.storage.local import LocalStore
from tests.monitoring.test_decide import BEFORE, DARK, GONE, MIX, POLICY, QUARTER, START, situation, window

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def mark(**changes) -> Expected:
    values = {"id": "m", "at": START, "by": "Ann", "why": "camera 3 is new", "since": START}
    return Expected(**(values | changes))


def test_what_is_marked_is_shown_and_does_not_count():
    seen = [window(n, DARK, BEFORE) for n in range(3)]
    assert decide(seen, situation(), POLICY).outcome == "label"
    decision = decide(seen, situation(expected=[mark(measures=["image.brightness"])]), POLICY)
    assert decision.outcome == "none"
    assert decision.sentence == "Production looks like the model's reference; marked as expected: brightness."
    (found, _) = judged(seen[-1], [mark()]).findings
    assert (found.status, found.value) == ("expected", DARK.value), "the measure itself stays"


def test_what_is_not_marked_still_counts():
    seen = [window(n, DARK, MIX) for n in range(3)]
    decision = decide(seen, situation(expected=[mark(measures=["image.brightness"])]), POLICY)
    assert decision.outcome == "label"
    assert decision.sentence.startswith("'Bag' is 2x as common (20 %, was 10 %); marked as expected: brightness;")


def test_a_mark_holds_only_in_its_time_and_until_it_is_removed():
    dark = window(4, DARK)
    assert explained(dark, [mark(until=START + 4 * QUARTER)]) == set()
    assert explained(dark, [mark(until=START + 5 * QUARTER)]) == {"image.brightness"}
    assert explained(dark, [mark(since=START + 5 * QUARTER)]) == set()
    assert explained(dark, [mark(removed_by="Bo", removed_at=START)]) == set()


def test_missing_values_that_are_expected_raise_no_alarm():
    assert decide([window(0, GONE)], situation(), POLICY).alarms
    assert not decide([window(0, GONE)], situation(expected=[mark(measures=["missing.ood"])]), POLICY).alarms


def test_a_mark_of_a_source_covers_only_what_is_gone_without_it():
    one = mark(sources=["camera-3"])
    assert explained(window(0, DARK), [one]) == {"image.brightness"}, "measured before the mark"
    assert explained(window(0, DARK).model_copy(update={"elsewhere": []}), [one]) == {"image.brightness"}
    elsewhere = window(0, DARK, MIX).model_copy(update={"elsewhere": ["image.brightness"]})
    assert explained(elsewhere, [one]) == {"prediction.mix"}
    assert explained(elsewhere, [one, mark(measures=["image.brightness"])]) == {"image.brightness", "prediction.mix"}
    two = mark(sources=["camera-5"], measures=["image.brightness"])
    assert marked_sources(window(0, DARK, MIX), [one, two]) == {
        "image.brightness": frozenset({"camera-3", "camera-5"}),
        "prediction.mix": frozenset({"camera-3"}),
    }


@pytest.mark.parametrize(("dark", "left"), [(("camera-3",), []), (("camera-3", "camera-4"), ["image.brightness"])])
def test_the_window_is_measured_without_the_marked_sources(tmp_path, dark, left):
    import pyarrow as pa

    from tests.support.drift_windows import reference_table, window_table

    table = reference_table(rows=240)
    about = {"classes": ["Ankle boot", "Bag", "Coat", "Sandal", "Trouser"], "task": "multiclass"}
    about |= {"thresholds": dict.fromkeys(about["classes"], 0.5), "ood": {"threshold": 9.0}}
    reference = from_table(table, about, "d" * 64, tmp_path)
    sources = np.array(["camera-1", "camera-3", "camera-4", "camera-2"])[np.arange(200) % 4]
    was = np.resize(table["brightness"].to_numpy(), 200)
    rows = window_table(rows=200)
    for name, values in (("source", sources), ("brightness", np.where(np.isin(sources, dark), was - 90, was))):
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values).cast(rows.schema.field(name).type))
    params = DriftParams(resamples=100)
    measures = measure_window(rows, window(0).window, reference, params)
    assert "image.brightness" in {one.name for one in measures.drifted()}
    marked = {"image.brightness": frozenset({"camera-3"})}
    assert drifts_elsewhere(rows, measures.window, reference, params, marked) == left


def test_marks_are_kept_and_taken_back_by_name(tmp_path):
    store = LocalStore(tmp_path)
    new = mark_expected(store, by="Ann", why=" new\nlamp ", since=NOW, until=NOW + timedelta(days=7),
                        measures=["image.brightness"], sources=["b", "a", "a"], now=NOW)  # fmt: skip
    assert marks(LocalStore(tmp_path)) == [new]
    assert (new.why, new.sources) == ("new lamp", ["a", "b"])
    remove_mark(store, new.id, by="Bo", now=NOW)
    assert marks(store) == []
    assert [(one.id, one.removed_by) for one in all_marks(store)] == [(new.id, "Bo")]
    with pytest.raises(EvergreenError, match="removed already"):
        remove_mark(store, new.id, by="Bo")


def test_what_can_not_be_marked_is_refused(tmp_path):
    store = LocalStore(tmp_path)
    with pytest.raises(EvergreenError, match="needs a reason"):
        mark_expected(store, by="Ann", why=" ", since=NOW)
    with pytest.raises(EvergreenError, match="has passed"):
        mark_expected(store, by="Ann", why="x", since=NOW, until=NOW, now=NOW)
    with pytest.raises(EvergreenError, match=r"accuracy\.true: only measures that are judged"):
        mark_expected(store, by="Ann", why="x", since=NOW, measures=["accuracy.true"])
    assert all_marks(store) == []


@pytest.mark.parametrize("content", [b"{", b'{"schema": 9, "marks": []}', b'{"schema": 1, "marks": [{}]}'])
def test_marks_that_cannot_be_read_are_an_error_not_silence(tmp_path, content):
    (tmp_path / "expected.json").write_bytes(content)
    with pytest.raises(EvergreenError, match=r"expected\.json in the production log"):
        marks(LocalStore(tmp_path))
