"""The index says what the records say, also after they changed, and is made again after any damage."""

import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.console.index.facets import FACETS, SORTS, confidence_band, ood_band
from flows.console.index.index import Index
from flows.console.index.windows import WindowFilter
from flows.labels.exclude import correct, exclude
from monitoring.journal import Journal
from tasks.common.files import read_json
from tasks.common.params import load_params
from tasks.common.schemas import predictions_schema
from tasks.dataset.shards import live_shards
from tasks.releases.store import open_store
from tests.support import drift_windows, indexed_project, live_project, released_project
from tests.support.checkout import ROOT
from tests.support.indexed_project import ROWS, WINDOWS, the_log
from tests.support.late_labels import late_labels
from tests.support.waiting import until

DATA = 144  # images of data/ in tests.support.small_project
ALL = DATA + ROWS * WINDOWS


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return indexed_project.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def seen(made: Path) -> Index:
    index = Index(made)
    assert index.refresh()
    return index


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "main", symlinks=True, ignore=shutil.ignore_patterns("console"))


def counted(index: Index, facet: str, **filters) -> dict:
    return dict(index.counts({name: [value] for name, value in filters.items()})[1][facet])


def test_every_image_and_answer_is_counted_once_in_each_facet(seen: Index):
    total, counts = seen.counts({})
    assert total == ALL
    assert counts.keys() == FACETS.keys()
    assert all(sum(number for _, number in values) == ALL for values in counts.values())
    assert dict(counts["origin"]) == {"import": DATA, "production log": ALL - DATA}
    assert dict(counts["split"])["test"] == 36
    assert dict(counts["source"]) == {None: DATA, "gate": 2 * ROWS, "belt": ROWS}
    assert dict(counts["window"])[drift_windows.times(1)[2]] == ROWS


def test_two_facets_together_and_what_else_each_has(seen: Index):
    rows = seen.page({"source": ["gate"], "predicted": ["Bag", "Trouser"]}, most=100)
    assert {row.source for row in rows} == {"gate"}
    assert {row.predicted for row in rows} == {"Bag", "Trouser"}
    total, counts = seen.counts({"source": ["gate"], "predicted": ["Bag", "Trouser"]})
    assert total == len(rows)
    assert dict(counts["source"])["gate"] == total
    assert set(dict(counts["source"])) == {"gate", "belt"}  # counted without the filter on itself
    assert sum(dict(counts["predicted"]).values()) == 2 * ROWS
    assert seen.counts({"source": ["nowhere"]})[0] == 0


@pytest.mark.parametrize("sort", SORTS)
def test_pages_show_every_row_once_in_order(seen: Index, sort: str):
    found, after = [], None
    while part := seen.page({}, sort, after, most=37):
        found += part
        after = part[-1].row
    assert sorted(row.row for row in found) == sorted(seen.columns().all_rows({}))
    measure = {"newest": "at", "oldest": "at"}.get(sort, "ood" if "familiar" in sort else "confidence")
    values = [getattr(row, measure) for row in found]
    known = [value for value in values if value is not None]
    assert known
    assert values[len(known) :] == [None] * (len(values) - len(known))  # unknown ones last
    assert known == sorted(known, reverse=sort in ("newest", "most-confident", "unfamiliar"))


def test_an_image_is_found_by_id_path_and_key(seen: Index):
    (row,) = seen.page({"split": ["test"]}, most=1)
    assert [found.id for found in seen.named(row.id[:12])] == [row.id]
    assert row.id in [found.id for found in seen.named(row.path)]
    assert seen.of_id(row.id)[0] == row
    assert seen.named("no such thing") == []
    assert seen.named("%") == []
    with pytest.raises(AttributeError):
        _ = row.nothing


def test_windows_are_paged_filtered_and_counted(seen: Index):
    first = seen.windows(most=2)
    rest = seen.windows(after=first[-1].id)
    assert [window.id for window in [*first, *rest]] == [drift_windows.times(n)[2] for n in (2, 1, 0)]
    assert rest[0] == seen.window(rest[0].id)
    (watch,) = seen.windows(WindowFilter(outcomes=("watch",)))
    assert (watch.outcome, watch.rows, watch.sources) == ("watch", 100, ("gate",))
    assert "image.brightness" in watch.drifted
    assert watch.worst > 1
    assert [window.id for window in seen.windows(WindowFilter(source="belt"))] == [drift_windows.times(1)[2]]
    assert seen.windows(WindowFilter(versions=("v9.9.9",))) == []
    at = drift_windows.times(1)[0]
    assert [window.start for window in seen.windows(WindowFilter(since=at, until=at + timedelta(minutes=1)))] == [at]
    counts = seen.window_counts(WindowFilter(outcomes=("none",)))
    assert counts == {"outcome": {"none": 2, "watch": 1}, "version": {"v0.1.0": 2}, "source": {"belt": 1, "gate": 1}}


def test_new_answers_and_windows_are_added_and_old_files_not_read_again(root: Path):
    index, log = Index(root), the_log(root)
    assert index.refresh()
    for key in log.answer_keys():  # nothing reads them from now on
        (Path(log.store.root) / key).write_bytes(b"overwritten")
    log.append(drift_windows.window_table(3, ROWS, source="new"))
    before = index.columns()
    assert index.refresh()
    assert counted(index, "source")["new"] == ROWS
    assert counted(index, "window", source="new") == {None: ROWS}
    assert counted(index, "origin")["production log"] == ROWS * (WINDOWS + 1)
    measures, decision = drift_windows.history(4)[3]
    Journal(log.store).append(measures, decision)
    assert index.refresh()
    assert counted(index, "window", source="new") == {drift_windows.times(3)[2]: ROWS}
    assert index.windows(most=1)[0].sources == ("new",)
    fresh = Index(root).columns()  # read as a whole, not piece by piece
    assert fresh.generation > before.generation
    assert all(np.array_equal(fresh.codes[name], codes) for name, codes in index.columns().codes.items())


def test_deleted_answers_and_windows_go(root: Path):
    index, log = Index(root), the_log(root)
    assert index.refresh()
    assert counted(index, "origin")["production log"]
    log.prune(datetime(2030, 1, 1, tzinfo=UTC), 1, 1)
    Journal(log.store).prune(1)
    assert index.refresh()
    assert counted(index, "origin") == {"import": DATA}
    assert [window.id for window in index.windows()] == [drift_windows.times(2)[2]]


def test_a_window_that_was_measured_again_shows_its_newest_measures(root: Path):
    index, journal = Index(root), Journal(the_log(root).store)
    assert index.refresh()
    measures, _ = journal.read(drift_windows.times(1)[2])
    journal.revise(measures.model_copy(update={"findings": measures.findings[:1]}), datetime.now(UTC))
    journal.record_retrain(drift_windows.times(1)[2])
    assert index.refresh()
    window = index.window(drift_windows.times(1)[2])
    assert (window.revision, window.retrained) == (1, True)


def test_a_correction_and_an_exclusion_change_the_row(root: Path):
    index = Index(root)
    assert index.refresh()
    (one, label), (other, _) = live_project.samples(root)[:2]
    new = "Bag" if label != "Bag" else "Trouser"
    correct(root, one, new, "wrong")
    exclude(root, [other], "blurred")
    assert index.ready().of_id(one)[0].true == new, "a change of data/ is seen at the next request"
    assert index.of_id(one)[0].given == label
    assert index.of_id(other)[0].state == "excluded"
    assert index.of_id(other)[0].true is None
    (root / "tombstones.json").write_text('{"b-1": {"why": "wrong camera", "at": "2026-11-21", "by": "ann"}}')
    assert index.refresh()
    assert counted(index, "state", origin="import") == {"batch tombstoned": DATA}
    (root / "tombstones.json").write_text("{}")
    assert index.refresh()
    assert "batch tombstoned" not in counted(index, "state", origin="import")
    open_store(load_params(root / "params.yaml").store, root).tombstone("b-1", why="wrong camera", by="ann")
    assert index.refresh()
    assert counted(index, "state", origin="import") == {"batch tombstoned": DATA}, "the release store says it first"


def test_late_labels_are_the_true_labels_of_answers(root: Path):
    index, log = Index(root), the_log(root)
    assert index.refresh()
    first, second = index.page({"source": ["belt"]}, most=2)
    now = datetime.now(UTC)
    columns = {"id": [first.id, second.id], "at": [now] * 2, "annotator": ["ann"] * 2, "label": ["Sandal", None]}
    log.add_labels(late_labels(columns | {"role": ["annotator"] * 2, "picked": ["queue"] * 2}))
    assert index.refresh()
    assert {row.true for row in index.of_id(first.id) if row.logged} == {"Sandal"}
    assert {row.state for row in index.of_id(second.id) if row.logged} == {"excluded"}


def test_label_issues_wait_until_a_person_says_something(root: Path):
    (one, _), (other, _) = live_project.samples(root)[:2]
    folder = root / ".evergreen/label-issues"
    folder.mkdir()
    (folder / "r-1.csv").write_text(f"id,given,predicted,confidence,quality,split,reason\n{one},Bag\n{other},Bag\n")
    (folder / "r-1.json").write_text('{"seq": 1, "clusters": []}')
    index = Index(root)
    assert index.refresh()
    assert {row.id for row in index.page({"issue": ["yes"]})} == {one, other}
    correct(root, one, "Bag", "as given")
    assert index.refresh()
    assert {row.id for row in index.page({"issue": ["yes"]})} == {other}


def test_a_budget_ends_a_refresh_which_the_next_one_completes(root: Path):
    index = Index(root)
    assert not index.refresh(budget=0)
    assert not index.is_complete()
    assert index.refresh()
    assert index.is_complete()
    assert index.counts({})[0] == ALL


@pytest.mark.parametrize("damage", ["deleted", "not a database", "older schema", "cut short", "page overwritten"])
def test_a_damaged_index_is_made_again(root: Path, damage: str):
    index, file = Index(root), root / ".evergreen/console/index.sqlite"
    assert index.refresh()
    whole = index.counts({})
    index._database.close()
    for beside in file.parent.glob("index.sqlite-*"):
        beside.unlink()
    content = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    elif damage == "older schema":
        import sqlite3

        with sqlite3.connect(file) as db:
            db.execute("UPDATE meta SET value = '0' WHERE name = 'schema'")
    else:
        middle = len(content) // 2
        changed = {
            "not a database": b"no SQLite file" * 100,
            "cut short": content[:middle],
            "page overwritten": content[:4096] + b"\x55" * (len(content) - 4096),
        }
        file.write_bytes(changed[damage])
    again = Index(root)
    for _ in range(2):  # what the first one finds damaged, the second one fills
        again.refresh()
    assert again.counts({}) == whole
    assert len(again.windows()) == WINDOWS


def test_an_open_index_notices_that_its_file_was_replaced(root: Path):
    index = Index(root)
    assert index.refresh()
    (root / ".evergreen/console/index.sqlite").unlink()
    assert index.counts({})[0] == 0
    assert index.refresh()
    assert index.counts({})[0] == ALL


def test_processes_that_refresh_at_the_same_time_count_nothing_twice(root: Path):
    code = (
        "import sys, pathlib; from flows.console.index.index import Index; i = Index(pathlib.Path(sys.argv[1]))\n"
        f"while not i.is_complete() or i.counts({{}})[0] < {ALL}: i.refresh()\nprint(i.counts({{}})[0])"
    )
    command = [sys.executable, "-c", code, str(root)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(one.communicate(timeout=100)[0]) for one in running] == [ALL, ALL]


def test_a_damaged_shard_leaves_the_rest_and_is_read_when_it_is_well(root: Path, caplog):
    (shard,) = live_shards(root / "data")
    content = shard.path.read_bytes()
    shard.path.unlink()  # a hardlink into DVC's cache
    shard.path.write_bytes(content[:-1] + b"x")
    index = Index(root)
    assert not index.refresh()
    assert not index.refresh()
    assert [record.message for record in caplog.records if shard.name in record.message] == caplog.messages[:1]
    assert shard.name in index.problems()["data/"]
    looked = index._looked
    assert index.ready()._looked == looked, "a request does not try the damaged file again"
    assert counted(index, "origin") == {"production log": ROWS * WINDOWS}
    shard.path.write_bytes(content)
    assert index.refresh()
    assert index.problems() == {}
    assert index.counts({})[0] == ALL


def test_a_thread_keeps_the_index_fresh_until_it_is_told_to_stop(root: Path):
    index, stop = Index(root), threading.Event()
    thread = threading.Thread(target=index.keep_fresh, args=[stop, 0.05])
    thread.start()
    until(lambda: index.is_complete() and index.counts({})[0] == ALL)
    the_log(root).append(drift_windows.window_table(5, ROWS, source="later"))
    until(lambda: counted(index, "source").get("later") == ROWS)
    stop.set()
    thread.join(120)
    assert not thread.is_alive()


def test_bands():
    assert [confidence_band(value) for value in (None, float("nan"), 0.2, 0.5, 0.949, 0.999, 1.0)] == [
        None, None, "under 50 %", "50 to 70 %", "90 to 95 %", "99 % or more", "99 % or more",
    ]  # fmt: skip
    assert [ood_band(value, 1.0) for value in (None, 0.5, 0.9, 1.1)] == [
        None, "familiar", "familiar, near the limit", "unfamiliar",
    ]  # fmt: skip
    assert ood_band(0.5, None) is None


def test_what_the_live_release_says_is_read_from_dvc(tmp_path: Path):
    root = released_project.copy(tmp_path)
    index = Index(root)
    assert index.refresh()
    rows = index.page({"batch": ["b-2"], "true": ["coat"], "split": ["train"]})
    assert len(rows) == 2
    assert {(row.predicted, row.version, row.facets["confidence"]) for row in rows} == {("bag", "v0.3.0", "90 to 95 %")}
    assert {row.key for row in rows} <= {f"part coat {place}" for place in range(6)}
    corrected = index.of_id(released_project.corrected_id())[0]
    assert (corrected.given, corrected.true) == ("bag", "boot")


def test_predictions_of_a_run_have_probabilities_and_bands(root: Path):
    rows = pq.read_table(root / "artifacts/validate/accepted.parquet").to_pylist()
    about = read_json(root / "artifacts/bundle/bundle.json")
    classes, limit = about["classes"], about["ood"]["threshold"]
    found = [
        row | {"probabilities": [0.02, 0.96, 0.02], "ood": limit * (2 if place else 0.5)}
        for place, row in enumerate(row for row in rows if row["split"] == "test")
    ]
    schema = predictions_schema("multiclass")
    columns = {field.name: pa.array([row.get(field.name) for row in found], field.type) for field in schema}
    (root / "artifacts/evaluate").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), root / "artifacts/evaluate/predictions.parquet")
    index = Index(root)
    assert index.refresh()
    assert counted(index, "predicted", split="test") == {classes[1]: len(found)}
    assert counted(index, "confidence", split="test") == {"95 to 99 %": len(found)}
    assert counted(index, "ood", split="test") == {"unfamiliar": len(found) - 1, "familiar": 1}
    names, values = index.probabilities(found[0]["id"])
    assert (names, [round(float(value), 2) for value in values]) == (classes, [0.02, 0.96, 0.02])
    assert index.probabilities("0" * 64) is None
