"""What a window's page shows besides its measures: sources, images beside their like, distributions."""

import numpy as np
import pyarrow as pa
import pytest

from monitoring.contracts import SourceMeasures
from monitoring.drift.by_source import COLUMNS, by_source
from monitoring.drift.matched import nearest_alike
from monitoring.drift.reference import Reference, from_table
from monitoring.journal import Journal
from monitoring.pages.columns import MeasuredWindow
from monitoring.pages.details import window_details
from tasks.storage.local import LocalStore
from tests.support.drift_windows import CLASSES, decision, measures, reference_table, window_table

ABOUT = {"classes": CLASSES, "task": "multiclass", "thresholds": dict.fromkeys(CLASSES, 0.5), "ood": {"threshold": 6.0}}


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    return from_table(reference_table(240), ABOUT, "d" * 64, tmp_path_factory.mktemp("cache"))


def replaced(table: pa.Table, **columns) -> pa.Table:
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values).cast(table.schema.field(name).type))
    return table


def table(reference: Reference, dark: str) -> pa.Table:
    """200 answers of cameras a to d like the reference, those of camera `dark` much darker."""
    sources = np.array(["a", "b", "c", "d"])[np.arange(200) % 4]
    was = {
        name: reference.arrays.numbers[name][:200] for name in ("brightness", "contrast", "sharpness", "entropy", "ood")
    }
    was["brightness"] = np.where(sources == dark, was["brightness"] - 120, was["brightness"])
    return replaced(window_table(rows=200), source=sources, **was)


def details(reference: Reference, rows: pa.Table, **options):
    moved = measures(0, rows, reference_table(240)).model_copy(update={"moved": rows["id"][:20].to_pylist()})
    shown = MeasuredWindow(rows, reference_table(240), moved, decision(3), CLASSES)
    return window_details(shown, reference, **options)


def cell(found: SourceMeasures, name: str) -> float:
    return found.cells[name].ratio


def test_the_source_that_moved_comes_first_and_only_in_what_moved(reference):
    found = details(reference, table(reference, dark="c")).sources
    assert [one.rows for one in found] == [50] * 4
    by_name = {one.source: one for one in found}
    assert cell(by_name["c"], "image.brightness") > 1
    others = [cell(by_name[name], "image.brightness") for name in "abd"]
    assert max(others) < 1, others
    assert cell(by_name["c"], "image.contrast") < 1
    bright = by_name["c"].cells["image.brightness"]
    assert bright.value < bright.was - 60


def test_sources_like_the_reference_stay_within_what_chance_explains(reference):
    beyond, rng = 0, np.random.default_rng(0)
    for _ in range(40):
        rows = rng.permutation(240)
        part = reference.arrays.take(rows[:120])
        rest = Reference(**{**vars(reference), "arrays": reference.arrays.take(rows[120:])})
        for one in by_source(part, np.array(["a", "b"])[np.arange(120) % 2], rest):
            beyond += sum(found.ratio > 1 for found in one.cells.values() if found.ratio is not None)
    assert beyond <= 40 * 2 * len(COLUMNS) * 0.01, "a cell is beyond its bound by chance in 1 of 1,000 cases"


def test_a_source_with_few_rows_has_values_and_no_verdict(reference):
    rows = table(reference, dark="a").slice(0, 12)  # three of each camera
    for one in details(reference, rows).sources:
        assert {found.ratio for found in one.cells.values()} == {None}
        assert one.cells["image.brightness"].was > 0


def test_moved_images_stand_beside_the_nearest_reference_images_of_the_same_answer(reference):
    rows = table(reference, dark="c")
    found = details(reference, rows, images=5).moved
    assert [one.id for one in found] == rows["id"][:5].to_pylist()
    answers = {
        name: CLASSES[int(row.argmax())]
        for name, row in zip(reference.arrays.ids, reference.arrays.predicted, strict=True)
    }
    for one in found:
        assert len(one.beside) == 2
        assert {answers[name] for name in one.beside} == {one.prediction}


def test_a_window_in_which_nothing_moved_has_no_images(reference):
    rows = table(reference, dark="")
    quiet = measures(0, rows, reference_table(240)).model_copy(update={"moved": []})
    shown = MeasuredWindow(rows, reference_table(240), quiet, decision(0), CLASSES)
    assert window_details(shown, reference).moved == []


def test_odd_windows_have_details_too(tmp_path):
    known = reference_table(120, task="multilabel")
    reference = from_table(known, ABOUT | {"task": "multilabel"}, "d" * 64, tmp_path)
    rows = window_table(rows=100, task="multilabel")
    about = measures(7, rows, known)

    def of(table: pa.Table):
        return window_details(MeasuredWindow(table, known, about, decision(7), CLASSES), reference)

    whole = of(rows)
    assert {one.prediction for one in whole.moved} <= set(CLASSES)
    assert whole.sources[0].cells["prediction.mix"].ratio > 0
    assert all(len(one.beside) == 2 for one in whole.moved)
    assert (of(rows.slice(0, 0)).sources, of(rows.slice(0, 0)).moved) == ([], [])
    assert [one.source for one in of(replaced(rows, source=[None] * 100)).sources] == [""]
    assert {len(one.beside) for one in of(replaced(rows, features=[None] * 100)).moved} == {0}


def test_nearest_alike_on_small_arrays():
    base = np.array([[0.0, 0], [1, 0], [5, 5], [np.nan, 0]], np.float32)
    given = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], bool)
    rows = np.array([[0.9, 0], [5, 5], [np.inf, 0]], np.float32)
    answers = np.array([[1, 0], [1, 0], [1, 0]], bool)
    assert nearest_alike(rows, answers, base, given) == [[1, 0], [1, 0], []]
    assert nearest_alike(rows[:1], np.array([[0, 0]], bool), base, given, most=1) == [[1]], "no such answer: all count"


def test_details_are_kept_with_the_journal_and_go_with_their_window(reference, tmp_path):
    rows = table(reference, dark="c")
    found = details(reference, rows, done=["40 samples were added."])
    journal = Journal(LocalStore(tmp_path))
    window = measures(0, rows, reference_table(240))
    journal.append(window, decision(0))
    journal.keep_details(window.window.id, found)
    journal.keep_details(window.window.id, found)
    assert journal.details(window.window.id) == found
    assert journal.windows() == [window.window.id]
    later = measures(1, rows, reference_table(240))
    journal.append(later, decision(1))
    journal.prune(1)
    assert journal.details(window.window.id) is None
    (tmp_path / f"details/{later.window.id}.json").parent.mkdir(exist_ok=True)
    (tmp_path / f"details/{later.window.id}.json").write_text("{")
    assert journal.details(later.window.id) is None, "a damaged file costs the details only"


def test_distributions_are_of_what_drifted(reference):
    rows = table(reference, dark="c")
    drifted = {one.name for one in measures(7, rows, reference_table(240)).drifted()}
    shown = MeasuredWindow(rows, reference_table(240), measures(7, rows, reference_table(240)), decision(7), CLASSES)
    names = [one.name for one in window_details(shown, reference).plots]
    assert names
    assert set(names) <= drifted
    for one in window_details(shown, reference).plots:
        assert sum(one.was) == pytest.approx(1, abs=0.01)
        assert len(one.was) == len(one.now)
